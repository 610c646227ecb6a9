"""From words and a data frame to the numbers of a model with several scale terms.

    y ~ Normal( Xβ,  V + Σ_l A_l diag(exp(Z_l α_l)) A_l' )

`build_clustered_design` reads the data once, as `design.build_design` does for the model with one
τ² an effect: it finds the groups of each scale term, evaluates its formula once a group, and checks
that the terms can be told apart. What it gives is a frozen `ClusteredDesign`.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm import design, formulas, frames
from bayes_lsm.design import Part
from bayes_lsm.errors import DataError, DroppedRowsWarning
from bayes_lsm.frames import DroppedRow, Kind
from bayes_lsm.grouping import Grouping
from bayes_lsm.sampling_errors import Block, align, sampling_errors
from bayes_lsm.specification import Correlation, Specification

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class ScaleTerm:
    """One scale term: G groups of rows, and ln τ² of each.

    Attributes
    ----------
    grouping : Grouping
    groups : tuple of str, length G
        Their names; of correlated effects (``"outcome | trial"``) one for each pair that occurs.
    index : ndarray of int, shape (n,)
        Which group each row belongs to.
    slope : ndarray, shape (n,)
        What the group's effect is multiplied by in each row: 1, or the slope's variable.
    part : Part
        The formula's matrix (G, q) and its term names.
    outer, inner : ndarray of int, shape (G,)
        Of correlated effects: which cluster each group is in, and which of `levels` it has.
    levels : tuple of str
        Of the inner column; empty where the effects are independent.
    correlation : {"none", "compound_symmetric", "unstructured"}
    """

    grouping: Grouping
    groups: tuple[str, ...]
    index: Index
    slope: Array
    part: Part
    outer: Index
    inner: Index
    levels: tuple[str, ...] = ()
    correlation: Correlation = "none"

    @property
    def name(self) -> str:
        """The grouping as it was written."""
        return self.grouping.text

    @property
    def Z(self) -> Array:
        """Scale matrix, shape (G, q)."""
        return self.part.matrix


@dataclass(frozen=True, eq=False)
class ClusteredDesign:
    """A model with several scale terms, or dependent sampling errors, in numbers.

    Attributes
    ----------
    y : ndarray, shape (n,)
    v : ndarray, shape (n,)
        Sampling variances; 0 for individual data.
    blocks : tuple of Block
        Rows whose sampling errors are correlated, with their covariance.
    location : Part
    terms : tuple of ScaleTerm
    labels : tuple of str, length n
    dropped, caution, kinds
        As those of `Design`.
    """

    specification: Specification
    y: Array
    v: Array
    blocks: tuple[Block, ...]
    location: Part
    terms: tuple[ScaleTerm, ...]
    labels: tuple[str, ...]
    dropped: tuple[DroppedRow, ...] = ()
    caution: str = ""
    kinds: Mapping[str, Kind] = field(default_factory=dict, repr=False)

    @property
    def X(self) -> Array:
        """Location matrix, shape (n, p)."""
        return self.location.matrix

    @property
    def n_effects(self) -> int:
        """Number of rows."""
        return len(self.y)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any result has to know of the data."""
        crossed = [
            f"the groups of {a.name!r} and {b.name!r} are crossed; if those of {b.name!r} are "
            f"numbered anew within each {a.name!r}, write '{a.name}/{b.name}'"
            for a, b in itertools.combinations(self.terms, 2)
            if _is_crossed(a, b)
        ]
        return (*frames.dropped_notes(self.dropped), *crossed, *filter(None, [self.caution]))


def build_clustered_design(
    specification: Specification, data: pd.DataFrame, *, covariance: Any = None
) -> ClusteredDesign:
    """Apply a specification with several scale terms to data, after checking them.

    Parameters
    ----------
    specification : Specification
    data : DataFrame
        One row an effect, or an individual. Rows with a missing value in a column that is used are
        left out with one warning.
    covariance : ndarray, shape (len(data), len(data)), optional
        Of the sampling errors, in the order of the rows; in place of the specification's variances.

    Raises
    ------
    DataError
        With what was got, what is allowed and the cure.

    Warns
    -----
    DroppedRowsWarning
        When rows are left out because of missing values.

    Examples
    --------
    >>> from bayes_lsm.datasets import load_dataset
    >>> spec = Specification("yi ~ 1", "vi", scale={"continent": "~ 1", "study": "~ weeks"})
    >>> design = build_clustered_design(spec, load_dataset("preterm_iq"))
    >>> [(term.name, len(term.groups)) for term in design.terms]
    [('continent', 3), ('study', 37)]
    """
    caution = str(frames.require_frame(data).attrs.get("caution", ""))
    groupings = _groupings(specification)
    needed = _needed(specification, groupings)
    study = specification.study
    frames.require_columns(data, needed + ([study] if study else []))
    if not len(data):
        raise DataError("the data have no rows; give one row for each effect")
    labels = frames.row_labels(data, study)
    for column in filter(None, (specification.effect, specification.variance)):
        frames.outcome(data, column, labels)
    complete = ~data[needed].isna().to_numpy().any(axis=1)
    kept, labels, dropped = frames.drop_incomplete(data, needed, labels)
    y = frames.outcome(kept, specification.effect, labels)
    design.check_finite(specification.effect, y, labels)
    if covariance is not None:
        covariance = align(covariance, data, complete)
    v, blocks = sampling_errors(specification, kept, labels, covariance=covariance)
    columns = list(dict.fromkeys(_formula_columns(specification.location, *groupings.values())))
    frame, kinds = frames.moderators(kept, columns, labels)
    location = design.build_part("location", specification.location, frame, kinds, labels)
    terms = tuple(
        _scale_term(grouping, formula, kept, frame, kinds, labels, specification)
        for grouping, formula in groupings.items()
    )
    _check_together(terms, len(y), bool((v > 0).all()))
    if dropped:
        warnings.warn(frames.describe_dropped(dropped, len(data)), DroppedRowsWarning, stacklevel=2)
    return ClusteredDesign(
        specification, y, v, blocks, location, terms, labels, dropped, caution, kinds
    )


def _groupings(specification: Specification) -> dict[Grouping, str]:
    """The scale terms; one formula alone is that of the rows."""
    if isinstance(specification.scale, str):
        return {Grouping("residual"): specification.scale}
    return dict(specification.scale_terms)


def _formula_columns(*texts: str) -> list[str]:
    return [column for text in texts for column in formulas.parse(text).columns]


def _needed(specification: Specification, groupings: Mapping[Grouping, str]) -> list[str]:
    errors = specification.sampling_covariance
    return list(
        dict.fromkeys(
            [
                specification.effect,
                *([specification.variance] if specification.variance else []),
                *((errors.cluster, *errors.columns) if errors else ()),
                *_formula_columns(specification.location, *groupings.values()),
                *(column for grouping in groupings for column in grouping.needed),
            ]
        )
    )


def _scale_term(
    grouping: Grouping,
    formula: str,
    data: pd.DataFrame,
    frame: pd.DataFrame,
    kinds: Mapping[str, Kind],
    labels: Sequence[str],
    specification: Specification,
) -> ScaleTerm:
    name = grouping.text
    outer, clusters = _groups(data, grouping.columns, labels)
    index, groups = outer, clusters
    if grouping.inner:
        index, groups = _groups(data, (*grouping.columns, grouping.inner), labels)
    if len(groups) < 2:
        raise DataError(
            f"the scale term {name!r} has one group ({groups[0]}); a variance between groups needs "
            "several: leave the term out"
        )
    first = np.unique(index, return_index=True)[1]
    _check_constant(name, formula, frame, index, first, groups)
    group_frame = frame.iloc[first].reset_index(drop=True)
    part = design.build_part(f"scale ({name})", formula, group_frame, kinds, groups)
    slope = np.ones(len(data))
    if grouping.slope:
        slope = _slope(grouping, data, index, groups, labels)
    inner: Index = np.zeros(len(groups), dtype=np.intp)
    levels: tuple[str, ...] = ()
    if grouping.inner:
        codes, levels = _groups(data, (grouping.inner,), labels)
        inner = codes[first]
    correlation = specification.correlation.get(name, "unstructured") if grouping.inner else "none"
    return ScaleTerm(grouping, groups, index, slope, part, outer[first], inner, levels, correlation)


def _groups(
    data: pd.DataFrame, columns: Sequence[str], labels: Sequence[str]
) -> tuple[Index, tuple[str, ...]]:
    """Which group each row is in, and the groups' names, in the order of their appearance."""
    if not columns:
        return np.arange(len(data)), tuple(labels)
    codes, keys = pd.factorize(pd.MultiIndex.from_frame(data[list(columns)]))
    names = tuple("/".join(frames.level_text(level) for level in key) for key in keys)
    return codes.astype(np.intp), names


def _check_constant(
    name: str,
    formula: str,
    frame: pd.DataFrame,
    index: Index,
    first: Index,
    groups: Sequence[str],
) -> None:
    """A moderator of a group's heterogeneity has one value in the group."""
    for column in formulas.parse(formula).columns:
        values = frame[column].to_numpy()
        differs = values != values[first][index]
        if differs.any():
            group = int(index[differs][0])
            found = frame[column][index == group].unique()[:2]
            raise DataError(
                f"the scale moderator {column!r} of {name!r} must have one value in each group, "
                f"got {found[0]} and {found[1]} in {groups[group]}; use it in the scale formula of "
                "a finer grouping, or give its mean"
            )


def _slope(
    grouping: Grouping,
    data: pd.DataFrame,
    index: Index,
    groups: Sequence[str],
    labels: Sequence[str],
) -> Array:
    """The one column that a slope's formula makes, row by row."""
    formula = grouping.slope or ""
    frame, kinds = frames.moderators(data, formulas.parse(formula).columns, labels)
    part = design.build_part("slope", formula, frame, kinds, labels)
    if len(part.names) != 1:
        raise DataError(
            f"the grouping {grouping.text!r} has {len(part.names)} variables "
            f"({', '.join(part.names[:4])}), one is needed; give each a scale term of its own, or "
            "write 'group | study' for correlated effects of a factor's levels"
        )
    values = part.matrix[:, 0]
    first = np.unique(index, return_index=True)[1]
    if np.array_equal(values, values[first][index]):
        raise DataError(
            f"the grouping {grouping.text!r} asks for a slope, but {part.names[0]!r} is constant "
            "within every group, so that there is no slope to see; use the grouping without it"
        )
    return np.asarray(values)


def _check_together(terms: Sequence[ScaleTerm], rows: int, known: bool) -> None:
    """Two terms with the same groups and slopes are one."""
    for one, other in itertools.combinations(terms, 2):
        same_groups = (
            len(one.groups)
            == len(other.groups)
            == len(set(zip(one.index.tolist(), other.index.tolist(), strict=True)))
        )
        if same_groups and _proportional(one.slope, other.slope):
            raise DataError(
                f"the scale terms {one.name!r} and {other.name!r} have the same groups, so that "
                "their variances cannot be told apart; leave one of them out"
            )
    if not known and not any(len(term.groups) == rows for term in terms):
        raise DataError(
            "the effects have no sampling variances, and no scale term has one effect in each row; "
            "add the scale term 'residual'"
        )


def _proportional(one: Array, other: Array) -> bool:
    return bool(np.array_equal(one**2 * other[0] ** 2, other**2 * one[0] ** 2))


def _is_crossed(one: ScaleTerm, other: ScaleTerm) -> bool:
    """Whether groups of the one lie in several groups of the other, and the other way round."""
    pairs = len(set(zip(one.index.tolist(), other.index.tolist(), strict=True)))
    return pairs > max(len(one.groups), len(other.groups))
