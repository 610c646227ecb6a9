r"""Sums over sets of rows of several scale terms, for many α at once: rows added and left out.

With r = y − Xm and a prior β ~ N(m, Λ⁻¹), what a set of rows says of β given α is

    A = X'Σ⁻¹X,    b = X'Σ⁻¹r,    c = n ln 2π + ln |Σ| + r'Σ⁻¹r

where Σ is that of these rows alone. Sums of sets that are independent given β and α add up, so a
cluster is left out by a subtraction, and

    ln p(y_rows | α)    = −½ [ c − b'(A + Λ)⁻¹b + ln |A + Λ| − ln |Λ| ]
    ln p(y_rows | β, α) = −½ [ c − 2 (β − m)'b + (β − m)'A (β − m) ]

Import this module inside the functions that need it: it loads numba.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from bayes_lsm.arrays import Array
from bayes_lsm.likelihood.blocks import kernels
from bayes_lsm.likelihood.blocks.blocks import arrange_rows
from bayes_lsm.likelihood.blocks.terms import BlockTerm


@dataclass(frozen=True, eq=False)
class Sums:
    """What sets of rows say of β, at each of m points: A (m, p, p), b (m, p), c (m,).

    c is nan where Σ is singular.
    """

    A: Array
    b: Array
    c: Array

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.A + other.A, self.b + other.b, self.c + other.c)

    def __sub__(self, other: Sums) -> Sums:
        return Sums(self.A - other.A, self.b - other.b, self.c - other.c)

    def location(self, precision: Array) -> tuple[Array, Array]:
        """Mean (m, p), from the prior's mean, and covariance (m, p, p) of β given α."""
        covariance = np.linalg.inv(self.A + precision)
        return np.einsum("kij,kj->ki", covariance, self.b), covariance

    def log_marginal(self, precision: Array) -> Array:
        """ln p(y_rows | α) (m,), with β ~ N(m, precision⁻¹) integrated out."""
        total = self.A + precision
        sign, log_det = np.linalg.slogdet(total)
        fitted = np.einsum("ki,ki->k", self.b, np.linalg.solve(total, self.b[..., None])[..., 0])
        prior = float(np.linalg.slogdet(precision)[1])
        return np.where(sign > 0, -0.5 * (self.c - fitted + log_det - prior), np.nan)

    def log_density(self, away: Array) -> Array:
        """ln p(y_rows | β, α) (m,), where β is `away` (m, p) from the prior's mean."""
        square = np.einsum("ki,kij,kj->k", away, self.A, away)
        return np.asarray(-0.5 * (self.c - 2.0 * np.einsum("ki,ki->k", away, self.b) + square))


def no_rows(points: int, p: int) -> Sums:
    """The sums of no rows at all."""
    return Sums(np.zeros((points, p, p)), np.zeros((points, p)), np.zeros(points))


def sum_rows(
    alphas: Array,
    r: Array,
    X: Array,
    terms: tuple[BlockTerm, ...],
    *,
    variance: Array | sparse.csr_array,
) -> Sums:
    """The sums of some rows at each row of alphas (m, q); see `blocks.arrange`.

    r = y − Xm is (n,); X (n, p) may have any rank.
    """
    layout = arrange_rows(r, X, terms, variance=variance)[0]
    found = no_rows(len(alphas), X.shape[1])
    kernels.sums_at(np.ascontiguousarray(alphas), layout, found.A, found.b, found.c)
    return Sums(found.A, found.b, found.c + len(r) * math.log(2 * math.pi))
