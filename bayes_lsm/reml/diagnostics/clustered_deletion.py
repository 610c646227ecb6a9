"""A design of several scale terms without some rows, and what a fit says of rows it lacks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.columns import check_columns
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import DataError
from bayes_lsm.likelihood.blocks.covariance import loadings, stack_covariances
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.term_estimate import TermEstimate

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def keep_rows(design: Design, kept: Mask) -> Design:
    """The same model of the rows `kept` (n,).

    Raises
    ------
    DataError
        When they cannot carry it: too few groups or rows, or a coefficient that they leave open.
    """
    found = design.keep(kept)
    for term in found.terms:
        _check_term(term)
    n, p = found.X.shape
    if n <= p:
        raise DataError(f"{n} rows cannot carry {p} location coefficients")
    check_columns("location", found.location.names, found.X)
    return found


def _check_term(term: ScaleTerm) -> None:
    if len(term.groups) < 2:
        raise DataError(f"the scale term {term.name!r} has one group")
    for effect, used in zip(term.effects, term.used.any(axis=0), strict=True):
        if not used:
            raise DataError(f"no row is left with the effect {effect!r} of {term.name!r}")
    check_columns(f"scale ({term.name})", term.names, term.Z[term.used])


def tau2_at(each: TermEstimate, Z: Array) -> Array:
    """τ² (m, s) of groups with scale moderators Z (m, s, q); 0, inf or nan where it has a limit."""
    rows, added = each.read(Z.reshape(-1, Z.shape[2]))
    log_tau2 = rows @ np.nan_to_num(each.limit_alpha) + added
    return np.asarray(np.exp(log_tau2).reshape(Z.shape[:2]))


def sigma_blocks(
    fit: Estimates, design: Design, parts: Sequence[npt.NDArray[np.intp]]
) -> list[Array]:
    """Σ of sets of rows of a design, with the variances that a fit of other rows gives them."""
    from bayes_lsm.likelihood.blocks.arrange import sampling_covariance

    terms = list(fit.terms.values())
    tau2 = [tau2_at(each, term.Z) for each, term in zip(terms, design.terms, strict=True)]
    A = loadings(design)
    D = stack_covariances(tau2, [np.nan_to_num(each.correlation) for each in terms])
    V = sampling_covariance(design)
    found = []
    for rows in parts:
        here = A[rows]
        own = np.diag(V[rows]) if isinstance(V, np.ndarray) else V[rows][:, rows].toarray()
        found.append((here @ D @ here.T).toarray() + own)
    return found
