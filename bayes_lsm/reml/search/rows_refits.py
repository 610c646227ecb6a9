"""Refits of independent effects: compiled ascents of many sets at once, from a few starts each.

Where a maximum lies at infinity an ascent ends on the flat way there, at the supremum up to
rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bayes_lsm.arrays import Array, Index, Mask
from bayes_lsm.design.exchangeable import Exchangeable, PartName
from bayes_lsm.likelihood.rows.closed_form import estimate_location
from bayes_lsm.reml.divergence import Cone
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search.geometry import geometry_of
from bayes_lsm.reml.search.refits import Refits, Refitter, Shift, Starts, shifted
from bayes_lsm.reml.search.rows_surface import RowsSurface

if TYPE_CHECKING:
    from bayes_lsm.likelihood.rows.ascent import Summits
    from bayes_lsm.likelihood.rows.kernels import Problem


# Predicted gain, relative to the log-likelihood, at which an ascent ends: within 1e-6 of an SE.
_TOLERANCE = 1e-15
# Slopes of the extra starts, in ln τ² for each SD of a moderator.
_STEEP = 3.0
# τ²/v of a study whose τ² has gone to zero, when an ascent has ended on a flat tail.
_VANISHED = 1e-6


class RowsRefitter(Refitter):
    """Refits of independent effects; see `Refitter`."""

    def __init__(self, fit: Estimates) -> None:
        super().__init__(fit)
        design, (term,) = self._design, self._design.terms
        self._v, self._X, self._Z = design.v, design.X, term.Z[:, 0]
        self._offset = term.offsets[:, 0]
        offset = None if term.offset is None else self._offset
        self._surface = RowsSurface(design.y, self._v, self._X, self._Z, fit.method, offset=offset)
        self._rotated_Z = self._surface.rotated_Z
        self._is_scaled = fit.test == "knha"
        self._signs: dict[bytes, Mapping[int, float]] = {}

    @property
    def work(self) -> int:
        return len(self._v) * (12 + 4 * int(self._Z.shape[1]))

    def effects(self, Y: Array, near: Sequence[Array] = ()) -> Refits:
        best = climb_highest(
            self._effect_starts(Y, near), self._surface.problem, effects=np.ascontiguousarray(Y)
        )
        log_tau2 = best.alpha @ self._rotated_Z.T + self._offset
        gone = log_tau2 < np.log(_VANISHED * self._v)
        best = self._scale(best, Y, self._X, log_tau2)
        return self._refits(best, log_tau2, lambda i: self._where_to(gone[i]))

    def orders(
        self,
        what: Exchangeable,
        orders: Index,
        *,
        starts: Starts = "one",
        shift: Shift | None = None,
    ) -> Refits:
        rows, problem = what.rows(orders), self._surface.problem
        y, offset = self._design.y, self._offset
        if shift is not None:
            design = shifted(what, *shift).design
            y, offset = design.y, np.ascontiguousarray(design.terms[0].offsets[:, 0])
            problem = problem._replace(y=y, offset=offset)
        first = common_start(y, self._v, self._X, self._rotated_Z)
        first = first - self._rotated_Z.T @ offset / len(y)
        steps = _STEEP * np.eye(len(first))[1 if starts == "several" else len(first) :]
        places = [first, *(first + sign * step for step in steps for sign in (-1, 1))]
        best = climb_highest(places, problem, orders=rows, part=what.part)
        log_tau2 = best.alpha @ self._rotated_Z.T
        moved = np.arange(len(y))[None]
        if what.part == "scale":
            log_tau2, moved = np.take_along_axis(log_tau2, rows, axis=1), rows
        log_tau2 += offset
        gone = log_tau2 < np.log(_VANISHED * self._v)
        X = self._X[rows] if what.part == "location" else self._X
        best = self._scale(best, y, X, log_tau2)
        return self._refits(
            best, log_tau2, lambda i: _signs(Cone(self._Z[moved[i % len(moved)]]), gone[i])
        )

    def _scale(self, best: Summits, y: Array, X: Array, log_tau2: Array) -> Summits:
        """Knapp and Hartung's covariances of effects (n,) or (m, n), X (n, p) or (m, n, p)."""
        if not self._is_scaled:
            return best
        residuals = y - np.einsum("...ij,...j->...i", X, best.beta)
        square = np.sum(residuals**2 / (self._v + np.exp(log_tau2)), axis=1)
        factor = square / (len(self._v) - self._X.shape[1])
        return best._replace(covariance=best.covariance * factor[:, None, None])

    def _refits(
        self, best: Summits, log_tau2: Array, infinite: Callable[[int], Mapping[int, float]]
    ) -> Refits:
        return Refits(
            value=best.value + self._surface.constant,
            converged=best.converged & np.isfinite(best.value),
            beta=best.beta,
            vcov_location=best.covariance,
            rotated=best.alpha,
            information=-best.hessian,
            back=self._surface.back,
            places=np.arange(self._Z.shape[1]),
            log_tau2=log_tau2,
            correlations=np.empty((len(best.value), 0)),
            infinite=infinite,
        )

    def _effect_starts(self, Y: Array, near: Sequence[Array]) -> Iterator[Array]:
        """Starting points (m, q), or (q,) for all: moments, residuals, what is known, slopes."""
        v, n, Z, offset = self._v, len(self._v), self._rotated_Z, self._offset
        Q = estimate_location(v, v + np.mean(v), self._X).basis
        root = np.sqrt(v + np.mean(v))
        residuals = Y - (Y / root @ Q) @ Q.T * root
        spread = n / max(1, n - Q.shape[1]) * np.mean(residuals**2 - v, axis=1)
        common = np.log(np.maximum(spread, 0.05 * np.median(v)))
        level = np.mean(Z, axis=0)  # the coefficients that come nearest to ln τ² = 1
        shift = offset @ Z / n
        yield common[:, None] * level - shift
        yield (common - math.log(10.0))[:, None] * level - shift
        yield np.log(np.maximum(residuals**2 - v, 0.05 * v)) @ Z / n - shift
        for known in near:
            yield np.maximum(known, np.log(1e-3 * v)) @ Z / n - shift
        for j in range(1, Z.shape[1]):
            for slope in (-_STEEP, _STEEP):
                yield common[:, None] * level - shift + slope * np.eye(len(level))[j]

    def _where_to(self, gone: Mask) -> Mapping[int, float]:
        """Where coefficients go when these studies lose their τ²; found once for each such set."""
        key = gone.tobytes()
        if key not in self._signs:
            self._signs[key] = _signs(geometry_of(self._Z).cone, gone)
        return self._signs[key]


def _signs(cone: Cone, gone: Mask) -> Mapping[int, float]:
    limit = cone.limit(~gone)
    return {} if limit is None else cone.signs(limit.zero)[0]


def common_start(y: Array, v: Array, X: Array, Z: Array) -> Array:
    """Coefficients (q,) of one common τ², by moments; Z has orthogonal columns of mean square 1."""
    residuals = estimate_location(y, v + np.mean(v), X).residuals
    spread = len(y) / max(1, len(y) - X.shape[1]) * float(np.mean(residuals**2 - v))
    return np.asarray(math.log(max(spread, 0.05 * float(np.median(v)))) * np.mean(Z, axis=0))


def climb_highest(
    starts: Iterable[Array],
    problem: Problem,
    *,
    effects: Array | None = None,
    orders: Index | None = None,
    part: PartName = "scale",
) -> Summits:
    """The highest summit of each of m datasets that some start leads to; −inf without one.

    Starts (q,) for all datasets, or (m, q), are in the coordinates of the problem. `effects` (m, n)
    take the place of the problem's; `orders` (m, n) say which study's row of Z (or of X, for the
    location `part`) is to be where.
    """
    from bayes_lsm.likelihood.rows.ascent import climb_sets

    none = np.empty((0, len(problem.y)), dtype=np.intp)
    best: Summits | None = None
    for start in starts:
        found: Summits = climb_sets(
            np.atleast_2d(start),
            problem.y[None] if effects is None else effects,
            problem,
            orders if orders is not None and part == "location" else none,
            orders if orders is not None and part == "scale" else none,
            _TOLERANCE,
        )
        found.value[np.isnan(found.value)] = -np.inf
        if best is None:
            best = found
            continue
        higher = found.value > best.value + 1e-12
        for kept, new in zip(best, found, strict=True):
            kept[higher] = new[higher]
    if best is None:
        raise ValueError("there must be a start")
    return best
