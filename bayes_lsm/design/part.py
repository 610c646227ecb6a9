"""One formula applied to data: the only room that sees a formula evaluated.

`build_part` evaluates it on the rows that are fitted, and refuses what cannot be estimated;
`apply_part` applies it, with the transforms and the levels learned there, to other rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from formulaic import Formula, ModelSpec
from formulaic.errors import DataMismatchWarning
from formulaic.parser.types import Term

from bayes_lsm import formulas
from bayes_lsm.arrays import Array
from bayes_lsm.design.columns import check_columns
from bayes_lsm.design.frames import level_text, some
from bayes_lsm.errors import DataError, FormulaError
from bayes_lsm.formulas.term_names import Kind, term_names

# 4 GB of floats: more than a meta-analysis needs, less than brings a machine down.
_MAX_ENTRIES = 500_000_000
_LEVELS = ("text", "categories")


@dataclass(frozen=True, eq=False)
class Part:
    """One formula applied to data, the location or the scale part: a `matrix` (n, p).

    Its `names` are terms as metafor prints them: ``intrcpt``, ``continentAmerica``,
    ``I(weeks - 40)``.
    """

    formula: str
    names: tuple[str, ...]
    matrix: Array
    spec: ModelSpec = field(repr=False)


def build_part(
    part: str,
    formula: str,
    frame: pd.DataFrame,
    kinds: Mapping[str, Kind],
    labels: Sequence[str],
) -> Part:
    parsed = formulas.parse(formula)
    for column in sorted(parsed.computed):
        if kinds[column] in _LEVELS:
            raise DataError(
                f"the {part} formula {formula!r} computes with {column!r}, which holds "
                f"{kinds[column]}; make it numbers, or use it as it is"
            )
    frame = frame[list(parsed.columns)]
    _check_cells(part, parsed, frame, kinds)
    try:
        spec, matrix = _evaluate(parsed.terms, frame, "raise")
    except DataMismatchWarning:
        raise DataError(
            f"the data have levels that the {part} formula {formula!r} does not list; list them, "
            "or drop those rows"
        ) from None
    except Exception as error:
        _explain_not_finite(part, parsed, frame, kinds, labels)
        raise FormulaError(
            f"cannot evaluate the {part} formula {formula!r}: {formulas.plain(error)}; correct the "
            "formula or the data"
        ) from None
    for structure in spec.structure:
        if not structure.columns:
            raise DataError(
                f"the {part} moderator '{structure.term}' is constant: it has one level only; "
                "leave it out"
            )
    names = term_names(spec, parsed.factors, kinds)
    if len(frame) <= len(names):
        raise DataError(
            f"{_studies(frame)} cannot carry {len(names)} {part} coefficients "
            f"({', '.join(names[:8])}{', …' if len(names) > 8 else ''}); more studies than "
            "coefficients are needed"
        )
    _require_finite(part, matrix, names, labels)
    check_columns(part, names, matrix)
    return Part(formula, names, matrix, spec)


def _evaluate(terms: Any, frame: pd.DataFrame, na_action: str) -> tuple[ModelSpec, Array]:
    """The one place where a formula is evaluated: complete rows, and no names but the columns."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", DataMismatchWarning)
        # As "numpy", because columns of one name would become one column of a data frame.
        found = terms.get_model_matrix(frame, context={}, na_action=na_action, output="numpy")
    # A plain copy: formulaic's own array drags the data along.
    return found.model_spec, np.array(found, dtype=float)


def _check_cells(
    part: str,
    parsed: formulas.ParsedFormula,
    frame: pd.DataFrame,
    kinds: Mapping[str, Kind],
) -> None:
    """A matrix that cannot be estimated anyway must not be built, it might fill the memory."""
    for term in parsed.terms:
        columns = 1
        for factor in term.factors:
            use = parsed.factors.get(factor.expr)
            if use is None:
                continue
            column = use.categories
            by_level = column and ("C" in use.transforms or kinds[column] in _LEVELS)
            columns *= frame[column].nunique() if by_level else use.width
        if columns > len(frame):
            raise DataError(
                f"{_studies(frame)} cannot carry the {part} term '{term}', which has {columns} "
                "coefficients or combinations of levels; leave it out, or merge levels"
            )
        if columns * len(frame) > _MAX_ENTRIES:
            raise DataError(
                f"the {part} term '{term}' would need {columns} columns of {len(frame)} numbers; "
                "leave it out, or merge levels"
            )


def _explain_not_finite(
    part: str,
    parsed: formulas.ParsedFormula,
    frame: pd.DataFrame,
    kinds: Mapping[str, Kind],
    labels: Sequence[str],
) -> None:
    """Where a formula gives no number (the log of 0): name the term and the rows."""
    try:
        spec, matrix = _evaluate(parsed.terms, frame, "ignore")
    except Exception:
        return
    for column in frame:
        if frame[column].nunique() == 1 and not np.isfinite(matrix).all():
            raise DataError(f"the {part} moderator {column!r} is constant; leave it out")
    _require_finite(part, matrix, term_names(spec, parsed.factors, kinds), labels)


def _require_finite(part: str, values: Array, names: Sequence[str], labels: Sequence[str]) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        j = int(np.flatnonzero(bad.any(axis=0))[0])
        raise DataError(
            f"the {part} term {names[j]!r} is not finite in {some(labels, bad[:, j])}; correct "
            "the moderator or drop the rows"
        )


def apply_part(part: Part, frame: pd.DataFrame, labels: Sequence[str]) -> Array:
    parsed = formulas.parse(part.formula)
    frame = frame[list(parsed.columns)].copy()
    for factor, state in part.spec.factor_contrasts.items():
        column = parsed.factors[factor.expr].categories
        if column is None:
            continue
        levels = list(state.levels)
        unseen = [level for level in frame[column].unique() if level not in levels]
        if unseen:
            raise DataError(
                f"new data: {column!r} has the level {shown_level(unseen[0])}, which the fitted "
                f"data do not have; they have {', '.join(map(shown_level, levels))}; correct it, "
                "or leave the rows out"
            )
        # The level itself and not its equal (1 for True), which pandas would take for missing.
        frame[column] = frame[column].astype(object).map({level: level for level in levels})
    try:
        _, matrix = _evaluate(part.spec, frame, "raise")
    except Exception as error:
        raise DataError(
            f"new data: cannot evaluate {part.formula!r}: {formulas.plain(error)}; give values "
            "like those of the fitted data"
        ) from None
    _require_finite("new data's", matrix, part.names, labels)
    return matrix


def factor_levels(factor: Any, frame: pd.DataFrame) -> tuple[list[Any], npt.NDArray[np.intp]]:
    """A factor's levels, and which of them each row has, however the formula codes it."""
    spec, indicators = _evaluate(Formula([Term([factor])]), frame, "raise")
    return list(spec.factor_contrasts[factor].levels), np.argmax(indicators, axis=1)


def _studies(frame: pd.DataFrame) -> str:
    return "1 study" if len(frame) == 1 else f"{len(frame)} studies"


def shown_level(level: object) -> str:
    """A level as messages show it."""
    return repr(level) if isinstance(level, str) else level_text(level)
