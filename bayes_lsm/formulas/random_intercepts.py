"""Random intercepts of a scale formula, ``"~ weeks + (1 | country)"``: the words and the levels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayes_lsm.arrays import Index
from bayes_lsm.errors import DataError, FormulaError

_BAR = re.compile(r"\(([^|]*)\|([^|]*)\)")


@dataclass(frozen=True, eq=False)
class RandomIntercept:
    """What is added to ln τ² of all groups of a scale term that share a level of a column.

    `index` (G, s) is which level each effect of each group has; 0 for effects without rows.
    """

    column: str
    levels: tuple[str, ...]
    index: Index


def split_random_intercepts(formula: str) -> tuple[str, tuple[str, ...]]:
    """The fixed part of a scale formula, and the columns of its random intercepts.

    A FormulaError refuses anything but ``(1 | column)``, and a column named twice.

    Examples
    --------
    >>> split_random_intercepts("~ weeks + (1 | country)")
    ('~ weeks', ('country',))
    >>> split_random_intercepts("~ (1 | country)")
    ('~ 1', ('country',))
    """
    left, tilde, body = formula.partition("~")
    summands = _summands(body if tilde else left)
    bars = [_BAR.fullmatch(summand.strip()) for summand in summands]
    columns = tuple(_column(bar, formula) for bar in bars if bar)
    if not columns:
        return formula, ()
    if len(set(columns)) < len(columns):
        raise FormulaError(f"the formula {formula!r} has two random intercepts of one column")
    fixed = [summand.strip() for summand, bar in zip(summands, bars, strict=True) if not bar]
    return f"{left if tilde else ''}~ {' + '.join(fixed) or '1'}", columns


def _column(bar: re.Match[str], formula: str) -> str:
    what, column = (piece.strip() for piece in bar.groups())
    plain = column.strip("`")
    if what != "1" or not plain or (plain == column and re.search(r"[+:*/()~-]", column)):
        raise FormulaError(
            f"the formula {formula!r} has {bar[0]!r}; of random effects only intercepts, "
            "'(1 | column)', are allowed in a scale formula: one for each column"
        )
    return plain


def _summands(body: str) -> list[str]:
    """The text between those + that stand outside brackets and quotes."""
    pieces, depth, quote = [""], 0, ""
    for sign in body:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "`'\"":
            quote = sign
        else:
            depth += (sign in "([{") - (sign in ")]}")
        if sign == "+" and not depth and not quote:
            pieces.append("")
        else:
            pieces[-1] += sign
    return pieces


def random_intercept(
    said: str,
    column: str,
    found: tuple[Index, tuple[str, ...]],
    groups: tuple[Index, Sequence[str]],
    place: tuple[Index, Index],
    shape: tuple[int, ...],
) -> RandomIntercept:
    """Which level of a column each variance of a scale term has.

    `said` is what messages call it; `found` the level of each row (n,) and the levels' names,
    `groups` which of the m variances each row has and their names, `place` the group and the effect
    of each variance, `shape` (G, s). A DataError refuses several levels in a variance, and an SD of
    the levels that could not be seen.
    """
    (level, levels), (group, names) = found, groups
    first = np.unique(group, return_index=True)[1]
    differs = level != level[first][group]
    if differs.any():
        raise DataError(
            f"{said} must have one level in each group, got several in "
            f"{names[group[differs][0]]}; use it with a finer grouping"
        )
    if len(levels) < 2:
        raise DataError(f"{said} has one level ({levels[0]}); leave it out")
    if len(levels) == len(names):
        raise DataError(
            f"{said} has as many levels as there are groups ({len(levels)}), so that each variance "
            "would be seen once; use a column with several groups in a level, or "
            "study_effects='student_t' for heavy tails"
        )
    index = np.zeros(shape, dtype=np.intp)
    index[place] = level[first]
    return RandomIntercept(column, levels, index)
