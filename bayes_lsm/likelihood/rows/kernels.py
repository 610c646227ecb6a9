r"""The hot loops of `independent`, compiled: value, score and Hessian for any p and q.

The formulas are those of `independent`, which the tests hold this module to; there they can be
read, here they run. Matrices lie by columns, X (p, n) and Z (q, n), so that sums over studies run
along memory; they are made of short loops without branches, which the compiler turns into vector
instructions, over blocks of studies that stay in the cache. Scratch memory is given, not allocated.

Compilation takes some seconds, once: numba keeps the result on disk. Import this module inside the
functions that need it, so that importing the package does not pay for numba.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from bayes_lsm.links import LARGEST_EXPONENT

# Without numba's reference counts, which cost more than the sums over some dozens of studies: what
# is compiled so neither makes arrays nor keeps them.
LEAN = {"cache": True, "error_model": "numpy", "_nrt": False}
# Sums may be reordered; infinities and nan keep their meaning, and 1 / 0 is one of them.
SUMS = {**LEAN, "fastmath": {"reassoc", "contract"}}
_EXACT = {**LEAN, "fastmath": {"contract"}}
_BLOCK = 256

_LOG2_E = 1.4426950408889634
# ln 2, in two parts: k · _LN2_HIGH is exact for all k that occur.
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
# Adding 3 · 2^51 to a small number leaves it, rounded, in the last bits of the sum.
_ROUND = 6755399441055744.0
_TAYLOR = tuple(1.0 / math.factorial(k) for k in range(13, -1, -1))


class Problem(NamedTuple):
    """One log-likelihood: of η = offset + Zα, which is ln τ², or τ² itself if `identity`.

    y and v are (n,), X (p, n) and Z (q, n); the offset (n,), and `zero`, the studies whose τ² is
    held at 0, are empty for none.
    """

    y: Any
    v: Any
    X: Any
    Z: Any
    offset: Any
    zero: Any
    identity: Any
    reml: Any


class Work(NamedTuple):
    """Scratch memory for evaluations of problems of one size.

    `weight`, `slope` and `e` (n,) are 1 / (v + τ²), dτ²/dη, and the residuals. Q (p, n) is a basis
    of X with QWQ' diagonal; the roots of that are the diagonal of R (p, p), and |R| is the root of
    |X'WX|. `c` (p,) is Rβ̂, `shrink` (p,) 1 / the diagonal of R; `block` is (6, _BLOCK), g (q, p),
    and M (q, p, p).
    """

    weight: Any
    slope: Any
    e: Any
    Q: Any
    R: Any
    c: Any
    shrink: Any
    block: Any
    g: Any
    M: Any


@njit(cache=True)
def workspace(n, p, q):
    """Scratch memory for problems of this size."""
    return Work(
        np.empty(n),
        np.empty(n),
        np.empty(n),
        np.empty((p, n)),
        np.zeros((p, p)),
        np.empty(p),
        np.empty(p),
        np.empty((6, min(n, _BLOCK))),
        np.empty((q, p)),
        np.empty((q, p, p)),
    )


@njit(**SUMS)
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


@njit(**_EXACT)
def exponentials(x, out):
    """exp(x), for x up to LARGEST_EXPONENT, to the last digit but one.

    x = k ln 2 + r with |r| ≤ ½ ln 2: e^r by Taylor's series, whose 14th term is below 5e-18, and
    2^k by its bits. Unlike the library's exp this has no branches, so that it takes several numbers
    at once.
    """
    for i in range(x.shape[0]):
        a = min(max(x[i], -700.0), LARGEST_EXPONENT)
        shifted = a * _LOG2_E + _ROUND
        k = shifted - _ROUND
        r = (a - k * _LN2_HIGH) - k * _LN2_LOW
        s = _TAYLOR[0]
        for term in _TAYLOR[1:]:
            s = s * r + term
        bits = (np.float64(shifted).view(np.int64) + 1023) << 52
        out[i] = s * np.int64(bits).view(np.float64) if not np.isnan(x[i]) else np.nan


@njit(**SUMS)
def _product_of_three(a, b, c):
    s = 0.0
    for i in range(a.shape[0]):
        s += a[i] * b[i] * c[i]
    return s


@njit(**SUMS)
def _product_of_two(a, b):
    s = 0.0
    for i in range(a.shape[0]):
        s += a[i] * b[i]
    return s


@njit(**SUMS)
def _variances(alpha, v, Z, offset, zero, identity, lo, variance, slope):
    """Fills v + τ² and dτ²/dη of a block of studies, which begins at `lo`."""
    size = variance.shape[0]
    v = v[lo : lo + size]
    for i in range(size):
        variance[i] = 0.0
    if offset.shape[0]:
        shift = offset[lo : lo + size]
        for i in range(size):
            variance[i] = shift[i]
    for j in range(alpha.shape[0]):
        z, a = Z[j, lo : lo + size], alpha[j]
        for i in range(size):
            variance[i] += a * z[i]
    if identity:
        for i in range(size):
            slope[i] = 1.0
            variance[i] += v[i]
    else:
        exponentials(variance, slope)
        for i in range(size):
            variance[i] = slope[i] + v[i]
    if zero.shape[0]:
        masked = zero[lo : lo + size]
        for i in range(size):
            if masked[i]:
                slope[i], variance[i] = 0.0, v[i]


@njit(**SUMS)
def _log_product(variance):
    """Σ ln v_i; nan where one is not positive.

    One logarithm for a few studies: their product, as long as it is far from overflow.
    """
    total, product = 0.0, 1.0
    for i in range(variance.shape[0]):
        if not variance[i] > 0.0:
            return np.nan
        product *= variance[i]
        if not 1e-100 < product < 1e100:
            total += math.log(product)
            product = 1.0
    return total + math.log(product)


@njit(**SUMS)
def _orthogonalise(w, Q, e, R, c, shrink):
    """Modified Gram–Schmidt on the rows of Q (p, n), in place, with weights w (n,).

    With D the diagonal of R, the old Q is R'D⁻¹Q, and c = D⁻¹QWe. Leaves in `e` the residual.
    Unlike the normal equations it keeps its digits when sampling variances differ by many powers of
    ten. False where a row depends on those before it.
    """
    p, n = Q.shape
    for a in range(p):
        q = Q[a]
        square = _product_of_three(w, q, q)
        if not square > 0.0:
            return False
        R[a, a] = math.sqrt(square)
        shrink[a] = 1.0 / R[a, a]
        for b in range(a + 1, p):
            other = Q[b]
            s = _product_of_three(w, q, other)
            R[a, b] = s * shrink[a]
            s *= shrink[a] * shrink[a]
            for i in range(n):
                other[i] -= s * q[i]
        s = _product_of_three(w, q, e)
        c[a] = s * shrink[a]
        s *= shrink[a] * shrink[a]
        for i in range(n):
            e[i] -= s * q[i]
    return True


@njit(**SUMS)
def _weigh_block(alpha, problem, work, lo, hi):
    """Fills weight, slope, e and Q for the studies lo … hi; returns their Σ ln(v + τ²)."""
    weight, y, e = work.weight[lo:hi], problem.y[lo:hi], work.e[lo:hi]
    _variances(
        alpha,
        problem.v,
        problem.Z,
        problem.offset,
        problem.zero,
        problem.identity,
        lo,
        weight,
        work.slope[lo:hi],
    )
    total = _log_product(weight)
    for i in range(hi - lo):
        weight[i] = 1.0 / weight[i]
        e[i] = y[i]
    for a in range(problem.X.shape[0]):
        x, q = problem.X[a, lo:hi], work.Q[a, lo:hi]
        for i in range(hi - lo):
            q[i] = x[i]
    return total


@njit(**SUMS)
def evaluate_value(alpha, problem, work):
    """The log-likelihood without its constants, −½ [ Σ ln(v + τ²) + r'Wr (+ ln |X'WX| for REML) ].

    nan where X'WX is singular to rounding, or a total variance is not positive. Leaves in `work`
    what derivatives and β̂ are made of.
    """
    p, n = problem.X.shape
    total = 0.0
    for lo in range(0, n, _BLOCK):
        total += _weigh_block(alpha, problem, work, lo, min(lo + _BLOCK, n))
    w, e = work.weight, work.e
    if np.isnan(total) or not _orthogonalise(w, work.Q, e, work.R, work.c, work.shrink):
        return np.nan
    total += _product_of_three(w, e, e)
    if problem.reml:
        for a in range(p):
            total += 2.0 * math.log(work.R[a, a])
    return -0.5 * total


@njit(**SUMS)
def evaluate(alpha, problem, work, score, hessian):
    """The log-likelihood as by `evaluate_value`, its score (q,) and its Hessian (q, q)."""
    value = evaluate_value(alpha, problem, work)
    p, n = problem.X.shape
    q = problem.Z.shape[0]
    score[:] = 0.0
    hessian[:] = 0.0
    work.g[:] = 0.0
    work.M[:] = 0.0
    for lo in range(0, n, _BLOCK):
        _add_block(problem, work, lo, min(lo + _BLOCK, n), score, hessian)
    g, M = work.g, work.M
    for j in range(q):
        for k in range(j + 1):
            s = 0.0
            for a in range(p):
                s += g[j, a] * g[k, a]
                if problem.reml:
                    s += 0.5 * M[j, a, a] * M[k, a, a]
                    for b in range(a):
                        s += M[j, a, b] * M[k, a, b]
            hessian[j, k] += s
            hessian[k, j] = hessian[j, k]
    return value


@njit(**SUMS)
def _add_block(problem, work, lo, hi, score, hessian):
    """What the studies lo … hi add to score, Hessian, g = Q diag(wdu) Z' and M = Q diag(w²dz) Q'.

    There the rows of Q are shrunk, so that QWQ' = I. d is the derivative of τ² in η.
    """
    p, q, size = problem.X.shape[0], problem.Z.shape[0], hi - lo
    weight, slope, e = work.weight[lo:hi], work.slope[lo:hi], work.e[lo:hi]
    h, first, second = work.block[0, :size], work.block[1, :size], work.block[2, :size]
    pull, wwd, wwdqq = work.block[3, :size], work.block[4, :size], work.block[5, :size]
    curved = 0.0 if problem.identity else 1.0
    h[:] = 0.0
    if problem.reml:
        for a in range(p):
            basis, shrink = work.Q[a, lo:hi], work.shrink[a]
            for i in range(size):
                h[i] += (shrink * basis[i]) ** 2
    for i in range(size):
        d, w = slope[i], weight[i]
        leverage, u = w * h[i], w * e[i]  # u = Py
        dw = d * w
        excess = u * u - w * (1.0 - leverage)
        pull[i] = dw * u
        wwd[i] = dw * w
        first[i] = 0.5 * d * excess
        second[i] = curved * first[i] + 0.5 * dw * dw * (1.0 - 2.0 * leverage) - dw * d * u * u
    for j in range(q):
        z = problem.Z[j, lo:hi]
        score[j] += _product_of_two(first, z)
        for k in range(j + 1):
            hessian[j, k] += _product_of_three(second, z, problem.Z[k, lo:hi])
        for a in range(p):
            work.g[j, a] += work.shrink[a] * _product_of_three(pull, z, work.Q[a, lo:hi])
    if not problem.reml:
        return
    for a in range(p):
        for b in range(a + 1):
            one, other = work.Q[a, lo:hi], work.Q[b, lo:hi]
            shrink = work.shrink[a] * work.shrink[b]
            for i in range(size):
                wwdqq[i] = shrink * wwd[i] * one[i] * other[i]
            for j in range(q):
                work.M[j, a, b] += _product_of_two(wwdqq, problem.Z[j, lo:hi])


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


@njit(cache=True)
def locate(alpha, problem, work, beta, covariance):
    """Fills β̂ = R⁻¹c at α and its covariance R⁻¹R⁻ᵀ."""
    evaluate_value(alpha, problem, work)
    solve_location(work.R, work.c, beta, covariance)
