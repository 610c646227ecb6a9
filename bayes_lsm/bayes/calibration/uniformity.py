"""Are ranks uniform? ECDFs with simultaneous bands, and the p-value that belongs to them.

N ranks, each one of 0 … L, are uniform if the number of them that are at most r is binomial for
every r. The band holds all those numbers at once with a stated probability: its pointwise tail
probability is found from simulated uniform ranks, and that of the observed ranks, compared with
the same simulations, is their p-value.

Säilynoja, T., Bürkner, P.-C., & Vehtari, A. (2022). Graphical test for discrete uniformity and its
applications in goodness-of-fit evaluation and multiple sample comparison. Statistics and Computing,
32, 32. doi:10.1007/s11222-022-10090-6
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, bdtrc

from bayes_lsm.arrays import Array

Ranks = npt.NDArray[np.int64]

_SIMULATIONS = 20_000


def pit_ranks(pit: Array, largest: int) -> Ranks:
    """Probabilities (N,) that are uniform where a model is right, as ranks 0 … `largest`."""
    return np.floor(np.clip(pit, 0, 1 - 1e-12) * (largest + 1)).astype(np.int64)


def rank_ecdf(ranks: Ranks, largest: int) -> Array:
    """Share of the ranks (N,) that are at most r, for r = 0 … `largest` − 1.

    Examples
    --------
    >>> rank_ecdf(np.array([0, 1, 1, 2]), largest=2)
    array([0.25, 0.75])
    """
    return np.asarray(_counts_up_to(ranks[None], largest)[0] / len(ranks))


def simultaneous_band(size: int, largest: int, *, level: float = 0.95) -> tuple[Array, Array]:
    """Lower and upper bounds (L,) that the ECDF of `size` uniform ranks keeps to throughout.

    The whole of it, at r = 0 … L − 1 with L the largest rank, with the probability `level`.

    Examples
    --------
    >>> lower, upper = simultaneous_band(1000, 100)
    >>> float(lower[49]), float(upper[49])  # of 50/101, about 3 standard errors either way
    (0.448, 0.543)
    """
    least = np.quantile(_null(size, largest), 1 - level, method="lower")
    allowed = _tail_probabilities(size, largest) > least
    lower = np.argmax(allowed, axis=1)
    upper = size - np.argmax(allowed[:, ::-1], axis=1)
    return lower / size, upper / size


def uniformity_pvalue(ranks: Ranks, largest: int) -> float:
    """Probability that uniform ranks stray as far from uniformity as these (N,).

    The ECDF lies inside `simultaneous_band` of level 1 − p or less, and crosses all others.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> uniformity_pvalue(rng.integers(0, 101, size=500), largest=100) > 0.05
    True
    >>> uniformity_pvalue(rng.binomial(100, 0.5, size=500), largest=100) < 0.001
    True
    """
    size = len(ranks)
    observed = _smallest_tail(_counts_up_to(ranks[None], largest), size, largest)[0]
    null = _null(size, largest)
    return float((1 + np.sum(null <= observed)) / (1 + len(null)))


def _counts_up_to(ranks: Ranks, largest: int) -> Ranks:
    """Numbers of ranks (m, N) that are at most r, shape (m, L)."""
    counts = [np.bincount(each, minlength=largest + 1) for each in ranks]
    return np.cumsum(counts, axis=1, dtype=np.int64)[:, :-1]


def _tail_probabilities(size: int, largest: int) -> Array:
    """The smaller tail of the binomial at each r (L,) and each count (N + 1,): (L, N + 1)."""
    shares = (np.arange(largest)[:, None] + 1) / (largest + 1)
    counts = np.arange(size + 1)
    below = bdtr(counts, size, shares)
    above = np.where(counts == 0, 1.0, bdtrc(np.maximum(counts - 1, 0), size, shares))
    return np.asarray(np.minimum(below, above))


def _smallest_tail(counts: Ranks, size: int, largest: int) -> Array:
    """The most extreme tail probability of each ECDF, given as counts (m, L)."""
    table = _tail_probabilities(size, largest)
    return np.asarray(table[np.arange(largest), counts].min(axis=1))


@lru_cache(maxsize=8)
def _null(size: int, largest: int) -> Array:
    """What `_smallest_tail` is for uniform ranks: simulated, always with the same seed."""
    rng = np.random.default_rng(20220322)
    shares = np.full(largest + 1, 1 / (largest + 1))
    counts = np.cumsum(rng.multinomial(size, shares, size=_SIMULATIONS), axis=1)[:, :-1]
    return _smallest_tail(counts, size, largest)
