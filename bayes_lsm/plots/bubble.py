"""Effects against a moderator: the regression line, and three bands around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.capabilities import require_capable
from bayes_lsm.errors import FitError
from bayes_lsm.plots.canvas import (
    BLACK,
    BLUE,
    FAINT,
    GREY,
    ORANGE,
    VERMILLION,
    Axes,
    Transform,
    canvas,
    fence,
    legend,
    name_axes,
    scale_axis,
    shown,
)
from bayes_lsm.plots.reading import (
    AnyFit,
    at_held,
    column_of,
    grid_of,
    held_text,
    interval_name,
    is_number,
    rows_at,
    study_weights,
)


def bubble(
    fit: AnyFit,
    variable: str,
    *,
    ax: Axes | None = None,
    at: Mapping[str, Any] | None = None,
    level: float = 0.95,
    points: int = 60,
    transform: Transform | None = None,
    xlab: str | None = None,
    ylab: str | None = None,
) -> Axes:
    """Effects against a numeric moderator, with the line and the bands that the model has for them.

    From the inside out: the confidence band of the mean effect; mean ± τ(z), which widens where the
    scale part says so; and the prediction band, in which the true effect of a new study lies. The
    area of a bubble is the study's weight 1/(v_i + τ_i²). Studies whose categorical moderators have
    other levels than the line are pale.

    Parameters
    ----------
    fit : RemlFit or BayesFit
    variable : str
        A numeric column that the formulas use.
    ax : Axes, optional
    at : mapping of column to value, optional
        Where the line holds the other moderators; by default at their means and most frequent
        levels. The plot says where.
    level : float, default 0.95
        Of the confidence and the prediction band.
    points : int, default 60
        At which the bands are computed.
    transform
        As in `forest`.
    xlab, ylab : str, optional
        Names and units of the moderator and of the effects.

    Returns
    -------
    Axes

    Raises
    ------
    FitError
        For a column that the model does not use, or that does not hold numbers.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import bubble
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_reml()
    >>> ax = bubble(fit, "weeks", xlab="gestational age (weeks)", ylab="difference in IQ")
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['mean effect', '95% CI', 'mean ± τ', '95% prediction band']
    """
    design = fit.design
    require_capable("bubble", design)
    if not is_number(design, variable):
        raise FitError(f"{variable!r} does not hold numbers; use forest(fit, by={variable!r})")
    grid = grid_of(design, variable, points)
    table = fit.predict(rows_at(design, variable, grid, at), level=level).table
    ax = canvas(ax, caution=design.caution)
    interval = f"{100 * level:g}% {interval_name(fit)}"
    _draw_bands(ax, grid, table, interval, f"{100 * level:g}% prediction band", transform)
    weights = study_weights(fit)
    ax.scatter(
        column_of(design, variable).to_numpy(dtype=float),
        shown(design.y, transform),
        s=10 + 110 * weights / weights.max(),
        facecolor="white",
        edgecolor=[BLACK if here else FAINT for here in at_held(design, variable, at)],
        alpha=0.85,
        lw=0.9,
        zorder=3,
        gid="studies",
    )
    _limit(ax, design.y, table[["pi_lb", "pi_ub"]].to_numpy(), transform)
    scale_axis(ax, transform, which="y")
    ylab = ylab or f"effect ({design.specification.effect})"
    name_axes(ax, xlab or variable, ylab, title=held_text(design, variable, at))
    legend(ax)
    return ax


def _draw_bands(
    ax: Axes,
    x: Array,
    table: pd.DataFrame,
    confidence: str,
    prediction: str,
    transform: Transform | None,
) -> None:
    """The mean, and around it the confidence band, ± τ and the prediction band."""
    mean, tau = table["estimate"], table["tau"]
    ax.plot(x, shown(mean, transform), color=BLUE, lw=1.8, zorder=2.5, label="mean effect")
    lower, upper = (shown(table[end], transform) for end in ("ci_lb", "ci_ub"))
    ax.fill_between(x, lower, upper, color=BLUE, alpha=0.28, lw=0, label=confidence)
    for edge, label in ((mean - tau, None), (mean + tau, "mean ± τ")):
        line = shown(edge, transform)
        ax.plot(x, line, color=VERMILLION, lw=1.3, ls="--", label=label, gid="tau")
    lower, upper = (shown(table[end], transform) for end in ("pi_lb", "pi_ub"))
    band = ax.fill_between(x, lower, upper, facecolor=ORANGE, edgecolor=GREY, alpha=0.13)
    band.set(lw=0.7, ls=":", zorder=0.5, label=prediction)


def _limit(ax: Axes, y: Array, band: Array, transform: Transform | None) -> None:
    """All effects, and of the band what does not squeeze them."""
    low, high = fence(y, y, y, reach=6.0)
    reach = high - low
    ends = band[np.isfinite(band).all(axis=1)]
    if len(ends):
        low, high = max(min(low, ends.min()), low - reach), min(max(high, ends.max()), high + reach)
    low, high = min(low, float(y.min())), max(high, float(y.max()))
    margin = 0.04 * (high - low)
    ax.set_ylim(*shown([low - margin, high + margin], transform))
