"""Linear functions of the scale coefficients with the intervals and tests of REML and ML.

`scale_at` gives them a Wald interval, also where coefficients diverge; `profile_interval` makes
each a coefficient of its own and profiles it. `bayes_lsm.contrasts` asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc

from bayes_lsm.choices import require_choice
from bayes_lsm.contrasts import POWER, ContrastInterval, Measure, ScaleFunctions
from bayes_lsm.errors import FitError
from bayes_lsm.reml.intervals.contrast_profile import profile_interval
from bayes_lsm.reml.prediction.linear_scale import Reference, check_level, scale_at

if TYPE_CHECKING:
    from bayes_lsm.reml.estimates import Estimates

Array = npt.NDArray[np.float64]


def scale_functions(
    fit: Estimates,
    rows: Array,
    labels: Sequence[str],
    *,
    measure: Measure = "log_tau2",
    method: ContrastInterval | None = None,
    level: float = 0.95,
    compared: bool = True,
) -> ScaleFunctions:
    """l'α for each row l (m, q), or exp(l'α): estimate, se, ci_lb, ci_ub, and tests.

    Parameters
    ----------
    fit : RemlFit
        With the log link.
    rows : ndarray, shape (m, q)
    labels : sequence of str, length m
        What the notes call them.
    measure : {"tau2", "tau", "log_tau2"}, default "log_tau2"
        What the table is of: exp(l'α), exp(l'α / 2) or l'α.
    method : {"delta", "profile"}, optional
        Wald (the default) or profile-likelihood intervals.
    level : float, default 0.95
    compared : bool, default True
        Whether l'α = 0 is tested: by zval or tval, with the profile by LRT; and pval.

    Raises
    ------
    FitError
        For a method that is not one of REML's, a level outside (0, 1), or a profile of a fit that a
        bound holds.
    """
    if not fit.design.is_independent:
        from bayes_lsm.reml.intervals.clustered_contrasts import clustered_functions

        return clustered_functions(
            fit, rows, labels, measure=measure, method=method, level=level, compared=compared
        )
    check_level(level)
    require_choice("measure", measure, Measure)
    method = "delta" if method is None else method
    require_choice("for a REML fit method", method, ("delta", "profile"))
    if method == "profile" and fit.at_bound:
        raise FitError("there is no profile of a fit that a bound holds; use method='delta'")
    scale, reference = scale_at(fit, rows), Reference.of_scale(fit)
    if method == "delta":
        cure = "; method='profile' gives a one-sided interval"
        return wald_functions(
            (scale.estimate, scale.se),
            reference,
            labels,
            measure=measure,
            level=level,
            compared=compared,
            cure=cure,
        )
    tests: dict[str, Array] = {}
    profiles = [profile_interval(fit, row, level=level) for row in rows]
    bounds = np.array([profile[:2] for profile in profiles]).T
    if compared:
        ratio = np.array([profile[2] for profile in profiles])
        tests = {"LRT": ratio, "pval": chdtrc(1, ratio)}
    table = _on_measure(scale.estimate, scale.se, bounds, measure)
    return ScaleFunctions(table.assign(**tests), "profile", tuple(_notes(scale.estimate, labels)))


def wald_functions(
    found: tuple[Array, Array],
    reference: Reference,
    labels: Sequence[str],
    *,
    measure: Measure,
    level: float,
    compared: bool,
    cure: str = "",
) -> ScaleFunctions:
    """Estimates of l'α and their standard errors as a table, with Wald intervals and tests."""
    estimate, se = found
    half = reference.quantile(0.5 + level / 2) * se
    tests: dict[str, Array] = {}
    if compared:
        z = np.where(np.isfinite(estimate), estimate, np.nan) / se
        tests = {"zval": z, "pval": 2 * reference.cdf(-np.abs(z))}
        if reference.df is not None:
            df = np.full(len(z), reference.df)
            tests = {"tval": z, "df": df, "pval": tests["pval"]}
    table = _on_measure(estimate, se, np.array([estimate - half, estimate + half]), measure)
    return ScaleFunctions(table.assign(**tests), "Wald", tuple(_notes(estimate, labels, cure)))


def _on_measure(estimate: Array, se: Array, bounds: Array, measure: Measure) -> pd.DataFrame:
    power = POWER[measure]
    estimate, se, bounds = power * estimate, power * se, power * bounds
    if measure != "log_tau2":
        with np.errstate(over="ignore"):
            estimate, bounds = np.exp(estimate), np.exp(bounds)
        se = estimate * se
    return pd.DataFrame({"estimate": estimate, "se": se, "ci_lb": bounds[0], "ci_ub": bounds[1]})


def _notes(estimate: Array, labels: Sequence[str], cure: str = "") -> Iterable[str]:
    """What has to be said of rows without a finite estimate."""
    for here, how in (
        (np.isneginf(estimate), "runs to 0"),
        (np.isposinf(estimate), "runs to infinity"),
        (np.isnan(estimate), "is not identified"),
    ):
        if here.any():
            rows = ", ".join(labels[i] for i in np.flatnonzero(here)[:8])
            yield f"{rows} {how}, because scale coefficients run to infinity{cure}"
