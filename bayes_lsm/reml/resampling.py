"""What resampling shares, for tests and intervals: simulated effects, batches, p-values."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.errors import FitError
from bayes_lsm.progress import track
from bayes_lsm.reml.estimates import Estimates

# Two statistics nearer than this are equal: the accuracy of an ascent, and not a difference.
TIED = 1e-6
# Work of the refits in one batch: about a second's, and 100 MB.
_BATCH = 1_000_000


def simulate(fit: Estimates, sets: int, rng: np.random.Generator) -> Array:
    """Sets of effects from a fit, shape (sets, n): Normal(Xβ̂, Σ̂)."""
    return np.asarray(fit.design.X @ fit.beta + fit.covariance.draw(sets, rng))


def log_tau2_of(fit: Estimates) -> Array:
    """ln τ² of each row (n,); where τ² is 0, that of next to nothing."""
    return np.log(np.maximum(fit.tau2, 1e-12 * fit.design.v))


def check_iterations(iterations: int) -> None:
    """Refuse fewer than two."""
    if isinstance(iterations, bool) or not isinstance(iterations, int | np.integer):
        raise FitError(f"iterations must be a whole number, got {iterations!r}")
    if iterations < 2:
        raise FitError(f"iterations must be at least 2, got {iterations}; take 1000 or more")


def batches(total: int, work: int, words: str, *, progress: bool) -> Iterator[slice]:
    """Slices of `total` refits, each some `work`; a progress bar, if there are several."""
    size = max(1, _BATCH // work)
    slices = [slice(i, min(i + size, total)) for i in range(0, total, size)]
    yield from track(slices, words, progress=progress and len(slices) > 2)


def share_at_least(null: Array, value: float) -> float:
    """The share of `null` that is at least `value`, ties included; nan where there is no value."""
    if math.isnan(value):
        return math.nan
    return float(np.mean(null >= value - TIED * max(1.0, abs(value))))
