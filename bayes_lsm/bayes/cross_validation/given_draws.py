"""What draws of all coefficients say of rows that are left out: whatever the model.

Given the coefficients independent effects are predicted one by one, in closed form or, of Student-t
effects, by quadrature; other rows from those that they depend on (`level_integrals`). `given_draws`
chooses. Either takes draws of a posterior, to be weighted, and points near one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import ndtr

from bayes_lsm.arrays import Array, Index
from bayes_lsm.bayes.cross_validation.level_integrals import LeftRows, LevelIntegrals
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.pointwise_likelihood import log_likelihood, normal_scores
from bayes_lsm.design.clusters import Clusters
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.protocol import LeftOut


class GivenDraws(Protocol):
    """Rows under each of m draws."""

    def leave_out(self, out: Index, units: Sequence[Index]) -> LeftRows:
        """Rows `out`, of which the units are parts, given all others."""

    def given_effects(self, rows: Index) -> Array:
        """ln p(y_rows | the other rows) (m,) with the effects of all levels as drawn."""


@dataclass(frozen=True, eq=False)
class IndependentRows:
    """Independent effects under draws of β (m, p), α (m, q), and ν (m,) of Student-t ones."""

    design: Design
    location: Array
    scale: Array
    df: Array | None = None

    def leave_out(self, out: Index, units: Sequence[Index]) -> LeftRows:
        """Rows `out`, of which the units are parts, given all others."""
        part = self.design.keep(out)
        density = log_likelihood(part, self.location, self.scale, self.df)
        residuals = part.y - self.location @ part.X.T
        below = ndtr(normal_scores(residuals, part.v, self.scale @ part.Z.T, self.df))
        if len(units) == 1:
            return LeftRows(density.sum(axis=1), [density.sum(axis=1)], [below])
        place = np.empty(len(self.design.y), dtype=np.intp)
        place[out] = np.arange(len(out))
        own = [place[rows] for rows in units]
        densities = [density[:, each].sum(axis=1) for each in own]
        return LeftRows(density.sum(axis=1), densities, [below[:, each] for each in own])

    def given_effects(self, rows: Index) -> Array:
        """ln p(y_rows) (m,): they depend on no others."""
        part = self.design.keep(rows)
        return np.asarray(log_likelihood(part, self.location, self.scale, self.df).sum(axis=1))


def given_draws(design: Design, draws: Draws) -> GivenDraws:
    """The rows of a design under these draws."""
    if design.is_independent:
        df = None if draws.df is None else draws.flat_df
        return IndependentRows(design, draws.flat_location, draws.flat_scale, df)
    return LevelIntegrals(design, draws)


@dataclass(frozen=True, eq=False)
class DrawnDeletion:
    """Points that have all coefficients, for `refits`; see `likelihood.protocol.Deletion`.

    `total` (m,) is the log likelihood of the rows that the weights are of, 0 for draws of their
    posterior; if these are all rows (`whole`) a fold's density is to be taken away.
    """

    given: GivenDraws
    total: Array
    whole: bool

    def leave_out(self, studies: Clusters, folds: Sequence[Index]) -> LeftOut:
        """Predict the studies of each fold from the rows that are neither its own nor missing."""
        left, unit, below = [], [], []
        for fold in folds:
            rows = [studies.rows[u] for u in fold]
            found = self.given.leave_out(np.concatenate(rows), rows)
            left.append(self.total - found.fold if self.whole else self.total)
            unit += found.units
            below += found.below
        return LeftOut(np.column_stack(left), np.column_stack(unit), np.hstack(below))

    def predict_again(self, studies: Clusters, units: Index) -> tuple[Array, Array]:
        """The log likelihood (m,), and ln p of each study given all rows, its own too (m, U)."""
        again = [self.given.given_effects(studies.rows[u]) for u in units]
        return self.total, np.column_stack(again)
