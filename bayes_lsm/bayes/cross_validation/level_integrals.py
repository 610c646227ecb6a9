r"""Rows predicted by draws, the effects of random intercepts of ln τ² integrated out.

What is left out may be all that tells of a level. Its weights 1/p(y_out | u, θ) are then hopeless,
as the draws of the level's effect u know it. So u is taken out of them (Vehtari, Mononen, Tolvanen,
Sivula & Winther 2016, JMLR 17(103), section 3.6.1): with the rows R that depend on u,

    p(y_out | y_left, θ) = ∫ p(y_R | u, θ) N(u; 0, ω²) du / ∫ p(y_(R left) | u, θ) N(u; 0, ω²) du,

by the trapezoidal rule in u/ω. That is done for the levels of which the rows are at least a fifth,
one for each set of rows that depend on each other, that with the largest share; the effects of the
other levels are those of the draw, as are all coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import logsumexp, ndtr, ndtri

from bayes_lsm.arrays import Array, Index
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.term_draws import TermDraws, flat_coefficients, split_terms
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.blocks.row_sums import RowSums

# The integrals go to so many ω: what lies beyond has a prior probability of 1e-15.
_RANGE = 8.0
# A step of so many SDs of u given the rows: its relative error for a normal density is
# 2 exp(−2π²/1.2²), 2e-6.
_STEP = 1.2
_FEWEST_NODES, _MOST_NODES = 15, 101
# The largest ω but so many have that step.
_LARGEST_SD = 0.99
# Of a level of which less is left out the other rows tell enough: its effect is that of the draw.
_LEAST_SHARE = 0.2
_ENTRIES = 4_000_000  # 32 MB for each array of points × columns


@dataclass(frozen=True, eq=False)
class Level:
    """One level of a random intercept: ω at each draw (m,), and the rows with its variance.

    `column` is that of its effect among those of `flat_coefficients`.
    """

    column: int
    sd: Array
    rows: Index

    @cached_property
    def nodes(self) -> tuple[Array, Array]:
        """u/ω (K,), and the logarithm of what each of them weighs."""
        # Each row has information of at most about ½ on ln τ².
        width = float(np.quantile(self.sd, _LARGEST_SD))
        step = _STEP / math.sqrt(1.0 + 0.5 * width**2 * len(self.rows))
        size = int(np.clip(2 * math.ceil(_RANGE / step) + 1, _FEWEST_NODES, _MOST_NODES))
        z = np.linspace(-_RANGE, _RANGE, size)
        weight = -0.5 * z**2
        return z, weight - logsumexp(weight)


@dataclass(frozen=True, eq=False)
class LeftRows:
    """What draws say of rows that are left out.

    `fold` (m,) is ln p(y_out | y_left, θ) of all of them together, `units` the same of each of
    their units alone, and `below` P(new effect ≤ y_i | y_left, θ) of each unit's rows (m, rows).
    """

    fold: Array
    units: list[Array]
    below: list[Array]


class LevelIntegrals:
    """The rows of a design, and draws; without random intercepts there is nothing to integrate."""

    def __init__(self, design: Design, draws: Draws) -> None:
        beta, terms = draws.flat_location, split_terms(design, draws)
        centre = beta.mean(axis=0)
        self._sums = RowSums(design, centre)
        self._away, self._alphas = beta - centre, flat_coefficients(terms)
        self._levels = list(_levels(terms))
        self._totals: dict[int, Array] = {}

    @property
    def size(self) -> int:
        """How many draws there are."""
        return len(self._away)

    def given_effects(self, rows: Index) -> Array:
        """ln p(y_rows | the other rows, θ) (m,) with the effects of all levels as drawn."""
        kept = np.setdiff1d(self._sums.around(rows), rows)
        both = self._density(None, np.union1d(rows, kept))
        return np.asarray((both - self._density(None, kept))[:, 0])

    def in_order(self, rows: Index) -> tuple[Array, Array]:
        """Normal scores and log densities (m, rows), each given those before it and all others."""
        found = [self.leave_out(rows[j:], [rows[j : j + 1]]) for j in range(len(rows))]
        below = np.hstack([each.below[0] for each in found])
        return ndtri(below), np.column_stack([each.units[0] for each in found])

    def leave_out(self, out: Index, units: Sequence[Index]) -> LeftRows:
        """Rows `out`, of which the units are parts."""
        fold = np.zeros(self.size)
        densities = [np.zeros(self.size) for _ in units]
        below = [np.empty((self.size, len(rows))) for rows in units]
        for level, touched in self._parts(out):
            kept = np.setdiff1d(touched, out)
            both, left = self._density(level, touched), self._density(level, kept)
            prior, whole = self._prior(level, touched, both, left), both - left
            fold += _mean(prior, whole)
            for u, rows in enumerate(units):
                own = np.intersect1d(rows, touched)
                if not len(own):
                    continue
                around = np.setdiff1d(self._sums.around(own), out)
                added = whole
                if len(own) < len(np.intersect1d(out, touched)):
                    added = self._density(level, np.union1d(own, around))
                    added = added - self._density(level, around)
                densities[u] += _mean(prior, added)
                below[u][:, np.isin(rows, own)] = self._below(level, prior, own, around)
        return LeftRows(fold, densities, below)

    def _parts(self, out: Index) -> Iterator[tuple[Level | None, Index]]:
        """The rows that have to do with `out`, by the level whose effect is integrated out."""
        rest = self._sums.around(out)
        shares = [len(np.intersect1d(level.rows, out)) / len(level.rows) for level in self._levels]
        taken = np.empty(0, dtype=np.intp)
        for number in np.argsort(shares)[::-1]:
            if shares[number] < _LEAST_SHARE:
                break
            level = self._levels[number]
            rows = self._sums.around(level.rows)
            if np.isin(rows, taken).any():
                continue  # rows that depend on a level that is integrated out already
            taken = np.union1d(taken, rows)
            yield level, np.intersect1d(rest, rows)
        others = np.setdiff1d(rest, taken)
        if len(others):
            yield None, others

    def _prior(self, level: Level | None, touched: Index, both: Array, left: Array) -> Array:
        """What each node weighs given all rows that are left (m, K); nothing without a level.

        `both` is the density of the rows `touched`, `left` that of those among them that are left.
        """
        if level is None:
            return np.zeros((self.size, 1))
        weights = level.nodes[1] + left
        every = self._sums.around(level.rows)
        if len(every) > len(touched):
            if level.column not in self._totals:
                self._totals[level.column] = self._density(level, every)
            weights = weights + self._totals[level.column] - both
        return np.asarray(weights - logsumexp(weights, axis=1, keepdims=True))

    def _density(self, level: Level | None, rows: Index) -> Array:
        """ln p(y_rows | u, θ) at each node (m, K); at the draw's own effect (m, 1) without."""
        if not len(rows):
            return np.zeros((self.size, 1))
        width = self._alphas.shape[1] + self._away.shape[1] ** 2
        parts = [
            self._sums.log_density(rows, away, alphas)
            for alphas, away in self._at_nodes(level, width)
        ]
        return np.concatenate([part.reshape(self.size, -1) for part in parts], axis=1)

    def _below(self, level: Level | None, prior: Array, rows: Index, kept: Index) -> Array:
        """P(new effect ≤ y_i) of each row (m, rows), over the nodes."""
        width = self._alphas.shape[1] + (self._away.shape[1] + len(rows)) ** 2
        found, first = np.zeros((self.size, len(rows))), 0
        for alphas, away in self._at_nodes(level, width):
            z = self._sums.standardise(rows, kept, away, alphas)
            probability = ndtr(z).reshape(self.size, -1, len(rows))
            weights = np.exp(prior[:, first : first + probability.shape[1]])
            found += np.einsum("mk,mkr->mr", weights, probability)
            first += probability.shape[1]
        return found

    def _at_nodes(self, level: Level | None, width: int) -> Iterator[tuple[Array, Array]]:
        """Coefficients and β at some nodes at a time, those of one draw beside each other."""
        if level is None:
            yield self._alphas, self._away
            return
        nodes = level.nodes[0]
        step = max(1, _ENTRIES // (self.size * width))
        for start in range(0, len(nodes), step):
            here = nodes[start : start + step]
            alphas = np.repeat(self._alphas, len(here), axis=0)
            alphas[:, level.column] = np.outer(level.sd, here).ravel()
            yield alphas, np.repeat(self._away, len(here), axis=0)


def _mean(prior: Array, log_density: Array) -> Array:
    """ln of the mean of a density over the nodes (m,)."""
    return np.asarray(logsumexp(prior + log_density, axis=1))


def _levels(terms: Mapping[str, TermDraws]) -> Iterator[Level]:
    column = 0
    for each in terms.values():
        term = each.term
        column += len(term.names)
        for random in each.random:
            for number in range(len(random.of.levels)):
                here = term.used & (random.of.index == number)
                rows = np.flatnonzero(((term.slopes != 0) & here[term.index]).any(axis=1))
                if len(rows):
                    yield Level(column + number, random.sd, rows)
            column += len(random.of.levels)
        column += term.n_correlations
