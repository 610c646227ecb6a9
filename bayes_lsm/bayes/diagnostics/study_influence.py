"""How far each study moves the posterior.

The posterior without a study is that of all draws with weights 1/p(y_i | α, β), Pareto-smoothed;
where those cannot be trusted the model is refitted without the study. What is compared are medians,
in units of the posterior SD (1.4826 MAD): means and SDs hang on the tails, which a weakly
identified scale coefficient has long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.bayes.cross_validation.loo import checked_studies, densities
from bayes_lsm.bayes.engines.diagnostics import LARGEST_PARETO_K
from bayes_lsm.bayes.engines.direct import can_sample, sample_directly
from bayes_lsm.bayes.engines.pareto import smooth_weights
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.student.effects import df_prior
from bayes_lsm.design.subsets import Array
from bayes_lsm.progress import track

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior

# The SD of a normal distribution is that many times its median absolute deviation.
MAD_TO_SD = 1.482602218505602
_FEW = 5


def study_influence(fit: Posterior, *, progress: bool = True) -> pd.DataFrame:
    """What becomes of the coefficients without each study.

    Parameters
    ----------
    fit : BayesFit
    progress : bool, default True
        Show a progress bar on standard error while more than a few refits are made.

    Returns
    -------
    DataFrame
        One row a study; a column for each coefficient, such as ``scale[weeks]``, and where it is
        estimated ``study_effects[df]``: its median without the study minus that with it, in
        posterior SDs; of ν in those of ln ν. refitted: whether by a refit.

    Raises
    ------
    FitError
        For a single study.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(seed=1)
    >>> study_influence(fit)["scale[intrcpt]"].abs().idxmax()
    'row 6'

    """
    studies = checked_studies(fit)
    medians = Medians(fit.parts())
    without = np.empty((len(studies.names), len(medians.names)))
    k = np.empty(len(studies.names))
    for u, density, _, _ in densities(fit, studies):
        log_weights, k[u] = smooth_weights(-density)
        without[u] = medians.weighted(log_weights)
    refitted = ~(k <= LARGEST_PARETO_K)
    priors, df = resolve_priors(fit.design, fit.priors), df_prior(fit.design, fit.priors)
    if can_sample(fit.design, priors, df):
        again = np.flatnonzero(refitted)
        for u in track(again.tolist(), "Refitting", progress=progress and len(again) > _FEW):
            left = np.setdiff1d(np.arange(len(fit.design.y)), studies.rows[u])
            own = sample_directly(
                fit.design.keep(left),
                priors,
                df,
                draws=len(fit.draws.flat_location),
                seed=fit.seed,
            ).parts(fit.design)
            without[u] = Medians(
                {name: (terms, each.reshape(-1, len(terms))) for name, (terms, each) in own.items()}
            ).here
    else:
        refitted[:] = False
    index = pd.Index(studies.names, name="study")
    return pd.DataFrame(medians.shifts(without), index, medians.names).assign(refitted=refitted)


class Medians:
    """Medians of everything that was estimated, and how far others are from them.

    Parameters
    ----------
    parts : mapping of str to names and draws (draws, terms)
        As `BayesFit.parts` has them. Effects of random intercepts are not among the medians.
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
    return np.log(values) if part == "study_effects" else values


def _weighted_medians(ordered: Array, weights: Array) -> Array:
    """Of each column of sorted values (S, c), with the weights of its values (S, c)."""
    at = np.argmax(np.cumsum(weights, axis=0) >= 0.5, axis=0)
    return np.asarray(ordered[at, np.arange(ordered.shape[1])])
