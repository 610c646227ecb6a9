"""A likelihood with one of its coefficients held at any value, the others being chosen for it.

A scale coefficient, a linear function l'α of several, or a correlation: each is made a coefficient
with a name of its own, which `estimate` can fix. For l'α = γ one α_p gives way to it,
α_p = (γ − Σ l_i α_i)/l_p, so that ln τ² = z_p γ/l_p + Σ (z_i − z_p l_i/l_p) α_i; for a correlation
the effects are sorted so that its pair comes first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bayes_lsm.arrays import Array, Mask
from bayes_lsm.capabilities import require_capable
from bayes_lsm.design.coefficients import (
    Coefficient,
    Pair,
    coefficients,
    find,
    pairs,
    scale_places,
)
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices, kappa_of
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.likelihood.protocol import Likelihood
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.requirements import require_no_bounds
from bayes_lsm.reml.scale_values import scale_values
from bayes_lsm.reml.search.estimate import estimate
from bayes_lsm.specification import Correlation, Method

# κ of a correlation that differs from its border by 1e-10, and how fast κ counts beside ln τ².
_FURTHEST, _PACE = 11.5, 6.0


@dataclass(frozen=True, eq=False)
class Slices:
    """The slices of a scale coefficient, or of a function of several; c is its value.

    `highest` is the highest log-likelihood that is known, `spread` how far ln τ² moves, in the
    typical effect, where c moves by 1, `others` how many other coefficients of variances and
    correlations there are to choose. The `design` has c as one of its coefficients, called `name`,
    which stands at `place` among all coefficients and κ; those that the fit holds are `fixed`.
    """

    label: str
    estimate: float
    variance: float
    highest: float
    spread: float
    others: int
    design: Design
    name: str
    place: int
    method: Method
    fixed: Mapping[str, float]

    def search(self, c: float) -> tuple[float, Array]:
        """ℓ_p(c) by a search, and α and κ inside, where climbs at other c may start."""
        value = float(self.show(np.array(self._within(c))))
        fixed = {**self.fixed, self.name: value}
        found = estimate(self.design, self.method, fixed=fixed, turns=0)
        start, highest = found.stop.copy(), found.alpha if found.rival is None else found.rival
        if np.isfinite(highest).all():
            start[scale_places(self.design)] = highest
        return found.highest, start

    def climb(self, c: float, starts: Sequence[Array]) -> tuple[float, Array]:
        """The highest point that climbs from some α and κ (or from 0, if none) reach."""
        here = self._fixed_at
        begun = np.array(starts or [np.nan_to_num(here)])
        begun[:, self.place] = self._within(c)
        held = ~np.isnan(here)
        begun[:, held] = here[held]
        held[self.place] = True
        found = self._likelihood.climb(begun, self.method, held=held)
        best = int(np.argmax(found.value))
        return float(found.value[best]), found.alpha[best]

    @cached_property
    def _likelihood(self) -> Likelihood:
        return likelihood_of(self.design)

    @cached_property
    def _fixed_at(self) -> Array:
        """What the fit holds, among all coefficients and κ; nan for the others."""
        found = np.full(self.design.places[-1].stop, np.nan)
        for each, place in zip(coefficients(self.design), scale_places(self.design), strict=True):
            found[place] = self.fixed.get(each.label, math.nan)
        return found

    def _within(self, c: float) -> float:
        """c, where it can be held."""
        return c

    def show(self, c: Array) -> Array:
        """c, in the units in which it is told."""
        return c

    def hide(self, value: Array) -> Array:
        """The c of what is told."""
        return value


@dataclass(frozen=True, eq=False)
class CorrelationSlices(Slices):
    """Those of the correlation of the first two of some effects; c is its κ."""

    effects: int
    kind: Correlation

    def _within(self, c: float) -> float:
        return min(max(c, -_FURTHEST), _FURTHEST)

    def show(self, c: Array) -> Array:
        """The correlation of κ."""
        c = np.asarray(c, dtype=float)
        if self.kind == "unstructured":
            return np.tanh(c)
        rho = correlation_matrices(c.reshape(-1, 1), self.effects, self.kind)[:, 1, 0]
        ends = np.where(c > 0, 1.0, -1.0 / (self.effects - 1))
        return np.where(np.isinf(c), ends, rho.reshape(c.shape))

    def hide(self, value: Array) -> Array:
        """The κ of a correlation, kept from its border."""
        value = np.asarray(value, dtype=float)
        lowest = -1.0 if self.kind == "unstructured" else -1.0 / (self.effects - 1)
        with np.errstate(invalid="ignore"):
            inside = np.clip(value, lowest + 1e-10, 1 - 1e-10)
        kappa = [
            kappa_of(float(rho), self.effects, self.kind) if math.isfinite(rho) else math.nan
            for rho in np.atleast_1d(inside)
        ]
        return np.reshape(kappa, value.shape)


def slices_of(fit: Estimates, term: str) -> Slices:
    """Those of a scale coefficient or correlation, by its name.

    A FitError refuses an unknown one, one that was fixed, and a fit that has no profiles.
    """
    if not isinstance(term, str):
        raise FitError(f"term must be the name of a scale coefficient, got {term!r}")
    scale, correlations = coefficients(fit.design), pairs(fit.design)
    known: list[Coefficient | Pair] = [*scale, *correlations]
    what = "scale coefficient or correlation" if correlations else "scale coefficient"
    found = find(term, known, what)
    if found in correlations:
        return _of_pair(fit, correlations[correlations.index(found)])
    if found.label in fit.fixed:
        raise FitError(
            f"there is no profile of {found.label!r}, which was fixed at "
            f"{fit.fixed[found.label]:g}; refit without it among `fixed`"
        )
    along = slices_along(fit, np.array([each == found for each in scale], dtype=float))
    return replace(along, label=found.label)


def slices_along(fit: Estimates, row: Array) -> Slices:
    """Those of l'α, for an l (q,) that some estimated coefficient of one scale term is in.

    A FitError refuses coefficients of several scale terms, and a fit that has no profiles.
    """
    _require(fit)
    known = coefficients(fit.design)
    free = np.array([each.label not in fit.fixed for each in known])
    touched = {each.t for each, moves in zip(known, (row != 0) & free, strict=True) if moves}
    if len(touched) > 1:
        names = ", ".join(repr(fit.design.terms[t].name) for t in sorted(touched))
        raise FitError(
            f"there is no profile of a function of the coefficients of several scale terms "
            f"({names}); use method='delta', or give those of one"
        )
    (t,) = touched
    here = [j for j, each in enumerate(known) if each.t == t]
    term, pivot = _turned(fit.design.terms[t], row[here], free[here])
    column = term.Z[:, :, pivot]
    terms = (*fit.design.terms[:t], term, *fit.design.terms[t + 1 :])
    value = scale_values(fit, row[None])
    return Slices(
        label="",
        estimate=float(value.estimate[0]),
        variance=float(value.se[0]) ** 2,
        highest=fit.highest,
        spread=float(np.sqrt(np.mean(column[term.used] ** 2))),
        others=fit.design.places[-1].stop - len(fit.fixed) - 1,
        design=replace(fit.design, terms=terms),
        name=known[here[pivot]].label,
        place=int(scale_places(fit.design)[here[pivot]]),
        method=fit.method,
        fixed=fit.fixed,
    )


def _turned(term: ScaleTerm, row: Array, free: Mask) -> tuple[ScaleTerm, int]:
    """The term with l'α in the place of a coefficient, and which; the others are the same.

    Its column is made orthogonal to those of the other free coefficients. This leaves the profile
    as it is, and makes them change little with c.
    """
    used = term.used
    sizes = np.sqrt(np.mean(term.Z[used] ** 2, axis=0))
    pivot = int(np.argmax(np.where(free, np.abs(row) / sizes, -1.0)))
    Z = term.Z - term.Z[:, :, [pivot]] * (row / row[pivot])
    column = term.Z[:, :, pivot] / row[pivot]
    others = [j for j in np.flatnonzero(free) if j != pivot]
    if others:
        column = column - Z[:, :, others] @ np.linalg.lstsq(Z[used][:, others], column[used])[0]
    Z[:, :, pivot] = np.where(used, column, 0.0)
    return replace(term, Z=Z), pivot


def _of_pair(fit: Estimates, which: Pair) -> Slices:
    _require(fit)
    term = fit.design.terms[which.t]
    first = [which.a, which.b]
    order = first + [k for k in range(len(term.effects)) if k not in first]
    terms = list(fit.design.terms)
    terms[which.t] = term.sort_effects(order)
    found = CorrelationSlices(
        label=which.label,
        estimate=math.nan,
        variance=math.nan,
        highest=fit.highest,
        spread=_PACE,
        others=fit.design.places[-1].stop - len(fit.fixed),
        design=replace(fit.design, terms=tuple(terms)),
        name=which.label,
        place=fit.design.places[which.t].start + len(term.names),
        method=fit.method,
        fixed=fit.fixed,
        effects=len(term.effects),
        kind=term.correlation,
    )
    rho = fit.terms[term.name].correlation[which.a, which.b]
    return replace(found, estimate=float(found.hide(rho)))


def _require(fit: Estimates) -> None:
    require_capable("profile", fit.design)
    require_no_bounds(fit, "a profile")
