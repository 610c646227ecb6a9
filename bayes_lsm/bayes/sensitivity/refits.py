"""The posterior of one model under other priors: the refits behind `sensitivity`.

What a model is, a `Subject` says (`sensitivity_subjects` for one scale term and
`clustered_sensitivity` for several). A refit costs some hundredths of a second where β can be
integrated out, so that nothing is approximated: each prior gets draws of its own, all from the same
random numbers. Where it cannot, the draws that there are get weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.engines.diagnostics import LARGEST_PARETO_K, SMALLEST_ESS, dominated
from bayes_lsm.bayes.engines.pareto import smooth_weights
from bayes_lsm.priors import PriorBlock, Priors, ResolvedPriors, stretch

BlockName = Literal["location", "scale"]
Kind = Literal["coefficient", "level", "correlation", "sd", "df"]


@dataclass(frozen=True)
class Coefficient:
    """One number that a model estimates.

    Attributes
    ----------
    part, term : str
        What tables call it.
    block : {"location", "scale"}
        Of the priors.
    own : tuple of int
        The places of its own prior in that block: several where numbers have a joint prior (the
        correlations of one scale term, slopes under a shrinkage prior).
    kind : {"coefficient", "level", "correlation", "sd", "df"}
        A level of ln τ², an SD of random intercepts, or ν, is never 0. A correlation is measured as
        Fisher's z, an SD ω as ln ω² and ν as ln(ν − lower), so that their priors can be made wider.
    lower : float
        The smallest ν.
    """

    part: str
    term: str
    block: BlockName
    own: tuple[int, ...]
    kind: Kind = "coefficient"
    lower: float = 0.0

    @property
    def can_be_zero(self) -> bool:
        """Whether it means something that it is 0."""
        return self.kind in ("coefficient", "correlation")

    def shown(self, values: Array) -> Array:
        """What is measured as itself: a correlation from Fisher's z, ω from ln ω², ν."""
        if self.kind == "correlation":
            return np.tanh(values)
        if self.kind == "df":
            return np.asarray(self.lower + np.exp(values))
        return np.exp(values / 2) if self.kind == "sd" else values

    def __str__(self) -> str:
        return f"{self.part}[{self.term}]"


@dataclass(frozen=True, eq=False)
class Refitted:
    """Draws under one prior.

    Attributes
    ----------
    priors : ResolvedPriors
    location, scale : ndarray, shapes (S, p), (S, q)
        The coefficients that the two blocks of priors are of.
    values : ndarray, shape (S, P)
        Of all coefficients of the subject, in its order.
    latent : ndarray, shape (S, L), or None
        What else the likelihood is given: degrees of freedom that are fixed, random intercepts.
    problems : tuple of str
        Why they should not be trusted.
    weights : ndarray, shape (S,), or None
        Where the draws do not have equal weight: they sum to one.
    """

    priors: ResolvedPriors
    location: Array
    scale: Array
    values: Array
    latent: Array | None = None
    problems: tuple[str, ...] = ()
    weights: Array | None = None

    @cached_property
    def log_priors(self) -> dict[BlockName, Array]:
        """Log prior density (S,) of either block."""
        return {
            "location": self.priors.location.logpdf(self.location).sum(axis=1),
            "scale": self.priors.scale.logpdf(self.scale).sum(axis=1),
        }


class Subject(Protocol):
    """What is asked of a fitted model: its unknowns by name, and its posterior under other priors.

    Attributes
    ----------
    coefficients : tuple of Coefficient
    slopes, levels : list of int
        Places, in the scale block, of the coefficients of ln τ².
    priors : ResolvedPriors
        As fitted.
    """

    coefficients: tuple[Coefficient, ...]
    slopes: list[int]
    levels: list[int]
    priors: ResolvedPriors

    def resolve(self, priors: Priors) -> ResolvedPriors:
        """Priors bound to the data."""

    def other_statements(self) -> dict[str, Priors]:
        """What else might have been said of correlations."""

    def preset_like(self, preset: Priors) -> Priors:
        """A preset, with what is said of unknowns that presets do not speak of."""

    def can_draw(self, priors: ResolvedPriors) -> bool:
        """Whether `draw` takes these."""

    def draw(self, priors: ResolvedPriors, *, draws: int, seed: int) -> Refitted:
        """Independent draws under these priors."""

    def drawn(self) -> Refitted:
        """The draws of the fit itself."""

    def sample(self, priors: Priors, *, seed: int, progress: bool) -> Refitted:
        """The posterior by NUTS."""

    def values(self, location: Array, scale: Array) -> Array:
        """All coefficients (S, P) as they are measured."""

    def log_likelihood(self, found: Refitted) -> Array:
        """ln p(y) in each draw (S,)."""

    def tau_rows(self) -> tuple[pd.Index, Array]:
        """Whose τ is shown, and the rows (U, q) that make their ln τ² of the scale block."""


@dataclass(frozen=True)
class Refitter:
    """Fits one model under any priors.

    Attributes
    ----------
    subject : Subject
    draws : int
    seed : int
    """

    subject: Subject
    draws: int
    seed: int

    @property
    def is_exact(self) -> bool:
        """Whether the model can be fitted anew some hundred times."""
        return self.subject.can_draw(self.subject.priors)

    def base(self) -> Refitted:
        """The posterior under the priors of the fit."""
        return self(self.subject.priors) if self.is_exact else self.subject.drawn()

    def __call__(self, priors: ResolvedPriors, *, near: Refitted | None = None) -> Refitted:
        """The posterior under these priors.

        Where it cannot be drawn from directly, the draws of a posterior `near` are reweighted.
        """
        if near is None or self.subject.can_draw(priors):
            return self.subject.draw(priors, draws=self.draws, seed=self.seed)
        other = replace(near, priors=priors)
        log_weights, k = smooth_weights(
            sum(
                other.log_priors[name] - near.log_priors[name]
                for name in near.log_priors
                if getattr(priors, name) is not getattr(near.priors, name)
            )
            + np.zeros(len(near.values))
        )
        weights = np.exp(log_weights)
        return replace(other, problems=_weight_problems(weights, k), weights=weights)

    def sample_prior(self, priors: ResolvedPriors, size: int) -> Array:
        """Draws (size, P) of the coefficients from their priors."""
        rng = np.random.default_rng([self.seed, 1])
        location, scale = (block.sample(size, rng) for block in (priors.location, priors.scale))
        return self.subject.values(location, scale)

    def log_densities(self, found: Refitted) -> tuple[Array, Array]:
        """Log prior density of the coefficients and log likelihood, (S,) each."""
        log_prior = found.log_priors["location"] + found.log_priors["scale"]
        return log_prior, self.subject.log_likelihood(found)


def _weight_problems(weights: Array, k: float) -> tuple[str, ...]:
    found = []
    if dominated(k, weights.max()):
        found.append(f"Pareto k of the weights is {k:.2f} (at most {LARGEST_PARETO_K} is good)")
    ess = 1.0 / float(np.sum(weights**2))
    if not ess >= SMALLEST_ESS:
        found.append(f"the weights leave {ess:.0f} draws (at least {SMALLEST_ESS} are good)")
    return tuple(found)


def stretched(
    priors: ResolvedPriors, which: Sequence[Coefficient], factor: float
) -> ResolvedPriors:
    """The same priors, those of some coefficients `factor` times as wide about their medians."""
    places: dict[BlockName, set[int]] = {"location": set(), "scale": set()}
    for each in which:
        places[each.block].update(each.own)
    return ResolvedPriors(
        _stretch_block(priors.location, places["location"], factor),
        _stretch_block(priors.scale, places["scale"], factor),
    )


def _stretch_block(block: PriorBlock, places: set[int], factor: float) -> PriorBlock:
    if not places:
        return block
    return replace(
        block,
        priors=tuple(
            stretch(prior, factor) if j in places else prior for j, prior in enumerate(block.priors)
        ),
    )


def joint_places(block: PriorBlock, place: int) -> tuple[int, ...]:
    """The places of the prior that the coefficient at `place` has, alone or with others."""
    return tuple(block.shrunk) if place in block.shrunk else (place,)


def summarise(
    found: Refitted | Array, coefficients: Sequence[Coefficient], *, level: float
) -> pd.DataFrame:
    """median, ci_lb, ci_ub (equal-tailed), p_positive and trusted; one row a coefficient.

    Correlations, SDs and ν are as in the draws; see `as_shown`.
    """
    values, weights, problems = (
        (found.values, found.weights, found.problems)
        if isinstance(found, Refitted)
        else (found, None, ())
    )
    tail = (1 - level) / 2
    lower, median, upper = quantiles(values, [tail, 0.5, 1 - tail], weights)
    return pd.DataFrame(
        {
            "median": median,
            "ci_lb": lower,
            "ci_ub": upper,
            "p_positive": np.average(values > 0, axis=0, weights=weights),
            "trusted": not problems,
        },
        index=index_of(coefficients),
    )


def index_of(coefficients: Sequence[Coefficient]) -> pd.MultiIndex:
    """Part and term of each coefficient."""
    names = [(each.part, each.term) for each in coefficients]
    return pd.MultiIndex.from_tuples(names, names=["part", "term"])


def as_shown(table: pd.DataFrame, coefficients: Sequence[Coefficient]) -> pd.DataFrame:
    """The same table with correlations, SDs and ν themselves: quantiles go with what rises."""
    parts, terms = (table.index.get_level_values(level) for level in ("part", "term"))
    table = table.copy()
    for each in coefficients:
        if each.kind in ("correlation", "sd", "df"):
            rows = (parts == each.part) & (terms == each.term)
            for column in ("median", "ci_lb", "ci_ub"):
                table.loc[rows, column] = each.shown(table.loc[rows, column].to_numpy())
            if each.kind != "correlation":
                table.loc[rows, "p_positive"] = 1.0
    return table


def is_part(name: str, asked: str) -> bool:
    """Whether a part is that which is asked for: ``"scale"`` are those of all scale terms."""
    return name == asked or name.startswith(f"{asked} (")


def quantiles(values: Array, probabilities: Sequence[float], weights: Array | None) -> Array:
    """Of each column of draws (S, P), a row for each probability."""
    if weights is None:
        return np.quantile(values, probabilities, axis=0)
    found = np.quantile(values, probabilities, axis=0, weights=weights, method="inverted_cdf")
    return np.asarray(found)


def overlap(first: Array, second: Array, *, bins: int = 60) -> float:
    """The area that two densities share, from draws of both: 1 for the same, 0 for none.

    Counted in bins that hold equal shares of all draws together.
    """
    edges = np.quantile(np.concatenate([first, second]), np.linspace(0, 1, bins + 1)[1:-1])
    counts = [
        np.bincount(np.searchsorted(edges, each), minlength=bins) / len(each)
        for each in (first, second)
    ]
    return float(np.minimum(*counts).sum())


def width(table: pd.DataFrame) -> pd.Series:
    """Lengths of the intervals of a `summarise` table."""
    return table["ci_ub"] - table["ci_lb"]
