"""The maximum of effects in blocks as facts: of each scale term α, κ, τ² and what a limit took."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.coefficients import coefficients, pairs, scale_places
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.reml.divergence import Cone, Divergence
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.term_estimate import TermEstimate
from bayes_lsm.specification import Method

if TYPE_CHECKING:
    from bayes_lsm.reml.search.blocks_search import BlocksSearch
    from bayes_lsm.reml.search.spots import Spot

Array = npt.NDArray[np.float64]

# Information on a combination of ln τ² (SE 10,000) below which there is none.
_NO_INFORMATION = 1e-8
# A coefficient's share of a direction, below which that is rounding.
_ROUNDING = 1e-6


def estimate_blocks(
    design: Design,
    method: Method,
    *,
    fixed: Mapping[str, float] | None = None,
    start: Mapping[str, float] | None = None,
    turns: int = 3,
    near: Sequence[Array] = (),
) -> Estimates:
    """The maximum of effects in blocks, with some coefficients and correlations fixed.

    What a fixed coefficient adds to ln τ² is an offset. `turns` and `near` are
    those of the search.

    Raises
    ------
    FitError
        When the likelihood cannot be computed anywhere.
    """
    from bayes_lsm.reml.search.blocks_search import BlocksSearch  # loads numba

    held, rhos = _split(design, fixed or {})
    if start is not None:
        near = (*near, _start(design, {**start, **(fixed or {})}))
    places = _places(design, held)
    near = tuple(each[places] if len(each) > len(places) else each for each in near)
    free = design.hold(held) if held else design
    search = BlocksSearch(free, method, held=rhos, turns=turns, near=near)
    found = _estimates(free, method, search)
    return _put_back(design, found, held, places) if held else found


def _split(design: Design, fixed: Mapping[str, float]) -> tuple[dict[int, float], dict[int, float]]:
    """Fixed coefficients by their number, and correlations by that of their term."""
    number = {each.label: j for j, each in enumerate(coefficients(design))}
    term = {each.label: each.t for each in pairs(design) if each.is_first}
    return (
        {number[name]: value for name, value in fixed.items() if name in number},
        {term[name]: value for name, value in fixed.items() if name not in number},
    )


def _start(design: Design, values: Mapping[str, float]) -> Array:
    """Coefficients by name and κ of 0, as the likelihood takes them."""
    found = [0.0] * sum(term.size for term in design.terms)
    for each, place in zip(coefficients(design), scale_places(design), strict=True):
        found[place] = values[each.label]
    return np.array(found)


def _places(design: Design, held: Mapping[int, float]) -> npt.NDArray[np.intp]:
    """Where the coefficients that are estimated, and κ, stand among all."""
    lost = scale_places(design)[list(held)]
    return np.setdiff1d(np.arange(sum(term.size for term in design.terms)), lost)


def _put_back(
    design: Design,
    found: Estimates,
    held: Mapping[int, float],
    places: npt.NDArray[np.intp],
) -> Estimates:
    """The fit of a design with coefficients held, on the coefficients of the design itself."""
    size, first, terms = sum(term.size for term in design.terms), 0, {}
    for term, each in zip(design.terms, found.terms.values(), strict=True):
        fixed = {j - first: value for j, value in held.items() if 0 <= j - first < len(term.names)}
        terms[term.name] = _with_fixed(term, each, fixed)
        first += len(term.names)
    kept = np.ix_(places, places)
    vcov, limit = np.full((size, size), np.nan), np.full((size, size), np.nan)
    vcov[kept], limit[kept] = found.vcov_terms, found.limit_vcov
    stop = np.zeros(size)
    stop[scale_places(design)[list(held)]] = list(held.values())
    stop[places] = found.stop
    rival = None
    if found.rival is not None:
        rival = np.array([held.get(j, math.nan) for j in range(first)])
        rival[[j for j in range(first) if j not in held]] = found.rival
    return replace(
        found, design=design, terms=terms, vcov_terms=vcov, limit_vcov=limit, stop=stop, rival=rival
    )


def _with_fixed(term: ScaleTerm, each: TermEstimate, fixed: Mapping[int, float]) -> TermEstimate:
    kept = [j for j in range(len(term.names)) if j not in fixed]
    values = np.array([fixed.get(j, math.nan) for j in range(len(term.names))])
    alpha, limit = values.copy(), values.copy()
    alpha[kept], limit[kept] = each.alpha, each.limit_alpha
    vcov = np.full((len(values), len(values)), np.nan)
    limit_vcov = vcov.copy()
    vcov[np.ix_(kept, kept)], limit_vcov[np.ix_(kept, kept)] = each.vcov, each.limit_vcov
    blind = np.zeros((len(values), each.blind.shape[1]))
    blind[kept] = each.blind
    return replace(
        each,
        term=term,
        alpha=alpha,
        vcov=vcov,
        limit_alpha=limit,
        limit_vcov=limit_vcov,
        blind=blind,
    )


def _estimates(design: Design, method: Method, search: BlocksSearch) -> Estimates:
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
    return Estimates(
        design=design,
        method=method,
        beta=best.ascent.at.beta,
        vcov_location=best.ascent.at.covariance,
        terms=terms,
        vcov_terms=_without_unknown(found, limit_vcov),
        limit_vcov=limit_vcov,
        loglik=best.value,
        converged=best.ascent.converged,
        stop=search.inside.ascent.alpha,
        rival=None if rival is None else _coefficients(design, rival),
        rival_loglik=math.nan if rival is None else rival.value,
    )


def _inverse(design: Design, spot: Spot) -> tuple[Array, Array]:
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
        correlations = each.term.size - len(each.alpha)
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
        correlations = np.zeros(each.term.n_correlations, dtype=bool)
        if len(each.kappa) == len(correlations):
            correlations = np.isnan(np.diag(each.vcov_kappa))
        lost.append(np.r_[np.isnan(np.diag(each.vcov)), correlations])
    return _without(limit_vcov, np.concatenate(lost))


def _coefficients(design: Design, spot: Spot) -> Array:
    """α at a maximum; −inf, inf or nan for what a limit took."""
    nothing = np.zeros((spot.data.q, spot.data.q)), np.zeros((spot.data.q, 0))
    return np.concatenate(
        [_estimate(term, t, spot, *nothing).alpha for t, term in enumerate(design.terms)]
    )


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
