"""Predictions from posterior draws: the mean effect, true effects, observed effects, and τ.

Given the draws a true effect is normal (`prediction_points`), so that its posterior predictive
distribution is a mixture of normals over them, and so is that of an observed effect. Equal-tailed
intervals solve their distribution functions: no further noise comes in. The observed effect of a
study with a Student-t effect has no distribution function in closed form; its weights λ are spread
so evenly that they add little noise.

The estimate is the posterior median: it stays finite where a mean does not, and commutes with
exp(). Quantiles of τ are those of ln τ².
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.bayes.prediction.prediction_points import PredictionPoints, points_of, tabulate
from bayes_lsm.bayes.summaries.intervals import (
    NO_VARIANCE,
    Interval,
    bounds,
    check_interval,
    how,
    mixture_bounds,
    tau_summaries,
)
from bayes_lsm.choices import seed_or
from bayes_lsm.links import tau2_from_log
from bayes_lsm.predictions import Prediction as Prediction
from bayes_lsm.results import model_title


def predict(
    fit: Posterior,
    new_data: pd.DataFrame | None = None,
    *,
    terms: Sequence[str] | None = None,
    known: Sequence[str] = (),
    variance: float | Sequence[float] | None = None,
    level: float = 0.95,
    interval: Interval = "eti",
) -> Prediction:
    """The mean effect, τ, and prediction intervals for effects in new groups, or in known ones.

    Parameters
    ----------
    fit : BayesFit
    new_data : DataFrame, optional
        One row for each prediction, with every column that the formulas use. By default the rows of
        the data: new studies, or groups, like them.
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
    Prediction
        Columns estimate (posterior median), sd, ci_lb, ci_ub of the mean effect x'β; with known
        groups effect, the median of the true effect; pi_lb, pi_ub of the true effect; obs_lb,
        obs_ub of the observed one, given `variance`; with several scale terms τ² of each whose
        groups are new; and tau2 of all of these, tau, tau_ci_lb, tau_ci_ub (posterior medians).
        Effects are in units of y. With Student-t effects τ is their scale, not their SD.

    Raises
    ------
    FitError
        For an unknown scale term, a level outside (0, 1) or an unknown interval.
    DataError
        For a column, a value or a known group that is missing, or a variance that is not > 0.

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

    A new school in a district that was seen:

    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)
    >>> new = pd.DataFrame({"district": [11, 27], "year": 1990})
    >>> found = predict(fit, new, known=["district"]).table
    >>> found[["estimate", "effect"]].round(1).to_numpy().tolist()
    [[0.2, -0.0], [0.2, 0.5]]

    References
    ----------
    Higgins, J. P. T., Thompson, S. G., & Spiegelhalter, D. J. (2009). A re-evaluation of
    random-effects meta-analysis. Journal of the Royal Statistical Society A, 172(1), 137-159.
    doi:10.1111/j.1467-985X.2008.00552.x
    """
    check_interval(level, interval)
    points = points_of(fit, new_data, terms=terms, known=known, variance=variance)
    effects, several = ConditionalEffects(fit.design, fit.draws), len(fit.terms) > 1

    def summarise(some: PredictionPoints) -> dict[str, Array]:
        found = some.effect(effects)
        columns = {"estimate": np.median(found.mean, axis=1), "sd": found.mean.std(axis=1, ddof=1)}
        columns["ci_lb"], columns["ci_ub"] = bounds(found.mean.T, level=level, interval=interval)
        variance = found.variance
        if found.spread is not None:
            columns["effect"] = _mixture_medians(found.centre, np.sqrt(variance))
        of_effects = {"pi": variance}
        if some.v is not None:
            of_effects["obs"] = variance + some.v[:, None]
        for name, each in of_effects.items():
            columns[f"{name}_lb"], columns[f"{name}_ub"] = mixture_bounds(
                found.centre, np.sqrt(each), level=level, interval=interval
            )
        for name, eta in found.log_tau2.items() if several else ():
            columns[f"tau2 ({name})"] = tau2_from_log(np.median(eta, axis=1))
        if found.log_tau2:
            tau = tau_summaries(found.log_total, _TAU, level=level, interval=interval)
            columns |= {"tau2": tau["tau"] ** 2, **tau}
        return columns

    title = f"Predictions of a {model_title(fit.design, how(fit.label, level, interval))}"
    remarks = (*points.remarks, *fit.notes)
    return Prediction(title, tabulate(fit, points, summarise), remarks, level, interval)


_TAU = {"tau": np.sqrt}


def predict_tau(
    fit: Posterior,
    new_data: pd.DataFrame | None = None,
    *,
    terms: Sequence[str] | None = None,
    level: float = 0.95,
    interval: Interval = "eti",
) -> Prediction:
    """ln τ², τ² and τ at some values of the scale moderators.

    Parameters
    ----------
    fit : BayesFit
    new_data, terms, level, interval
        As in `predict`: the location moderators change nothing here, but must be there, and the
        variances of the scale terms are added.

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
    check_interval(level, interval)
    points = points_of(fit, new_data, terms=terms, known=())

    def summarise(some: PredictionPoints) -> dict[str, Array]:
        eta = np.maximum(some.log_variances(fit.terms)[1], NO_VARIANCE)
        columns = {"estimate": np.median(eta, axis=1), "sd": eta.std(axis=1, ddof=1)}
        columns["ci_lb"], columns["ci_ub"] = bounds(eta.T, level=level, interval=interval)
        measures = {"tau2": np.positive, **_TAU}
        return {**columns, **tau_summaries(eta, measures, level=level, interval=interval)}

    table = tabulate(fit, points, summarise)
    of_logs = ["estimate", "ci_lb", "ci_ub"]
    table[of_logs] = table[of_logs].where(table[of_logs] > NO_VARIANCE, -np.inf)
    title = f"ln τ², τ² and τ of a {model_title(fit.design, how(fit.label, level, interval))}"
    return Prediction(title, table, (*points.remarks, *fit.notes), level, interval)


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
        As in `predict`.
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
        As `predict`.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("bcg").fit_bayes(seed=1)
    >>> new_effects(fit, pd.DataFrame({"ablat": [20, 40]})).shape
    (4, 1000, 2)
    """
    points = points_of(fit, new_data, terms=terms, known=known, variance=variance)
    effects = ConditionalEffects(fit.design, fit.draws)
    rng = np.random.default_rng(seed_or(fit.seed, seed))
    parts = [
        some.effect(effects).draw(np.zeros(1) if some.v is None else some.v, rng)
        for some in points.blocks(fit.draws.size)
    ]
    return np.concatenate(parts, axis=1).reshape(fit.draws.chains, -1, len(points.index))


def row_tau2(fit: Posterior) -> Array:
    """Posterior median of the variance of each row's true effect, shape (n,).

    The diagonal of Σ_l A_l D_l A_l', with D_l the covariance of a term's effects. It is the median
    of the logarithm, as τ² itself spans orders of magnitude.
    """

    def summarise(some: PredictionPoints) -> dict[str, Array]:
        return {"tau2": tau2_from_log(np.median(some.log_variances(fit.terms)[1], axis=1))}

    rows = points_of(fit, None, terms=list(fit.terms), known=())
    return tabulate(fit, rows, summarise)["tau2"].to_numpy()


def _mixture_medians(centre: Array, sd: Array) -> Array:
    """Medians (m,) of mixtures of normals, one a row, a component for each draw (m, S)."""
    from bayes_lsm.bayes.summaries.normal_mixture import quantiles

    half = np.array([0.5])
    found = quantiles(ndtri(half), half, np.ascontiguousarray(centre), np.ascontiguousarray(sd))
    return np.asarray(found[:, 0])
