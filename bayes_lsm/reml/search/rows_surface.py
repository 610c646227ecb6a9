"""The surface of independent effects: compiled climbs from many starts at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from bayes_lsm.arrays import Array, Index
from bayes_lsm.likelihood.rows.ascent import Summits, first_starts
from bayes_lsm.likelihood.rows.climbing import climb, constant_of, no_summits, problem_of
from bayes_lsm.likelihood.rows.kernels import evaluate, workspace
from bayes_lsm.reml.search.geometry import MANY_STUDIES, geometry_of, steep_slopes
from bayes_lsm.reml.search.surface import Effort, Point, Surface
from bayes_lsm.specification import Method

# Predicted gain, relative to |ℓ|, below which an ordinary optimiser stops: the default of nlminb,
# that of metafor.
_ORDINARY = 1e-10
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
    """The log-likelihood of ln τ² (or with the identity link τ²) = offset + Zα, profiled over β."""

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
        self.geometry = geometry_of(Z)
        self._lie_in(None, self.geometry.coordinates)
        self.problem = problem_of(y, v, X, self.columns, method, offset=offset, identity=identity)
        self.offset = np.asarray(self.problem.offset)
        self.constant = constant_of(X, method)
        self.effort, self._kept = _effort(*Z.shape)
        self._reached = no_summits(X.shape[1], Z.shape[1])

    def _prepare(self) -> None:
        zero = np.empty(0, dtype=bool) if self.limit is None else self.limit.zero
        self.problem = self.problem._replace(Z=self.columns, zero=zero)

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
        q = len(self.columns)
        if not q:
            return np.zeros((1, 0))
        slopes = steep_slopes(q, _SLOPES, _OBLIQUE)
        known = np.array(given).reshape(-1, q)
        constant = self.geometry.constant
        return np.asarray(
            first_starts(self.problem, known, slopes, constant, _OUTLIERS, self._kept)
        )

    def climb(self, starts: Array) -> list[Point]:
        return self._points(climb(starts, self.problem, early=_ORDINARY)[0])

    def reach(self, starts: Array) -> tuple[list[Point], Index]:
        known = self._reached
        self._reached, leads_to = climb(starts, self.problem, early=_ORDINARY, known=known)
        return self._points(self._reached, len(known.value)), leads_to

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
        n, p, q = len(self.problem.y), len(self.problem.X), len(self.problem.Z)
        score = np.empty(q)
        value = evaluate(rotated, self.problem, workspace(n, p, q), score, np.empty((q, q)))
        return value + self.constant, score

    def climb_along(self, rotated: Array, A: Array, b: Array) -> Point | None:
        """Climb from a point along A a + b = 0, all in the surface's coordinates.

        None where the climb leads to where the likelihood does not exist.
        """
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
        found, _ = climb(np.zeros((1, along.shape[1])), problem)
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
