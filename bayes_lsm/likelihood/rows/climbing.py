"""Climbs of independent effects from many starts, compiled.

Import this module inside the functions that need it: it loads numba.
"""

from __future__ import annotations

import math

import numpy as np

from bayes_lsm.arrays import Array, Mask
from bayes_lsm.design.coordinates import unit_steps
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.protocol import Climbs
from bayes_lsm.likelihood.rows import ascent
from bayes_lsm.likelihood.rows.kernels import Problem
from bayes_lsm.specification import Method

# Predicted gain, relative to the log-likelihood, below which nothing is left to climb.
_TOLERANCE = 1e-15
# Starts times studies from which on it pays to climb in parallel.
_MANY = 5_000


class Climber:
    """Climbs of one design with the same coefficients held, wherever they are held.

    Parameters
    ----------
    design : Design
    method : {"REML", "ML"}
    held : ndarray of bool, shape (q,)
    """

    def __init__(self, design: Design, method: Method, held: Mask) -> None:
        n, p = design.X.shape
        self._held, self._free = np.flatnonzero(held), np.flatnonzero(~held)
        self._Z = np.ascontiguousarray(design.Z[:, self._held])
        self._back = unit_steps(design.without(scale=self._held.tolist()))
        self._forth = np.linalg.inv(self._back)
        self._problem = Problem(
            np.ascontiguousarray(design.y),
            np.ascontiguousarray(design.v),
            np.ascontiguousarray(design.X.T),
            np.ascontiguousarray((design.Z[:, self._free] @ self._back).T),
            np.empty(0),
            np.empty(0, dtype=bool),
            design.specification.link == "identity",
            method == "REML",
        )
        self._nothing = ascent.allocate(0, p, len(self._free))
        self._constant = -0.5 * n * math.log(2 * math.pi)
        if method == "REML":
            R = np.linalg.qr(design.X, mode="r")
            self._constant += 0.5 * p * math.log(2 * math.pi)
            self._constant += float(np.log(np.abs(np.diag(R))).sum())

    def climb(self, starts: Array) -> Climbs:
        """Where climbs from each of some α (m, q) end; see `Likelihood.climb`."""
        m, q = starts.shape
        problem = self._problem
        if len(self._held):
            problem = problem._replace(offset=self._Z @ starts[0, self._held])
        begun = np.ascontiguousarray(starts[:, self._free] @ self._forth.T)
        if m * len(problem.y) > _MANY:
            found = ascent.climb_parallel(begun, problem, _TOLERANCE, _TOLERANCE)
        else:
            found, _ = ascent.climb(begun, problem, _TOLERANCE, _TOLERANCE, self._nothing, False)
        alpha, hessian = starts.astype(float), np.tile(-np.eye(q), (m, 1, 1))
        alpha[:, self._free] = found.alpha @ self._back.T
        inside = np.ix_(np.arange(m), self._free, self._free)
        hessian[inside] = self._forth.T @ found.hessian @ self._forth
        value = np.where(np.isnan(found.value), -np.inf, found.value + self._constant)
        return Climbs(alpha, value, hessian, found.beta, found.covariance, found.converged)
