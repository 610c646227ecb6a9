"""Fitting a model with several scale terms by REML or ML: the estimate, and the warnings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bayes_lsm.choices import require_choice
from bayes_lsm.clustered_design import ClusteredDesign, ScaleTerm
from bayes_lsm.errors import ConvergenceWarning, DivergentScaleWarning, FitError, warn
from bayes_lsm.likelihood.correlation_matrices import correlation_matrices
from bayes_lsm.likelihood.independent import Method
from bayes_lsm.reml.clustered_fit import ClusteredFit, ClusteredTest
from bayes_lsm.reml.clustered_terms import size_of
from bayes_lsm.reml.divergence import Cone, Divergence
from bayes_lsm.reml.method import require_method
from bayes_lsm.reml.term_estimate import TermEstimate
from bayes_lsm.reml.uninformed import say

if TYPE_CHECKING:
    from bayes_lsm.reml.spots import Spot

Array = npt.NDArray[np.float64]

# Information on a combination of ln τ² (SE 10,000) below which there is none.
_NO_INFORMATION = 1e-8
# A coefficient's share of a direction, below which that is rounding.
_ROUNDING = 1e-6


def fit_clustered(
    design: ClusteredDesign, *, method: Method = "REML", test: ClusteredTest = "z"
) -> ClusteredFit:
    """Fit a model with several scale terms by restricted or ordinary maximum likelihood.

    Parameters
    ----------
    design : ClusteredDesign
    method : {"REML", "ML"}, default "REML"
    test : {"z", "t"}, default "z"

    Returns
    -------
    ClusteredFit

    Raises
    ------
    FitError
        For an unknown method or test, and a likelihood that cannot be computed.

    Warns
    -----
    DivergentScaleWarning
        When a scale term, or part of it, has no variance at the maximum.
    ConvergenceWarning
        When the optimiser stopped early, or the data do not inform a scale coefficient.

    Examples
    --------
    >>> from bayes_lsm.clustered_design import build_clustered_design
    >>> from bayes_lsm.datasets import load_dataset
    >>> from bayes_lsm.specification import Specification
    >>> spec = Specification(
    ...     "yi ~ 1", "vi", scale={"district": "~ 1", "district/school": "~ 1"})
    >>> design = build_clustered_design(spec, load_dataset("konstantopoulos2011"))
    >>> fit_clustered(design).components.round(4)
                       tau2     tau  groups
    component
    district         0.0651  0.2551      11
    district/school  0.0327  0.1809      56

    References
    ----------
    Konstantopoulos, S. (2011). Fixed effects and variance components estimation in three-level
    meta-analysis. Research Synthesis Methods, 2(1), 61-76. doi:10.1002/jrsm.35
    """
    require_method(method)
    require_choice("with several scale terms test", test, ClusteredTest)
    fit = estimate_clustered(design, method, test=test)
    _warn(fit)
    return fit


def estimate_clustered(
    design: ClusteredDesign,
    method: Method,
    *,
    test: ClusteredTest = "z",
    turns: int = 3,
    near: Sequence[Array] = (),
) -> ClusteredFit:
    """The same without a word of what a reader should be warned of.

    `turns` and `near` are those of the search.
    """
    from bayes_lsm.reml.clustered_search import ClusteredSearch  # loads numba

    search = ClusteredSearch(design, method, turns=turns, near=near)
    best, rival = search.best, search.rival
    if not math.isfinite(best.value):
        raise FitError(
            "the likelihood cannot be computed at any starting value; check that no group of rows "
            "has equal effects and no variance"
        )
    inverse, blind = _inverse(design, best)
    found = [_estimate(term, t, best, inverse, blind) for t, term in enumerate(design.terms)]
    terms = {each.term.name: each for each in found}
    limit_vcov = _together(found, best, inverse)
    return ClusteredFit(
        design=design,
        method=method,
        beta=best.ascent.at.beta,
        vcov_location=best.ascent.at.covariance,
        terms=terms,
        vcov_scale=_without_unknown(found, limit_vcov),
        limit_vcov=limit_vcov,
        loglik=best.value,
        log_det_XX=best.data.log_det_XX,
        converged=best.ascent.converged,
        stop=search.inside.ascent.alpha,
        test=test,
        rival=None if rival is None else _coefficients(design, rival),
        rival_loglik=math.nan if rival is None else rival.value,
    )


def _inverse(design: ClusteredDesign, spot: Spot) -> tuple[Array, Array]:
    """The inverse of −H where there is information, and a basis (m, b) of where there is none.

    What there is of it must not hang on the units and the origin of a moderator, so it is looked
    for in coordinates in which the columns of each term are orthonormal.
    """
    back = np.eye(spot.data.q)
    for term, left, first in zip(design.terms, spot.remaining, spot.data.starts, strict=False):
        rows = term.Z[term.used & ~left.zero][:, list(left.kept)]
        if len(rows):
            here = slice(first, first + rows.shape[1])
            R = np.linalg.qr(rows, mode="r") / math.sqrt(len(rows))
            back[here, here] = np.linalg.solve(R, np.eye(len(R)))
    values, vectors = np.linalg.eigh(-back.T @ spot.ascent.at.hessian @ back)
    informed = values > _NO_INFORMATION
    axes, blind = back @ vectors[:, informed], back @ vectors[:, ~informed]
    sizes = np.linalg.norm(back, axis=1, keepdims=True)
    blind = np.where(np.abs(blind) > _ROUNDING * sizes, blind, 0.0)
    return np.asarray((axes / values[informed]) @ axes.T), np.asarray(blind)


def _without(covariance: Array, lost: npt.NDArray[np.bool_]) -> Array:
    covariance = covariance.copy()
    covariance[lost, :] = covariance[:, lost] = np.nan
    return covariance


def _estimate(term: ScaleTerm, t: int, best: Spot, inverse: Array, blind: Array) -> TermEstimate:
    """One term's share of the maximum; ±inf or nan for what a limit took."""
    left = best.remaining[t]
    alpha, kappa = best.coefficients[t]
    first = int(best.data.starts[t])
    here = np.arange(first, first + len(alpha))
    there = np.arange(first + len(alpha), first + len(alpha) + len(kappa))
    unknown = blind.any(axis=1)
    q = len(term.names)
    full, limit_vcov = np.full(q, np.nan), np.full((q, q), np.nan)
    kept = list(left.kept)
    full[kept] = alpha
    limit_vcov[np.ix_(kept, kept)] = inverse[np.ix_(here, here)]
    own = np.zeros((q, blind.shape[1]))
    own[kept] = blind[here]
    vcov = _without(limit_vcov, own.any(axis=1))
    limit_alpha, divergence = full.copy(), None
    if left.zero.any():
        signs, direction = Cone(term.Z[term.used]).signs(left.zero[term.used])
        for j, sign in signs.items():
            full[j] = sign
        vcov = _without(vcov, ~np.isfinite(full))
        one, many = _units(term)
        divergence = Divergence(
            terms={term.names[j]: sign for j, sign in signs.items()},
            direction=dict(zip(term.names, map(float, direction), strict=True)),
            studies=tuple(_gone(term, left.zero)),
            everywhere=bool(left.zero[term.used].all()),
            one=one,
            many=many,
        )
    return TermEstimate(
        term=term,
        alpha=full,
        vcov=vcov,
        tau2=best.tau2[t],
        kappa=kappa,
        vcov_kappa=_without(inverse[np.ix_(there, there)], unknown[there]),
        correlation=_correlation_matrix(term, left.effects, kappa),
        divergence=divergence,
        limit_alpha=limit_alpha,
        limit_vcov=limit_vcov,
        blind=own,
    )


def _units(term: ScaleTerm) -> tuple[str, str]:
    """What a group of a term, or an effect of it, is called, and several of them."""
    if term.grouping.is_residual:
        return "row", "rows"
    if len(term.effects) > 1:
        return f"effect of {term.name!r}", f"effects of {term.name!r}"
    return f"group of {term.name!r}", f"groups of {term.name!r}"


def _gone(term: ScaleTerm, zero: npt.NDArray[np.bool_]) -> Iterator[str]:
    """The names of the groups, or effects of groups, that have rows and no variance."""
    for g, k in np.argwhere(zero & term.used):
        several = len(term.effects) > 1
        yield f"{term.groups[g]} ({term.effects[k]})" if several else term.groups[g]


def _together(found: list[TermEstimate], best: Spot, inverse: Array) -> Array:
    """The covariance of `limit_alpha` and κ of all terms, in the order of the terms."""
    places: list[int] = []
    for t, (each, left) in enumerate(zip(found, best.remaining, strict=True)):
        first, q = int(best.data.starts[t]), len(left.kept)
        number = dict(zip(left.kept, range(first, first + q), strict=True))
        places += [number.get(j, -1) for j in range(len(each.alpha))]
        correlations = size_of(each.term) - len(each.alpha)
        if len(each.kappa) == correlations:
            places += [*range(first + q, first + q + correlations)]
        else:  # those of fewer effects are others
            places += [-1] * correlations
    kept = np.array(places)
    full = inverse[np.ix_(kept, kept)] if len(inverse) else np.full((len(kept),) * 2, np.nan)
    return _without(full, kept < 0)


def _without_unknown(found: list[TermEstimate], limit_vcov: Array) -> Array:
    """The same, but nan for coefficients that are infinite, left open, or not informed."""
    lost = []
    for each in found:
        correlations = np.zeros(size_of(each.term) - len(each.alpha), dtype=bool)
        if len(each.kappa) == len(correlations):
            correlations = np.isnan(np.diag(each.vcov_kappa))
        lost.append(np.r_[np.isnan(np.diag(each.vcov)), correlations])
    return _without(limit_vcov, np.concatenate(lost))


def _coefficients(design: ClusteredDesign, spot: Spot) -> dict[str, Array]:
    """α of each term at a maximum; −inf, inf or nan for what a limit took."""
    nothing = np.zeros((spot.data.q, spot.data.q)), np.zeros((spot.data.q, 0))
    return {
        term.name: _estimate(term, t, spot, *nothing).alpha for t, term in enumerate(design.terms)
    }


def _correlation_matrix(term: ScaleTerm, effects: tuple[int, ...], kappa: Array) -> Array:
    """R (s, s) from κ; nan for effects without variance."""
    s = len(term.effects)
    if s == 1 or term.correlation == "none":
        return np.eye(s)
    R = correlation_matrices(kappa[None], len(effects), term.correlation)[0]
    full = np.full((s, s), np.nan)
    full[np.ix_(effects, effects)] = R
    np.fill_diagonal(full, 1.0)
    return full


def _warn(fit: ClusteredFit) -> None:
    for name, each in fit.divergent.items():
        warn(
            f"{name}: {each}. Leave the term out of the scale part, or merge groups.",
            DivergentScaleWarning,
        )
    if fit.uninformed:
        warn(f"{say(fit.uninformed)}; simplify the scale formulas", ConvergenceWarning)
    if not fit.converged:
        warn(
            "the optimiser did not converge; simplify the scale formulas",
            ConvergenceWarning,
        )
