"""What differs between normal and Student-t effects in predictions: one object of each.

A Student-t effect is normal with variance τ²/λ, where λ ~ Gamma(ν/2, ν/2) is its weight; of a
normal one λ is 1. The data say of each study what its λ may be (`student.effects`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from scipy.special import ndtr, stdtr

from bayes_lsm.arrays import Array, Index
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.student.effects import (
    draw_weights,
    log_sd_ratio,
    new_weights,
    sample_effects,
)
from bayes_lsm.bayes.summaries.intervals import Measure
from bayes_lsm.design.design import Design

# A τ below this counts as 0.
_SMALLEST_SD = 1e-150
# ln of a ratio of variances that is infinite: quantiles of infinite numbers are nan.
_HUGE_SHIFT = 1e6


class EffectFamily(Protocol):
    """How the effects of groups are distributed, given the draws of a fit (S of them)."""

    @property
    def new_weights(self) -> Array:
        """λ of a new group, one for each draw (S,)."""

    @property
    def log_inflation(self) -> Array:
        """ln of the effects' variance over τ², for each draw (S,)."""

    @property
    def spreads(self) -> Mapping[str, Measure]:
        """Measures of the effects' variance that are no measures of τ²."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What has to be said where the variance is not τ²."""

    def given_weights(self, rows: Index, rng: np.random.Generator | None) -> Array:
        """λ of some rows given their data, one for each draw (m, S); the same without rng."""

    def beyond(self, distance: Array, tau: Array) -> Array:
        """P(distance + u > 0) of a new effect u with this τ, elementwise (m, S)."""

    def sample(self, mean: Array, tau2: Array, v: Array, rng: np.random.Generator) -> Array:
        """New effects, or with v > 0 observed ones, shape (S, m)."""


@dataclass(frozen=True, eq=False)
class NormalEffects:
    """Normal effects: see `EffectFamily`."""

    size: int
    spreads: Mapping[str, Measure] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def new_weights(self) -> Array:
        """All are 1."""
        return np.ones(self.size)

    @property
    def log_inflation(self) -> Array:
        """Their variance is τ²."""
        return np.zeros(self.size)

    def given_weights(self, rows: Index, rng: np.random.Generator | None) -> Array:
        """All are 1."""
        return np.broadcast_to(1.0, (len(rows), self.size))

    def beyond(self, distance: Array, tau: Array) -> Array:
        """By the normal distribution function."""
        return normal_above(distance, tau)

    def sample(self, mean: Array, tau2: Array, v: Array, rng: np.random.Generator) -> Array:
        """The effect and its sampling error in one."""
        return rng.normal(mean, np.sqrt(tau2 + v))


@dataclass(frozen=True, eq=False)
class StudentEffects:
    """Student-t effects, one a row: see `EffectFamily`."""

    design: Design
    draws: Draws
    spreads: Mapping[str, Measure] = field(default_factory=lambda: {"sd": np.sqrt})

    @property
    def new_weights(self) -> Array:
        """Spread evenly over Gamma(ν/2, ν/2)."""
        return new_weights(self.draws.flat_df)

    @property
    def log_inflation(self) -> Array:
        """ln ν/(ν − 2); a huge number where ν ≤ 2."""
        return np.minimum(2 * log_sd_ratio(self.draws.flat_df), _HUGE_SHIFT)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What sd, I² and H² are of."""
        share = np.mean(self.draws.flat_df <= 2)
        return (
            "sd, I² and H² are those of the study effects' variance τ² ν/(ν − 2), which is "
            f"infinite where ν ≤ 2; P(ν ≤ 2) = {share:.2f}",
        )

    def given_weights(self, rows: Index, rng: np.random.Generator | None) -> Array:
        """Drawn from what the data of each say."""
        return draw_weights(self.design, self.draws, rows, rng)

    def beyond(self, distance: Array, tau: Array) -> Array:
        """By the distribution function of t."""
        with np.errstate(over="ignore"):
            return np.asarray(stdtr(self.draws.flat_df, distance / np.maximum(tau, _SMALLEST_SD)))

    def sample(self, mean: Array, tau2: Array, v: Array, rng: np.random.Generator) -> Array:
        """The effect, and then its sampling error."""
        df = np.full(1, np.inf) if self.draws.df is None else self.draws.df.reshape(-1)
        return sample_effects(mean, v, tau2, df, rng)


def family_of(design: Design, draws: Draws) -> EffectFamily:
    """How the effects of a model are distributed."""
    return NormalEffects(draws.size) if draws.df is None else StudentEffects(design, draws)


def normal_above(distance: Array, sd: Array) -> Array:
    """P(Normal(distance, sd²) > 0), elementwise."""
    with np.errstate(over="ignore"):
        return np.asarray(ndtr(distance / np.maximum(sd, _SMALLEST_SD)))
