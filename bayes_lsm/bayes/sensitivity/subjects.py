"""What `sensitivity` asks of a model with one scale term."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
from scipy.linalg import block_diag

from bayes_lsm.bayes.draws import Array, Draws, row_blocks
from bayes_lsm.bayes.engines.diagnostics import weight_problems
from bayes_lsm.bayes.engines.direct import can_sample, sample_directly
from bayes_lsm.bayes.engines.nuts import sample_nuts
from bayes_lsm.bayes.pointwise_likelihood import log_likelihood
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.sensitivity.refits import Coefficient, Refitted, joint_places
from bayes_lsm.bayes.student.effects import df_prior
from bayes_lsm.bayes.student.excess import Degrees, Excess, LogExcess
from bayes_lsm.design.design import Design
from bayes_lsm.priors import Family, PriorBlock, Priors, ResolvedPriors, contrasts
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior


# Shape and rate of published priors of ν: see `degrees_of_freedom`.
_OTHERS_OF_DF = ((2.0, 0.1), (1.0, 1 / 29))


class Studies:
    """A model whose τ² is one of each study; see `sensitivity_refits.Subject`.

    Its scale block has the coefficients of ln τ², and last ln(ν − lower) where ν is estimated.
    """

    def __init__(self, fit: Posterior) -> None:
        self._fit = fit
        df = df_prior(fit.design, fit.priors)
        self._excess = Excess.of(df) if isinstance(df, DegreesOfFreedom) else None
        self._q = len(fit.design.scale.names)
        self.priors = self.resolve(fit.priors)
        self.coefficients = find_coefficients(fit.design, self.priors)
        if self._excess is not None:
            own = (self._q,)
            lower = self._excess.lower
            nu = Coefficient("study_effects", "df", "scale", own, "df", lower)
            self.coefficients = (*self.coefficients, nu)
        _, self.levels = contrasts(fit.design.Z, "standardised")
        self.slopes = [j for j in range(self._q) if j not in self.levels]

    def resolve(self, priors: Priors) -> ResolvedPriors:
        found = resolve_priors(self._fit.design, priors)
        df = df_prior(self._fit.design, priors)
        if not isinstance(df, DegreesOfFreedom):
            return found
        joined = np.asarray(block_diag(found.scale.contrasts, np.eye(1)))
        return replace(found, scale=PriorBlock(joined, (*found.scale.priors, LogExcess(df))))

    def other_statements(self) -> dict[str, Priors]:
        if self._excess is None:
            return {}
        own = df_prior(self._fit.design, self._fit.priors)
        others = (DegreesOfFreedom(*numbers, lower=self._excess.lower) for numbers in _OTHERS_OF_DF)
        return {
            f"ν: {other}": self._fit.priors.model_copy(update={"df": other})
            for other in others
            if other != own
        }

    def preset_like(self, preset: Priors) -> Priors:
        return preset.model_copy(update={"df": self._fit.priors.df})

    def _split(self, priors: ResolvedPriors) -> tuple[ResolvedPriors, Degrees | None]:
        """The priors of the coefficients, and what is known of ν."""
        if self._excess is None:
            fixed = df_prior(self._fit.design, self._fit.priors)
            return priors, fixed
        block = priors.scale
        scale = PriorBlock(block.contrasts[:-1, :-1], block.priors[:-1])
        prior = cast("Family", block.priors[-1])
        return replace(priors, scale=scale), replace(self._excess, prior=prior)

    def can_draw(self, priors: ResolvedPriors) -> bool:
        return can_sample(self._fit.design, *self._split(priors))

    def draw(self, priors: ResolvedPriors, *, draws: int, seed: int) -> Refitted:
        drawn = sample_directly(self._fit.design, *self._split(priors), draws=draws, seed=seed)
        return self._posterior(priors, drawn)

    def drawn(self) -> Refitted:
        return self._posterior(self.priors, self._fit.draws)

    def sample(self, priors: Priors, *, seed: int, progress: bool) -> Refitted:
        each = -(-len(self._fit.draws.flat_scale) // 4)
        drawn = sample_nuts(self._fit.design, priors, draws=each, seed=seed, progress=progress)
        return self._posterior(self.resolve(priors), drawn)

    def _posterior(self, priors: ResolvedPriors, drawn: Draws) -> Refitted:
        location, scale, latent = drawn.flat_location, drawn.flat_scale, None
        if self._excess is not None:
            scale = np.column_stack([scale, self._excess.from_df(drawn.flat_df)])
        elif drawn.df is not None:
            latent = drawn.flat_df[:, None]
        problems = () if drawn.importance is None else tuple(weight_problems(drawn.importance))
        values = self.values(location, scale)
        return Refitted(priors, location, scale, values, latent, problems)

    def values(self, location: Array, scale: Array) -> Array:
        return np.concatenate([location, scale], axis=1)

    def log_likelihood(self, found: Refitted) -> Array:
        beta, alpha = found.location, found.scale[:, : self._q]
        df = None if found.latent is None else found.latent[:, 0]
        if self._excess is not None:
            df = self._excess.to_df(found.scale[:, -1])
        parts = row_blocks(len(beta), self._fit.design.n_studies)
        found_in = [
            log_likelihood(
                self._fit.design, beta[part], alpha[part], None if df is None else df[part]
            ).sum(axis=1)
            for part in parts
        ]
        return np.concatenate(found_in)

    def tau_rows(self) -> tuple[pd.Index, Array]:
        Z = self._fit.design.Z
        rows = np.zeros((len(Z), len(self.priors.scale.priors)))
        rows[:, : self._q] = Z
        return pd.Index(self._fit.design.labels, name="study"), rows


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
