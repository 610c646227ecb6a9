"""Rows left out of a model that only NUTS can draw from: what `refits` asks of it.

The draws of the fit are the points, weighted by 1/p(y_out | y_left, θ) with the effects of random
intercepts integrated out (`level_integrals`). Where such weights are too uneven NUTS draws without
the rows, from a model that is compiled once, in which rows can be switched off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from bayes_lsm.arrays import Index
from bayes_lsm.bayes.cross_validation.given_draws import DrawnDeletion
from bayes_lsm.bayes.cross_validation.level_integrals import LevelIntegrals
from bayes_lsm.bayes.cross_validation.refits import NearPoints
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.nuts import Chains, compile_switchable
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.posterior_sampling import checked

_CHAINS = 4
# Draws of a refit: a share of the points that importance sampling would take.
_DRAWS_PER_POINT = 0.2


@dataclass(frozen=True, eq=False)
class SampledRefits:
    """Refits by NUTS of a fit, which stands for itself where all rows are left; and problems."""

    fit: Posterior
    problems: list[str] = field(default_factory=list)

    @cached_property
    def own(self) -> NearPoints:
        """The fit's own draws."""
        return weighted_draws(self.fit, True)

    def near(self, left: Index, *, points: int, seed: int) -> NearPoints:
        """Draws of the posterior of the rows `left`: those of the fit, or new ones."""
        if len(left) == len(self.fit.design.y):
            return self.own
        design = self.fit.design
        chains = Chains(int(points * _DRAWS_PER_POINT) // _CHAINS, chains=_CHAINS)
        drawn = self._sample(left, chains, seed)
        refit = checked(design, self.fit.priors, drawn, seed)
        if refit.problems:
            out = np.setdiff1d(np.arange(len(self.fit.design.y)), left)
            names = ", ".join(design.labels[i] for i in out[:3]) + (" …" if len(out) > 3 else "")
            self.problems.append(f"the refit without {names}: {'; '.join(refit.problems)}")
        return weighted_draws(refit, False)

    @cached_property
    def _sample(self) -> Callable[[Index, Chains, int], Draws]:
        return compile_switchable(self.fit.design, self.fit.priors)


def weighted_draws(fit: Posterior, whole: bool) -> NearPoints:
    """Draws of the posterior, all alike; of all rows (`whole`), or of those left without a fold."""
    alike = np.zeros(fit.draws.size)
    given = LevelIntegrals(fit.design, fit.draws)
    return NearPoints(alike, DrawnDeletion(given, alike, whole))
