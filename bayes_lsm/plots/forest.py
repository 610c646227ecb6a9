"""Forest plots: every study, what the model says of it, and the summary below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.plots.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    PALE,
    SIZE,
    SMALLEST_FONT,
    VERMILLION,
    Axes,
    Transform,
    fence,
    font_of,
    legend,
    mark_beyond,
    number,
    rows_canvas,
    scale_axis,
    shorten,
    shown,
)
from bayes_lsm.plots.forest_rows import ForestRow, Order, rows_of
from bayes_lsm.plots.reading import AnyFit, interval_name

# Points kept above the studies for the legend and the headings.
_HEADER = 14.0
# Square points of a study that weighs next to nothing.
_SMALLEST_AREA = 1.5


def forest(
    fit: AnyFit,
    *,
    ax: Axes | None = None,
    by: str | Sequence[object] | None = None,
    summary: pd.DataFrame | None = None,
    order: Order = "given",
    blups: bool = False,
    level: float = 0.95,
    transform: Transform | None = None,
    xlab: str | None = None,
    null: float | None = 0.0,
    digits: int = 2,
    label_width: int = 40,
) -> Axes:
    """Each study's effect with its confidence interval, and the summary with its prediction one.

    The area of a square is the study's weight 1/(v_i + τ_i²), with the τ_i² of that study. Where
    the location part has moderators, a pale diamond behind each study is the mean effect that the
    model has for it. Intervals that reach beyond the plot end in an arrow.

    With several scale terms each row of the data is a study here, whose weight is 1/Σ_ii with its
    total variance.

    Parameters
    ----------
    fit : RemlFit or BayesFit
    ax : Axes, optional
        By default those of a new figure that is as high as the studies need.
    by : str or sequence, optional
        Groups of studies: a categorical moderator of the model, whose levels get a diamond each
        (other moderators at their means or most frequent levels), of several scale terms the
        grouping of one of them; or k values of anything else.
    summary : DataFrame, optional
        New data: a diamond with its prediction interval for each row, named by its index. By
        default there is one where the model has no moderators.
    order : {"given", "effect", "precision"}, default "given"
    blups : bool, default False
        Add the studies' own true effects as the model sees them, with their intervals.
    level : float, default 0.95
        Of all intervals.
    transform : callable, optional
        What the effects are shown as, such as ``np.exp`` for log ratios (on a logarithmic axis).
    xlab : str, optional
        Name and unit of the effects.
    null : float or None, default 0
        Where the reference line stands, before `transform`.
    digits : int, default 2
        Of the effects printed at the right.
    label_width : int, default 40
        Longer names of studies are cut.

    Returns
    -------
    Axes

    Raises
    ------
    FitError
        For groups that do not fit, or an unknown order.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import forest
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"), study="trial").fit_reml()
    >>> ax = forest(fit, transform=np.exp, xlab="risk ratio")
    >>> ax.get_xlabel()
    'risk ratio'
    """
    rows, design = rows_of(fit, by, summary, order, level), fit.design
    ax, height = rows_canvas(ax, len(rows), width=7.5, spare=2, caution=design.caution)
    places = -np.arange(len(rows), dtype=float)
    limits = _limits(rows)
    at = [i for i, row in enumerate(rows) if row.kind == "study"]
    own = [rows[i].study for i in at]
    if len(design.location.names) > 1:
        means = fit.predict(level=level).table[["estimate", "ci_lb", "ci_ub"]].to_numpy()
        _draw_fitted(ax, shown(means[own], transform), places[at])
    _draw_rows(ax, rows, places, limits, transform, height)
    if blups:
        effects = fit.blup(level=level).table[["estimate", "pi_lb", "pi_ub"]].to_numpy()
        _draw_blups(ax, shown(effects[own], transform), places[at] - 0.3)
    if null is not None and limits[0] <= null <= limits[1]:
        x = float(shown(null, transform))
        ax.plot([x, x], [places[-1] - 0.8, 0.6], color=GREY, lw=0.8, ls=":", zorder=0, gid="null")
    ax.set_xlim(*shown(limits, transform))
    ax.set_ylim(places[-1] - 0.8, 0.6 + max(1.0, _HEADER / height))
    if ax.get_legend_handles_labels()[1]:
        where = {"loc": "upper left", "borderaxespad": 0.0, "borderpad": 0.2}
        legend(ax, ncols=2, columnspacing=1.0, **where)
    scale_axis(ax, transform, which="x")
    ax.set_xlabel(xlab or f"effect ({design.specification.effect})", fontsize=SIZE)
    ax.spines["left"].set_visible(False)
    font = font_of(height)
    if font < SMALLEST_FONT:
        ax.set_yticks([])
        ax.set_ylabel(f"{len(at)} studies", fontsize=SIZE)
        return ax
    named = [(row, y) for row, y in zip(rows, places, strict=True) if row.kind != "gap"]
    _write_names(ax, named, font, label_width)
    interval = "CI" if interval_name(fit) == "CI" else "CI/CrI"
    heads = ("Weight", f"Estimate [{100 * level:g}% {interval}]")
    _write_numbers(ax, named, heads, font, transform, digits)
    return ax


def _limits(rows: Sequence[ForestRow]) -> Array:
    studies = [row for row in rows if row.kind == "study"]
    ends = np.array([(row.estimate, row.lower, row.upper) for row in studies])
    low, high = fence(*ends.T)
    for row in rows:
        if row.kind == "summary":
            low, high = min(low, row.lower), max(high, row.upper)
    return np.array([low, high])


def _draw_rows(
    ax: Axes,
    rows: Sequence[ForestRow],
    places: Array,
    limits: Array,
    transform: Transform | None,
    height: float,
) -> None:
    low, high = shown(limits, transform)
    ends = shown([(row.estimate, row.lower, row.upper) for row in rows], transform)
    studies = np.array([row.kind == "study" for row in rows])
    y, weights = places[studies], np.array([row.weight for row in rows])[studies]
    width = float(np.clip(0.06 * height, 0.4, 0.9))
    ax.hlines(y, ends[studies, 1], ends[studies, 2], color=BLACK, lw=width, zorder=2, gid="ci")
    areas = (0.75 * height) ** 2 * (0.06 + 0.94 * weights / weights.max())
    areas = np.maximum(areas, _SMALLEST_AREA)
    ax.scatter(ends[studies, 0], y, s=areas, marker="s", color=BLUE, lw=0, zorder=3, gid="study")
    for row, place, (x, left, right) in zip(rows, places, ends, strict=True):
        if row.kind == "summary":
            corners = ([left, x, right, x], [place, place + 0.38, place, place - 0.38])
            ax.fill(*corners, color=VERMILLION, lw=0, zorder=3, gid="summary")
        elif row.kind == "prediction":
            ax.hlines([place], left, right, color=VERMILLION, lw=2.0, zorder=2, gid="prediction")
    mark_beyond(ax, places, ends[:, 1], ends[:, 2], limits=(low, high), size=0.3 * height)


def _draw_fitted(ax: Axes, means: Array, y: Array) -> None:
    """The mean effect that the model has for each study (n, 3), as a diamond."""
    from matplotlib.collections import PolyCollection

    x, left, right = means.T
    corners = np.array([[left, y], [x, y + 0.42], [right, y], [x, y - 0.42]]).transpose(2, 0, 1)
    ax.add_collection(
        PolyCollection(list(corners), color=PALE, lw=0, zorder=1, gid="fitted", label="fitted mean")
    )


def _draw_blups(ax: Axes, effects: Array, y: Array) -> None:
    """Each study's own true effect with its interval (n, 3)."""
    x, left, right = effects.T
    ax.hlines(y, left, right, color=GREEN, lw=0.9, zorder=2)
    (dots,) = ax.plot(x, y, "o", ms=3, mfc="white", mec=GREEN, mew=1.0, zorder=4)
    dots.set(gid="blup", label="BLUP")


def _write_names(
    ax: Axes, named: Sequence[tuple[ForestRow, float]], font: float, label_width: int
) -> None:
    ax.set_yticks([y for _, y in named], [shorten(row.label, label_width) for row, _ in named])
    ax.tick_params(axis="y", length=0, labelsize=font)
    for text, (row, _) in zip(ax.get_yticklabels(), named, strict=True):
        text.set_fontweight("bold" if row.kind in ("heading", "summary") else "normal")


def _write_numbers(
    ax: Axes,
    named: Sequence[tuple[ForestRow, float]],
    heads: tuple[str, str],
    font: float,
    transform: Transform | None,
    digits: int,
) -> None:
    """Weights and estimates at the right, a column each."""
    cells = [_cells(row, transform, digits) for row, _ in named]
    edge = 0.8 * font
    for head, column in zip(heads, zip(*cells, strict=True), strict=True):
        edge += 0.62 * font * max(len(head), *map(len, column))
        for cell, y in [(head, 1.1), *zip(column, [y for _, y in named], strict=True)]:
            if cell:
                text = ax.annotate(
                    cell,
                    (1.0, y),
                    xycoords=ax.get_yaxis_transform(),
                    xytext=(edge, 0),
                    textcoords="offset points",
                    annotation_clip=False,
                )
                weight = "bold" if cell == head else "normal"
                text.set(ha="right", va="center", fontsize=font, fontweight=weight, gid="number")
        edge += 0.8 * font


def _cells(row: ForestRow, transform: Transform | None, digits: int) -> tuple[str, str]:
    values = shown([row.estimate, row.lower, row.upper], transform)
    x, low, high = (number(value, digits) for value in values)
    estimate = {"prediction": f"[{low}, {high}]", "heading": ""}.get(
        row.kind, f"{x} [{low}, {high}]"
    )
    return f"{row.weight:.1f}%" if row.kind == "study" else "", estimate
