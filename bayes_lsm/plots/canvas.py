"""What all figures share: a canvas without global state, colours, axes in other units, labels."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bayes_lsm.arrays import Array
from bayes_lsm.errors import FitError

if TYPE_CHECKING:
    from matplotlib import axes

type Axes = axes.Axes
Transform = Callable[[Array], Array]
type Panels = npt.NDArray[Any]
type GivenAxes = Sequence[Axes] | Panels | None

# Okabe and Ito's colours, which are told apart by colour-blind readers; line styles and markers
# go along with them, so that a grey print can be read too.
BLACK, GREY, FAINT, PALE = "#1a1a1a", "#6b6b6b", "#b0b0b0", "#d9d9d9"
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, "#CC79A7", "#56B4E9")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
SIZE, SMALL, SMALLEST = 9.0, 8.0, 6.5
# Points below which names of rows are left out.
SMALLEST_FONT = 4.0
# Inches of a row with few and with many studies, and of the highest figure that names them.
_ROW, _ROW_MANY, _MANY, _HIGHEST = 0.2, 0.135, 60, 50.0


def canvas(ax: Axes | None, *, size: tuple[float, float] = (6.0, 4.0), caution: str = "") -> Axes:
    """The axes to draw in: those given, or those of a new figure of this size in inches.

    What has to be known of the data is said below a new figure.
    """
    found: Axes = panels(1, size=size, axes=None if ax is None else [ax], caution=caution)[0]
    return found


def panels(
    count: int,
    *,
    columns: int = 1,
    size: tuple[float, float],
    axes: GivenAxes = None,
    caution: str = "",
) -> Panels:
    """That many axes as an array: those given, or those of a new figure, each of this size."""
    if axes is None:
        found = _new_panels(count, max(1, min(columns, count)), size, caution)
    else:
        found = np.asarray(axes, dtype=object).ravel()
    if len(found) < count:
        raise FitError(f"{count} panels need as many axes, got {len(found)}")
    for ax in found[:count]:
        tidy(ax)
    return found[:count]


def _new_panels(count: int, columns: int, size: tuple[float, float], caution: str) -> Panels:
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    if caution:
        # About that many characters of the smallest font fit in an inch.
        text = textwrap.fill(caution, max(30, int(17 * size[0] * columns)))
        figure.supxlabel(text, fontsize=SMALLEST, color=GREY, x=0.01, ha="left")
    found: Panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in found[count:]:
        spare.remove()
    return found


def tidy(ax: Axes) -> None:
    """Spines, ticks and font sizes of the house."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GREY)
    ax.tick_params(labelsize=SMALL, color=GREY)


def name_axes(ax: Axes, x: str, y: str, *, title: str | None = None) -> None:
    """Axis labels, and a title at the left."""
    ax.set_xlabel(x, fontsize=SIZE)
    ax.set_ylabel(y, fontsize=SIZE)
    if title:
        ax.set_title(title, fontsize=SIZE + 1, loc="left")


def legend(ax: Axes, **where: Any) -> None:
    """A legend without a frame."""
    ax.legend(fontsize=SMALL, frameon=False, **where)


def shown(values: npt.ArrayLike, transform: Transform | None) -> Array:
    """Effects in the units of the axis."""
    found = np.asarray(values, dtype=float)
    return found if transform is None else np.asarray(transform(found), dtype=float)


def scale_axis(ax: Axes, transform: Transform | None, *, which: str) -> None:
    """A logarithmic axis with plain numbers where effects were exponentiated."""
    if transform is not np.exp:
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set(**{f"{which}scale": "log"})
    axis = ax.xaxis if which == "x" else ax.yaxis
    low, high = axis.get_view_interval()
    decades = abs(np.log10(high / low))
    marks = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    axis.set_major_locator(LogLocator(subs=marks, numticks=30))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def mark_beyond(
    ax: Axes, y: Array, lower: Array, upper: Array, *, limits: tuple[float, float], size: float
) -> None:
    """Arrows at the edge, in the units of the axis, where something reaches beyond it."""
    for beyond, edge, marker in (
        (lower < limits[0], limits[0], "<"),
        (upper > limits[1], limits[1], ">"),
    ):
        # To the layout an empty line would lie in the corner of the figure.
        if beyond.any():
            x, ms = np.full(int(beyond.sum()), edge), float(np.clip(size, 2.0, 6.0))
            ax.plot(x, y[beyond], marker, color=BLACK, ms=ms, clip_on=False, zorder=4, gid="beyond")


def mark_outliers(ax: Axes, x: Array, y: Array, outside: npt.NDArray[np.bool_]) -> None:
    """Points, in another colour and shape where they lie outside of what is expected."""
    for members, colour, marker, gid in (
        (~outside, BLUE, "o", "inside"),
        (outside, VERMILLION, "D", "outside"),
    ):
        points = (x[members], y[members], marker)
        ax.plot(*points, color=colour, ms=5, mec="white", mew=0.5, zorder=3, gid=gid)


def name_point(
    ax: Axes, text: str, at: tuple[float, float], *, right: bool, up: float = 0.0
) -> None:
    """A name beside a point, so many points of type higher."""
    ax.annotate(
        text,
        at,
        xytext=(5 if right else -5, up),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        fontsize=7,
        zorder=4,
    )


def farthest(distance: Array, among: npt.NDArray[np.bool_], count: int) -> list[int]:
    """Where the largest of these distances are, the largest first."""
    found = np.flatnonzero(among)
    return [int(i) for i in found[np.argsort(-np.abs(distance[found]))][:count]]


def row_height(rows: int) -> float:
    """Inches of a row in a new figure of so many: with room for names, but for very many."""
    row = _ROW if rows <= _MANY else _ROW_MANY
    return row if row * rows <= _HIGHEST else _HIGHEST / 4 / rows


def rows_canvas(
    ax: Axes | None, rows: int, *, width: float, spare: int = 1, caution: str = ""
) -> tuple[Axes, float]:
    """Axes for so many rows, and the points that each has, with room for some that are spare."""
    new, inches = ax is None, row_height(rows)
    ax = canvas(ax, size=(width, 1.0 + inches * rows), caution=caution)
    if not new:
        inches = ax.get_window_extent().height / ax.figure.dpi / (rows + spare)
    return ax, 72 * inches


def font_of(height: float) -> float:
    """Of the names of rows that are so many points high."""
    return min(SIZE, 0.7 * height)


def number(value: float, digits: int) -> str:
    """With a minus sign as long as a plus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def shorten(text: str, width: int) -> str:
    """A label of at most that many characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def fence(centres: Array, lower: Array, upper: Array, *, reach: float = 4.0) -> tuple[float, float]:
    """Limits that hold all intervals, unless a few of them would squeeze the others.

    No farther from the middle half of the estimates than `reach` times the larger of its width and
    the median width of the intervals.
    """
    centres = centres[np.isfinite(centres)]
    widths = (upper - lower)[np.isfinite(upper - lower)]
    first, third = np.quantile(centres, [0.25, 0.75])
    step = reach * max(third - first, float(np.median(widths)) if len(widths) else 0.0)
    ends = np.r_[centres, lower[np.isfinite(lower)], upper[np.isfinite(upper)]]
    low, high = max(float(ends.min()), first - step), min(float(ends.max()), third + step)
    margin = 0.03 * (high - low) or 1.0
    return low - margin, high + margin
