"""Safeguarded Newton ascent on a log-likelihood surface that may be flat, ridged or unbounded.

Where the surface is not concave the Hessian's eigenvalues are reflected, so every step climbs; a
step changes no study's ln τ² by more than `_LONGEST_STEP`, unless its τ² is negligible before and
after. On a tail that flattens exponentially (a coefficient on its way to infinity) Newton steps
have length one in ln τ², so the ascent walks out until the tail is flat to rounding, and what is
left there is plain to see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bayes_lsm.likelihood.independent import Evaluation

Array = npt.NDArray[np.float64]

_LONGEST_STEP = 4.0
_LARGEST_ITERATIONS = 500
# ln(τ²/v) below which a study's τ² changes no digit of the log-likelihood.
_NEGLIGIBLE = -30.0
# Predicted gains, relative to |ℓ|, below which nothing is left to climb. The ordinary value is the
# default of nlminb, the optimiser of metafor: where it would have stopped.
_TOLERANCE = 1e-15
_ORDINARY_TOLERANCE = 1e-10
# Relative gain that no step could realise, and yet so small that the climb has succeeded.
_STUCK = 1e-9
_FLATTEST_CURVATURE = 1e-14
# Upward curvature, in (ln τ²)⁻², that makes a stationary point a saddle or a minimum, not rounding.
_SADDLE = 1e-6


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


def ascend(evaluate: Callable[[Array], Evaluation], start: Array, Z: Array, v: Array) -> Ascent:
    """Climb from `start` (q,) to a maximum.

    `Z` (n, q) and the sampling variances `v` (n,) limit the length of the steps; the columns of Z
    should be about orthonormal, times √n.
    """
    alpha, here = start, evaluate(start)
    floor = np.log(v) + _NEGLIGIBLE
    ordinary: Array | None = None
    for iteration in range(_LARGEST_ITERATIONS):
        step, gain = _newton_step(here)
        size = max(1.0, abs(here.value))
        if ordinary is None and gain < _ORDINARY_TOLERANCE * size:
            ordinary = alpha
        accepted = None
        if gain >= _TOLERANCE * size:
            step = step * _allowed(Z @ alpha, Z @ step, floor)
            accepted = _backtrack(evaluate, alpha, here, step)
        if accepted is None:
            # At the level of rounding, on a saddle, or stuck.
            accepted = _off_saddle(evaluate, alpha, here)
        if accepted is None:
            end = alpha if ordinary is None else ordinary
            return Ascent(alpha, here, end, gain < _STUCK * size, iteration)
        alpha, here = accepted
    return Ascent(alpha, here, alpha if ordinary is None else ordinary, False, _LARGEST_ITERATIONS)


def _newton_step(here: Evaluation) -> tuple[Array, float]:
    """The ascent step, and the gain that its quadratic model predicts."""
    if here.score.size == 0:
        return here.score, 0.0
    values, vectors = np.linalg.eigh(-here.hessian)
    slopes = vectors.T @ here.score
    curvature = np.maximum(np.abs(values), _FLATTEST_CURVATURE)
    return vectors @ (slopes / curvature), float(0.5 * np.sum(slopes**2 / curvature))


def _allowed(log_tau2: Array, change: Array, floor: Array) -> float:
    """How much of a change (n,) of ln τ² (n,) may be made at once, at most 1."""
    room = np.maximum(floor - log_tau2, 0.0) + _LONGEST_STEP
    counts = (log_tau2 > floor) | (change > 0)
    return float(1.0 / np.max(np.abs(change[counts]) / room[counts], initial=1.0))


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


def _off_saddle(
    evaluate: Callable[[Array], Evaluation], alpha: Array, here: Evaluation
) -> tuple[Array, Evaluation] | None:
    """A higher point along the direction that curves upwards most, if there is one."""
    if here.score.size == 0:
        return None
    values, vectors = np.linalg.eigh(here.hessian)
    if values[-1] < _SADDLE:
        return None
    steps = [sign * length * vectors[:, -1] for length in (1.0, 0.1, 0.01) for sign in (1.0, -1.0)]
    for step in steps:
        there = evaluate(alpha + step)
        expected = 0.1 * float(step @ here.hessian @ step)
        if np.isfinite(there.value) and there.value > here.value + expected:
            return alpha + step, there
    return None
