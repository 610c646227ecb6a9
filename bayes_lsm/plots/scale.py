"""Heterogeneity against a moderator of the scale part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_choice
from bayes_lsm.errors import FitError
from bayes_lsm.plots.canvas import (
    COLOURS,
    GREY,
    MARKERS,
    STYLES,
    canvas,
    legend,
    name_axes,
)
from bayes_lsm.plots.reading import (
    AnyFit,
    column_of,
    held_text,
    interval_name,
    is_number,
    levels_of,
    rows_at,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]
Measure = Literal["tau", "tau2"]

_SYMBOL = {"tau": "τ", "tau2": "τ²"}
# The axis ends at so many times the largest estimate: intervals of τ have no end in small sets.
_REACH = 3.0


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
    ax : Axes, optional
    at : mapping of column to value, optional
        Where the other moderators are held; by default at their means and most frequent levels.
    measure : {"tau", "tau2"}, default "tau"
    level : float, default 0.95
        Of the intervals: of REML and ML Wald intervals on ln τ², of Bayesian fits equal-tailed.
    points : int, default 60
    labels : sequence of str, optional
        Names of the fits; by default how they were fitted.
    xlab, ylab : str, optional
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
    ax = canvas(ax, caution=design.caution)
    tops, ends = [], []
    for i, (fit, name) in enumerate(zip(found, names, strict=True)):
        own = fit.design
        values = _grid(own, variable, points) if numeric else levels_of(own, variable)
        table = _measured(fit, rows_at(own, variable, values, at), measure, level)
        interval = f"{100 * level:g}% {interval_name(fit)}"
        if numeric:
            _draw_curve(ax, np.asarray(values), table, i, name, interval)
        else:
            _draw_levels(ax, list(values), table, i, len(found), name, interval)
        tops.append(float(table["estimate"].replace(np.inf, np.nan).max()))
        ends.append(float(table[["estimate", "ub"]].max().max()))
    if np.isnan(tops).all():
        raise FitError(f"no fit knows τ along {variable!r} with the others {held or 'as they are'}")
    top = min(_REACH * np.nanmax(tops), 1.05 * np.nanmax(ends)) if ymax is None else ymax
    ax.set_ylim(0, top or 1.0)
    _mark_beyond(ax)
    if numeric:
        x = column_of(design, variable).to_numpy(dtype=float)
        ax.plot(x, np.zeros(len(x)), "|", color=GREY, ms=8, clip_on=False, gid="studies")
    name_axes(
        ax,
        xlab or variable,
        ylab or f"heterogeneity {_SYMBOL[measure]}",
        title=held,
    )
    legend(ax)
    return ax


def _grid(design: Any, variable: str, points: int) -> Array:
    x = column_of(design, variable).to_numpy(dtype=float)
    return np.linspace(x.min(), x.max(), points)


def _measured(fit: AnyFit, new: pd.DataFrame, measure: Measure, level: float) -> pd.DataFrame:
    table = fit.predict(new, level=level).table
    power = 1 if measure == "tau" else 2
    return pd.DataFrame(
        {
            "estimate": table[measure],
            "lb": table["tau_ci_lb"] ** power,
            "ub": table["tau_ci_ub"] ** power,
        }
    )


def _draw_curve(
    ax: Axes, values: Array, table: pd.DataFrame, i: int, name: str, interval: str
) -> None:
    colour, style = COLOURS[i % len(COLOURS)], STYLES[i % len(STYLES)]
    ax.plot(values, table["estimate"], color=colour, ls=style, lw=1.8, label=name, zorder=3)
    # An upper end that is infinite is drawn beyond the axis.
    upper = np.where(np.isposinf(table["ub"]), 1e300, table["ub"])
    known = bool(np.isfinite(table["lb"]).any())
    ax.fill_between(
        values,
        table["lb"],
        upper,
        color=colour,
        alpha=0.15,
        lw=0,
        label=f"{interval}, {name}" if known else None,
    )
    for edge in (table["lb"], upper):
        ax.plot(values, edge, color=colour, ls=style, lw=0.7, alpha=0.7, gid="edge")


def _mark_beyond(ax: Axes) -> None:
    """An arrow on top of each vertical interval that goes on beyond the axis."""
    top = ax.get_ylim()[1]
    for bars in ax.collections:
        if bars.get_gid() == "interval":
            colour = bars.get_edgecolor()[0]
            ends = np.array([path.vertices for path in bars.get_paths()], dtype=float)
            x = ends[ends[:, :, 1].max(axis=1) > top, 0, 0]
            if len(x):
                ax.plot(
                    x, np.full(len(x), top), "^", color=colour, ms=6, clip_on=False, gid="beyond"
                )


def _draw_levels(
    ax: Axes, values: list[Any], table: pd.DataFrame, i: int, count: int, name: str, interval: str
) -> None:
    x = np.arange(len(values)) + 0.18 * (i - (count - 1) / 2)
    colour = COLOURS[i % len(COLOURS)]
    upper = np.where(np.isposinf(table["ub"]), 1e300, table["ub"])
    ax.vlines(
        x, table["lb"], upper, color=colour, lw=1.5, label=f"{interval}, {name}", gid="interval"
    )
    ax.plot(
        x,
        table["estimate"],
        MARKERS[i % len(MARKERS)],
        color=colour,
        ms=6,
        mec="white",
        label=name,
        zorder=3,
        clip_on=False,
    )
    ax.set_xticks(np.arange(len(values)), [str(value) for value in values])
    ax.set_xlim(-0.6, len(values) - 0.4)
