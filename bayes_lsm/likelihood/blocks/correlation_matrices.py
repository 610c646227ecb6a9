"""Correlation matrices from their unrestricted coefficients κ, for many κ at once.

The compiled likelihood has its own, with derivatives: see `correlations` for the formulas.
"""

from __future__ import annotations

import math

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.design.scale_terms import correlation_count
from bayes_lsm.specification import Correlation

# tanh of more is 1 to the last digit, and its exponential far from overflow.
_LARGEST = 50.0


def correlation_matrices(kappa: Array, effects: int, kind: Correlation) -> Array:
    """R (m, s, s) from κ (m, c).

    Examples
    --------
    >>> correlation_matrices(np.array([[np.arctanh(0.5)]]), 2, "unstructured")[0].round(3)
    array([[1. , 0.5],
           [0.5, 1. ]])
    """
    kappa = np.clip(kappa, -_LARGEST, _LARGEST)
    if not correlation_count(effects, kind):
        return np.broadcast_to(np.eye(effects), (len(kappa), effects, effects))
    if kind == "compound_symmetric":
        x = np.exp(2.0 * kappa[:, 0])
        rho = (x - 1.0) / (x + effects - 1.0)
        return np.where(np.eye(effects, dtype=bool), 1.0, rho[:, None, None])
    L = correlation_factors(kappa, effects, kind)
    return np.asarray(L @ np.swapaxes(L, 1, 2))


def correlation_factors(kappa: Array, effects: int, kind: Correlation) -> Array:
    """L (m, s, s), lower triangular, with LL' = R, from κ (m, c).

    Also where rounding makes R singular, so that it has no Cholesky factor.

    Examples
    --------
    >>> correlation_factors(np.array([[0.0], [30.0]]), 2, "compound_symmetric")[:, 1].round(3)
    array([[0., 1.],
           [1., 0.]])
    """
    kappa = np.clip(kappa, -_LARGEST, _LARGEST)
    if not correlation_count(effects, kind):
        return np.broadcast_to(np.eye(effects), (len(kappa), effects, effects))
    L = np.zeros((len(kappa), effects, effects))
    for i in range(effects):
        if kind == "compound_symmetric":
            # Fisher's z of ρ/(1 + jρ), the correlation given j other effects, from e^2κ − 1.
            x, j = np.expm1(2.0 * kappa), np.arange(i)
            with np.errstate(divide="ignore"):
                z = 0.5 * np.log(((j + 2) * x + effects) / (j * x + effects))
        else:
            z = kappa[:, i * (i - 1) // 2 : i * (i + 1) // 2]
        z = np.clip(z, -_LARGEST, _LARGEST)
        rest = np.cumprod(np.c_[np.ones(len(z)), 1.0 / np.cosh(z)], axis=1)
        L[:, i, :i], L[:, i, i] = np.tanh(z) * rest[:, :-1], rest[:, -1]
    return L


def pair_correlations(kappa: Array, effects: int, kind: Correlation) -> Array:
    """The correlations below the diagonal of R, row by row, (m, pairs), from κ (m, c)."""
    if not correlation_count(effects, kind):
        return np.empty((len(kappa), 0))
    i, j = np.tril_indices(effects, -1)
    return correlation_matrices(kappa, effects, kind)[:, i, j]


def kappa_of(rho: float, effects: int, kind: Correlation) -> float:
    """The κ of one correlation of s effects: of all pairs, or if unstructured of the first pair.

    Examples
    --------
    >>> round(kappa_of(0.5, 3, "compound_symmetric"), 4) == round(math.log(2.0), 4)
    True
    """
    if kind == "unstructured":
        return math.atanh(rho)
    return 0.5 * math.log((1.0 + (effects - 1) * rho) / (1.0 - rho))


def kappas_of(R: Array, kind: Correlation) -> Array:
    """κ (m, c) from R (m, s, s): the inverse of `correlation_matrices`.

    Examples
    --------
    >>> kappa = np.array([[0.3, -0.2, 0.9]])
    >>> kappas_of(correlation_matrices(kappa, 3, "unstructured"), "unstructured").round(6)
    array([[ 0.3, -0.2,  0.9]])
    """
    s = R.shape[-1]
    if not correlation_count(s, kind):
        return np.empty((len(R), 0))
    if kind == "compound_symmetric":
        rho = R[:, 1, 0]
        with np.errstate(divide="ignore"):
            kappa = 0.5 * np.log((1.0 + (s - 1) * rho) / (1.0 - rho))
        return np.asarray(np.clip(kappa, -_LARGEST, _LARGEST))[:, None]
    # Row by row of the Cholesky factor, of matrices that rounding has made singular as well.
    L, columns = np.zeros_like(R), []
    for i in range(s):
        rest = np.ones(len(R))
        for j in range(i):
            L[:, i, j] = _ratio(R[:, i, j] - np.sum(L[:, i, :j] * L[:, j, :j], axis=1), L[:, j, j])
            partial = np.clip(_ratio(L[:, i, j], np.sqrt(rest)), -1.0, 1.0)
            with np.errstate(divide="ignore"):
                columns.append(np.arctanh(partial))
            rest = np.maximum(rest - L[:, i, j] ** 2, 0.0)
        L[:, i, i] = np.sqrt(rest)
    return np.asarray(np.clip(np.column_stack(columns), -_LARGEST, _LARGEST))


def _ratio(numerator: Array, denominator: Array) -> Array:
    """0 where nothing is left to divide by."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0.0)
