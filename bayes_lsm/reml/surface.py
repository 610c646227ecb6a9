"""One log-likelihood as a function of α: inside, or at a limit at infinity.

A `Surface` climbs from any number of starts at once, in coordinates in which the scale moderators
are orthonormal, so that neither their units nor their means change the path. A `Point` is where a
climb ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bayes_lsm.likelihood.independent import Method, tau2
from bayes_lsm.reml.divergence import Limit

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
        back = self.surface.back
        values, vectors = np.linalg.eigh(-self.hessian)
        informed = values > _NO_INFORMATION
        directions = back @ vectors
        covariance = directions[:, informed] / values[informed] @ directions[:, informed].T
        size = np.linalg.norm(directions, axis=1)
        blind = np.linalg.norm(directions[:, ~informed], axis=1) > 1e-6 * size
        covariance[blind, :] = covariance[:, blind] = np.nan
        return np.asarray(covariance)


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
        self.limit = limit
        free = np.ones(len(y), dtype=bool)
        if limit is not None:
            Z, free = Z[:, list(limit.kept)], ~limit.zero
        self._offset, self._identity = offset, identity
        self._free = free
        if Z.shape[1]:
            self.forth = np.linalg.qr(Z[free], mode="r") / math.sqrt(free.sum())
            self.back = np.linalg.solve(self.forth, np.eye(Z.shape[1]))
        else:
            self.forth = self.back = np.zeros((0, 0))
        self._Z = np.ascontiguousarray(Z @ self.back)
        n, p = X.shape
        reml = method == "REML"
        self.constant = -0.5 * (n - p * reml) * math.log(2 * math.pi)
        if reml:
            R = np.linalg.qr(X, mode="r")
            self.constant += float(np.sum(np.log(np.abs(np.diag(R)))))
        self._arguments = (
            np.ascontiguousarray(y),
            np.ascontiguousarray(v),
            np.ascontiguousarray(X),
            self._Z,
            np.empty(0) if offset is None else offset,
            np.empty(0, dtype=bool) if limit is None else limit.zero,
            identity,
            reml,
        )

    def climb(self, starts: Sequence[Array]) -> list[Point]:
        """Climb from each of some α."""
        from bayes_lsm.likelihood import kernels

        if not len(starts):
            return []
        rotated = np.ascontiguousarray(np.array(starts) @ self.forth.T)
        many = len(starts) * len(self._Z) > _MANY
        ascend = kernels.ascend_starts_parallel if many else kernels.ascend_starts
        found = ascend(rotated, *self._arguments, _TOLERANCE, _ORDINARY_TOLERANCE)
        values, converged, alpha, hessian, beta, covariance, ordinary = found
        values = np.where(np.isnan(values), -np.inf, values) + self.constant
        return [
            Point(
                self,
                alpha[i],
                ordinary[i],
                hessian[i],
                float(values[i]),
                beta[i],
                covariance[i],
                bool(converged[i]),
            )
            for i in range(len(values))
        ]

    def values(self, alphas: Array) -> Array:
        """The log-likelihood at each of some α (m, q); −inf where it cannot be computed."""
        from bayes_lsm.likelihood import kernels

        rotated = np.ascontiguousarray(alphas @ self.forth.T)
        many = len(alphas) * len(self._Z) > 20 * _MANY
        evaluate = kernels.log_likelihoods_parallel if many else kernels.log_likelihoods
        values = evaluate(rotated, *self._arguments)
        return np.asarray(np.where(np.isnan(values), -np.inf, values) + self.constant)

    def regress(self, eta: Array) -> Array:
        """The α whose linear predictor, offset included, is nearest to `eta` (n,); inside only."""
        wanted = eta if self._offset is None else eta - self._offset
        return np.asarray(self.back @ (self._Z.T @ wanted) / len(wanted))

    @property
    def rotated_Z(self) -> Array:
        """Z in the surface's coordinates, shape (n, q)."""
        return self._Z

    def value_and_score(self, rotated: Array) -> tuple[float, Array]:
        """The log-likelihood and its score at coefficients in the surface's coordinates."""
        from bayes_lsm.likelihood.kernels import evaluate

        q, p = self._Z.shape[1], self._arguments[2].shape[1]
        score = np.empty(q)
        value = evaluate(
            rotated, *self._arguments, score, np.empty((q, q)), np.empty(p), np.empty((p, p))
        )
        return value + self.constant, score

    def climb_along(self, rotated: Array, A: Array, b: Array) -> Point | None:
        """Climb from a point along A a + b = 0, all in the surface's coordinates.

        None where the climb leads to where the likelihood does not exist.
        """
        from bayes_lsm.likelihood.kernels import allocate, ascend

        y, v, X, Z, _, zero, identity, reml = self._arguments
        offset = np.zeros(len(y)) if self._offset is None else self._offset
        if len(A):
            here = rotated - np.linalg.pinv(A) @ (A @ rotated + b)
            along = np.linalg.svd(A)[2][np.linalg.matrix_rank(A) :].T
        else:
            here, along = rotated, np.eye(len(rotated))
        out = tuple(each[0] for each in allocate(1, X.shape[1], along.shape[1]))
        value, _, converged = ascend(
            np.zeros(along.shape[1]),
            y,
            v,
            X,
            np.ascontiguousarray(Z @ along),
            offset + Z @ here,
            zero,
            identity,
            reml,
            _TOLERANCE,
            _ORDINARY_TOLERANCE,
            out,
        )
        if not math.isfinite(value):
            return None
        alpha, hessian, beta, covariance, _ = out
        there = here + along @ alpha
        full = hessian if not len(A) else along @ hessian @ along.T
        return Point(
            self, there, there, full, value + self.constant, beta, covariance, bool(converged)
        )

    def tau2(self, rotated: Array) -> Array:
        """τ² of each study (n,), at coefficients in the surface's coordinates."""
        if self._offset is None:
            return tau2(rotated, self._Z, None if self.limit is None else ~self._free)
        eta = self._offset + self._Z @ rotated
        values = eta if self._identity else tau2(np.ones(1), eta[:, None])
        return np.where(self._free, values, 0.0)
