"""A CSV file of data: read as it was written, or refused with the line that is wrong.

Model files come from strangers. So what one of them names has to be a regular file in its own
folder, and not an address, a device or a file elsewhere; it is opened here, and no error shows what
a refused file holds.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from bayes_lsm.errors import DataError

# More bytes than a million studies with twenty moderators have.
LARGEST = 512 * 2**20
_SEPARATORS = (",", ";", "\t")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)
_WITH_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
_WITH_POINT = re.compile(r"[+-]?\d*\.\d+(e[+-]?\d+)?", re.IGNORECASE)
_BY_BYTES = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def require_inside(path: str | Path, folder: Path) -> None:
    """Refuse a file that does not lie in a folder, once all links are followed.

    Raises
    ------
    DataError
    """
    try:
        inside = (folder / path).resolve().is_relative_to(folder.resolve())
    except ValueError:  # a NUL
        raise DataError(f"cannot read the data file {path!r}: no file has such a name") from None
    if not inside:
        raise DataError(
            f"the data file {path} lies outside the folder of the model file that names it; move "
            "it there, or name it yourself: data= in Python, --data FILE on the command line"
        )


def read_csv(path: str | Path) -> pd.DataFrame:
    """The data of a CSV file: numbers as they are written, and a name for each column.

    Cells are separated by a comma, a semicolon or a tab, as the header is; with one of the latter
    two decimals may have a comma. The text is UTF-8, or UTF-16 that says so. A column without name
    is left out where it is the first, which R writes row names in, or empty.

    Raises
    ------
    FileNotFoundError
    DataError
        For an address, what is no regular file, too large a file, and text that cannot be read in
        one way only: rows of uneven length, a column name that is missing or stands twice, decimals
        with a comma and others with a point. It names the line.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "some.csv"
    >>> _ = path.write_text("yi;vi\\n0,1;0,04\\n-0,2;0,05\\n")
    >>> read_csv(path)["yi"].to_list()
    [0.1, -0.2]
    """
    if _ADDRESS.match(str(path)) and not Path(path).drive:
        raise DataError(f"the data file {path} is an address; save it as a file, and name that")
    text = _decode(_content(path), path)
    separator = _separator(text)
    names, decimal = _check_rows(text, separator, path)
    frame = pd.read_csv(
        io.StringIO(text),
        sep=separator,
        decimal=decimal,
        index_col=False,
        header=0,
        names=list(range(len(names))),
        skipinitialspace=True,
    )
    kept = [j for j, name in enumerate(names) if name]
    for j, name in enumerate(names):
        if not name and j and frame[j].notna().any():
            raise DataError(f"{path}: column {j + 1} has no name; give it one in the first line")
    return frame[kept].set_axis([names[j] for j in kept], axis=1)


def _content(path: str | Path) -> bytes:
    try:
        # A pipe without a writer would wait for one.
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no file has such a name"
        raise DataError(f"cannot read the data file {path}: {why}") from None
    facts = os.fstat(file)
    if not stat.S_ISREG(facts.st_mode):
        os.close(file)
        raise DataError(f"the data file {path} is no regular file; save the data in one")
    with open(file, "rb") as opened:
        if facts.st_size > LARGEST:
            raise DataError(
                f"the data file {path} has {facts.st_size / 2**20:,.0f} MB, at most "
                f"{LARGEST // 2**20} are read; leave out columns, or pass data="
            )
        return opened.read(LARGEST)


def _decode(content: bytes, path: str | Path) -> str:
    found = (code for mark, code in _BY_BYTES.items() if content.startswith(mark))
    encoding = next(found, "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"cannot read the data file {path}, line {line}: it is not {encoding.upper()} text; "
            "save it as CSV in UTF-8"
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"cannot read the data file {path}, line {line}: this is not text")
    return text


def _separator(text: str) -> str:
    """What separates the cells of the header."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    header = re.sub(r'"[^"]*"', "", header)
    return max(_SEPARATORS, key=header.count)


def _check_rows(text: str, separator: str, path: str | Path) -> tuple[list[str], str]:
    """The names of the columns, and the decimal mark; an error for the first line that is wrong."""
    rows = _rows(text, separator, path)
    _, header = next(rows, (0, []))
    names = [name.strip() for name in header]
    if not any(names):
        raise DataError(f"cannot read the data file {path} as CSV: it has no names of columns")
    for j, name in enumerate(names):
        if name and name in names[:j]:
            raise DataError(f"{path}, line 1: two columns are named {name!r}; rename one")
    comma = point = 0
    for line, cells in rows:
        if len(cells) != len(names):
            raise DataError(
                f"{path}, line {line}: {_count(len(cells))}, but the first line names "
                f"{len(names)}; correct the line (a separator too many or too few, or one in a "
                "text that needs quotes)"
            )
        if separator != ",":
            comma = comma or line * any(map(_WITH_COMMA.fullmatch, cells))
            point = point or line * any(map(_WITH_POINT.fullmatch, cells))
    if comma and point:
        raise DataError(
            f"{path}: decimals have a comma in line {comma} and a point in line {point}; write all "
            "of them alike"
        )
    return names, "," if comma else "."


def _rows(text: str, separator: str, path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """The number of a line, and its cells; lines without any are left out."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    try:
        for cells in reader:
            if len(cells) > 1 or (cells and cells[0].strip()):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(
            f"cannot read the data file {path}, line {reader.line_num}: {error}; check its quotes"
        ) from None


def _count(cells: int) -> str:
    return "1 cell" if cells == 1 else f"{cells} cells"
