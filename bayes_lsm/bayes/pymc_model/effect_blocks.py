"""Rows and effects in independent blocks, as padded arrays for a batch of small matrices.

With effects u of a block (m of them), A its rows' multipliers (n, m) and T the Cholesky factor of
cov(u),

    Σ = N + A T T' A',   |Σ| = |N| |S|,   S = I + T' A'N⁻¹A T,
    r'Σ⁻¹r = r'N⁻¹r − b'S⁻¹b,   b = T' A'N⁻¹r

where N is what no two rows share. Where V is diagonal, N has V and the effects of single rows on
its diagonal; else N = V.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from bayes_lsm.arrays import Array, Index, Mask
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm, correlation_count
from bayes_lsm.likelihood.blocks.arrange import error_covariance
from bayes_lsm.likelihood.blocks.covariance import loadings


@dataclass(frozen=True, eq=False)
class EffectBlock:
    """One of them: n rows, of which there may be none, m effects, and their multipliers A (n, m).

    The effects are numbered over all scale terms, without those of single rows. `factor` (m, m) is
    as in `EffectBlocks`, and `covariance` V (n, n), where it is not diagonal.
    """

    rows: Index
    effects: Index
    multipliers: Array
    factor: Index
    covariance: Array | None


@dataclass(frozen=True, eq=False)
class EffectBlocks:
    """B blocks of at most n rows and m effects; the effects are numbered over all scale terms.

    `rows` (B, n) and `effects` (B, m), with multipliers A (B, n, m), 0 where a block has fewer.
    `factor` (B, m, m) says where each entry of the factor of the correlations stands in (0, 1, C_1,
    C_2, …): C_l is the factor (s, s) of the correlations of term l, row by row. Where V is not
    diagonal there are its `precision` V⁻¹ (B, n, n) and ln |V|. `single` has for each term of
    single rows the number of each row's effect (n,), and its squared multiplier (n,).
    """

    rows: Index
    multipliers: Array
    effects: Index
    factor: Index
    precision: Array | None
    log_det: float
    single: tuple[tuple[Index, Array], ...]


def find_blocks(design: Design, kept: Mask | None = None) -> EffectBlocks:
    """Sort the rows and the effects of a design into blocks.

    Where V is not diagonal its inverse is that of the rows `kept` (n,), by default of all.
    """
    kept = np.ones(len(design.y), dtype=bool) if kept is None else kept
    listed, single = list_blocks(design)
    listed = [each for each in listed if len(each.rows)]
    n = max((len(each.rows) for each in listed), default=0)
    m = max((len(each.effects) for each in listed), default=0)
    multipliers = np.zeros((len(listed), n, m))
    precision = np.zeros((len(listed), n, n)) if design.blocks else None
    factor = np.zeros((len(listed), m, m), dtype=np.intp)
    log_det = 0.0
    for j, each in enumerate(listed):
        rows, effects = each.multipliers.shape
        multipliers[j, :rows, :effects] = each.multipliers
        factor[j, :effects, :effects] = each.factor
        if precision is not None and each.covariance is not None:
            on = np.flatnonzero(kept[each.rows])
            V = each.covariance[np.ix_(on, on)]
            precision[j][np.ix_(on, on)] = np.linalg.inv(V)
            log_det += float(np.linalg.slogdet(V)[1])
    rows_of, effects_of = [each.rows for each in listed], [each.effects for each in listed]
    padded = _pad(rows_of, n), multipliers, _pad(effects_of, m), factor
    return EffectBlocks(*padded, precision, log_det, single)


def list_blocks(
    design: Design,
) -> tuple[list[EffectBlock], tuple[tuple[Index, Array], ...]]:
    """The blocks that have effects (with correlated errors all), and `EffectBlocks.single`."""
    starts = effect_starts(design)
    alone = [not design.blocks and term.is_of_rows for term in design.terms]
    pairs = list(zip(design.terms, starts[:-1], alone, strict=True))
    single = tuple(
        (start + term.index, term.slopes[:, 0] ** 2) for term, start, is_alone in pairs if is_alone
    )
    shared = [(term, start) for term, start, is_alone in pairs if not is_alone]
    A = loadings(design)
    covariance = error_covariance(design)
    block_of_row, block_of_effect = _connect(A, shared, covariance)
    own = np.zeros(starts[-1], dtype=bool)
    for effects, _ in single:
        own[effects] = True
    block_of_effect = np.where(own, -1, block_of_effect)
    found = np.union1d(block_of_row if design.blocks else [], block_of_effect[~own])
    place = _factor_places(design, starts)
    listed = []
    for block in found:
        rows = np.flatnonzero(block_of_row == block)
        effects = np.flatnonzero(block_of_effect == block)
        V = covariance[rows][:, rows].toarray() if design.blocks else None
        multipliers = A[rows][:, effects].toarray()
        listed.append(EffectBlock(rows, effects, multipliers, place(effects), V))
    return listed, single


def effect_starts(design: Design) -> list[int]:
    """The number of each term's first effect; the last is how many there are."""
    sizes = [len(term.groups) * len(term.effects) for term in design.terms]
    return [0, *np.cumsum(sizes).tolist()]


def factor_starts(terms: tuple[ScaleTerm, ...]) -> list[int]:
    """Where the factor C of each term begins in (0, 1, C_1, C_2, …); −1 where it has none."""
    starts, start = [], 2
    for term in terms:
        s = len(term.effects)
        correlated = correlation_count(s, term.correlation) > 0
        starts.append(start if correlated else -1)
        start += s * s if correlated else 0
    return starts


def _connect(
    A: sparse.csr_array, shared: list[tuple[ScaleTerm, int]], covariance: Array | sparse.csr_array
) -> tuple[Index, Index]:
    """Which block each row and each effect is in."""
    n, m = A.shape
    row, effect = A.tocoo().coords
    i: list[Index] = [row.astype(np.intp)]
    j: list[Index] = [n + effect.astype(np.intp)]
    for term, start in shared:  # the effects of a group belong together
        s = len(term.effects)
        first = np.repeat(start + s * np.arange(len(term.groups)), s)
        i.append(n + first)
        j.append(n + start + np.arange(len(first)))
    if sparse.issparse(covariance):
        one, other = covariance.tocoo().coords
        i.append(one.astype(np.intp))
        j.append(other.astype(np.intp))
    ends = np.concatenate(i), np.concatenate(j)
    graph = sparse.coo_array((np.ones(len(ends[0])), ends), shape=(n + m, n + m))
    block = connected_components(graph.tocsr(), directed=False)[1].astype(np.intp)
    return block[:n], block[n:]


def _factor_places(design: Design, starts: list[int]) -> Callable[[Index], Index]:
    """A function from effects (m,) to where the factor of their correlations is to be found."""
    sizes = [len(term.effects) for term in design.terms]
    begins = np.array(factor_starts(design.terms))

    def place(effects: Index) -> Index:
        term = np.searchsorted(starts, effects, side="right") - 1
        within = effects - np.array(starts)[term]
        s = np.array(sizes)[term]
        group, slope = within // s, within % s
        same = (term[:, None] == term) & (group[:, None] == group) & (begins[term] >= 0)
        inside = begins[term][:, None] + slope[:, None] * s[:, None] + slope
        return np.where(same, inside, np.eye(len(effects), dtype=np.intp)).astype(np.intp)

    return place


def _pad(lists: list[Index], width: int) -> Index:
    padded = np.zeros((len(lists), width), dtype=np.intp)
    for j, each in enumerate(lists):
        padded[j, : len(each)] = each
    return padded
