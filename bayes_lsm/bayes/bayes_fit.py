"""The face of a Bayesian fit: what was drawn, and every question as a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from bayes_lsm.bayes.datatree import build_datatree
from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.summaries.intervals import Interval
from bayes_lsm.priors import PresetName

if TYPE_CHECKING:
    from xarray import DataTree

    from bayes_lsm.bayes.cross_validation.clustered_loo import Unit
    from bayes_lsm.bayes.cross_validation.elpd import Elpd
    from bayes_lsm.bayes.diagnostics.checks import PredictiveCheck
    from bayes_lsm.bayes.diagnostics.diagnosis import Diagnosis
    from bayes_lsm.bayes.evidence.bayes_factor import BayesFactor
    from bayes_lsm.bayes.evidence.evidence import Evidence
    from bayes_lsm.bayes.evidence.nested import PartName
    from bayes_lsm.bayes.evidence.savage_dickey import SavageDickey
    from bayes_lsm.bayes.prediction.heterogeneity import Heterogeneity
    from bayes_lsm.bayes.prediction.probability import Direction, Probability
    from bayes_lsm.bayes.prediction.study_weights import StudyWeights
    from bayes_lsm.bayes.sensitivity.sensitivity import Sensitivity
    from bayes_lsm.contrasts import ContrastInterval, Measure, ScaleFunctions
    from bayes_lsm.design.clusters import Cluster
    from bayes_lsm.predictions import Blups, GroupEffects, Prediction


@dataclass(frozen=True, eq=False)
class BayesFit(Posterior):
    """A Bayesian fit of a location-scale model; its fields are those of `Posterior`."""

    @cached_property
    def posterior(self) -> DataTree:
        """The draws as an ArviZ DataTree, with the names of the PyMC model's variables.

        Groups posterior, log_likelihood, log_prior, posterior_predictive, observed_data, with
        proper priors prior and prior_predictive, and of NUTS sample_stats: see `build_datatree`.
        """
        return build_datatree(self.design, self.priors, self.draws, seed=self.seed)

    @property
    def tau2(self) -> Array:
        """Posterior median of τ² of each row, shape (n,): the variance of its true effect.

        With several scale terms that of their effects together, with their correlations; those of
        single terms are in ``terms[grouping].tau2``. With Student-t study effects τ is the scale of
        the t; their SD, τ √(ν / (ν − 2)), is in `study_weights` and `heterogeneity`.
        """
        from bayes_lsm.bayes.prediction.prediction import row_tau2

        return row_tau2(self)

    def predict(
        self,
        new_data: pd.DataFrame | None = None,
        *,
        terms: Sequence[str] | None = None,
        known: Sequence[str] = (),
        variance: float | Sequence[float] | None = None,
        level: float = 0.95,
        interval: Interval = "eti",
    ) -> Prediction:
        """Effects, prediction intervals and τ at new moderators, or of the rows themselves.

        See `bayes_lsm.bayes.prediction.prediction.predict`.
        """
        from bayes_lsm.bayes.prediction.prediction import predict

        return predict(
            self,
            new_data,
            terms=terms,
            known=known,
            variance=variance,
            level=level,
            interval=interval,
        )

    def predict_tau(
        self,
        new_data: pd.DataFrame | None = None,
        *,
        terms: Sequence[str] | None = None,
        level: float = 0.95,
        interval: Interval = "eti",
    ) -> Prediction:
        """ln τ², τ² and τ at some values of the scale moderators; see `predict_tau`."""
        from bayes_lsm.bayes.prediction.prediction import predict_tau

        return predict_tau(self, new_data, terms=terms, level=level, interval=interval)

    def new_effects(
        self,
        new_data: pd.DataFrame | None = None,
        *,
        terms: Sequence[str] | None = None,
        known: Sequence[str] = (),
        variance: float | Sequence[float] | None = None,
        seed: int | None = None,
    ) -> Array:
        """Draws of the effect of a new study, or in new groups; see `new_effects`."""
        from bayes_lsm.bayes.prediction.prediction import new_effects

        return new_effects(self, new_data, terms=terms, known=known, variance=variance, seed=seed)

    def probability(
        self,
        beyond: float,
        new_data: pd.DataFrame | None = None,
        *,
        terms: Sequence[str] | None = None,
        known: Sequence[str] = (),
        direction: Direction = "above",
    ) -> Probability:
        """P(an effect lies beyond a threshold); see `probability`."""
        from bayes_lsm.bayes.prediction.probability import probability

        return probability(self, beyond, new_data, terms=terms, known=known, direction=direction)

    def blup(self, *, level: float = 0.95, interval: Interval = "eti") -> Blups:
        """The rows' own true effects; see `bayes_lsm.bayes.prediction.blup.blup`."""

        from bayes_lsm.bayes.prediction.blup import blup

        return blup(self, level=level, interval=interval)

    def group_effects(self, *, level: float = 0.95, interval: Interval = "eti") -> GroupEffects:
        """The effects of the groups of every scale term: deviations from x'β.

        See `bayes_lsm.bayes.prediction.group_effects.group_effects`.
        """

        from bayes_lsm.bayes.prediction.group_effects import group_effects

        return group_effects(self, level=level, interval=interval)

    def true_effects(self, *, terms: Sequence[str] | None = None, seed: int | None = None) -> Array:
        """Draws of the rows' own true effects; see `true_effects`."""
        from bayes_lsm.bayes.prediction.true_effects import true_effects

        return true_effects(self, terms=terms, seed=seed)

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

        See `bayes_lsm.bayes.prediction.contrasts.scale_functions`. Random intercepts of ln τ² are
        at 0.
        """
        from bayes_lsm.bayes.prediction.contrasts import scale_functions

        alphas = self.draws.flat_scale
        return scale_functions(
            alphas, rows, measure=measure, method=method, level=level, compared=compared
        )

    @cached_property
    def evidence(self) -> Evidence:
        """Marginal likelihood with its error; see `bayes_lsm.bayes.evidence.evidence.evidence`."""
        from bayes_lsm.bayes.evidence.marginal_likelihood import evidence

        return evidence(self)

    @property
    def log_evidence(self) -> float:
        """Log marginal likelihood ln p(y); see `bayes_lsm.bayes.evidence.evidence.evidence`."""
        return self.evidence.log

    def bayes_factor(self, other: BayesFit) -> BayesFactor:
        """Bayes factor for this fit against another; see `bayes_lsm.bayes.bayes_factor`."""
        from bayes_lsm.bayes.evidence.bayes_factor import bayes_factor

        return bayes_factor(self, other)

    def savage_dickey(
        self, term: str, value: float = 0.0, *, part: PartName = "scale"
    ) -> SavageDickey:
        """Bayes factor for a coefficient's being `value`; see `savage_dickey`."""
        from bayes_lsm.bayes.evidence.savage_dickey import savage_dickey

        return savage_dickey(self, term, value, part=part)

    def loo(
        self,
        *,
        cluster: Cluster | None = None,
        unit: Unit = "cluster",
        seed: int | None = None,
        progress: bool = True,
    ) -> Elpd:
        """Leave each study or cluster out in turn by exact refits; see `loo`."""
        from bayes_lsm.bayes.cross_validation.loo import loo

        return loo(self, cluster=cluster, unit=unit, seed=seed, progress=progress)

    def psis_loo(
        self, *, cluster: Cluster | None = None, unit: Unit = "cluster", progress: bool = True
    ) -> Elpd:
        """The same by importance sampling; see `bayes_lsm.bayes.cross_validation.loo.psis_loo`."""
        from bayes_lsm.bayes.cross_validation.loo import psis_loo

        return psis_loo(self, cluster=cluster, unit=unit, progress=progress)

    def kfold(
        self,
        k: int = 10,
        *,
        cluster: Cluster | None = None,
        unit: Unit = "cluster",
        seed: int | None = None,
        progress: bool = True,
    ) -> Elpd:
        """Leave folds of studies or clusters out by exact refits; see `kfold`."""
        from bayes_lsm.bayes.cross_validation.loo import kfold

        return kfold(self, k, cluster=cluster, unit=unit, seed=seed, progress=progress)

    def waic(self, *, cluster: Cluster | None = None, unit: Unit = "cluster") -> Elpd:
        """The widely applicable information criterion; see `waic`."""
        from bayes_lsm.bayes.cross_validation.loo import waic

        return waic(self, cluster=cluster, unit=unit)

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
        self.posterior.to_netcdf(str(path))
        return Path(path)
