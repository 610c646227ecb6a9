"""The orders in which a permutation test puts the rows of some moderators: all, or random ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from bayes_lsm.arrays import Array
from bayes_lsm.errors import FitError

Orders = npt.NDArray[np.intp]

# More arrangements than this are not enumerated.
MOST_ARRANGEMENTS = 1_000_000


def is_exhaustive(rows: Array, iterations: int, exact: bool | Literal["auto"]) -> tuple[int, bool]:
    """How many orders of the rows there are, and whether all of them are to be gone through."""
    count = count_arrangements(rows)
    exhaustive = count <= iterations if exact == "auto" else bool(exact)
    if exhaustive and count > MOST_ARRANGEMENTS:
        raise FitError(
            f"an exact test would need {count:.3g} permutations, at most {MOST_ARRANGEMENTS} can "
            "be made; use exact=False"
        )
    return count, exhaustive


def count_arrangements(rows: Array) -> int:
    """How many different ways there are to order the rows (n, p), some of which may be equal."""
    _, sizes = np.unique(rows, axis=0, return_counts=True)
    count = math.factorial(len(rows)) if len(rows) <= 170 else None
    if count is None:
        # Too many for anything; the exact number does not matter.
        return MOST_ARRANGEMENTS + 1 if len(sizes) > 1 else 1
    for size in sizes:
        count //= math.factorial(int(size))
    return count


def arrangements(rows: Array) -> Iterator[list[int]]:
    """Every different order of the rows (n, p): for each position a row that is to be there.

    Knuth, The Art of Computer Programming 4A, section 7.2.1.2, algorithm L.
    """
    _, first, codes = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    a = sorted(int(code) for code in codes.ravel())
    n = len(a)
    while True:
        yield [int(first[code]) for code in a]
        j = n - 2
        while j >= 0 and a[j] >= a[j + 1]:
            j -= 1
        if j < 0:
            return
        k = n - 1
        while a[j] >= a[k]:
            k -= 1
        a[j], a[k] = a[k], a[j]
        a[j + 1 :] = a[:j:-1]


class ExactOrders:
    """The next so many of all arrangements of some rows."""

    def __init__(self, rows: Array) -> None:
        self._left = arrangements(rows)

    def __call__(self, count: int) -> Orders:
        return np.array([next(self._left) for _ in range(count)], dtype=np.intp)


class RandomOrders:
    """So many random permutations of n rows."""

    def __init__(self, n: int, seed: int | None) -> None:
        self._rng, self._n = np.random.default_rng(seed), n

    def __call__(self, count: int) -> Orders:
        return self._rng.permuted(np.tile(np.arange(self._n), (count, 1)), axis=1)
