"""The parametric bootstrap where one of two nested models has several scale terms.

Every simulated set is fitted by a search of its own, with fewer starts than that of the data but
the data's highest point among them, one after the other: there is no compiled loop over sets.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bayes_lsm.reml.clustered_covariance import simulate_clustered
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.tests.bootstrap_test import batches, simulate

Array = npt.NDArray[np.float64]
AnyFit = Estimates

# Of the work that `batches` puts into one of its batches: some tenths of a second.
_WORK = 50_000


def clustered_null(
    full: AnyFit, reduced: AnyFit, iterations: int, rng: np.random.Generator, progress: bool
) -> Array:
    """Likelihood-ratio statistics of sets from the reduced fit; inf where a refit failed."""
    null = np.empty(iterations)
    for batch in batches(iterations, _WORK, "Refitting simulated effects", progress=progress):
        for i, y in enumerate(_simulate(reduced, batch.stop - batch.start, rng), batch.start):
            statistic = 2 * (_highest(full, y) - _highest(reduced, y))
            null[i] = max(0.0, statistic) if math.isfinite(statistic) else math.inf
    return null


def _simulate(fit: AnyFit, sets: int, rng: np.random.Generator) -> Array:
    draw = simulate_clustered if not fit.design.is_independent else simulate
    return draw(fit, sets, rng)


def _highest(fit: AnyFit, y: Array) -> float:
    """The log-likelihood of a refit to other effects; nan where it did not converge."""
    from bayes_lsm.reml.search.blocks_search import BlocksSearch
    from bayes_lsm.reml.search.rows_search import Search

    if not fit.design.is_independent:
        moved = replace(fit.design, y=y)
        spot = BlocksSearch(moved, fit.method, turns=0, near=[fit.stop]).highest
        return spot.value if spot.ascent.converged else math.nan
    design = fit.design
    search = Search(y, design.v, design.X, design.Z, fit.method)
    point = search.rival or search.best
    return point.value if point.converged else math.nan
