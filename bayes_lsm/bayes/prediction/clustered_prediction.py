"""Predictions of models with several scale terms: the mean effect, true effects, observed effects.

Given the draws the true effect in a group is normal: around x'β where the group is new, around
x'β + a'û where it is known. Its posterior predictive distribution is the mixture of these normals
over the draws; equal-tailed intervals solve its distribution function, so that no further noise
comes in. A new level of a random intercept of ln τ² has one value for each draw, spread so evenly
that it adds little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.prediction.group_effects import GroupEffects
from bayes_lsm.bayes.prediction.points import Points, points_of
from bayes_lsm.bayes.prediction.prediction import how
from bayes_lsm.bayes.summaries.intervals import Interval, bounds, check_interval, mixture_bounds
from bayes_lsm.results import ResultTable, model_title

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior


@dataclass(frozen=True, eq=False)
class LevelPrediction(ResultTable):
    """Predictions at some values of the moderators: see `predict_levels`.

    Attributes
    ----------
    table : DataFrame
        One row for each row of the new data.
    level : float
        Of the intervals.
    interval : {"eti", "hdi"}
    """

    interval: Interval = "eti"


def predict_levels(
    fit: Posterior,
    new_data: pd.DataFrame | None = None,
    *,
    terms: Sequence[str] | None = None,
    known: Sequence[str] = (),
    variance: float | Sequence[float] | None = None,
    level: float = 0.95,
    interval: Interval = "eti",
) -> LevelPrediction:
    """The mean effect, and prediction intervals for true effects in new groups, or in known ones.

    Parameters
    ----------
    fit : BayesFit
    new_data : DataFrame, optional
        One row for each prediction, with every column that the formulas use. By default the rows of
        the data.
    terms : sequence of str, optional
        The scale terms whose effects are in the true effect, by their groupings; by default all but
        the residual of individual data. ``["district"]`` predicts the mean of a district.
    known : sequence of str, optional
        Those of them whose groups are the data's, as the columns of the grouping say in the new
        data. ``["district"]`` predicts a new school in a district that was seen.
    variance : float or sequence of float, optional
        Sampling variance, one for all rows or one for each: then the observed effect is predicted
        too.
    level : float, default 0.95
        Of all intervals.
    interval : {"eti", "hdi"}, default "eti"
        Equal-tailed, or of highest density.

    Returns
    -------
    LevelPrediction
        Columns estimate (posterior median), sd, ci_lb, ci_ub of the mean effect x'β; with known
        groups effect, the median of the true effect; pi_lb, pi_ub of the true effect; obs_lb,
        obs_ub of the observed one, given `variance`; posterior medians of τ² of each term whose
        groups are new, and of their sum, tau2, with its root tau and tau_ci_lb, tau_ci_ub. Effects
        are in units of y.

    Raises
    ------
    FitError
        For an unknown scale term, a level outside (0, 1) or an unknown interval.
    DataError
        For a column, a value or a known group that is missing, or a variance that is not > 0.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)
    >>> new = pd.DataFrame({"district": [11, 27], "year": 1990})
    >>> found = predict_levels(fit, new, known=["district"]).table
    >>> found[["estimate", "effect"]].round(1).to_numpy().tolist()
    [[0.2, -0.0], [0.2, 0.5]]
    """
    check_interval(level, interval)
    points = points_of(fit, new_data, terms=terms, known=known, variance=variance)
    effects = GroupEffects(fit.design, fit.draws)

    def summarise(some: Points) -> dict[str, Array]:
        found = some.effect(effects)
        mean = found.mean
        columns = {"estimate": np.median(mean, axis=1), "sd": mean.std(axis=1, ddof=1)}
        columns["ci_lb"], columns["ci_ub"] = bounds(mean.T, level=level, interval=interval)
        sd = np.sqrt(found.variance)
        if some.known is not None:
            columns["effect"] = mixture_medians(found.centre, sd)
        columns["pi_lb"], columns["pi_ub"] = mixture_bounds(
            found.centre, sd, level=level, interval=interval
        )
        if some.v is not None:
            sd = np.sqrt(found.variance + some.v[:, None])
            columns["obs_lb"], columns["obs_ub"] = mixture_bounds(
                found.centre, sd, level=level, interval=interval
            )
        for name, each in found.tau2.items():
            columns[f"tau2 ({name})"] = np.median(each, axis=1)
        if found.tau2:
            tau = np.sqrt(found.total)
            columns["tau2"] = np.median(found.total, axis=1)
            columns["tau"] = np.median(tau, axis=1)
            ends = bounds(tau.T, level=level, interval=interval)
            columns["tau_ci_lb"], columns["tau_ci_ub"] = ends
        return columns

    table = by_distinct_points(fit, points, summarise)
    title = f"Predictions of a {model_title(fit.design, how(fit, level, interval))}"
    return LevelPrediction(title, table, (*points.remarks, *fit.notes), level, interval)


def new_effects(
    fit: Posterior,
    new_data: pd.DataFrame | None = None,
    *,
    terms: Sequence[str] | None = None,
    known: Sequence[str] = (),
    variance: float | Sequence[float] | None = None,
    seed: int | None = None,
) -> Array:
    """Draws of true effects, or of observed ones: one a row for each draw of the coefficients.

    Parameters
    ----------
    fit : BayesFit
    new_data, terms, known
        As in `predict_levels`.
    variance : float or sequence of float, optional
        Sampling variance; with it observed effects are drawn.
    seed : int, optional
        By default that of the fit.

    Returns
    -------
    ndarray, shape (chains, draws, m)
        Each row is drawn by itself, given the coefficients: rows do not share new groups. 8 bytes
        each: 32 kB a row with 4000 draws.

    Raises
    ------
    FitError, DataError
        As `predict_levels`.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)
    >>> new = pd.DataFrame({"district": [11, 27], "year": 1990})
    >>> new_effects(fit, new, known=["district"]).shape
    (4, 1000, 2)
    """
    points = points_of(fit, new_data, terms=terms, known=known, variance=variance)
    effects = GroupEffects(fit.design, fit.draws)
    rng = np.random.default_rng(fit.seed if seed is None else seed)
    parts = []
    for some in points.blocks(fit.draws.size):
        found = some.effect(effects)
        v = 0.0 if some.v is None else some.v[:, None]
        parts.append(rng.normal(found.centre, np.sqrt(found.variance + v)).T)
    return np.concatenate(parts, axis=1).reshape(fit.draws.chains, -1, len(points.index))


def by_distinct_points(
    fit: Posterior, points: Points, summarise: Callable[[Points], dict[str, Array]]
) -> pd.DataFrame:
    """Summaries of the rows, a block at a time, and of equal rows once."""
    distinct, place = points.distinct()
    found = pd.concat(pd.DataFrame(summarise(some)) for some in distinct.blocks(fit.draws.size))
    return found.iloc[place].set_index(points.index)


def mixture_medians(centre: Array, sd: Array) -> Array:
    """Medians (m,) of mixtures of normals, one a row, a component for each draw (m, S)."""
    from bayes_lsm.bayes.summaries.normal_mixture import quantiles

    half = np.array([0.5])
    found = quantiles(ndtri(half), half, np.ascontiguousarray(centre), np.ascontiguousarray(sd))
    return np.asarray(found[:, 0])
