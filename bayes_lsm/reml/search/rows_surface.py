"""The surface of independent effects: compiled climbs from many starts at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bayes_lsm.reml.search.geometry import (
    MANY_STUDIES,
    geometry_of,
    log_volume,
    steep_slopes,
)
from bayes_lsm.reml.search.surface import Effort, Point, Surface
from bayes_lsm.specification import Method

if TYPE_CHECKING:
    from bayes_lsm.likelihood.rows.ascent import Summits

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# Predicted gains, relative to |ℓ|, below which nothing is left to climb. The ordinary value is the
# default of nlminb, the optimiser of metafor: where it would have stopped.
_TOLERANCE = 1e-15
_ORDINARY_TOLERANCE = 1e-10
# Starts times studies from which on it pays to climb in parallel.
_MANY = 5_000
# Outlying studies to go through, slopes in ln τ² for each SD of a moderator, and how many of the
# best of these starts are climbed from for each coefficient.
_OUTLIERS = 6
_SLOPES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_STEEP = 3
# Random starts for each coefficient.
_CLOUD = 6
# With more than one slope there is more room for peaks: that many times the random starts and the
# steep ones.
_MORE = 2
# With more than one slope, that many oblique directions for each coefficient.
_OBLIQUE = 12
_EVERY = 1_000_000


class RowsSurface(Surface):
    """The log-likelihood of ln τ² (or τ²) = offset + Zα, profiled over β.

    Parameters
    ----------
    y, v : ndarray, shape (n,)
    X : ndarray, shape (n, p)
    Z : ndarray, shape (n, q)
    method : {"REML", "ML"}
    offset : ndarray, shape (n,), optional
        What fixed coefficients contribute to ln τ².
    identity : bool, default False
        The identity link: τ² itself is offset + Zα.
    """

    def __init__(
        self,
        y: Array,
        v: Array,
        X: Array,
        Z: Array,
        method: Method,
        *,
        offset: Array | None = None,
        identity: bool = False,
    ) -> None:
        from bayes_lsm.likelihood.rows.kernels import Problem

        (n, p), q = X.shape, Z.shape[1]
        reml = method == "REML"
        self.geometry = geometry_of(Z)
        self._lie_in(None, self.geometry.coordinates)
        self.problem = Problem(
            np.ascontiguousarray(y),
            np.ascontiguousarray(v),
            np.ascontiguousarray(X.T),
            self.columns,
            np.empty(0) if offset is None else np.ascontiguousarray(offset),
            np.empty(0, dtype=bool),
            identity,
            reml,
        )
        self.constant = -0.5 * (n - p * reml) * math.log(2 * math.pi)
        if reml:
            self.constant += log_volume(X)
        self.effort, self._kept = _effort(n, q)
        self._reached = self._nothing()

    def _prepare(self) -> None:
        zero = np.empty(0, dtype=bool) if self.limit is None else self.limit.zero
        self.problem = self.problem._replace(Z=self.columns, zero=zero)

    @property
    def offset(self) -> Array:
        """What fixed coefficients contribute to ln τ², shape (n,), or empty."""
        return np.asarray(self.problem.offset)

    def sizes(self, tau2: Array) -> Array:
        """The sampling variances."""
        return np.asarray(self.problem.v)

    def tau2(self, rotated: Array) -> Array:
        """τ² of each study (n,), at coefficients in the surface's coordinates."""
        if self.problem.identity:
            return np.asarray(self.problem.offset + rotated @ self.columns)
        return super().tau2(rotated)

    def first_starts(self, given: Sequence[Array]) -> Array:
        """What was given, moments, residuals and the best of many slopes: see `ascent`."""
        from bayes_lsm.likelihood.rows.ascent import first_starts

        q = len(self.columns)
        slopes = steep_slopes(q, _SLOPES, _OBLIQUE)
        known = np.array(given).reshape(-1, q)
        constant = self.geometry.constant
        return np.asarray(
            first_starts(self.problem, known, slopes, constant, _OUTLIERS, self._kept)
        )

    def climb(self, starts: Array) -> list[Point]:
        """Climb from each of some coefficients (m, q) in the coordinates; one point for each."""
        return self._points(self._climb(starts, self._nothing(), distinct=False)[0])

    def reach(self, starts: Array) -> tuple[list[Point], Index]:
        """The same, but only what was not reached before; and to which each start leads."""
        known = self._reached
        self._reached, leads_to = self._climb(starts, known, distinct=True)
        return self._points(self._reached, len(known.value)), leads_to

    def _climb(self, starts: Array, known: Summits, *, distinct: bool) -> tuple[Summits, Index]:
        """What was known, followed by what is new, and where in it each start leads."""
        from bayes_lsm.likelihood.rows import ascent

        starts = np.ascontiguousarray(starts)
        m, limits = len(starts), (_TOLERANCE, _ORDINARY_TOLERANCE)
        if m * len(self.problem.y) <= _MANY:
            found: tuple[Summits, Index] = ascent.climb(
                starts, self.problem, *limits, known, distinct
            )
            return found
        new = ascent.climb_parallel(starts, self.problem, *limits)
        if not len(known.value):
            return new, np.arange(m)
        both = ascent.Summits(*map(np.concatenate, zip(known, new, strict=True)))
        return both, len(known.value) + np.arange(m)

    def _nothing(self) -> Summits:
        return _no_summits(len(self.problem.X), len(self.columns))

    def _points(self, found: Summits, begin: int = 0) -> list[Point]:
        """Summits as points, those from number `begin` on."""
        values = found.value.tolist()
        return [
            Point(
                self,
                found.alpha[i],
                found.ordinary[i],
                found.hessian[i],
                -math.inf if math.isnan(values[i]) else values[i] + self.constant,
                found.beta[i],
                found.covariance[i],
                bool(found.converged[i]),
            )
            for i in range(begin, len(values))
        ]

    @property
    def rotated_Z(self) -> Array:
        """Z in the surface's coordinates, shape (n, q)."""
        return np.asarray(self.problem.Z.T)

    def value_and_score(self, rotated: Array) -> tuple[float, Array]:
        """The log-likelihood and its score at coefficients in the surface's coordinates."""
        from bayes_lsm.likelihood.rows.kernels import evaluate, workspace

        n, p, q = len(self.problem.y), len(self.problem.X), len(self.problem.Z)
        score = np.empty(q)
        value = evaluate(rotated, self.problem, workspace(n, p, q), score, np.empty((q, q)))
        return value + self.constant, score

    def climb_along(self, rotated: Array, A: Array, b: Array) -> Point | None:
        """Climb from a point along A a + b = 0, all in the surface's coordinates.

        None where the climb leads to where the likelihood does not exist.
        """
        from bayes_lsm.likelihood.rows import ascent

        Z, shift = self.rotated_Z, self.problem.offset
        if len(A):
            here = rotated - np.linalg.pinv(A) @ (A @ rotated + b)
            along = np.linalg.svd(A)[2][np.linalg.matrix_rank(A) :].T
        else:
            here, along = rotated, np.eye(len(rotated))
        offset = Z @ here
        problem = self.problem._replace(
            Z=np.ascontiguousarray((Z @ along).T), offset=offset + shift if len(shift) else offset
        )
        q = along.shape[1]
        found, _ = ascent.climb(
            np.zeros((1, q)),
            problem,
            _TOLERANCE,
            _ORDINARY_TOLERANCE,
            _no_summits(len(problem.X), q),
            False,
        )
        if not math.isfinite(found.value[0]):
            return None
        there = here + along @ found.alpha[0]
        hessian = found.hessian[0]
        return Point(
            self,
            there,
            there,
            hessian if not len(A) else along @ hessian @ along.T,
            float(found.value[0]) + self.constant,
            found.beta[0],
            found.covariance[0],
            bool(found.converged[0]),
        )


@lru_cache(maxsize=64)
def _no_summits(p: int, q: int) -> Summits:
    from bayes_lsm.likelihood.rows.ascent import allocate

    found: Summits = allocate(0, p, q)
    return found


def _effort(n: int, q: int) -> tuple[Effort, int]:
    """What a search of n studies does, and how many steep starts it keeps."""
    many = q * (n <= MANY_STUDIES) * (_MORE if q > 2 else 1)
    return Effort(
        ordinary=5,
        cloud=_CLOUD * many,
        clouds=1,
        rounds=5,
        origins=0,
        returns=_EVERY,
        joined=6,
        corner_rows=12,
        equal=1e-10,
        floor=1e-3,
        least=1.0,
    ), _STEEP * many
