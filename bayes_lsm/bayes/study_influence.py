"""How far each study moves the posterior.

The posterior without a study is that of all draws with weights 1/p(y_i | α, β), Pareto-smoothed;
where those cannot be trusted the model is refitted without the study. What is compared are medians,
in units of the posterior SD (1.4826 MAD): means and SDs hang on the tails, which a weakly
identified scale coefficient has long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_lsm.bayes.diagnostics import LARGEST_PARETO_K
from bayes_lsm.bayes.direct import can_sample, sample_directly
from bayes_lsm.bayes.graph import resolve_priors
from bayes_lsm.bayes.loo import checked_studies, densities
from bayes_lsm.bayes.pareto import smooth_weights
from bayes_lsm.bayes.student import df_prior
from bayes_lsm.bayes.subsets import Array, take_rows
from bayes_lsm.bayes.tracking import track

if TYPE_CHECKING:
    from bayes_lsm.bayes.fit import BayesFit

# The SD of a normal distribution is that many times its median absolute deviation.
MAD_TO_SD = 1.482602218505602
_FEW = 5


def study_influence(fit: BayesFit, *, progress: bool = True) -> pd.DataFrame:
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
    names = [f"{part}[{term}]" for part, (terms, _) in fit.parts().items() for term in terms]
    draws = np.hstack([_measured(part, values) for part, (_, values) in fit.parts().items()])
    median = np.median(draws, axis=0)
    sd = MAD_TO_SD * np.median(np.abs(draws - median), axis=0)
    order = np.argsort(draws, axis=0)
    ordered = np.take_along_axis(draws, order, axis=0)
    without = np.empty((len(studies.names), len(names)))
    k = np.empty(len(studies.names))
    for u, density, _ in densities(fit, studies):
        log_weights, k[u] = smooth_weights(-density)
        without[u] = _weighted_medians(ordered, np.exp(log_weights)[order])
    refitted = ~(k <= LARGEST_PARETO_K)
    priors, df = resolve_priors(fit.design, fit.priors), df_prior(fit.design, fit.priors)
    if can_sample(priors, df):
        again = np.flatnonzero(refitted)
        for u in track(again.tolist(), "Refitting", progress=progress and len(again) > _FEW):
            left = np.setdiff1d(np.arange(len(fit.design.y)), studies.rows[u])
            own = sample_directly(
                take_rows(fit.design, left), priors, df, draws=len(draws), seed=fit.seed
            ).parts(fit.design)
            medians = [
                np.median(_measured(part, values), axis=(0, 1)) for part, (_, values) in own.items()
            ]
            without[u] = np.concatenate(medians)
    else:
        refitted[:] = False
    index = pd.Index(studies.names, name="study")
    return pd.DataFrame((without - median) / sd, index, names).assign(refitted=refitted)


def _measured(part: str, values: Array) -> Array:
    """ν by its logarithm, as it is positive and has a long tail; all else as it is."""
    return np.log(values) if part == "study_effects" else values


def _weighted_medians(ordered: Array, weights: Array) -> Array:
    """Of each column of sorted values (S, c), with the weights of its values (S, c)."""
    at = np.argmax(np.cumsum(weights, axis=0) >= 0.5, axis=0)
    return np.asarray(ordered[at, np.arange(ordered.shape[1])])
