"""What the priors said of the coefficients, and what the posterior says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bayes_lsm.choices import require_choice
from bayes_lsm.errors import FitError
from bayes_lsm.plots.canvas import BLUE, GREY, VERMILLION, legend, name_axes, panels, tidy
from bayes_lsm.plots.reading import refuse_fit
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayes_lsm.bayes.bayes_fit import BayesFit
    from bayes_lsm.priors import PriorBlock

Array = npt.NDArray[np.float64]
type Curve = Callable[[float, float], tuple[Array, Array]]

# A panel holds this much of the posterior and, if that is narrower, of the prior.
_SHOWN = 0.995
_PRIOR_DRAWS = 20_000


def prior_posterior(
    fit: BayesFit,
    terms: Sequence[str] | None = None,
    *,
    part: str = "scale",
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
    known = [each.term for each in beliefs]
    for term in wanted:
        if term not in known:
            raise FitError(f"the {part} part has no term {term!r}; it has {', '.join(known)}")
    shown = [each for term in wanted for each in beliefs if each.term == term]
    caution = fit.design.caution
    given = panels(len(shown), columns=columns, size=(4.2, 3.0), axes=axes, caution=caution)
    for ax, belief in zip(given, shown, strict=True):
        tidy(ax)
        _draw(ax, belief, level)
        name_axes(ax, belief.label, "density")
        legend(ax)
    return given


@dataclass(frozen=True, eq=False)
class _Belief:
    """A coefficient: its draws, and its prior's density (x, density) from low to high, if any."""

    term: str
    label: str
    draws: Array
    prior: Curve | None


def _beliefs(fit: BayesFit, part: str) -> list[_Belief]:
    if fit.design.is_independent:
        return _of_one_term(fit, part)
    return _of_several_terms(fit, part)


def _of_one_term(fit: BayesFit, part: str) -> list[_Belief]:
    from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors

    parts = fit.parts()
    require_choice("part", part, parts)
    names, draws = parts[part]
    if part == "study_effects":
        return [_Belief(name, "ν", draws[:, 0], _curve_of_df(fit)) for name in names]
    block: PriorBlock = getattr(resolve_priors(fit.design, fit.priors), part)
    return [
        _Belief(name, name, draws[:, j], _prior_curve(block, j) if _is_proper(block, j) else None)
        for j, name in enumerate(names)
    ]


def _curve_of_df(fit: BayesFit) -> Curve | None:
    from bayes_lsm.bayes.student.effects import df_prior

    prior = df_prior(fit.design, fit.priors)
    if not isinstance(prior, DegreesOfFreedom):
        return None

    def curve(low: float, high: float) -> tuple[Array, Array]:
        x = _about(low, high)
        inside = x[x >= prior.lower]
        return inside, np.exp(prior.logpdf(inside))

    return curve


def _of_several_terms(fit: BayesFit, part: str) -> list[_Belief]:
    """Of parts with that name, ``"scale"`` being all scale terms; priors as they are drawn."""
    from bayes_lsm.bayes.sensitivity.clustered_sensitivity import Terms
    from bayes_lsm.bayes.sensitivity.refits import Refitter, is_part

    subject = Terms(fit)
    parts = fit.parts()
    names = list(dict.fromkeys(each.part for each in subject.coefficients))
    if not any(is_part(name, part) for name in names):
        require_choice("part", part, names)
    if not subject.priors.is_proper:
        raise FitError("this figure needs proper priors, got a flat one; give a wide normal prior")
    prior = Refitter(subject, _PRIOR_DRAWS, 0).sample_prior(subject.priors, _PRIOR_DRAWS)
    found = []
    for each, drawn in zip(subject.coefficients, prior.T, strict=True):
        if is_part(each.part, part):
            terms, values = parts[each.part]
            label = each.term if each.part == part else f"{each.part}: {each.term}"
            own = _curve_of_draws(each.shown(drawn))
            found.append(_Belief(each.term, label, values[:, terms.index(each.term)], own))
    return found


def _draw(ax: Axes, belief: _Belief, level: float) -> None:
    draws = belief.draws
    x, density = smooth(draws)
    low, high = np.quantile(draws, [1 - _SHOWN, _SHOWN])
    lower, median, upper = np.quantile(draws, [(1 - level) / 2, 0.5, (1 + level) / 2])
    prior = None if belief.prior is None else belief.prior(low, high)
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


def _prior_curve(block: PriorBlock, j: int) -> Curve:
    """The density of coefficient j: exact where its prior is of it alone, else from draws."""
    row = block.contrasts[j]
    if list(np.flatnonzero(row)) != [j]:
        return _curve_of_draws(block.sample(_PRIOR_DRAWS, np.random.default_rng(0))[:, j])

    def curve(low: float, high: float) -> tuple[Array, Array]:
        x = _about(low, high)
        return x, np.exp(block.priors[j].logpdf(row[j] * x)) * abs(row[j])

    return curve


def _curve_of_draws(drawn: Array) -> Curve:
    def curve(low: float, high: float) -> tuple[Array, Array]:
        grid, density = smooth(drawn)
        x = _about(low, high)
        inside = x[(x >= drawn.min()) & (x <= drawn.max())]
        return inside, np.interp(inside, grid, density, left=0.0, right=0.0)

    return curve


def _about(low: float, high: float) -> Array:
    width = high - low
    return np.linspace(low - 0.25 * width, high + 0.25 * width, 400)


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
