"""Bayesian fits of models with several scale terms, and what can be read from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.bayes.clustered_draws import TermDraws
from bayes_lsm.bayes.draws import Array, Importance
from bayes_lsm.bayes.engines.diagnostics import convergence_of
from bayes_lsm.bayes.posterior_summaries import PosteriorSummaries
from bayes_lsm.bayes.resolved_priors.resolve import DEFAULT_SCALE_SD
from bayes_lsm.design.coefficient_names import level_names, pair_names, random_names, scale_names
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.priors import Priors

if TYPE_CHECKING:
    from xarray import DataTree

    from bayes_lsm.bayes.cross_validation.elpd import Elpd
    from bayes_lsm.bayes.diagnostics.checks import PredictiveCheck
    from bayes_lsm.bayes.diagnostics.diagnosis import Diagnosis
    from bayes_lsm.bayes.evidence.evidence import BayesFactor, Evidence
    from bayes_lsm.bayes.evidence.nested import PartName
    from bayes_lsm.bayes.evidence.savage_dickey import SavageDickey
    from bayes_lsm.bayes.posterior import BayesFit
    from bayes_lsm.bayes.prediction.clustered_effects import LevelEffects
    from bayes_lsm.bayes.prediction.clustered_heterogeneity import LevelHeterogeneity
    from bayes_lsm.bayes.prediction.clustered_prediction import LevelPrediction
    from bayes_lsm.bayes.prediction.probability import Direction, Probability
    from bayes_lsm.bayes.sensitivity.sensitivity import Sensitivity
    from bayes_lsm.bayes.summaries.intervals import Interval
    from bayes_lsm.contrasts import ContrastInterval, Measure, ScaleFunctions
    from bayes_lsm.design.clusters import Cluster
    from bayes_lsm.priors import PresetName


@dataclass(frozen=True, eq=False)
class ClusteredBayesFit(PosteriorSummaries):
    """A Bayesian fit of a model with several scale terms.

    Attributes
    ----------
    design : Design
    priors : Priors
    beta : ndarray, shape (draws, p)
        Draws of the location coefficients.
    terms : mapping of str to TermDraws
        The scale terms by their grouping.
    importance : Importance or None
        Of the collapsed engine: how good the draws are; log marginal likelihood.
    seed : int
    problems : tuple of str
        Why the draws should not be trusted, each with its remedy; empty when all is well.
    chains : int
        Of NUTS; the draws of one stand after those of the other.
    stats : mapping of str to ndarray, shape (chains, draws of a chain)
        What NUTS says of each draw (``diverging``, ``energy``, …).
    """

    design: Design
    priors: Priors
    beta: Array
    terms: Mapping[str, TermDraws]
    importance: Importance | None
    seed: int
    problems: tuple[str, ...]
    chains: int = 1
    stats: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    @cached_property
    def convergence(self) -> pd.DataFrame:  # type: ignore[override]
        """How well each number is known, indexed by part and term."""
        by_chain = {
            part: (names, values.reshape(self.chains, -1, len(names)))
            for part, (names, values) in self.parts().items()
        }
        return convergence_of(by_chain, self.importance)

    def parts(self) -> dict[str, tuple[tuple[str, ...], Array]]:
        """What was estimated: of each part of the model the terms, and draws (draws, terms)."""
        parts = {"location": (self.design.location.names, self.beta)}
        for name, each in self.terms.items():
            parts[f"scale ({name})"] = (each.term.names, each.alpha)
        for name, each in self.terms.items():
            if each.random:
                columns = tuple(random.of.column for random in each.random)
                sds = np.column_stack([random.sd for random in each.random])
                parts[f"scale_sd ({name})"] = (columns, sds)
            for random in each.random:
                key = f"scale_effect ({name}: {random.of.column})"
                parts[key] = (random.of.levels, random.effect)
        for name, each in self.terms.items():
            if each.pairs[0]:
                parts[f"correlation ({name})"] = each.pairs
        return parts

    @cached_property
    def posterior(self) -> DataTree:
        """The draws as an ArviZ DataTree, with the names of `build_pymc_model`.

        Groups posterior (``location``, ``scale`` and, where the model has them, ``correlation``,
        ``scale_sd`` and ``scale_effect``) and, of NUTS, sample_stats. The terms of ``scale`` and
        ``correlation`` are named ``"district: intrcpt"``.
        """
        import arviz as az

        terms = list(self.terms.values())
        random = [each for term in terms for each in term.random]
        pairs = [term.pairs[1] for term in terms if term.pairs[0]]
        found = {
            "location": [self.beta],
            "scale": [term.alpha for term in terms],
            "correlation": pairs,
            "scale_sd": [each.sd[:, None] for each in random],
            "scale_effect": [each.effect for each in random],
        }
        values = {name: np.concatenate(parts, axis=1) for name, parts in found.items() if parts}
        groups: dict[str, Any] = {
            "posterior": {
                name: each.reshape(self.chains, -1, each.shape[1]) for name, each in values.items()
            }
        }
        if self.stats:
            groups["sample_stats"] = dict(self.stats)
        coords = {
            "location_term": list(self.design.location.names),
            "scale_term": scale_names(self.design),
            "pair": pair_names(self.design),
            "scale_random": random_names(self.design),
            "scale_level": level_names(self.design),
        }
        dims = dict(zip(found, ([dim] for dim in coords), strict=True))
        tree: DataTree = az.from_dict(
            groups,
            dims={name: dims[name] for name in values},
            coords={dims[name][0]: coords[dims[name][0]] for name in values},
        )
        return tree

    @property
    def location(self) -> pd.DataFrame:
        """Location coefficients: mean, median, sd, … (see `summary`); one row a term."""
        return self.summary().loc[["location"]].droplevel("part")

    @property
    def scale(self) -> pd.DataFrame:
        """Scale coefficients of ln τ², indexed by grouping and term; columns as those of `summary`.

        The SDs and effects of random intercepts, and correlations, are in `summary`.
        """
        summary = self.summary()
        tables = {name: summary.loc[f"scale ({name})"] for name in self.terms}
        return pd.concat(tables, names=["grouping", "term"])

    @property
    def tau2(self) -> dict[str, Array]:
        """Posterior median of τ² of each scale term's groups, shapes (G, s): s effects a group."""
        return {name: each.tau2 for name, each in self.terms.items()}

    def heterogeneity(
        self, *, level: float = 0.95, interval: Interval = "eti"
    ) -> LevelHeterogeneity:
        """τ², τ and I² of each scale term.

        See `bayes_lsm.bayes.prediction.clustered_heterogeneity.level_heterogeneity`.
        """
        from bayes_lsm.bayes.prediction.clustered_heterogeneity import level_heterogeneity

        return level_heterogeneity(self, level=level, interval=interval)

    def predict(
        self,
        new_data: pd.DataFrame | None = None,
        *,
        terms: Sequence[str] | None = None,
        known: Sequence[str] = (),
        variance: float | Sequence[float] | None = None,
        level: float = 0.95,
        interval: Interval = "eti",
    ) -> LevelPrediction:
        """Mean, true and observed effects in new groups or in known ones.

        See `bayes_lsm.bayes.prediction.clustered_prediction.predict_levels`.
        """
        from bayes_lsm.bayes.prediction.clustered_prediction import predict_levels

        return predict_levels(
            self,
            new_data,
            terms=terms,
            known=known,
            variance=variance,
            level=level,
            interval=interval,
        )

    def new_effects(
        self,
        new_data: pd.DataFrame | None = None,
        *,
        terms: Sequence[str] | None = None,
        known: Sequence[str] = (),
        variance: float | Sequence[float] | None = None,
        seed: int | None = None,
    ) -> Array:
        """Draws of such effects; see `new_effects`."""
        from bayes_lsm.bayes.prediction.clustered_prediction import new_effects

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
        """P(an effect lies beyond a threshold).

        See `bayes_lsm.bayes.prediction.clustered_probability.level_probability`.
        """
        from bayes_lsm.bayes.prediction.clustered_probability import level_probability

        return level_probability(
            self, beyond, new_data, terms=terms, known=known, direction=direction
        )

    def blup(self, *, level: float = 0.95, interval: Interval = "eti") -> LevelEffects:
        """The effects of the groups of every scale term.

        See `bayes_lsm.bayes.prediction.clustered_effects.level_effects`.
        """
        from bayes_lsm.bayes.prediction.clustered_effects import level_effects

        return level_effects(self, level=level, interval=interval)

    def true_effects(self, *, terms: Sequence[str] | None = None, seed: int | None = None) -> Array:
        """Draws of the rows' true effects; see `true_effects`."""
        from bayes_lsm.bayes.prediction.clustered_effects import true_effects

        return true_effects(self, terms=terms, seed=seed)

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
        """Linear functions of the scale coefficients of all terms, for `bayes_lsm.contrasts`.

        See `scale_functions`. Random intercepts of ln τ² are at 0.
        """
        from bayes_lsm.bayes.prediction.contrasts import scale_functions

        alphas = np.hstack([each.alpha for each in self.terms.values()])
        return scale_functions(
            alphas, rows, measure=measure, method=method, level=level, compared=compared
        )

    def loo(
        self, *, cluster: Cluster | None = None, seed: int | None = None, progress: bool = True
    ) -> Elpd:
        """Leave each cluster out in turn by exact refits; see `clustered_loo`."""
        from bayes_lsm.bayes.cross_validation.clustered_loo import loo

        return loo(self, cluster=cluster, seed=seed, progress=progress)

    def psis_loo(self, *, cluster: Cluster | None = None, progress: bool = True) -> Elpd:
        """The same by importance sampling; see `psis_loo`."""
        from bayes_lsm.bayes.cross_validation.clustered_loo import psis_loo

        return psis_loo(self, cluster=cluster, progress=progress)

    def kfold(
        self,
        k: int = 10,
        *,
        cluster: Cluster | None = None,
        seed: int | None = None,
        progress: bool = True,
    ) -> Elpd:
        """Leave folds of clusters out by exact refits; see `clustered_loo`."""
        from bayes_lsm.bayes.cross_validation.clustered_loo import kfold

        return kfold(self, k, cluster=cluster, seed=seed, progress=progress)

    def waic(self, *, cluster: Cluster | None = None) -> Elpd:
        """The widely applicable information criterion; see `waic`."""
        from bayes_lsm.bayes.cross_validation.clustered_loo import waic

        return waic(self, cluster=cluster)

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

    def study_weights(self) -> NoReturn:
        """Say that there are none: no effects have the tails of a t."""
        raise FitError(
            "study_weights is of Student-t study effects, which models with several scale terms do "
            "not have: their effects are normal, and each group counts as its variances say"
        )

    def to_netcdf(self, path: str | Path) -> Path:
        """Save `posterior`; ``arviz.from_netcdf`` reads it back."""
        self.posterior.to_netcdf(str(path))
        return Path(path)

    @cached_property
    def evidence(self) -> Evidence:
        """Marginal likelihood with its error; see `bayes_lsm.bayes.evidence.clustered_evidence`."""
        from bayes_lsm.bayes.evidence.clustered_evidence import evidence

        return evidence(self)

    @property
    def log_evidence(self) -> float:
        """Log marginal likelihood ln p(y); its Monte Carlo error is ``evidence.se``."""
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

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any table of the fit has to know."""
        draws = len(self.beta)
        if self.importance is None:
            each = draws // self.chains
            how = f"NUTS, {self.chains} chains of {each} draws, seed {self.seed}"
        else:
            worth = f"worth {self.importance.ess:.0f} independent ones"
            how = f"{draws} draws, β integrated out ({worth}), seed {self.seed}"
        priors = self.priors
        if priors.scale_sd is None and any(term.random for term in self.terms.values()):
            priors = priors.model_copy(update={"scale_sd": DEFAULT_SCALE_SD})
        made = f"{how}; priors: {priors.describe()}"
        return (made, *self.problems, *self.design.notes)
