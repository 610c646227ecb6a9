"""Small compiled pieces of a fit: least squares, Newton's step, saddles."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from bayes_lsm.likelihood.rows.kernels import LEAN, cholesky

# Sums may be reordered; infinities and nan keep their meaning.
_SUMS = {"reassoc", "contract"}
_FLATTEST_CURVATURE = 1e-14


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


@njit(**LEAN)
def step_by_factor(L, score, step):
    """Fills the ascent step, with −H = LL'; returns the gain that its quadratic model predicts.

    nan where −H is all but singular.
    """
    q = score.shape[0]
    gain = 0.0
    for j in range(q):
        if not L[j, j] * L[j, j] > 1e-8:
            return np.nan
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


@njit(cache=True)
def reflected_step(information, score, step):
    """Fills the step that climbs although −H has eigenvalues below 0: they are reflected.

    Returns the gain that is predicted.
    """
    values, vectors = np.linalg.eigh(information)
    q = score.shape[0]
    gain = 0.0
    for k in range(q):
        step[k] = 0.0
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
def newton_step(score, hessian, step):
    """Fills the ascent step and returns the gain that its quadratic model predicts.

    Where −H is not positive definite its eigenvalues are reflected, so the step climbs.
    """
    L = np.zeros(hessian.shape)
    gain = step_by_factor(L, score, step) if cholesky(-hessian, L) else np.nan
    return reflected_step(-hessian, score, step) if np.isnan(gain) else gain


@njit(cache=True)
def upward(hessian):
    """The largest eigenvalue of H, and its direction; −1 where all are negative."""
    q = hessian.shape[0]
    if cholesky(-hessian, np.zeros((q, q))):
        return -1.0, np.zeros(q)
    values, vectors = np.linalg.eigh(hessian)
    return values[-1], vectors[:, -1].copy()
