"""The correlations of effects as variables of a PyMC model: the factor C of their matrix CC'.

A partial correlation r is drawn as (1 + r)/2 ~ Beta(b, b), which for the b of
`priors.correlations.lkj` makes the LKJ distribution. (PyMC's own `LKJCorr` came back from the
compiled sampler as its Cholesky factor.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bayes_lsm.bayes.coordinates import are_correlations
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.priors import PartialCorrelation, PriorBlock


def add_correlations(design: Design, scale: PriorBlock) -> Any:
    """Add ``correlation``, and its ``kappa``, to the model at hand, where there are any.

    Found is (0, 1, C_1, C_2, …), flat: the factors of the correlations of all terms that have them.
    """
    import pymc as pm
    import pytensor.tensor as pt

    start = pt.as_tensor(np.array([0.0, 1.0]))
    b = _concentrations(design, scale)
    if not len(b):
        return start
    share = pm.Beta("correlation_share", b, b, shape=len(b))
    # As a function of the sampler's own coordinate, logit(share), so that it does not round.
    logit = pt.log(share) - pt.log1p(-share)
    pm.Deterministic("kappa", 0.5 * (logit + _shifts(design)))
    found, pieces, first = [], [], 0
    for term in design.terms:
        s, kappas = len(term.effects), term.n_correlations
        if not kappas:
            continue
        C = _factor(_partial(term, share[first : first + kappas]), s)
        R = pt.dot(C, C.T)
        found += [R[i, j] for i in range(s) for j in range(i)]
        pieces.append(C.ravel())
        first += kappas
    pm.Deterministic("correlation", pt.stack(found), dims="pair")
    return pt.concatenate([start, *pieces])


def _concentrations(design: Design, scale: PriorBlock) -> np.ndarray:
    """b of each κ; the correlation of more than two effects that share it is uniform."""
    kappas = np.flatnonzero(are_correlations(design))
    priors = [scale.priors[j] for j in kappas]
    return np.array([each.b if isinstance(each, PartialCorrelation) else 1.0 for each in priors])


def _shifts(design: Design) -> np.ndarray:
    """2κ less the logit of a share: ln(s − 1) where all s effects share one correlation."""
    return np.concatenate(
        [
            np.full(term.n_correlations, math.log(len(term.effects) - 1))
            if term.correlation == "compound_symmetric"
            else np.zeros(term.n_correlations)
            for term in design.terms
        ]
    )


def _partial(term: ScaleTerm, share: Any) -> list[list[Any]]:
    """The partial correlation of effects i and j < i given those before j, from (0, 1)."""
    s = len(term.effects)
    if term.correlation == "compound_symmetric":
        least = -1.0 / (s - 1)
        rho = least + (1.0 - least) * share[0]
        return [[rho / (1.0 + j * rho) for j in range(i)] for i in range(s)]
    r = 2.0 * share - 1.0
    return [[r[i * (i - 1) // 2 + j] for j in range(i)] for i in range(s)]


def _factor(partial: list[list[Any]], s: int) -> Any:
    """C (s, s), lower triangular, with CC' the correlations that have these partial ones."""
    import pytensor.tensor as pt

    rows = []
    for i in range(s):
        rest, row = pt.constant(1.0), []
        for r in partial[i]:
            row.append(r * rest)
            rest = rest * pt.sqrt(1.0 - r**2)
        rows.append(pt.stack([*row, rest, *[pt.constant(0.0)] * (s - 1 - i)]))
    return pt.stack(rows)
