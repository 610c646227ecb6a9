"""Safeguarded Newton ascent on a log-likelihood surface that may be flat, ridged or unbounded.

Where the surface is not concave the Hessian's eigenvalues are reflected, so every step climbs; a
step changes no study's ln τ² by more than `_LONGEST_STEP`. On a tail that flattens exponentially
(a coefficient on its way to infinity) Newton steps have length one in ln τ², so the ascent walks
out until the tail is flat to rounding, and what is left there is plain to see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bayes_lsm.likelihood.independent import Evaluation

Array = npt.NDArray[np.float64]

_LONGEST_STEP = 4.0
_LARGEST_ITERATIONS = 200
# Predicted gains, relative to |ℓ|, below which nothing is left to climb. The ordinary value is the
# default of nlminb, the optimiser of metafor: where it would have stopped.
_TOLERANCE = 1e-15
_ORDINARY_TOLERANCE = 1e-10
_FLATTEST_CURVATURE = 1e-14


@dataclass(frozen=True, eq=False)
class Ascent:
    """Where an ascent ended.

    Attributes
    ----------
    alpha : ndarray, shape (q,)
    evaluation : Evaluation
        At `alpha`.
    ordinary : ndarray, shape (q,)
        Where an optimiser with an ordinary tolerance would have stopped.
    converged : bool
    iterations : int
    """

    alpha: Array
    evaluation: Evaluation
    ordinary: Array
    converged: bool
    iterations: int


def ascend(evaluate: Callable[[Array], Evaluation], start: Array, Z: Array) -> Ascent:
    """Climb from `start` (q,) to a stationary point; `Z` (n, q) limits the length of the steps."""
    alpha, here = start, evaluate(start)
    ordinary: Array | None = None
    for iteration in range(_LARGEST_ITERATIONS):
        step, gain = _newton_step(here)
        size = max(1.0, abs(here.value))
        if ordinary is None and gain < _ORDINARY_TOLERANCE * size:
            ordinary = alpha
        if gain < _TOLERANCE * size:
            return Ascent(alpha, here, _or(ordinary, alpha), True, iteration)
        longest = float(np.max(np.abs(Z @ step), initial=0.0))
        if longest > _LONGEST_STEP:
            step = step * (_LONGEST_STEP / longest)
        accepted = _backtrack(evaluate, alpha, here, step)
        if accepted is None:
            # No step climbs: at the level of rounding, or stuck.
            flat = gain < 1e-9 * size
            return Ascent(alpha, here, _or(ordinary, alpha), flat, iteration)
        alpha, here = accepted
    return Ascent(alpha, here, _or(ordinary, alpha), False, _LARGEST_ITERATIONS)


def _or(ordinary: Array | None, alpha: Array) -> Array:
    return alpha if ordinary is None else ordinary


def _newton_step(here: Evaluation) -> tuple[Array, float]:
    """The ascent step, and the gain that its quadratic model predicts."""
    if here.score.size == 0:
        return here.score, 0.0
    values, vectors = np.linalg.eigh(-here.hessian)
    slopes = vectors.T @ here.score
    curvature = np.maximum(np.abs(values), _FLATTEST_CURVATURE)
    return vectors @ (slopes / curvature), float(0.5 * np.sum(slopes**2 / curvature))


def _backtrack(
    evaluate: Callable[[Array], Evaluation], alpha: Array, here: Evaluation, step: Array
) -> tuple[Array, Evaluation] | None:
    slope = float(here.score @ step)
    for halving in range(30):
        length = 0.5**halving
        candidate = alpha + length * step
        there = evaluate(candidate)
        if np.isfinite(there.value) and there.value >= here.value + 1e-4 * length * slope:
            return candidate, there
    return None
