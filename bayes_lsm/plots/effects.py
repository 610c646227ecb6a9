"""True effects: those of the studies, and that of a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import ndtr

from bayes_lsm.arrays import Array
from bayes_lsm.choices import require_choice
from bayes_lsm.errors import FitError
from bayes_lsm.plots.canvas import (
    BLUE,
    COLOURS,
    GREY,
    SMALLEST_FONT,
    STYLES,
    Axes,
    Transform,
    canvas,
    fence,
    font_of,
    legend,
    mark_beyond,
    name_axes,
    rows_canvas,
    scale_axis,
    shorten,
    shown,
)
from bayes_lsm.plots.reading import AnyFit, row_names

Of = Literal["effect", "deviation"]

# Normal scores at which the distribution of a new effect is asked for.
_SCORES = np.r_[0.05, np.arange(0.25, 3.1, 0.25)]


def caterpillar(
    fit: AnyFit,
    *,
    ax: Axes | None = None,
    of: Of | None = None,
    grouping: str | None = None,
    observed: bool = True,
    level: float = 0.95,
    transform: Transform | None = None,
    xlab: str | None = None,
    label_width: int = 40,
) -> Axes:
    """The rows' own true effects in order, with their intervals: BLUPs, or posterior means.

    Parameters
    ----------
    fit : RemlFit or BayesFit
    ax : Axes, optional
    of : {"effect", "deviation"}, optional
        θ_i = x_i'β + u_i of each row, or u alone: how far a study, or a group, is from the mean of
        its moderators. By default the first, and with `grouping` the second.
    grouping : str, optional
        The scale term whose groups' deviations are shown; needed for those of one of several.
    observed : bool, default True
        Show the observed effects (or their distance from that mean) as well: the way from one to
        the other is the shrinkage.
    level, transform, xlab, label_width
        As in `forest`.

    Returns
    -------
    Axes

    Raises
    ------
    FitError
        For an unknown `of`, for deviations of one of several scale terms that is unknown or not
        named, and for true effects of a level.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import caterpillar
    >>> fit = lsm.LocationScaleModel.from_file("bcg").fit_reml()
    >>> ax = caterpillar(fit, of="deviation")
    >>> len(ax.lines[0].get_xdata())
    13
    """
    found = _true_effects(fit, of, grouping, level)
    order = np.argsort(found.values[:, 0], kind="stable")[::-1]
    k = len(order)
    ax, height = rows_canvas(ax, k, width=6.0, caution=fit.design.caution)
    font = font_of(height)
    y = -np.arange(k, dtype=float)
    values = shown(found.values[order], transform)
    size = float(np.clip(0.35 * height, 1.5, 5.0))
    ax.plot(values[:, 0], y, "o", color=BLUE, ms=size, zorder=3, label="true effect", gid="blup")
    ax.hlines(y, values[:, 1], values[:, 2], color=BLUE, lw=1.0, zorder=2)
    seen = found.seen if observed else None
    if seen is not None:
        ax.plot(
            shown(seen[order], transform),
            y,
            "|",
            color=GREY,
            ms=1.6 * size,
            mew=1.2,
            zorder=2,
            label="observed",
            gid="observed",
        )
    if found.of == "deviation":
        ax.axvline(float(shown(0.0, transform)), color=GREY, lw=0.8, ls=":", zorder=0)
    lower, upper = found.values[:, 1], found.values[:, 2]
    if seen is not None:
        lower, upper = np.minimum(lower, seen), np.maximum(upper, seen)
    low, high = shown(fence(found.values[:, 0], lower, upper), transform)
    ends = shown(np.array([lower[order], upper[order]]), transform)
    mark_beyond(ax, y, *ends, limits=(low, high), size=size)
    ax.set_xlim(low, high)
    ax.set_ylim(-k + 0.3, 0.7)
    scale_axis(ax, transform, which="x")
    default = f"effect ({fit.design.specification.effect})"
    default = default if found.of == "effect" else "deviation u"
    name_axes(ax, xlab or default, "" if font >= SMALLEST_FONT else f"{k} {found.unit}")
    if font >= SMALLEST_FONT:
        ax.set_yticks(y, [shorten(found.labels[i], label_width) for i in order])
        ax.tick_params(axis="y", labelsize=font, length=0)
    else:
        ax.set_yticks([])
    legend(ax, loc="lower right")
    return ax


@dataclass(frozen=True, eq=False)
class _TrueEffects:
    """What a caterpillar shows: estimate and ends (k, 3), names, and what was observed (k,)."""

    values: Array
    labels: Sequence[str]
    of: Of
    unit: str
    seen: Array | None = None


def _true_effects(fit: AnyFit, of: Of | None, grouping: str | None, level: float) -> _TrueEffects:
    if of is not None:
        require_choice("of", of, Of)
    if of == "deviation" or (of is None and grouping is not None):
        return _deviations(fit, grouping, level)
    if grouping is not None:
        raise FitError("the effects of a level are deviations from x'β; use of='deviation'")
    values = fit.blup(level=level).table[["estimate", "pi_lb", "pi_ub"]].to_numpy()
    design = fit.design
    return _TrueEffects(values, design.labels, "effect", design.units, design.y)


def _deviations(fit: AnyFit, grouping: str | None, level: float) -> _TrueEffects:
    """Those of the groups of one scale term; where each is a row, with what was observed of it."""
    terms = {term.name: term for term in fit.design.terms}
    known = ", ".join(map(repr, terms))
    if grouping is None and len(terms) > 1:
        raise FitError(f"say which level with grouping=, one of the scale terms {known}")
    term = terms.get(next(iter(terms)) if grouping is None else grouping)
    if term is None:
        raise FitError(f"there is no scale term {grouping!r}; there are {known}")
    table = fit.group_effects(level=level).table
    if "grouping" in table.index.names:
        table = table.loc[[term.name]].droplevel("grouping")
    labels = [str(group) for group in table.index.get_level_values(0)]
    if len(term.effects) > 1:
        effects = table.index.get_level_values("effect")
        labels = [f"{group}: {effect}" for group, effect in zip(labels, effects, strict=True)]
    values, seen = table[["estimate", "pi_lb", "pi_ub"]].to_numpy(), None
    if term.is_of_rows and len(terms) == 1:
        own = fit.blup(level=level).table
        seen = np.empty(len(own))
        seen[term.index] = fit.design.y - (own["estimate"] - own["u"])
    unit = fit.design.units if seen is not None else f"effects of {term.name}"
    return _TrueEffects(values, labels, "deviation", unit, seen)


def new_effect(
    fit: AnyFit,
    new_data: pd.DataFrame | None = None,
    *,
    ax: Axes | None = None,
    level: float = 0.95,
    labels: Sequence[str] | None = None,
    transform: Transform | None = None,
    xlab: str | None = None,
    null: float | None = 0.0,
) -> Axes:
    """The distribution of the true effect of a new study, uncertainty of β and τ² included.

    Its density is read from the ends of the prediction intervals of `predict` at many levels, which
    are exact for fits of either kind. With `transform` it is still the density of the effects
    before it, on an axis that is labelled anew.

    Parameters
    ----------
    fit : RemlFit or BayesFit
    new_data : DataFrame, optional
        A curve for each row. May be left out where the model has no moderators.
    ax : Axes, optional
    level : float, default 0.95
        Of the interval that is drawn below each curve.
    labels : sequence of str, optional
        Names of the rows; by default the index of the new data.
    transform, xlab, null
        As in `forest`.

    Returns
    -------
    Axes

    Raises
    ------
    FitError
        Without new data where the model has moderators, for labels that do not match, and where no
        row has a prediction interval.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import new_effect
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_reml()
    >>> ax = new_effect(fit, pd.DataFrame({"weeks": [26, 34]}, index=["26 weeks", "34 weeks"]))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['26 weeks', '34 weeks']
    """
    design = fit.design
    if new_data is None and len(design.kinds):
        raise FitError(
            f"the model has moderators ({', '.join(design.kinds)}): say at which values with "
            "new_data"
        )
    table = fit.predict(new_data, level=level).table
    rows = [0] if new_data is None else list(range(len(table)))
    names = [design.kind] if new_data is None else row_names(table, new_data)
    names = names if labels is None else list(labels)
    if len(names) != len(rows):
        raise FitError(f"labels must name each of the {len(rows)} rows, got {len(names)}")
    curves = _densities(fit, new_data, rows)
    if not curves:
        raise FitError("τ² is not known at any of these rows, so nothing can be predicted there")
    ax = canvas(ax, caution=design.caution)
    top = max(float(density.max()) for _, density in curves.values())
    interval = table[["pi_lb", "estimate", "pi_ub"]].to_numpy()
    for i, (row, (x, density)) in enumerate(curves.items()):
        colour, style = COLOURS[i % len(COLOURS)], STYLES[i % len(STYLES)]
        axis = shown(x, transform)
        ax.plot(axis, density, color=colour, ls=style, lw=1.8, label=names[row], gid="density")
        ax.fill_between(axis, density, color=colour, alpha=0.1, lw=0)
        low, middle, high = shown(interval[row], transform)
        y = -0.06 * top * (i + 1)
        ax.plot([low, high], [y, y], color=colour, ls=style, lw=1.5, gid="interval")
        ax.plot([middle], [y], "o", color=colour, ms=5, gid="mean")
    if null is not None:
        ax.axvline(float(shown(null, transform)), color=GREY, lw=0.8, ls=":", zorder=0)
    scale_axis(ax, transform, which="x")
    ax.axhline(0, color=GREY, lw=0.6)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    name_axes(ax, xlab or f"true effect of a new study ({design.specification.effect})", "density")
    legend(ax)
    return ax


def _densities(
    fit: AnyFit, new_data: pd.DataFrame | None, rows: Sequence[int]
) -> dict[int, tuple[Array, Array]]:
    """Grid and density of each row that has prediction intervals."""

    from scipy.interpolate import CubicSpline

    ends = [fit.predict(new_data, level=float(2 * ndtr(z) - 1)).table for z in _SCORES]
    scores = np.r_[-_SCORES[::-1], _SCORES]
    found: dict[int, tuple[Array, Array]] = {}
    for row in rows:
        lower, upper = (
            np.array([table[name].to_numpy()[row] for table in ends]) for name in ("pi_lb", "pi_ub")
        )
        x = np.r_[lower[::-1], upper]
        if not (np.isfinite(x).all() and (np.diff(x) > 0).all()):
            continue
        # x is a smooth function of its own normal score z, a line for a normal distribution:
        # F(x) = Φ(z), so that the density is φ(z) / (dx/dz).
        quantile = CubicSpline(scores, x)
        z = np.linspace(scores[0], scores[-1], 300)
        slope = quantile(z, 1)
        if (slope > 0).all():
            found[row] = quantile(z), np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) / slope
    return found
