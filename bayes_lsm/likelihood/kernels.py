r"""The hot loops of `independent`, compiled: evaluation and Newton ascent for any p and q.

The formulas are those of `independent`, which the tests hold this module to; there they can be
read, here they run. All arrays are C-contiguous float64. η = offset + Zα is ln τ², or τ² itself
where `identity` says so; `zero` marks studies whose τ² is held at 0. An empty `offset` or `zero`
stands for none.

Compilation takes some seconds, once: numba keeps the result on disk. Import this module inside the
functions that need it, so that importing the package does not pay for numba.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from bayes_lsm.links import LARGEST_EXPONENT

_LONGEST_STEP = 4.0
_LARGEST_ITERATIONS = 500
# ln(τ²/v) below which a study's τ² changes no digit of the log-likelihood.
_NEGLIGIBLE = 1e-13
# Relative gain that no step could realise, and yet so small that the climb has succeeded.
_STUCK = 1e-9
_FLATTEST_CURVATURE = 1e-14
# Upward curvature, in (ln τ²)⁻², that makes a stationary point a saddle or a minimum, not rounding.
_SADDLE = 1e-6
# Sums may be reordered; infinities and nan keep their meaning.
_SUMS = {"reassoc", "contract"}


@njit(cache=True)
def cholesky(A, L):
    """L with A = LL', in place; False where A is not positive definite."""
    p = A.shape[0]
    for i in range(p):
        for j in range(i + 1):
            total = A[i, j]
            for k in range(j):
                total -= L[i, k] * L[j, k]
            if i == j:
                if not total > 0.0:
                    return False
                L[i, i] = math.sqrt(total)
            else:
                L[i, j] = total / L[j, j]
    return True


@njit(cache=True, fastmath=_SUMS)
def orthonormalise(Q, e, R, c):
    """Modified Gram–Schmidt on the rows of Q (p, n), in place; Q = R'Q_new, c = Q_new e.

    Leaves in `e` the residual. Unlike the normal equations it keeps its digits when sampling
    variances differ by many powers of ten. False where a row depends on those before it.
    """
    p, n = Q.shape
    for a in range(p):
        s = 0.0
        for i in range(n):
            s += Q[a, i] * Q[a, i]
        norm = math.sqrt(s)
        if not norm > 0.0:
            return False
        R[a, a] = norm
        for i in range(n):
            Q[a, i] /= norm
        for b in range(a + 1, p):
            s = 0.0
            for i in range(n):
                s += Q[a, i] * Q[b, i]
            R[a, b] = s
            for i in range(n):
                Q[b, i] -= s * Q[a, i]
        s = 0.0
        for i in range(n):
            s += Q[a, i] * e[i]
        c[a] = s
        for i in range(n):
            e[i] -= s * Q[a, i]
    return True


@njit(cache=True)
def solve_location(R, c, beta, covariance):
    """β = R⁻¹c and its covariance R⁻¹R⁻ᵀ."""
    p = len(c)
    inverse = np.zeros((p, p))
    for b in range(p):
        inverse[b, b] = 1.0 / R[b, b]
        for a in range(b - 1, -1, -1):
            s = 0.0
            for k in range(a + 1, b + 1):
                s += R[a, k] * inverse[k, b]
            inverse[a, b] = -s / R[a, a]
    for a in range(p):
        beta[a] = 0.0
        for k in range(a, p):
            beta[a] += inverse[a, k] * c[k]
        for b in range(a + 1):
            s = 0.0
            for k in range(a, p):
                s += inverse[a, k] * inverse[b, k]
            covariance[a, b] = covariance[b, a] = s


@njit(cache=True, fastmath=_SUMS)
def evaluate(alpha, y, v, X, Z, offset, zero, identity, reml, score, hessian, beta, covariance):
    """The log-likelihood without its constants, −½ [ Σ ln(v + τ²) + r'Wr (+ ln |X'WX| for REML) ].

    Fills score (q,), hessian (q, q), beta (p,) and its covariance (p, p). nan where X'WX is
    singular to rounding, or a total variance is not positive.
    """
    n, p = X.shape
    q = Z.shape[1]
    masked, shifted = zero.shape[0] > 0, offset.shape[0] > 0
    d, w, e = np.empty(n), np.empty(n), np.empty(n)
    Q = np.empty((p, n))
    total = 0.0
    product = 1.0
    for i in range(n):
        eta = offset[i] if shifted else 0.0
        for j in range(q):
            eta += Z[i, j] * alpha[j]
        if masked and zero[i]:
            d[i] = 0.0
        elif identity:
            d[i] = eta
        else:
            d[i] = math.exp(min(eta, LARGEST_EXPONENT))
        variance = v[i] + d[i]
        if not variance > 0.0:
            return np.nan
        # One logarithm for a few studies: their product, as long as it is far from overflow.
        product *= variance
        if not 1e-100 < product < 1e100:
            total += math.log(product)
            product = 1.0
        w[i] = 1.0 / variance
        root = math.sqrt(w[i])
        e[i] = root * y[i]
        for a in range(p):
            Q[a, i] = root * X[i, a]
    total += math.log(product)
    R, c = np.zeros((p, p)), np.empty(p)
    if not orthonormalise(Q, e, R, c):
        return np.nan
    solve_location(R, c, beta, covariance)
    score[:] = 0.0
    hessian[:] = 0.0
    g = np.zeros((q, p))
    M = np.zeros((q, p, p))
    for i in range(n):
        total += e[i] * e[i]
        # First and second derivative of τ² in η; kept at its cap, so that climbs come back.
        if masked and zero[i]:
            continue
        first = 1.0 if identity else d[i]
        second = 0.0 if identity else d[i]
        root = math.sqrt(w[i])
        u = root * e[i]  # = Py
        wd = w[i] * first
        trace = w[i]
        products = wd * wd
        if reml:
            h = 0.0
            for a in range(p):
                h += Q[a, i] * Q[a, i]
            trace -= w[i] * h
            products -= 2.0 * wd * wd * h
        excess = u * u - trace
        weight = 0.5 * second * excess + 0.5 * products - w[i] * (first * u) ** 2
        for j in range(q):
            z = Z[i, j]
            score[j] += 0.5 * first * excess * z
            for k in range(j + 1):
                hessian[j, k] += weight * z * Z[i, k]
            pull = first * u * root * z
            for a in range(p):
                g[j, a] += pull * Q[a, i]
            if reml:
                for a in range(p):
                    for b in range(a + 1):
                        M[j, a, b] += wd * z * Q[a, i] * Q[b, i]
    for j in range(q):
        for k in range(j + 1):
            s = 0.0
            for a in range(p):
                s += g[j, a] * g[k, a]
                if reml:
                    s += 0.5 * M[j, a, a] * M[k, a, a]
                    for b in range(a):
                        s += M[j, a, b] * M[k, a, b]
            hessian[j, k] += s
            hessian[k, j] = hessian[j, k]
    if reml:
        for a in range(p):
            total += 2.0 * math.log(R[a, a])
    return -0.5 * total


@njit(cache=True)
def newton_step(score, hessian, step):
    """Fills the ascent step and returns the gain that its quadratic model predicts.

    Where −H is not positive definite its eigenvalues are reflected, so the step climbs.
    """
    q = score.shape[0]
    L = np.zeros((q, q))
    if cholesky(-hessian, L):
        smallest = L[0, 0]
        for j in range(q):
            smallest = min(smallest, L[j, j])
        if smallest * smallest > 1e-8:
            gain = 0.0
            for j in range(q):
                s = score[j]
                for k in range(j):
                    s -= L[j, k] * step[k]
                step[j] = s / L[j, j]
                gain += 0.5 * step[j] * step[j]
            for j in range(q - 1, -1, -1):
                s = step[j]
                for k in range(j + 1, q):
                    s -= L[k, j] * step[k]
                step[j] = s / L[j, j]
            return gain
    values, vectors = np.linalg.eigh(-hessian)
    gain = 0.0
    step[:] = 0.0
    for j in range(q):
        slope = 0.0
        for k in range(q):
            slope += vectors[k, j] * score[k]
        curvature = max(abs(values[j]), _FLATTEST_CURVATURE)
        gain += 0.5 * slope * slope / curvature
        for k in range(q):
            step[k] += vectors[k, j] * slope / curvature
    return gain


@njit(cache=True)
def upward(hessian):
    """The largest eigenvalue of H, and its direction; −1 where all are negative."""
    q = hessian.shape[0]
    if cholesky(-hessian, np.zeros((q, q))):
        return -1.0, np.zeros(q)
    values, vectors = np.linalg.eigh(hessian)
    return values[-1], vectors[:, -1].copy()


@njit(cache=True)
def _allowed(alpha, step, v, Z, offset, zero, identity):
    """How much of a step may be taken at once, at most 1.

    It changes no study's ln τ² by more than `_LONGEST_STEP`, unless its τ² is negligible before and
    after.
    """
    if identity:
        return 1.0
    masked, shifted = zero.shape[0] > 0, offset.shape[0] > 0
    most = 1.0
    for i in range(Z.shape[0]):
        if masked and zero[i]:
            continue
        change = 0.0
        for j in range(Z.shape[1]):
            change += Z[i, j] * step[j]
        if abs(change) <= _LONGEST_STEP * most:
            continue
        eta = offset[i] if shifted else 0.0
        for j in range(Z.shape[1]):
            eta += Z[i, j] * alpha[j]
        room = math.log(_NEGLIGIBLE * v[i]) - eta  # positive: τ² is negligible now
        if room > 0.0 and change <= 0.0:
            continue
        most = max(most, abs(change) / (max(room, 0.0) + _LONGEST_STEP))
    return 1.0 / most


@njit(cache=True)
def ascend(start, y, v, X, Z, offset, zero, identity, reml, tolerance, early, out):
    """Safeguarded Newton ascent from `start`, written into `out`, a tuple of arrays:

    alpha (q,), hessian (q, q), beta (p,), covariance (p, p) and ordinary (q,). It stops where the
    predicted gain is below `tolerance` · max(1, |ℓ|). `ordinary` is the first point at which it was
    below `early` · max(1, |ℓ|): where an ordinary optimiser stops. Returns the log-likelihood
    without its constants, the number of iterations, and whether it converged.
    """
    alpha, hessian, beta, covariance, ordinary = out
    q = Z.shape[1]
    score, score_there = np.empty(q), np.empty(q)
    hessian_there, beta_there = np.empty_like(hessian), np.empty_like(beta)
    covariance_there = np.empty_like(covariance)
    step, there = np.empty(q), np.empty(q)
    alpha[:] = start
    ordinary[:] = start
    value = evaluate(
        alpha, y, v, X, Z, offset, zero, identity, reml, score, hessian, beta, covariance
    )
    if q == 0 or not np.isfinite(value):
        return value, 0, q == 0
    stopped, gain = False, np.inf
    for iteration in range(_LARGEST_ITERATIONS):
        gain = newton_step(score, hessian, step)
        size = max(1.0, abs(value))
        if not stopped:
            ordinary[:] = alpha
            stopped = gain < early * size
        climbed = False
        if gain >= tolerance * size:
            length = _allowed(alpha, step, v, Z, offset, zero, identity)
            slope = 0.0
            for j in range(q):
                slope += score[j] * step[j]
            for _ in range(30):
                for j in range(q):
                    there[j] = alpha[j] + length * step[j]
                candidate = evaluate(
                    there,
                    y,
                    v,
                    X,
                    Z,
                    offset,
                    zero,
                    identity,
                    reml,
                    score_there,
                    hessian_there,
                    beta_there,
                    covariance_there,
                )
                if candidate >= value + 1e-4 * length * slope:
                    climbed = True
                    break
                length *= 0.5
        if not climbed:
            # At the level of rounding, on a saddle, or stuck.
            curvature, direction = upward(hessian)
            for trial in range(6):
                if curvature < _SADDLE:
                    break
                length = (1.0, 0.1, 0.01)[trial // 2] * (1.0 - 2.0 * (trial % 2))
                for j in range(q):
                    there[j] = alpha[j] + length * direction[j]
                candidate = evaluate(
                    there,
                    y,
                    v,
                    X,
                    Z,
                    offset,
                    zero,
                    identity,
                    reml,
                    score_there,
                    hessian_there,
                    beta_there,
                    covariance_there,
                )
                if candidate > value + 0.1 * length * length * curvature:
                    climbed = True
                    break
        if not climbed:
            return value, iteration, gain < _STUCK * size
        alpha[:] = there
        value = candidate
        score[:], hessian[:] = score_there, hessian_there
        beta[:], covariance[:] = beta_there, covariance_there
    # Rounding can keep it stepping on the spot; then there is nothing left to gain.
    return value, _LARGEST_ITERATIONS, gain < _STUCK * max(1.0, abs(value))


@njit(cache=True)
def allocate(m, p, q):
    """Room for the results of m ascents: alpha, hessian, beta, covariance, ordinary."""
    return (
        np.empty((m, q)),
        np.empty((m, q, q)),
        np.empty((m, p)),
        np.empty((m, p, p)),
        np.empty((m, q)),
    )


def _log_likelihoods(alphas, y, v, X, Z, offset, zero, identity, reml):
    """The log-likelihood without its constants at each α (m, q)."""
    m, q = alphas.shape
    p = X.shape[1]
    values = np.empty(m)
    for i in prange(m):
        values[i] = evaluate(
            alphas[i],
            y,
            v,
            X,
            Z,
            offset,
            zero,
            identity,
            reml,
            np.empty(q),
            np.empty((q, q)),
            np.empty(p),
            np.empty((p, p)),
        )
    return values


def _ascend_starts(starts, y, v, X, Z, offset, zero, identity, reml, tolerance, early):
    """One ascent from each start (m, q).

    Returns values (m,), converged (m,), and the arrays of `allocate`.
    """
    m = starts.shape[0]
    values, converged = np.empty(m), np.empty(m, np.bool_)
    alpha, hessian, beta, covariance, ordinary = allocate(m, X.shape[1], Z.shape[1])
    for i in prange(m):
        out = (alpha[i], hessian[i], beta[i], covariance[i], ordinary[i])
        values[i], _, converged[i] = ascend(
            starts[i], y, v, X, Z, offset, zero, identity, reml, tolerance, early, out
        )
    return values, converged, alpha, hessian, beta, covariance, ordinary


# A parallel loop costs more to begin than a small problem takes: both kinds are compiled.
ascend_starts = njit(cache=True)(_ascend_starts)
ascend_starts_parallel = njit(cache=True, parallel=True)(_ascend_starts)
log_likelihoods = njit(cache=True)(_log_likelihoods)
log_likelihoods_parallel = njit(cache=True, parallel=True)(_log_likelihoods)


@njit(cache=True, parallel=True)
def ascend_permuted(start, y, v, X, Z, orders, in_scale, identity, reml, tolerance):
    """One ascent for each reordering (m, n) of the rows of Z (or, not `in_scale`, of X).

    Returns values (m,), converged (m,), alpha (m, q), hessian (m, q, q), beta (m, p) and its
    covariance (m, p, p).
    """
    m = orders.shape[0]
    values, converged = np.empty(m), np.empty(m, np.bool_)
    alpha, hessian, beta, covariance, ordinary = allocate(m, X.shape[1], Z.shape[1])
    none, nothing = np.empty(0), np.empty(0, np.bool_)
    for i in prange(m):
        X_i = X if in_scale else X[orders[i]]
        Z_i = Z[orders[i]] if in_scale else Z
        out = (alpha[i], hessian[i], beta[i], covariance[i], ordinary[i])
        values[i], _, converged[i] = ascend(
            start, y, v, X_i, Z_i, none, nothing, identity, reml, tolerance, tolerance, out
        )
    return values, converged, alpha, hessian, beta, covariance


@njit(cache=True, parallel=True)
def ascend_simulated(starts, Y, v, X, Z, offset, identity, reml, tolerance):
    """One ascent for each set of effects Y (m, n), from its own start (m, q).

    Returns the same as `ascend_permuted`.
    """
    m = Y.shape[0]
    values, converged = np.empty(m), np.empty(m, np.bool_)
    alpha, hessian, beta, covariance, ordinary = allocate(m, X.shape[1], Z.shape[1])
    nothing = np.empty(0, np.bool_)
    for i in prange(m):
        out = (alpha[i], hessian[i], beta[i], covariance[i], ordinary[i])
        values[i], _, converged[i] = ascend(
            starts[i], Y[i], v, X, Z, offset, nothing, identity, reml, tolerance, tolerance, out
        )
    return values, converged, alpha, hessian, beta, covariance
