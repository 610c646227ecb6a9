"""What a table of a page holds: all of it for its file, and what is shown as rows of text."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from bayes_lsm.report.page import Table
from bayes_lsm.tables import LONGEST, Cells, as_cells

_DIGITS = 3


def cells_of(table: Table) -> Cells:
    """Format a table: at most 1000 rows of it, and a note where that is not all."""
    content = table.content
    if isinstance(content, pd.DataFrame):
        cells = as_cells(content, digits=_DIGITS if table.digits is None else table.digits)
    else:
        cells = content.cells(digits=table.digits)
    rows = len(cells.rows)
    cut = f"the first {LONGEST} of {rows} rows are shown; {table.name}.csv has them all"
    said = [note for note in cells.notes if note not in table.said]
    return replace(
        cells,
        title=table.caption or cells.title,
        rows=cells.rows[:LONGEST],
        notes=(*([cut] if rows > LONGEST else []), *table.notes, *said),
    )


def frame_of(table: Table) -> pd.DataFrame:
    """All of a table, unrounded."""
    content = table.content
    return content.copy() if isinstance(content, pd.DataFrame) else content.to_dataframe()
