r"""Correlation matrices as smooth functions of unrestricted numbers κ, with two derivatives.

`COMPOUND`: one correlation ρ for all pairs of s effects, κ (1,),

    ρ = (e^{2κ} − 1) / (e^{2κ} + s − 1),

so that −1/(s − 1) < ρ < 1, κ = 0 is ρ = 0, and ρ = tanh κ for two effects.

`UNSTRUCTURED`: κ (s(s − 1)/2,) are Fisher's z of the canonical partial correlations
(Lewandowski, Kurowicka & Joe 2009, doi:10.1016/j.jmva.2009.04.008), row by row below the diagonal:
the first of each row is Fisher's z of the plain correlation with the first effect. R = LL' with

    L_ij = tanh κ_ij Π_{k<j} sech κ_ik ,   L_ii = Π_{k<i} sech κ_ik .
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from bayes_lsm.likelihood.rows.kernels import cholesky

COMPOUND, UNSTRUCTURED = 1, 2
# tanh of more is 1 to the last digit, and its exponential far from overflow.
_LARGEST = 50.0


@njit(cache=True)
def _compound(kappa, size, rho, first, second, L):
    x = math.exp(2.0 * min(max(kappa, -_LARGEST), _LARGEST))
    whole = x + size - 1.0
    value = (x - 1.0) / whole
    rho[:] = value
    first[:, 0] = 2.0 * size * (x / whole) / whole
    second[:, 0, 0] = 4.0 * size * (x / whole) / whole * ((size - 1.0 - x) / whole)
    R = np.full((size, size), value)
    for i in range(size):
        R[i, i] = 1.0
    if not cholesky(R, L):  # ρ is 1 or −1/(s − 1) to the last digit
        L[:] = np.nan


@njit(cache=True)
def _piece(kappa, is_tanh, order):
    """tanh or sech, or its first or second derivative."""
    kappa = min(max(kappa, -_LARGEST), _LARGEST)
    tanh, sech = math.tanh(kappa), 1.0 / math.cosh(kappa)
    if is_tanh:
        return (tanh, sech * sech, -2.0 * sech * sech * tanh)[order]
    return (sech, -sech * tanh, sech * (tanh * tanh - sech * sech))[order]


@njit(cache=True)
def _entry(kappa, i, j, a, b):
    """L_ij, differentiated in κ_ia and in κ_ib (−1: not)."""
    start = i * (i - 1) // 2
    product = 1.0
    for k in range(i):
        order = (k == a) + (k == b)
        if k > j:
            if order > 0:
                return 0.0
            continue
        product *= _piece(kappa[start + k], k == j and j < i, order)
    return product


@njit(cache=True)
def _unstructured(kappa, size, rho, first, second, L):
    for i in range(size):
        for j in range(i + 1):
            L[i, j] = _entry(kappa, i, j, -1, -1)
    for i in range(size):
        of_i = i * (i - 1) // 2
        for j in range(i):
            of_j = j * (j - 1) // 2
            pair = of_i + j
            first[pair] = 0.0
            second[pair] = 0.0
            rho[pair] = 0.0
            for m in range(j + 1):
                rho[pair] += L[i, m] * L[j, m]
                for a in range(i):
                    moved = _entry(kappa, i, m, a, -1)
                    first[pair, of_i + a] += moved * L[j, m]
                    for b in range(i):
                        second[pair, of_i + a, of_i + b] += _entry(kappa, i, m, a, b) * L[j, m]
                    for b in range(j):
                        both = moved * _entry(kappa, j, m, b, -1)
                        second[pair, of_i + a, of_j + b] += both
                        second[pair, of_j + b, of_i + a] += both
                for a in range(j):
                    first[pair, of_j + a] += L[i, m] * _entry(kappa, j, m, a, -1)
                    for b in range(j):
                        second[pair, of_j + a, of_j + b] += L[i, m] * _entry(kappa, j, m, a, b)


@njit(cache=True)
def correlate(kind, kappa, rho, first, second, L):
    """Fills the correlations and their derivatives in κ (h,), and the Cholesky factor.

    rho (pairs,), first (pairs, h), second (pairs, h, h) and L (s, s), pairs row by row below the
    diagonal; for `COMPOUND` every pair has the same.
    """
    L[:] = 0.0
    if kind == COMPOUND:
        _compound(kappa[0], L.shape[0], rho, first, second, L)
    else:
        _unstructured(kappa, L.shape[0], rho, first, second, L)
