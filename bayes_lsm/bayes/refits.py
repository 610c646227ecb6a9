"""Refits without some of the studies: exact, all from one set of points where that is good enough.

The posterior without a fold of studies is that of α given the rows that are left, with β integrated
out. One proposal near the full posterior, which also holds the prior, gives points; their weights
for each fold are exact, because ln p(y_left | α) is (see `likelihood.deletion`). So nothing is
approximated but an integral over q dimensions, and its Monte Carlo error is known. Where a fold's
weights are too uneven, because its studies move the posterior far, that fold gets a proposal of its
own, adapted to the rows that are left: a refit in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, logsumexp

from bayes_lsm.bayes.collapsed import Points, propose, require_collapsible
from bayes_lsm.bayes.diagnostics import SMALLEST_ESS, dominated
from bayes_lsm.bayes.pareto import smooth_weights
from bayes_lsm.bayes.subsets import Array, Indices, Numbers, Studies, take_rows
from bayes_lsm.bayes.tracking import track
from bayes_lsm.priors import ResolvedPriors

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

Sums = tuple[Array, Array, Array]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the studies that are left say of those left out.

    Attributes
    ----------
    elpd : ndarray, shape (U,)
        ln p(y_study | y_left) of each study.
    lpd : ndarray, shape (U,)
        The same density given all effects, its own included.
    mcse : ndarray, shape (U,)
        Monte Carlo error of `elpd`.
    pit : ndarray, shape (n,)
        P(new effect ≤ y_i | y_left) of each row.
    pareto_k, largest_weight, ess : ndarray, shape (U,)
        Of the weights behind `elpd`; `largest_weight` is a share of the total.
    refitted : ndarray of bool, shape (U,)
        Whether the study's fold was given a proposal of its own.
    """

    elpd: Array
    lpd: Array
    mcse: Array
    pit: Array
    pareto_k: Array
    largest_weight: Array
    ess: Array
    refitted: npt.NDArray[np.bool_]

    @property
    def doubtful(self) -> npt.NDArray[np.bool_]:
        """Studies whose elpd cannot be trusted (U,)."""
        # Written so that nan counts as doubtful.
        good = (self.mcse <= LARGEST_MCSE) & (self.ess >= SMALLEST_ESS)
        return np.asarray(~good | dominated(self.pareto_k, self.largest_weight))


def leave_out_folds(
    design: Numbers,
    priors: ResolvedPriors,
    studies: Studies,
    folds: Sequence[Indices],
    *,
    seed: int,
    progress: bool = True,
) -> Predictions:
    """Predict the studies of each fold from the rest.

    Parameters
    ----------
    design : Design
    priors : ResolvedPriors
        Those of the whole data: a refit has the same prior, also where a preset took its units
        from the data.
    studies : Studies
    folds : sequence of ndarray of int
        Studies that are left out together; each study in one fold.
    seed : int
    progress : bool, default True
        Show a progress bar on standard error when it takes more than a second or two.

    Raises
    ------
    FitError
        When β cannot be integrated out.
    """
    from bayes_lsm.likelihood.deletion import row_sums

    require_collapsible(priors, "use psis_loo(), which needs no refits")
    n = len(design.y)
    seeds = np.random.SeedSequence(seed).generate_state(len(folds) + 1)
    size = int(np.clip(_ENTRIES // n, _FEWEST_POINTS, _MOST_POINTS))
    shared = propose(design, priors, points=size, seed=int(seeds[0]))
    sums = row_sums(shared.alphas, *_arrays(design), shared.mean, shared.precision)
    found = _empty(len(studies.names), n)
    for batch in _batches(studies, folds, _ENTRIES // size, progress=progress):
        _predict(found, design, shared, sums, -1.0, studies, batch)
        _describe(found, design, shared, sums, studies, np.concatenate(batch))
    uneven = found.doubtful | (found.ess < _LEAST_EFFICIENCY * size)
    again = [f for f, fold in enumerate(folds) if uneven[fold].any()]
    for f in track(again, "Refitting", progress=progress and len(again) > _FEW):
        _refit(found, design, priors, studies, folds[f], seed=int(seeds[f + 1]))
    return found


def _refit(
    found: Predictions,
    design: Numbers,
    priors: ResolvedPriors,
    studies: Studies,
    fold: Indices,
    *,
    seed: int,
) -> None:
    """Fill in a fold from a proposal of its own, with more points where the first do not do."""
    from bayes_lsm.likelihood.deletion import row_sums

    out = np.concatenate([studies.rows[unit] for unit in fold])
    left = take_rows(design, np.setdiff1d(np.arange(len(design.y)), out))
    for size in _REFIT_POINTS:
        size = int(np.clip(_REFIT_ENTRIES // len(out), _FEWEST_POINTS, size))
        own = propose(left, priors, points=size, seed=seed)
        sums = row_sums(own.alphas, *_arrays(left), own.mean, own.precision)
        _predict(found, design, own, sums, 0.0, studies, [fold])
        if not found.doubtful[fold].any():
            break
    found.refitted[fold] = True


def _empty(units: int, n: int) -> Predictions:
    elpd, lpd, mcse, pareto_k, largest_weight, ess = np.full((6, units), np.nan)
    refitted = np.zeros(units, dtype=bool)
    pit = np.full(n, np.nan)
    return Predictions(elpd, lpd, mcse, pit, pareto_k, largest_weight, ess, refitted)


def _batches(
    studies: Studies, folds: Sequence[Indices], most_rows: int, *, progress: bool
) -> Iterator[Sequence[Indices]]:
    """Folds in groups of so many rows that their arrays fit into memory."""
    sizes = [sum(len(studies.rows[unit]) for unit in fold) for fold in folds]
    which = np.cumsum(sizes) // max(1, most_rows)
    edges = [0, *(np.flatnonzero(np.diff(which)) + 1), len(folds)]
    groups = [folds[first:last] for first, last in pairwise(edges)]
    yield from track(groups, "Leaving studies out", progress=progress and len(groups) > _FEW)


def _predict(
    found: Predictions,
    design: Numbers,
    points: Points,
    sums: Sums,
    sign: float,
    studies: Studies,
    folds: Sequence[Indices],
) -> None:
    """Fill in what the rows that are left say of the studies of these folds."""
    left, unit, z, rows = _leave_out(design, points, sums, sign, studies, folds)
    log_weights = left + points.log_ratio[:, None]
    below = np.exp(log_ndtr(np.nan_to_num(z)))
    row = position = 0
    for f, fold in enumerate(folds):
        weights = _normalised(log_weights[:, f])
        ess = 1.0 / np.sum(weights**2)
        k = smooth_weights(log_weights[:, f])[1]
        for u in fold:
            found.elpd[u], found.mcse[u] = _log_mean(weights, unit[:, position])
            found.pareto_k[u], found.largest_weight[u], found.ess[u] = k, weights.max(), ess
            position += 1
            last = row + len(studies.rows[u])
            found.pit[rows[row:last]] = weights @ below[:, row:last]
            row = last


def _describe(
    found: Predictions,
    design: Numbers,
    points: Points,
    sums: Sums,
    studies: Studies,
    units: Indices,
) -> None:
    """Fill in the density of each study given all studies."""
    folds = list(units[:, None])
    left, unit, _, _ = _leave_out(design, points, sums, 0.0, studies, folds)
    weights = _normalised(left[:, 0] + points.log_ratio)
    for position, u in enumerate(units):
        found.lpd[u], _ = _log_mean(weights, unit[:, position])


def _leave_out(
    design: Numbers,
    points: Points,
    sums: Sums,
    sign: float,
    studies: Studies,
    folds: Sequence[Indices],
) -> tuple[Array, Array, Array, Indices]:
    """See `likelihood.deletion.leave_out`; and the rows, in the order of the folds."""
    from bayes_lsm.likelihood.deletion import leave_out

    members = [studies.rows[unit] for fold in folds for unit in fold]
    rows = np.concatenate(members)
    left, unit, z = leave_out(
        points.alphas,
        *sums,
        sign,
        np.cumsum([0, *map(len, members)]),
        np.cumsum([0, *map(len, folds)]),
        *_arrays(take_rows(design, rows)),
        points.mean,
        -float(np.linalg.slogdet(points.precision)[1]),
    )
    return left, unit, z, rows


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


def _arrays(numbers: Numbers) -> tuple[Array, Array, Array, Array]:
    y, v, X, Z = map(np.ascontiguousarray, (numbers.y, numbers.v, numbers.X, numbers.Z))
    return y, v, X, Z
