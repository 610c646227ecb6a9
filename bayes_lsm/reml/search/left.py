"""What a limit at infinity leaves of the scale terms: effects with variance, and coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayes_lsm.arrays import Mask
from bayes_lsm.design.scale_terms import ScaleTerm, correlation_count
from bayes_lsm.reml.divergence import Limit


@dataclass(frozen=True, eq=False)
class Left:
    """What is left of one scale term.

    `rows` are where its effects stand among those of all terms that have rows. Of the effects
    (G, s) some are `used`, having rows, and `zero`, without variance: also those without rows,
    where no effect of their kind has any. `kept` are its coefficients, `effects` those of the s
    effects of a group that have variance in some group (the first, if none has), and `columns` and
    `kappas` where coefficients and κ stand among all that are left.
    """

    term: ScaleTerm
    rows: slice
    used: Mask
    zero: Mask
    kept: tuple[int, ...]
    effects: tuple[int, ...]
    columns: slice
    kappas: slice

    @property
    def places(self) -> list[int]:
        """Where each of the term's coefficients and κ stands among what is left; −1 if gone."""
        found = [-1] * len(self.term.names)
        for j, place in zip(self.kept, range(self.columns.start, self.columns.stop), strict=True):
            found[j] = place
        if self.n_correlations == self.term.n_correlations:
            return [*found, *range(self.kappas.start, self.kappas.stop)]
        return found + [-1] * self.term.n_correlations  # the κ of fewer effects are others

    @property
    def n_correlations(self) -> int:
        """How many κ its correlations have."""
        return int(self.kappas.stop - self.kappas.start)


def what_is_left(terms: Sequence[ScaleTerm], limit: Limit | None) -> list[Left]:
    """What a limit leaves of each term; all of it without one."""
    found, row, column, first = [], 0, 0, 0
    kappa = sum(len(term.names) for term in terms) if limit is None else len(limit.kept)
    for term in terms:
        used, q = term.used, len(term.names)
        rows = slice(row, row + term.n_used)
        kept, effects = list(range(q)), list(range(used.shape[1]))
        zero = np.zeros(used.shape, dtype=bool)
        if limit is not None:
            zero[used] = limit.zero[rows]
            zero |= ~used & (zero | ~used).all(axis=0)
            kept = [j - column for j in limit.kept if column <= j < column + q]
            effects = np.flatnonzero(~zero.all(axis=0)).tolist() or [0]
        columns = slice(first, first + len(kept))
        kappas = slice(kappa, kappa + correlation_count(len(effects), term.correlation))
        found.append(Left(term, rows, used, zero, tuple(kept), tuple(effects), columns, kappas))
        row, column, first, kappa = rows.stop, column + q, columns.stop, kappas.stop
    return found
