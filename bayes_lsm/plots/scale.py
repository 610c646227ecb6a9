"""Heterogeneity against a moderator of the scale part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_choice
from bayes_lsm.errors import FitError
from bayes_lsm.plots.canvas import COLOURS, GREY, MARKERS, STYLES, Axes, canvas, legend, name_axes
from bayes_lsm.plots.reading import (
    AnyFit,
    column_of,
    grid_of,
    held_text,
    interval_name,
    is_number,
    levels_of,
    rows_at,
)

Measure = Literal["tau", "tau2"]

_SYMBOL = {"tau": "τ", "tau2": "τ²"}
# The axis ends at so many times the largest estimate: intervals of τ have no end in small sets.
_REACH, _BEYOND = 3.0, 1e300


def heterogeneity(
    fits: AnyFit | Sequence[AnyFit],
    variable: str,
    *,
    ax: Axes | None = None,
    at: Mapping[str, Any] | None = None,
    measure: Measure = "tau",
    level: float = 0.95,
    points: int = 60,
    labels: Sequence[str] | None = None,
    xlab: str | None = None,
    ylab: str | None = None,
    ymax: float | None = None,
) -> Axes:
    """τ or τ² along a moderator of the scale part, with its uncertainty, of one or more fits.

    Parameters
    ----------
    fits : RemlFit, BayesFit or a sequence of them
        Of one model; a curve (of a categorical moderator: points) for each.
    variable : str
        A column that the formulas use.
    ax, at, points, xlab, ylab
        As in `bubble`.
    measure : {"tau", "tau2"}, default "tau"
    level : float, default 0.95
        Of the intervals: of REML and ML Wald intervals on ln τ², of Bayesian fits equal-tailed.
    labels : sequence of str, optional
        Names of the fits; by default how they were fitted.
    ymax : float, optional
        Upper end of the axis; by default at most three times the largest estimate, so that
        intervals without end leave something to be seen.

    Returns
    -------
    Axes
        The ticks along a numeric axis are the studies.

    Raises
    ------
    FitError
        For a column that the model does not use, an unknown measure, or labels that do not match.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import heterogeneity
    >>> model = lsm.LocationScaleModel.from_file("preterm_weeks")
    >>> ax = heterogeneity([model.fit_reml(), model.fit_bayes(seed=1)], "weeks")
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['REML', '95% CI, REML', 'Bayes', '95% CrI, Bayes']
    """
    require_choice("measure", measure, Measure)
    found = list(fits) if isinstance(fits, Sequence) else [fits]
    if not found:
        raise FitError("fits must hold at least one fit, got none")
    names = [fit.label for fit in found] if labels is None else list(labels)
    if len(names) != len(found):
        raise FitError(f"labels must name each of the {len(found)} fits, got {len(names)}")
    design = found[0].design
    require_capable("plots.heterogeneity", design)
    numeric = is_number(design, variable)
    held = held_text(design, variable, at)
    tables = []
    for fit in found:
        where = (
            grid_of(fit.design, variable, points) if numeric else levels_of(fit.design, variable)
        )
        new = rows_at(fit.design, variable, where, at)
        tables.append(_measured(fit, new, measure, level).set_axis(list(where), axis=0))
    if not any(np.isfinite(table["estimate"]).any() for table in tables):
        raise FitError(f"no fit knows τ along {variable!r} with the others {held or 'as they are'}")
    ax = canvas(ax, caution=design.caution)
    ax.set_ylim(0, _top(tables) if ymax is None else ymax or 1.0)
    for i, (fit, name, table) in enumerate(zip(found, names, tables, strict=True)):
        interval = f"{100 * level:g}% {interval_name(fit)}, {name}"
        if numeric:
            _draw_curve(ax, table, i, name, interval)
        else:
            shift = 0.18 * (i - (len(found) - 1) / 2)
            _draw_levels(ax, np.arange(len(table), dtype=float) + shift, table, i, name, interval)
    if numeric:
        x = column_of(design, variable).to_numpy(dtype=float)
        ax.plot(x, np.zeros(len(x)), "|", color=GREY, ms=8, clip_on=False, gid="studies")
    else:
        ax.set_xticks(np.arange(len(table)), list(map(str, table.index)))
        ax.set_xlim(-0.6, len(table) - 0.4)
    name_axes(ax, xlab or variable, ylab or f"heterogeneity {_SYMBOL[measure]}", title=held)
    legend(ax)
    return ax


def _measured(fit: AnyFit, new: pd.DataFrame, measure: Measure, level: float) -> pd.DataFrame:
    """Estimates and the ends of their intervals; an end that is infinite is beyond any axis."""
    table = fit.predict(new, level=level).table
    found = table[["tau", "tau_ci_lb", "tau_ci_ub"]].set_axis(["estimate", "lb", "ub"], axis=1)
    found = found if measure == "tau" else found.assign(**found[["lb", "ub"]] ** 2)
    return found.assign(estimate=table[measure], ub=found["ub"].clip(upper=_BEYOND))


def _top(tables: Sequence[pd.DataFrame]) -> float:
    """The end of the axis: all intervals, unless they squeeze the estimates."""
    whole = pd.concat(tables)
    largest = whole["estimate"].replace(np.inf, np.nan).max()
    return min(_REACH * largest, 1.05 * whole[["estimate", "ub"]].max().max()) or 1.0


def _draw_curve(ax: Axes, table: pd.DataFrame, i: int, name: str, interval: str) -> None:
    colour, style = COLOURS[i % len(COLOURS)], STYLES[i % len(STYLES)]
    x, lower, upper = table.index, table["lb"], table["ub"]
    ax.plot(x, table["estimate"], color=colour, ls=style, lw=1.8, label=name, zorder=3)
    label = interval if lower.notna().any() else None
    ax.fill_between(x, lower, upper, color=colour, alpha=0.15, lw=0, label=label)
    for edge in (lower, upper):
        ax.plot(x, edge, color=colour, ls=style, lw=0.7, alpha=0.7, gid="edge")


def _draw_levels(ax: Axes, x: Array, table: pd.DataFrame, i: int, name: str, interval: str) -> None:
    """Points with intervals, which end in an arrow where they go on beyond the axis."""
    colour, marker, top = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], ax.get_ylim()[1]
    ax.vlines(x, table["lb"], table["ub"], color=colour, lw=1.5, label=interval, gid="interval")
    (dots,) = ax.plot(x, table["estimate"], marker, color=colour, ms=6, mec="white", label=name)
    dots.set(zorder=3, clip_on=False)
    beyond = x[table["ub"].to_numpy() > top]
    if len(beyond):
        y = np.full(len(beyond), top)
        ax.plot(beyond, y, "^", color=colour, ms=6, clip_on=False, gid="beyond")
