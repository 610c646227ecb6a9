"""From words and a data frame to numbers: the only room that sees a formula evaluated.

`build_design` checks the data once, at the door, and gives a frozen `Design` of arrays and names;
everything above works on those. `Design.for_new_data` applies the same formulas, with the
transforms and the levels learned from these data, to other rows.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
from formulaic import ModelSpec
from formulaic.errors import DataMismatchWarning, FormulaicError

from bayes_lsm import formulas
from bayes_lsm.errors import DataError, FormulaError
from bayes_lsm.specification import Specification

Array = npt.NDArray[np.float64]

_RANK_TOLERANCE = 1e-9


@dataclass(frozen=True)
class DroppedRow:
    """A row that was left out, and the columns in which it has no value."""

    label: str
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """One formula applied to data: the location or the scale part.

    Attributes
    ----------
    formula : str
    names : tuple of str, length p
        Term names as metafor prints them: ``intrcpt``, ``continentAmerica``, ``I(weeks - 40)``.
    matrix : ndarray, shape (n, p)
    """

    formula: str
    names: tuple[str, ...]
    matrix: Array
    spec: ModelSpec = field(repr=False)


@dataclass(frozen=True, eq=False)
class NewData:
    """Moderator values at which a fitted model is asked something.

    Attributes
    ----------
    X : ndarray, shape (m, p)
    Z : ndarray, shape (m, q)
    labels : tuple of str, length m
    """

    X: Array
    Z: Array
    labels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Design:
    """A location-scale model in numbers: y ~ Normal(Xβ, v + exp(Zα)).

    Attributes
    ----------
    y, v : ndarray, shape (n,)
        Effects and their sampling variances.
    location, scale : Part
        The two formulas' matrices (`X`, `Z`) and term names.
    labels : tuple of str, length n
        Names of the studies; the frame's index where no column was named.
    dropped : tuple of DroppedRow
        Rows left out because of missing values.
    """

    specification: Specification
    y: Array
    v: Array
    location: Part
    scale: Part
    labels: tuple[str, ...]
    dropped: tuple[DroppedRow, ...] = ()

    @property
    def X(self) -> Array:
        """Location matrix, shape (n, p)."""
        return self.location.matrix

    @property
    def Z(self) -> Array:
        """Scale matrix, shape (n, q)."""
        return self.scale.matrix

    @property
    def n_studies(self) -> int:
        """Number of effects k."""
        return len(self.y)

    def for_new_data(self, data: pd.DataFrame) -> NewData:
        """The matrices for other rows, with the transforms and levels of these data.

        Parameters
        ----------
        data : DataFrame
            Must have every column that the two formulas use; no effects needed.

        Raises
        ------
        DataError
            For a missing column, a missing value, or a level that these data do not have.
        """
        columns = _formula_columns(self.specification)
        _require_columns(data, columns)
        labels = _labels(data, self.specification.study)
        frame = _clean_categories(data)
        for column in columns:
            missing = frame[column].isna().to_numpy()
            if missing.any():
                raise DataError(
                    f"new data: column {column!r} has no value in {_some(labels, missing)}; "
                    "give one, or leave the rows out"
                )
        matrices = [_apply(part, frame) for part in (self.location, self.scale)]
        return NewData(matrices[0], matrices[1], labels)


def build_design(specification: Specification, data: pd.DataFrame) -> Design:
    """Apply a specification to data, after checking that the data can carry it.

    Parameters
    ----------
    specification : Specification
    data : DataFrame
        One row an effect. Rows with a missing value in a column that is used are left out, and
        are listed in `Design.dropped`.

    Returns
    -------
    Design

    Raises
    ------
    DataError
        With what was got, what is allowed and the cure.

    Examples
    --------
    >>> from bayes_lsm.datasets import load_dataset
    >>> spec = Specification(location="yi ~ continent", variance="vi")
    >>> build_design(spec, load_dataset("preterm_iq")).location.names
    ('intrcpt', 'continentAmerica', 'continentOther')
    """
    if not isinstance(data, pd.DataFrame):
        raise DataError(f"data must be a pandas DataFrame, got {type(data).__name__}")
    outcome = [specification.effect, specification.variance]
    needed = list(dict.fromkeys(outcome + _formula_columns(specification)))
    _require_columns(data, needed + ([specification.study] if specification.study else []))
    if data.empty:
        raise DataError("the data have no rows; give one row for each effect")
    labels = _labels(data, specification.study)
    for column in outcome:
        _require_numeric(data[column], column, labels)

    missing = data[needed].isna().to_numpy()
    keep = ~missing.any(axis=1)
    dropped = tuple(
        DroppedRow(labels[i], tuple(np.array(needed)[missing[i]])) for i in np.flatnonzero(~keep)
    )
    frame = _clean_categories(data.loc[keep])
    labels = tuple(np.array(labels, dtype=object)[keep])
    if frame.empty:
        raise DataError(
            f"no complete row is left of {len(data)}: every row misses a value in one of "
            f"{', '.join(map(repr, needed))}"
        )
    y = frame[specification.effect].to_numpy(dtype=float)
    v = frame[specification.variance].to_numpy(dtype=float)
    _check_outcome(specification, y, v, labels)
    location = _build_part("location", specification.location, frame, labels)
    scale = _build_part("scale", specification.scale, frame, labels)
    _check_size(y, location, scale)
    _check_single_studies(scale, frame, labels)
    return Design(specification, y, v, location, scale, labels, dropped)


def _formula_columns(specification: Specification) -> list[str]:
    parts = (formulas.parse(specification.location), formulas.parse(specification.scale))
    return list(dict.fromkeys(column for part in parts for column in part.columns))


def _require_columns(data: pd.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        count = int((data.columns == column).sum())
        if count == 0:
            known = [str(name) for name in data.columns]
            close = difflib.get_close_matches(column, known, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise DataError(
                f"the data have no column {column!r}; they have {', '.join(known)}{meant}"
            )
        if count > 1:
            raise DataError(f"the data have {count} columns named {column!r}; keep one")


def _labels(data: pd.DataFrame, study: str | None) -> tuple[str, ...]:
    if study is None:
        return tuple(f"row {index}" for index in data.index)
    return tuple(map(str, data[study]))


def _some(labels: Sequence[str], which: npt.NDArray[np.bool_], most: int = 5) -> str:
    named = [labels[i] for i in np.flatnonzero(which)]
    rest = f" and {len(named) - most} more" if len(named) > most else ""
    return ", ".join(named[:most]) + rest


def _require_numeric(values: pd.Series, column: str, labels: Sequence[str]) -> None:
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return
    bad = (pd.to_numeric(values, errors="coerce").isna() & values.notna()).to_numpy()
    example = f"{values[bad].iloc[0]!r} in {_some(labels, bad)}" if bad.any() else "text"
    raise DataError(
        f"column {column!r} must hold numbers, got {example}; correct it, or convert the column "
        "with pandas.to_numeric"
    )


def _clean_categories(data: pd.DataFrame) -> pd.DataFrame:
    """Levels without a row would become columns of zeros; nullable numbers become floats."""
    frame = data.copy(deep=False)
    for column in frame.columns:
        values = frame[column]
        if isinstance(values, pd.DataFrame):
            continue
        if isinstance(values.dtype, pd.CategoricalDtype):
            frame[column] = values.cat.remove_unused_categories()
        elif pd.api.types.is_extension_array_dtype(values) and pd.api.types.is_numeric_dtype(
            values
        ):
            frame[column] = values.astype(float)
    return frame


def _check_outcome(specification: Specification, y: Array, v: Array, labels: Sequence[str]) -> None:
    for column, values in ((specification.effect, y), (specification.variance, v)):
        infinite = ~np.isfinite(values)
        if infinite.any():
            raise DataError(
                f"column {column!r} must be finite, got {values[infinite][0]} in "
                f"{_some(labels, infinite)}; correct it or drop the row"
            )
    if (v <= 0).any():
        raise DataError(
            f"sampling variance {specification.variance!r} must be > 0, got {v[v <= 0][0]:g} in "
            f"{_some(labels, v <= 0)}; drop the row or correct it"
        )


def _build_part(part: str, formula: str, frame: pd.DataFrame, labels: Sequence[str]) -> Part:
    terms = formulas.parse(formula).terms
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DataMismatchWarning)
            matrix = terms.get_model_matrix(frame, context={}, na_action="raise")
    except (FormulaicError, DataMismatchWarning, ValueError, TypeError, KeyError) as error:
        raise FormulaError(f"cannot evaluate the {part} formula {formula!r}: {error}") from None
    spec: ModelSpec = matrix.model_spec
    for structure in spec.structure:
        if not structure.columns:
            raise DataError(
                f"the {part} moderator {structure.term} is constant: it has one level only; "
                "leave it out"
            )
    names = _term_names(spec)
    values = _finite(part, np.asarray(matrix, dtype=float), names, labels)
    _check_columns(part, names, values)
    return Part(formula, names, values, spec)


def _apply(part: Part, frame: pd.DataFrame) -> Array:
    for factor, state in part.spec.factor_contrasts.items():
        column = formulas.parse(f"~ 0 + {factor.expr}").columns
        if len(column) == 1 and state.levels is not None:
            unseen = set(frame[column[0]]) - set(state.levels)
            if unseen:
                raise DataError(
                    f"new data: {column[0]!r} has the level {sorted(map(str, unseen))[0]!r}, which "
                    f"the fitted data do not have; they have {', '.join(map(str, state.levels))}"
                )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DataMismatchWarning)
            matrix = part.spec.get_model_matrix(frame, context={}, na_action="raise")
    except (FormulaicError, DataMismatchWarning, ValueError, TypeError, KeyError) as error:
        raise DataError(f"new data: cannot evaluate {part.formula!r}: {error}") from None
    return np.asarray(matrix, dtype=float)


def _finite(part: str, values: Array, names: Sequence[str], labels: Sequence[str]) -> Array:
    bad = ~np.isfinite(values)
    if bad.any():
        j = int(np.flatnonzero(bad.any(axis=0))[0])
        raise DataError(
            f"the {part} term {names[j]!r} is not finite in {_some(labels, bad[:, j])}; correct "
            "the moderator or drop the rows"
        )
    return values


def _term_names(spec: ModelSpec) -> tuple[str, ...]:
    """``Intercept`` → ``intrcpt``, ``continent[T.America]`` → ``continentAmerica``."""
    full = [str(name) for name in spec.column_names]
    short = [":".join(_short_name(piece) for piece in _split_interaction(name)) for name in full]
    if len(set(short)) < len(short):
        return tuple("intrcpt" if name == "Intercept" else name for name in full)
    return tuple(short)


def _split_interaction(name: str) -> list[str]:
    pieces, depth = [""], 0
    for letter in name:
        depth += (letter in "([") - (letter in ")]")
        if letter == ":" and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    return pieces


def _short_name(name: str) -> str:
    if name == "Intercept":
        return "intrcpt"
    variable, bracket, level = name.rpartition("[")
    if not bracket or not level.endswith("]"):
        return name
    if variable.startswith("C(") and variable.endswith(")"):
        variable = variable[2:-1].partition(",")[0].strip()
    return variable + level[:-1].removeprefix("T.")


def _check_columns(part: str, names: Sequence[str], values: Array) -> None:
    constant = [j for j in range(len(names)) if np.ptp(values[:, j]) == 0]
    for j in constant:
        if "intrcpt" in names and names[j] != "intrcpt":
            raise DataError(
                f"the {part} moderator {names[j]!r} is constant ({values[0, j]:g} in every "
                "study); leave it out"
            )
        if values[0, j] == 0:
            raise DataError(f"the {part} moderator {names[j]!r} is zero in every study; drop it")
    redundant = _redundant_column(values)
    if redundant is not None:
        j, others = redundant
        listed = " and ".join(repr(names[i]) for i in others)
        raise DataError(
            f"the {part} term {names[j]!r} is a linear combination of {listed} (collinear); "
            "leave one of them out"
        )


def _redundant_column(values: Array) -> tuple[int, list[int]] | None:
    """The first column that the columns before it determine, and which of them do."""
    scaled = values / np.linalg.norm(values, axis=0)
    if np.linalg.matrix_rank(scaled, tol=_RANK_TOLERANCE) == values.shape[1]:
        return None
    for j in range(1, values.shape[1]):
        coefficients, *_ = np.linalg.lstsq(scaled[:, :j], scaled[:, j], rcond=None)
        if np.linalg.norm(scaled[:, j] - scaled[:, :j] @ coefficients) < 10 * _RANK_TOLERANCE:
            return j, [i for i in range(j) if abs(coefficients[i]) > 1e-8]
    return None


def _check_size(y: Array, location: Part, scale: Part) -> None:
    for part, names in (("location", location.names), ("scale", scale.names)):
        if len(y) <= len(names):
            raise DataError(
                f"{len(y)} studies cannot carry {len(names)} {part} coefficients "
                f"({', '.join(names)}); more studies than coefficients are needed"
            )


def _check_single_studies(scale: Part, frame: pd.DataFrame, labels: Sequence[str]) -> None:
    """A level with one study has no heterogeneity to be estimated."""
    for factor, state in scale.spec.factor_contrasts.items():
        columns = formulas.parse(f"~ 0 + {factor.expr}").columns
        if len(columns) != 1 or state.levels is None:
            continue
        values = frame[columns[0]]
        for level in state.levels:
            rows = (values == level).to_numpy()
            if rows.sum() == 1:
                raise DataError(
                    f"the level {level!r} of the scale moderator {columns[0]!r} has one study "
                    f"({_some(labels, rows)}), which has no heterogeneity; merge the level with "
                    "another, drop the study, or leave the term out of the scale part"
                )
