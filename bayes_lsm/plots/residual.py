"""Whether the residuals of a fit look as they should: funnel and normal Q-Q plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtri

from bayes_lsm.errors import FitError
from bayes_lsm.plots.canvas import (
    BLUE,
    GREY,
    PALE,
    VERMILLION,
    canvas,
    fence,
    mark_beyond,
    name_axes,
    shorten,
)
from bayes_lsm.plots.reading import refuse_fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayes_lsm.reml.diagnostics.residuals import Residuals

Array = npt.NDArray[np.float64]


def funnel(
    residuals: Residuals,
    *,
    ax: Axes | None = None,
    level: float = 0.95,
    name: int = 3,
    xlab: str | None = None,
) -> Axes:
    """Residuals against their standard errors, which hold v_i and each study's own τ_i².

    Parameters
    ----------
    residuals : Residuals
        From `residuals`, of any kind but ``"raw"``, which has no standard errors.
    ax : Axes, optional
    level : float, default 0.95
        Share of the studies that the model expects inside the white funnel.
    name : int, default 3
        How many of the studies outside are named: those farthest out.
    xlab : str, optional

    Returns
    -------
    Axes

    Raises
    ------
    FitError
        For raw residuals.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import funnel
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_reml()
    >>> funnel(lsm.reml.residuals(fit, "standardized")).get_ylabel()
    'standard error'
    """
    x, se, z = _standardised(residuals)
    ax = canvas(ax, size=(5.0, 4.2))
    quantile = float(ndtri(0.5 + level / 2))
    bottom = 1.06 * float(np.nanmax(se))
    known = np.isfinite(z)
    low, high = fence(x[known], x[known], x[known], reach=6.0)
    reach = max(abs(low), abs(high), 1.05 * quantile * bottom)
    ax.set_facecolor(PALE)
    edge = quantile * bottom
    ax.fill([-edge, 0, edge], [bottom, 0, bottom], color="white", lw=0, zorder=1, gid="funnel")
    ax.plot([-edge, 0, edge], [bottom, 0, bottom], color=GREY, lw=0.8, ls="--", zorder=2)
    ax.axvline(0, color=GREY, lw=0.8, zorder=2)
    outside = np.abs(z) > quantile
    for members, colour, marker in ((~outside, BLUE, "o"), (outside, VERMILLION, "D")):
        ax.plot(
            x[members],
            se[members],
            marker,
            color=colour,
            ms=5,
            mec="white",
            mew=0.5,
            zorder=3,
            gid="outside" if marker == "D" else "inside",
        )
    mark_beyond(ax, se, x, x, limits=(-reach, reach), size=6.0)
    ax.set_xlim(-reach, reach)
    ax.set_ylim(bottom, 0)
    for i in _farthest(z, outside, name):
        right = (x[i] > 0) == (abs(x[i]) < 0.7 * reach)
        ax.annotate(
            shorten(residuals.labels[i], 20),
            (np.clip(x[i], -reach, reach), se[i]),
            xytext=(5 if right else -5, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=7,
            zorder=4,
        )
    name_axes(ax, xlab or "residual", "standard error")
    return ax


def qq(
    residuals: Residuals,
    *,
    ax: Axes | None = None,
    level: float = 0.95,
    name: int = 3,
    ylab: str | None = None,
) -> Axes:
    """Normal quantiles of residuals, with the band in which each of them is expected.

    Parameters
    ----------
    residuals : Residuals
        Of any kind but ``"raw"``.
    ax : Axes, optional
    level : float, default 0.95
        Of the band, at each quantile by itself: between quantiles of the beta distribution of a
        uniform order statistic.
    name : int, default 3
        How many of the studies outside the band are named: those farthest out, if a standard
        normal number lies there with a probability of less than 1 − `level`.
    ylab : str, optional

    Returns
    -------
    Axes

    Raises
    ------
    FitError
        For raw residuals.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import qq
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_reml()
    >>> qq(lsm.reml.residuals(fit, "standardized")).get_ylabel()
    'standardized residual'
    """
    _, _, z = _standardised(residuals)
    known = np.flatnonzero(np.isfinite(z))
    order = known[np.argsort(z[known])]
    n = len(order)
    rank = np.arange(1, n + 1)
    expected = ndtri((rank - 0.5) / n)
    lower, upper = (
        ndtri(betaincinv(rank, n + 1 - rank, p)) for p in (0.5 - level / 2, 0.5 + level / 2)
    )
    ax = canvas(ax, size=(4.4, 4.2))
    ax.fill_between(expected, lower, upper, color=BLUE, alpha=0.15, lw=0, gid="band")
    ends = [min(expected[0], z[order[0]]), max(expected[-1], z[order[-1]])]
    ax.plot(ends, ends, color=GREY, lw=0.9, ls="--", zorder=2)
    sorted_z = z[order]
    outside = (sorted_z < lower) | (sorted_z > upper)
    for members, colour, marker in ((~outside, BLUE, "o"), (outside, VERMILLION, "D")):
        ax.plot(
            expected[members],
            sorted_z[members],
            marker,
            color=colour,
            ms=5,
            mec="white",
            mew=0.5,
            zorder=3,
            gid="outside" if marker == "D" else "inside",
        )
    beyond = outside & (np.abs(sorted_z) > ndtri(0.5 + level / 2))
    for i in _farthest(sorted_z, beyond, name):
        left = expected[i] > 0
        ax.annotate(
            shorten(residuals.labels[order[i]], 20),
            (expected[i], sorted_z[i]),
            xytext=(4, 7) if left else (-4, -7),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=7,
        )
    what = residuals.kind.replace("_", " ")
    name_axes(ax, "normal quantile", ylab or f"{what} residual")
    return ax


def _standardised(residuals: Residuals) -> tuple[Array, Array, Array]:
    refuse_fit(residuals, "residuals", "reml.residuals(fit, 'standardized')")
    if residuals.kind == "raw":
        raise FitError(
            "raw residuals have no standard errors; use residuals(fit, 'standardized') or "
            "residuals(fit, 'studentized_deleted')"
        )
    return residuals.raw, residuals.se, residuals.values


def _farthest(distance: Array, among: npt.NDArray[np.bool_], count: int) -> list[int]:
    found = np.flatnonzero(among)
    return [int(i) for i in found[np.argsort(-np.abs(distance[found]))][:count]]
