"""Marginal means of τ² at levels of a scale moderator, and the ratios of τ² between them.

Every answer is a linear function l'α of the scale coefficients, on ln τ²: a marginal mean, or a
difference of two, which is the logarithm of a ratio. This module knows which l; the fit knows its
estimate and its interval, and gives them as `scale_functions`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_choice
from bayes_lsm.design.coefficients import coefficients, find
from bayes_lsm.design.scale_parts import ScalePart, scale_part
from bayes_lsm.errors import FitError
from bayes_lsm.results import Fit, ResultTable, model_title

Measure = Literal["tau2", "tau", "log_tau2"]
Kind = Literal["pairwise", "reference"]
ContrastInterval = Literal["delta", "profile", "eti", "hdi"]

# ln ratios of τ² in units of ln ratios of the measure.
POWER = {"tau2": 1.0, "tau": 0.5, "log_tau2": 1.0}
_SYMBOL = {"tau2": "τ²", "tau": "τ", "log_tau2": "ln τ²"}


@dataclass(frozen=True, eq=False)
class ScaleFunctions:
    """What a fit says of linear functions of its scale coefficients: a table with a row for each.

    `how` the intervals were made is ``Wald``, ``profile``, ``equal-tailed`` or ``highest-density``;
    `remarks` are of single rows.
    """

    table: pd.DataFrame
    how: str
    remarks: tuple[str, ...] = ()


class ScaleFit(Fit, Protocol):
    """A fit that knows its scale coefficients, however it was made."""

    def scale_functions(
        self,
        rows: Array,
        labels: Sequence[str],
        *,
        measure: Measure,
        method: ContrastInterval | None,
        level: float,
        compared: bool,
    ) -> ScaleFunctions:
        """Estimates and intervals of l'α for each row l (m, q); tested where `compared`."""


@dataclass(frozen=True, eq=False)
class ScaleContrasts(ResultTable):
    """Marginal means of τ², τ or ln τ², or their ratios (differences of ln τ²).

    Attributes
    ----------
    table : DataFrame
        Columns estimate, ci_lb, ci_ub. Of REML and ML also se, and for ratios zval (with t tests
        tval and df) and pval, of the ratio 1; a profile interval comes with the likelihood-ratio
        test: LRT, pval. Of a Bayesian fit the estimate is the posterior median, and ratios have
        prob_above, the probability of a ratio above 1.
    level : float
    measure : {"tau2", "tau", "log_tau2"}
    rows : ndarray, shape (m, q)
        The coefficients l of each l'α.
    """

    measure: Measure
    rows: Array


def tau_means(
    fit: ScaleFit,
    variable: str,
    *,
    grouping: str | None = None,
    values: Sequence[Any] | None = None,
    at: Mapping[str, Any] | None = None,
    measure: Measure = "tau2",
    method: ContrastInterval | None = None,
    level: float = 0.95,
) -> ScaleContrasts:
    """Estimated marginal means of heterogeneity at the levels of a scale moderator.

    ln τ² is averaged over the studies as if all had one level of `variable` and kept their other
    moderators: these stand at their means in the data, a categorical one at its proportions. τ²
    and τ are exp() of that mean, so they are geometric means. With several scale terms ln τ² is
    that of one of them, averaged over its groups.

    Parameters
    ----------
    fit : RemlFit or BayesFit
        With the log link.
    variable : str
        A column that the scale formula uses.
    grouping : str, optional
        The scale term that is meant, where several use the column.
    values : sequence, optional
        Where the means are wanted; by default all levels. Needed for a numeric column.
    at : mapping of column to value, optional
        Values of other scale moderators, in place of their means. Needed for one that interacts
        with `variable`.
    measure : {"tau2", "tau", "log_tau2"}, default "tau2"
    method : {"delta", "profile", "eti", "hdi"}, optional
        Of REML and ML ``"delta"`` (the default), Wald intervals on ln τ², or ``"profile"``, those
        that the profile likelihood cuts off (some 0.1 s each); these also exist where a level has
        no heterogeneity: then from 0 up. Of a Bayesian fit ``"eti"`` (the default), equal-tailed,
        or ``"hdi"``, of highest density on the scale of the measure.
    level : float, default 0.95
        Of the intervals.

    Returns
    -------
    ScaleContrasts
        Columns estimate, se (not of a Bayesian fit), ci_lb, ci_ub; one row a level. A level
        without heterogeneity has τ² = 0 and no standard error.

    Raises
    ------
    FitError
        For a column that the scale formula does not use, a numeric column without `values`, an
        interaction without `at`, an identity link, or a fit whose profile is not known (bounds).
    DataError
        For a value that the column cannot have.

    Examples
    --------
    >>> from bayes_lsm import Specification, build_design, load_dataset
    >>> from bayes_lsm.reml import fit_reml
    >>> spec = Specification("yi ~ 1", "vi", scale="~ alloc")
    >>> fit = fit_reml(build_design(spec, load_dataset("bcg")))
    >>> tau_means(fit, "alloc").table.round(2)
                estimate    se  ci_lb  ci_ub
    alternate       0.07  0.12   0.00   1.94
    random          0.39  0.27   0.10   1.55
    systematic      0.31  0.32   0.04   2.30

    References
    ----------
    Searle, S. R., Speed, F. M., & Milliken, G. A. (1980). Population marginal means in the linear
    model. The American Statistician, 34(4), 216-221. doi:10.1080/00031305.1980.10483031
    """
    _check("tau_means", fit, measure)
    scale = scale_part(fit.design, variable, grouping)
    rows, labels = _marginal_rows(scale, variable, values, at)
    rows = scale.among_all(rows)
    what = f"Marginal means of {_SYMBOL[measure]} by {scale.label(variable)}"
    return _results(fit, what, rows, labels, measure, method, level, compared=False)


def tau_contrasts(
    fit: ScaleFit,
    variable: str,
    *,
    kind: Kind = "pairwise",
    grouping: str | None = None,
    values: Sequence[Any] | None = None,
    at: Mapping[str, Any] | None = None,
    measure: Measure = "tau2",
    method: ContrastInterval | None = None,
    level: float = 0.95,
) -> ScaleContrasts:
    """Ratios of heterogeneity between the levels of a scale moderator.

    Parameters
    ----------
    fit : RemlFit or BayesFit
        With the log link.
    variable : str
        A column that the scale formula uses.
    grouping : str, optional
        The scale term that is meant, where several use the column.
    kind : {"pairwise", "reference"}, default "pairwise"
        Each level against each earlier one, or against the first alone.
    values : sequence, optional
        Which levels, and in which order; by default all. Needed for a numeric column.
    at : mapping of column to value, optional
        Values of other scale moderators; needed for one that interacts with `variable`.
    measure : {"tau2", "tau", "log_tau2"}, default "tau2"
        Ratios of τ² or of τ, or differences of ln τ².
    method : {"delta", "profile", "eti", "hdi"}, optional
        Of REML and ML ``"delta"`` (the default), Wald intervals and tests on ln τ², or
        ``"profile"``, profile-likelihood intervals and likelihood-ratio tests, which are unbounded
        on one side where the data do not bound the ratio. Of a Bayesian fit ``"eti"`` (the
        default), equal-tailed, or ``"hdi"``, of highest density on the scale of the measure.
    level : float, default 0.95
        Of the intervals, each by itself: no adjustment for their number.

    Returns
    -------
    ScaleContrasts
        Columns estimate, se, ci_lb, ci_ub and the test of no difference, or the posterior median,
        its interval and prob_above; one row a contrast.

    Raises
    ------
    FitError, DataError
        As `tau_means`.

    Examples
    --------
    >>> from bayes_lsm import Specification, build_design, load_dataset
    >>> from bayes_lsm.reml import fit_reml
    >>> spec = Specification("yi ~ 1", "vi", scale="~ alloc")
    >>> fit = fit_reml(build_design(spec, load_dataset("bcg")))
    >>> tau_contrasts(fit, "alloc", measure="tau").table["estimate"].round(2)
    random / alternate        2.34
    systematic / alternate    2.10
    systematic / random       0.90
    Name: estimate, dtype: float64

    A Bayesian fit of the same design answers with probabilities:

    >>> from bayes_lsm.bayes import fit_bayes
    >>> bayes = tau_contrasts(fit_bayes(fit.design, seed=1), "alloc", measure="tau")
    >>> list(bayes.table.columns)
    ['estimate', 'ci_lb', 'ci_ub', 'prob_above']
    """
    _check("tau_contrasts", fit, measure)
    require_choice("kind", kind, Kind)
    scale = scale_part(fit.design, variable, grouping)
    means, names = _marginal_rows(scale, variable, values, at)
    if len(names) < 2:
        raise FitError(f"a contrast needs two values of {variable!r} or more, got {names[0]}")
    pairs = list(combinations(range(len(names)), 2))
    pairs = [pair for pair in pairs if kind == "pairwise" or pair[0] == 0]
    rows = scale.among_all(np.array([means[j] - means[i] for i, j in pairs]))
    between = " − " if measure == "log_tau2" else " / "
    labels = [f"{names[j]}{between}{names[i]}" for i, j in pairs]
    what = f"{_compared(measure)} between values of {scale.label(variable)}"
    return _results(fit, what, rows, labels, measure, method, level, compared=True)


def tau_steps(
    fit: ScaleFit,
    terms: str | Sequence[str] | None = None,
    *,
    step: float | Literal["sd"] = 1.0,
    measure: Measure = "tau2",
    method: ContrastInterval | None = None,
    level: float = 0.95,
) -> ScaleContrasts:
    """By how much heterogeneity is multiplied when a scale term grows by a step.

    Parameters
    ----------
    fit : RemlFit or BayesFit
        With the log link.
    terms : str or sequence of str, optional
        Scale terms as the fit names them, such as ``"I(weeks - 40)"``; by default all but
        levels of ln τ²: intercepts, and those of the groups or effects of ``"~ 0 + outcome"``.
    step : float or "sd", default 1.0
        In units of the term, or one SD of it over the studies.
    measure, method, level
        As in `tau_contrasts`.

    Returns
    -------
    ScaleContrasts
        As `tau_contrasts`; one row a term.

    Raises
    ------
    FitError
        For an unknown term, a step that is 0 or not finite, or as `tau_means`.

    Examples
    --------
    >>> from bayes_lsm import Specification, build_design, load_dataset
    >>> from bayes_lsm.reml import fit_reml
    >>> spec = Specification("yi ~ 1", "vi", scale="~ I(ni / 100)")
    >>> fit = fit_reml(build_design(spec, load_dataset("bangertdrowns2004")))
    >>> tau_steps(fit, step=1).table[["estimate", "ci_lb", "ci_ub"]].round(2)
                 estimate  ci_lb  ci_ub
    I(ni / 100)       0.5   0.13   1.99
    """
    _check("tau_steps", fit, measure)
    known = coefficients(fit.design)
    asked = [terms] if isinstance(terms, str) else terms
    if asked is None:
        levels = [term.levels for term in fit.design.terms]
        chosen = [each for each in known if each.j not in levels[each.t]]
    else:
        chosen = [find(term, known, "scale coefficient") for term in asked]
    if step != "sd" and not (isinstance(step, int | float) and math.isfinite(step) and step):
        raise FitError(f"step must be a finite number other than 0, or 'sd'; got {step!r}")
    rows = np.zeros((len(chosen), len(known)))
    for row, each in zip(rows, chosen, strict=True):
        scale = fit.design.terms[each.t]
        size = float(np.std(scale.Z[scale.used][:, each.j], ddof=1)) if step == "sd" else step
        if size == 0:
            raise FitError(f"the scale term {each.label!r} is constant and has no SD; give a step")
        row[known.index(each)] = size
    by = "one SD" if step == "sd" else f"{step:g}"
    what = f"{_compared(measure)} when a term grows by {by}"
    labels = [each.label for each in chosen]
    return _results(fit, what, rows, labels, measure, method, level, compared=True)


def _compared(measure: Measure) -> str:
    return "Differences of ln τ²" if measure == "log_tau2" else f"Ratios of {_SYMBOL[measure]}"


def _check(verb: str, fit: ScaleFit, measure: str) -> None:
    require_choice("measure", measure, Measure)
    require_capable(verb, fit.design)


def _results(
    fit: ScaleFit,
    what: str,
    rows: Array,
    labels: Sequence[str],
    measure: Measure,
    method: ContrastInterval | None,
    level: float,
    *,
    compared: bool,
) -> ScaleContrasts:
    found = fit.scale_functions(
        rows, labels, measure=measure, method=method, level=level, compared=compared
    )
    table = found.table.set_index(pd.Index(labels))
    how = f"{fit.label}; {100 * level:g}% {found.how} intervals"
    title = f"{what} in a {model_title(fit.design, how)}"
    return ScaleContrasts(title, table, (*found.remarks, *fit.notes), level, measure, rows)


def _marginal_rows(
    scale: ScalePart, variable: str, values: Sequence[Any] | None, at: Mapping[str, Any] | None
) -> tuple[Array, list[str]]:
    """The mean row of Z when all studies have one value of `variable`; for each of some values."""
    at, used, columns = dict(at or {}), scale.used, scale.columns
    for name in (variable, *at):
        if name not in columns:
            allowed = ", ".join(columns) if columns else "none: the scale part is constant"
            raise FitError(f"the scale formula does not use {name!r}; its columns are {allowed}")
    if variable in at:
        raise FitError(f"{variable!r} is in `at`, but its values are given by `values`")
    levels = scale.levels(variable)
    if values is None:
        if levels is None:
            raise FitError(
                f"{variable!r} is numeric: say where with values=[...], or use tau_steps() for "
                "the ratio per step"
            )
        values = levels
    values = list(values)
    if not values:
        raise FitError(f"values of {variable!r} must be given, got none")
    Z = scale.evaluate(variable, values, at)
    given = {variable, *at}
    for term, place in scale.part.spec.term_slices.items():
        free = sorted(used[term] - given)
        if free and used[term] & given:
            raise FitError(
                f"the scale term '{term}' combines {', '.join(sorted(used[term] & given))} with "
                f"{', '.join(free)}: say at which value, at={{{free[0]!r}: ...}}"
            )
        if free or not used[term]:
            Z[:, place] = scale.part.matrix[:, place].mean(axis=0)
    return Z, [f"{value:g}" if _is_number(value) else str(value) for value in values]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
