"""What the priors said of the coefficients, and what the posterior says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prior_draws import draw_priors
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.choices import require_choice, require_known
from bayes_lsm.design.design import Design
from bayes_lsm.plots.canvas import (
    BLUE,
    GREY,
    VERMILLION,
    Axes,
    GivenAxes,
    Panels,
    legend,
    name_axes,
    panels,
)
from bayes_lsm.plots.reading import refuse_fit
from bayes_lsm.priors import Flat, Normal, PriorBlock, ResolvedPriors
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom

# The density at some points: nan where there is none to be shown.
type Density = Callable[[Array], Array]

# A panel holds this much of the posterior and, if that is narrower, of the prior.
_SHOWN = 0.995
_PRIOR_DRAWS = 20_000


def prior_posterior(
    fit: Posterior,
    terms: Sequence[str] | None = None,
    *,
    part: str = "scale",
    axes: GivenAxes = None,
    columns: int = 2,
    level: float = 0.95,
) -> Panels:
    """Prior and posterior densities of coefficients, a panel for each.

    Where the two curves are nearly the same, the data have said little.

    Parameters
    ----------
    fit : BayesFit, or its draws alone (a Posterior)
    terms : sequence of str, optional
        By default all of the part.
    part : str, default "scale"
        ``"location"``, ``"scale"``, or ``"study_effects"``, which is ν of Student-t study effects
        where it is estimated; with several scale terms also one of the parts of its tables,
        such as ``"scale (district)"`` or ``"correlation (outcome | trial)"``.
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
    refuse_fit(fit, "a Bayesian fit", "model.fit_bayes()")
    beliefs = _beliefs(fit, part)
    wanted = list(dict.fromkeys(each.term for each in beliefs) if terms is None else terms)
    for term in wanted:
        require_known(f"the {part} part", "term", term, [each.term for each in beliefs])
    shown = [each for term in wanted for each in beliefs if each.term == term]
    caution = fit.design.caution
    given = panels(len(shown), columns=columns, size=(4.2, 3.0), axes=axes, caution=caution)
    for ax, belief in zip(given, shown, strict=True):
        _draw(ax, belief, level)
        name_axes(ax, belief.label, "density")
        legend(ax)
    return given


@dataclass(frozen=True, eq=False)
class _Belief:
    """A coefficient: its draws, and its prior's density, if it has one."""

    term: str
    label: str
    draws: Array
    prior: Density | None


def _beliefs(fit: Posterior, part: str) -> list[_Belief]:
    """Of parts with that name, ``"scale"`` being all scale terms."""
    whole = fit.parts()
    chosen = [name for name in whole if name == part or name.startswith(f"{part} (")]
    if not chosen:
        require_choice("part", part, whole)
    curves, found = _prior_curves(fit), []
    for name in chosen:
        terms, draws = whole[name]
        for j, term in enumerate(terms):
            label = term if name == part else f"{name}: {term}"
            label = "ν" if name == "study_effects" else label
            found.append(_Belief(term, label, draws[:, j], curves[name, j]))
    return found


def _prior_curves(fit: Posterior) -> dict[tuple[str, int], Density | None]:
    """By part and place: exact where a prior is of one number alone, else from draws.

    None where the prior is flat, alone or together with others.
    """

    design, priors = fit.design, fit.priors
    resolved, rng = resolve_priors(design, priors), np.random.default_rng(0)
    drawable = replace(
        resolved,
        location=_without_flat(resolved.location),
        scale=_without_flat(resolved.scale),
    )
    drawn = draw_priors(design, priors, drawable, _PRIOR_DRAWS, rng).parts(design)
    curves: dict[tuple[str, int], Density | None] = {
        (part, j): _drawn(values[0, :, j])
        for part, (names, values) in drawn.items()
        for j in range(len(names))
    }
    for key, block, place in _places(design, resolved):
        if _is_flat(block, place):
            curves[key] = None
        elif list(np.flatnonzero(block.contrasts[place])) == [place]:
            curves[key] = _exact(block, place)
    df = resolved.df
    if isinstance(df, DegreesOfFreedom):
        curves["study_effects", 0] = lambda x: np.where(x >= df.lower, np.exp(df.logpdf(x)), np.nan)
    return curves


def _places(
    design: Design, resolved: ResolvedPriors
) -> Iterator[tuple[tuple[str, int], PriorBlock, int]]:
    """Where each coefficient stands in its block of priors."""
    for j in range(len(design.location.names)):
        yield ("location", j), resolved.location, j
    for term, at in zip(design.terms, design.places, strict=True):
        for j in range(len(term.names)):
            yield (design.part_name("scale", term), j), resolved.scale, at.start + j


def _without_flat(block: PriorBlock) -> PriorBlock:
    """The block with something in the place of flat priors that can be drawn from."""
    some = tuple(Normal() if isinstance(each, Flat) else each for each in block.priors)
    return replace(block, priors=some)


def _is_flat(block: PriorBlock, j: int) -> bool:
    """Whether a flat prior says nothing of coefficient j either."""
    flat = [isinstance(each, Flat) for each in block.priors]
    return bool(np.linalg.inv(block.contrasts)[j, flat].any())


def _exact(block: PriorBlock, j: int) -> Density:
    stretch = block.contrasts[j, j]
    return lambda x: np.exp(block.priors[j].logpdf(stretch * x)) * abs(stretch)


def _drawn(draws: Array) -> Density:
    def density(x: Array) -> Array:
        inside = (x >= draws.min()) & (x <= draws.max())
        return np.where(inside, np.interp(x, *smooth(draws), left=0.0, right=0.0), np.nan)

    return density


def _draw(ax: Axes, belief: _Belief, level: float) -> None:
    draws = belief.draws
    x, density = smooth(draws)
    low, high = np.quantile(draws, [1 - _SHOWN, _SHOWN])
    lower, median, upper = np.quantile(draws, [(1 - level) / 2, 0.5, (1 + level) / 2])
    ax.plot(x, density, color=BLUE, lw=1.8, label="posterior", gid="posterior")
    under, name = (x >= lower) & (x <= upper), f"{100 * level:g}% CrI"
    ax.fill_between(x[under], density[under], color=BLUE, alpha=0.2, lw=0, label=name)
    height = np.interp(median, x, density)
    ax.plot([median, median], [0, height], color=BLUE, lw=1.0, ls=":", gid="median")
    if belief.prior is None:
        ax.plot([], [], color=VERMILLION, lw=1.6, ls="--", label="prior: flat")
    else:
        margin = 0.25 * (high - low)
        x = np.linspace(low - margin, high + margin, 400)
        density = belief.prior(x)
        x, density = x[~np.isnan(density)], density[~np.isnan(density)]
        ax.plot(x, density, color=VERMILLION, lw=1.6, ls="--", label="prior", gid="prior")
        low, high = min(low, x[0]), max(high, x[-1])
    if low < 0 < high:
        ax.axvline(0, color=GREY, lw=0.8, ls=":", zorder=0)
    ax.set_xlim(low, high)
    ax.set_ylim(bottom=0)
    ax.set_yticks([])


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
