"""The posterior of a fit without some of its rows: points near it, and what they say.

By the engines that need no chains, of α where β can be integrated out and else of all unknowns; of
random intercepts of ln τ², which only NUTS can draw, see `sampled_deletion`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bayes_lsm.bayes.cross_validation.given_draws import DrawnDeletion, IndependentRows
from bayes_lsm.bayes.cross_validation.refits import Points, Refittable
from bayes_lsm.bayes.cross_validation.sampled_deletion import SampledDeletion
from bayes_lsm.bayes.engines.collapsed import propose
from bayes_lsm.bayes.engines.direct import require_direct
from bayes_lsm.bayes.engines.student_collapsed import propose_student
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.student.effects import arrays, df_prior
from bayes_lsm.design.design import Design
from bayes_lsm.design.subsets import Indices
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.likelihood.protocol import NormalPrior
from bayes_lsm.priors import ResolvedPriors
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior


def deletion_of(fit: Posterior) -> Refittable:
    """How rows are left out of a fit.

    Raises
    ------
    FitError
        For priors that the engines without chains cannot take.
    """
    if any(term.random for term in fit.design.terms):
        return SampledDeletion(fit)
    priors, df = resolve_priors(fit.design, fit.priors), df_prior(fit.design, fit.priors)
    return DirectDeletion(fit.design, priors, df)


@dataclass(frozen=True, eq=False)
class DirectDeletion:
    """A design, its priors and, of Student-t effects, ν; for `refits.leave_out_folds`.

    Raises
    ------
    FitError
        For priors that the engines without chains cannot take.
    """

    sampled: ClassVar[bool] = False

    design: Design
    priors: ResolvedPriors
    df: DegreesOfFreedom | float | None
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_direct(self.priors, self.df, "use psis_loo(), which needs no refits")

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.design.y)

    @property
    def width(self) -> int:
        """Numbers that are held for each point, beside the rows."""
        p, q = len(self.priors.location.priors), len(self.priors.scale.priors)
        return max(p**2, p + q + 1)

    @property
    def bounded(self) -> bool:
        """Whether no weight can be large because the proposal holds the prior."""
        return self.priors.scale.is_proper

    def near(self, left: Indices, *, points: int, seed: int) -> Points:
        """Points near the posterior of the rows `left`."""
        if self.df is not None:
            return self._near_all_unknowns(left, self.df, points=points, seed=seed)
        found = propose(self.design.keep(left), self.priors, points=points, seed=seed)
        prior = NormalPrior(found.mean, found.precision)
        rows = likelihood_of(self.design).deletion(left, found.alphas, prior)
        return Points(found.log_ratio, rows)

    def _near_all_unknowns(
        self, left: Indices, df: DegreesOfFreedom | float, *, points: int, seed: int
    ) -> Points:
        """The same where β cannot be integrated out: given all, the effects are independent."""
        from bayes_lsm.likelihood.student.kernels import log_likelihood

        part = self.design.keep(left)
        found = propose_student(part, self.priors, df, points=points, seed=seed)
        unknowns = found.location, found.scale, found.df
        total = np.asarray(log_likelihood(*unknowns, *arrays(part)))
        given = IndependentRows(self.design, *unknowns)
        return Points(found.log_ratio, DrawnDeletion(given, total, len(left) == self.rows))
