"""Whether the residuals of a fit look as they should: funnel and normal Q-Q plot."""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv, ndtri

from bayes_lsm.arrays import Array
from bayes_lsm.errors import FitError
from bayes_lsm.plots.canvas import (
    BLUE,
    GREY,
    PALE,
    Axes,
    canvas,
    farthest,
    fence,
    mark_beyond,
    mark_outliers,
    name_axes,
    name_point,
    shorten,
)
from bayes_lsm.plots.reading import refuse_fit
from bayes_lsm.reml.diagnostics.residuals import Residuals


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
    mark_outliers(ax, x, se, outside)
    mark_beyond(ax, se, x, x, limits=(-reach, reach), size=6.0)
    ax.set_xlim(-reach, reach)
    ax.set_ylim(bottom, 0)
    for i in farthest(z, outside, name):
        place = (float(np.clip(x[i], -reach, reach)), se[i])
        right = (x[i] > 0) == (abs(x[i]) < 0.7 * reach)
        name_point(ax, shorten(residuals.labels[i], 20), place, right=right)
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
    residuals, ax
        As in `funnel`.
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
        As in `funnel`.

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
    z, n = z[order], len(order)
    rank = np.arange(1, n + 1)
    expected = ndtri((rank - 0.5) / n)
    lower, upper = (
        ndtri(betaincinv(rank, n + 1 - rank, p)) for p in (0.5 - level / 2, 0.5 + level / 2)
    )
    ax = canvas(ax, size=(4.4, 4.2))
    ax.fill_between(expected, lower, upper, color=BLUE, alpha=0.15, lw=0, gid="band")
    ends = [min(expected[0], z[0]), max(expected[-1], z[-1])]
    ax.plot(ends, ends, color=GREY, lw=0.9, ls="--", zorder=2)
    outside = (z < lower) | (z > upper)
    mark_outliers(ax, expected, z, outside)
    for i in farthest(z, outside & (np.abs(z) > ndtri(0.5 + level / 2)), name):
        right = expected[i] < 0
        text = shorten(residuals.labels[order[i]], 20)
        name_point(ax, text, (expected[i], z[i]), right=right, up=-7 if right else 7)
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
