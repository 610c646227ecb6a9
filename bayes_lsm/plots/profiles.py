"""Profile likelihoods of scale coefficients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayes_lsm.errors import FitError
from bayes_lsm.plots.canvas import (
    BLACK,
    BLUE,
    GREY,
    VERMILLION,
    Axes,
    GivenAxes,
    Panels,
    canvas,
    legend,
    name_axes,
    number,
    panels,
)
from bayes_lsm.plots.reading import refuse_fit
from bayes_lsm.reml.intervals.profile import Profile


def profile(found: Profile, *, ax: Axes | None = None, xlab: str | None = None) -> Axes:
    """The profile likelihood of one scale coefficient, with its estimate and interval.

    Parameters
    ----------
    found : Profile
        From `RemlFit.profile`.
    ax : Axes, optional
    xlab : str, optional
        By default the name of the coefficient.

    Returns
    -------
    Axes
        The dashed line is the cut-off: the interval is where the curve lies above it. An estimate
        at ±inf is an arrow at that side.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import profile
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_reml()
    >>> found = fit.profile("I(weeks - 40)", points=21)
    >>> len(profile(found).lines[0].get_xdata())
    21
    """
    refuse_fit(found, "a profile", "fit.profile(term)")
    ax = canvas(ax, size=(4.2, 3.2))
    level = f"{100 * found.level:g}%"
    ax.plot(found.values, found.loglik, color=BLUE, lw=1.8, zorder=3)
    ax.axhline(found.cutoff, color=GREY, ls="--", lw=1.0, label=f"{level} cut-off")
    above = found.loglik >= found.cutoff
    floor = found.cutoff - 0.35 * (found.maximum - found.cutoff)
    low = max(float(found.loglik.min()), found.cutoff - 3 * (found.maximum - found.cutoff))
    bottom = min(low, floor)
    ax.set_ylim(bottom, found.maximum + 0.08 * (found.maximum - bottom))
    inside = np.r_[found.values[above], [e for e in (found.lower, found.upper) if np.isfinite(e)]]
    if len(inside):
        ax.axvspan(inside.min(), inside.max(), color=BLUE, alpha=0.08, lw=0, gid="interval")
    for end in (found.lower, found.upper):
        if np.isfinite(end):
            ax.plot([end, end], [bottom, found.cutoff], color=BLUE, lw=0.9, ls=":", gid="bound")
    if not np.isnan(found.estimate):
        _draw_estimate(ax, found)
    name_axes(ax, xlab or found.term, "log-likelihood", title=found.verdict)
    legend(ax, loc="lower center")
    return ax


def _draw_estimate(ax: Axes, found: Profile) -> None:
    """A dot, or an arrow at the side where it is infinite."""
    x, label = found.estimate, f"estimate {number(found.estimate, 2)}"
    marker, size, edge = "o", 6, "white"
    if np.isinf(x):
        right = x > 0
        x, label = found.values[-1 if right else 0], f"estimate at {'+' if right else '−'}∞"
        marker, size, edge = ">" if right else "<", 8, BLACK
    (dot,) = ax.plot([x], [found.maximum], marker, color=VERMILLION, ms=size, mec=edge, zorder=4)
    dot.set(gid="estimate", label=label)


def profiles(
    found: Sequence[Profile],
    *,
    axes: GivenAxes = None,
    columns: int = 2,
) -> Panels:
    """A panel for each of several profiles, as the talk shows them.

    Parameters
    ----------
    found : sequence of Profile
    axes, columns
        As in `prior_posterior`: as many axes as profiles.

    Returns
    -------
    ndarray of Axes, shape (number of profiles,)

    Raises
    ------
    FitError
        When there are no profiles, or fewer axes than profiles.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import profiles
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_reml()
    >>> profiles([fit.profile(term, points=11) for term in fit.design.scale.names]).shape
    (2,)
    """
    refuse_fit(found, "profiles", "[fit.profile(term)]")
    if not len(found):
        raise FitError("found must hold at least one profile, got none; use fit.profile(term)")
    given = panels(len(found), columns=columns, size=(4.2, 3.2), axes=axes)
    for ax, each in zip(given, found, strict=True):
        profile(each, ax=ax)
    return given
