"""Predictions: the mean effect, a new study's true effect, τ, and each study's own true effect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.choices import require_choice
from bayes_lsm.errors import FitError
from bayes_lsm.links import tau2_from_log
from bayes_lsm.reml.prediction.linear_scale import (
    Reference,
    ScaleValue,
    check_level,
    is_identity,
    scale_at,
)
from bayes_lsm.reml.prediction.predictive import predictive_interval
from bayes_lsm.reml.uninformed import depends
from bayes_lsm.results import ResultTable, model_title

if TYPE_CHECKING:
    from bayes_lsm.reml.estimates import Estimates

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
ScaleUncertainty = Literal["propagated", "plug-in"]

# A SE of ln τ² above this: the normal approximation to its distribution is poor.
VAGUE = 2.0


@dataclass(frozen=True, eq=False)
class Prediction(ResultTable):
    """Predictions at some values of the moderators: see `predict` and `predict_tau`.

    Attributes
    ----------
    table : DataFrame
        One row for each row of the new data.
    remarks : tuple of str
        Where there is no heterogeneity, where a number is missing, and why.
    level : float
        Of the intervals.
    scale_uncertainty : {"propagated", "plug-in"}
        What the prediction intervals make of the uncertainty of τ².
    """

    scale_uncertainty: ScaleUncertainty = "propagated"


@dataclass(frozen=True, eq=False)
class Blups(ResultTable):
    """Each study's own true effect: see `blup`."""


def predict(
    fit: Estimates,
    new_data: pd.DataFrame | None = None,
    *,
    terms: Sequence[str] | None = None,
    level: float = 0.95,
    scale_uncertainty: ScaleUncertainty = "propagated",
) -> Any:
    r"""The mean effect, and a prediction interval for the true effect of a new study.

    By default the uncertainty of α is in the prediction interval (``"propagated"``): it holds the
    central `level` of

        θ_new ~ ∫ Normal(x'β̂(α), x'V_β(α)x + τ²(z'α)) dNormal(α; α̂, V_α),

    computed as `predictive` says. ``"plug-in"`` takes α̂ for known, as metafor does:
    θ_new ~ Normal(x'β̂, x'V_β x + τ̂²). When the fit tests by t, t takes the place of Normal.

    Parameters
    ----------
    fit : RemlFit
    new_data : DataFrame, optional
        One row for each prediction, with every column that the location and the scale formula use.
        By default the studies themselves.
    level : float, default 0.95
        Of the confidence and prediction intervals.
    scale_uncertainty : {"propagated", "plug-in"}, default "propagated"

    Returns
    -------
    Prediction
        Columns estimate, se, ci_lb, ci_ub (of the mean effect), pi_lb, pi_ub (prediction interval),
        tau2, tau, tau_ci_lb, tau_ci_ub (Wald on the scale of the link). Effects are in units of y.
        Where a diverging coefficient makes τ² = 0, the prediction interval is that of the mean;
        where it leaves τ² undefined, numbers are missing. The notes say so.

    Raises
    ------
    FitError
        For a level outside (0, 1) or an unknown `scale_uncertainty`.
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
    if not fit.design.is_independent:
        from bayes_lsm.reml.prediction.clustered_effects import predict_levels

        if new_data is None:
            raise FitError(
                "with several scale terms new_data must say where to predict, one row for each "
                "prediction; the effects of the groups in the data are blup()"
            )
        return predict_levels(
            fit, new_data, terms=terms, level=level, scale_uncertainty=scale_uncertainty
        )
    _check(level, scale_uncertainty)
    X, Z, labels = _points(fit, new_data)
    quantile = Reference.of_location(fit).quantile(0.5 + level / 2)
    estimate, se = X @ fit.beta, np.sqrt(np.einsum("ij,jk,ik->i", X, fit.vcov_location, X))
    se[depends(X, fit.blind_location)] = np.nan
    scale = scale_at(fit, Z)
    tau2 = _tau2(fit, scale.estimate)
    if scale_uncertainty == "plug-in":
        half = quantile * np.sqrt(se**2 + np.where(np.isfinite(tau2), tau2, np.nan))
        lower, upper = estimate - half, estimate + half
    else:
        lower, upper = predictive_interval(fit, X, se, scale, level)
    tau = _tau_interval(fit, scale, level)
    table = pd.DataFrame(
        {
            "estimate": estimate,
            "se": se,
            "ci_lb": estimate - quantile * se,
            "ci_ub": estimate + quantile * se,
            "pi_lb": lower,
            "pi_ub": upper,
            "tau2": tau2,
            "tau": np.sqrt(tau2),
            "tau_ci_lb": tau[0],
            "tau_ci_ub": tau[1],
        },
        index=pd.Index(labels, name="study" if new_data is None else None),
    )
    how = f"{fit.label}; {100 * level:g}% intervals; uncertainty of τ² {_WHAT[scale_uncertainty]}"
    notes = (*_scale_notes(fit, scale, labels, scale_uncertainty == "propagated"), *fit.notes)
    title = f"Predictions of a {model_title(fit.design, how)}"
    return Prediction(title, table, notes, level, scale_uncertainty)


_WHAT = {"propagated": "propagated", "plug-in": "ignored"}


def predict_tau(
    fit: Estimates, new_data: pd.DataFrame | None = None, *, level: float = 0.95
) -> Prediction:
    """τ² and τ at some values of the scale moderators.

    Parameters
    ----------
    fit : RemlFit
    new_data : DataFrame, optional
        One row for each prediction, with every column that the location and the scale formula use:
        the location moderators change nothing here, but must be there. By default the studies.
    level : float, default 0.95

    Returns
    -------
    Prediction
        Columns estimate, se, ci_lb, ci_ub (of ln τ², or of τ² with the identity link), then tau2,
        tau2_ci_lb, tau2_ci_ub, tau, tau_ci_lb, tau_ci_ub. Where a diverging coefficient makes
        τ² = 0 there is no standard error and no interval.

    Raises
    ------
    FitError
        For a level outside (0, 1).
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
    if not fit.design.is_independent:
        raise FitError(
            "predict_tau is for fits with one scale term and independent effects; see "
            "fit.predict(new_data) and fit.components"
        )
    _check(level)
    _, Z, labels = _points(fit, new_data)
    scale = scale_at(fit, Z)
    half = Reference.of_scale(fit).quantile(0.5 + level / 2) * scale.se
    tau2, tau = _tau2(fit, scale.estimate), _tau_interval(fit, scale, level)
    lower, upper = scale.estimate - half, scale.estimate + half
    if is_identity(fit):
        lower, upper = np.maximum(lower, 0.0), np.maximum(upper, 0.0)
    table = pd.DataFrame(
        {
            "estimate": np.maximum(scale.estimate, 0) if is_identity(fit) else scale.estimate,
            "se": scale.se,
            "ci_lb": lower,
            "ci_ub": upper,
            "tau2": tau2,
            "tau2_ci_lb": tau[0] ** 2,
            "tau2_ci_ub": tau[1] ** 2,
            "tau": np.sqrt(tau2),
            "tau_ci_lb": tau[0],
            "tau_ci_ub": tau[1],
        },
        index=pd.Index(labels, name="study" if new_data is None else None),
    )
    what = "τ²" if is_identity(fit) else "ln τ², τ²"
    how = f"{fit.label}; {100 * level:g}% intervals"
    notes = (*_scale_notes(fit, scale, labels, propagated=False), *fit.notes)
    return Prediction(f"{what} and τ of a {model_title(fit.design, how)}", table, notes, level)


def blup(fit: Estimates, *, level: float = 0.95) -> Any:
    """Each study's own true effect θ_i = x_i'β + u_i, by best linear unbiased prediction.

    With λ_i = τ_i²/(τ_i² + v_i), θ̂_i = λ_i y_i + (1 − λ_i) x_i'β̂ has the prediction variance
    λ_i v_i + (1 − λ_i)² x_i'V_β x_i, and û_i = λ_i (y_i − x_i'β̂) has λ_i v_i + λ_i² x_i'V_β x_i.
    These are metafor's ``blup()`` and ``ranef()`` with each study's own τ_i², which is taken as
    known.

    Parameters
    ----------
    fit : RemlFit
    level : float, default 0.95
        Of the intervals.

    Returns
    -------
    Blups
        One row a study: estimate, se, pi_lb, pi_ub (of θ_i, in units of y), u, u_se, u_pi_lb,
        u_pi_ub, and weight (λ_i). A study with τ² = 0 has the mean effect of its moderators, and
        u = 0 exactly; u and λ are nan in one of whose τ² the data say nothing.

    Raises
    ------
    FitError
        For a level outside (0, 1).

    Examples
    --------
    >>> from bayes_lsm import Specification, build_design, load_dataset
    >>> from bayes_lsm.reml import fit_reml
    >>> spec = Specification("yi ~ ablat", "vi", scale="~ ablat")
    >>> found = blup(fit_reml(build_design(spec, load_dataset("bcg"))))
    >>> [round(value, 3) for value in found.table["estimate"].iloc[:3]]
    [-1.003, -1.416, -1.03]

    References
    ----------
    Robinson, G. K. (1991). That BLUP is a good thing: the estimation of random effects.
    Statistical Science, 6(1), 15-32. doi:10.1214/ss/1177011926
    """
    if not fit.design.is_independent:
        from bayes_lsm.reml.prediction.clustered_effects import level_effects

        return level_effects(fit, level=level)
    _check(level)
    design, weight = fit.design, fit.tau2 / (fit.tau2 + fit.design.v)
    mean = design.X @ fit.beta
    var_mean = np.einsum("ij,jk,ik->i", design.X, fit.vcov_location, design.X)
    u = weight * (design.y - mean)
    theta = mean + u
    se = np.sqrt(weight * design.v + (1 - weight) ** 2 * var_mean)
    u_se = np.sqrt(weight * design.v + weight**2 * var_mean)
    u[~fit.is_known] = u_se[~fit.is_known] = weight[~fit.is_known] = np.nan
    quantile = Reference.of_location(fit).quantile(0.5 + level / 2)
    columns = {}
    for name, value, error in (("", theta, se), ("u", u, u_se)):
        prefix = f"{name}_" if name else ""
        columns[name or "estimate"] = value
        columns[f"{prefix}se"] = error
        columns[f"{prefix}pi_lb"] = value - quantile * error
        columns[f"{prefix}pi_ub"] = value + quantile * error
    table = pd.DataFrame({**columns, "weight": weight}, index=pd.Index(design.labels, name="study"))
    how = f"{fit.label}; {100 * level:g}% intervals"
    return Blups(f"True effects in a {model_title(design, how)}", table, fit.notes, level)


def _tau2(fit: Estimates, value: Array) -> Array:
    """τ² at values of the scale predictor."""
    if is_identity(fit):
        return np.maximum(value, 0.0)
    return np.where(np.isposinf(value), np.inf, tau2_from_log(value))


def _tau_interval(fit: Estimates, scale: ScaleValue, level: float) -> tuple[Array, Array]:
    half = Reference.of_scale(fit).quantile(0.5 + level / 2) * scale.se
    return (
        np.sqrt(_tau2(fit, scale.estimate - half)),
        np.sqrt(_tau2(fit, scale.estimate + half)),
    )


def _points(fit: Estimates, new_data: pd.DataFrame | None) -> tuple[Array, Array, tuple[str, ...]]:
    if new_data is None:
        return fit.design.X, fit.design.Z, fit.design.labels
    new = fit.design.for_new_data(new_data)
    return new.X, new.Z, new.labels


def _check(level: float, scale_uncertainty: str = "propagated") -> None:
    check_level(level)
    require_choice("scale_uncertainty", scale_uncertainty, ScaleUncertainty)


def _scale_notes(
    fit: Estimates, scale: ScaleValue, labels: Sequence[str], propagated: bool
) -> Iterable[str]:
    """What has to be said of the rows whose τ² is unusual."""
    gone, found = np.isneginf(scale.estimate), np.isfinite(scale.estimate)
    interval = "the prediction interval shows" if propagated else "the intervals show"
    kinds: list[tuple[Mask, Callable[[str], str]]] = [
        (
            gone,
            lambda rows: (
                f"τ² = 0 in {rows}, because scale coefficients run to infinity; there {interval} "
                "the uncertainty of the mean alone"
            ),
        ),
        (
            np.isposinf(scale.estimate),
            lambda rows: (
                f"τ² is infinite in {rows}, because scale coefficients run to infinity: these "
                "values of the moderators lie beyond the data"
            ),
        ),
        (
            scale.blind,
            lambda rows: f"the data say nothing of τ² in {rows}",
        ),
        (
            np.isnan(scale.estimate) & ~scale.blind,
            lambda rows: (
                f"τ² is not defined in {rows}: scale coefficients that run to infinity pull it "
                "both ways"
            ),
        ),
        (
            found & np.isnan(scale.se),
            lambda rows: f"τ² has no standard error in {rows}, so its intervals are missing",
        ),
    ]
    if is_identity(fit):
        kinds.append(
            (
                found & (scale.estimate < 0),
                lambda rows: f"a predicted τ² below 0 was set to 0 in {rows}",
            )
        )
    elif propagated:
        kinds.append(
            (
                found & (scale.se > VAGUE),
                lambda rows: (
                    f"the data say little about τ² in {rows} (SE of ln τ² above {VAGUE:g}): there "
                    "the prediction interval rests on a normal approximation for ln τ²"
                ),
            )
        )
    return [say(_listed(labels, rows)) for rows, say in kinds if rows.any()]


def _listed(labels: Sequence[str], rows: Mask) -> str:
    if rows.all():
        return "all rows"
    names = [labels[int(i)] for i in np.flatnonzero(rows)]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
