r"""The likelihood with β integrated out against a normal prior, for many α at once.

With β ~ N(m, S), s_i = v_i + τ_i², W = diag(1/s), r = y − Xm, A = X'WX + S⁻¹ and b = X'Wr,

    ln p(y | α) = −½ [ n ln 2π + Σ ln s_i + r'Wr − b'A⁻¹b + ln |A| + ln |S| ]
    β | α, y ~ N( m + A⁻¹b, A⁻¹ )

so all that is left to be explored are the q scale coefficients. Import this module inside the
functions that need it: it loads numba.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit, prange

from bayes_lsm.likelihood.kernels import cholesky
from bayes_lsm.links import LARGEST_EXPONENT

Array = npt.NDArray[np.float64]

_BLOCK = 512  # rows of one thread's turn
_MUCH_WORK = 100_000_000  # multiplications: some 50 ms


@njit(cache=True)
def _condition(alpha, r, v, X, Z, precision, L, b):
    """Fills L, the Cholesky factor of A, and L⁻¹b; returns Σ ln s + r'Wr − b'A⁻¹b + ln |A|."""
    n, p = X.shape
    q = Z.shape[1]
    A = precision.copy()
    b[:] = 0.0
    total = 0.0
    product = 1.0
    for i in range(n):
        eta = 0.0
        for j in range(q):
            eta += Z[i, j] * alpha[j]
        variance = v[i] + math.exp(min(eta, LARGEST_EXPONENT))
        product *= variance
        if not 1e-100 < product < 1e100:
            total += math.log(product)
            product = 1.0
        w = 1.0 / variance
        wr = w * r[i]
        total += wr * r[i]
        for a in range(p):
            b[a] += X[i, a] * wr
            wx = w * X[i, a]
            for c in range(a + 1):
                A[a, c] += wx * X[i, c]
    total += math.log(product)
    if not cholesky(A, L):
        return np.nan
    for a in range(p):
        s = b[a]
        for c in range(a):
            s -= L[a, c] * b[c]
        b[a] = s / L[a, a]
        total += 2.0 * math.log(L[a, a]) - b[a] * b[a]
    return total


@njit(cache=True)
def _marginal_rows(alphas, r, v, X, Z, precision, constant, values):
    p = X.shape[1]
    factor, b = np.zeros((p, p)), np.empty(p)
    for i in range(len(alphas)):
        values[i] = -0.5 * (constant + _condition(alphas[i], r, v, X, Z, precision, factor, b))


@njit(cache=True, parallel=True)
def _marginal_blocks(alphas, r, v, X, Z, precision, constant, values):
    blocks = len(alphas) // _BLOCK + 1
    for block in prange(blocks):
        rows = slice(block * _BLOCK, (block + 1) * _BLOCK)
        _marginal_rows(alphas[rows], r, v, X, Z, precision, constant, values[rows])


def log_marginal(
    alphas: Array, y: Array, v: Array, X: Array, Z: Array, mean: Array, precision: Array
) -> Array:
    """ln p(y | α) for each row of alphas (m, q), given β ~ N(mean, precision⁻¹)."""
    n, p = X.shape
    _, log_det = np.linalg.slogdet(precision)
    constant = n * math.log(2 * math.pi) - log_det
    values = np.empty(len(alphas))
    # A second thread helps only where there is much to do: on a busy machine the first one waits
    # for it, and that is longer than the work of a few thousand rows.
    work = len(alphas) * n * (p * p + Z.shape[1] + 10)
    run = _marginal_blocks if work > _MUCH_WORK else _marginal_rows
    run(alphas, y - X @ mean, v, X, Z, precision, constant, values)
    return values


@njit(cache=True)
def draw_location(alphas, noise, y, v, X, Z, mean, precision):
    """One β | α, y for each row of alphas (m, q), from standard normals `noise` (m, p)."""
    p = X.shape[1]
    r = y - X @ mean
    drawn = np.empty((len(alphas), p))
    L, b = np.zeros((p, p)), np.empty(p)
    for i in range(len(alphas)):
        _condition(alphas[i], r, v, X, Z, precision, L, b)
        for a in range(p - 1, -1, -1):  # L' β = L⁻¹b + noise
            s = b[a] + noise[i, a]
            for c in range(a + 1, p):
                s -= L[c, a] * drawn[i, c]
            drawn[i, a] = s / L[a, a]
        for a in range(p):
            drawn[i, a] += mean[a]
    return drawn
