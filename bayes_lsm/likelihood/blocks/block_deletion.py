"""Rows left out of a likelihood in blocks, with β integrated out.

What a fold says is taken away with all rows T that are dependent on it, and those of T that stay
are added again: S_left = S − S_T + S_(T without the fold), the sums being those of
`likelihood.blocks.sums`. Where clusters are independent T is the fold itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from bayes_lsm.arrays import Array, Index
from bayes_lsm.design.clusters import Clusters
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.blocks.arrange import likelihood_terms, row_variances
from bayes_lsm.likelihood.blocks.row_sums import RowSums
from bayes_lsm.likelihood.protocol import LeftOut, NormalPrior

if TYPE_CHECKING:
    from bayes_lsm.likelihood.blocks.sums import Sums


_RECENT = 4
_ENTRIES = 4_000_000  # 32 MB for each array of points × squared columns


@dataclass(frozen=True, eq=False)
class BlockDeletion:
    """Sums over some rows at m α, from which rows can be taken away; see `protocol.Deletion`.

    `sums` are of all rows, with β counted from the prior's mean, `precision` is the prior's. If
    `total` is of all rows (`whole`), a fold's are to be taken away.
    """

    sums: RowSums
    alphas: Array
    precision: Array
    whole: bool
    total: Sums

    @classmethod
    def of(cls, design: Design, rows: Index, alphas: Array, prior: NormalPrior) -> BlockDeletion:
        """With the sums of these rows."""
        sums = RowSums(design, prior.mean)
        whole, total = len(rows) == len(design.y), sums.of(rows, alphas)
        return cls(sums, alphas, prior.precision, whole, total)

    def leave_out(self, studies: Clusters, folds: Sequence[Index]) -> LeftOut:
        """Predict the clusters of each fold from the rows that are neither its own nor missing."""
        left, unit, z = [], [], []
        for fold in folds:
            out = np.concatenate([studies.rows[u] for u in fold])
            rest = self.total
            if self.whole:
                touched = self.sums.around(out)
                kept = np.setdiff1d(touched, out)
                rest = rest - self._of(touched) + self._of(kept)
            marginal = rest.log_marginal(self.precision)
            left.append(marginal)
            for u in fold:
                rows = studies.rows[u]
                kept = np.setdiff1d(self.sums.around(rows), out)
                both = rest - self._of(kept) + self._of(np.union1d(kept, rows))
                unit.append(both.log_marginal(self.precision) - marginal)
                z.append(self._standardise(rest, kept, rows))
        return LeftOut(np.column_stack(left), np.column_stack(unit), ndtr(np.hstack(z)))

    def predict_again(self, studies: Clusters, units: Index) -> tuple[Array, Array]:
        """ln p(y | α) of all rows (m,), and of each cluster given all of them again (m, U)."""
        whole = self.total.log_marginal(self.precision)
        found = []
        for u in units:
            rows = studies.rows[u]
            touched = self.sums.around(rows)
            again = self.total + self._of(touched) - self._of(np.setdiff1d(touched, rows))
            found.append(again.log_marginal(self.precision) - whole)
        return whole, np.column_stack(found)

    @cached_property
    def _recent(self) -> dict[bytes, Sums]:
        return {}

    def _of(self, rows: Index) -> Sums:
        """The sums of these rows; the last few are kept, as the same are asked for again."""
        key = rows.tobytes()
        if key not in self._recent:
            if len(self._recent) == _RECENT:
                self._recent.clear()
            self._recent[key] = self.sums.of(rows, self.alphas)
        return self._recent[key]

    def _standardise(self, rest: Sums, kept: Index, rows: Index) -> Array:
        """(y_i − mean) / SD (m, rows) given the rows that are left, with the sums `rest`."""
        part = self.sums.take(rows)
        if len(kept):
            return self._standardise_dependent(rest, kept, rows)
        away, covariance = rest.location(self.precision)
        variance = row_variances(likelihood_terms(part), part.v, self.alphas)
        variance += np.einsum("ia,kab,ib->ki", part.X, covariance, part.X)
        residuals = part.y - part.X @ self.sums.mean - away @ part.X.T
        return np.asarray(residuals / np.sqrt(variance))

    def _standardise_dependent(self, rest: Sums, kept: Index, rows: Index) -> Array:
        """The same where some of the rows that are left are dependent on these."""
        p = len(self.sums.mean)
        size = p + len(rows)
        others = rest - self._of(kept)
        found = np.empty((len(self.alphas), len(rows)))
        step = max(1, _ENTRIES // size**2)
        for start in range(0, len(found), step):
            here = slice(start, start + step)
            local = self.sums.with_own_columns(rows, kept, self.alphas[here])
            local.A[:, :p, :p] += others.A[here] + self.precision
            local.b[:, :p] += others.b[here]
            found[here] = _standard(local)[:, p:]
        return found


def _standard(sums: Sums) -> Array:
    """Means (m, p) over SDs; 0 where τ² is so large that nothing of the mean is known."""
    unknown = np.zeros(len(sums.A), dtype=bool)
    nothing = np.zeros_like(sums.A[0])
    try:
        means, covariance = sums.location(nothing)
    except np.linalg.LinAlgError:
        unknown = np.linalg.matrix_rank(sums.A) < len(nothing)
        sums.A[unknown] = np.eye(len(nothing))
        means, covariance = sums.location(nothing)
    means[unknown] = 0.0
    return np.asarray(means / np.sqrt(np.einsum("kii->ki", covariance)))
