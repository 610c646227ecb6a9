"""How far each study, or cluster, moves the posterior, and where its effects lie without it.

The posterior without it is that of all draws with weights 1/p(y_left_out | β, α, …),
Pareto-smoothed; where those cannot be trusted the model is refitted without it. What is compared
are medians, in units of the posterior SD (1.4826 MAD): means and SDs hang on the tails, which a
weakly identified scale coefficient has long.

The effects of a study depend on each other, so that their PIT are taken one after another
(Rosenblatt 1952, doi:10.1214/aoms/1177729394), each given the other studies and those before it in
its own,

    P(new effect_i ≤ y_i | y_left, y_1, …, y_i−1)

which are independent and uniform where the model is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtr, softmax

from bayes_lsm.arrays import Array, Index
from bayes_lsm.bayes.cross_validation.elpd import Elpd
from bayes_lsm.bayes.cross_validation.level_integrals import LevelIntegrals
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.diagnostics import LARGEST_PARETO_K
from bayes_lsm.bayes.engines.direct import sample_directly
from bayes_lsm.bayes.engines.pareto import smooth_weights
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.design.design import Design
from bayes_lsm.progress import track

# The SD of a normal distribution is that many times its median absolute deviation.
MAD_TO_SD = 1.482602218505602
_FEW = 5


def study_influence(
    fit: Posterior, left_out: Elpd, *, progress: bool = True
) -> tuple[Elpd, pd.DataFrame]:
    """What becomes of the coefficients without each study.

    `left_out` is by ``fit.loo()`` or ``fit.psis_loo()``, of the studies or clusters that are meant;
    only with the first is a model refitted without one. It comes back with PIT that are
    independent, and a table of one row a study: a column for each coefficient, such as
    ``scale[weeks]``, its median without the study minus that with it, in posterior SDs (of ν in
    those of ln ν); and ``refitted``, whether by a refit.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(seed=1)
    >>> study_influence(fit, fit.loo())[1]["scale[intrcpt]"].abs().idxmax()
    'row 6'
    """
    studies, medians = left_out.studies, Medians(fit.parts())
    without = np.empty((len(studies.names), len(medians.names)))
    refitted = np.zeros(len(studies.names), dtype=bool)
    pit = None if left_out.pit is None else left_out.pit.copy()
    integrals = (
        LevelIntegrals(fit.design, fit.draws) if fit.draws.scale_effect is not None else None
    )
    slow = progress and len(studies.names) > _FEW
    for u in track(range(len(studies.names)), f"Leaving {studies.plural} out", progress=slow):
        rows = studies.rows[u]
        if integrals is not None:
            z, density = integrals.in_order(rows)
        else:
            z, density = _scores(fit.design, fit.draws, rows)
        log_weights, k = smooth_weights(-density.sum(axis=1))
        refitted[u] = left_out.criterion == "loo" and not k <= LARGEST_PARETO_K
        if refitted[u]:
            again = _refit(fit, rows)
            without[u] = Medians(again.parts(fit.design)).here
            if len(rows) > 1:
                z, density = _scores(fit.design, again, rows)
                log_weights = np.zeros(len(z))
        else:
            without[u] = medians.weighted(log_weights)
        if pit is not None and len(rows) > 1:
            pit[rows] = one_after_another(z, density, log_weights)
    index = pd.Index(studies.names, name=studies.unit)
    table = pd.DataFrame(medians.shifts(without), index, medians.names)
    return replace(left_out, pit=pit), table.assign(refitted=refitted)


def _scores(design: Design, draws: Draws, rows: Index) -> tuple[Array, Array]:
    """Of some rows by themselves under each draw; see `ConditionalEffects.scores_in_order`."""
    return ConditionalEffects(design.keep(rows), draws).scores_in_order()


def one_after_another(z: Array, log_density: Array, log_weights: Array) -> Array:
    """PIT (n,) of effects with scores z (S, n), each weighted by the densities of those before."""
    before = np.cumsum(log_density, axis=1) - log_density
    weights = softmax(log_weights[:, None] + before, axis=0)
    return np.asarray(np.sum(weights * ndtr(z), axis=0))


def _refit(fit: Posterior, rows: Index) -> Draws:
    """Without these rows, with the priors of all."""
    left = fit.design.keep(np.setdiff1d(np.arange(len(fit.design.y)), rows))
    priors = resolve_priors(fit.design, fit.priors)
    return sample_directly(left, priors, draws=fit.draws.size, seed=fit.seed)


class Medians:
    """Medians of everything that was estimated, and how far others are from them.

    `parts` is as `BayesFit.parts` or `Draws.parts` has it. Effects of random intercepts are not
    among the medians.
    """

    def __init__(self, parts: Mapping[str, tuple[Sequence[str], Array]]) -> None:
        kept = {part: each for part, each in parts.items() if not part.startswith("scale_effect")}
        self.names = [f"{part}[{term}]" for part, (terms, _) in kept.items() for term in terms]
        self._draws = np.hstack([_measured(part, values) for part, (_, values) in kept.items()])
        self.here = np.median(self._draws, axis=0)

    @cached_property
    def _ordered(self) -> tuple[npt.NDArray[np.intp], Array]:
        order = np.argsort(self._draws, axis=0)
        return order, np.take_along_axis(self._draws, order, axis=0)

    def weighted(self, log_weights: Array) -> Array:
        """With weights of the draws, normalised."""
        order, ordered = self._ordered
        return _weighted_medians(ordered, np.exp(log_weights)[order])

    def shifts(self, others: Array) -> Array:
        """Others less these, in posterior SDs."""
        sd = MAD_TO_SD * np.median(np.abs(self._draws - self.here), axis=0)
        return np.asarray((others - self.here) / sd)


def _measured(part: str, values: Array) -> Array:
    """ν by its logarithm, as it is positive and has a long tail; all else as it is."""
    flat = values.reshape(-1, values.shape[-1])
    return np.log(flat) if part == "study_effects" else flat


def _weighted_medians(ordered: Array, weights: Array) -> Array:
    """Of each column of sorted values (S, c), with the weights of its values (S, c)."""
    at = np.argmax(np.cumsum(weights, axis=0) >= 0.5, axis=0)
    return np.asarray(ordered[at, np.arange(ordered.shape[1])])
