"""Random intercepts of a scale formula, ``"~ weeks + (1 | country)"``, read apart from the rest."""

from __future__ import annotations

import re

from bayes_lsm.errors import FormulaError

_BAR = re.compile(r"\(([^|]*)\|([^|]*)\)")


def split_random_intercepts(formula: str) -> tuple[str, tuple[str, ...]]:
    """The fixed part of a scale formula, and the columns of its random intercepts.

    Raises
    ------
    FormulaError
        For anything but ``(1 | column)``, or a column named twice.

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
