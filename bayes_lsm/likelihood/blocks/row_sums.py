"""What sets of rows of a design say of β, at many α at once, given the rows beside them or alone.

Rows that share a group or a sampling error are dependent given the coefficients; `RowSums.around`
are those that some rows are dependent on. The sums are those of `likelihood.blocks.sums`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bayes_lsm.arrays import Array, Index
from bayes_lsm.design.clusters import connected_rows
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.blocks.arrange import error_covariance, likelihood_terms, row_variances

if TYPE_CHECKING:
    from bayes_lsm.likelihood.blocks.sums import Sums


@dataclass(frozen=True, eq=False)
class RowSums:
    """What sets of rows of a design say of β, which is counted from `mean` (p,)."""

    design: Design
    mean: Array

    @cached_property
    def connected(self) -> Index:
        """A number (n,) that dependent rows share."""
        return connected_rows(self.design)

    def around(self, rows: Index) -> Index:
        """The rows that are not independent of these, themselves among them."""
        return np.flatnonzero(np.isin(self.connected, self.connected[rows]))

    def take(self, rows: Index) -> Design:
        """The design of these rows."""
        return self.design.keep(rows)

    def of(self, rows: Index, alphas: Array) -> Sums:
        """Their sums at each row of alphas (m, q)."""
        from bayes_lsm.likelihood.blocks.sums import no_rows

        if not len(rows):
            return no_rows(len(alphas), len(self.mean))
        part = self.take(rows)
        return _sum(part, part.X, self.mean, alphas)

    def with_own_columns(self, rows: Index, kept: Index, alphas: Array) -> Sums:
        """The sums of `kept` and `rows`, each of `rows` with a column of its own behind X.

        Such a column takes its row out of the fit: its coefficient is the residual from what the
        others predict, and the variance of that is the predictive variance.
        """
        both = np.union1d(kept, rows)
        part = self.take(both)
        X = np.hstack([part.X, both[:, None] == rows])
        return _sum(part, X, self.mean, alphas)

    def log_density(self, rows: Index, away: Array, alphas: Array) -> Array:
        """ln p(y_rows | β, α) (m,), with β `away` (m, p) from `mean`."""
        if len(np.unique(self.connected[rows])) < len(rows):
            return self.of(rows, alphas).log_density(away)
        part = self.take(rows)
        variance = row_variances(likelihood_terms(part), part.v, alphas)
        residuals = part.y - part.X @ self.mean - away @ part.X.T
        each = np.log(2 * np.pi * variance) + residuals**2 / variance
        return np.asarray(-0.5 * each.sum(axis=1))

    def standardise(self, rows: Index, kept: Index, away: Array, alphas: Array) -> Array:
        """(y_i − mean) / SD (m, rows) of `rows`, given β, `away` (m, p) from `mean`, and `kept`."""
        part = self.take(rows)
        if not len(kept):
            residuals = part.y - part.X @ self.mean - away @ part.X.T
            variance = row_variances(likelihood_terms(part), part.v, alphas)
            return np.asarray(residuals / np.sqrt(variance))
        p = part.X.shape[1]
        found = self.with_own_columns(rows, kept, alphas)
        b = found.b[:, p:] - np.einsum("kij,kj->ki", found.A[:, p:, :p], away)
        covariance = np.linalg.inv(found.A[:, p:, p:])
        mean = np.einsum("kij,kj->ki", covariance, b)
        return np.asarray(mean / np.sqrt(np.einsum("kii->ki", covariance)))


def _sum(part: Design, X: Array, mean: Array, alphas: Array) -> Sums:
    from bayes_lsm.likelihood.blocks.sums import sum_rows

    residuals = part.y - part.X @ mean
    terms, V = likelihood_terms(part), error_covariance(part)
    return sum_rows(alphas, residuals, X, terms, variance=V)
