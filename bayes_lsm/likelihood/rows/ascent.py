"""Newton ascents of the log-likelihood of `kernels`: one, from many starts, or of many datasets.

Import this module inside the functions that need it: it loads numba.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from bayes_lsm.likelihood.rows.kernels import (
    LEAN,
    SUMS,
    Problem,
    cholesky,
    evaluate,
    evaluate_value,
    locate,
    workspace,
)
from bayes_lsm.likelihood.rows.newton import reflected_step, step_by_factor

_LONGEST_STEP = 4.0
_LARGEST_ITERATIONS = 500
# ln(τ²/v) below which a study's τ² changes no digit of the log-likelihood.
_NEGLIGIBLE = 1e-13
# Relative gain that no step could realise, and yet so small that the climb has succeeded.
_STUCK = 1e-9
# Upward curvature, in (ln τ²)⁻², that makes a stationary point a saddle or a minimum, not rounding.
_SADDLE = 1e-6
# A climb is on the last steps to a known summit when the gain that it still expects is below this,
# its next step leads there up to this squared distance (in standard errors), and the value it
# expects is the summit's up to this.
_ARRIVING = 1e-3
# So many datasets are fitted with the same scratch memory.
_CHUNK = 16
_COMPILED = {"cache": True, "error_model": "numpy"}


class Summits(NamedTuple):
    """Where m ascents ended: the log-likelihood without its constants, α (m, q), and what is there.

    `ordinary` is the first point at which an ordinary optimiser would have stopped; `beta` is
    (m, p), and `covariance` (m, p, p) that of β̂.
    """

    value: Any
    converged: Any
    alpha: Any
    ordinary: Any
    hessian: Any
    beta: Any
    covariance: Any


class _Steps(NamedTuple):
    """Scratch memory of an ascent; what is `_there` belongs to the point that is tried."""

    alpha_there: Any
    score: Any
    score_there: Any
    hessian_there: Any
    step: Any
    information: Any
    L: Any


@njit(**_COMPILED)
def _steps(q):
    return _Steps(
        np.empty(q),
        np.empty(q),
        np.empty(q),
        np.empty((q, q)),
        np.empty(q),
        np.empty((q, q)),
        np.zeros((q, q)),
    )


@njit(**_COMPILED)
def allocate(m, p, q):
    """Room for the results of m ascents."""
    return Summits(
        np.empty(m),
        np.empty(m, np.bool_),
        np.empty((m, q)),
        np.empty((m, q)),
        np.empty((m, q, q)),
        np.empty((m, p)),
        np.empty((m, p, p)),
    )


@njit(**LEAN)
def _newton_step(hessian, steps):
    """Fills the ascent step; returns the gain that its quadratic model predicts.

    nan where −H is not positive definite, or hardly so.
    """
    information = steps.information
    q = steps.score.shape[0]
    for j in range(q):
        for k in range(q):
            information[j, k] = -hessian[j, k]
    if not cholesky(information, steps.L):
        return np.nan
    return step_by_factor(steps.L, steps.score, steps.step)


@njit(**SUMS)
def _allowed(alpha, step, problem, change):
    """How much of a step may be taken at once, at most 1.

    It changes no study's ln τ² by more than `_LONGEST_STEP`, unless its τ² is negligible before and
    after. `change` (n,) is scratch memory.
    """
    Z = problem.Z
    q, n = Z.shape
    for i in range(n):
        change[i] = 0.0
    for j in range(q):
        z = Z[j]
        for i in range(n):
            change[i] += step[j] * z[i]
    long = 0
    for i in range(n):
        long += abs(change[i]) > _LONGEST_STEP
    if not long:
        return 1.0
    masked, shifted = problem.zero.shape[0] > 0, problem.offset.shape[0] > 0
    most = 1.0
    for i in range(n):
        if abs(change[i]) <= _LONGEST_STEP * most or (masked and problem.zero[i]):
            continue
        eta = problem.offset[i] if shifted else 0.0
        for j in range(q):
            eta += Z[j, i] * alpha[j]
        room = math.log(_NEGLIGIBLE * problem.v[i]) - eta  # positive: τ² is negligible now
        if room > 0.0 and change[i] <= 0.0:
            continue
        most = max(most, abs(change[i]) / (max(room, 0.0) + _LONGEST_STEP))
    return 1.0 / most


@njit(**LEAN)
def _step_up(alpha, value, problem, work, steps):
    """Shorten the step until it climbs enough; returns the value there, nan where it never does."""
    q = alpha.shape[0]
    length = 1.0 if problem.identity else _allowed(alpha, steps.step, problem, work.e)
    slope = 0.0
    for j in range(q):
        slope += steps.score[j] * steps.step[j]
    there = steps.alpha_there
    for _ in range(30):
        for j in range(q):
            there[j] = alpha[j] + length * steps.step[j]
        candidate = evaluate(there, problem, work, steps.score_there, steps.hessian_there)
        if candidate >= value + 1e-4 * length * slope:
            return candidate
        length *= 0.5
    return np.nan


@njit(**_COMPILED)
def _leave_saddle(alpha, value, hessian, problem, work, steps):
    """Step along upward curvature; returns the value there, nan where nothing is higher."""
    q = alpha.shape[0]
    if cholesky(steps.information, steps.L):
        return np.nan
    values, vectors = np.linalg.eigh(hessian)
    curvature = values[-1]
    if curvature < _SADDLE:
        return np.nan
    there = steps.alpha_there
    for trial in range(6):
        length = (1.0, 0.1, 0.01)[trial // 2] * (1.0 - 2.0 * (trial % 2))
        for j in range(q):
            there[j] = alpha[j] + length * vectors[j, q - 1]
        candidate = evaluate(there, problem, work, steps.score_there, steps.hessian_there)
        if candidate > value + 0.1 * length * length * curvature:
            return candidate
    return np.nan


@njit(**LEAN)
def _arriving(alpha, value, gain, hessian, step, known, count):
    """The known summit to which the last steps of this climb lead; −1 if it is none of them."""
    q = alpha.shape[0]
    for i in range(count):
        if not abs(value + gain - known.value[i]) < _ARRIVING:
            continue
        distance = 0.0
        for j in range(q):
            for k in range(q):
                distance -= (
                    hessian[j, k]
                    * (alpha[j] + step[j] - known.alpha[i, j])
                    * (alpha[k] + step[k] - known.alpha[i, k])
                )
        if distance < _ARRIVING:
            return i
    return -1


@njit(**_COMPILED)
def ascend(start, problem, work, steps, tolerance, early, out, i, known, count):
    """Safeguarded Newton ascent from `start`, written into row i of `out`.

    It stops where the predicted gain is below `tolerance` · max(1, |ℓ|); an ordinary optimiser
    would have stopped where it was below `early` · max(1, |ℓ|). A climb that arrives at one of the
    first `count` of the `known` summits goes no further, and leaves `out` unfinished.

    Returns the number of that summit, or −1.
    """
    alpha, ordinary, hessian = out.alpha[i], out.ordinary[i], out.hessian[i]
    q = start.shape[0]
    for j in range(q):
        alpha[j] = ordinary[j] = start[j]
    value = evaluate(alpha, problem, work, steps.score, hessian)
    converged, stopped = q == 0, False
    if q > 0 and np.isfinite(value):
        for _ in range(_LARGEST_ITERATIONS):
            gain = _newton_step(hessian, steps)
            plain = not np.isnan(gain)
            if not plain:
                gain = reflected_step(steps.information, steps.score, steps.step)
            size = max(1.0, abs(value))
            # Rounding can keep it stepping on the spot; then there is nothing left to gain.
            converged = gain < _STUCK * size
            if not stopped:
                ordinary[:] = alpha
                stopped = gain < early * size
            if plain and count and gain < _ARRIVING:
                arrived = _arriving(alpha, value, gain, hessian, steps.step, known, count)
                if arrived >= 0:
                    return arrived
            there = np.nan
            if gain >= tolerance * size:
                there = _step_up(alpha, value, problem, work, steps)
            if np.isnan(there):
                # At the level of rounding, on a saddle, or stuck.
                there = _leave_saddle(alpha, value, hessian, problem, work, steps)
            if np.isnan(there):
                break
            value = there
            for j in range(q):
                alpha[j] = steps.alpha_there[j]
                steps.score[j] = steps.score_there[j]
                for k in range(q):
                    hessian[j, k] = steps.hessian_there[j, k]
    out.value[i], out.converged[i] = value, converged
    locate(alpha, problem, work, out.beta[i], out.covariance[i])
    return -1


@njit(**_COMPILED)
def _sizes(problem):
    return problem.X.shape[1], problem.X.shape[0], problem.Z.shape[0]


@njit(**_COMPILED)
def _take(summits, i, out, to):
    """Copy row i of some summits to another row of `out`."""
    out.value[to], out.converged[to] = summits.value[i], summits.converged[i]
    out.alpha[to], out.ordinary[to] = summits.alpha[i], summits.ordinary[i]
    out.hessian[to] = summits.hessian[i]
    out.beta[to], out.covariance[to] = summits.beta[i], summits.covariance[i]


@njit(**_COMPILED)
def climb(starts, problem, tolerance, early, known, distinct):
    """Ascents from each start (m, q), one after the other.

    With `distinct`, those that lead to a summit that is known or already reached are cut short.
    Returns the known summits and, after them, the new ones (each once, or nearly so: all that is
    certain is that they are no fewer), and to which of all these each start leads.
    """
    n, p, q = _sizes(problem)
    m, count = starts.shape[0], known.value.shape[0]
    out, work, steps = allocate(count + m, p, q), workspace(n, p, q), _steps(q)
    for i in range(count):
        _take(known, i, out, i)
    leads_to = np.empty(m, np.intp)
    for i in range(m):
        seen = count if distinct else 0
        arrived = ascend(starts[i], problem, work, steps, tolerance, early, out, count, out, seen)
        leads_to[i] = count if arrived < 0 else arrived
        count += arrived < 0
    reached = Summits(
        out.value[:count],
        out.converged[:count],
        out.alpha[:count],
        out.ordinary[:count],
        out.hessian[:count],
        out.beta[:count],
        out.covariance[:count],
    )
    return reached, leads_to


# Parallel loops take arrays from outside, but no named tuples: these are made again inside.
@njit(**_COMPILED, parallel=True)
def climb_parallel(starts, problem, tolerance, early):
    """Ascents from each start (m, q), side by side."""
    n, p, q = _sizes(problem)
    y, v, X, Z, offset, zero, identity, reml = problem
    value, converged, alpha, ordinary, hessian, beta, covariance = allocate(starts.shape[0], p, q)
    for i in prange(starts.shape[0]):
        out = Summits(value, converged, alpha, ordinary, hessian, beta, covariance)
        this = Problem(y, v, X, Z, offset, zero, identity, reml)
        ascend(starts[i], this, workspace(n, p, q), _steps(q), tolerance, early, out, i, out, 0)
    return Summits(value, converged, alpha, ordinary, hessian, beta, covariance)


@njit(**_COMPILED)
def _reorder(columns, orders, i):
    """Some columns (p, n) in the i-th of some orders (m, n); as they are if there are none."""
    if not orders.shape[0]:
        return columns
    found = np.empty_like(columns)
    for a in range(columns.shape[0]):
        for k in range(columns.shape[1]):
            found[a, k] = columns[a, orders[i, k]]
    return found


@njit(**_COMPILED)
def _row(rows, i):
    return rows[i] if rows.shape[0] > 1 else rows[0]


@njit(**_COMPILED, parallel=True)
def climb_sets(starts, Y, problem, location_orders, scale_orders, tolerance):
    """One ascent for each of m sets of effects (m, n), or of m reorderings of X or of Z.

    What is the same in all sets has one row: the start (q,), the effects (n,). Orders (m, n) say
    which study's row of X (p, n) or Z (q, n) is to be where; no rows for the order as it is.
    """
    n, p, q = _sizes(problem)
    _, v, X, Z, offset, zero, identity, reml = problem
    m = max(starts.shape[0], Y.shape[0], location_orders.shape[0], scale_orders.shape[0])
    value, converged, alpha, ordinary, hessian, beta, covariance = allocate(m, p, q)
    for chunk in prange((m + _CHUNK - 1) // _CHUNK):
        out = Summits(value, converged, alpha, ordinary, hessian, beta, covariance)
        work, steps = workspace(n, p, q), _steps(q)
        for i in range(_CHUNK * np.int64(chunk), min(_CHUNK * np.int64(chunk + 1), m)):
            X_i, Z_i = _reorder(X, location_orders, i), _reorder(Z, scale_orders, i)
            this = Problem(_row(Y, i), v, X_i, Z_i, offset, zero, identity, reml)
            ascend(_row(starts, i), this, work, steps, tolerance, tolerance, out, i, out, 0)
    return Summits(value, converged, alpha, ordinary, hessian, beta, covariance)


@njit(**_COMPILED)
def first_starts(problem, given, slopes, constant, pivots, kept):
    """Where a search begins, one α (q,) a row.

    The `given` starts; one common τ², by moments, and a tenth and ten times it; regressions of the
    residuals; and the highest `kept` of the `slopes` (s, q) through each of so many `pivots`, the
    studies with the largest residuals.

    `constant` is the α of ln τ² = 1, or 0 where there is none. Columns of Z are orthogonal with
    mean square 1.
    """
    n, p, q = _sizes(problem)
    v, Z = problem.v, problem.Z
    shifted = problem.offset.shape[0] > 0
    offset = problem.offset if shifted else np.zeros(n)
    squares = _squared_residuals(problem)
    spread = n / max(1, n - p) * (np.mean(squares) - np.mean(v))
    common = max(spread, 0.05 * np.median(v))
    starts = np.zeros((given.shape[0] + 5 + kept, q))
    starts[: given.shape[0]] = given
    row = given.shape[0]
    for factor in (1.0, 0.1, 10.0):
        for j in range(q):
            for i in range(n):
                starts[row, j] += Z[j, i] * (math.log(common * factor) - offset[i]) / n
        row += 1
    for floor in (0.5, 0.05):
        for i in range(n):
            wanted = math.log(max(squares[i] - v[i], floor * v[i])) - offset[i]
            for j in range(q):
                starts[row, j] += Z[j, i] * wanted / n
        row += 1
    if kept:
        s = slopes.shape[0]
        furthest = np.argsort(-squares / v)[:pivots]
        tried, values = np.empty((furthest.shape[0] * s, q)), np.empty(furthest.shape[0] * s)
        work, level = workspace(n, p, q), np.any(constant != 0.0)
        for k in range(furthest.shape[0]):
            i = furthest[k]
            peak = math.log(squares[i] + 1e-3 * v[i]) - offset[i]
            for t in range(s):
                reach = 0.0
                for j in range(q):
                    reach += slopes[t, j] * Z[j, i]
                # Without a level to shift it by, a slope passes through the pivot when stretched.
                stretch = 1.0 if level or k == 0 or abs(reach) < 1e-9 else peak / reach
                for j in range(q):
                    tried[k * s + t, j] = stretch * slopes[t, j] + (peak - reach) * constant[j]
                value = evaluate_value(tried[k * s + t], problem, work)
                values[k * s + t] = -np.inf if np.isnan(value) else value
        best = np.argsort(-values)[:kept]
        for k in best:
            starts[row] = tried[k]
            row += 1
    return starts[:row]


@njit(**_COMPILED)
def _squared_residuals(problem):
    """Of y, weighted by 1 / (v + mean v)."""
    n, p, _ = _sizes(problem)
    whole = Problem(
        problem.y,
        problem.v,
        problem.X,
        np.empty((0, n)),
        np.full(n, np.mean(problem.v)),
        np.empty(0, np.bool_),
        True,
        False,
    )
    work = workspace(n, p, 0)
    evaluate_value(np.empty(0), whole, work)
    return work.e**2
