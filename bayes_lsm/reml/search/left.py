"""What a limit at infinity leaves of the scale terms: effects with variance, and coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.scale_terms import ScaleTerm, correlation_count
from bayes_lsm.reml.divergence import Limit

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Left:
    """What is left of one scale term.

    Attributes
    ----------
    term : ScaleTerm
    rows : slice
        Where its effects stand among those of all terms that have rows.
    used, zero : ndarray of bool, shape (G, s)
        Effects that have rows, and those without variance: also those without rows, where no effect
        of their kind has any.
    kept : tuple of int
        Its coefficients.
    columns : slice
        Where they stand among all that are left.
    """

    term: ScaleTerm
    rows: slice
    used: Mask
    zero: Mask
    kept: tuple[int, ...]
    columns: slice

    @cached_property
    def effects(self) -> list[int]:
        """Which of the s effects of a group have variance in some group; the first, if none has."""
        return np.flatnonzero(~self.zero.all(axis=0)).tolist() or [0]

    @property
    def n_correlations(self) -> int:
        """How many κ its correlations have."""
        return correlation_count(len(self.effects), self.term.correlation)


def what_is_left(terms: Sequence[ScaleTerm], limit: Limit | None) -> list[Left]:
    """What a limit leaves of each term; all of it without one."""
    found, row, column, first = [], 0, 0, 0
    for term in terms:
        used, q = term.used, len(term.names)
        rows = slice(row, row + int(used.sum()))
        zero, kept = np.zeros(used.shape, dtype=bool), tuple(range(q))
        if limit is not None:
            zero[used] = limit.zero[rows]
            kept = tuple(j - column for j in limit.kept if column <= j < column + q)
        if not used.all():
            zero |= ~used & (zero | ~used).all(axis=0)
        columns = slice(first, first + len(kept))
        found.append(Left(term, rows, used, zero, kept, columns))
        row, column, first = rows.stop, column + q, columns.stop
    return found
