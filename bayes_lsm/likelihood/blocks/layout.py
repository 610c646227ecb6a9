"""From rows and scale terms to the flat `Layout` that the compiled loops of `blocks` read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from bayes_lsm.arrays import Array, Mask
from bayes_lsm.likelihood.blocks.correlations import COMPOUND, UNSTRUCTURED
from bayes_lsm.likelihood.blocks.kernels import Layout
from bayes_lsm.likelihood.blocks.terms import BlockRows, BlockTerm, find_blocks

Index = npt.NDArray[np.int64]

_KINDS = {"compound_symmetric": COMPOUND, "unstructured": UNSTRUCTURED}
# Each other type or memory order of an array would be compiled for anew.
_TYPES = {"b": np.bool_, "i": np.int64, "f": np.float64}


@dataclass(frozen=True, eq=False)
class _Effects:
    """The effects, sorted by block, term, group and slope, and where each is not zero."""

    term: Index
    group: Index
    slope: Index
    block: Index
    entry_effect: Index
    entry_row: Index
    entry_value: Array


@dataclass(frozen=True, eq=False)
class _Parts:
    """The parts of Σ, sorted by block: `a` and `b` are numbers of effects."""

    a: Index
    b: Index
    pair: Index
    block: Index


def coefficient_starts(terms: tuple[BlockTerm, ...]) -> Index:
    """Where each term begins in α; the last is the length of α."""
    return _starts(np.array([term.size for term in terms], dtype=np.int64))


def build_layout(
    rows: BlockRows, terms: tuple[BlockTerm, ...], single: list[bool], V: sparse.csr_array | None
) -> tuple[Layout, Index]:
    """The layout, and the order in which it has the rows."""
    block = find_blocks(rows, single, V)
    order = np.argsort(block, kind="stable")
    rows, block = rows.take(order), block[order]
    blocks = int(block[-1]) + 1
    row_start = _starts(np.bincount(block, minlength=blocks))
    sorted_V = None if V is None else sparse.csr_array(V[order][:, order])
    dense = _choose_dense(rows, block, blocks, single, sorted_V)
    in_effects = [dense[block] if each else np.full(len(block), True) for each in single]
    effects = _find_effects(rows, terms, block, in_effects)
    in_block = np.bincount(effects.block, minlength=blocks)
    white = np.diff(row_start) + np.where(dense, 0, in_block)
    V_start, V_values = _flatten_blocks(sorted_V, row_start)
    pieces = {
        **_describe_parts(effects, terms, blocks),
        **_describe_singles(rows, terms, single, dense[block]),
    }
    pieces |= {
        "y": rows.y,
        "v": rows.v,
        "X": rows.X,
        "spare": rows.spare,
        "squares": rows.squares,
        "row_start": row_start,
        "white_start": _starts(white),
        "store_start": _starts(white * in_block),
        "dense": dense,
        "V_start": V_start,
        "V_values": V_values,
        "entry_row": effects.entry_row - row_start[effects.block[effects.entry_effect]],
        **_list_active(pieces, row_start, blocks),
    }
    arrays: dict[str, Any] = {
        name: np.array(each, dtype=_TYPES[each.dtype.kind], order="C")
        for name, each in pieces.items()
    }
    return Layout(**arrays), order


def _starts(counts: Index) -> Index:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _choose_dense(
    rows: BlockRows, block: Index, blocks: int, single: list[bool], V: sparse.csr_array | None
) -> Mask:
    """Blocks whose V is not diagonal, with rows of no variance of their own, or of many effects."""
    effects = np.zeros(blocks)
    for t, multipliers in enumerate(rows.multipliers):
        if single[t]:
            continue
        in_use = np.any(multipliers != 0.0, axis=1)
        pairs = np.unique(np.stack([block[in_use], rows.groups[in_use, t]]), axis=1)
        effects += multipliers.shape[1] * np.bincount(pairs[0], minlength=blocks)
    dense = np.bincount(block, ~rows.vary(single), minlength=blocks) > 0
    collapsed = np.bincount(block, rows.spare, minlength=blocks) > 0
    dense |= (effects > np.bincount(block, minlength=blocks)) & ~collapsed
    if V is not None:
        i, j = V.nonzero()
        dense[block[i[i != j]]] = True
    return dense


def _find_effects(
    rows: BlockRows, terms: tuple[BlockTerm, ...], block: Index, in_effects: list[Mask]
) -> _Effects:
    """One effect for each slope of each group, of those rows of a term that are asked for."""
    labels = [np.empty((4, 0), dtype=np.int64)]  # term, group, slope, block
    entries, values = [np.empty((2, 0), dtype=np.int64)], [np.empty(0)]  # effect, row
    offset = 0
    for t, term in enumerate(terms):
        multipliers = np.where(in_effects[t][:, None], rows.multipliers[t], 0.0)
        i, k = np.nonzero(multipliers)
        groups, first = np.unique(rows.groups[i, t], return_index=True)
        s = term.table.shape[1]
        slope = np.tile(np.arange(s), len(groups))
        labelled = np.repeat(np.stack([groups, block[i[first]]]), s, axis=1)
        labels.append(np.stack([np.full(len(slope), t), labelled[0], slope, labelled[1]]))
        effect = offset + s * np.searchsorted(groups, rows.groups[i, t]) + k
        entries.append(np.stack([effect, i]))
        values.append(multipliers[i, k])
        offset += len(slope)
    label = np.concatenate(labels, axis=1)
    order = np.lexsort(label[[2, 1, 0, 3]])
    effect, row = np.concatenate(entries, axis=1)
    effect = np.argsort(order)[effect]
    by_effect = np.lexsort([row, effect])
    value = np.concatenate(values)[by_effect]
    of_term, of_group, of_slope, of_block = label[:, order]
    return _Effects(of_term, of_group, of_slope, of_block, effect[by_effect], row[by_effect], value)


def _list_parts(effects: _Effects, correlated: Mask, pair_start: Index) -> _Parts:
    """A part for each effect, then one for each pair of effects of a group of a correlated term."""
    count = len(effects.term)
    every = np.arange(count)
    first = every - effects.slope
    pairs = [
        np.stack([a, first[a] + slope, pair_start[effects.term[a]] + of_a + slope])
        for slope in range(int(effects.slope.max(initial=0)))
        for a in [np.flatnonzero(correlated[effects.term] & (effects.slope > slope))]
        for of_a in [effects.slope[a] * (effects.slope[a] - 1) // 2]
    ]
    diagonal = np.stack([every, every, np.full(count, -1)])
    a, b, pair = np.concatenate([diagonal, *pairs], axis=1)
    order = np.lexsort([pair >= 0, effects.block[a]])  # stable: effects keep their order
    return _Parts(a[order], b[order], pair[order], effects.block[a[order]])


def _describe_parts(effects: _Effects, terms: tuple[BlockTerm, ...], blocks: int) -> dict[str, Any]:
    """The fields of the layout that tell of effects, parts and correlations."""
    correlated = np.array([term.correlations > 0 for term in terms], dtype=bool)
    sizes = np.array([term.table.shape[1] for term in terms], dtype=np.int64)
    pair_start = _starts(np.where(correlated, sizes * (sizes - 1) // 2, 0))[:-1]
    number = np.where(correlated, np.cumsum(correlated) - 1, -1)
    parts = _list_parts(effects, correlated, pair_start)
    effect_start = _starts(np.bincount(effects.block, minlength=blocks))
    local = np.arange(len(effects.term)) - effect_start[effects.block]
    z = _stack_z(terms, effects.term, effects.group, effects.slope)
    start, index, value = _nonzeros(sparse.csr_array(0.5 * (z[parts.a] + z[parts.b])))
    offset = _stack_offsets(terms, effects.term, effects.group, effects.slope)
    begins = coefficient_starts(terms)[:-1]
    counts = np.array([term.correlations for term in terms], dtype=np.int64)
    return {
        "effect_start": effect_start,
        "part_start": _starts(np.bincount(parts.block, minlength=blocks)),
        "entry_start": _starts(np.bincount(effects.entry_effect, minlength=len(local))),
        "entry_value": effects.entry_value,
        "effect_first": local - effects.slope,
        "effect_correlation": number[effects.term],
        "part_a": local[parts.a],
        "part_b": local[parts.b],
        "part_pair": parts.pair,
        "z_start": start,
        "z_index": index,
        "z_value": value,
        "z_offset": 0.5 * (offset[parts.a] + offset[parts.b]),
        "correlation_kind": np.array(
            [_KINDS[term.correlation] for term in terms if term.correlations > 0], dtype=np.int64
        ),
        "correlation_size": sizes[correlated],
        "correlation_alpha": (begins + _counts_of_z(terms))[correlated],
        "correlation_count": counts[correlated],
        "correlation_pair": pair_start[correlated],
    }


def _counts_of_z(terms: tuple[BlockTerm, ...]) -> Index:
    """How many coefficients of each term stand before its κ."""
    return np.array([term.table.shape[2] for term in terms], dtype=np.int64)


def _describe_singles(
    rows: BlockRows, terms: tuple[BlockTerm, ...], single: list[bool], in_dense: Mask
) -> dict[str, Any]:
    """The fields of the layout that tell of effects of one row, in low-rank blocks."""
    labels, weights = [np.empty((3, 0), dtype=np.int64)], [np.empty(0)]
    for t in np.flatnonzero(single):
        slopes = rows.multipliers[t][:, 0]
        i = np.flatnonzero((slopes != 0.0) & ~in_dense)
        labels.append(np.stack([i, np.full(len(i), t), rows.groups[i, t]]))
        weights.append(slopes[i] ** 2)
    row, term, group = np.concatenate(labels, axis=1)
    order = np.argsort(row, kind="stable")
    which = (term[order], group[order], np.zeros(len(order), dtype=np.int64))
    start, index, value = _nonzeros(_stack_z(terms, *which))
    return {
        "single_start": _starts(np.bincount(row, minlength=len(rows.y))),
        "single_weight": np.concatenate(weights)[order],
        "single_z_start": start,
        "single_z_index": index,
        "single_z_value": value,
        "single_z_offset": _stack_offsets(terms, *which),
    }


def _stack_z(
    terms: tuple[BlockTerm, ...], term: Index, group: Index, slope: Index
) -> sparse.csr_array:
    """z of each (term, group, slope), as a row over the whole of α."""
    begins = coefficient_starts(terms)
    places, values = [np.empty((2, 0), dtype=np.int64)], [np.empty(0)]
    for t, each in enumerate(terms):
        of_term = np.flatnonzero(term == t)
        Z = each.table[group[of_term], slope[of_term]]
        i, j = np.nonzero(Z)
        places.append(np.stack([of_term[i], begins[t] + j]))
        values.append(Z[i, j])
    return sparse.csr_array(
        (np.concatenate(values), tuple(np.concatenate(places, axis=1))),
        shape=(len(term), int(begins[-1])),
    )


def _stack_offsets(terms: tuple[BlockTerm, ...], term: Index, group: Index, slope: Index) -> Array:
    """What is added to z'α of each (term, group, slope)."""
    found = np.zeros(len(term))
    for t, each in enumerate(terms):
        of_term = term == t
        found[of_term] = each.offsets[group[of_term], slope[of_term]]
    return found


def _nonzeros(matrix: sparse.csr_array) -> tuple[Index, Index, Array]:
    matrix.sort_indices()
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data


def _list_active(pieces: dict[str, Any], row_start: Index, blocks: int) -> dict[str, Index]:
    """The coefficients that Σ of each block depends on."""
    block_of_part = np.repeat(np.arange(blocks), np.diff(pieces["part_start"]))
    of_z = np.repeat(block_of_part, np.diff(pieces["z_start"]))
    block_of_row = np.repeat(np.arange(blocks), np.diff(row_start))
    block_of_single = np.repeat(block_of_row, np.diff(pieces["single_start"]))
    of_single_z = np.repeat(block_of_single, np.diff(pieces["single_z_start"]))
    used = [
        np.stack([of_z, pieces["z_index"]]),
        np.stack([of_single_z, pieces["single_z_index"]]),
    ]
    effect = pieces["effect_start"][block_of_part] + pieces["part_a"]
    for t, begin in enumerate(pieces["correlation_alpha"]):
        own = np.unique(block_of_part[pieces["effect_correlation"][effect] == t])
        kappa = begin + np.arange(pieces["correlation_count"][t])
        used.append(np.stack([np.repeat(own, len(kappa)), np.tile(kappa, len(own))]))
    block, active = np.unique(np.concatenate(used, axis=1), axis=1)
    return {"active_start": _starts(np.bincount(block, minlength=blocks)), "active": active}


def _flatten_blocks(V: sparse.csr_array | None, row_start: Index) -> tuple[Index, Array]:
    """The blocks of V that are not diagonal, each n × n, one after the other."""
    blocks = len(row_start) - 1
    start = np.full(blocks, -1, dtype=np.int64)
    if V is None:
        return start, np.empty(0)
    i, j = V.nonzero()
    block = np.repeat(np.arange(blocks), np.diff(row_start))
    full = np.bincount(block[i[i != j]], minlength=blocks) > 0
    sizes = np.diff(row_start)
    start[full] = _starts(sizes[full] ** 2)[:-1]
    values = np.zeros(int(np.sum(sizes[full] ** 2)))
    inside = full[block[i]]
    i, j = i[inside], j[inside]
    b = block[i]
    values[start[b] + (i - row_start[b]) * sizes[b] + j - row_start[b]] = V[i, j]
    return start, values
