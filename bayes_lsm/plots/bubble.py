"""Effects against a moderator: the regression line, and three bands around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bayes_lsm.capabilities import require_capable
from bayes_lsm.errors import FitError
from bayes_lsm.plots.canvas import (
    BLACK,
    BLUE,
    FAINT,
    GREY,
    ORANGE,
    VERMILLION,
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
    held_text,
    interval_name,
    is_number,
    rows_at,
    study_weights,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]


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
    transform : callable, optional
        What the effects are shown as, such as ``np.exp`` (on a logarithmic axis).
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
    x = column_of(design, variable).to_numpy()
    if not is_number(design, variable):
        raise FitError(f"{variable!r} does not hold numbers; use forest(fit, by={variable!r})")
    x = x.astype(float)
    grid = np.linspace(x.min(), x.max(), points)
    table = fit.predict(rows_at(design, variable, grid, at), level=level).table
    ax = canvas(ax, caution=design.caution)
    _draw_bands(ax, fit, grid, table, level, transform)
    weights = study_weights(fit)
    ax.scatter(
        x,
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
    name_axes(
        ax,
        xlab or variable,
        ylab or f"effect ({design.specification.effect})",
        title=held_text(design, variable, at),
    )
    legend(ax)
    return ax


def _draw_bands(
    ax: Axes, fit: AnyFit, grid: Array, table: Any, level: float, transform: Transform | None
) -> None:
    mean, tau = table["estimate"].to_numpy(), table["tau"].to_numpy()
    name = f"{100 * level:g}%"
    ax.plot(grid, shown(mean, transform), color=BLUE, lw=1.8, zorder=2.5, label="mean effect")
    ax.fill_between(
        grid,
        shown(table["ci_lb"], transform),
        shown(table["ci_ub"], transform),
        color=BLUE,
        alpha=0.28,
        lw=0,
        label=f"{name} {interval_name(fit)}",
    )
    for sign in (-1, 1):
        edge = shown(mean + sign * tau, transform)
        ax.plot(
            grid,
            edge,
            color=VERMILLION,
            lw=1.3,
            ls="--",
            label="mean ± τ" if sign > 0 else None,
            gid="tau",
        )
    ax.fill_between(
        grid,
        shown(table["pi_lb"], transform),
        shown(table["pi_ub"], transform),
        facecolor=ORANGE,
        alpha=0.13,
        edgecolor=GREY,
        lw=0.7,
        ls=":",
        zorder=0.5,
        label=f"{name} prediction band",
    )


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
