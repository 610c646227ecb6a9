"""From words and a data frame to numbers: the only room that sees a formula evaluated.

`build_design` checks the data once, at the door, and gives a frozen `Design` of arrays and names;
everything above works on those. `Design.for_new_data` applies the same formulas, with the
transforms and the levels learned from these data, to other rows.
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
from bayes_lsm.design import frames
from bayes_lsm.design.columns import check_columns
from bayes_lsm.design.frames import DroppedRow, level_text, some
from bayes_lsm.errors import DataError, DroppedRowsWarning, FormulaError, SpecificationError, warn
from bayes_lsm.formulas.term_names import Kind, term_names
from bayes_lsm.specification import Specification

Array = npt.NDArray[np.float64]

# 4 GB of floats: more than a meta-analysis needs, less than brings a machine down.
_MAX_ENTRIES = 500_000_000
_LEVELS = ("text", "categories")


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
    caution : str
        What has to be known of the data wherever their results are shown: ``attrs["caution"]`` of
        the data frame, such as that some rows are reconstructed. Empty when there is nothing.
    kinds : mapping of str to str
        What each column of the formulas holds: numbers, truth values, text or categories.
    moderators : DataFrame, n rows
        Those columns, for figures: what a matrix has of them cannot always be read back.
    """

    specification: Specification
    y: Array
    v: Array
    location: Part
    scale: Part
    labels: tuple[str, ...]
    dropped: tuple[DroppedRow, ...] = ()
    caution: str = ""
    kinds: Mapping[str, Kind] = field(default_factory=dict, repr=False)
    moderators: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)

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

    @property
    def kind(self) -> str:
        """What such a model is called."""
        if self.scale.names != ("intrcpt",):
            name = "Location-Scale Model"
        elif self.location.names == ("intrcpt",):
            name = "Random-Effects Model"
        else:
            name = "Mixed-Effects Model"
        robust = self.specification.study_effects == "student_t"
        return f"{name} with Student-t Study Effects" if robust else name

    @property
    def size(self) -> str:
        """How many effects there are."""
        return f"k = {self.n_studies}"

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The names of all coefficients, part by part."""
        return {"location": self.location.names, "scale": self.scale.names}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any result has to know of the data."""
        return (*frames.dropped_notes(self.dropped), *([self.caution] if self.caution else []))

    def for_new_data(self, data: pd.DataFrame) -> NewData:
        """The matrices for other rows, with the transforms and levels of these data.

        Parameters
        ----------
        data : DataFrame
            Must have every column that the two formulas use; no effects needed.

        Returns
        -------
        NewData

        Raises
        ------
        DataError
            For a missing column, a missing value, or a level that these data do not have.

        Examples
        --------
        >>> from bayes_lsm.datasets import load_dataset
        >>> spec = Specification(location="yi ~ I(weeks - 40)", variance="vi")
        >>> design = build_design(spec, load_dataset("preterm_iq"))
        >>> design.for_new_data(pd.DataFrame({"weeks": [30, 36]})).X
        array([[  1., -10.],
               [  1.,  -4.]])
        """
        data = frames.require_frame(data)
        if len(data) == 0:
            raise DataError("the new data have no rows; give one row for each prediction")
        columns = _formula_columns(self.specification)
        frames.require_columns(data, columns)
        study = self.specification.study
        labels = frames.row_labels(data, study if study in data.columns else None)
        frames.require_complete(data, columns, labels)
        frame, kinds = frames.moderators(data, columns, labels)
        frames.require_same_kinds(frame, kinds, self.kinds)
        X, Z = (apply_part(part, frame, labels) for part in (self.location, self.scale))
        return NewData(X, Z, labels)


def build_design(specification: Specification, data: pd.DataFrame) -> Design:
    """Apply a specification to data, after checking that the data can carry it.

    Parameters
    ----------
    specification : Specification
    data : DataFrame
        One row an effect. Rows with a missing value in a column that is used are left out with one
        warning, and are listed in `Design.dropped`.

    Returns
    -------
    Design

    Raises
    ------
    DataError
        With what was got, what is allowed and the cure.
    FormulaError
        When a formula cannot be evaluated on these data.

    Warns
    -----
    DroppedRowsWarning
        When rows are left out because of missing values.

    Examples
    --------
    >>> from bayes_lsm.datasets import load_dataset
    >>> spec = Specification(location="yi ~ continent", variance="vi")
    >>> build_design(spec, load_dataset("preterm_iq")).location.names
    ('intrcpt', 'continentAmerica', 'continentOther')
    """
    caution = str(frames.require_frame(data).attrs.get("caution", ""))
    study, total = specification.study, len(data)
    variance, scale_formula = _one_scale(specification)
    columns = _formula_columns(specification)
    needed = list(dict.fromkeys([specification.effect, variance, *columns]))
    frames.require_columns(data, needed + ([study] if study else []))
    if not total:
        raise DataError("the data have no rows; give one row for each effect")
    labels = frames.row_labels(data, study)
    for column in (specification.effect, variance):
        frames.outcome(data, column, labels)
    data, labels, dropped = frames.drop_incomplete(data, needed, labels)
    y = frames.outcome(data, specification.effect, labels)
    v = frames.outcome(data, variance, labels)
    _check_outcome(specification, y, v, labels)
    frame, kinds = frames.moderators(data, columns, labels)
    location = build_part("location", specification.location, frame, kinds, labels)
    scale = build_part("scale", scale_formula, frame, kinds, labels)
    _check_size(len(y), location, scale)
    _check_single_studies(scale, frame, labels)
    if dropped:
        warn(frames.describe_dropped(dropped, total), DroppedRowsWarning)
    return Design(specification, y, v, location, scale, labels, dropped, caution, kinds, frame)


def _one_scale(specification: Specification) -> tuple[str, str]:
    """The column of the variances and the one scale formula."""
    variance, scale = specification.variance, specification.scale
    if variance is None or not isinstance(scale, str) or specification.sampling_covariance:
        raise SpecificationError(
            "several scale terms or dependent sampling errors make a clustered design; build it "
            "with build_clustered_design, or use LocationScaleModel"
        )
    return variance, scale


def _formula_columns(specification: Specification) -> list[str]:
    texts = (specification.location, _one_scale(specification)[1])
    parts = map(formulas.parse, texts)
    return list(dict.fromkeys(column for part in parts for column in part.columns))


def check_finite(column: str, values: Array, labels: Sequence[str]) -> None:
    """Refuse an infinite effect or variance."""
    infinite = ~np.isfinite(values)
    if infinite.any():
        raise DataError(
            f"column {column!r} must be finite, got {values[infinite][0]:g} in "
            f"{some(labels, infinite)}; correct it or drop the row"
        )


def _check_outcome(specification: Specification, y: Array, v: Array, labels: Sequence[str]) -> None:
    for column, values in ((specification.effect, y), (str(specification.variance), v)):
        check_finite(column, values, labels)
    if (v <= 0).any():
        raise DataError(
            f"sampling variance {specification.variance!r} must be > 0, got {v[v <= 0][0]:g} in "
            f"{some(labels, v <= 0)}; drop the row or correct it"
        )


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
                f"new data: {column!r} has the level {_shown(unseen[0])}, which the fitted data do "
                f"not have; they have {', '.join(map(_shown, levels))}; correct it, or leave the "
                "rows out"
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


def _studies(frame: pd.DataFrame) -> str:
    return "1 study" if len(frame) == 1 else f"{len(frame)} studies"


def _check_size(k: int, location: Part, scale: Part) -> None:
    p, q = len(location.names), len(scale.names)
    if k < p + q:
        raise DataError(
            f"{k} studies cannot carry {p} location and {q} scale coefficients together: {k - p} "
            "degrees of freedom are left for the heterogeneity; leave out moderators"
        )


def _check_single_studies(scale: Part, frame: pd.DataFrame, labels: Sequence[str]) -> None:
    """A level with one study has no heterogeneity to be estimated."""
    categorical = scale.spec.factor_contrasts
    cure = (
        "which has no heterogeneity; merge it with another, drop the study, or leave the term out "
        "of the scale part"
    )
    for term in scale.spec.formula:
        if not term.factors or not all(factor in categorical for factor in term.factors):
            continue
        levels, codes = zip(*(_levels_of(factor, frame) for factor in term.factors), strict=True)
        _, row, count = np.unique(
            np.column_stack(codes), axis=0, return_index=True, return_counts=True
        )
        if (count == 1).any():
            study = int(row[count == 1][0])
            found = [_shown(names[code[study]]) for names, code in zip(levels, codes, strict=True)]
            raise DataError(
                f"the level {' and '.join(found)} of the scale moderator '{term}' has one study "
                f"({labels[study]}), {cure}"
            )
    for name, column in zip(scale.names, scale.matrix.T, strict=True):
        low, high = column.min(), column.max()
        for value, other in ((low, high), (high, low)):
            here = column == value
            if here.sum() == 1 and (column == other).sum() == len(column) - 1 > 1:
                raise DataError(
                    f"the scale moderator {name!r} is {value:g} in one study "
                    f"({some(labels, here)}) and {other:g} in all others: a level with one study, "
                    f"{cure}"
                )


def _levels_of(factor: Any, frame: pd.DataFrame) -> tuple[list[Any], npt.NDArray[np.intp]]:
    """A factor's levels, and which of them each row has, however the formula codes it."""
    spec, indicators = _evaluate(Formula([Term([factor])]), frame, "raise")
    return list(spec.factor_contrasts[factor].levels), np.argmax(indicators, axis=1)


def _shown(level: object) -> str:
    return repr(level) if isinstance(level, str) else level_text(level)
