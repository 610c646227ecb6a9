r"""The likelihood with β integrated out and rows left out, for many α and sets of rows at once.

With the notation of `integrated`, what a set of rows does to a fit given α is the sums

    A = S⁻¹ + Σ w_i x_i x_i',    b = Σ w_i r_i x_i,    c = Σ ln s_i + w_i r_i²

so leaving rows out takes p(p + 1)/2 subtractions a row instead of a new pass through the data:

    ln p(y_rows | α) = −½ [ n ln 2π + c − b'A⁻¹b + ln |A| + ln |S| ]
    y_i | y_rows, α ~ N( x_i'm + x_i'A⁻¹b,  s_i + x_i'A⁻¹x_i )

Import this module inside the functions that need it: it loads numba.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from bayes_lsm.likelihood.rows.kernels import cholesky
from bayes_lsm.links import LARGEST_EXPONENT


@njit(cache=True)
def _variance(alpha, z, v):
    eta = 0.0
    for j in range(len(alpha)):
        eta += z[j] * alpha[j]
    return v + math.exp(min(eta, LARGEST_EXPONENT))


@njit(cache=True)
def _add(sign, variance, x, r, A, b):
    """Adds a row to A (lower triangle) and b, or takes it away; returns its share of c."""
    w = sign / variance
    for a in range(len(x)):
        b[a] += w * r * x[a]
        for d in range(a + 1):
            A[a, d] += w * x[a] * x[d]
    return sign * math.log(variance) + w * r * r


@njit(cache=True)
def _solve(A, b, L, u):
    """L with A = LL' and u = L⁻¹b; ln |A| − b'A⁻¹b, or nan where A is not positive definite."""
    if not cholesky(A, L):
        return np.nan
    total = 0.0
    for a in range(len(b)):
        s = b[a]
        for d in range(a):
            s -= L[a, d] * u[d]
        u[a] = s / L[a, a]
        total += 2.0 * math.log(L[a, a]) - u[a] * u[a]
    return total


@njit(cache=True, parallel=True)
def row_sums(alphas, y, v, X, Z, mean, precision):
    """A (m, p, p), b (m, p) and c (m,) of all rows, for each row of alphas (m, q)."""
    m, (n, p) = len(alphas), X.shape
    r = y - X @ mean
    A, b, c = np.empty((m, p, p)), np.zeros((m, p)), np.zeros(m)
    for k in prange(m):
        A[k] = precision
        for i in range(n):
            variance = _variance(alphas[k], Z[i], v[i])
            c[k] += _add(1.0, variance, X[i], r[i], A[k], b[k])
    return A, b, c


@njit(cache=True, parallel=True)
def leave_out(alphas, A, b, c, sign, units, folds, y, v, X, Z, mean, log_det):
    """Densities of the rows that are left, and predictions of those that are not, at m points.

    `alphas` are (m, q). A, b and c are sums of the rows that are left; with `sign` −1, and not 0,
    those of all rows, from which the fold's are taken away first. y, v, X and Z are the folds'
    rows: unit u is ``units[u]:units[u + 1]`` of them, and fold f the units ``folds[f]:folds[f +
    1]``, which are left out together. `log_det` is ln |S|.

    Returns ln p(y_left | α), but for the ln 2π (m, F); ln p(y_unit | y_left, α) (m, U); and of each
    row (y_i − mean) / SD, both given the rows that are left (m, n).
    """
    m, (n, p) = len(alphas), X.shape
    F, U = len(folds) - 1, len(units) - 1
    r = y - X @ mean
    left, unit, z = np.empty((m, F)), np.empty((m, U)), np.empty((m, n))
    for k in prange(m):
        L, u = np.zeros((p, p)), np.empty(p)
        M, w = np.zeros((p, p)), np.empty(p)
        for f in range(F):
            B, d, e = A[k].copy(), b[k].copy(), c[k]
            for i in range(units[folds[f]], units[folds[f + 1]]):
                if sign != 0.0:
                    variance = _variance(alphas[k], Z[i], v[i])
                    e += _add(sign, variance, X[i], r[i], B, d)
            without = _solve(B, d, L, u)
            left[k, f] = -0.5 * (e + without + log_det)
            for g in range(folds[f], folds[f + 1]):
                C, h, more = B.copy(), d.copy(), 0.0
                for i in range(units[g], units[g + 1]):
                    variance = _variance(alphas[k], Z[i], v[i])
                    more += _add(1.0, variance, X[i], r[i], C, h)
                    # x'A⁻¹b and x'A⁻¹x by L⁻¹x.
                    centre, spread = 0.0, variance
                    for a in range(p):
                        s = X[i, a]
                        for t in range(a):
                            s -= L[a, t] * w[t]
                        w[a] = s / L[a, a]
                        centre += w[a] * u[a]
                        spread += w[a] * w[a]
                    z[k, i] = (r[i] - centre) / math.sqrt(spread)
                rows = units[g + 1] - units[g]
                change = more + _solve(C, h, M, w) - without
                unit[k, g] = -0.5 * (rows * math.log(2 * math.pi) + change)
    return left, unit, z


@njit(cache=True, parallel=True)
def location_moments(alphas, y, v, X, Z, mean, precision):
    """Mean (m, p) and covariance (m, p, p) of β | α, y for each row of alphas (m, q)."""
    m, (n, p) = len(alphas), X.shape
    r = y - X @ mean
    centre, covariance = np.empty((m, p)), np.empty((m, p, p))
    for k in prange(m):
        A, b = precision.copy(), np.zeros(p)
        for i in range(n):
            _add(1.0, _variance(alphas[k], Z[i], v[i]), X[i], r[i], A, b)
        for a in range(p):
            for d in range(a):
                A[d, a] = A[a, d]
        inverse = np.linalg.inv(A)
        covariance[k] = inverse
        centre[k] = mean + inverse @ b
    return centre, covariance
