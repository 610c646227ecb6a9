r"""The likelihood with β integrated out against a normal prior, for many α at once.

With β ~ N(m, S), s_i = v_i + τ_i², W = diag(1/s), r = y − Xm, A = X'WX + S⁻¹ and b = X'Wr,

    ln p(y | α) = −½ [ n ln 2π + Σ ln s_i + r'Wr − b'A⁻¹b + ln |A| + ln |S| ]
    β | α, y ~ N( m + A⁻¹b, A⁻¹ )

so all that is left to be explored are the q scale coefficients. What depends on the data is a sum
of w_i times numbers that do not depend on α (r_i², x_ij r_i, x_ij x_il), which one product of
matrices gives for many α. Import this module inside the functions that need it: it loads numba.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numba import njit

from bayes_lsm.arrays import Array
from bayes_lsm.likelihood.rows.kernels import cholesky
from bayes_lsm.links import LARGEST_EXPONENT

# Weights that are held at once: they should stay in the cache.
_BLOCK = 50_000


class Integrated:
    """ln p(y | α) and β | α, y of one dataset, given β ~ N(mean, precision⁻¹)."""

    def __init__(
        self, y: Array, v: Array, X: Array, Z: Array, mean: Array, precision: Array
    ) -> None:
        self._v, self._Z, self._mean = v, Z, mean
        self._precision = np.ascontiguousarray(precision)
        r = y - X @ mean
        rows, columns = np.tril_indices(X.shape[1])
        self._products = np.column_stack([r * r, X * r[:, None], X[:, rows] * X[:, columns]])
        _, log_det = np.linalg.slogdet(precision)
        self._constant = len(y) * math.log(2 * math.pi) - log_det

    def log_marginal(self, alphas: Array) -> Array:
        """ln p(y | α) for each row of alphas (m, q)."""
        found = [
            -0.5 * (self._constant + log_s + totals)
            for log_s, totals, _, _ in self._conditions(alphas)
        ]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def draw_location(self, alphas: Array, noise: Array) -> Array:
        """One β | α, y for each row of alphas (m, q), from standard normals `noise` (m, p)."""
        drawn, begin = np.array(noise), 0
        for _, totals, factors, shifts in self._conditions(alphas):
            _draw(factors, shifts, drawn[begin : begin + len(totals)])
            begin += len(totals)
        return drawn + self._mean

    def _conditions(self, alphas: Array) -> Iterator[tuple[Array, Array, Array, Array]]:
        """For some rows of alphas after the other: Σ ln s (m,), and what `_condition` gives."""
        size = max(1, _BLOCK // len(self._v))
        for begin in range(0, max(1, len(alphas)), size):
            eta = alphas[begin : begin + size] @ self._Z.T
            s = np.exp(np.minimum(eta, LARGEST_EXPONENT, out=eta), out=eta)
            s += self._v
            log_s = np.log(s).sum(axis=1)
            yield log_s, *_condition(np.divide(1.0, s, out=s) @ self._products, self._precision)


@njit(cache=True)
def _condition(sums, precision):
    """r'Wr − b'A⁻¹b + ln |A| (m,); L (m, p, p), the Cholesky factor of A; and L⁻¹b (m, p).

    `sums` (m, …) are those of w times r², xr and, row by row, the lower triangle of xx'.
    """
    m, p = len(sums), len(precision)
    A, totals = np.empty((p, p)), np.empty(m)
    factors, shifts = np.zeros((m, p, p)), np.empty((m, p))
    for i in range(m):
        L, b = factors[i], shifts[i]
        t = 1 + p
        for a in range(p):
            for c in range(a + 1):
                A[a, c] = precision[a, c] + sums[i, t]
                t += 1
        totals[i] = sums[i, 0] if cholesky(A, L) else np.nan
        for a in range(p):
            u = sums[i, 1 + a]
            for c in range(a):
                u -= L[a, c] * b[c]
            b[a] = u / L[a, a]
            totals[i] += 2.0 * math.log(L[a, a]) - b[a] * b[a]
    return totals, factors, shifts


@njit(cache=True)
def _draw(factors, shifts, noise):
    """Turns standard normals (m, p) into β − mean, with L'(β − mean) = L⁻¹b + noise."""
    for i in range(len(noise)):
        L, drawn = factors[i], noise[i]
        for a in range(len(drawn) - 1, -1, -1):
            s = shifts[i, a] + drawn[a]
            for c in range(a + 1, len(drawn)):
                s -= L[c, a] * drawn[c]
            drawn[a] = s / L[a, a]
