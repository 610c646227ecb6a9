"""Where a model is asked something: moderators, and groups that are known.

Given the draws the true effect in a group is normal: around x'β where the group is new, around
x'β + a'û where it is known. A group is new unless it is said to be known: then it is one of the
data's, whose effect has its posterior in place of a variance. A level of a random intercept of
ln τ² is that of the data where these have one of its name, and new otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import ndtri

from bayes_lsm.arrays import Array, Index
from bayes_lsm.bayes.draws import row_blocks
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.bayes.prediction.effect_family import EffectFamily, normal_above
from bayes_lsm.bayes.term_draws import TermDraws
from bayes_lsm.design import frames
from bayes_lsm.design.chosen_terms import chosen_terms, known_terms
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import DataError, FitError
from bayes_lsm.links import tau2_from_log

_NEW = -1


@dataclass(frozen=True, eq=False)
class NewGroups:
    """A scale term whose groups are new, at m rows: slopes (m, s) and Z (m, s, q).

    `levels` (m, random intercepts) are those of the random intercepts of ln τ²; −1 for a new one.
    """

    slopes: Array
    Z: Array
    levels: Index

    def take(self, rows: Index | slice) -> NewGroups:
        """Some of the rows."""
        return NewGroups(self.slopes[rows], self.Z[rows], self.levels[rows])

    def log_variance(self, each: TermDraws) -> Array:
        """Draws of ln a'D a, of the variance of the term at each row, shape (m, S).

        Of loads a_k τ_k relative to the largest: nothing is too large or small for it.
        """
        (m, s, q), size = self.Z.shape, len(each.alpha)
        eta = (self.Z.reshape(m * s, q) @ each.alpha.T).reshape(m, s, size)
        for k, random in enumerate(each.random):
            # Levels and one that is new: its standard scores are evenly spread over the draws.
            scores = ndtri((np.random.default_rng(k + 1).permutation(size) + 0.5) / size)
            known = np.vstack([random.effect.T, random.sd * scores])
            eta += known[self.levels[:, k]][:, None]
        with np.errstate(divide="ignore"):
            log_load = eta + 2.0 * np.log(np.abs(self.slopes))[:, :, None]
        largest = log_load.max(axis=1)
        shift = np.where(np.isfinite(largest), largest, 0.0)
        loads = np.sign(self.slopes)[:, :, None] * np.exp((log_load - shift[:, None]) / 2)
        found = np.zeros((m, size))
        for j in range(s):
            for k in range(s):
                found += loads[:, j] * loads[:, k] * each.correlation[:, j, k]
        with np.errstate(divide="ignore"):
            return shift + np.log(np.maximum(found, 0.0))


@dataclass(frozen=True, eq=False)
class PredictionPoints:
    """Rows at which a fit is asked something, and what has to be said of them.

    X (m, p), the scale terms in it whose groups are `new`, what the effects of `known` groups are
    multiplied by (m, effects), and sampling variances v (m,) where observed effects are asked for.
    """

    X: Array
    new: dict[str, NewGroups]
    known: sparse.csr_array | None
    v: Array | None
    index: pd.Index
    remarks: tuple[str, ...] = ()

    def take(self, rows: Index | slice) -> PredictionPoints:
        """Some of the rows, with the same remarks."""
        new = {name: each.take(rows) for name, each in self.new.items()}
        known = None if self.known is None else self.known[rows]
        v = None if self.v is None else self.v[rows]
        return PredictionPoints(self.X[rows], new, known, v, self.index[rows], self.remarks)

    def blocks(self, draws: int) -> Iterator[PredictionPoints]:
        """The rows in turn, so many at a time that an array of rows × draws stays small."""
        widest = max([1, *(each.slopes.shape[1] for each in self.new.values())])
        return (self.take(rows) for rows in row_blocks(len(self.index), draws * widest))

    def distinct(self) -> tuple[PredictionPoints, Index]:
        """The rows that differ, and which of them each row is."""
        columns = [self.X, *([] if self.v is None else [self.v[:, None]])]
        for each in self.new.values():
            columns += [each.slopes, each.Z.reshape(len(self.X), -1), each.levels.astype(float)]
        if self.known is not None:
            # A row has few known effects: their numbers and multipliers say all.
            columns.append(_entries(self.known))
        key = np.concatenate(columns, axis=1)
        _, first, place = np.unique(key, axis=0, return_index=True, return_inverse=True)
        # As they occur: rows that are taken together have their effects in few blocks.
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return self.take(first[order]), rank[place.reshape(-1)]

    def log_variances(self, terms: Mapping[str, TermDraws]) -> tuple[dict[str, Array], Array]:
        """Draws of ln of each new term's variance, and of their sum, at each row (m, S)."""
        found = {name: each.log_variance(terms[name]) for name, each in self.new.items()}
        if not found:
            size = len(next(iter(terms.values())).alpha)
            return found, np.full((len(self.X), size), -np.inf)
        return found, np.logaddexp.reduce(list(found.values()), axis=0)

    def effect(self, effects: ConditionalEffects) -> Effect:
        """The distribution of the true effect at each row, given each draw of a fit."""
        mean = self.X @ effects.draws.flat_location.T
        log_tau2, log_total = self.log_variances(effects.terms)
        centre, spread = mean, None
        if self.known is not None:
            moved, spread = effects.combine(self.known)
            centre = mean + moved
        return Effect(mean, centre, spread, log_tau2, log_total, effects.family)


@dataclass(frozen=True, eq=False)
class Effect:
    """Distributions of true effects, one for each row and draw: arrays (m, S).

    `mean` is x'β; `centre` that and the effects of known groups, whose variance is `spread`;
    `log_tau2` are ln of the variances of the terms whose groups are new, `log_total` of their sum.
    """

    mean: Array
    centre: Array
    spread: Array | None
    log_tau2: dict[str, Array]
    log_total: Array
    family: EffectFamily

    @property
    def variance(self) -> Array:
        """Of the effect, given the weights of new ones."""
        new = tau2_from_log(self.log_total) / self.family.new_weights
        return new if self.spread is None else new + self.spread

    def beyond(self, threshold: float, sign: float) -> Array:
        """The probability that it is above a threshold (sign 1), or below (sign −1)."""
        distance = sign * (self.centre - threshold)
        if self.spread is None:
            return self.family.beyond(distance, np.sqrt(tau2_from_log(self.log_total)))
        return normal_above(distance, np.sqrt(self.variance))

    def draw(self, v: Array, rng: np.random.Generator) -> Array:
        """One for each draw of the fit, or with v > 0 an observed one, shape (S, m)."""
        known = v if self.spread is None else v + self.spread.T
        return self.family.sample(self.centre.T, tau2_from_log(self.log_total).T, known, rng)


def points_of(
    fit: Posterior,
    new_data: pd.DataFrame | None,
    *,
    terms: Sequence[str] | None,
    known: Sequence[str],
    variance: float | Sequence[float] | None = None,
) -> PredictionPoints:
    """The rows of new data, or those of the data themselves; refused are those of `predict`."""
    chosen = chosen_terms(fit.design, terms)
    kept = known_terms(fit.design, known, "known")
    for name in kept:
        if name not in chosen:
            raise FitError(
                f"the groups of {name!r} are said to be known, but its effects are not asked for; "
                f"add it to terms, got {chosen}"
            )
    if new_data is None:
        return _of_data(fit, chosen, kept, _sampling_variance(variance, len(fit.design.y)))
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
    effects = ConditionalEffects(fit.design, fit.draws)
    loads = effects.loadings(groups, slopes) if groups else None
    v = _sampling_variance(variance, len(new.X))
    return PredictionPoints(new.X, fresh, loads, v, pd.Index(new.labels), tuple(remarks))


def tabulate(
    fit: Posterior,
    points: PredictionPoints,
    summarise: Callable[[PredictionPoints], dict[str, Array]],
) -> pd.DataFrame:
    """Summaries of the rows, a block at a time, and of equal rows once."""
    distinct, place = points.distinct()
    found = pd.concat(pd.DataFrame(summarise(some)) for some in distinct.blocks(fit.draws.size))
    return found.iloc[place].set_index(points.index)


def _of_data(
    fit: Posterior, chosen: Sequence[str], known: Sequence[str], v: Array | None
) -> PredictionPoints:
    fresh = {}
    for name in chosen:
        term = fit.terms[name].term
        if name in known:
            continue
        effect = np.argmax(np.abs(term.slopes), axis=1)
        levels = [each.of.index[term.index, effect] for each in fit.terms[name].random]
        fresh[name] = NewGroups(term.slopes, term.Z[term.index], _columns(levels, len(term.index)))
    groups = {name: fit.terms[name].term.index for name in known}
    loads = ConditionalEffects(fit.design, fit.draws).loadings(groups) if groups else None
    return PredictionPoints(
        fit.design.X, fresh, loads, v, pd.Index(fit.design.labels, name="study")
    )


def _sampling_variance(variance: float | Sequence[float] | None, rows: int) -> Array | None:
    """Sampling variances of new studies, one a row."""
    if variance is None:
        return None
    values = np.asarray(variance, dtype=float)
    if values.shape not in ((), (rows,)):
        raise DataError(
            f"variance must be one number or one for each of the {rows} rows, got shape "
            f"{values.shape}"
        )
    bad = values[~(np.isfinite(values) & (values > 0))]
    if bad.size:
        raise DataError(f"the sampling variance of a new study must be > 0, got {bad.flat[0]:g}")
    return np.full(rows, values) if values.ndim == 0 else values


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
