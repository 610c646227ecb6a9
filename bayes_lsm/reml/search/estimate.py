"""The maximum of a design's likelihood as facts: α, κ, β, τ², and what a limit at infinity took."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bayes_lsm.arrays import Array, Index, Mask
from bayes_lsm.design.coefficients import coefficients, pairs, scale_places
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.links import tau2_from_log
from bayes_lsm.reml.divergence import Divergence, Limit
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search.geometry import geometry_of
from bayes_lsm.reml.search.left import Left, what_is_left
from bayes_lsm.reml.search.search import Search
from bayes_lsm.reml.search.surface import Point, Surface
from bayes_lsm.reml.term_estimate import TermEstimate
from bayes_lsm.specification import Method


def estimate(
    design: Design,
    method: Method,
    *,
    fixed: Mapping[str, float] | None = None,
    start: Mapping[str, float] | None = None,
    turns: int = 3,
    near: Sequence[Array] = (),
) -> Estimates:
    """The maximum under the log link; `turns` spares work where a design is in blocks.

    A correlation is fixed by its name, too (see `bayes_lsm.design.coefficients.pairs`): if
    unstructured, that of the first two effects. What a fixed coefficient adds to ln τ² is an
    offset. A FitError when the likelihood cannot be computed anywhere.
    """
    held, rhos = split_fixed(design, fixed or {})
    if start is not None:
        near = (*near, _start(design, {**start, **(fixed or {})}))
    free = design.hold(held) if held else design
    surface = surface_of(free, method, rhos, turns, of_rows=design.is_independent)
    if held:
        places = _places(design, held)
        near = [each[places] if len(each) > len(places) else each for each in near]
    given = [surface.inside(each) for each in near]
    search = Search(surface, given)
    best, rival = search.best, search.rival
    if not math.isfinite(best.value):
        raise FitError(
            "the likelihood cannot be computed at any starting value; check that no group of rows "
            "has equal effects and no variance"
        )
    found = facts_at(free, method, best, surface.natural(search.stop.ordinary))
    if rival is not None:
        alpha = facts_at(free, method, rival, found.stop).alpha
        found = replace(found, rival=alpha, rival_loglik=rival.value)
    return put_back(design, found, held)


def surface_of(
    design: Design,
    method: Method,
    held: Mapping[int, float],
    turns: int,
    *,
    of_rows: bool,
) -> Surface:
    """The solver that climbs for a search.

    Rows with a τ² each have a solver of their own, whatever of it is fixed; `held` and `turns` are
    those of blocks.
    """
    if of_rows:
        from bayes_lsm.reml.search.rows_surface import RowsSurface

        (term,) = design.terms
        offset = None if term.offset is None else term.offset[:, 0]
        return RowsSurface(design.y, design.v, design.X, term.Z[:, 0], method, offset=offset)
    from bayes_lsm.reml.search.blocks_surface import BlocksSurface

    return BlocksSurface(design, method, held=held, turns=turns)


def split_fixed(
    design: Design, fixed: Mapping[str, float]
) -> tuple[dict[int, float], dict[int, float]]:
    """Fixed coefficients by their number, and correlations by that of their term."""
    if not fixed:
        return {}, {}
    number = {each.label: j for j, each in enumerate(coefficients(design))}
    term = {each.label: each.t for each in pairs(design) if each.is_first}
    return (
        {number[name]: value for name, value in fixed.items() if name in number},
        {term[name]: value for name, value in fixed.items() if name not in number},
    )


def _start(design: Design, values: Mapping[str, float]) -> Array:
    """Coefficients by name and κ of 0, as the likelihood takes them."""
    found = [0.0] * design.places[-1].stop
    for each, place in zip(coefficients(design), scale_places(design), strict=True):
        found[place] = values[each.label]
    return np.array(found)


def _places(design: Design, held: Mapping[int, float]) -> Index:
    """Where the coefficients that are estimated, and κ, stand among all."""
    lost = scale_places(design)[list(held)]
    return np.setdiff1d(np.arange(design.places[-1].stop), lost)


def put_back(design: Design, found: Estimates, held: Mapping[int, float]) -> Estimates:
    """The fit of a design with coefficients held, on the coefficients of the design itself."""
    if not held:
        return found
    size, q, terms = design.places[-1].stop, design.columns[-1].stop, {}
    places = _places(design, held)
    for term, each, at in zip(design.terms, found.terms.values(), design.columns, strict=True):
        fixed = {j - at.start: value for j, value in held.items() if at.start <= j < at.stop}
        terms[term.name] = _with_fixed(term, each, fixed)
    kept = np.ix_(places, places)
    vcov, limit = np.full((2, size, size), np.nan)
    vcov[kept], limit[kept] = found.vcov_terms, found.limit_vcov
    stop = np.zeros(size)
    stop[scale_places(design)[list(held)]] = list(held.values())
    stop[places] = found.stop
    rival = None
    if found.rival is not None:
        rival = np.array([held.get(j, math.nan) for j in range(q)])
        rival[[j for j in range(q) if j not in held]] = found.rival
    return replace(
        found, design=design, terms=terms, vcov_terms=vcov, limit_vcov=limit, stop=stop, rival=rival
    )


def _with_fixed(term: ScaleTerm, each: TermEstimate, fixed: Mapping[int, float]) -> TermEstimate:
    kept = [j for j in range(len(term.names)) if j not in fixed]
    values = np.array([fixed.get(j, math.nan) for j in range(len(term.names))])
    alpha, limit = values.copy(), values.copy()
    alpha[kept], limit[kept] = each.alpha, each.limit_alpha
    vcov, limit_vcov = np.full((2, len(values), len(values)), np.nan)
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


type _End = tuple[Array, Array, Divergence | None]


def facts_at(design: Design, method: Method, point: Point, stop: Array) -> Estimates:
    """A maximum term by term: ±inf or nan for what a limit took."""
    across, blind, known = point.covariance_across, point.blind, point.alpha
    left = what_is_left(design.terms, point.limit)
    ends = [_ends(each, design, known) for each in left]
    limit_vcov = _spread(across, [place for each in left for place in each.places])
    silent = blind.any(axis=1)
    vcov, terms = _without(limit_vcov, _lost(left, ends, silent)), {}
    for each, at, (alpha, limit_alpha, divergence) in zip(left, design.places, ends, strict=True):
        term, kappa = each.term, point.rotated[each.kappas]
        here = slice(at.start, at.start + len(alpha))
        own = np.zeros((len(alpha), blind.shape[1]))
        if silent.any():
            own[list(each.kept)] = blind[each.columns]
        terms[term.name] = TermEstimate(
            term=term,
            alpha=alpha,
            vcov=vcov[here, here],
            tau2=_tau2(each, point, limit_alpha),
            kappa=kappa,
            vcov_kappa=_without(across[each.kappas, each.kappas], silent[each.kappas]),
            correlation=_correlation_matrix(term, each.effects, kappa),
            divergence=divergence,
            limit_alpha=limit_alpha,
            limit_vcov=limit_vcov[here, here],
            blind=own,
        )
    return Estimates(
        design=design,
        method=method,
        beta=point.beta,
        vcov_location=point.vcov_location,
        terms=terms,
        vcov_terms=vcov,
        limit_vcov=limit_vcov,
        loglik=point.value,
        converged=point.converged,
        stop=stop,
    )


def _ends(left: Left, design: Design, known: Array) -> _End:
    """α of a term, that at the limit, and what diverges."""
    if not left.zero.any():
        return known[left.columns], known[left.columns], None
    limit_alpha = np.full(len(left.term.names), np.nan)
    limit_alpha[list(left.kept)] = known[left.columns]
    signs, divergence = _divergence(left, design)
    alpha = limit_alpha.copy()
    alpha[list(signs)] = list(signs.values())
    return alpha, limit_alpha, divergence


def _spread(across: Array, places: list[int]) -> Array:
    """A covariance of what is left (m, m), on all coefficients; nan in those that are gone (−1)."""
    if places == list(range(len(across))):
        return across
    kept = [j for j, place in enumerate(places) if place >= 0]
    found = np.full((len(places), len(places)), np.nan)
    if kept:
        here = [places[j] for j in kept]
        found[np.ix_(kept, kept)] = across[np.ix_(here, here)]
    return found


def _lost(left: list[Left], ends: list[_End], silent: Mask) -> Mask:
    """Which of all coefficients and κ have no standard error: gone, diverging or not informed."""
    found = np.zeros(sum(each.term.size for each in left), dtype=bool)
    if not silent.any() and all(divergence is None for *_, divergence in ends):
        return found
    unknown, first = [*silent, True], 0  # the last (−1) of what is gone
    for each, (alpha, *_) in zip(left, ends, strict=True):
        found[first : first + each.term.size] = [unknown[place] for place in each.places]
        found[first : first + len(alpha)] |= ~np.isfinite(alpha)
        first += each.term.size
    return found


def _without(covariance: Array, lost: Mask) -> Array:
    if not lost.any():
        return covariance
    covariance = covariance.copy()
    covariance[lost, :] = covariance[:, lost] = np.nan
    return covariance


def _tau2(left: Left, point: Point, alpha: Array) -> Array:
    """τ² (G, s), also of the effects that no row has: what their moderators say."""
    term, known = left.term, point.tau2[left.rows]
    if known.size == left.used.size:
        return known.reshape(left.used.shape)
    found = tau2_from_log(term.offsets + term.Z @ np.nan_to_num(alpha))
    found[left.used] = known
    return np.where(left.zero, 0.0, found)


def _divergence(left: Left, design: Design) -> tuple[Mapping[int, float], Divergence]:
    """Where the coefficients of a term go, and why."""
    term, gone = left.term, left.zero[left.used]
    face = geometry_of(term.Z[left.used]).face_of(Limit(gone, left.kept))
    signs, direction = face.signs
    one, many = _units(term, design)
    return signs, Divergence(
        terms={term.names[j]: sign for j, sign in signs.items()},
        direction=dict(zip(term.names, map(float, direction), strict=True)),
        studies=tuple(_gone(left)),
        everywhere=bool(gone.all()),
        one=one,
        many=many,
    )


def _units(term: ScaleTerm, design: Design) -> tuple[str, str]:
    """What a group of a term, or an effect of it, is called, and several of them."""
    if term.grouping.is_residual:
        alone = len(design.terms) == 1 and not design.blocks and bool((design.v > 0).all())
        return ("study", "studies") if alone else ("row", "rows")
    if len(term.effects) > 1:
        return f"effect of {term.name!r}", f"effects of {term.name!r}"
    return f"group of {term.name!r}", f"groups of {term.name!r}"


def _gone(left: Left) -> Iterator[str]:
    """The names of the groups, or effects of groups, that have rows and no variance."""
    term = left.term
    for g, k in np.argwhere(left.zero & left.used):
        several = len(term.effects) > 1
        yield f"{term.groups[g]} ({term.effects[k]})" if several else term.groups[g]


def _correlation_matrix(term: ScaleTerm, effects: Sequence[int], kappa: Array) -> Array:
    """R (s, s) from κ; nan for effects without variance."""
    s = len(term.effects)
    if s == 1 or term.correlation == "none":
        return np.eye(s)
    R = correlation_matrices(kappa[None], len(effects), term.correlation)[0]
    full = np.full((s, s), np.nan)
    full[np.ix_(effects, effects)] = R
    np.fill_diagonal(full, 1.0)
    return full
