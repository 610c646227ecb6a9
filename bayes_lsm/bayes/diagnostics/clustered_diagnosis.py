"""What `diagnosis` asks of a model with several scale terms: clusters left out, and what follows.

The posterior without a cluster is that of all draws with weights 1/p(y_cluster | β, α, …),
Pareto-smoothed; where those cannot be trusted the model is refitted without the cluster. The
effects of a cluster depend on each other, so that their PIT are taken one after another (Rosenblatt
1952, doi:10.1214/aoms/1177729394), each given the other clusters and those before it in its own,

    P(new effect_i ≤ y_i | y_left, y_1, …, y_i−1)

which are independent and uniform where the model is right, as those of studies are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtr, softmax

from bayes_lsm.bayes.cross_validation.elpd import Elpd
from bayes_lsm.bayes.cross_validation.level_integrals import LevelIntegrals
from bayes_lsm.bayes.cross_validation.loo import loo, psis_loo
from bayes_lsm.bayes.diagnostics.study_influence import Medians
from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.engines.collapsed import can_collapse, sample_collapsed
from bayes_lsm.bayes.engines.diagnostics import LARGEST_PARETO_K
from bayes_lsm.bayes.engines.pareto import smooth_weights
from bayes_lsm.bayes.posterior_sampling import draw_posterior
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.errors import ConvergenceWarning, FitError
from bayes_lsm.progress import track

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior
    from bayes_lsm.design.design import Design
    from bayes_lsm.specification import Engine

_FEW = 5


class Clusters:
    """A model of several scale terms."""

    def __init__(self, fit: Posterior) -> None:
        self._fit = fit

    def leave_out(self, *, seed: int | None, progress: bool) -> tuple[Elpd | None, list[str]]:
        """By exact refits where they are to be had, else by importance sampling, or not at all."""
        with warnings.catch_warnings():
            # What they warn of becomes a finding.
            warnings.simplefilter("ignore", ConvergenceWarning)
            refused = "those of random intercepts of ln τ² are slow; see loo()"
            try:
                if not any(term.random for term in self._fit.design.terms):
                    return self._said(loo(self._fit, seed=seed, progress=progress))
            except FitError as error:
                refused = str(error)
            try:
                left_out, said = self._said(psis_loo(self._fit, progress=progress))
            except FitError:
                return None, [f"no cluster was left out: {refused}"]
            return left_out, [*said, f"without refits, by importance sampling: {refused}"]

    @staticmethod
    def _said(left_out: Elpd) -> tuple[Elpd, list[str]]:
        unit = left_out.studies.unit
        return left_out, [
            f"LOO-PIT and z are of each effect given the data without its {unit}, and the effects "
            f"before it in that {unit}"
        ]

    def influence(self, left_out: Elpd, *, progress: bool) -> tuple[Elpd, pd.DataFrame]:
        """The same with PIT that are independent, and how far medians move."""
        fit, studies = self._fit, left_out.studies
        medians = Medians(fit.parts())
        without = np.empty((len(studies.names), len(medians.names)))
        pit = np.empty(len(fit.design.y))
        refitted = np.zeros(len(studies.names), dtype=bool)
        scores: Callable[[npt.NDArray[np.intp]], tuple[Array, Array]] = partial(
            _scores, fit.design, fit.draws
        )
        if any(term.random for term in fit.design.terms):
            scores = LevelIntegrals(fit.design, fit.draws).in_order
        slow = progress and len(studies.names) > _FEW
        for u in track(range(len(studies.names)), "Leaving clusters out", progress=slow):
            rows = studies.rows[u]
            z, log_density = scores(rows)
            log_weights, k = smooth_weights(-log_density.sum(axis=1))
            if not k <= LARGEST_PARETO_K and left_out.criterion == "loo":
                refitted[u] = True
                again = self._refit(rows)
                z, log_density = _scores(fit.design, again, rows)
                log_weights = np.zeros(len(z))
                parts = again.parts(fit.design)
                without[u] = Medians(
                    {
                        part: (names, values.reshape(-1, len(names)))
                        for part, (names, values) in parts.items()
                    }
                ).here
            else:
                without[u] = medians.weighted(log_weights)
            pit[rows] = one_after_another(z, log_density, log_weights)
        index = pd.Index(studies.names, name=studies.unit)
        table = pd.DataFrame(medians.shifts(without), index, medians.names)
        return replace(left_out, pit=pit), table.assign(refitted=refitted)

    def other_engine(self, *, seed: int, progress: bool) -> pd.DataFrame | None:
        """median and mcse_median of all that was estimated by the engine that was not used."""
        fit = self._fit
        engine: Engine = "nuts" if fit.importance is not None else "collapsed"
        if engine == "collapsed" and not self._collapses:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            other = draw_posterior(
                fit.design,
                prior=fit.priors,
                engine=engine,
                draws=fit.draws.size,
                seed=seed,
                progress=progress,
            )
        return other.summary()

    @property
    def _collapses(self) -> bool:
        design = self._fit.design
        plain = not any(term.random for term in design.terms)
        return plain and can_collapse(resolve_priors(design, self._fit.priors))

    def _refit(self, rows: npt.NDArray[np.intp]) -> Draws:
        """Without these rows, with the priors of all."""
        fit = self._fit
        priors = resolve_priors(fit.design, fit.priors)
        kept = np.ones(len(fit.design.y), dtype=bool)
        kept[rows] = False
        left = fit.design.keep(kept)
        return sample_collapsed(left, priors, draws=fit.draws.size, seed=fit.seed)


def one_after_another(z: Array, log_density: Array, log_weights: Array) -> Array:
    """PIT (n,) of effects with scores z (S, n), each weighted by the densities of those before."""
    before = np.cumsum(log_density, axis=1) - log_density
    weights = softmax(log_weights[:, None] + before, axis=0)
    return np.asarray(np.sum(weights * ndtr(z), axis=0))


def _scores(design: Design, draws: Draws, rows: npt.NDArray[np.intp]) -> tuple[Array, Array]:
    """Of some rows by themselves under each draw; see `ConditionalEffects.scores_in_order`."""
    chosen = np.zeros(len(design.y), dtype=bool)
    chosen[rows] = True
    return ConditionalEffects(design.keep(chosen), draws).scores_in_order()
