"""Rows of the one-term model left out: what `refits` asks of it, by the sums of `deletion`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bayes_lsm.bayes.cross_validation.refits import LeftOut
from bayes_lsm.bayes.engines.collapsed import Points, propose, require_collapsible
from bayes_lsm.design.design import Design
from bayes_lsm.design.subsets import Array, Indices, Numbers, Studies, take_rows
from bayes_lsm.priors import ResolvedPriors

Sums = tuple[Array, Array, Array]


@dataclass(frozen=True, eq=False)
class RowDeletion:
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
        return int(self.design.X.shape[1]) ** 2

    @property
    def bounded(self) -> bool:
        """Whether no weight can be large because the proposal holds the prior."""
        return self.priors.scale.is_proper

    def near(self, left: Indices, *, points: int, seed: int) -> RowPosterior:
        """Points near the posterior of the rows `left`."""
        from bayes_lsm.likelihood.rows.deletion import row_sums

        part = self.design.keep(left)
        found = propose(part, self.priors, points=points, seed=seed)
        sums = row_sums(found.alphas, *_arrays(part), found.mean, found.precision)
        return RowPosterior(self.design, len(left) == self.rows, found, sums)


@dataclass(frozen=True, eq=False)
class RowPosterior:
    """Points near the posterior of all rows, or of those that are left when a fold is out.

    Attributes
    ----------
    design : Design, or a part of one
        Of all rows.
    whole : bool
        Whether the sums are those of all rows, so that a fold's are to be taken away.
    points : Points
    sums : tuple of ndarray
        See `likelihood.deletion.row_sums`.
    """

    design: Numbers
    whole: bool
    points: Points
    sums: Sums

    @property
    def log_ratio(self) -> Array:
        """Log density of the prior less that of the proposal, at each point."""
        return self.points.log_ratio

    def leave_out(self, studies: Studies, folds: Sequence[Indices]) -> LeftOut:
        """Predict the studies of each fold from the rows that are neither its own nor missing."""
        return self._predict(studies, folds, -1.0 if self.whole else 0.0)

    def predict_again(self, studies: Studies, units: Indices) -> tuple[Array, Array]:
        """ln p(y | α) of the rows (m,), and of each study given all of them, its own too (m, U)."""
        found = self._predict(studies, list(units[:, None]), 0.0)
        return found.left[:, 0], found.unit

    def _predict(self, studies: Studies, folds: Sequence[Indices], sign: float) -> LeftOut:
        """See `likelihood.deletion.leave_out`."""
        from bayes_lsm.likelihood.rows.deletion import leave_out

        points = self.points
        members = [studies.rows[unit] for fold in folds for unit in fold]
        left, unit, z = leave_out(
            points.alphas,
            *self.sums,
            sign,
            np.cumsum([0, *map(len, members)]),
            np.cumsum([0, *map(len, folds)]),
            *_arrays(take_rows(self.design, np.concatenate(members))),
            points.mean,
            -float(np.linalg.slogdet(points.precision)[1]),
        )
        return LeftOut(left, unit, z)


def _arrays(numbers: Numbers) -> tuple[Array, Array, Array, Array]:
    y, v, X, Z = map(np.ascontiguousarray, (numbers.y, numbers.v, numbers.X, numbers.Z))
    return y, v, X, Z
