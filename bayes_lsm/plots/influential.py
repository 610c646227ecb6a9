"""What each study does to a fit: a panel for each measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.choices import require_known
from bayes_lsm.plots.canvas import (
    BLUE,
    GREEN,
    GREY,
    SIZE,
    SMALL,
    VERMILLION,
    Axes,
    GivenAxes,
    Panels,
    name_point,
    panels,
    shorten,
)
from bayes_lsm.plots.reading import refuse_fit
from bayes_lsm.reml.diagnostics.influence import Influence

_TITLES = {
    "rstudent": "studentised deleted residual",
    "dffits": "DFFITS",
    "cook.d": "Cook's distance",
    "cov.r": "covariance ratio",
    "tau2.del": "mean τ² without it",
    "tau2.change": "change of mean τ²",
    "X2": "χ² of deleted residuals",
    "QE.del": "Q without it",
    "hat": "hat value",
    "weight": "weight (%)",
}
# Where a measure of a study without any influence would be.
_NEUTRAL = {"rstudent": 0.0, "dffits": 0.0, "cov.r": 1.0, "tau2.change": 0.0}


def influence(
    found: Influence,
    measures: Sequence[str] | None = None,
    *,
    axes: GivenAxes = None,
    columns: int = 3,
    name: int = 5,
    label_width: int = 12,
) -> Panels:
    """The measures of `Influence`, study by study, a panel for each.

    Parameters
    ----------
    found : Influence
        From `RemlFit.influence`.
    measures : sequence of str, optional
        Columns of ``found.to_dataframe()``; by default all that say something of these clusters.
    axes : sequence of Axes, optional
        As many as measures; by default those of a new figure.
    columns : int, default 3
        Panels beside each other in a new figure.
    name : int, default 5
        Influential studies are named in a panel if they are among the so many
        studies that are farthest out there.
    label_width : int, default 12
        Longer names are cut.

    Returns
    -------
    ndarray of Axes, shape (number of measures,)
        Diamonds are studies that move the location coefficients by metafor's rules, squares those
        that move a scale coefficient by more than one standard error.

    Raises
    ------
    FitError
        For an unknown measure, or fewer axes than measures.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import influence
    >>> fit = lsm.LocationScaleModel.from_file("bcg").fit_reml()
    >>> axes = influence(fit.influence(progress=False), ["rstudent", "cook.d"])
    >>> [ax.get_title(loc="left") for ax in axes]
    ['studentised deleted residual', "Cook's distance"]
    """
    refuse_fit(found, "influence measures", "fit.influence()")
    table = found.to_dataframe()
    known = [measure for measure in _TITLES if measure in table]
    told = [measure for measure in known if measure in found.measures]
    wanted = list(told if measures is None else measures)
    for measure in wanted:
        require_known("Influence", "measure", measure, known)
    design = found.fit.design
    given = panels(len(wanted), columns=columns, size=(3.8, 2.3), axes=axes, caution=design.caution)
    for ax, measure in zip(given, wanted, strict=True):
        values = table[measure].to_numpy(dtype=float)
        _draw(ax, values, found, _NEUTRAL.get(measure))
        ax.set_title(_TITLES[measure], fontsize=SIZE, loc="left")
        _name_studies(ax, values, found, name, label_width)
    return given


def _draw(ax: Axes, values: Array, found: Influence, neutral: float | None) -> None:
    from matplotlib.ticker import MaxNLocator

    x = np.arange(1, len(values) + 1)
    ax.plot(x, values, color=GREY, lw=0.6, zorder=1)
    moves, moves_scale = found.influential, found.influential_scale
    size = float(np.clip(150 / len(values), 2.0, 4.5))
    kinds = (
        (~(moves | moves_scale), "o", BLUE, size, "plain"),
        (moves_scale, "s", GREEN, size + 3.5, "scale"),
        (moves, "D", VERMILLION, size + 0.5, "location"),
    )
    for members, marker, colour, ms, gid in kinds:
        face = "none" if gid == "scale" else colour
        ax.plot(x[members], values[members], marker, mfc=face, mec=colour, ms=ms, zorder=2, gid=gid)
    if neutral is not None:
        ax.axhline(neutral, color=GREY, lw=0.7, ls=":", zorder=0)
    ax.margins(y=0.2)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(f"{found.unit} (in the order of the data)", fontsize=SMALL)


def _name_studies(ax: Axes, values: Array, found: Influence, count: int, width: int) -> None:
    """The influential studies farthest from the others, if they are not beside one another."""
    marked = np.flatnonzero((found.influential | found.influential_scale) & np.isfinite(values))
    distance = np.abs(values - np.nanmedian(values))
    named: list[int] = []
    farthest = np.argsort(-np.nan_to_num(distance))[:count]
    for i in farthest[np.isin(farthest, marked)]:
        if all(abs(i - j) > 0.07 * len(values) for j in named):
            named.append(int(i))
            right = bool(i < 0.75 * len(values))
            text = shorten(found.labels[i], width)
            name_point(ax, text, (i + 1, values[i]), right=right, up=6.5)
