"""Levels of scale moderators that one group of rows has: little, or nothing, tells their τ²."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.design.frames import some
from bayes_lsm.design.part import factor_levels, shown_level
from bayes_lsm.design.scale_terms import ScaleTerm

# What X leaves of a group's indicator, relative to its length, where X contains it up to rounding.
_ABSORBED = 1e-8


@dataclass(frozen=True)
class LoneLevel:
    """A level that one group has, in words, with the name of the group.

    It `is_absorbed` where the location part has a coefficient of that group's own, so that its
    residual is 0 whatever its τ².
    """

    said: str
    is_absorbed: bool


def lone_levels(
    X: Array, terms: Sequence[ScaleTerm], moderators: pd.DataFrame
) -> tuple[LoneLevel, ...]:
    """All such levels of all scale terms; X is (n, p), the moderators those of the n rows."""
    found = [
        (term, unit, said)
        for term in terms
        if term.part.names != ("intrcpt",)
        for unit, said in _lone_units(term, moderators)
    ]
    if not found:
        return ()
    Q, _ = np.linalg.qr(X)
    return tuple(LoneLevel(said, _is_absorbed(Q, term, unit)) for term, unit, said in found)


def _is_absorbed(Q: Array, term: ScaleTerm, unit: tuple[int, int]) -> bool:
    group, effect = unit
    loads = np.where(term.index == group, term.slopes[:, effect], 0.0)
    left = loads - Q @ (Q.T @ loads)
    return bool(np.linalg.norm(left) <= _ABSORBED * np.linalg.norm(loads))


def _lone_units(term: ScaleTerm, moderators: pd.DataFrame) -> Iterator[tuple[tuple[int, int], str]]:
    """The group and effect of each, and its words; each once."""
    group, effect = np.nonzero(term.used)
    if len(term.effects) > 1 and not term.grouping.inner:
        group, effect = np.arange(len(term.groups)), np.zeros(len(term.groups), dtype=np.intp)
    row = _first_rows(term, group, effect)
    seen: set[int] = set()
    one = "study" if term.grouping.is_residual else f"group of {term.name!r}"
    names = [term.groups[g] for g in group]
    spec = term.part.spec
    for formula_term in spec.formula if spec is not None else ():
        factors = formula_term.factors
        if not factors or not all(factor in spec.factor_contrasts for factor in factors):
            continue
        levels, codes = zip(
            *(factor_levels(factor, moderators.iloc[row]) for factor in factors), strict=True
        )
        _, first, count = np.unique(
            np.column_stack(codes), axis=0, return_index=True, return_counts=True
        )
        for unit in first[count == 1]:
            of = [shown_level(each[code[unit]]) for each, code in zip(levels, codes, strict=True)]
            seen.add(int(unit))
            yield (
                (int(group[unit]), int(effect[unit])),
                f"the level {' and '.join(of)} of the scale moderator '{formula_term}' has one "
                f"{one} ({names[unit]})",
            )
    matrix = term.Z[group, effect][:, : len(term.part.names)]
    for name, column in zip(term.part.names, matrix.T, strict=False):
        low, high = column.min(), column.max()
        for value, other in ((low, high), (high, low)):
            here = column == value
            unit = int(np.argmax(here))
            lone = here.sum() == 1 and (column == other).sum() == len(column) - 1 > 1
            if lone and unit not in seen:
                yield (
                    (int(group[unit]), int(effect[unit])),
                    f"the scale moderator {name!r} is {value:g} in one {one} "
                    f"({some(names, here)}) and {other:g} in all others",
                )


def _first_rows(
    term: ScaleTerm, group: npt.NDArray[np.intp], effect: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """The first row of each effect of a group."""
    s = len(term.effects)
    row, own = np.nonzero(term.slopes) if term.grouping.inner else (np.arange(len(term.index)), 0)
    unit = term.index[row] * s + own
    place = np.full(len(term.groups) * s, -1)
    place[unit[::-1]] = row[::-1]
    return np.asarray(place[group * s + effect])
