"""What `checks` asks of a model with several scale terms: new data, and quantities of each level.

New data are of new groups of the same sizes: the effects of all groups are drawn anew, as of single
studies in the model with one scale term. Levels of ln τ² with random intercepts are the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import sparse

from bayes_lsm.bayes.diagnostics.discrepancies import (
    Quantity,
    Replicate,
    cochran,
    correlate,
    of_dispersion,
    of_effects,
    of_scores,
    standardised,
)
from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior


class Clusters:
    """A model of several scale terms."""

    remarks: tuple[str, ...] = ("replicated effects are of new groups, as large as the observed",)

    def __init__(self, fit: Posterior) -> None:
        self._fit = fit

    def quantities(self) -> dict[str, Quantity]:
        """The ready ones, by their names."""
        design = self._fit.design
        columns = dict(zip(design.location.names, design.X.T, strict=True))
        levels: dict[str, Quantity] = {}
        for term in design.terms:
            if _has_single_rows(term):
                for name, column in zip(term.names, term.Z[term.index, 0].T, strict=True):
                    if not any(np.array_equal(column, each) for each in columns.values()):
                        columns[name] = column
            else:
                levels |= _of_level(term)
        total = {"Q": cochran(_scaling(design), design.X)} if (design.v > 0).all() else {}
        return {
            **total,
            **of_effects(design.v),
            **of_scores(design.v),
            **of_dispersion(columns),
            **levels,
        }

    def replicate(
        self, chosen: npt.NDArray[np.intp], rng: np.random.Generator
    ) -> tuple[Replicate, Replicate]:
        """The observed effects and new ones, under each of the chosen draws."""
        design, draws = self._fit.design, self._fit.draws.take(chosen)
        effects, y = ConditionalEffects(design, draws), design.y
        mean = draws.flat_location @ design.X.T
        z = rng.standard_normal(mean.shape)
        residual = effects.unfold(z)
        seen = Replicate(np.broadcast_to(y, mean.shape), y - mean, effects.standardise(y - mean))
        return seen, Replicate(mean + residual, residual, z)


def _has_single_rows(term: ScaleTerm) -> bool:
    return len(term.effects) == 1 and len(term.groups) == len(term.index)


def _scaling(design: Design) -> Callable[[Array], Array]:
    """A function that makes the sampling errors of rows (m, n) independent with variance 1."""
    blocks = [
        (block.rows, np.linalg.inv(np.linalg.cholesky(block.covariance))) for block in design.blocks
    ]

    def scale(rows: Array) -> Array:
        found = rows / np.sqrt(design.v)
        for here, root in blocks:
            found[:, here] = rows[:, here] @ root.T
        return np.asarray(found)

    return scale


def _of_level(term: ScaleTerm) -> dict[str, Quantity]:
    """Of each effect of its groups, by least squares: their SD, and how it hangs on moderators."""
    found: dict[str, Quantity] = {}
    for k, effect in enumerate(term.effects):
        groups = np.flatnonzero(term.used[:, k])
        if len(groups) < 2:
            continue
        slope = term.grouping.slope is not None
        label = f"{term.name}: {effect}" if len(term.effects) > 1 else term.name
        own = _estimates(term, k, groups)
        for j, other in enumerate(term.effects[:k]):
            both = np.flatnonzero(term.used[:, j] & term.used[:, k])
            if len(both) > 2:
                pair = _estimates(term, j, both), _estimates(term, k, both)
                found[f"cor of effects ({term.name}: {other}, {effect})"] = _together(*pair)
        found[f"SD of {'slopes' if slope else 'means'} ({label})"] = _spread(own)
        for name, column in zip(term.names, term.Z[groups, k].T, strict=True):
            if np.ptp(column) > 0:
                what = "slope" if slope else "mean"
                found[f"cor(|{what}|, {label}: {name})"] = _size_along(own, column)
    return found


def _estimates(term: ScaleTerm, k: int, groups: npt.NDArray[np.intp]) -> sparse.csr_array:
    """Weights (groups, n) of the rows in the least-squares effect k of each of the groups."""
    slopes = term.slopes[:, k]
    row = np.flatnonzero(slopes)
    size = np.bincount(term.index, slopes**2, minlength=len(term.groups))
    weights = slopes[row] / size[term.index[row]]
    shape = (len(term.groups), len(slopes))
    return sparse.csr_array((weights, (term.index[row], row)), shape=shape)[groups]


def _spread(own: sparse.csr_array) -> Quantity:
    return lambda r: np.std(own @ r.residual.T, axis=0, ddof=1)


def _size_along(own: sparse.csr_array, column: Array) -> Quantity:
    return lambda r: correlate(np.abs(own @ r.residual.T).T, column)


def _together(one: sparse.csr_array, other: sparse.csr_array) -> Quantity:
    return lambda r: np.mean(
        standardised((one @ r.residual.T).T) * standardised((other @ r.residual.T).T), axis=1
    )
