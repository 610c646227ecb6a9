"""Predictions at some moderators: the mean effect, a new true effect, and τ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array, Mask
from bayes_lsm.choices import require_choice, require_level
from bayes_lsm.design.frames import some
from bayes_lsm.design.new_data import NewData
from bayes_lsm.links import tau2_from_log
from bayes_lsm.predictions import Prediction, ScaleUncertainty
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.prediction.group_effects import how
from bayes_lsm.reml.prediction.predictive import predictive_interval
from bayes_lsm.reml.prediction.variances import (
    TermVariance,
    Total,
    is_identity,
    of_the_data,
    variances_at,
)
from bayes_lsm.reml.reference import Reference
from bayes_lsm.reml.uninformed import depends
from bayes_lsm.results import model_title

# A SE of ln τ² above this: the normal approximation to its distribution is poor.
VAGUE = 2.0


def predict(
    fit: Estimates,
    new_data: pd.DataFrame | None = None,
    *,
    terms: Sequence[str] | None = None,
    level: float = 0.95,
    scale_uncertainty: ScaleUncertainty = "propagated",
) -> Prediction:
    r"""The mean effect, and a prediction interval for the true effect of a new study, or group.

    By default the uncertainty of the variances is in the prediction interval (``"propagated"``): it
    holds the central `level` of

        θ_new ~ ∫ Normal(x'β̂(α), x'V_β(α)x + τ²(α)) dNormal(α; α̂, V_α),

    computed as `predictive` says, with τ² the sum of the chosen terms' variances. ``"plug-in"``
    takes α̂ for known, as metafor does: θ_new ~ Normal(x'β̂, x'V_β x + τ̂²). When the fit tests by t,
    t takes the place of Normal.

    Parameters
    ----------
    fit : RemlFit
    new_data : DataFrame, optional
        One row for each prediction, with every column that the formulas use. By default those of
        the data: new studies, or groups, like them.
    terms : sequence of str, optional
        The scale terms whose variances the new effect has, by their groupings; by default all but
        the residual of individual data. ``["district"]`` predicts the mean of a new district.
    level : float, default 0.95
        Of the confidence and prediction intervals.
    scale_uncertainty : {"propagated", "plug-in"}, default "propagated"

    Returns
    -------
    Prediction
        Columns estimate, se, ci_lb, ci_ub (of the mean effect), pi_lb, pi_ub (prediction interval),
        tau2, tau, tau_ci_lb, tau_ci_ub (Wald on the scale of the link; of a sum of variances by the
        delta method); before those τ² of each chosen term, where there are several. Effects are in
        units of y. Where a diverging coefficient makes τ² = 0, the prediction interval is that of
        the mean; where it leaves τ² undefined, or the data say nothing of it, numbers are missing.
        The notes say so.

    Raises
    ------
    FitError
        For an unknown scale term, a level outside (0, 1) or an unknown `scale_uncertainty`.
    DataError
        For a column or a value that is missing in the new data.

    Examples
    --------
    >>> from bayes_lsm import Specification, build_design, load_dataset
    >>> from bayes_lsm.reml import fit_reml
    >>> spec = Specification("yi ~ ablat", "vi", scale="~ ablat")
    >>> fit = fit_reml(build_design(spec, load_dataset("bcg")))
    >>> new = pd.DataFrame({"ablat": [20, 40]})
    >>> predict(fit, new).table[["estimate", "pi_lb", "pi_ub"]].round(2)
           estimate  pi_lb  pi_ub
    row 0     -0.33  -1.57   1.27
    row 1     -0.91  -1.72  -0.13
    >>> predict(fit, new, scale_uncertainty="plug-in").table[["pi_lb", "pi_ub"]].round(2)
           pi_lb  pi_ub
    row 0  -0.94   0.28
    row 1  -1.51  -0.32

    References
    ----------
    Viechtbauer, W., & López-López, J. A. (2022). Location-scale models for meta-analysis.
    Research Synthesis Methods, 13(6), 697-715. doi:10.1002/jrsm.1562
    """
    require_level(level)
    require_choice("scale_uncertainty", scale_uncertainty, ScaleUncertainty)
    points = _points(fit, new_data)
    parts = variances_at(fit, points, terms)
    total = Total.of(fit, list(parts.values()), len(points.X))
    quantile = Reference(fit.df_location).quantile(0.5 + level / 2)
    estimate = points.X @ fit.beta
    se = np.sqrt(np.einsum("ij,jk,ik->i", points.X, fit.vcov_location, points.X))
    se[depends(points.X, fit.blind_location)] = np.nan
    tau2 = _tau2(fit, total.predictor)
    if scale_uncertainty == "plug-in":
        half = quantile * np.sqrt(se**2 + np.where(np.isfinite(tau2), tau2, np.nan))
        lower, upper = estimate - half, estimate + half
    else:
        lower, upper = predictive_interval(fit, points.X, se, list(parts.values()), level)
    several = parts if len(fit.terms) > 1 else {}
    table = pd.DataFrame(
        {
            "estimate": estimate,
            "se": se,
            "ci_lb": estimate - quantile * se,
            "ci_ub": estimate + quantile * se,
            "pi_lb": lower,
            "pi_ub": upper,
            **{f"tau2 ({name})": _tau2(fit, each.predictor) for name, each in several.items()},
            "tau2": tau2,
            **_tau_columns(fit, total, level),
        },
        index=pd.Index(points.labels, name="study" if new_data is None else None),
    )
    words = f"{how(fit, level)}; uncertainty of τ² {_WHAT[scale_uncertainty]}"
    notes = (*_notes(fit, parts, points.labels, scale_uncertainty == "propagated"), *fit.notes)
    title = f"Predictions of a {model_title(fit.design, words)}"
    return Prediction(title, table, notes, level, scale_uncertainty=scale_uncertainty)


_WHAT = {"propagated": "propagated", "plug-in": "ignored"}


def predict_tau(
    fit: Estimates,
    new_data: pd.DataFrame | None = None,
    *,
    terms: Sequence[str] | None = None,
    level: float = 0.95,
) -> Prediction:
    """τ² and τ at some values of the scale moderators.

    Parameters
    ----------
    fit : RemlFit
    new_data : DataFrame, optional
        One row for each prediction, with every column that the formulas use: the location
        moderators change nothing here, but must be there. By default those of the data.
    terms : sequence of str, optional
        The scale terms whose variances are added, by their groupings; by default all but the
        residual of individual data.
    level : float, default 0.95

    Returns
    -------
    Prediction
        Columns estimate, se, ci_lb, ci_ub (of ln τ², or of τ² with the identity link; of the sum of
        several variances by the delta method), then tau2, tau2_ci_lb, tau2_ci_ub, tau, tau_ci_lb,
        tau_ci_ub. Where a diverging coefficient makes τ² = 0 there is no standard error and no
        interval.

    Raises
    ------
    FitError
        For an unknown scale term, and a level outside (0, 1).
    DataError
        For a column or a value that is missing in the new data.

    Examples
    --------
    >>> from bayes_lsm import Specification, build_design, load_dataset
    >>> from bayes_lsm.reml import fit_reml
    >>> spec = Specification("yi ~ ablat", "vi", scale="~ ablat")
    >>> fit = fit_reml(build_design(spec, load_dataset("bcg")))
    >>> new = pd.DataFrame({"ablat": [20, 40]})
    >>> predict_tau(fit, new).table[["estimate", "se", "tau"]].round(2)
           estimate    se   tau
    row 0     -2.56  1.96  0.28
    row 1     -2.57  1.03  0.28
    """
    require_level(level)
    points = _points(fit, new_data)
    parts = variances_at(fit, points, terms)
    total = Total.of(fit, list(parts.values()), len(points.X))
    lower, upper = _bounds(fit, total, level)
    estimate = total.predictor
    if is_identity(fit):
        estimate, lower, upper = np.maximum([estimate, lower, upper], 0.0)
    tau = _tau_columns(fit, total, level)
    table = pd.DataFrame(
        {
            "estimate": estimate,
            "se": total.se,
            "ci_lb": lower,
            "ci_ub": upper,
            "tau2": _tau2(fit, total.predictor),
            "tau2_ci_lb": tau["tau_ci_lb"] ** 2,
            "tau2_ci_ub": tau["tau_ci_ub"] ** 2,
            **tau,
        },
        index=pd.Index(points.labels, name="study" if new_data is None else None),
    )
    what = "τ²" if is_identity(fit) else "ln τ², τ²"
    notes = (*_notes(fit, parts, points.labels, propagated=False), *fit.notes)
    title = f"{what} and τ of a {model_title(fit.design, how(fit, level))}"
    return Prediction(title, table, notes, level)


def _points(fit: Estimates, new_data: pd.DataFrame | None) -> NewData:
    return of_the_data(fit) if new_data is None else fit.design.for_new_data(new_data)


def _tau2(fit: Estimates, value: Array) -> Array:
    """τ² at values of the scale predictor."""
    if is_identity(fit):
        return np.maximum(value, 0.0)
    return np.where(np.isposinf(value), np.inf, tau2_from_log(value))


def _bounds(fit: Estimates, total: Total, level: float) -> tuple[Array, Array]:
    half = Reference(fit.df_scale).quantile(0.5 + level / 2) * total.se
    return total.predictor - half, total.predictor + half


def _tau_columns(fit: Estimates, total: Total, level: float) -> dict[str, Array]:
    lower, upper = _bounds(fit, total, level)
    values = {"tau": total.predictor, "tau_ci_lb": lower, "tau_ci_ub": upper}
    return {name: np.sqrt(_tau2(fit, value)) for name, value in values.items()}


def _notes(
    fit: Estimates, parts: Mapping[str, TermVariance], labels: Sequence[str], propagated: bool
) -> Iterator[str]:
    """What has to be said of the rows whose τ² is unusual, term by term."""
    for name, part in parts.items():
        what = "τ²" if len(fit.terms) == 1 else f"τ² of {name!r}"
        alone = ""
        if len(parts) == 1:
            interval = "the prediction interval shows" if propagated else "the intervals show"
            alone = f"; there {interval} the uncertainty of the mean alone"
        for rows, before, after in _unusual(part, what, alone, propagated):
            if rows.any():
                yield f"{before} in {'all rows' if rows.all() else some(labels, rows, 8)}{after}"


def _unusual(
    part: TermVariance, what: str, alone: str, propagated: bool
) -> Iterator[tuple[Mask, str, str]]:
    """Rows, and what stands before and after their names."""
    active, value = part.active, part.predictor
    found = active & np.isfinite(part.log_tau2)
    infinity = "because scale coefficients run to infinity"
    yield active.any(axis=1) & np.isneginf(value), f"{what} = 0", f", {infinity}{alone}"
    beyond = "these values of the moderators lie beyond the data"
    yield np.isposinf(value), f"{what} is infinite", f", {infinity}: {beyond}"
    yield part.blind, f"the data say nothing of {what}", ""
    both = ": scale coefficients that run to infinity pull it both ways"
    yield np.isnan(value) & ~part.blind, f"{what} is not defined", both
    missing = (found & np.isnan(part.se)).any(axis=1)
    yield missing, f"{what} has no standard error", ", so its intervals are missing"
    if part.identity:
        yield (
            (found & (part.log_tau2 < 0)).any(axis=1),
            f"a predicted {what} below 0 was set to 0",
            "",
        )
    elif propagated:
        vague = (found & (part.se > VAGUE)).any(axis=1)
        normal = "there the prediction interval rests on a normal approximation for ln τ²"
        yield (
            vague,
            f"the data say little about {what}",
            f" (SE of ln τ² above {VAGUE:g}): {normal}",
        )
