"""Predictions from posterior draws: the mean effect, τ, and the effect of a new study.

Given the coefficients the true effect of a new study is Normal(x'β, τ²(z'α)), and its observed
effect Normal(x'β, τ²(z'α) + v). Their posterior predictive distributions are the mixtures of these
normals over the draws; equal-tailed intervals solve their distribution functions, so that no
further noise comes in. With Student-t study effects the true effect has the variance τ²/λ, where
λ ~ Gamma(ν/2, ν/2), one λ for each draw: the observed effect of such a study has no distribution
function in closed form, and the λ are spread so evenly that they add little noise.

Tables have the columns of `prediction`, with the posterior median as the estimate:
it stays finite where a mean does not, and commutes with exp().
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_lsm.bayes.draws import Array, row_blocks
from bayes_lsm.bayes.student.effects import new_weights, require_normal_effects, sample_effects
from bayes_lsm.bayes.summaries.intervals import (
    Interval,
    bounds,
    check_interval,
    mixture_bounds,
    tau_summaries,
)
from bayes_lsm.errors import DataError, FitError
from bayes_lsm.links import tau2_from_log
from bayes_lsm.results import ResultTable, model_title

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior
    from bayes_lsm.bayes.prediction.clustered_prediction import LevelPrediction

INTERVALS = {"eti": "equal-tailed", "hdi": "highest-density"}


@dataclass(frozen=True, eq=False)
class Prediction(ResultTable):
    """Predictions at some values of the moderators: see `predict` and `predict_tau`.

    Attributes
    ----------
    table : DataFrame
        One row for each row of the new data.
    level : float
        Of the intervals.
    interval : {"eti", "hdi"}
    """

    interval: Interval = "eti"


@dataclass(frozen=True, eq=False)
class Points:
    """Where something is predicted: rows of X (m, p) and Z (m, q), and their names."""

    X: Array
    Z: Array
    index: pd.Index


def points_of(fit: Posterior, new_data: pd.DataFrame | None) -> Points:
    """The rows of new data, or the studies themselves."""
    if new_data is None:
        design = fit.design
        return Points(design.X, design.Z, pd.Index(design.labels, name="study"))
    new = fit.design.for_new_data(new_data)
    return Points(new.X, new.Z, pd.Index(new.labels))


def predict(
    fit: Posterior,
    new_data: pd.DataFrame | None = None,
    *,
    terms: Sequence[str] | None = None,
    known: Sequence[str] = (),
    variance: float | Sequence[float] | None = None,
    level: float = 0.95,
    interval: Interval = "eti",
) -> Prediction | LevelPrediction:
    """The mean effect, τ, and prediction intervals for the effect of a new study.

    Parameters
    ----------
    fit : BayesFit
    new_data : DataFrame, optional
        One row for each prediction, with every column that the location and the scale formula use.
        By default the studies themselves.
    terms : sequence of str, optional
        The scale terms whose effects are in the true effect, by their groupings; by default all but
        the residual of individual data. ``["district"]`` predicts the mean of a district.
    known : sequence of str, optional
        Those of them whose groups are the data's, as the columns of the grouping say in the new
        data. ``["district"]`` predicts a new school in a district that was seen.
    variance : float or sequence of float, optional
        Sampling variance of the new study, one for all rows or one for each: then its observed
        effect is predicted too.
    level : float, default 0.95
        Of all intervals.
    interval : {"eti", "hdi"}, default "eti"
        Equal-tailed, or of highest density.

    Returns
    -------
    Prediction, or of dependent effects LevelPrediction
        Columns estimate (posterior median), sd, ci_lb, ci_ub of the mean effect x'β; pi_lb, pi_ub
        of a new study's true effect; obs_lb, obs_ub of its observed effect, given `variance`; tau2,
        tau (posterior medians), tau_ci_lb, tau_ci_ub. Effects are in units of y. With Student-t
        study effects τ is their scale, not their SD.

    Raises
    ------
    FitError
        For a level outside (0, 1) or an unknown interval.
    DataError
        For a column or a value that is missing in the new data, or a variance that is not > 0.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg"), priors="slides"
    ... ).fit_bayes(draws=40_000, seed=1)
    >>> found = predict(fit, pd.DataFrame({"ablat": [20, 40]}), variance=0.05)
    >>> found.table[["estimate", "pi_lb", "pi_ub", "obs_lb", "obs_ub"]].round(1)
           estimate  pi_lb  pi_ub  obs_lb  obs_ub
    row 0      -0.3   -1.1    0.4    -1.2     0.5
    row 1      -0.9   -1.6   -0.2    -1.7    -0.1

    References
    ----------
    Higgins, J. P. T., Thompson, S. G., & Spiegelhalter, D. J. (2009). A re-evaluation of
    random-effects meta-analysis. Journal of the Royal Statistical Society A, 172(1), 137-159.
    doi:10.1111/j.1467-985X.2008.00552.x
    """
    if asks_for_levels(fit, terms, known):
        from bayes_lsm.bayes.prediction.clustered_prediction import predict_levels

        return predict_levels(
            fit,
            new_data,
            terms=terms,
            known=known,
            variance=variance,
            level=level,
            interval=interval,
        )
    check_interval(level, interval)
    points = points_of(fit, new_data)
    sampling = sampling_variance(variance, len(points.index))
    p, q = points.X.shape[1], points.Z.shape[1]
    weights = 1.0 if fit.draws.df is None else new_weights(fit.draws.flat_df)

    def summarise(rows: Array) -> dict[str, Array]:
        mean = rows[:, :p] @ fit.draws.flat_location.T
        eta = rows[:, p : p + q] @ fit.draws.flat_scale.T
        tau2 = tau2_from_log(eta)
        columns = {"estimate": np.median(mean, axis=1), "sd": mean.std(axis=1, ddof=1)}
        columns["ci_lb"], columns["ci_ub"] = bounds(mean.T, level=level, interval=interval)
        columns["pi_lb"], columns["pi_ub"] = mixture_bounds(
            mean, np.sqrt(tau2 / weights), level=level, interval=interval
        )
        if sampling is not None:
            columns["obs_lb"], columns["obs_ub"] = mixture_bounds(
                mean, np.sqrt(tau2 / weights + rows[:, p + q :]), level=level, interval=interval
            )
        tau = tau_summaries(eta, {"tau": np.sqrt}, level=level, interval=interval)
        return {**columns, "tau2": tau["tau"] ** 2, **tau}

    rows = np.c_[points.X, points.Z, *([] if sampling is None else [sampling])]
    table = by_distinct_rows(fit, rows, summarise).set_index(points.index)
    title = f"Predictions of a {model_title(fit.design, how(fit, level, interval))}"
    return Prediction(title, table, fit.notes, level, interval)


def predict_tau(
    fit: Posterior,
    new_data: pd.DataFrame | None = None,
    *,
    level: float = 0.95,
    interval: Interval = "eti",
) -> Prediction:
    """ln τ², τ² and τ at some values of the scale moderators.

    Parameters
    ----------
    fit : BayesFit
    new_data : DataFrame, optional
        One row for each prediction, with every column that the location and the scale formula use:
        the location moderators change nothing here, but must be there. By default the studies.
    level : float, default 0.95
    interval : {"eti", "hdi"}, default "eti"
        Equal-tailed, or of highest density, each on its own scale.

    Returns
    -------
    Prediction
        Columns estimate (posterior median), sd, ci_lb, ci_ub of ln τ²; tau2, tau2_ci_lb,
        tau2_ci_ub, tau, tau_ci_lb, tau_ci_ub.

    Raises
    ------
    FitError, DataError
        As `predict`.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ 1", scale="~ alloc", variance="vi", data=lsm.load_dataset("bcg")
    ... ).fit_bayes(prior="slides", draws=40_000, seed=1)
    >>> found = predict_tau(fit, pd.DataFrame({"alloc": ["random"]}))
    >>> found.table[["tau", "tau_ci_lb", "tau_ci_ub"]].round(1)
           tau  tau_ci_lb  tau_ci_ub
    row 0  0.6        0.3        1.4
    """
    if not fit.design.is_independent:
        raise FitError(
            f"predict_tau takes a fit with one scale term, got a {fit.design.kind}; with several "
            "there are predict, heterogeneity and blup"
        )
    check_interval(level, interval)
    points = points_of(fit, new_data)

    def summarise(rows: Array) -> dict[str, Array]:
        eta = rows @ fit.draws.flat_scale.T
        columns = {"estimate": np.median(eta, axis=1), "sd": eta.std(axis=1, ddof=1)}
        columns["ci_lb"], columns["ci_ub"] = bounds(eta.T, level=level, interval=interval)
        measures = {"tau2": np.positive, "tau": np.sqrt}
        return {**columns, **tau_summaries(eta, measures, level=level, interval=interval)}

    table = by_distinct_rows(fit, points.Z, summarise).set_index(points.index)
    title = f"ln τ², τ² and τ of a {model_title(fit.design, how(fit, level, interval))}"
    return Prediction(title, table, fit.notes, level, interval)


def new_effects(
    fit: Posterior,
    new_data: pd.DataFrame | None = None,
    *,
    terms: Sequence[str] | None = None,
    known: Sequence[str] = (),
    variance: float | Sequence[float] | None = None,
    seed: int | None = None,
) -> Array:
    """Draws of the true effect of a new study, or of its observed effect: one for each draw.

    Parameters
    ----------
    fit : BayesFit
    new_data, terms, known
        As in `predict`.
    variance : float or sequence of float, optional
        Sampling variance of the new study; with it observed effects are drawn.
    seed : int, optional
        By default that of the fit.

    Returns
    -------
    ndarray, shape (chains, draws, m)
        8 bytes each: 32 kB a row with 4000 draws.

    Raises
    ------
    DataError
        As `predict`.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("bcg").fit_bayes(seed=1)
    >>> new_effects(fit, pd.DataFrame({"ablat": [20, 40]})).shape
    (4, 1000, 2)
    """
    if asks_for_levels(fit, terms, known):
        from bayes_lsm.bayes.prediction import clustered_prediction

        return clustered_prediction.new_effects(
            fit, new_data, terms=terms, known=known, variance=variance, seed=seed
        )
    points = points_of(fit, new_data)
    sampling = sampling_variance(variance, len(points.index))
    mean = fit.draws.location @ points.X.T
    tau2 = tau2_from_log(fit.draws.scale @ points.Z.T)
    v = np.zeros(1) if sampling is None else sampling
    rng = np.random.default_rng(fit.seed if seed is None else seed)
    if fit.draws.df is not None:
        return sample_effects(mean, v, tau2, fit.draws.df, rng)
    return rng.normal(mean, np.sqrt(tau2 + v))


def row_tau2(fit: Posterior) -> Array:
    """Posterior median of the variance of each row's true effect, shape (n,).

    The diagonal of Σ_l A_l D_l A_l', with D_l the covariance of a term's effects. It is the median
    of the logarithm, as τ² itself spans orders of magnitude.
    """
    from bayes_lsm.bayes.prediction import points
    from bayes_lsm.bayes.prediction.clustered_prediction import by_distinct_points

    def summarise(some: points.Points) -> dict[str, Array]:
        variances = [each.variance(fit.terms[name]) for name, each in some.new.items()]
        total = np.sum(variances, axis=0)
        with np.errstate(divide="ignore"):  # a τ² of 0
            return {"tau2": np.exp(np.median(np.log(total), axis=1))}

    rows = points.points_of(fit, None, terms=list(fit.terms), known=())
    return by_distinct_points(fit, rows, summarise)["tau2"].to_numpy()


def asks_for_levels(fit: Posterior, terms: Sequence[str] | None, known: Sequence[str]) -> bool:
    """Whether effects of single scale terms, or in known groups, are asked for.

    Raises
    ------
    FitError
        Of Student-t study effects.
    """
    chosen = terms is not None or bool(known)
    if chosen:
        require_normal_effects(fit.design, "asking for terms or known groups")
    return chosen or not fit.design.is_independent


def sampling_variance(variance: float | Sequence[float] | None, rows: int) -> Array | None:
    """Sampling variances of new studies, one a row."""
    if variance is None:
        return None
    values = np.asarray(variance, dtype=float)
    if values.shape not in ((), (rows,)):
        raise DataError(
            f"variance must be one number or one for each of the {rows} rows, got shape "
            f"{values.shape}"
        )
    bad = values[~(np.isfinite(values) & (values > 0))]
    if bad.size:
        raise DataError(f"the sampling variance of a new study must be > 0, got {bad.flat[0]:g}")
    return np.full(rows, values) if values.ndim == 0 else values


def by_distinct_rows(
    fit: Posterior, rows: Array, summarise: Callable[[Array], dict[str, Array]]
) -> pd.DataFrame:
    """Summaries of the rows, a block at a time, and of equal rows once."""
    distinct, place = np.unique(rows, axis=0, return_inverse=True)
    blocks = row_blocks(len(distinct), len(fit.draws.flat_scale))
    found = pd.concat([pd.DataFrame(summarise(distinct[block])) for block in blocks])
    return found.iloc[place.reshape(-1)]


def how(fit: Posterior, level: float, interval: Interval) -> str:
    """For titles: ``Bayes; 95% equal-tailed intervals``."""
    return f"{fit.label}; {100 * level:g}% {INTERVALS[interval]} intervals"
