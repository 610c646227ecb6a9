"""Scale terms, and the rows that they share: collapsed into cells, partitioned into blocks.

Done once for a model, in O(n log n).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from bayes_lsm.arrays import Array, Mask
from bayes_lsm.design.scale_terms import correlation_count
from bayes_lsm.specification import Correlation

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BlockTerm:
    """One grouping with its own log-variances, A diag(exp(Zα)) A'.

    `groups` (n,) is the group of each row, 0, 1, …; −1 for a row that the term does not concern.
    What ln variance depends on is Z (groups, q), or (groups, s, q) for s slopes, and an `offset`
    (groups, s). Each row multiplies its group's effects by `slopes` (n,) or (n, s): 1, a covariate,
    indicators of outcomes. The s effects are correlated in the same way in all groups; the
    coefficients κ (see `correlations`) follow the term's q in α: 1 for "compound_symmetric",
    s(s − 1)/2 for "unstructured".
    """

    groups: Index
    Z: Array
    slopes: Array | None = None
    correlation: Correlation = "none"
    offset: Array | None = None

    @property
    def table(self) -> Array:
        """Z, shape (groups, s, q)."""
        Z = np.asarray(self.Z, dtype=float)
        return Z[:, None, :] if Z.ndim == 2 else Z

    @property
    def offsets(self) -> Array:
        """`offset`, 0 where there is none."""
        return np.zeros(self.table.shape[:2]) if self.offset is None else self.offset

    @property
    def multipliers(self) -> Array:
        """Slopes, shape (n, s); 0 where a row has no group."""
        slopes = np.ones(len(self.groups)) if self.slopes is None else self.slopes
        slopes = np.asarray(slopes, dtype=float).reshape(len(self.groups), -1)
        return np.where(self.groups[:, None] >= 0, slopes, 0.0) + 0.0  # no −0

    @property
    def correlations(self) -> int:
        """How many κ it has."""
        return correlation_count(int(self.table.shape[1]), self.correlation)

    @property
    def size(self) -> int:
        """How many coefficients of α it has."""
        return int(self.table.shape[2]) + self.correlations


@dataclass(frozen=True, eq=False)
class BlockRows:
    """What is known of each row (or cell), before it is sorted into blocks."""

    y: Array
    v: Array
    X: Array
    spare: Array
    squares: Array
    groups: Index  # (n, terms)
    multipliers: tuple[Array, ...]  # of each term, (n, s)

    def vary(self, single: list[bool]) -> Mask:
        """Which rows have a variance of their own, so that they may be part of a low-rank block."""
        own = self.v > 0.0
        for t in np.flatnonzero(single):
            own = own | (self.multipliers[t][:, 0] != 0.0)
        return own

    def take(self, order: Index) -> BlockRows:
        return BlockRows(
            self.y[order],
            self.v[order],
            self.X[order],
            self.spare[order],
            self.squares[order],
            self.groups[order],
            tuple(each[order] for each in self.multipliers),
        )


def of_single_rows(term: BlockTerm) -> bool:
    """Whether each group has one row at most, so that the term is part of the diagonal."""
    in_use = np.any(term.multipliers != 0.0, axis=1)
    return term.table.shape[1] == 1 and int(np.bincount(term.groups[in_use]).max(initial=0)) <= 1


def collapse(
    rows: BlockRows, terms: tuple[BlockTerm, ...], single: list[bool]
) -> tuple[BlockRows, Index]:
    """Rows alike in all but y, as one: exact, by rotation.

    c rows with the same moderators, variance, groups and slopes become √c ȳ with √c x and √c a,
    and c − 1 contrasts that know only of the variance: their sum of squares says all. It
    takes a variance of its own for every row. Returns the cells and each row's cell.
    """
    keys = [rows.v[:, None], rows.X]
    for t, term in enumerate(terms):
        if single[t]:  # the row's own group: what counts is its variance
            own = rows.groups[:, t]
            keys += [rows.multipliers[t] ** 2, term.table[own, 0], term.offsets[own]]
        else:
            keys += [rows.groups[:, t : t + 1].astype(float), rows.multipliers[t]]
    key = np.ascontiguousarray(np.concatenate(keys, axis=1) + 0.0)
    bytewise = key.view(np.dtype((np.void, key.dtype.itemsize * key.shape[1]))).ravel()
    _, first, cell, count = np.unique(
        bytewise, return_index=True, return_inverse=True, return_counts=True
    )
    mean = np.bincount(cell, rows.y) / count
    residual = rows.y - mean[cell]
    mean += np.bincount(cell, residual) / count
    squares = np.bincount(cell, (rows.y - mean[cell]) ** 2)
    root = np.sqrt(count)
    cells = rows.take(first)
    multipliers = tuple(
        each if single[t] else each * root[:, None] for t, each in enumerate(cells.multipliers)
    )
    collapsed = BlockRows(
        root * mean,
        cells.v,
        root[:, None] * cells.X,
        np.asarray(count - 1, dtype=np.float64),
        np.where(count > 1, squares, 0.0),
        cells.groups,
        multipliers,
    )
    return collapsed, cell


def find_blocks(rows: BlockRows, single: list[bool], V: sparse.csr_array | None) -> Index:
    """The block of each row: rows that share an effect or a sampling covariance are in one block.

    BlockRows that share nothing with any other are together in one block, whose Σ is diagonal.
    """
    n = len(rows.y)
    links, offset = [], n
    for t, multipliers in enumerate(rows.multipliers):
        in_use = np.flatnonzero(np.any(multipliers != 0.0, axis=1))
        if not single[t] and len(in_use):
            links.append(np.stack([in_use, offset + rows.groups[in_use, t]]))
            offset += int(rows.groups[:, t].max()) + 1
    if V is not None:
        links.append(np.stack(V.nonzero()))
    if not links:
        return np.zeros(n, dtype=np.int64)
    i, j = np.concatenate(links, axis=1)
    graph = sparse.coo_array((np.ones(len(i)), (i, j)), shape=(offset, offset))
    label = connected_components(graph, directed=False)[1][:n].astype(np.int64)
    off_diagonal = i != j
    alone = ~np.isin(np.arange(n), np.concatenate([i[off_diagonal], j[off_diagonal]]))
    label[alone] = -1
    return np.unique(label, return_inverse=True)[1]
