"""Safeguarded Newton ascent of the criteria of `blocks`, compiled.

The climb is that of `kernels.ascend`; only the evaluation and the bound on a step are its own.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from bayes_lsm.likelihood.blocks.derivatives import evaluate_at
from bayes_lsm.likelihood.blocks.kernels import value_at
from bayes_lsm.likelihood.rows.newton import newton_step, upward

_LONGEST_STEP = 4.0
# Of Fisher's z of a correlation, where 1 is a great deal.
_LONGEST_TURN = 1.0
_LARGEST_ITERATIONS = 500
# Relative gain that no step could realise, and yet so small that the climb has succeeded.
_STUCK = 1e-9
# Upward curvature, in (ln τ²)⁻², that makes a stationary point a saddle or a minimum, not rounding.
_SADDLE = 1e-6


@njit(cache=True)
def _longest(step, start, index, value):
    """The largest change of any linear predictor."""
    longest = 0.0
    for c in range(len(start) - 1):
        change = 0.0
        for k in range(start[c], start[c + 1]):
            change += value[k] * step[index[k]]
        longest = max(longest, abs(change))
    return longest


@njit(cache=True)
def _allowed(step, layout):
    """How much of a step may be taken at once, at most 1."""
    parts = _longest(step, layout.z_start, layout.z_index, layout.z_value)
    singles = _longest(step, layout.single_z_start, layout.single_z_index, layout.single_z_value)
    most = max(1.0, max(parts, singles) / _LONGEST_STEP)
    for t in range(len(layout.correlation_kind)):
        for h in range(layout.correlation_count[t]):
            most = max(most, abs(step[layout.correlation_alpha[t] + h]) / _LONGEST_TURN)
    return 1.0 / most


@njit(cache=True)
def _climb(alpha, value, step, slope, length, criterion, there):
    """Halves the step until it climbs; returns the value there, nan where it never does."""
    layout, prior_root, prior_y, adjusted = criterion
    for _ in range(30):
        for j in range(len(alpha)):
            there[j] = alpha[j] + length * step[j]
        candidate = value_at(there, layout, prior_root, prior_y, adjusted)
        if candidate >= value + 1e-4 * length * slope:
            return candidate
        length *= 0.5
    return np.nan


@njit(cache=True)
def _leave_saddle(alpha, value, hessian, criterion, there):
    """A point above a saddle or a minimum; nan where it is neither."""
    layout, prior_root, prior_y, adjusted = criterion
    curvature, direction = upward(hessian)
    for trial in range(6):
        if curvature < _SADDLE:
            break
        length = (1.0, 0.1, 0.01)[trial // 2] * (1.0 - 2.0 * (trial % 2))
        for j in range(len(alpha)):
            there[j] = alpha[j] + length * direction[j]
        candidate = value_at(there, layout, prior_root, prior_y, adjusted)
        if candidate > value + 0.1 * length * length * curvature:
            return candidate
    return np.nan


@njit(cache=True)
def _hold(held, score, hessian):
    """Makes a summit of the coordinates that are held, so that no step moves them."""
    for j in range(len(held)):
        if held[j]:
            score[j] = 0.0
            hessian[j, :] = 0.0
            hessian[:, j] = 0.0
            hessian[j, j] = -1.0


@njit(cache=True)
def ascend_at(start, held, criterion, tolerance, out):
    """Safeguarded Newton ascent from `start`, written into `out`, a tuple of arrays:

    alpha (q,), score (q,), hessian (q, q), beta (p,) and covariance (p, p). `criterion` is
    (layout, prior_root, prior_y, adjusted). Coordinates that are held (q,) stay where they start;
    score and Hessian are 0 and −1 there. Returns the value without its constants, the number of
    iterations, and whether the predicted gain fell below `tolerance` · max(1, |ℓ|).
    """
    layout, prior_root, prior_y, adjusted = criterion
    alpha, score, hessian, beta, covariance = out
    q = len(start)
    step, there = np.empty(q), np.empty(q)
    alpha[:] = start
    gain = np.inf
    for iteration in range(_LARGEST_ITERATIONS):
        value = evaluate_at(
            alpha, layout, prior_root, prior_y, adjusted, score, hessian, beta, covariance
        )
        if q == 0 or not np.isfinite(value):
            return value, iteration, q == 0
        _hold(held, score, hessian)
        gain = newton_step(score, hessian, step)
        size = max(1.0, abs(value))
        candidate = np.nan
        if gain >= tolerance * size:
            slope = 0.0
            for j in range(q):
                slope += score[j] * step[j]
            length = _allowed(step, layout)
            candidate = _climb(alpha, value, step, slope, length, criterion, there)
        if math.isnan(candidate):
            candidate = _leave_saddle(alpha, value, hessian, criterion, there)
        if math.isnan(candidate):
            return value, iteration, gain < _STUCK * size
        alpha[:] = there
    # Rounding can keep it stepping on the spot; then there is nothing left to gain.
    value = evaluate_at(
        alpha, layout, prior_root, prior_y, adjusted, score, hessian, beta, covariance
    )
    _hold(held, score, hessian)
    return value, _LARGEST_ITERATIONS, gain < _STUCK * max(1.0, abs(value))
