"""What the priors say before the data do: τ, ratios of τ, and new effects.

Priors of coefficients are hard to judge; what they imply for the heterogeneity of studies, for how
much it differs between levels, and for the effects that one would see, is not. No study's effect is
used, except by presets that follow the spread of the effects.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.resolved_priors.resolve import require_log_link, resolve_priors
from bayes_lsm.bayes.student.effects import describe, df_prior, sample_df
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError, PriorError
from bayes_lsm.links import LARGEST_EXPONENT
from bayes_lsm.priors import Priors, ResolvedPriors, contrasts
from bayes_lsm.results import model_title
from bayes_lsm.tables import Printable, text_table, wrap_notes

if TYPE_CHECKING:
    from bayes_lsm.bayes.clustered_prior_predictive import LevelPriorPredictive

PROBABILITIES = (0.025, 0.25, 0.5, 0.75, 0.975)
_HEADINGS = {
    "tau": "τ",
    "tau_ratio": "Ratio of τ",
    "scale_sd": "SD of random intercepts of ln τ²",
    "correlation": "Correlation",
    "effect": "Effect",
}
_LARGEST_BLOCK = 4_000_000  # numbers at a time: 32 MB


class PriorQuantiles(Printable):
    """Quantiles of what the priors of a model imply, as a table that prints."""

    design: Design

    _digits = 3

    @property
    @abstractmethod
    def table(self) -> pd.DataFrame:
        """The quantiles that are printed, indexed by what they are of, and where."""

    @property
    def title(self) -> str:
        """The kind of model, and its size."""
        return model_title(self.design, "prior predictions")

    def to_dataframe(self) -> pd.DataFrame:
        """The table, unrounded."""
        return self.table.copy()

    def to_string(self, *, digits: int | None = None) -> str:
        """The table as text, to so many significant digits (default 3), and the notes below it."""
        cells = self._cells(digits or self._digits)
        parts = [self.title, "", text_table(cells, digits=0), "", *wrap_notes(self.notes)]
        return "\n".join(parts).rstrip()

    def _table(self) -> pd.DataFrame:
        return self._cells(self._digits)

    def _cells(self, digits: int) -> pd.DataFrame:
        # A prior may say that τ is 0.003 or 10⁹: significant digits, not decimals.
        cells = self.table.map(lambda value: f"{value:.{digits}g}")
        return cells.rename(index=_HEADINGS, level="part")


@dataclass(frozen=True, eq=False)
class PriorPredictive(PriorQuantiles):
    """Quantiles of what the priors of a model imply.

    Attributes
    ----------
    design : Design
    priors : Priors
    location : ndarray, shape (draws, p)
    scale : ndarray, shape (draws, q)
        Draws of the coefficients from their priors; `scale` on ln τ².
    seed : int
        What to pass to `prior_predictive` for the same draws again.
    df : ndarray, shape (draws,) or (1,), or None
        Degrees of freedom ν of Student-t study effects; one where ν is fixed.
    """

    design: Design
    priors: Priors
    location: Array
    scale: Array
    seed: int
    df: Array | None = None

    @cached_property
    def tau(self) -> pd.DataFrame:
        """Quantiles of the τ of each study, one row a study (k rows)."""
        block = max(1, _LARGEST_BLOCK // len(self.scale))
        rows = [
            np.quantile(0.5 * self.scale @ self.design.Z[i : i + block].T, PROBABILITIES, axis=0)
            for i in range(0, self.design.n_studies, block)
        ]
        # exp() goes up only, so the quantiles of τ are those of ln τ, taken to τ.
        quantiles = exp(np.concatenate(rows, axis=1).T)
        return pd.DataFrame(quantiles, pd.Index(self.design.labels, name="study"), quantile_names())

    @cached_property
    def table(self) -> pd.DataFrame:
        """The quantiles that are printed, indexed by what they are of, and where.

        ``tau``: of a study with average moderators (or of each level in ``0 + group``) and of a
        study of these data picked at random; ``tau_ratio``: per standard deviation of a moderator,
        per step of one with two values, or between two levels; ``effect``: the mean of studies with
        average moderators, and the true and the observed effect of a study picked at random.
        """
        rng = np.random.default_rng([self.seed, 1])
        rows, levels = contrasts(self.design.Z, "standardised")
        names = self.design.scale.names
        log_tau = 0.5 * self.scale @ rows.T
        study = rng.integers(self.design.n_studies, size=len(self.scale))
        log_tau_of_study = 0.5 * np.einsum("ij,ij->i", self.scale, self.design.Z[study])
        found: dict[tuple[str, str], Array] = {}
        for j in levels:
            where = "average study" if len(levels) == 1 else names[j]
            found["tau", where] = exp(log_tau[:, j])
        found["tau", "any study"] = exp(log_tau_of_study)
        for j in levels[1:]:
            ratio = log_tau[:, j] - log_tau[:, levels[0]]
            found["tau_ratio", f"{names[j]} / {names[levels[0]]}"] = exp(ratio)
        for j in set(range(len(names))) - set(levels):
            found["tau_ratio", per_what(names[j], self.design.Z[:, j])] = exp(log_tau[:, j])
        found |= self._effects(study, found["tau", "any study"], rng)
        quantiles = [np.quantile(values, PROBABILITIES) for values in found.values()]
        index = pd.MultiIndex.from_tuples(found, names=["part", "of"])
        return pd.DataFrame(quantiles, index, quantile_names())

    def _effects(
        self, study: np.ndarray, tau: Array, rng: np.random.Generator
    ) -> dict[tuple[str, str], Array]:
        rows, levels = contrasts(self.design.X, "standardised")
        mean = np.einsum("ij,ij->i", self.location, self.design.X[study])
        if self.df is None:
            true = mean + tau * rng.standard_normal(len(tau))
        else:
            true = mean + tau * rng.standard_t(self.df, len(tau))
        observed = true + np.sqrt(self.design.v[study]) * rng.standard_normal(len(tau))
        average = {
            ("effect", "mean of average studies" if len(levels) == 1 else f"mean of {name}"): (
                self.location @ rows[j]
            )
            for j, name in enumerate(self.design.location.names)
            if j in levels
        }
        return {
            **average,
            ("effect", "true, of any study"): true,
            ("effect", "observed, of any study"): observed,
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """How it was made."""
        made = f"{len(self.scale)} draws from the priors, seed {self.seed}"
        df = df_prior(self.design, self.priors)
        effects = [] if df is None else [describe(df)]
        return (f"{made}; priors: {self.priors.describe()}", *effects, *self.design.notes)


def prior_predictive(
    design: Design,
    *,
    prior: Priors | None = None,
    draws: int = 10_000,
    seed: int | None = None,
) -> PriorPredictive | LevelPriorPredictive:
    """What the priors of a model imply for τ, ratios of τ, and effects.

    Parameters
    ----------
    design : Design or Design
    prior : Priors, optional
        Default: those of the design's specification.
    draws : int, default 10000
        From the priors; at least 100.
    seed : int, optional
        The same seed gives the same result. Without one, a seed is drawn and kept.

    Returns
    -------
    PriorPredictive, or with several scale terms LevelPriorPredictive

    Raises
    ------
    PriorError
        When a prior is flat, or names a term that the model does not have.
    FitError
        For too few draws, or a link other than the logarithm.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel(
    ...     "yi ~ ablat", scale="~ ablat", variance="vi", data=lsm.load_dataset("bcg"))
    >>> prior = lsm.priors.preset("robma", measure="RR")
    >>> said = model.prior_predictive(prior=prior, seed=1)
    >>> said.table.loc[("tau", "average study")].round(2).to_list()
    [0.01, 0.15, 0.33, 0.57, 1.11]
    """
    if not isinstance(draws, int | np.integer) or draws < 100:
        raise FitError(f"draws must be a whole number of at least 100, got {draws!r}")
    prior = prior or design.specification.priors
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    if not design.is_independent:
        from bayes_lsm.bayes.clustered_prior_predictive import level_prior_predictive

        return level_prior_predictive(design, prior, draws=int(draws), seed=seed)
    require_log_link(design)
    resolved = resolve_priors(design, prior)
    require_proper(resolved)
    rng = np.random.default_rng(seed)
    location = resolved.location.sample(draws, rng)
    scale, df = resolved.scale.sample(draws, rng), df_prior(design, prior)
    drawn_df = None if df is None else sample_df(df, draws, rng)
    return PriorPredictive(design, prior, location, scale, seed, drawn_df)


def require_proper(priors: ResolvedPriors) -> None:
    """Refuse priors that cannot be drawn from.

    Raises
    ------
    PriorError
    """
    if not priors.is_proper:
        part = "scale" if priors.location.is_proper else "location"
        raise PriorError(
            f"a flat {part} prior says nothing before the data, so there is nothing to show; give "
            "the coefficient a normal prior, as wide as need be"
        )


def exp(logarithm: Array) -> Array:
    """The exponential, without overflow."""
    return np.asarray(np.exp(np.clip(logarithm, -LARGEST_EXPONENT, LARGEST_EXPONENT)))


def per_what(name: str, column: Array) -> str:
    """What the ratio of τ of a moderator is of."""
    two_valued = np.isin(column, (column.min(), column.max())).all()
    return f"{name}, per step" if two_valued else f"{name}, per SD"


def quantile_names() -> list[str]:
    """The columns of the tables."""
    return [f"{100 * probability:g}%" for probability in PROBABILITIES]
