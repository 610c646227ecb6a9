"""What the priors said of the coefficients, and what the posterior says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bayes_lsm.errors import FitError
from bayes_lsm.plots.canvas import BLUE, GREY, VERMILLION, legend, name_axes, panels, tidy
from bayes_lsm.plots.reading import design_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayes_lsm.bayes.fit import BayesFit
    from bayes_lsm.priors import PriorBlock
    from bayes_lsm.reml.tests import PartName

Array = npt.NDArray[np.float64]

# A panel holds this much of the posterior and, if that is narrower, of the prior.
_SHOWN = 0.995
_PRIOR_DRAWS = 20_000


def prior_posterior(
    fit: BayesFit,
    terms: Sequence[str] | None = None,
    *,
    part: PartName = "scale",
    axes: Sequence[Axes] | npt.NDArray[Any] | None = None,
    columns: int = 2,
    level: float = 0.95,
) -> npt.NDArray[Any]:
    """Prior and posterior densities of coefficients, a panel for each.

    Where the two curves are nearly the same, the data have said little.

    Parameters
    ----------
    fit : BayesFit
    terms : sequence of str, optional
        By default all of the part.
    part : {"scale", "location"}, default "scale"
    axes : sequence of Axes, optional
        As many as terms; by default those of a new figure.
    columns : int, default 2
        Panels beside each other in a new figure.
    level : float, default 0.95
        The equal-tailed interval under the posterior.

    Returns
    -------
    ndarray of Axes, shape (number of terms,)
        A flat prior has no density, and is said in the legend only.

    Raises
    ------
    FitError
        For an unknown part or term, and for fewer axes than terms.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import prior_posterior
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_bayes(seed=1)
    >>> [ax.get_xlabel() for ax in prior_posterior(fit)]
    ['intrcpt', 'I(weeks - 40)']
    """
    from bayes_lsm.bayes.graph import resolve_priors

    design = design_of(fit)
    if part not in ("scale", "location"):
        raise FitError(f"part must be 'scale' or 'location', got {part!r}")
    names = design.parts[part]
    wanted = list(names if terms is None else terms)
    for term in wanted:
        if term not in names:
            raise FitError(f"the {part} part has no term {term!r}; it has {', '.join(names)}")
    block: PriorBlock = getattr(resolve_priors(design, fit.priors), part)
    draws = fit.draws.flat_scale if part == "scale" else fit.draws.flat_location
    table = fit.summary(level=level).loc[part]
    given = panels(len(wanted), columns=columns, size=(4.2, 3.0), axes=axes, caution=design.caution)
    for ax, term in zip(given, wanted, strict=True):
        tidy(ax)
        j = names.index(term)
        summary = table[["ci_lb", "median", "ci_ub"]].to_numpy()[j]
        _draw(ax, draws[:, j], block, j, summary, level)
        name_axes(ax, term, "density")
        legend(ax)
    return given


def _draw(ax: Axes, draws: Array, block: PriorBlock, j: int, summary: Array, level: float) -> None:
    x, density = smooth(draws)
    low, high = np.quantile(draws, [1 - _SHOWN, _SHOWN])
    lower, median, upper = summary
    prior = None if not _is_proper(block, j) else _prior_curve(block, j, low, high)
    ax.plot(x, density, color=BLUE, lw=1.8, label="posterior", gid="posterior")
    under = (x >= lower) & (x <= upper)
    ax.fill_between(
        x[under], density[under], color=BLUE, alpha=0.2, lw=0, label=f"{100 * level:g}% CrI"
    )
    ax.plot(
        [median, median],
        [0, np.interp(median, x, density)],
        color=BLUE,
        lw=1.0,
        ls=":",
        gid="median",
    )
    if prior is None:
        ax.plot([], [], color=VERMILLION, lw=1.6, ls="--", label="prior: flat")
    else:
        ax.plot(*prior, color=VERMILLION, lw=1.6, ls="--", label="prior", gid="prior")
        low, high = min(low, prior[0][0]), max(high, prior[0][-1])
    if low < 0 < high:
        ax.axvline(0, color=GREY, lw=0.8, ls=":", zorder=0)
    ax.set_xlim(low, high)
    ax.set_ylim(bottom=0)
    ax.set_yticks([])


def _is_proper(block: PriorBlock, j: int) -> bool:
    from bayes_lsm.priors import Flat

    used = np.flatnonzero(block.contrasts[j])
    alone = list(used) == [j]
    return not isinstance(block.priors[j], Flat) if alone else block.is_proper


def _prior_curve(block: PriorBlock, j: int, low: float, high: float) -> tuple[Array, Array]:
    """The density of coefficient j: exact where its prior is of it alone, else from draws."""
    width = high - low
    x = np.linspace(low - 0.25 * width, high + 0.25 * width, 400)
    row = block.contrasts[j]
    if list(np.flatnonzero(row)) == [j]:
        return x, np.exp(block.priors[j].logpdf(row[j] * x)) * abs(row[j])
    drawn = block.sample(_PRIOR_DRAWS, np.random.default_rng(0))[:, j]
    grid, density = smooth(drawn)
    return x, np.interp(x, grid, density, left=0.0, right=0.0)


def smooth(draws: Array) -> tuple[Array, Array]:
    """A kernel density estimate: its grid and its values.

    Of the middle 99.8 per cent of the draws, whose tails can be so long that a grid over all of
    them would have nothing to show.
    """
    from arviz_stats.base import array_stats

    low, high = np.quantile(draws, [0.001, 0.999])
    kept = draws[(draws >= low) & (draws <= high)]
    grid, density, _ = array_stats.kde(kept)
    return np.asarray(grid), np.asarray(density) * len(kept) / len(draws)
