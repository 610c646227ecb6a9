"""Clusters of rows left out of a model with several scale terms: what `refits` asks of it.

Rows that share a group or a sampling error are dependent given the coefficients. What a fold says
is therefore taken away with all rows T that have to do with it, and those of T that stay are added
again: S_left = S − S_T + S_(T without the fold), the sums being those of
`likelihood.blocks.sums`. Where clusters are independent T is the fold itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bayes_lsm.bayes.cross_validation.refits import LeftOut
from bayes_lsm.bayes.engines.collapsed import Points, normal_prior, propose, require_collapsible
from bayes_lsm.design.clusters import connected_rows
from bayes_lsm.design.design import Design
from bayes_lsm.design.subsets import Array, Indices, Studies
from bayes_lsm.likelihood.blocks.arrange import error_covariance, likelihood_terms, row_variances
from bayes_lsm.priors import ResolvedPriors

if TYPE_CHECKING:
    from bayes_lsm.likelihood.blocks.sums import Sums

_RECENT = 4
_ENTRIES = 4_000_000  # 32 MB for each array of points × squared columns


@dataclass(frozen=True, eq=False)
class RowSums:
    """What sets of rows of a design say of β.

    Attributes
    ----------
    design : Design
    mean : ndarray, shape (p,)
        From where β is counted.
    """

    design: Design
    mean: Array

    @cached_property
    def connected(self) -> Indices:
        """A number (n,) that dependent rows share."""
        return connected_rows(self.design)

    def around(self, rows: Indices) -> Indices:
        """The rows that are not independent of these, themselves among them."""
        return np.flatnonzero(np.isin(self.connected, self.connected[rows]))

    def take(self, rows: Indices) -> Design:
        """The design of these rows."""
        kept = np.zeros(len(self.design.y), dtype=bool)
        kept[rows] = True
        return self.design.keep(kept)

    def of(self, rows: Indices, alphas: Array) -> Sums:
        """Their sums at each row of alphas (m, q)."""
        from bayes_lsm.likelihood.blocks.sums import no_rows

        if not len(rows):
            return no_rows(len(alphas), len(self.mean))
        part = self.take(rows)
        return _sum(part, part.X, self.mean, alphas)

    def with_own_columns(self, rows: Indices, kept: Indices, alphas: Array) -> Sums:
        """The sums of `kept` and `rows`, each of `rows` with a column of its own behind X.

        Such a column takes its row out of the fit: its coefficient is the residual from what the
        others predict, and the variance of that is the predictive variance.
        """
        both = np.union1d(kept, rows)
        part = self.take(both)
        X = np.hstack([part.X, both[:, None] == rows])
        return _sum(part, X, self.mean, alphas)

    def log_density(self, rows: Indices, away: Array, alphas: Array) -> Array:
        """ln p(y_rows | β, α) (m,), with β `away` (m, p) from `mean`."""
        if len(np.unique(self.connected[rows])) < len(rows):
            return self.of(rows, alphas).log_density(away)
        part = self.take(rows)
        variance = row_variances(likelihood_terms(part), part.v, alphas)
        residuals = part.y - part.X @ self.mean - away @ part.X.T
        each = np.log(2 * np.pi * variance) + residuals**2 / variance
        return np.asarray(-0.5 * each.sum(axis=1))

    def standardise(self, rows: Indices, kept: Indices, away: Array, alphas: Array) -> Array:
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


@dataclass(frozen=True, eq=False)
class ClusterDeletion:
    """A design and its priors, for `refits.leave_out_folds`.

    Raises
    ------
    FitError
        When β cannot be integrated out.
    """

    sampled: ClassVar[bool] = False

    design: Design
    priors: ResolvedPriors

    def __post_init__(self) -> None:
        require_collapsible(self.priors, "use psis_loo(), which needs no refits")

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.design.y)

    @property
    def width(self) -> int:
        """Numbers that are held for each point, beside the rows."""
        return len(self.design.location.names) ** 2

    @property
    def bounded(self) -> bool:
        """Whether no weight can be large because the proposal holds the prior."""
        return self.priors.scale.is_proper

    def near(self, left: Indices, *, points: int, seed: int) -> ClusterPosterior:
        """Points near the posterior of the rows `left`."""
        mean, _ = normal_prior(self.priors.location)
        sums = RowSums(self.design, mean)
        found = propose(sums.take(left), self.priors, points=points, seed=seed)
        total = sums.of(left, found.alphas)
        return ClusterPosterior(sums, len(left) == self.rows, found, total)


@dataclass(frozen=True, eq=False)
class ClusterPosterior:
    """Points near the posterior of all rows, or of those that are left when a fold is out.

    Attributes
    ----------
    sums : RowSums
        Of all rows.
    whole : bool
        Whether `total` is of all rows, so that a fold's are to be taken away.
    points : Points
    total : Sums
    """

    sums: RowSums
    whole: bool
    points: Points
    total: Sums

    @property
    def log_ratio(self) -> Array:
        """Log density of the prior less that of the proposal, at each point."""
        return self.points.log_ratio

    def leave_out(self, studies: Studies, folds: Sequence[Indices]) -> LeftOut:
        """Predict the clusters of each fold from the rows that are neither its own nor missing."""
        left, unit, z = [], [], []
        for fold in folds:
            out = np.concatenate([studies.rows[u] for u in fold])
            rest = self.total
            if self.whole:
                touched = self.sums.around(out)
                kept = np.setdiff1d(touched, out)
                rest = rest - self._of(touched) + self._of(kept)
            marginal = rest.log_marginal(self.points.precision)
            left.append(marginal)
            for u in fold:
                rows = studies.rows[u]
                kept = np.setdiff1d(self.sums.around(rows), out)
                both = rest - self._of(kept) + self._of(np.union1d(kept, rows))
                unit.append(both.log_marginal(self.points.precision) - marginal)
                z.append(self._standardise(rest, kept, rows))
        return LeftOut(np.column_stack(left), np.column_stack(unit), np.hstack(z))

    def predict_again(self, studies: Studies, units: Indices) -> tuple[Array, Array]:
        """ln p(y | α) of all rows (m,), and of each cluster given all of them again (m, U)."""
        precision = self.points.precision
        whole = self.total.log_marginal(precision)
        found = []
        for u in units:
            rows = studies.rows[u]
            touched = self.sums.around(rows)
            again = self.total + self._of(touched) - self._of(np.setdiff1d(touched, rows))
            found.append(again.log_marginal(precision) - whole)
        return whole, np.column_stack(found)

    @cached_property
    def _recent(self) -> dict[bytes, Sums]:
        return {}

    def _of(self, rows: Indices) -> Sums:
        """The sums of these rows; the last few are kept, as the same are asked for again."""
        key = rows.tobytes()
        if key not in self._recent:
            if len(self._recent) == _RECENT:
                self._recent.clear()
            self._recent[key] = self.sums.of(rows, self.points.alphas)
        return self._recent[key]

    def _standardise(self, rest: Sums, kept: Indices, rows: Indices) -> Array:
        """(y_i − mean) / SD (m, rows) given the rows that are left, with the sums `rest`."""
        part = self.sums.take(rows)
        if len(kept):
            return self._standardise_dependent(rest, kept, rows)
        away, covariance = rest.location(self.points.precision)
        variance = row_variances(likelihood_terms(part), part.v, self.points.alphas)
        variance += np.einsum("ia,kab,ib->ki", part.X, covariance, part.X)
        residuals = part.y - part.X @ self.sums.mean - away @ part.X.T
        return np.asarray(residuals / np.sqrt(variance))

    def _standardise_dependent(self, rest: Sums, kept: Indices, rows: Indices) -> Array:
        """The same where some of the rows that are left are dependent on these."""
        p = len(self.sums.mean)
        size = p + len(rows)
        others = rest - self._of(kept)
        found = np.empty((len(self.points.alphas), len(rows)))
        step = max(1, _ENTRIES // size**2)
        for start in range(0, len(found), step):
            here = slice(start, start + step)
            local = self.sums.with_own_columns(rows, kept, self.points.alphas[here])
            local.A[:, :p, :p] += others.A[here] + self.points.precision
            local.b[:, :p] += others.b[here]
            away, covariance = local.location(np.zeros((size, size)))
            found[here] = away[:, p:] / np.sqrt(np.einsum("kii->ki", covariance)[:, p:])
        return found
