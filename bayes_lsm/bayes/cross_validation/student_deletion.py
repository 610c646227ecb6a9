"""Rows left out of a model with Student-t study effects: what `refits` asks of it.

Given β, α and ν the effects are independent, so a fold is left out by taking its log densities from
the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bayes_lsm.bayes.cross_validation.refits import LeftOut
from bayes_lsm.bayes.engines.student_collapsed import (
    JointPoints,
    propose_student,
    require_student_priors,
)
from bayes_lsm.bayes.normal_scores import normal_scores
from bayes_lsm.bayes.student.effects import arrays, student_log_likelihood
from bayes_lsm.design.subsets import Array, Indices, Numbers, Studies, take_rows
from bayes_lsm.priors import ResolvedPriors
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom


@dataclass(frozen=True, eq=False)
class StudentDeletion:
    """A design, its priors and ν, for `refits.leave_out_folds`.

    Raises
    ------
    FitError
        For a flat location prior or a shrinkage prior.
    """

    sampled: ClassVar[bool] = False

    design: Numbers
    priors: ResolvedPriors
    df: DegreesOfFreedom | float

    def __post_init__(self) -> None:
        require_student_priors(self.priors, "use psis_loo(), which needs no refits")

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.design.y)

    @property
    def width(self) -> int:
        """Numbers that are held for each point, beside the rows."""
        return int(self.design.X.shape[1] + self.design.Z.shape[1]) + 1

    @property
    def bounded(self) -> bool:
        """Whether no weight can be large because the proposal holds the prior."""
        return self.priors.scale.is_proper

    def near(self, left: Indices, *, points: int, seed: int) -> StudentPosterior:
        """Points near the posterior of the rows `left`."""
        from bayes_lsm.likelihood.student.kernels import log_likelihood

        part = take_rows(self.design, left)
        found = propose_student(part, self.priors, self.df, points=points, seed=seed)
        total = log_likelihood(found.location, found.scale, found.df, *arrays(part))
        return StudentPosterior(self.design, len(left) == self.rows, found, np.asarray(total))


@dataclass(frozen=True, eq=False)
class StudentPosterior:
    """Points near the posterior of all rows, or of those that are left when a fold is out.

    Attributes
    ----------
    design : Design, or a part of one
        Of all rows.
    whole : bool
        Whether `total` is of all rows, so that a fold's densities are to be taken away.
    points : JointPoints
    total : ndarray, shape (m,)
        Log likelihood.
    """

    design: Numbers
    whole: bool
    points: JointPoints
    total: Array

    @property
    def log_ratio(self) -> Array:
        """Log density of the prior less that of the proposal, at each point."""
        return self.points.log_ratio

    def leave_out(self, studies: Studies, folds: Sequence[Indices]) -> LeftOut:
        """Predict the studies of each fold from the rows that are neither its own nor missing."""
        unit = self._densities(studies, np.concatenate(folds))
        left = np.repeat(self.total[:, None], len(folds), axis=1)
        if self.whole:
            left -= np.add.reduceat(unit, np.cumsum([0, *map(len, folds[:-1])]), axis=1)
        rows = np.concatenate([studies.rows[u] for fold in folds for u in fold])
        part, found = take_rows(self.design, rows), self.points
        z = normal_scores(
            part.y - found.location @ part.X.T, part.v, found.scale @ part.Z.T, found.df
        )
        return LeftOut(left, unit, z)

    def predict_again(self, studies: Studies, units: Indices) -> tuple[Array, Array]:
        """ln p(y | β, α, ν) of the rows (m,), and of each study given all of them (m, U)."""
        return self.total, self._densities(studies, units)

    def _densities(self, studies: Studies, units: Indices) -> Array:
        """ln p(y_unit | β, α, ν) of each study (m, U)."""
        members = [studies.rows[u] for u in units]
        part, found = take_rows(self.design, np.concatenate(members)), self.points
        rows = student_log_likelihood(part, found.location, found.scale, found.df)
        return np.asarray(np.add.reduceat(rows, np.cumsum([0, *map(len, members[:-1])]), axis=1))
