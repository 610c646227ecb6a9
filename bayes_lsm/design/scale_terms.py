"""The scale terms of a model: whose effects they are, and what their variances depend on.

    Σ_l A_l diag(exp(Z_l α_l)) A_l'

A term's groups are the rows themselves, the levels of a column or of several nested ones; each has
one effect, or several that may be correlated. `scale_term` finds the groups and evaluates the
term's formula once for each, and `check_together` makes sure that terms can be told apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm import formulas
from bayes_lsm.arrays import Array, Index
from bayes_lsm.design import frames
from bayes_lsm.design.part import Part, build_part
from bayes_lsm.errors import DataError
from bayes_lsm.formulas.grouping import Grouping
from bayes_lsm.formulas.random_intercepts import (
    RandomIntercept,
    random_intercept,
    split_random_intercepts,
)
from bayes_lsm.formulas.term_names import Kind
from bayes_lsm.priors.rules import level_columns
from bayes_lsm.specification import Correlation


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
    offset : ndarray, shape (G, s), or None
        What coefficients that are held add to ln τ²; see `hold`.
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
    offset: Array | None = None

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
    def n_correlations(self) -> int:
        """How many coefficients κ the correlations of a group's effects have."""
        return correlation_count(len(self.effects), self.correlation)

    @property
    def pairs(self) -> tuple[str, ...]:
        """The pairs of a group's effects that have a correlation, row by row: ``"AL, PD"``."""
        if not self.n_correlations:
            return ()
        s = len(self.effects)
        return tuple(f"{self.effects[j]}, {self.effects[i]}" for i in range(s) for j in range(i))

    @property
    def size(self) -> int:
        """How many coefficients it has: those of ln τ², then the κ."""
        return len(self.names) + self.n_correlations

    @cached_property
    def used(self) -> npt.NDArray[np.bool_]:
        """Which effects of which groups have rows, shape (G, s)."""
        used = np.zeros(self.Z.shape[:2], dtype=bool)
        row, effect = np.nonzero(self.slopes)
        used[self.index[row], effect] = True
        return used

    @cached_property
    def n_used(self) -> int:
        """How many effects of groups have rows."""
        return int(self.used.sum())

    @property
    def is_of_rows(self) -> bool:
        """Whether each row is a group by itself, with one effect."""
        return len(self.effects) == 1 and len(self.groups) == len(self.index)

    @property
    def is_constant(self) -> bool:
        """Whether each effect has the same τ² in all groups that have it."""
        of_effects = (self.Z[self.used[:, k], k] for k in range(len(self.effects)))
        return all(bool((rows == rows[:1]).all()) for rows in of_effects)

    @property
    def levels(self) -> frozenset[int]:
        """Which coefficients are levels of ln τ² of some effect, and not what moves it."""
        found: set[int] = set()
        for k in range(len(self.effects)):
            rows = self.Z[self.used[:, k], k]
            own = np.flatnonzero((rows != 0).any(axis=0))
            found |= {int(own[j]) for j in level_columns(rows[:, own])}
        return frozenset(found)

    def keep(self, rows: Index) -> ScaleTerm:
        """The term of some rows, whether or not they can carry it.

        Its groups are in the order of their appearance, as those of all rows are.
        """
        index, groups = pd.factorize(self.index[rows])
        return replace(
            self,
            groups=tuple(self.groups[g] for g in groups),
            index=index.astype(np.intp),
            slopes=self.slopes[rows],
            Z=self.Z[groups],
            random=tuple(replace(each, index=each.index[groups]) for each in self.random),
            offset=None if self.offset is None else self.offset[groups],
        )

    def at_zero(self, gone: npt.NDArray[np.bool_]) -> ScaleTerm:
        """The term in which some effects (G, s) have no variance; those of no group are left out.

        One effect stays, so that it is a term.
        """
        kept = np.flatnonzero(~gone.all(axis=0)) if not gone.all() else np.array([0])
        slopes = np.where(gone[self.index], 0.0, self.slopes)
        return replace(
            self,
            effects=tuple(self.effects[k] for k in kept),
            slopes=slopes[:, kept],
            Z=np.ascontiguousarray(self.Z[:, kept]),
            offset=None if self.offset is None else self.offset[:, kept],
        )

    def hold(self, values: Mapping[int, float]) -> ScaleTerm:
        """The term in which some coefficients of ln τ² have given values; see `Design.hold`."""
        added = self.Z[:, :, list(values)] @ np.array(list(values.values()), dtype=float)
        return replace(self.without(list(values)), offset=self.offsets + added)

    @property
    def offsets(self) -> Array:
        """`offset`, 0 where there is none."""
        return np.zeros(self.Z.shape[:2]) if self.offset is None else self.offset

    def given_levels(self) -> ScaleTerm:
        """The term given its random intercepts; see `Design.given_levels`."""
        if not self.random:
            return self
        levels = [np.eye(len(each.levels))[each.index] for each in self.random]
        return replace(
            self,
            names=(*self.names, *(level for each in self.random for level in each.levels)),
            Z=np.concatenate([self.Z, *levels], axis=2),
            random=(),
        )

    def without(self, columns: Sequence[int]) -> ScaleTerm:
        """The term without some coefficients of ln τ²."""
        kept = [j for j in range(len(self.names)) if j not in columns]
        names = tuple(self.names[j] for j in kept)
        return replace(self, names=names, Z=np.ascontiguousarray(self.Z[:, :, kept]))

    def sort_effects(self, order: Sequence[int]) -> ScaleTerm:
        """The term with the effects of a group in another order."""
        order = list(order)
        return replace(
            self,
            effects=tuple(self.effects[k] for k in order),
            slopes=self.slopes[:, order],
            Z=self.Z[:, order],
            offset=None if self.offset is None else self.offset[:, order],
        )


def correlation_count(effects: int, kind: Correlation) -> int:
    """How many κ the correlations of s effects have."""
    if effects < 2 or kind == "none":
        return 0
    return 1 if kind == "compound_symmetric" else effects * (effects - 1) // 2


def scale_term(
    grouping: Grouping,
    formula: str,
    data: pd.DataFrame,
    frame: pd.DataFrame,
    kinds: Mapping[str, Kind],
    labels: Sequence[str],
    correlation: Correlation,
) -> ScaleTerm:
    """One scale term of n complete rows; its `formula` is of ln τ², with its random intercepts.

    `data` are as they were given, `frame` has the moderators as they were read, and `kinds` what
    those hold. A DataError says what was got, what is allowed and the cure.
    """
    formula, columns = split_random_intercepts(formula)
    index, groups = _groups(data, grouping.columns, labels)
    if len(groups) < 2 and grouping.columns:
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
    name = "scale" if grouping.is_residual else f"scale ({grouping.text})"
    part = build_part(name, formula, rows, kinds, units)
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


def check_together(terms: Sequence[ScaleTerm], rows: int, known: bool) -> None:
    """Refuse terms that are one, and rows without any variance of their own.

    `known` says whether all effects have sampling variances.
    """
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


def is_crossed(one: ScaleTerm, other: ScaleTerm) -> bool:
    """Whether groups of the one lie in several groups of the other, and the other way round."""
    return _pairs(one, other) > max(len(one.groups), len(other.groups))
