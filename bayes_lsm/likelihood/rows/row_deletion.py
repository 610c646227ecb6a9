"""Rows left out of the likelihood of independent effects, with β integrated out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from bayes_lsm.arrays import Array, Index
from bayes_lsm.design.clusters import Clusters
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.protocol import LeftOut, NormalPrior


@dataclass(frozen=True, eq=False)
class RowDeletion:
    """Sums over some rows at m α, from which rows can be taken away; see `protocol.Deletion`.

    `design` has all rows. If the `sums` (see `rows.deletion.row_sums`) are theirs (`whole`), a
    fold's are to be taken away.
    """

    design: Design
    alphas: Array
    prior: NormalPrior
    whole: bool
    sums: tuple[Array, Array, Array]

    @classmethod
    def of(cls, design: Design, rows: Index, alphas: Array, prior: NormalPrior) -> RowDeletion:
        """With the sums of these rows."""
        from bayes_lsm.likelihood.rows.deletion import row_sums

        sums = row_sums(alphas, *_arrays(design, rows), prior.mean, prior.precision)
        return cls(design, alphas, prior, len(rows) == len(design.y), sums)

    def leave_out(self, studies: Clusters, folds: Sequence[Index]) -> LeftOut:
        left, unit, z = self._predict(studies, folds, -1.0 if self.whole else 0.0)
        return LeftOut(left, unit, ndtr(z))

    def predict_again(self, studies: Clusters, units: Index) -> tuple[Array, Array]:
        """ln p(y | α) of the rows (m,), and of each study given all of them, its own too (m, U)."""
        left, unit, _ = self._predict(studies, list(units[:, None]), 0.0)
        return left[:, 0], unit

    def _predict(
        self, studies: Clusters, folds: Sequence[Index], sign: float
    ) -> tuple[Array, Array, Array]:
        """See `rows.deletion.leave_out`."""
        from bayes_lsm.likelihood.rows.deletion import leave_out

        members = [studies.rows[unit] for fold in folds for unit in fold]
        left, unit, z = leave_out(
            self.alphas,
            *self.sums,
            sign,
            np.cumsum([0, *map(len, members)]),
            np.cumsum([0, *map(len, folds)]),
            *_arrays(self.design, np.concatenate(members)),
            self.prior.mean,
            -float(np.linalg.slogdet(self.prior.precision)[1]),
        )
        return left, unit, z


def _arrays(design: Design, rows: Index) -> list[Array]:
    """y, v, X and Z of some rows."""
    return [np.ascontiguousarray(each[rows]) for each in (design.y, design.v, design.X, design.Z)]
