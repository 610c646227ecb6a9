"""Results as files; the ending of a file's name says what is written.

A new format is one more function here, and its ending in `_WRITERS`.
"""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayes_lsm.choices import require_choice
from bayes_lsm.errors import FitError
from bayes_lsm.tables import Printable

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body {{ margin: 2rem auto; max-width: 60rem; padding: 0 1rem; overflow-x: auto; }}</style>
</head>
<body>
{body}
</body>
</html>
"""

# What a spreadsheet takes for the beginning of a formula.
_RUN = ("=", "+", "-", "@", "\t", "\r")


def check_paths(
    paths: Iterable[Path], *, only: Collection[str] = (), extra: Collection[str] = ()
) -> None:
    """Before any work is done: that each file's ending is known and its folder can be written."""
    for path in paths:
        require_choice(
            f"cannot write {path}: the ending of its name",
            path.suffix.lower(),
            only or (*_WRITERS, *extra),
        )
        if not path.parent.is_dir():
            raise FitError(f"cannot write {path}: there is no folder {path.parent}; make it first")
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            why = "it is a folder" if path.is_dir() else f"{path.parent} does not allow it"
            raise FitError(f"cannot write {path}: {why}; give another name")


def require_others(paths: Iterable[Path], read: Iterable[str | Path | None]) -> None:
    """Refuse to write over what an analysis has read."""
    given = [Path(each) for each in read if each is not None and os.path.exists(each)]
    for path in paths:
        if path.exists() and any(path.samefile(each) for each in given):
            raise FitError(f"cannot write {path}: the analysis reads this file; give another name")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file in the same folder, which gets the name `path` once all of it is written.

    Where something fails or is interrupted, the old file stays as it was; a link of that name is
    replaced, and not followed. A FitError says why a file cannot be written.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield new
        new.replace(path)
    except OSError as error:
        raise FitError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        new.unlink(missing_ok=True)


def write_text(text: str, path: Path) -> None:
    """A text as a file, whole or not at all."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """A table as a CSV file, in which every text is text for a spreadsheet, too."""
    write_text(csv_of(table), path)


def csv_of(table: pd.DataFrame) -> str:
    """As CSV, numbers whole; an apostrophe goes before text that a spreadsheet would run."""
    flat = flat_table(table)
    for j in range(flat.shape[1]):
        if not pd.api.types.is_numeric_dtype(flat.dtypes.iloc[j]):
            flat.isetitem(j, list(map(_as_text, flat.iloc[:, j])))
    flat.columns = pd.Index([_as_text(name) for name in flat.columns])
    return str(flat.to_csv(index=False))


def _as_text(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_RUN) else cell


def write(result: Printable, path: Path) -> None:
    """Write a result's table as the path's ending says."""
    write_text(_WRITERS[path.suffix.lower()](result), path)


def _json(result: Printable) -> str:
    rows = [
        {name: _plain(value) for name, value in row.items()}
        for row in flat_table(result.to_dataframe()).to_dict("records")
    ]
    content = {"title": result.title, "notes": list(result.notes), "coefficients": rows}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _html(result: Printable) -> str:
    return _PAGE.format(title=html.escape(result.title), body=result.to_html())


def flat_table(table: pd.DataFrame) -> pd.DataFrame:
    """Index levels as columns, and one name a column (``REML estimate``): as csv files have it."""
    flat = table.copy()
    if table.columns.nlevels > 1:
        flat.columns = pd.Index([" ".join(map(str, column)) for column in table.columns])
    return flat.reset_index()


def _plain(value: object) -> object:
    """JSON knows neither infinity nor nan: ``"-inf"`` and null stand for them."""
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else str(value) if math.isinf(value) else float(value)
    return value


_WRITERS: dict[str, Callable[[Printable], str]] = {
    ".csv": lambda result: csv_of(result.to_dataframe()),
    ".json": _json,
    ".html": _html,
    ".tex": lambda result: result.to_latex(),
    ".txt": lambda result: f"{result}\n",
}
