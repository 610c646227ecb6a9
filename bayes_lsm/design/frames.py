"""Data frames at the door: what a column may hold, and what it is turned into.

Numbers become floats, truth values become bool, text and categories stay levels; anything else is
refused with its cure. Nothing here knows a formula.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.errors import DataError
from bayes_lsm.formulas.term_names import Kind

_INFERRED: dict[str, Kind] = {
    "string": "text",
    "boolean": "truth values",
    "integer": "numbers",
    "floating": "numbers",
    "mixed-integer-float": "numbers",
    "decimal": "numbers",
}


@dataclass(frozen=True)
class DroppedRow:
    """A row that was left out, and the columns in which it has no value."""

    label: str
    columns: tuple[str, ...]


def require_frame(data: object) -> pd.DataFrame:
    """The same data, once it is sure that they are a data frame."""
    if not isinstance(data, pd.DataFrame):
        raise DataError(
            f"data must be a pandas DataFrame, got {type(data).__name__}; make one with "
            "pandas.DataFrame(data)"
        )
    return data


def require_columns(data: pd.DataFrame, columns: Sequence[str]) -> None:
    """Each of these columns must be there, once."""
    for column in columns:
        count = sum(isinstance(name, str) and name == column for name in data.columns)
        if count == 0:
            known = [str(name) for name in data.columns]
            close = difflib.get_close_matches(column, known, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise DataError(
                f"the data have no column {column!r}; they have {', '.join(known) or 'none'}{meant}"
            )
        if count > 1:
            raise DataError(f"the data have {count} columns named {column!r}; keep one")


def row_labels(data: pd.DataFrame, study: str | None) -> tuple[str, ...]:
    """A name for each row, from the column of study names or else from the index.

    Examples
    --------
    >>> row_labels(pd.DataFrame({"study": [1.0, None]}), "study")
    ('1', 'row 1')
    """
    index = [
        f"row {'/'.join(map(str, key)) if isinstance(key, tuple) else key}" for key in data.index
    ]
    if study is None:
        return tuple(index)
    missing = data[study].isna().to_numpy()
    return tuple(
        row if absent else level_text(name)
        for name, row, absent in zip(data[study], index, missing, strict=True)
    )


def level_text(level: object) -> str:
    """A level or a study's name as text: 3.0, which pandas makes of 3 beside a gap, is ``3``."""
    if isinstance(level, float | np.floating) and float(level).is_integer():
        return str(int(level))
    return str(level)


def some(labels: Sequence[str], which: npt.NDArray[np.bool_], most: int = 5) -> str:
    """The first few of the labels, and how many more."""
    rows = np.flatnonzero(which)
    rest = f" and {len(rows) - most} more" if len(rows) > most else ""
    return ", ".join(labels[int(i)] for i in rows[:most]) + rest


def outcome(data: pd.DataFrame, column: str, labels: Sequence[str]) -> Array:
    """A copy of a column of effects or variances as floats, NaN where missing."""
    values = data[column]
    if kind_of(values, column, labels) != "numbers":
        bad = (pd.to_numeric(values, errors="coerce").isna() & values.notna()).to_numpy()
        example = f"{values[bad].iloc[0]!r} in {some(labels, bad)}" if bad.any() else "text"
        if pd.api.types.is_bool_dtype(values):
            example = "True and False"
        raise DataError(
            f"column {column!r} must hold numbers, got {example}; correct it, or convert the "
            "column with pandas.to_numeric"
        )
    # A copy, so that what is done to the data later changes no fitted model.
    return np.array(_floats(values))


def kind_of(values: pd.Series[Any], column: str, labels: Sequence[str]) -> Kind:
    """What a column holds; an error for what no formula can use."""
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        _require_one_type(dtype.categories, column)
        return "categories"
    if pd.api.types.is_bool_dtype(dtype) and not pd.api.types.is_object_dtype(dtype):
        return "truth values"
    if pd.api.types.is_complex_dtype(dtype):
        raise DataError(f"column {column!r} holds complex numbers; give real ones")
    if pd.api.types.is_numeric_dtype(dtype):
        return "numbers"
    inferred = pd.api.types.infer_dtype(values, skipna=True)
    if inferred == "empty":
        return "numbers"
    if inferred in _INFERRED:
        return _INFERRED[inferred]
    if "date" in inferred or "time" in inferred or inferred == "period":
        raise DataError(
            f"column {column!r} holds dates or times ({dtype}), which a formula cannot use; "
            f"convert them to numbers, such as data[{column!r}].dt.year"
        )
    raise DataError(
        f"column {column!r} holds values of different or unusable types ({_types(values)} in "
        f"{_example(values, labels)}); make all of them numbers, or all of them text"
    )


def _require_one_type(categories: pd.Index[Any], column: str) -> None:
    texts = [isinstance(category, str) for category in categories]
    if any(texts) and not all(texts):
        raise DataError(
            f"the categories of column {column!r} are partly text, partly not; make all of them "
            "text, such as with data[...].astype(str).astype('category')"
        )


def _types(values: pd.Series[Any]) -> str:
    found = dict.fromkeys(type(value).__name__ for value in values.dropna())
    return ", ".join(list(found)[:3])


def _example(values: pd.Series[Any], labels: Sequence[str]) -> str:
    present = values.notna().to_numpy()
    first = type(values[present].iloc[0])
    odd = np.array([isinstance(value, first) for value in values], dtype=bool)
    return some(labels, present & ~odd if (present & ~odd).any() else present, 3)


def _floats(values: pd.Series[Any]) -> Array:
    # Floats throughout: an int64 column to the sixth power can wrap around without a word.
    if pd.api.types.is_object_dtype(values.dtype):
        return pd.to_numeric(values.astype(object), errors="coerce").to_numpy(dtype=float)
    return values.to_numpy(dtype=float, na_value=np.nan)


def drop_incomplete(
    data: pd.DataFrame, columns: Sequence[str], labels: Sequence[str]
) -> tuple[pd.DataFrame, tuple[str, ...], tuple[DroppedRow, ...]]:
    """The rows that have a value in each of these columns, their labels, and the other rows."""
    missing = data[list(columns)].isna().to_numpy()
    keep = ~missing.any(axis=1)
    if keep.all():
        return data, tuple(labels), ()
    dropped = tuple(
        DroppedRow(labels[int(i)], tuple(columns[int(j)] for j in np.flatnonzero(missing[i])))
        for i in np.flatnonzero(~keep)
    )
    if not keep.any():
        raise DataError(
            f"no complete row is left of {len(data)}: every row misses a value in one of "
            f"{', '.join(map(repr, columns))}; leave out the column that is missing most often"
        )
    return data.loc[keep], tuple(labels[int(i)] for i in np.flatnonzero(keep)), dropped


def describe_dropped(dropped: Sequence[DroppedRow], total: int) -> str:
    """What a warning says of rows that were left out."""
    columns = dict.fromkeys(column for row in dropped for column in row.columns)
    first = ", ".join(row.label for row in dropped[:5])
    rest = f" and {len(dropped) - 5} more" if len(dropped) > 5 else ""
    rows = "row was" if len(dropped) == 1 else "rows were"
    return (
        f"{len(dropped)} of {total} {rows} left out because of missing values in "
        f"{', '.join(map(repr, columns))}: {first}{rest}; fill the values in, or drop the rows "
        "yourself to silence this"
    )


def dropped_notes(dropped: Sequence[DroppedRow]) -> tuple[str, ...]:
    """What a reader of any result has to know of rows that were left out."""
    if not dropped:
        return ()
    count = len(dropped)
    rows = ", ".join(f"{row.label} ({', '.join(row.columns)})" for row in dropped[:8])
    more = f" and {count - 8} more" if count > 8 else ""
    return (f"{count} row{'s' if count > 1 else ''} with missing values left out: {rows}{more}",)


def moderators(
    data: pd.DataFrame, columns: Iterable[str], labels: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, Kind]]:
    """The columns of a formula, ready for it, and what each of them holds.

    The index is made plain, because a repeated one would multiply rows; levels without a row are
    removed, because they would become columns of zeros.
    """
    kinds: dict[str, Kind] = {}
    ready: dict[str, object] = {}
    for column in columns:
        values = data[column].reset_index(drop=True)
        kinds[column] = kind = kind_of(values, column, labels)
        if kind == "categories":
            ready[column] = values.cat.remove_unused_categories()
        elif kind == "truth values":
            ready[column] = values.to_numpy(dtype=bool)
        elif kind == "numbers":
            ready[column] = _floats(values)
        else:
            ready[column] = values.astype("str")
    return pd.DataFrame(ready, index=pd.RangeIndex(len(data))), kinds


def require_complete(data: pd.DataFrame, columns: Iterable[str], labels: Sequence[str]) -> None:
    """New data have a value everywhere: there is no prediction without one."""
    for column in columns:
        missing = data[column].isna().to_numpy()
        if missing.any():
            raise DataError(
                f"new data: column {column!r} has no value in {some(labels, missing)}; give one, "
                "or leave the rows out"
            )


def require_same_kinds(
    frame: pd.DataFrame, new: Mapping[str, Kind], fitted: Mapping[str, Kind]
) -> None:
    """New data must hold what the fitted data held: the text "2001" is not the number 2001."""
    text = {"text", "categories"}
    for column, kind in new.items():
        before = fitted[column]
        if "categories" not in (kind, before) and (kind in text) != (before in text):
            raise DataError(
                f"new data: column {column!r} holds {kind}, but held {before} in the fitted data; "
                "convert it"
            )
        if (kind, before) == ("numbers", "truth values") and not frame[column].isin([0, 1]).all():
            raise DataError(
                f"new data: column {column!r} holds numbers other than 0 and 1, but held truth "
                "values in the fitted data; convert it"
            )
