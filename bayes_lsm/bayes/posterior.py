"""Bayesian fits of a design, and what can be read from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.bayes.draws import Array, Draws, Importance
from bayes_lsm.bayes.engines.diagnostics import convergence, find_problems
from bayes_lsm.bayes.engines.direct import can_sample, sample_directly
from bayes_lsm.bayes.engines.nuts import sample_nuts
from bayes_lsm.bayes.posterior_summaries import PosteriorSummaries
from bayes_lsm.bayes.pymc_model.datatree import build_datatree
from bayes_lsm.bayes.resolved_priors.resolve import require_log_link, resolve_priors
from bayes_lsm.bayes.student.effects import describe, df_prior, integrated_out
from bayes_lsm.bayes.summaries.intervals import Interval
from bayes_lsm.choices import require_choice
from bayes_lsm.design.design import Design
from bayes_lsm.errors import ConvergenceWarning, FitError, warn
from bayes_lsm.priors import PresetName, Priors
from bayes_lsm.specification import Engine, TrueEffects

if TYPE_CHECKING:
    from xarray import DataTree

    from bayes_lsm.bayes.clustered_fit import ClusteredBayesFit
    from bayes_lsm.bayes.cross_validation.elpd import Elpd
    from bayes_lsm.bayes.diagnostics.checks import PredictiveCheck
    from bayes_lsm.bayes.diagnostics.diagnosis import Diagnosis
    from bayes_lsm.bayes.evidence.evidence import BayesFactor, Evidence
    from bayes_lsm.bayes.evidence.nested import PartName
    from bayes_lsm.bayes.evidence.savage_dickey import SavageDickey
    from bayes_lsm.bayes.prediction.effects import Blups
    from bayes_lsm.bayes.prediction.heterogeneity import Heterogeneity
    from bayes_lsm.bayes.prediction.prediction import Prediction
    from bayes_lsm.bayes.prediction.probability import Direction, Probability
    from bayes_lsm.bayes.prediction.study_weights import StudyWeights
    from bayes_lsm.bayes.sensitivity.sensitivity import Sensitivity
    from bayes_lsm.contrasts import ContrastInterval, Measure, ScaleFunctions


@dataclass(frozen=True, eq=False)
class BayesFit(PosteriorSummaries):
    """A Bayesian fit of a location-scale model.

    Attributes
    ----------
    design : Design
    priors : Priors
    draws : Draws
        Posterior draws of the coefficients.
    seed : int
        What to pass to `fit_bayes` for the same draws again.
    problems : tuple of str
        Why the draws should not be trusted, each with its remedy; empty when all is well.
    """

    design: Design
    priors: Priors
    draws: Draws
    seed: int
    convergence: pd.DataFrame
    problems: tuple[str, ...]

    @cached_property
    def posterior(self) -> DataTree:
        """The draws as an ArviZ DataTree.

        Groups posterior (``location``, ``scale``, where estimated ``df``), sample_stats,
        log_likelihood, log_prior, prior, prior_predictive, posterior_predictive and observed_data.
        The log likelihood takes 8 · draws · k bytes.
        """
        return build_datatree(
            self.design,
            resolve_priors(self.design, self.priors),
            self.draws,
            seed=self.seed,
            df=df_prior(self.design, self.priors),
        )

    def parts(self) -> dict[str, tuple[tuple[str, ...], Array]]:
        """What was estimated: of each part of the model the terms, and draws (draws, terms)."""
        return {
            part: (names, values.reshape(-1, len(names)))
            for part, (names, values) in self.draws.parts(self.design).items()
        }

    @property
    def stats(self) -> Mapping[str, npt.NDArray[Any]]:
        """What NUTS says of each draw; see `Draws`."""
        return self.draws.stats

    @property
    def importance(self) -> Importance | None:
        """How good the draws of the collapsed engine are; see `Draws`."""
        return self.draws.importance

    @property
    def location(self) -> pd.DataFrame:
        """Location coefficients: mean, median, sd, … (see `summary`); one row a term."""
        return self.summary().loc[["location"]].droplevel("part")

    @property
    def scale(self) -> pd.DataFrame:
        """Scale coefficients of ln τ²: mean, median, sd, … (see `summary`); one row a term."""
        return self.summary().loc[["scale"]].droplevel("part")

    @property
    def tau2(self) -> Array:
        """Posterior median of τ² of each study, shape (k,).

        With Student-t study effects τ is the scale of the t; their SD, τ √(ν / (ν − 2)), is in
        `study_weights` and `heterogeneity`.
        """
        from bayes_lsm.bayes.prediction.prediction import study_tau2

        return study_tau2(self)

    def predict(
        self,
        new_data: pd.DataFrame | None = None,
        *,
        variance: float | Sequence[float] | None = None,
        level: float = 0.95,
        interval: Interval = "eti",
    ) -> Prediction:
        """Effects, prediction intervals and τ at new moderators, or of the studies themselves.

        See `bayes_lsm.bayes.prediction.prediction.predict`.
        """
        from bayes_lsm.bayes.prediction.prediction import predict

        return predict(self, new_data, variance=variance, level=level, interval=interval)

    def new_effects(
        self,
        new_data: pd.DataFrame | None = None,
        *,
        variance: float | Sequence[float] | None = None,
        seed: int | None = None,
    ) -> Array:
        """Draws of the effect of a new study; see `new_effects`."""
        from bayes_lsm.bayes.prediction.prediction import new_effects

        return new_effects(self, new_data, variance=variance, seed=seed)

    def probability(
        self,
        beyond: float,
        new_data: pd.DataFrame | None = None,
        *,
        direction: Direction = "above",
    ) -> Probability:
        """P(an effect lies beyond a threshold); see `probability`."""
        from bayes_lsm.bayes.prediction.probability import probability

        return probability(self, beyond, new_data, direction=direction)

    def blup(self, *, level: float = 0.95, interval: Interval = "eti") -> Blups:
        """The studies' own true effects; see `bayes_lsm.bayes.prediction.effects.blup`."""
        from bayes_lsm.bayes.prediction.effects import blup

        return blup(self, level=level, interval=interval)

    def true_effects(self, *, seed: int | None = None) -> Array:
        """Draws of the studies' own true effects; see `true_effects`."""
        from bayes_lsm.bayes.prediction.effects import true_effects

        return true_effects(self, seed=seed)

    def heterogeneity(self, *, level: float = 0.95, interval: Interval = "eti") -> Heterogeneity:
        """τ², τ, I² and H²; see `bayes_lsm.bayes.prediction.heterogeneity.heterogeneity`."""
        from bayes_lsm.bayes.prediction.heterogeneity import heterogeneity

        return heterogeneity(self, level=level, interval=interval)

    def scale_functions(
        self,
        rows: Array,
        labels: Sequence[str],
        *,
        measure: Measure = "log_tau2",
        method: ContrastInterval | None = None,
        level: float = 0.95,
        compared: bool = True,
    ) -> ScaleFunctions:
        """Linear functions of the scale coefficients, for `bayes_lsm.contrasts`.

        See `bayes_lsm.bayes.prediction.contrasts.scale_functions`.
        """
        from bayes_lsm.bayes.prediction.contrasts import scale_functions

        alphas = self.draws.flat_scale
        return scale_functions(
            alphas, rows, measure=measure, method=method, level=level, compared=compared
        )

    @cached_property
    def evidence(self) -> Evidence:
        """Marginal likelihood with its error; see `bayes_lsm.bayes.evidence.evidence.evidence`."""
        from bayes_lsm.bayes.evidence.evidence import evidence

        return evidence(self)

    @property
    def log_evidence(self) -> float:
        """Log marginal likelihood ln p(y); see `bayes_lsm.bayes.evidence.evidence.evidence`."""
        return self.evidence.log

    def bayes_factor(self, other: BayesFit | ClusteredBayesFit) -> BayesFactor:
        """Bayes factor for this fit against another; see `bayes_lsm.bayes.bayes_factor`."""
        from bayes_lsm.bayes.evidence.evidence import bayes_factor

        return bayes_factor(self, other)

    def savage_dickey(
        self, term: str, value: float = 0.0, *, part: PartName = "scale"
    ) -> SavageDickey:
        """Bayes factor for a coefficient's being `value`; see `savage_dickey`."""
        from bayes_lsm.bayes.evidence.savage_dickey import savage_dickey

        return savage_dickey(self, term, value, part=part)

    def loo(self, *, seed: int | None = None, progress: bool = True) -> Elpd:
        """Leave each study out in turn by exact refits; see `loo`."""
        from bayes_lsm.bayes.cross_validation.loo import loo

        return loo(self, seed=seed, progress=progress)

    def psis_loo(self, *, progress: bool = True) -> Elpd:
        """The same by importance sampling; see `bayes_lsm.bayes.cross_validation.loo.psis_loo`."""
        from bayes_lsm.bayes.cross_validation.loo import psis_loo

        return psis_loo(self, progress=progress)

    def kfold(self, k: int = 10, *, seed: int | None = None, progress: bool = True) -> Elpd:
        """Leave folds of studies out by exact refits; see `kfold`."""
        from bayes_lsm.bayes.cross_validation.loo import kfold

        return kfold(self, k, seed=seed, progress=progress)

    def waic(self) -> Elpd:
        """The widely applicable information criterion; see `waic`."""
        from bayes_lsm.bayes.cross_validation.loo import waic

        return waic(self)

    def posterior_predictive_check(
        self,
        *,
        quantities: Mapping[str, Callable[[Array], float]] | None = None,
        draws: int = 2000,
        seed: int | None = None,
    ) -> PredictiveCheck:
        """Could the model have made such data? See `bayes_lsm.bayes.diagnostics.checks`."""
        from bayes_lsm.bayes.diagnostics.checks import posterior_predictive_check

        return posterior_predictive_check(self, quantities=quantities, draws=draws, seed=seed)

    def sensitivity(
        self,
        *,
        factors: Sequence[float] | None = None,
        presets: Sequence[PresetName] | None = None,
        level: float = 0.95,
        draws: int = 8000,
        seed: int | None = None,
        progress: bool = True,
    ) -> Sensitivity:
        """How far each coefficient is the prior's; see `sensitivity`."""
        from bayes_lsm.bayes.sensitivity.sensitivity import sensitivity

        return sensitivity(
            self,
            factors=factors,
            presets=presets,
            level=level,
            draws=draws,
            seed=seed,
            progress=progress,
        )

    def diagnose(
        self, *, engines: bool = False, seed: int | None = None, progress: bool = True
    ) -> Diagnosis:
        """What speaks for and against this fit; see `diagnose`."""
        from bayes_lsm.bayes.diagnostics.diagnosis import diagnose

        return diagnose(self, engines=engines, seed=seed, progress=progress)

    def study_weights(self) -> StudyWeights:
        """How far Student-t study effects discount each study.

        See `bayes_lsm.bayes.prediction.study_weights.study_weights`.
        """
        from bayes_lsm.bayes.prediction.study_weights import study_weights

        return study_weights(self)

    def to_netcdf(self, path: str | Path) -> Path:
        """Save `posterior`; ``arviz.from_netcdf`` reads it back."""
        tree = self.posterior
        tree.to_netcdf(str(path))
        return Path(path)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any table of this fit has to know."""
        chains, draws = self.draws.location.shape[:2]
        importance = self.draws.importance
        if importance is None:
            how = f"NUTS, {chains} chains of {draws} draws, seed {self.seed}"
        else:
            worth = f"worth {importance.ess:.0f} independent ones"
            what = f"{integrated_out(self.design)} integrated out"
            how = f"{chains * draws} draws, {what} ({worth}), seed {self.seed}"
        made = f"{how}; priors: {self.priors.describe()}"
        df = df_prior(self.design, self.priors)
        effects = [] if df is None else [describe(df)]
        return (made, *effects, *self.problems, *self.design.notes)


def fit_bayes(
    design: Design,
    *,
    prior: Priors | None = None,
    engine: Engine = "auto",
    draws: int = 4000,
    seed: int | None = None,
    chains: int = 4,
    tune: int = 1000,
    target_accept: float = 0.95,
    true_effects: TrueEffects = "integrated",
    progress: bool = True,
) -> BayesFit:
    """Draw from the posterior of a location-scale model.

    Parameters
    ----------
    design : Design
    prior : Priors, optional
        Default: those of the design's specification.
    engine : {"auto", "collapsed", "nuts"}, default "auto"
        ``"collapsed"`` integrates β out and draws α by importance sampling: independent draws in
        milliseconds; with Student-t study effects it integrates those out, and draws all else so.
        ``"nuts"`` is the no-U-turn sampler, through PyMC. ``"auto"`` takes the first
        where the priors allow it and its weights can be trusted, else the second.
    draws : int, default 4000
        Posterior draws; with NUTS of all chains together, rounded up to a multiple of `chains`.
    seed : int, optional
        The same seed gives the same draws. Without one, a seed is drawn and kept in the fit.
    chains : int, default 4
    tune : int, default 1000
        Warm-up draws of each chain of NUTS, which are not kept.
    target_accept : float, default 0.95
        Of NUTS; raise it towards 1 when there are divergences. Where a far region of the posterior
        has to be visited it is 0.99 at least, and one draw is kept of every four transitions.
    true_effects : {"integrated", "latent"}, default "integrated"
        ``"latent"`` draws the true effect of each study too, by NUTS: ``true_effect`` in
        `BayesFit.posterior`. The posterior of the coefficients is the same.
    progress : bool, default True
        Show a progress bar on standard error while NUTS is at work.

    Returns
    -------
    BayesFit

    Raises
    ------
    PriorError
        When a prior names a term that the model does not have, or is of the degrees of freedom of
        study effects that are normal.
    FitError
        For settings out of range.

    Warns
    -----
    ConvergenceWarning
        When R-hat, the effective sample size, divergences, the energy or the importance weights say
        that the draws cannot be trusted yet; kept in `BayesFit.problems`.
    """
    check_settings(engine, draws=draws, chains=chains, tune=tune, target_accept=target_accept)
    _check_true_effects(true_effects, engine)
    require_log_link(design)
    prior = prior or design.specification.priors
    resolved = resolve_priors(design, prior)
    df = df_prior(design, prior)
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    drawn = None
    direct = can_sample(resolved, df) and true_effects == "integrated"
    if engine == "collapsed" or (engine == "auto" and direct):
        drawn = sample_directly(design, resolved, df, draws=draws, seed=seed)
        if engine == "auto" and find_problems(drawn, convergence(design, drawn)):
            drawn = None
    if drawn is None:
        drawn = sample_nuts(
            design,
            prior,
            draws=-(-draws // chains),
            tune=tune,
            chains=chains,
            seed=seed,
            target_accept=target_accept,
            true_effects=true_effects,
            progress=progress,
        )
    diagnostics = convergence(design, drawn)
    problems = find_problems(drawn, diagnostics)
    if problems:
        warn("; ".join(problems), ConvergenceWarning)
    return BayesFit(design, prior, drawn, seed, diagnostics, tuple(problems))


def check_settings(
    engine: str, *, draws: int, chains: int, tune: int, target_accept: float
) -> None:
    require_choice("engine", engine, Engine)
    for name, value, least in (("draws", draws, 100), ("chains", chains, 1), ("tune", tune, 100)):
        if not isinstance(value, int | np.integer) or value < least:
            raise FitError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if not 0 < target_accept < 1:
        raise FitError(f"target_accept must be between 0 and 1, got {target_accept!r}")


def _check_true_effects(true_effects: str, engine: str) -> None:
    require_choice("true_effects", true_effects, TrueEffects)
    if true_effects == "latent" and engine == "collapsed":
        raise FitError(
            "the collapsed engine integrates the study effects out; use engine='nuts' for "
            "true_effects='latent'"
        )
