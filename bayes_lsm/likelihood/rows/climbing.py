"""Climbs of independent effects from many starts, compiled.

Import this module inside the functions that need it: it loads numba.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from bayes_lsm.arrays import Array, Index, Mask
from bayes_lsm.design.coordinates import unit_steps
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.protocol import Climbs
from bayes_lsm.likelihood.rows import ascent
from bayes_lsm.likelihood.rows.ascent import Summits
from bayes_lsm.likelihood.rows.kernels import Problem
from bayes_lsm.specification import Method

# Predicted gain, relative to the log-likelihood, below which nothing is left to climb.
_TOLERANCE = 1e-15
# Starts times studies from which on it pays to climb in parallel.
_MANY = 5_000
# So many location matrices are remembered, with no more studies than this.
_REMEMBERED, _MANY_STUDIES = 16, 3_000


def problem_of(
    y: Array,
    v: Array,
    X: Array,
    columns: Array,
    method: Method,
    *,
    offset: Array | None = None,
    identity: bool = False,
) -> Problem:
    """What the compiled loops climb; `columns` (q, n) are those of Z in some coordinates."""
    return Problem(
        np.ascontiguousarray(y),
        np.ascontiguousarray(v),
        np.ascontiguousarray(X.T),
        np.ascontiguousarray(columns),
        np.empty(0) if offset is None else np.ascontiguousarray(offset),
        np.empty(0, dtype=bool),
        identity,
        method == "REML",
    )


def constant_of(X: Array, method: Method) -> float:
    """What the compiled loops leave out of the log-likelihood."""
    n, p = X.shape
    if method == "ML":
        return float(-0.5 * n * math.log(2 * math.pi))
    return float(-0.5 * (n - p) * math.log(2 * math.pi) + _log_volume(X))


def _log_volume(X: Array) -> float:
    """½ ln |X'X|, kept for the next search if there are not too many studies."""
    if len(X) > _MANY_STUDIES:
        return _measure(X)
    return _remembered_volume(X.shape, X.tobytes())


@lru_cache(maxsize=_REMEMBERED)
def _remembered_volume(shape: tuple[int, int], numbers: bytes) -> float:
    return _measure(np.frombuffer(numbers).reshape(shape))


def _measure(X: Array) -> float:
    return float(np.sum(np.log(np.abs(np.diag(np.linalg.qr(X, mode="r"))))))


@lru_cache(maxsize=64)
def no_summits(p: int, q: int) -> Summits:
    """Where nothing is known."""
    found: Summits = ascent.allocate(0, p, q)
    return found


def climb(
    starts: Array, problem: Problem, *, early: float = _TOLERANCE, known: Summits | None = None
) -> tuple[Summits, Index]:
    """Climb from each of some coefficients (m, q), in parallel where that pays.

    Where the step was first below `early` is `Summits.ordinary`. With summits that are `known`,
    those that lead there are cut short; it returns these, followed by what is new, and where in it
    each start leads.
    """
    starts = np.ascontiguousarray(starts)
    m, distinct = len(starts), known is not None
    known = no_summits(len(problem.X), len(problem.Z)) if known is None else known
    if m * len(problem.y) <= _MANY:
        found: tuple[Summits, Index] = ascent.climb(
            starts, problem, _TOLERANCE, early, known, distinct
        )
        return found
    new = ascent.climb_parallel(starts, problem, _TOLERANCE, early)
    if not len(known.value):
        return new, np.arange(m)
    both = Summits(*map(np.concatenate, zip(known, new, strict=True)))
    return both, len(known.value) + np.arange(m)


class Climber:
    """Climbs of one design with the same coefficients held (q,), wherever they are held."""

    def __init__(self, design: Design, method: Method, held: Mask) -> None:
        self._held, self._free = np.flatnonzero(held), np.flatnonzero(~held)
        self._Z = np.ascontiguousarray(design.Z[:, self._held])
        self._back = unit_steps(design.without(scale=self._held.tolist()))
        self._forth = np.linalg.inv(self._back)
        columns = (design.Z[:, self._free] @ self._back).T
        identity = design.specification.link == "identity"
        self._problem = problem_of(design.y, design.v, design.X, columns, method, identity=identity)
        self._constant = constant_of(design.X, method)

    def climb(self, starts: Array) -> Climbs:
        """Where climbs from each of some α (m, q) end; see `Likelihood.climb`."""
        m, q = starts.shape
        problem = self._problem
        if len(self._held):
            problem = problem._replace(offset=self._Z @ starts[0, self._held])
        found, _ = climb(starts[:, self._free] @ self._forth.T, problem)
        alpha, hessian = starts.astype(float), np.tile(-np.eye(q), (m, 1, 1))
        alpha[:, self._free] = found.alpha @ self._back.T
        inside = np.ix_(np.arange(m), self._free, self._free)
        hessian[inside] = self._forth.T @ found.hessian @ self._forth
        value = np.where(np.isnan(found.value), -np.inf, found.value + self._constant)
        return Climbs(alpha, value, hessian, found.beta, found.covariance, found.converged)
