"""Climbs of independent effects from many starts, compiled.

Import this module inside the functions that need it: it loads numba.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.coordinates import unit_steps
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.protocol import Climbs
from bayes_lsm.likelihood.rows import ascent
from bayes_lsm.likelihood.rows.kernels import Problem
from bayes_lsm.specification import Method

Array = npt.NDArray[np.float64]

# Predicted gain, relative to the log-likelihood, below which nothing is left to climb.
_TOLERANCE = 1e-15
# Starts times studies from which on it pays to climb in parallel.
_MANY = 5_000


def climb(
    design: Design, starts: Array, method: Method, held: npt.NDArray[np.bool_] | None = None
) -> Climbs:
    """Where climbs from each of some α (m, q) end; see `Likelihood.climb`."""
    (m, q), (n, p) = starts.shape, design.X.shape
    free = np.ones(q, dtype=bool) if held is None else ~held
    back = unit_steps(design.without(scale=np.flatnonzero(~free).tolist()))
    problem = Problem(
        np.ascontiguousarray(design.y),
        np.ascontiguousarray(design.v),
        np.ascontiguousarray(design.X.T),
        np.ascontiguousarray((design.Z[:, free] @ back).T),
        np.empty(0) if free.all() else design.Z[:, ~free] @ starts[0, ~free],
        np.empty(0, dtype=bool),
        design.specification.link == "identity",
        method == "REML",
    )
    begun = np.ascontiguousarray(np.linalg.solve(back, starts[:, free].T).T)
    if m * n > _MANY:
        found = ascent.climb_parallel(begun, problem, _TOLERANCE, _TOLERANCE)
    else:
        nothing = ascent.allocate(0, p, int(free.sum()))
        found, _ = ascent.climb(begun, problem, _TOLERANCE, _TOLERANCE, nothing, False)
    constant = -0.5 * n * math.log(2 * math.pi)
    if method == "REML":
        R = np.linalg.qr(design.X, mode="r")
        constant += 0.5 * p * math.log(2 * math.pi) + float(np.log(np.abs(np.diag(R))).sum())
    alpha, hessian = starts.astype(float), np.tile(-np.eye(q), (m, 1, 1))
    alpha[:, free] = found.alpha @ back.T
    forth = np.linalg.inv(back)
    hessian[np.ix_(np.arange(m), free, free)] = forth.T @ found.hessian @ forth
    value = np.nan_to_num(found.value, nan=-np.inf) + constant
    return Climbs(alpha, value, hessian, found.beta, found.covariance, found.converged)
