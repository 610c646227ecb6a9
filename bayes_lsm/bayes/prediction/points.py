"""Where a model with several scale terms is asked something: moderators, groups that are known.

A group is new unless it is said to be known: then it is one of the data's, whose effect has its
posterior in place of a variance. A level of a random intercept of ln τ² is that of the data where
these have one of its name, and new otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import ndtri

from bayes_lsm.bayes.draws import Array, row_blocks
from bayes_lsm.bayes.prediction.clustered_effects import chosen_terms, known_terms, loadings_of
from bayes_lsm.bayes.prediction.group_effects import GroupEffects, Index
from bayes_lsm.bayes.prediction.prediction import sampling_variance
from bayes_lsm.design import frames
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import DataError, FitError
from bayes_lsm.links import tau2_from_log

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior
    from bayes_lsm.bayes.term_draws import TermDraws

_NEW = -1


@dataclass(frozen=True, eq=False)
class NewGroups:
    """A scale term whose groups are new, at m rows.

    Attributes
    ----------
    slopes : ndarray, shape (m, s)
    Z : ndarray, shape (m, s, q)
    levels : ndarray of int, shape (m, random intercepts)
        Of the random intercepts of ln τ²; −1 for a level that is new.
    """

    slopes: Array
    Z: Array
    levels: Index

    def take(self, rows: Index | slice) -> NewGroups:
        """Some of the rows."""
        return NewGroups(self.slopes[rows], self.Z[rows], self.levels[rows])

    def variance(self, each: TermDraws) -> Array:
        """Draws of a'D a, the variance of the term at each row, shape (m, S)."""
        (m, s, q), size = self.Z.shape, len(each.alpha)
        eta = (self.Z.reshape(m * s, q) @ each.alpha.T).reshape(m, s, size)
        for k, random in enumerate(each.random):
            # Levels and one that is new: its standard scores are evenly spread over the draws.
            scores = ndtri((np.random.default_rng(k + 1).permutation(size) + 0.5) / size)
            known = np.vstack([random.effect.T, random.sd * scores])
            eta += known[self.levels[:, k]][:, None]
        tau = np.sqrt(tau2_from_log(eta))
        loads = self.slopes[:, :, None] * np.where(self.slopes[:, :, None] == 0, 0.0, tau)
        found = np.zeros((m, size))
        for j in range(s):
            for k in range(s):
                found += loads[:, j] * loads[:, k] * each.correlation[:, j, k]
        return np.maximum(found, 0.0)


@dataclass(frozen=True, eq=False)
class Points:
    """Rows at which a fit is asked something.

    Attributes
    ----------
    X : ndarray, shape (m, p)
    new : dict of str to NewGroups
        The scale terms in it whose groups are new.
    known : CSR array, shape (m, effects), or None
        What the effects of known groups are multiplied by.
    v : ndarray, shape (m,), or None
        Sampling variances, where observed effects are asked for.
    index : pandas.Index
    remarks : tuple of str
        What has to be said of them.
    """

    X: Array
    new: dict[str, NewGroups]
    known: sparse.csr_array | None
    v: Array | None
    index: pd.Index
    remarks: tuple[str, ...] = ()

    def take(self, rows: Index | slice) -> Points:
        """Some of the rows, with the same remarks."""
        new = {name: each.take(rows) for name, each in self.new.items()}
        known = None if self.known is None else self.known[rows]
        v = None if self.v is None else self.v[rows]
        return Points(self.X[rows], new, known, v, self.index[rows], self.remarks)

    def blocks(self, draws: int) -> Iterator[Points]:
        """The rows in turn, so many at a time that an array of rows × draws stays small."""
        widest = max([1, *(each.slopes.shape[1] for each in self.new.values())])
        return (self.take(rows) for rows in row_blocks(len(self.index), draws * widest))

    def distinct(self) -> tuple[Points, Index]:
        """The rows that differ, and which of them each row is."""
        columns = [self.X, *([] if self.v is None else [self.v[:, None]])]
        for each in self.new.values():
            columns += [each.slopes, each.Z.reshape(len(self.X), -1), each.levels.astype(float)]
        if self.known is not None:
            # A row has few known effects: their numbers and multipliers say all.
            columns.append(_entries(self.known))
        key = np.concatenate(columns, axis=1)
        _, first, place = np.unique(key, axis=0, return_index=True, return_inverse=True)
        return self.take(first), place.reshape(-1)

    def effect(self, effects: GroupEffects) -> Effect:
        """The distribution of the true effect at each row, given each draw of a fit."""
        mean = self.X @ effects.draws.flat_location.T
        variances = {name: each.variance(effects.terms[name]) for name, each in self.new.items()}
        total = np.sum(list(variances.values()), axis=0) if variances else np.zeros_like(mean)
        if self.known is None:
            return Effect(mean, mean, total, variances, total)
        moved, spread = effects.combine(self.known)
        return Effect(mean, mean + moved, total + spread, variances, total)


@dataclass(frozen=True, eq=False)
class Effect:
    """Normal distributions of true effects, one for each row and draw: arrays of shape (m, S).

    Attributes
    ----------
    mean : ndarray
        x'β.
    centre : ndarray
        The mean of the effect: that and the effects of known groups.
    variance : ndarray
        Of the effect.
    tau2 : dict of str to ndarray
        The variances of the terms whose groups are new.
    total : ndarray
        Their sum.
    """

    mean: Array
    centre: Array
    variance: Array
    tau2: dict[str, Array]
    total: Array


def points_of(
    fit: Posterior,
    new_data: pd.DataFrame | None,
    *,
    terms: Sequence[str] | None,
    known: Sequence[str],
    variance: float | Sequence[float] | None = None,
) -> Points:
    """The rows of new data, or those of the data themselves.

    Raises
    ------
    FitError
        For an unknown scale term, or a known one that is not among `terms`.
    DataError
        For a column or a value that is missing, a group that the data do not have, or a variance
        that is not > 0.
    """
    chosen = chosen_terms(fit, terms)
    kept = known_terms(fit, known, "known")
    for name in kept:
        if name not in chosen:
            raise FitError(
                f"the groups of {name!r} are said to be known, but its effects are not asked for; "
                f"add it to terms, got {chosen}"
            )
    if new_data is None:
        return _of_data(fit, chosen, kept, sampling_variance(variance, len(fit.design.y)))
    new = fit.design.for_new_data(new_data)
    fresh, groups, slopes, remarks = {}, {}, {}, []
    for (name, each), term in zip(fit.terms.items(), new.terms, strict=True):
        a, Z = term.slopes, term.Z
        if name in kept:
            groups[name] = _groups(each.term, new_data, new.labels, a)
            slopes[name] = a
        elif name in chosen:
            levels = [_levels(each, k, new_data) for k in range(len(each.random))]
            fresh[name] = NewGroups(a, Z, _columns(levels, len(a)))
            remarks += _new_levels(each, levels)
    loads = loadings_of(fit, groups, slopes) if groups else None
    v = sampling_variance(variance, len(new.X))
    return Points(new.X, fresh, loads, v, pd.Index(new.labels, name="row"), tuple(remarks))


def _of_data(
    fit: Posterior, chosen: Sequence[str], known: Sequence[str], v: Array | None
) -> Points:
    fresh = {}
    for name in chosen:
        term = fit.terms[name].term
        if name in known:
            continue
        effect = np.argmax(np.abs(term.slopes), axis=1)
        levels = [each.of.index[term.index, effect] for each in fit.terms[name].random]
        fresh[name] = NewGroups(term.slopes, term.Z[term.index], _columns(levels, len(term.index)))
    groups = {name: fit.terms[name].term.index for name in known}
    loads = loadings_of(fit, groups) if groups else None
    return Points(fit.design.X, fresh, loads, v, pd.Index(fit.design.labels, name="row"))


def _columns(levels: Sequence[Index], rows: int) -> Index:
    return np.column_stack(levels) if levels else np.empty((rows, 0), dtype=np.intp)


def _groups(term: ScaleTerm, data: pd.DataFrame, labels: Sequence[str], slopes: Array) -> Index:
    """The number of the group that each row of new data names."""
    columns = list(term.grouping.columns)
    if not columns:
        raise FitError(
            f"the groups of {term.name!r} are the rows of the data, so new data cannot name them; "
            "leave new_data out, or leave it out of known"
        )
    frames.require_columns(data, columns)
    frames.require_complete(data, columns, labels)
    number = {name: g for g, name in enumerate(term.groups)}
    rows = data[columns].itertuples(index=False)
    names = ["/".join(frames.level_text(level) for level in row) for row in rows]
    for i, name in enumerate(names):
        if name not in number:
            some = ", ".join(term.groups[:8]) + (", …" if len(term.groups) > 8 else "")
            raise DataError(
                f"new data: {term.name!r} has the group {name!r} in {labels[i]}, which the fitted "
                f"data do not have; they have {some}; leave it out of known for new groups"
            )
    groups = np.array([number[name] for name in names], dtype=np.intp)
    unseen = (slopes != 0) & ~term.used[groups] & (term.grouping.inner is not None)
    for i, k in np.argwhere(unseen):
        raise DataError(
            f"new data: the group {names[i]!r} of {term.name!r} has no {term.effects[k]!r} in the "
            f"fitted data, which {labels[i]} asks for"
        )
    return groups


def _levels(each: TermDraws, k: int, data: pd.DataFrame) -> Index:
    """The level of a random intercept that each row of new data has; −1 for one that is new."""
    of = each.random[k].of
    if of.column not in data.columns:
        raise DataError(
            f"new data: there is no column {of.column!r}, whose levels have random intercepts of "
            f"ln τ² of {each.term.name!r}; add it: a value that the fitted data do not have is a "
            "new level"
        )
    number = {name: j for j, name in enumerate(of.levels)}
    levels = [number.get(frames.level_text(value), _NEW) for value in data[of.column]]
    return np.array(levels, dtype=np.intp)


def _new_levels(each: TermDraws, levels: Sequence[Index]) -> list[str]:
    return [
        f"{int(np.sum(of_rows == _NEW))} of {len(of_rows)} rows have a new level of "
        f"{random.of.column!r}: its random intercept of ln τ² of {each.term.name!r} is "
        "Normal(0, SD²)"
        for random, of_rows in zip(each.random, levels, strict=True)
        if (of_rows == _NEW).any()
    ]


def _entries(matrix: sparse.csr_array) -> Array:
    """The columns and values of each row of a sparse matrix, padded."""
    matrix = matrix.copy()
    matrix.sort_indices()
    counts = np.diff(matrix.indptr)
    found = np.full((matrix.shape[0], 2 * int(counts.max(initial=0))), -1.0)
    row = np.repeat(np.arange(matrix.shape[0]), counts)
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], counts)
    found[row, 2 * place], found[row, 2 * place + 1] = matrix.indices, matrix.data
    return found
