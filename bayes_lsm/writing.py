"""Results as files; the ending of a file's name says what is written.

A new format is one more function here, and its ending in `_WRITERS`.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

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


def check_paths(
    paths: Iterable[Path], *, only: Collection[str] = (), extra: Collection[str] = ()
) -> None:
    """Before any work is done: that each file's ending is known and its folder is there."""
    for path in paths:
        require_choice(
            f"cannot write {path}: the ending of its name",
            path.suffix.lower(),
            only or (*_WRITERS, *extra),
        )
        if not path.parent.is_dir():
            raise FitError(f"cannot write {path}: there is no folder {path.parent}; make it first")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of a file that cannot be written why, by a FitError."""
    try:
        yield
    except OSError as error:
        raise FitError(f"cannot write {error.filename or path}: {error.strerror}") from None


def write(result: Printable, path: Path) -> None:
    """Write a result's table as the path's ending says."""
    text = _WRITERS[path.suffix.lower()](result)
    with writing(path):
        path.write_text(text, encoding="utf-8")


def _csv(result: Printable) -> str:
    return flat_table(result.to_dataframe()).to_csv(index=False)


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
    ".csv": _csv,
    ".json": _json,
    ".html": _html,
    ".tex": lambda result: result.to_latex(),
    ".txt": lambda result: f"{result}\n",
}
