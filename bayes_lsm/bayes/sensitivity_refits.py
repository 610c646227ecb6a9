"""The posterior of one model under other priors: the refits behind `sensitivity`.

A refit costs some hundredths of a second, β being integrated out, so that nothing is approximated:
each prior gets draws of its own, all from the same random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from bayes_lsm.bayes.collapsed import (
    can_collapse,
    require_collapsible,
    resample,
    sample_collapsed,
)
from bayes_lsm.bayes.diagnostics import LARGEST_PARETO_K, weight_problems
from bayes_lsm.bayes.draws import Array, Draws, row_blocks
from bayes_lsm.bayes.pareto import smooth_weights
from bayes_lsm.bayes.student import df_prior
from bayes_lsm.bayes.student_collapsed import can_sample_student, sample_student
from bayes_lsm.bayes.tree import log_likelihood
from bayes_lsm.degrees_of_freedom import DegreesOfFreedom
from bayes_lsm.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.priors import Family, PriorBlock, Priors, ResolvedPriors, contrasts, stretch

PartName = Literal["location", "scale"]


@dataclass(frozen=True)
class Coefficient:
    """One coefficient of a model.

    Attributes
    ----------
    part : {"location", "scale"}
    term : str
    position : int
        In its part.
    is_level : bool
        Whether it is a level of ln τ² and not a slope: then that it is 0 means nothing.
    """

    part: PartName
    term: str
    position: int
    is_level: bool

    def __str__(self) -> str:
        return f"{self.part}[{self.term}]"


def find_coefficients(design: Design) -> tuple[Coefficient, ...]:
    """All coefficients, those of the location part first."""
    _, levels = contrasts(design.Z, "standardised")
    return (
        *(Coefficient("location", term, j, False) for j, term in enumerate(design.location.names)),
        *(Coefficient("scale", term, j, j in levels) for j, term in enumerate(design.scale.names)),
    )


@dataclass(frozen=True, eq=False)
class Posterior:
    """Draws under one prior.

    Attributes
    ----------
    priors : ResolvedPriors
    values : ndarray, shape (S, P)
        Of all coefficients, those of the location part first.
    draws : Draws
    problems : tuple of str
        Why they should not be trusted.
    """

    priors: ResolvedPriors
    values: Array
    draws: Draws
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Refitter:
    """Fits one design under any priors.

    Attributes
    ----------
    design : Design
    df : DegreesOfFreedom, float or None
        Of Student-t study effects; the same in all refits.
    draws : int
    seed : int
    """

    design: Design
    df: DegreesOfFreedom | float | None
    draws: int
    seed: int

    def __call__(self, priors: ResolvedPriors, *, near: Posterior | None = None) -> Posterior:
        """The posterior under these priors.

        Where β cannot be integrated out, the draws of a posterior `near` are reweighted, whose
        scale priors are the same.
        """
        if self.df is not None:
            drawn = sample_student(self.design, priors, self.df, draws=self.draws, seed=self.seed)
        elif can_collapse(priors) or near is None:
            drawn = sample_collapsed(self.design, priors, draws=self.draws, seed=self.seed)
        else:
            return self._reweight(near, priors)
        problems = () if drawn.importance is None else tuple(weight_problems(drawn.importance))
        return Posterior(priors, _stack(drawn), drawn, problems)

    def _reweight(self, near: Posterior, priors: ResolvedPriors) -> Posterior:
        beta = near.draws.flat_location
        old, new = (each.location.logpdf(beta).sum(axis=1) for each in (near.priors, priors))
        log_weights, k = smooth_weights(new - old)
        rng = np.random.default_rng(self.seed)
        chosen = resample(np.exp(log_weights), len(beta), rng)
        drawn = Draws(beta[None, chosen], near.draws.flat_scale[None, chosen])
        words = f"Pareto k of the weights is {k:.2f} (at most {LARGEST_PARETO_K} is good)"
        problems = () if k <= LARGEST_PARETO_K else (words,)
        return Posterior(priors, _stack(drawn), drawn, problems)

    def sample_prior(self, priors: ResolvedPriors, size: int) -> Array:
        """Draws (size, P) of the coefficients from their priors."""
        rng = np.random.default_rng([self.seed, 1])
        blocks = (priors.location, priors.scale)
        return np.concatenate([block.sample(size, rng) for block in blocks], axis=1)

    def log_densities(self, found: Posterior) -> tuple[Array, Array]:
        """Log prior density of the coefficients and log likelihood, (S,) each."""
        drawn, priors = found.draws, found.priors
        beta, alpha, df = drawn.flat_location, drawn.flat_scale, drawn.flat_df
        log_prior = sum(
            block.logpdf(values).sum(axis=1)
            for block, values in ((priors.location, beta), (priors.scale, alpha))
        )
        log_lik = np.concatenate(
            [
                log_likelihood(
                    self.design,
                    beta[part],
                    alpha[part],
                    None if drawn.df is None else df[part],
                ).sum(axis=1)
                for part in row_blocks(len(beta), self.design.n_studies)
            ]
        )
        return np.asarray(log_prior), log_lik


def _stack(draws: Draws) -> Array:
    return np.concatenate([draws.flat_location, draws.flat_scale], axis=1)


def make_refitter(
    design: Design, priors: Priors, resolved: ResolvedPriors, *, draws: int, seed: int
) -> Refitter:
    """What refits this model.

    Raises
    ------
    FitError
        When the priors leave only NUTS, which would take minutes for each of some hundred fits.
    """
    df = df_prior(design, priors)
    if df is None:
        require_collapsible(
            resolved,
            "sensitivity refits the model some hundred times, for which "
            "NUTS is too slow; use such priors",
        )
    elif not can_sample_student(resolved):
        raise FitError(
            "sensitivity refits the model some hundred times, for which NUTS is too slow: it needs "
            "proper priors on all location coefficients, and no shrinkage prior on the scale part"
        )
    return Refitter(design, df, draws, seed)


def stretched(
    priors: ResolvedPriors, which: Sequence[Coefficient], factor: float
) -> ResolvedPriors:
    """The same priors, those of some coefficients `factor` times as wide about their medians."""
    return ResolvedPriors(
        *(
            _stretch_block(
                getattr(priors, part),
                [each.position for each in which if each.part == part],
                factor,
            )
            for part in ("location", "scale")
        )
    )


def _stretch_block(block: PriorBlock, positions: Sequence[int], factor: float) -> PriorBlock:
    return replace(
        block,
        priors=tuple(
            stretch(prior, factor) if j in positions and isinstance(prior, Family) else prior
            for j, prior in enumerate(block.priors)
        ),
    )


def summarise(
    values: Array, coefficients: Sequence[Coefficient], *, level: float, trusted: bool = True
) -> pd.DataFrame:
    """median, ci_lb, ci_ub (equal-tailed), p_positive and trusted, of draws (S, P).

    One row a coefficient, by part and term.
    """
    tail = (1 - level) / 2
    lower, median, upper = np.quantile(values, [tail, 0.5, 1 - tail], axis=0)
    index = pd.MultiIndex.from_tuples(
        [(each.part, each.term) for each in coefficients], names=["part", "term"]
    )
    return pd.DataFrame(
        {
            "median": median,
            "ci_lb": lower,
            "ci_ub": upper,
            "p_positive": np.mean(values > 0, axis=0),
            "trusted": trusted,
        },
        index=index,
    )


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
