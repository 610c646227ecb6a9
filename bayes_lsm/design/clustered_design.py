"""From words and a data frame to the numbers of a model with several scale terms.

    y ~ Normal( Xβ,  V + Σ_l A_l diag(exp(Z_l α_l)) A_l' )

`build_clustered_design` reads the data once, as `design.build_design` does for the model with one
τ² an effect: it finds the groups of each scale term, evaluates its formula once a group, and checks
that the terms can be told apart. What it gives is a frozen `ClusteredDesign`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm import formulas
from bayes_lsm.design import frames
from bayes_lsm.design.design import Design, Part, build_design, build_part, check_finite
from bayes_lsm.design.frames import DroppedRow
from bayes_lsm.design.sampling_errors import Block, align, sampling_errors
from bayes_lsm.errors import DataError, DroppedRowsWarning, SpecificationError, warn
from bayes_lsm.formulas.grouping import Grouping
from bayes_lsm.formulas.random_intercepts import (
    RandomIntercept,
    random_intercept,
    split_random_intercepts,
)
from bayes_lsm.formulas.term_names import Kind
from bayes_lsm.specification import Correlation, Specification

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class ScaleTerm:
    """One scale term: s effects in each of G groups of rows, and their ln τ².

    Attributes
    ----------
    grouping : Grouping
    groups : tuple of str, length G
    effects : tuple of str, length s
        The slopes' variables, or the levels with correlated effects; ``("intrcpt",)`` where each
        group has one effect that all of its rows share.
    index : ndarray of int, shape (n,)
        Which group each row belongs to.
    slopes : ndarray, shape (n, s)
        What the group's effects are multiplied by in each row.
    names : tuple of str, length q
        Of the coefficients of ln τ².
    Z : ndarray, shape (G, s, q)
    correlation : {"none", "compound_symmetric", "unstructured"}
        Of the effects of a group.
    part : Part
        The formula, evaluated.
    slope_part : Part or None
        The formula of the slopes, evaluated.
    random : tuple of RandomIntercept
        Of ln τ².
    """

    grouping: Grouping
    groups: tuple[str, ...]
    effects: tuple[str, ...]
    index: Index
    slopes: Array
    names: tuple[str, ...]
    Z: Array
    correlation: Correlation
    part: Part
    slope_part: Part | None = None
    random: tuple[RandomIntercept, ...] = ()

    @property
    def name(self) -> str:
        """The grouping as it was written."""
        return self.grouping.text

    @property
    def table(self) -> Array:
        """Z with a row for each effect of each group, shape (G·s, q)."""
        groups, s, q = self.Z.shape
        return self.Z.reshape(groups * s, q)

    @property
    def used(self) -> npt.NDArray[np.bool_]:
        """Which effects of which groups have rows, shape (G, s)."""
        used = np.zeros(self.Z.shape[:2], dtype=bool)
        row, effect = np.nonzero(self.slopes)
        used[self.index[row], effect] = True
        return used


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
    dropped, caution, kinds, moderators
        As those of `Design`; the inner columns of correlated effects are among the moderators.
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
    moderators: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)

    @property
    def X(self) -> Array:
        """Location matrix, shape (n, p)."""
        return self.location.matrix

    @property
    def n_effects(self) -> int:
        """Number of rows."""
        return len(self.y)

    @property
    def kind(self) -> str:
        """What such a model is called."""
        if any(term.random for term in self.terms):
            return "Mixed-Effects Location-Scale Model"
        several = any(len(term.effects) > 1 for term in self.terms)
        return f"{'Multivariate' if several else 'Multilevel'} Location-Scale Model"

    @property
    def size(self) -> str:
        """How many effects there are."""
        return f"n = {len(self.y)}"

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The names of all coefficients, part by part."""
        scale = {f"scale ({term.name})": term.names for term in self.terms}
        return {"location": self.location.names, **scale}

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
    for column in filter(None, (specification.effect, specification.variance_column)):
        frames.outcome(data, column, labels)
    complete = ~data[needed].isna().to_numpy().any(axis=1)
    kept, labels, dropped = frames.drop_incomplete(data, needed, labels)
    y = frames.outcome(kept, specification.effect, labels)
    check_finite(specification.effect, y, labels)
    if covariance is not None:
        covariance = align(covariance, data, complete)
    v, blocks = sampling_errors(specification, kept, labels, covariance=covariance)
    slopes = [grouping.slope for grouping in groupings if grouping.slope]
    fixed = (split_random_intercepts(formula)[0] for formula in groupings.values())
    texts = (specification.location, *fixed, *slopes)
    columns = list(dict.fromkeys(formula_columns(*texts)))
    frame, kinds = frames.moderators(kept, columns, labels)
    location = build_part("location", specification.location, frame, kinds, labels)
    terms = tuple(
        _scale_term(
            grouping,
            formula,
            kept,
            frame,
            kinds,
            labels,
            specification.correlation.get(grouping.text, "unstructured"),
        )
        for grouping, formula in groupings.items()
    )
    _check_together(terms, len(y), bool((v > 0).all()))
    if dropped:
        warn(frames.describe_dropped(dropped, len(data)), DroppedRowsWarning)
    inner = {
        each.inner: kept[each.inner].map(frames.level_text) for each in groupings if each.inner
    }
    shown = frame.assign(**{name: inner[name].array for name in inner if name not in frame})
    return ClusteredDesign(
        specification, y, v, blocks, location, terms, labels, dropped, caution, kinds, shown
    )


def build_any_design(
    specification: Specification, data: pd.DataFrame, *, covariance: Any = None
) -> Design | ClusteredDesign:
    """The `Design` of a model with one τ² an effect, however it is written; else the clustered one.

    Raises
    ------
    SpecificationError
        For Student-t study effects, or another link than the logarithm, with several scale terms or
        dependent sampling errors.

    Examples
    --------
    >>> from bayes_lsm.datasets import load_dataset
    >>> spec = Specification("yi ~ 1", "vi", scale={"study": "~ weeks"})
    >>> type(build_any_design(spec, load_dataset("preterm_iq"))).__name__
    'Design'
    """
    scale = specification.scale
    independent = specification.sampling_covariance is None and covariance is None
    plain = isinstance(scale, str) and not split_random_intercepts(scale)[1]
    if independent and specification.variance and plain:
        return build_design(specification, data)
    clustered = build_clustered_design(specification, data, covariance=covariance)
    if not independent or not _is_one_term_of_effects(clustered):
        if specification.study_effects != "normal":
            raise SpecificationError(
                f"study_effects must be 'normal', got {specification.study_effects!r}, with "
                "several scale terms or dependent sampling errors; Student-t study effects need "
                "one scale formula and independent errors"
            )
        if specification.link != "log":
            raise SpecificationError(
                f"link must be 'log', got {specification.link!r}, with several scale terms or "
                "dependent sampling errors; link='identity' needs one scale formula and "
                "independent errors"
            )
        return clustered
    words = specification.model_copy(update={"scale": clustered.terms[0].part.formula})
    return build_design(words, data)


def _is_one_term_of_effects(clustered: ClusteredDesign) -> bool:
    term = clustered.terms[0]
    return (
        len(clustered.terms) == 1
        and len(term.groups) == len(clustered.y)
        and term.slopes.shape[1] == 1
        and not term.random
        and bool((term.slopes == 1).all() and (clustered.v > 0).all())
    )


def _groupings(specification: Specification) -> dict[Grouping, str]:
    """The scale terms; one formula alone is that of the rows."""
    if isinstance(specification.scale, str):
        return {Grouping("residual"): specification.scale}
    return dict(specification.scale_terms)


def formula_columns(*texts: str) -> list[str]:
    """The columns of several formulas, as often as they occur."""
    split = (split_random_intercepts(text) for text in texts)
    return [c for fixed, groups in split for c in (*formulas.parse(fixed).columns, *groups)]


def _needed(specification: Specification, groupings: Mapping[Grouping, str]) -> list[str]:
    errors = specification.sampling_covariance
    return list(
        dict.fromkeys(
            [
                specification.effect,
                *([specification.variance_column] if specification.variance_column else []),
                *((errors.cluster, *errors.columns) if errors else ()),
                *formula_columns(specification.location, *groupings.values()),
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
    correlation: Correlation,
) -> ScaleTerm:
    formula, columns = split_random_intercepts(formula)
    index, groups = _groups(data, grouping.columns, labels)
    if len(groups) < 2:
        raise DataError(
            f"the scale term {grouping.text!r} has one group ({groups[0]}); a variance between "
            "groups needs several: leave the term out"
        )
    unit, units = index, groups  # what ln τ² is given for
    effects: tuple[str, ...] = ("intrcpt",)
    slopes = np.ones((len(data), 1))
    slope_part = None
    if grouping.inner:
        unit, units = _groups(data, (*grouping.columns, grouping.inner), labels)
        level, effects = _levels(data, grouping.inner)
        slopes = np.eye(len(effects))[level]
    elif grouping.slope:
        slope_part = _slopes(grouping, frame, kinds, index, labels)
        slopes, effects = slope_part.matrix, slope_part.names
    first = np.unique(unit, return_index=True)[1]
    _check_constant(grouping.text, formula, frame, unit, first, units)
    rows = frame.iloc[first].reset_index(drop=True)
    part = build_part(f"scale ({grouping.text})", formula, rows, kinds, units)
    names, Z = part.names, part.matrix[:, None, :]
    if grouping.inner:
        Z = np.zeros((len(groups), len(effects), len(names)))
        Z[index[first], level[first]] = part.matrix
    elif len(effects) > 1:
        names, Z = _for_each_effect(effects, part)
    place = (index[first], level[first] if grouping.inner else np.zeros(len(first), np.intp))
    if columns and slope_part is not None and len(effects) > 1:
        raise DataError(
            f"the scale term {grouping.text!r} has {len(effects)} effects in each group, so that a "
            f"random intercept of {columns[0]!r} could be that of any of their variances; write "
            "one scale term for each effect"
        )
    random = tuple(
        random_intercept(
            f"the random intercept (1 | {column}) of the scale term {grouping.text!r}",
            column,
            _levels(data, column),
            (unit, units),
            place,
            Z.shape[:2],
        )
        for column in columns
    )
    return ScaleTerm(
        grouping, groups, effects, index, slopes, names, Z, correlation, part, slope_part, random
    )


def _for_each_effect(effects: Sequence[str], part: Part) -> tuple[tuple[str, ...], Array]:
    """Coefficients of its own for each of several effects: names (s·q), and Z (G, s, s·q)."""
    if part.names == ("intrcpt",):
        names = tuple(effects)
    else:
        names = tuple(f"{effect}: {name}" for effect in effects for name in part.names)
    return names, np.stack([np.kron(np.eye(len(effects)), row) for row in part.matrix])


def _groups(
    data: pd.DataFrame, columns: Sequence[str], labels: Sequence[str]
) -> tuple[Index, tuple[str, ...]]:
    """Which group each row is in, and the groups' names, in the order of their appearance."""
    if not columns:
        return np.arange(len(data)), tuple(labels)
    codes, keys = pd.factorize(pd.MultiIndex.from_frame(data[list(columns)]))
    names = tuple("/".join(frames.level_text(level) for level in key) for key in keys)
    return codes.astype(np.intp), names


def _levels(data: pd.DataFrame, column: str) -> tuple[Index, tuple[str, ...]]:
    """Which level each row has, and the levels, in the order that a formula gives them."""
    codes, levels = pd.factorize(data[column], sort=True)
    return codes.astype(np.intp), tuple(map(frames.level_text, levels))


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


def _slopes(
    grouping: Grouping,
    frame: pd.DataFrame,
    kinds: Mapping[str, Kind],
    index: Index,
    labels: Sequence[str],
) -> Part:
    """The columns (n, s) that a slope's formula makes, and their names."""
    part = build_part("slope", grouping.slope or "", frame, kinds, labels)
    first = np.unique(index, return_index=True)[1]
    for name, values in zip(part.names, part.matrix.T, strict=True):
        if name != "intrcpt" and np.array_equal(values, values[first][index]):
            raise DataError(
                f"the grouping {grouping.text!r} asks for a slope, but {name!r} is constant within "
                "every group, so that there is no slope to see; leave it out of the grouping, or "
                "use it in the scale formula"
            )
    return part


def _check_together(terms: Sequence[ScaleTerm], rows: int, known: bool) -> None:
    """Two terms with the same groups and slopes are one."""
    for one, other in itertools.combinations(terms, 2):
        pairs = _pairs(one, other)
        same_groups = len(one.groups) == len(other.groups) == pairs
        if same_groups and _proportional(one.slopes, other.slopes):
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
    if one.shape[1] != 1 or other.shape[1] != 1:
        return False
    return bool(np.array_equal(one**2 * other[0] ** 2, other**2 * one[0] ** 2))


def _pairs(one: ScaleTerm, other: ScaleTerm) -> int:
    """How many combinations of their groups there are."""
    return len(np.unique(one.index * len(other.groups) + other.index))


def _is_crossed(one: ScaleTerm, other: ScaleTerm) -> bool:
    """Whether groups of the one lie in several groups of the other, and the other way round."""
    return _pairs(one, other) > max(len(one.groups), len(other.groups))
