"""Linear functions of the scale coefficients with the intervals and tests of REML and ML.

`scale_values` gives them a Wald interval, also where coefficients diverge; `profile` makes each a
coefficient of its own and profiles it. `bayes_lsm.contrasts` asks for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc

from bayes_lsm.arrays import Array
from bayes_lsm.choices import require_choice, require_level
from bayes_lsm.contrasts import POWER, ContrastInterval, Measure, ScaleFunctions
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.intervals.profile import profile_of
from bayes_lsm.reml.intervals.slices import slices_along
from bayes_lsm.reml.scale_values import scale_values
from bayes_lsm.reml.wald import wald_columns

# A log-likelihood that is higher by less is the same up to rounding.
_SAME = 1e-9


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
        bound holds, or of the coefficients of several scale terms.
    """
    require_level(level)
    require_choice("measure", measure, Measure)
    method = "delta" if method is None else method
    require_choice("for a REML fit method", method, ("delta", "profile"))
    rows = np.asarray(rows, dtype=float)
    found = scale_values(fit, rows)
    if method == "delta":
        wald = wald_columns(found.estimate, found.se, fit.df_scale, level=level)
        bounds = np.array([wald["ci_lb"], wald["ci_ub"]])
        tests = {name: wald[name] for name in wald if name in ("zval", "tval", "df", "pval")}
        how, cure = "Wald", "; method='profile' gives a one-sided interval"
    else:
        profiles = np.array([_profiled(fit, row, level) for row in rows])
        bounds, ratio = profiles[:, :2].T, profiles[:, 2]
        tests = {"LRT": ratio, "pval": chdtrc(1, ratio)}
        how, cure = "profile", ""
    table = _on_measure(found.estimate, found.se, bounds, measure)
    remarks = tuple(_notes(found.estimate, found.blind, labels, cure))
    return ScaleFunctions(table.assign(**tests) if compared else table, how, remarks)


def _profiled(fit: Estimates, row: Array, level: float) -> tuple[float, float, float]:
    """The profile interval of l'α, and the likelihood-ratio statistic of l'α = 0."""
    free = np.array([name not in fit.fixed for name in fit.scale_names])
    if not row[free].any():  # it is known
        value = float(row[~free] @ fit.alpha[~free])
        return value, value, math.nan
    slices = slices_along(fit, row)
    found = profile_of(slices, level=level)
    null = slices.search(0.0)[0]
    if null > found.maximum + _SAME:
        found = profile_of(slices, points=[*found.values, 0.0], level=level)
    return found.lower, found.upper, max(0.0, 2 * (found.maximum - null))


def _on_measure(estimate: Array, se: Array, bounds: Array, measure: Measure) -> pd.DataFrame:
    power = POWER[measure]
    estimate, se, bounds = power * estimate, power * se, power * bounds
    if measure != "log_tau2":
        with np.errstate(over="ignore"):
            estimate, bounds = np.exp(estimate), np.exp(bounds)
        se = estimate * se
    return pd.DataFrame({"estimate": estimate, "se": se, "ci_lb": bounds[0], "ci_ub": bounds[1]})


def _notes(
    estimate: Array, blind: npt.NDArray[np.bool_], labels: Sequence[str], cure: str
) -> Iterable[str]:
    """What has to be said of rows without a finite estimate."""
    infinite = f", because scale coefficients run to infinity{cure}"
    for here, how in (
        (np.isneginf(estimate), f"runs to 0{infinite}"),
        (np.isposinf(estimate), f"runs to infinity{infinite}"),
        (np.isnan(estimate) & ~blind, f"is not identified{infinite}"),
        (blind, "is not informed by the data"),
    ):
        if here.any():
            rows = ", ".join(labels[i] for i in np.flatnonzero(here)[:8])
            yield f"{rows} {how}"
