"""One log-likelihood as a function of α: inside, or at a limit at infinity.

A `Surface` climbs from any number of starts at once, in coordinates in which the scale moderators
are orthonormal, so that neither their units nor their means change the path. A `Point` is where a
climb ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bayes_lsm.links import tau2_from_log
from bayes_lsm.reml.divergence import Limit
from bayes_lsm.reml.search.geometry import Coordinates, Face, geometry_of, log_volume
from bayes_lsm.specification import Method

if TYPE_CHECKING:
    from bayes_lsm.likelihood.rows.ascent import Summits

Array = npt.NDArray[np.float64]

# Predicted gains, relative to |ℓ|, below which nothing is left to climb. The ordinary value is the
# default of nlminb, the optimiser of metafor: where it would have stopped.
_TOLERANCE = 1e-15
_ORDINARY_TOLERANCE = 1e-10
# Information on a combination of ln τ² (SE 10,000) below which there is none.
_NO_INFORMATION = 1e-8
# Starts times studies from which on it pays to climb in parallel.
_MANY = 5_000


@dataclass(frozen=True, eq=False)
class Point:
    """Where a climb ended, inside or at a limit.

    Attributes
    ----------
    surface : Surface
    rotated, ordinary : ndarray
        α, and where an optimiser with an ordinary tolerance would have stopped, in the surface's
        coordinates.
    hessian : ndarray
        In the same coordinates.
    value : float
        The log-likelihood.
    beta : ndarray, shape (p,)
    vcov_location : ndarray, shape (p, p)
    converged : bool
    """

    surface: Surface
    rotated: Array
    ordinary: Array
    hessian: Array
    value: float
    beta: Array
    vcov_location: Array
    converged: bool

    @property
    def limit(self) -> Limit | None:
        """The limit that was climbed, or None inside."""
        return self.surface.limit

    @property
    def alpha(self) -> Array:
        """Coefficients of all columns of Z, or of those kept at the limit."""
        return self.surface.back @ self.rotated

    @property
    def ordinary_alpha(self) -> Array:
        """Where an optimiser with an ordinary tolerance would have stopped."""
        return self.surface.back @ self.ordinary

    @cached_property
    def tau2(self) -> Array:
        """τ² of each study, shape (n,)."""
        return self.surface.tau2(self.rotated)

    @property
    def covariance(self) -> Array:
        """Of `alpha`: the inverse of −H; nan for coefficients without information."""
        covariance, lost = self.covariance_across, self.blind.any(axis=1)
        covariance[lost, :] = covariance[:, lost] = np.nan
        return covariance

    @property
    def covariance_across(self) -> Array:
        """Of `alpha` across the directions without information, which it leaves out."""
        directions, values, informed = self._axes
        known = directions[:, informed]
        return np.asarray(known / values[informed] @ known.T)

    @property
    def blind(self) -> Array:
        """Directions of `alpha` (q, b) in which the likelihood is flat."""
        directions, _, informed = self._axes
        flat = directions[:, ~informed]
        size = np.linalg.norm(directions, axis=1, keepdims=True)
        return np.where(np.abs(flat) > 1e-6 * size, flat, 0.0)

    @cached_property
    def _axes(self) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
        values, vectors = np.linalg.eigh(-self.hessian)
        return self.surface.back @ vectors, values, values > _NO_INFORMATION


class Surface:
    """The log-likelihood of ln τ² (or τ²) = offset + Zα, profiled over β.

    Parameters
    ----------
    y, v : ndarray, shape (n,)
    X : ndarray, shape (n, p)
    Z : ndarray, shape (n, q)
    method : {"REML", "ML"}
    limit : Limit, optional
        Some studies have τ² = 0, and only some columns of Z count.
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
        limit: Limit | None = None,
        offset: Array | None = None,
        identity: bool = False,
    ) -> None:
        from bayes_lsm.likelihood.rows.kernels import Problem

        n, p = X.shape
        reml = method == "REML"
        self.geometry = geometry_of(Z)
        self.limit = limit
        coordinates = self.geometry.coordinates
        if limit is not None:
            coordinates = self.geometry.face_of(limit).coordinates
        self._lie_in(coordinates)
        self.problem = Problem(
            np.ascontiguousarray(y),
            np.ascontiguousarray(v),
            np.ascontiguousarray(X.T),
            coordinates.columns,
            np.empty(0) if offset is None else np.ascontiguousarray(offset),
            np.empty(0, dtype=bool) if limit is None else limit.zero,
            identity,
            reml,
        )
        self.constant = -0.5 * (n - p * reml) * math.log(2 * math.pi)
        if reml:
            self.constant += log_volume(X)

    def _lie_in(self, coordinates: Coordinates) -> None:
        self.forth, self.back = coordinates.forth, coordinates.back

    def at(self, face: Face) -> Surface:
        """The surface of a limit of this one."""
        there = object.__new__(Surface)
        there.__dict__.update(self.__dict__)
        there.limit = face.limit
        there._lie_in(face.coordinates)
        there.problem = self.problem._replace(Z=face.coordinates.columns, zero=face.limit.zero)
        return there

    def climb(self, starts: Sequence[Array]) -> list[Point]:
        """Climb from each of some α; one point for each."""
        if not len(starts):
            return []
        return self.climb_rotated(np.array(starts) @ self.forth.T)

    def climb_rotated(self, starts: Array) -> list[Point]:
        """Climb from each of some coefficients (m, q) in the surface's coordinates."""
        from bayes_lsm.likelihood.rows import ascent

        starts = np.ascontiguousarray(starts)
        if starts.shape[0] * len(self.problem.y) > _MANY:
            return self.points(
                ascent.climb_parallel(starts, self.problem, _TOLERANCE, _ORDINARY_TOLERANCE)
            )
        found, _ = ascent.climb(
            starts, self.problem, _TOLERANCE, _ORDINARY_TOLERANCE, self._nothing(), False
        )
        return self.points(found)

    def climb_distinct(
        self, starts: Array, known: Summits | None = None
    ) -> tuple[Summits, npt.NDArray[np.intp]]:
        """Climb from some coefficients (m, q) in the surface's coordinates, and reach each summit
        once.

        Returns what was `known`, followed by what is new, and where in it each start leads.
        """
        from bayes_lsm.likelihood.rows import ascent

        known = self._nothing() if known is None else known
        starts = np.ascontiguousarray(starts)
        if starts.shape[0] * len(self.problem.y) > _MANY:
            found = ascent.climb_parallel(starts, self.problem, _TOLERANCE, _ORDINARY_TOLERANCE)
            reached = ascent.Summits(*map(np.concatenate, zip(known, found, strict=True)))
            return reached, len(known.value) + np.arange(len(starts))
        reached, leads_to = ascent.climb(
            starts, self.problem, _TOLERANCE, _ORDINARY_TOLERANCE, known, True
        )
        return reached, leads_to

    def _nothing(self) -> Summits:
        return _no_summits(len(self.problem.X), len(self.problem.Z))

    def points(self, found: Summits, begin: int = 0) -> list[Point]:
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

    def first_starts(self, given: Array, slopes: Array, *, pivots: int, kept: int) -> Array:
        """Where a search begins, in the surface's coordinates; see `ascent.first_starts`."""
        from bayes_lsm.likelihood.rows.ascent import first_starts

        constant = self.geometry.constant
        return np.asarray(first_starts(self.problem, given, slopes, constant, pivots, kept))

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

    def tau2(self, rotated: Array) -> Array:
        """τ² of each study (n,), at coefficients in the surface's coordinates."""
        eta = rotated @ self.problem.Z
        if len(self.problem.offset):
            eta = self.problem.offset + eta
        values = eta if self.problem.identity else tau2_from_log(eta)
        return values if self.limit is None else np.where(self.limit.zero, 0.0, values)


@lru_cache(maxsize=64)
def _no_summits(p: int, q: int) -> Summits:
    from bayes_lsm.likelihood.rows.ascent import allocate

    found: Summits = allocate(0, p, q)
    return found
