"""What `profile` asks of a model with several scale terms.

A scale coefficient is held at c by what its column adds to ln τ²: exp(z_j c) of each effect goes
into the slopes, as its root, and the column leaves the scale matrix. The search for the others,
limits at infinity included, is that of the smaller model. A correlation is held as it is, in the
unrestricted κ of its matrix, whose effects are sorted so that its pair comes first.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.coefficients import Coefficient, Pair, coefficients, find, pairs
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices, kappa_of
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.intervals.profile import Slices

Array = npt.NDArray[np.float64]

# What c may add to ln τ², so that neither it nor a product with it overflows.
_MOST = 300.0
# κ of a correlation that differs from its border by 1e-10, and how fast κ counts beside ln τ².
_FURTHEST, _PACE = 11.5, 6.0
_TOLERANCE = 1e-13


def slices_of(fit: Estimates, term: str) -> Slices:
    """The slices of a scale coefficient or correlation, by its name."""
    known: list[Coefficient | Pair] = [*coefficients(fit.design), *pairs(fit.design)]
    found = find(term, known, "scale coefficient or correlation")
    if isinstance(found, Coefficient):
        return _CoefficientSlices(fit, found)
    return _CorrelationSlices(fit, found)


class _CoefficientSlices:
    """Those of a scale coefficient."""

    def __init__(self, fit: Estimates, which: Coefficient) -> None:
        term = fit.design.terms[which.t]
        self._design, self._method, self._t = fit.design, fit.method, which.t
        self._rest = np.delete(term.Z, which.j, axis=2)
        column, used = term.Z[:, :, which.j], term.used
        # Orthogonal to the other columns, so that the other coefficients change little with c.
        if self._rest.shape[2]:
            b = np.linalg.lstsq(self._rest[used], column[used], rcond=None)[0]
            column = column - self._rest @ b
        self._column = np.where(used, column, 0.0)
        self._names = tuple(name for j, name in enumerate(term.names) if j != which.j)
        each = fit.terms[term.name]
        self.label = which.label
        self.estimate = float(each.alpha[which.j])
        self.variance = float(each.vcov[which.j, which.j])
        self.highest = fit.highest
        self.spread = float(np.sqrt(np.mean(column[used] ** 2)))
        self.others = sum(term.size for term in fit.design.terms) - 1

    def search(self, c: float) -> tuple[float, Array]:
        """ℓ_p(c) by a search of its own."""
        from bayes_lsm.reml.search.blocks_search import BlocksSearch

        found = BlocksSearch(self._at(c), self._method, turns=0)
        return found.highest.value, found.inside.ascent.alpha

    def climb(self, c: float, starts: list[Array]) -> tuple[float, Array]:
        """The highest point that climbs from `starts` reach."""
        from bayes_lsm.likelihood.blocks.arrange import arrange_design
        from bayes_lsm.likelihood.blocks.blocks import ascend

        data = arrange_design(self._at(c))
        found = [ascend(start, data, method=self._method, tolerance=_TOLERANCE) for start in starts]
        best = max(found, key=lambda ascent: _finite(ascent.at.value))
        return _finite(best.at.value), best.alpha

    def _at(self, c: float) -> Design:
        """The design without the coefficient, which is c."""
        terms = list(self._design.terms)
        term = terms[self._t]
        root = np.exp(0.5 * np.clip(c * self._column, -_MOST, _MOST))
        terms[self._t] = replace(
            term, names=self._names, Z=self._rest, slopes=term.slopes * root[term.index]
        )
        return replace(self._design, terms=tuple(terms))

    def show(self, c: Array) -> Array:
        """The coefficient as it is."""
        return c

    def hide(self, value: Array) -> Array:
        """The coefficient as it is."""
        return value


class _CorrelationSlices:
    """Those of a correlation; c is its κ."""

    def __init__(self, fit: Estimates, which: Pair) -> None:
        term = fit.design.terms[which.t]
        self._t, self._kind, self._s = which.t, term.correlation, len(term.effects)
        self._method = fit.method
        first = [which.a, which.b]
        order = first + [k for k in range(self._s) if k not in first]
        terms = list(fit.design.terms)
        terms[which.t] = _sorted(term, order)
        self._design = replace(fit.design, terms=tuple(terms))
        each = fit.terms[term.name]
        rho = float(each.correlation[which.a, which.b])
        self.label = which.label
        self.estimate = float(self.hide(np.array(rho)))
        self.variance = math.nan
        self.highest = fit.highest
        self.spread = _PACE
        self.others = sum(term.size for term in fit.design.terms)  # κ itself stays among them

    def search(self, c: float) -> tuple[float, Array]:
        """ℓ_p(c) by a search of its own."""
        from bayes_lsm.reml.search.blocks_search import BlocksSearch

        rho = float(self.show(np.array(_within(c))))
        found = BlocksSearch(self._design, self._method, held={self._t: rho}, turns=0)
        return found.highest.value, found.inside.ascent.alpha

    def climb(self, c: float, starts: list[Array]) -> tuple[float, Array]:
        """The highest point that climbs from `starts` reach."""
        from bayes_lsm.likelihood.blocks.arrange import arrange_design
        from bayes_lsm.likelihood.blocks.blocks import ascend

        data = arrange_design(self._design)
        held = np.zeros(data.q, dtype=bool)
        place = int(data.starts[self._t]) + self._design.terms[self._t].Z.shape[2]
        held[place] = True
        found = []
        for start in starts:
            here = start.copy()
            here[place] = _within(c)
            found.append(ascend(here, data, method=self._method, tolerance=_TOLERANCE, held=held))
        best = max(found, key=lambda ascent: _finite(ascent.at.value))
        return _finite(best.at.value), best.alpha

    def show(self, c: Array) -> Array:
        """The correlation of κ."""
        c = np.asarray(c, dtype=float)
        if self._kind == "unstructured":
            return np.tanh(c)
        rho = correlation_matrices(c.reshape(-1, 1), self._s, self._kind)[:, 1, 0].reshape(c.shape)
        ends = np.where(c > 0, 1.0, -1.0 / (self._s - 1))
        return np.where(np.isinf(c), ends, rho)

    def hide(self, value: Array) -> Array:
        """The κ of a correlation, kept from its border."""
        value = np.asarray(value, dtype=float)
        lowest = -1.0 if self._kind == "unstructured" else -1.0 / (self._s - 1)
        with np.errstate(invalid="ignore"):
            inside = np.clip(value, lowest + 1e-10, 1 - 1e-10)
        kappa = [
            kappa_of(float(rho), self._s, self._kind) if math.isfinite(rho) else math.nan
            for rho in np.atleast_1d(inside)
        ]
        return np.reshape(kappa, value.shape)


def _within(kappa: float) -> float:
    return min(max(kappa, -_FURTHEST), _FURTHEST)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _sorted(term: ScaleTerm, order: list[int]) -> ScaleTerm:
    """The term with its effects in another order."""
    effects = tuple(term.effects[k] for k in order)
    return replace(term, effects=effects, slopes=term.slopes[:, order], Z=term.Z[:, order])
