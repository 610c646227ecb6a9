"""What a scale term is about: groups of rows, a slope within groups, or the residual.

The key of a scale term is written like the random effects of a mixed model. ``"district"`` has one
effect in each district, ``"district/school"`` one in each school of each district,
``"0 + atterm | study"`` one slope of ``atterm`` in each study, ``"1 + atterm | study"`` an
intercept and a slope, correlated, ``"outcome | trial"`` correlated effects of the outcomes of each
trial, and ``"residual"`` one effect in each row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bayes_lsm import formulas
from bayes_lsm.errors import SpecificationError

RESIDUAL = "residual"
_FORMS = (
    "'study' (a column), 'district/school' (nested columns), '0 + x | study' (a slope), "
    "'1 + x | study' (both), 'outcome | trial' (correlated effects) or 'residual'"
)


@dataclass(frozen=True)
class Grouping:
    """The key of a scale term, read; `text` is as it was written, with plain spaces.

    The combinations of its `columns` are the groups; the residual has none, and its groups are the
    rows. `slope` is the formula ``"~ 0 + x"`` of what is multiplied by effects that differ between
    groups, `inner` the column whose levels have correlated effects within each group.
    """

    text: str
    columns: tuple[str, ...] = ()
    slope: str | None = None
    inner: str | None = None

    @property
    def is_residual(self) -> bool:
        """Whether there is one effect in each row."""
        return not self.columns

    @property
    def needed(self) -> tuple[str, ...]:
        """The data columns that the grouping uses."""
        slope = formulas.parse(self.slope).columns if self.slope else ()
        return (*self.columns, *slope, *((self.inner,) if self.inner else ()))


def read_grouping(text: str) -> Grouping:
    """Read the key of a scale term; a SpecificationError when it has none of the forms above.

    Examples
    --------
    >>> read_grouping("0 + atterm | study")
    Grouping(text='0 + atterm | study', columns=('study',), slope='~ 0 + atterm', inner=None)
    >>> read_grouping("district / school").columns
    ('district', 'school')
    """
    plain = " ".join(text.split())
    if plain == RESIDUAL:
        return Grouping(plain)
    left, bar, right = (piece.strip() for piece in plain.rpartition("|"))
    if "|" in left or (bar and not left) or not right:
        raise SpecificationError(f"{text!r} is not a grouping; write {_FORMS}")
    columns = tuple(_column(piece, text) for piece in right.split("/"))
    if len(set(columns)) < len(columns):
        raise SpecificationError(f"the grouping {text!r} names a column twice")
    if not left or left in ("1", "1 + 0", "0 + 1"):
        return Grouping(plain, columns)
    if re.search(r"[+:*(]|-\s*1", left):
        return Grouping(plain, columns, slope=f"~ {left}")
    return Grouping(plain, columns, inner=_column(left, text))


def _column(piece: str, text: str) -> str:
    name = piece.strip().strip("`")
    if not name or any(sign in name for sign in "+*:()~"):
        raise SpecificationError(
            f"the grouping {text!r} has {piece.strip()!r} where one column is needed; write "
            f"{_FORMS}"
        )
    return name
