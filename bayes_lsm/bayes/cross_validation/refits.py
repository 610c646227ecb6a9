"""Refits without some of the studies: exact, all from one set of points where that is good enough.

The posterior without a fold of studies is that of α given the rows that are left, with β integrated
out (with Student-t study effects, that of β, α and ν together). One proposal near the full
posterior, which also holds the prior, gives points; their weights for each fold are exact, because
ln p(y_left | α) is (`Likelihood.deletion`). So nothing is approximated but an integral over q
dimensions, and its Monte Carlo error is known. Where a fold's weights are too uneven, because its
studies move the posterior far, that fold gets a proposal of its own, adapted to the rows that are
left: a refit in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from bayes_lsm.arrays import Array, Index
from bayes_lsm.bayes.engines.diagnostics import SMALLEST_ESS, dominated
from bayes_lsm.bayes.engines.pareto import smooth_weights
from bayes_lsm.design.clusters import Clusters
from bayes_lsm.likelihood.protocol import Deletion
from bayes_lsm.progress import track

# Small beside the standard error of a study's share, which is of order 1.
LARGEST_MCSE = 0.05
# With a smaller share of effective points a region that the proposal covers thinly may hide behind
# a Monte Carlo error that looks small; about half are effective for the whole data.
_LEAST_EFFICIENCY = 0.2
_MOST_POINTS = 20_000
_FEWEST_POINTS = 2000
_ENTRIES = 4_000_000  # 32 MB for each array of points × rows
_REFIT_POINTS = (20_000, 200_000)
_REFIT_ENTRIES = 20_000_000
_FEW = 20


@dataclass(frozen=True, eq=False)
class NearPoints:
    """Points near the posterior of some rows: what the `rows` say at each.

    `log_ratio` (m,) is the log density of the prior less that of what the points were drawn from.
    """

    log_ratio: Array
    rows: Deletion


class Near(Protocol):
    def __call__(self, left: Index, *, points: int, seed: int) -> NearPoints:
        """Points near the posterior of the rows `left`."""


@dataclass(frozen=True, eq=False)
class Refittable:
    """A model whose rows can be left out.

    It has so many `rows`, and `width` numbers that are held for each point beside them. `bounded`:
    no weight can be large because the proposal holds the prior; not with flat ones. `sampled`: the
    points are the draws of a sampler, whose weights are smoothed, and only where that does not do
    is there a refit, which is slow. `problems` are what is wrong with refits, as they are made.
    """

    near: Near
    rows: int
    width: int
    bounded: bool
    sampled: bool = False
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the studies that are left say of those left out: arrays (U,), of pit (n,).

    `elpd` is ln p(y_study | y_left) of each study with its Monte Carlo error, `lpd` the same given
    all effects, its own included; `pit` is P(new effect ≤ y_i | y_left) of each row. pareto_k,
    largest_weight (a share of the total) and ess are of the weights behind `elpd`; `refitted` says
    whether the study's fold was given a proposal of its own; shared_elpd and shared_k are `elpd`
    and `pareto_k` before any refit. For `bounded` and `sampled` see `Refittable`.
    """

    elpd: Array
    lpd: Array
    mcse: Array
    pit: Array
    pareto_k: Array
    largest_weight: Array
    ess: Array
    refitted: npt.NDArray[np.bool_]
    bounded: bool = True
    sampled: bool = False
    shared_elpd: Array = field(default_factory=lambda: np.empty(0))
    shared_k: Array = field(default_factory=lambda: np.empty(0))

    @property
    def doubtful(self) -> npt.NDArray[np.bool_]:
        """Studies whose elpd cannot be trusted (U,)."""
        # Written so that nan counts as doubtful.
        good = (self.mcse <= LARGEST_MCSE) & (self.ess >= SMALLEST_ESS)
        largest = self.largest_weight if self.bounded else np.inf
        return np.asarray(~good | dominated(self.pareto_k, largest))


def leave_out_folds(
    model: Refittable,
    studies: Clusters,
    folds: Sequence[Index],
    *,
    seed: int,
    progress: bool = True,
) -> Predictions:
    """Predict the studies of each fold, which are left out together, from the rest.

    A refit has the priors of the whole data, also where a preset took its units from the data.
    """
    n = model.rows
    seeds = np.random.SeedSequence(seed).generate_state(len(folds) + 1)
    size = int(np.clip(_ENTRIES // max(n, model.width), _FEWEST_POINTS, _MOST_POINTS))
    shared = model.near(np.arange(n), points=size, seed=int(seeds[0]))
    found = replace(_empty(len(studies.names), n), bounded=model.bounded, sampled=model.sampled)
    for batch in _batches(studies, folds, _ENTRIES // size, progress=progress):
        _predict(found, shared, studies, batch)
        _describe(found, shared, studies, np.concatenate(batch))
    found = replace(found, shared_elpd=found.elpd.copy(), shared_k=found.pareto_k.copy())
    uneven = found.doubtful | (found.ess < _LEAST_EFFICIENCY * size * (not model.sampled))
    again = [f for f, fold in enumerate(folds) if uneven[fold].any()]
    for f in track(again, "Refitting", progress=progress and len(again) > _FEW):
        _refit(found, model, studies, folds[f], seed=int(seeds[f + 1]))
    return found


def _refit(
    found: Predictions,
    model: Refittable,
    studies: Clusters,
    fold: Index,
    *,
    seed: int,
) -> None:
    """Fill in a fold from a proposal of its own, with more points where the first do not do."""
    out = np.concatenate([studies.rows[unit] for unit in fold])
    left = np.setdiff1d(np.arange(model.rows), out)
    most = _REFIT_ENTRIES // max(len(out), model.width)
    for size in dict.fromkeys(int(np.clip(most, _FEWEST_POINTS, size)) for size in _REFIT_POINTS):
        _predict(found, model.near(left, points=size, seed=seed), studies, [fold])
        if not found.doubtful[fold].any():
            break
    found.refitted[fold] = True


def _empty(units: int, n: int) -> Predictions:
    elpd, lpd, mcse, pareto_k, largest_weight, ess = np.full((6, units), np.nan)
    refitted = np.zeros(units, dtype=bool)
    pit = np.full(n, np.nan)
    return Predictions(elpd, lpd, mcse, pit, pareto_k, largest_weight, ess, refitted)


def _batches(
    studies: Clusters, folds: Sequence[Index], most_rows: int, *, progress: bool
) -> Iterator[Sequence[Index]]:
    """Folds in groups of so many rows that their arrays fit into memory."""
    sizes = [sum(len(studies.rows[unit]) for unit in fold) for fold in folds]
    which = np.cumsum(sizes) // max(1, most_rows)
    edges = [0, *(np.flatnonzero(np.diff(which)) + 1), len(folds)]
    groups = [folds[first:last] for first, last in pairwise(edges)]
    yield from track(groups, "Leaving studies out", progress=progress and len(groups) > _FEW)


def _predict(
    found: Predictions, posterior: NearPoints, studies: Clusters, folds: Sequence[Index]
) -> None:
    """Fill in what the rows that are left say of the studies of these folds."""
    out = posterior.rows.leave_out(studies, folds)
    log_weights = out.left + posterior.log_ratio[:, None]
    below = np.nan_to_num(out.below, nan=0.5)  # far out, where the weight is 0
    row = position = 0
    for f, fold in enumerate(folds):
        smoothed, k = smooth_weights(log_weights[:, f])
        weights = np.exp(smoothed) if found.sampled else _normalised(log_weights[:, f])
        ess = 1.0 / np.sum(weights**2)
        for u in fold:
            found.elpd[u], found.mcse[u] = _log_mean(weights, out.unit[:, position])
            found.pareto_k[u], found.largest_weight[u], found.ess[u] = k, weights.max(), ess
            position += 1
            last = row + len(studies.rows[u])
            found.pit[studies.rows[u]] = weights @ below[:, row:last]
            row = last


def _describe(found: Predictions, posterior: NearPoints, studies: Clusters, units: Index) -> None:
    """Fill in the density of each study given all studies."""
    whole, unit = posterior.rows.predict_again(studies, units)
    weights = _normalised(whole + posterior.log_ratio)
    for position, u in enumerate(units):
        found.lpd[u], _ = _log_mean(weights, unit[:, position])


def _normalised(log_weights: Array) -> Array:
    finite = np.where(np.isnan(log_weights), -np.inf, log_weights)
    return np.asarray(np.exp(finite - logsumexp(finite)))


def _log_mean(weights: Array, log_density: Array) -> tuple[float, float]:
    """ln of the weighted mean of a density, and its Monte Carlo error (delta method)."""
    log_density = np.where(np.isnan(log_density), -np.inf, log_density)
    top = log_density.max()
    density = np.exp(log_density - top)
    mean = float(weights @ density)
    error = float(np.sqrt(np.sum((weights * (density / mean - 1.0)) ** 2)))
    return float(top + np.log(mean)), error
