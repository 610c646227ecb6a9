"""What `sensitivity` asks of a model with one scale term."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_lsm.bayes.diagnostics import weight_problems
from bayes_lsm.bayes.direct import can_sample, sample_directly
from bayes_lsm.bayes.draws import Array, Draws, row_blocks
from bayes_lsm.bayes.graph import resolve_priors
from bayes_lsm.bayes.sampling import sample_nuts
from bayes_lsm.bayes.sensitivity_refits import Coefficient, Posterior, joint_places
from bayes_lsm.bayes.student import df_prior
from bayes_lsm.bayes.tree import log_likelihood
from bayes_lsm.design import Design
from bayes_lsm.priors import Priors, ResolvedPriors, contrasts

if TYPE_CHECKING:
    from bayes_lsm.bayes.fit import BayesFit


class Studies:
    """A model whose τ² is one of each study; see `sensitivity_refits.Subject`."""

    def __init__(self, fit: BayesFit) -> None:
        self._fit = fit
        self._df = df_prior(fit.design, fit.priors)
        self.priors = resolve_priors(fit.design, fit.priors)
        self.coefficients = find_coefficients(fit.design, self.priors)
        _, self.levels = contrasts(fit.design.Z, "standardised")
        q = len(fit.design.scale.names)
        self.slopes = [j for j in range(q) if j not in self.levels]

    def resolve(self, priors: Priors) -> ResolvedPriors:
        return resolve_priors(self._fit.design, priors)

    def other_statements(self) -> dict[str, Priors]:
        return {}

    def preset_like(self, preset: Priors) -> Priors:
        return preset

    def can_draw(self, priors: ResolvedPriors) -> bool:
        return can_sample(priors, self._df)

    def draw(self, priors: ResolvedPriors, *, draws: int, seed: int) -> Posterior:
        drawn = sample_directly(self._fit.design, priors, self._df, draws=draws, seed=seed)
        return self._posterior(priors, drawn)

    def drawn(self) -> Posterior:
        return self._posterior(self.priors, self._fit.draws)

    def sample(self, priors: Priors, *, seed: int, progress: bool) -> Posterior:
        each = -(-len(self._fit.draws.flat_scale) // 4)
        drawn = sample_nuts(self._fit.design, priors, draws=each, seed=seed, progress=progress)
        return self._posterior(self.resolve(priors), drawn)

    def _posterior(self, priors: ResolvedPriors, drawn: Draws) -> Posterior:
        location, scale = drawn.flat_location, drawn.flat_scale
        latent = None if drawn.df is None else drawn.flat_df[:, None]
        problems = () if drawn.importance is None else tuple(weight_problems(drawn.importance))
        values = self.values(location, scale)
        return Posterior(priors, location, scale, values, latent, problems)

    def values(self, location: Array, scale: Array) -> Array:
        return np.concatenate([location, scale], axis=1)

    def log_likelihood(self, found: Posterior) -> Array:
        beta, alpha, df = found.location, found.scale, found.latent
        parts = row_blocks(len(beta), self._fit.design.n_studies)
        found_in = [
            log_likelihood(
                self._fit.design, beta[part], alpha[part], None if df is None else df[part, 0]
            ).sum(axis=1)
            for part in parts
        ]
        return np.concatenate(found_in)

    def tau_rows(self) -> tuple[pd.Index, Array]:
        return pd.Index(self._fit.design.labels, name="study"), self._fit.design.Z


def find_coefficients(design: Design, priors: ResolvedPriors) -> tuple[Coefficient, ...]:
    """All coefficients, those of the location part first."""
    _, levels = contrasts(design.Z, "standardised")
    return (
        *(
            Coefficient("location", term, "location", joint_places(priors.location, j))
            for j, term in enumerate(design.location.names)
        ),
        *(
            Coefficient(
                "scale",
                term,
                "scale",
                joint_places(priors.scale, j),
                "level" if j in levels else "coefficient",
            )
            for j, term in enumerate(design.scale.names)
        ),
    )
