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
_LARGEST_ITERATIONS = 200
_FLATTEST_CURVATURE = 1e-14


@njit(cache=True, fastmath=False)
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


@njit(cache=True)
def evaluate(alpha, y, v, X, Z, offset, zero, identity, reml, score, hessian, beta, covariance):
    """The log-likelihood without its constants, −½ [ Σ ln(v + τ²) + r'Wr (+ ln |X'WX| for REML) ].

    Fills score (q,), hessian (q, q), beta (p,) and its covariance (p, p). nan where X'WX is
    singular to rounding.
    """
    n, p = X.shape
    q = Z.shape[1]
    masked, shifted = zero.shape[0] > 0, offset.shape[0] > 0
    d = np.empty(n)
    w = np.empty(n)
    A = np.zeros((p, p))
    b = np.zeros(p)
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
        for a in range(p):
            wx = w[i] * X[i, a]
            b[a] += wx * y[i]
            for c in range(a + 1):
                A[a, c] += wx * X[i, c]
    total += math.log(product)
    L = np.zeros((p, p))
    if not cholesky(A, L):
        return np.nan
    inverse = np.zeros((p, p))  # L⁻¹, lower triangular
    for c in range(p):
        inverse[c, c] = 1.0 / L[c, c]
        for a in range(c + 1, p):
            s = 0.0
            for k in range(c, a):
                s -= L[a, k] * inverse[k, c]
            inverse[a, c] = s / L[a, a]
    for a in range(p):
        beta[a] = 0.0
    for k in range(p):
        s = 0.0
        for c in range(k + 1):
            s += inverse[k, c] * b[c]
        for a in range(k + 1):
            beta[a] += inverse[k, a] * s
    for a in range(p):
        for c in range(a + 1):
            s = 0.0
            for k in range(a, p):
                s += inverse[k, a] * inverse[k, c]
            covariance[a, c] = covariance[c, a] = s
    score[:] = 0.0
    hessian[:] = 0.0
    g = np.zeros((q, p))
    M = np.zeros((q, p, p))
    t = np.empty(p)
    for i in range(n):
        r = y[i]
        for a in range(p):
            r -= X[i, a] * beta[a]
        u = w[i] * r
        total += u * r
        # First and second derivative of τ² in η.
        first = 0.0 if masked and zero[i] else 1.0 if identity else d[i]
        second = 0.0 if identity else d[i]
        trace = w[i]
        products = (w[i] * first) ** 2
        for k in range(p):  # t = L⁻¹x, so h = x'(X'WX)⁻¹x = |t|²
            s = 0.0
            for c in range(k + 1):
                s += inverse[k, c] * X[i, c]
            t[k] = s
        if reml:
            h = 0.0
            for k in range(p):
                h += t[k] * t[k]
            trace -= w[i] * w[i] * h
            products -= 2.0 * w[i] ** 3 * first**2 * h
        excess = u * u - trace
        weight = 0.5 * second * excess + 0.5 * products - w[i] * (first * u) ** 2
        wd = w[i] * first
        for j in range(q):
            z = Z[i, j]
            score[j] += 0.5 * first * excess * z
            for k in range(j + 1):
                hessian[j, k] += weight * z * Z[i, k]
            for a in range(p):
                g[j, a] += wd * u * z * t[a]
            if reml:
                scale = w[i] * wd * z
                for a in range(p):
                    for c in range(a + 1):
                        M[j, a, c] += scale * t[a] * t[c]
    for j in range(q):
        for k in range(j + 1):
            s = 0.0
            for a in range(p):
                s += g[j, a] * g[k, a]
                if reml:
                    s += 0.5 * M[j, a, a] * M[k, a, a]
                    for c in range(a):
                        s += M[j, a, c] * M[k, a, c]
            hessian[j, k] += s
            hessian[k, j] = hessian[j, k]
    if reml:
        for a in range(p):
            total += 2.0 * math.log(L[a, a])
    return -0.5 * total


@njit(cache=True)
def _newton_step(score, hessian, step):
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
def ascend(start, y, v, X, Z, offset, zero, identity, reml, tolerance, early, out):
    """Safeguarded Newton ascent from `start`, written into `out`, a tuple of arrays:

    alpha (q,), hessian (q, q), beta (p,), covariance (p, p) and ordinary (q,). It stops where the
    predicted gain is below `tolerance` · max(1, |ℓ|). `ordinary` is the first point at which it was
    below `early` · max(1, |ℓ|): where an ordinary optimiser stops. Returns the log-likelihood
    without its constants, the number of iterations, and whether it converged.
    """
    alpha, hessian, beta, covariance, ordinary = out
    n = X.shape[0]
    q = Z.shape[1]
    score, score_there = np.empty(q), np.empty(q)
    hessian_there, beta_there = np.empty_like(hessian), np.empty_like(beta)
    covariance_there = np.empty_like(covariance)
    step, there = np.empty(q), np.empty(q)
    masked = zero.shape[0] > 0
    alpha[:] = start
    ordinary[:] = start
    value = evaluate(
        alpha, y, v, X, Z, offset, zero, identity, reml, score, hessian, beta, covariance
    )
    if q == 0 or not np.isfinite(value):
        return value, 0, q == 0
    stopped = False
    for iteration in range(_LARGEST_ITERATIONS):
        gain = _newton_step(score, hessian, step)
        size = max(1.0, abs(value))
        if not stopped:
            ordinary[:] = alpha
            stopped = gain < early * size
        if gain < tolerance * size:
            return value, iteration, True
        longest = 0.0
        for i in range(n):
            if masked and zero[i]:
                continue
            change = 0.0
            for j in range(q):
                change += Z[i, j] * step[j]
            longest = max(longest, abs(change))
        length = 1.0 if longest <= _LONGEST_STEP else _LONGEST_STEP / longest
        slope = 0.0
        for j in range(q):
            slope += score[j] * step[j]
        climbed = False
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
            # No step climbs: at the level of rounding, or stuck.
            return value, iteration, gain < 1e-9 * size
        alpha[:] = there
        value = candidate
        score[:], hessian[:] = score_there, hessian_there
        beta[:], covariance[:] = beta_there, covariance_there
    return value, _LARGEST_ITERATIONS, False


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
