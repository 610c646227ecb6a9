"""Posteriors under other priors: along the width of the prior, and prior beside prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.bayes.sensitivity.refits import is_part
from bayes_lsm.bayes.sensitivity.sensitivity import Sensitivity
from bayes_lsm.bayes.sensitivity.verdicts import factor_words
from bayes_lsm.choices import require_choice
from bayes_lsm.errors import FitError
from bayes_lsm.plots.canvas import (
    BLACK,
    BLUE,
    FAINT,
    GREEN,
    GREY,
    SIZE,
    SMALL,
    SMALLEST,
    VERMILLION,
    Axes,
    name_axes,
    number,
    panels,
    row_height,
    shorten,
    tidy,
)

Name = tuple[str, str]
Others = Literal["presets", "families"]

_COLOURS = {"data-driven": GREEN, "prior-informed": BLUE, "prior-dominated": VERMILLION}
# What a panel must hold: the intervals up to priors so many times as wide.
_HELD = 2.0
_LONGEST_NAME = 26
_LEGEND = (
    "Median and interval with the coefficient's own prior so many times as wide; dashed: the "
    "interval with all priors so."
)


def sensitivity(
    found: Sensitivity,
    terms: Sequence[str] | None = None,
    *,
    part: str | None = None,
    axes: Sequence[Axes] | npt.NDArray[Any] | None = None,
    columns: int = 4,
) -> npt.NDArray[Any]:
    """Median and interval of each coefficient against the width of the prior, a panel for each.

    A flat band is the data's; a band that opens with the prior is the prior's.

    Parameters
    ----------
    found : Sensitivity
        From `BayesFit.sensitivity`.
    terms : sequence of str, optional
        By default all of the part, or of all parts.
    part : str, optional
        ``"location"`` or ``"scale"``, or with several scale terms a part of the table, such as
        ``"scale (district)"``. By default all.
    axes : sequence of Axes, optional
        As many as coefficients; by default those of a new figure.
    columns : int, default 4
        Panels beside each other in a new figure.

    Returns
    -------
    ndarray of Axes, shape (number of coefficients,)
        The line and the band are the median and the interval when the coefficient's own prior is
        so many times as wide, the dashed lines the same when all priors are. A panel holds all
        intervals up to priors twice as wide. A cross is a refit that should not be trusted.

    Raises
    ------
    FitError
        For an unknown part or term, and for fewer axes than coefficients.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import sensitivity
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_bayes(seed=1)
    >>> found = fit.sensitivity(factors=(0.25, 4), presets=(), draws=1000, progress=False)
    >>> [ax.get_title(loc="left") for ax in sensitivity(found, part="scale")]
    ['scale: intrcpt', 'scale: I(weeks - 40)']
    """
    names = _names(found, terms, part)
    caution = f"{_LEGEND} {found.fit.design.caution}".rstrip()
    given = panels(len(names), columns=columns, size=(2.7, 2.5), axes=axes, caution=caution)
    for ax, name in zip(given, names, strict=True):
        tidy(ax)
        _draw_curve(ax, found, name)
    return given


def _draw_curve(ax: Axes, found: Sensitivity, name: Name) -> None:
    verdict = str(found.verdicts[name])
    colour = _COLOURS[verdict]
    own, together = found.curve(*name), found.curve(*name, varied="together")
    x = own.index.to_numpy(dtype=float)
    lower, median, upper = (own[each].to_numpy() for each in ("ci_lb", "median", "ci_ub"))
    ax.fill_between(x, lower, upper, color=colour, alpha=0.18, lw=0)
    ax.plot(x, median, color=colour, lw=1.8, gid="median")
    for each, ends in (("lower", lower), ("upper", upper)):
        ax.plot(x, ends, color=colour, lw=0.8, gid=each)
    for each in ("ci_lb", "ci_ub"):
        ax.plot(x, together[each], color=GREY, lw=0.9, ls="--", gid=f"together {each}")
    doubtful = ~own["trusted"].to_numpy(dtype=bool)
    ax.plot(x[doubtful], median[doubtful], "x", color=BLACK, ms=5, ls="", gid="doubtful")
    held = pd.concat([own, together])
    held = held[np.abs(np.log(held.index.to_numpy(dtype=float))) <= np.log(_HELD) + 1e-9]
    low, high = float(held["ci_lb"].min()), float(held["ci_ub"].max())
    height = high - low
    ax.set_ylim(low - 0.06 * height, high + 0.2 * height)
    if low < 0 < high:
        ax.axhline(0, color=GREY, lw=0.8, ls=":", zorder=0)
    ax.axvline(1, color=FAINT, lw=0.8, zorder=0)
    _name_factors(ax, x)
    share = round(float(found.table["share"][name]), 2) + 0.0  # no −0
    name_axes(ax, "width of the prior, ×", "", title=shorten(f"{name[0]}: {name[1]}", 30))
    ax.title.set_fontsize(SIZE)
    ax.text(
        0.5,
        0.985,
        f"{verdict} (share {number(share, 2)})",
        transform=ax.transAxes,
        ha="center",
        va="top",
        fontsize=SMALLEST,
        color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        gid="verdict",
    )


def _name_factors(ax: Axes, factors: npt.NDArray[np.float64]) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    ax.set_xscale("log", base=2)
    shown = [f for f in factors if np.log2(f) % 2 == 0]
    shown = shown if len(shown) > 2 else list(factors)
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xticklabels([factor_words(f) for f in shown])


def under_priors(
    found: Sensitivity,
    terms: Sequence[str] | None = None,
    *,
    others: Others = "presets",
    part: str | None = "scale",
    axes: Sequence[Axes] | npt.NDArray[Any] | None = None,
    columns: int = 4,
) -> npt.NDArray[Any]:
    """Median and interval of each coefficient under other priors, below each other.

    Parameters
    ----------
    found : Sensitivity
        From `BayesFit.sensitivity`.
    terms, axes, columns
        As in `sensitivity`.
    others : {"presets", "families"}, default "presets"
        What other packages would have said, or priors of other families with the same middle.
    part : str or None, default "scale"
        As in `sensitivity`.

    Returns
    -------
    ndarray of Axes, shape (number of coefficients,)
        The first row of each, in black, is the fit itself; a hollow marker is a refit that should
        not be trusted.

    Raises
    ------
    FitError
        For unknown priors, an unknown part or term, and for fewer axes than coefficients.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import under_priors
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_bayes(seed=1)
    >>> found = fit.sensitivity(
    ...     factors=(), presets=("slides", "blsmeta"), draws=1000, progress=False)
    >>> [text.get_text() for text in under_priors(found)[0].get_yticklabels()]
    ['as fitted', 'slides', 'blsmeta']
    """
    require_choice("others", others, Others)
    names = _names(found, terms, part)
    table = found.presets if others == "presets" else found.families
    labels = list(dict.fromkeys(table.index.get_level_values("prior")))
    columns = max(1, min(columns, len(names)))
    height = 0.9 + row_height(len(labels)) * len(labels)
    caution = found.fit.design.caution
    given = panels(len(names), columns=columns, size=(2.7, height), axes=axes, caution=caution)
    for position, (ax, name) in enumerate(zip(given, names, strict=True)):
        tidy(ax)
        of, term = (table.index.get_level_values(level) for level in ("part", "term"))
        rows = table[(of == name[0]) & (term == name[1])].droplevel(["part", "term"])
        _draw_rows(ax, rows.loc[labels])
        shown = axes is not None or position % columns == 0
        ax.set_yticklabels(
            [shorten(label, _LONGEST_NAME) for label in labels] if shown else [], fontsize=SMALL
        )
        name_axes(ax, "", "", title=shorten(f"{name[0]}: {name[1]}", 30))
        ax.title.set_fontsize(SIZE)
    return given


def _draw_rows(ax: Axes, rows: pd.DataFrame) -> None:
    y = np.arange(len(rows))
    colours = [BLACK, *[BLUE] * (len(rows) - 1)]
    ax.hlines(y, rows["ci_lb"], rows["ci_ub"], color=colours, lw=1.4, gid="interval")
    faces = ["white" if not ok else c for ok, c in zip(rows["trusted"], colours, strict=True)]
    ax.scatter(rows["median"], y, s=22, c=faces, edgecolors=colours, zorder=3, gid="median")
    ax.axvline(0, color=GREY, lw=0.8, ls=":", zorder=0)
    ax.set_yticks(y)
    ax.set_ylim(len(rows) - 0.5, -0.5)


def _names(found: Sensitivity, terms: Sequence[str] | None, part: str | None) -> list[Name]:
    """The coefficients that are meant, in the order of the model's parts."""

    every = [(str(of), str(term)) for of, term in found.table.index]
    known = [name for name in every if part is None or is_part(name[0], part)]
    if not known:
        require_choice("part", part, dict.fromkeys(of for of, _ in every))
    wanted = None if terms is None else list(terms)
    for term in wanted or ():
        if term not in [each for _, each in known]:
            shown = ", ".join(dict.fromkeys(each for _, each in known))
            where = "model" if part is None else f"{part} part"
            raise FitError(f"the {where} has no term {term!r}; it has {shown}")
    return known if wanted is None else [name for name in known if name[1] in wanted]
