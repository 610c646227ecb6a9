"""What `propriety` asks of a model with several scale terms: the effects of its groups.

An effect of group g has the column A_g: its slopes in the rows of g, 0 elsewhere. The bound
Σ ≥ V + τ² A_g A_g' holds for effects that are independent. Correlated effects of a group have the
bound Σ ≥ V + A_g D A_g' with D of any correlations, which grows with every τ² as long as the
columns of the group's effects, without what location coefficients with flat priors can fit, are
linearly independent. The random intercepts of ln τ² are like other coefficients of it: with normal
SDs they have all moments, and else nothing is claimed.
"""

from __future__ import annotations

import numpy as np

from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.resolved_priors.propriety import (
    ROUNDING,
    Effects,
    Mask,
    flat_basis,
    is_flat,
    require_proper,
)
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.design.subsets import Indices
from bayes_lsm.errors import PriorError
from bayes_lsm.priors import HalfNormal, PriorBlock, Priors, ResolvedPriors


def require_proper_terms(design: Design, resolved: ResolvedPriors, priors: Priors) -> None:
    """Refuse flat priors on scale coefficients that the data do not bound.

    Raises
    ------
    PriorError
    """
    if not any(map(is_flat, resolved.scale.priors)):
        return
    if not (design.v > 0).all():
        raise PriorError(
            "a flat prior on a scale coefficient needs sampling variances > 0; with individual "
            "data the posterior cannot be shown to have a finite mass; use a proper prior, such as "
            "Normal(0, 2)"
        )
    require_proper(term_effects(design, resolved.location, priors), resolved.scale)


def term_effects(
    design: Design, location: PriorBlock, priors: Priors, rows: Indices | None = None
) -> Effects:
    """The effects of all groups of all scale terms that have rows, or that have some of them."""
    chosen = np.arange(len(design.y)) if rows is None else rows
    Q = flat_basis(design.X[chosen], location)
    tails = not isinstance(priors.scale_sd, HalfNormal | None)
    width = sum(len(term.names) + _kappas(term) for term in design.terms)
    found: list[tuple[Array, Mask, Mask]] = []
    names: list[str] = []
    for term in design.terms:
        Z = np.zeros((*term.Z.shape[:2], width))
        Z[:, :, len(names) : len(names) + len(term.names)] = term.Z
        used, felt, apart = _columns(term, chosen, Q)
        if tails and term.random:
            apart = np.zeros_like(apart)
        found.append((Z[used], felt[used], apart[used]))
        names += [f"{term.name}: {name}" for name in term.names] + [""] * _kappas(term)
    Z, felt, bounded = (np.concatenate(parts) for parts in zip(*found, strict=True))
    doubt = (
        "random intercepts of ln τ², unless their SDs have normal priors"
        if tails
        else "correlated effects that the rows of their groups cannot tell apart"
    )
    return Effects(Z, felt, bounded, tuple(names), "effects of groups", doubt)


def _kappas(term: ScaleTerm) -> int:
    return term.n_correlations


def _columns(term: ScaleTerm, rows: Indices, Q: Array) -> tuple[Mask, Mask, Mask]:
    """Which effects have rows, are felt, and are known to be bounded: each (G, s).

    By the products of the columns of each group with each other, less those of what Q (n, m) fits.
    """
    index, slopes = term.index[rows], term.slopes[rows]
    G, s = len(term.groups), slopes.shape[1]
    products, fitted = np.zeros((G, s, s)), np.zeros((G, Q.shape[1], s))
    np.add.at(products, index, slopes[:, :, None] * slopes[:, None, :])
    np.add.at(fitted, index, Q[:, :, None] * slopes[:, None, :])
    sizes = np.sqrt(np.einsum("gii->gi", products))
    used = sizes > 0
    unit = np.where(used, sizes, 1.0)
    rest = (products - np.einsum("gmi,gmj->gij", fitted, fitted)) / (
        unit[:, :, None] * unit[:, None, :]
    )
    felt = np.einsum("gii->gi", rest) > ROUNDING
    if not _kappas(term):
        return used, felt, felt
    # An effect without rows is no part of the group's.
    rest += np.where(used, 0.0, 1.0)[:, :, None] * np.eye(s)
    apart = np.linalg.eigvalsh(rest)[:, 0] > ROUNDING
    return used, felt, felt & apart[:, None]
