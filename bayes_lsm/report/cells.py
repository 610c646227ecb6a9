"""Tables as rows of text, in whatever language they are written then."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from bayes_lsm.report.page import Table
from bayes_lsm.tables import column_groups, format_cells, heading, last_label, printed, row_key

LONGEST = 1000
_DIGITS = 3


@dataclass(frozen=True)
class Row:
    """A row: the part that begins with it (mostly none), its names and its cells."""

    part: str
    names: tuple[str, ...]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Cells:
    """A table, formatted.

    Attributes
    ----------
    caption : str
    groups : tuple of (str, int)
        Headings above several columns, with how many; empty where there are none.
    stubs : tuple of str
        Headings of the columns with the rows' names.
    columns : tuple of str
    words : tuple of bool
        Which columns hold words.
    rows : tuple of Row
    notes : tuple of str
    """

    caption: str
    groups: tuple[tuple[str, int], ...]
    stubs: tuple[str, ...]
    columns: tuple[str, ...]
    words: tuple[bool, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def width(self) -> int:
        """Number of columns, with those of the rows' names."""
        return len(self.stubs) + len(self.columns)


def cells_of(table: Table) -> Cells:
    """Format a table: at most 1000 rows of it, and a note where that is not all."""
    frame, caption, notes, digits = _content(table)
    shown = frame.head(LONGEST)
    cells = format_cells(shown, digits=digits)
    keys = [row_key(key) for key in shown.index]
    parts = [heading(key[0]) if key[0] else "" for key in keys]
    rows = tuple(
        Row(part if i == 0 or part != parts[i - 1] else "", key[1:], tuple(cells.iloc[i]))
        for i, (part, key) in enumerate(zip(parts, keys, strict=True))
    )
    groups = column_groups(frame.columns)
    cut = f"the first {LONGEST} of {len(frame)} rows are shown; {table.name}.csv has them all"
    return Cells(
        caption=table.caption or caption,
        groups=tuple((name, len(at)) for name, at in groups) if any(n for n, _ in groups) else (),
        stubs=_stubs(frame.index),
        columns=tuple(str(last_label(column)) for column in frame.columns),
        words=tuple(not pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes),
        rows=rows,
        notes=(
            *((cut,) if len(frame) > LONGEST else ()),
            *table.notes,
            *(note for note in notes if note not in table.said),
        ),
    )


def frame_of(table: Table) -> pd.DataFrame:
    """All of a table, unrounded."""
    content = table.content
    return content.copy() if isinstance(content, pd.DataFrame) else content.to_dataframe()


def _content(table: Table) -> tuple[pd.DataFrame, str, tuple[str, ...], int]:
    content = table.content
    if isinstance(content, pd.DataFrame):
        return content, "", (), _DIGITS if table.digits is None else table.digits
    shown, digits = printed(content, table.digits)
    return shown, content.title, content.notes, digits


def _stubs(index: pd.Index) -> tuple[str, ...]:
    names = ["" if name is None else str(name) for name in index.names]
    named = names[1:] if len(names) > 1 else names
    return tuple("" if name in ("part", "term", "symbol") else name for name in named)
