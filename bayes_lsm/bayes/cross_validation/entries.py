"""The log likelihood by what can be left out: studies, or clusters of dependent effects.

ArviZ's `loo` leaves out one entry of ``log_likelihood`` at a time, so that an entry has to be
ln p(y_entry | θ) of data that are independent of all others given the unknowns θ of the draw. The
effects of studies and groups are integrated out, so independent are

- with independent effects the effects themselves, one a row;
- else the sets of rows that share no group and no sampling error: the outermost groups.

Where there are fewer than three such sets (crossed groups, or a covariance matrix that connects all
rows) nothing could be learnt by leaving one out. Then an entry is that of a row given all others,
ln p(y_i | y_−i, θ), which is what leaving one row out of a correlated normal model takes (Bürkner,
Gabry & Vehtari 2021, doi:10.1007/s00180-020-01045-4). Random intercepts of ln τ² are among the
unknowns of the draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.cross_validation.given_draws import given_draws
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.design.clusters import independent_clusters
from bayes_lsm.design.design import Design

_FEWEST_CLUSTERS = 3


@dataclass(frozen=True, eq=False)
class Pointwise:
    """The log likelihood (chains, draws, entries) by entries: each of a study, cluster or row."""

    values: Array
    unit: str
    names: tuple[str, ...]


def pointwise_log_likelihood(design: Design, draws: Draws) -> Pointwise:
    """The log likelihood of each draw by entries that can be left out one by one.

    Takes 8 · draws · entries bytes.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)
    >>> found = pointwise_log_likelihood(fit.design, fit.draws)
    >>> found.unit, found.values.shape
    ('cluster', (4, 1000, 11))
    """
    clusters, shape = independent_clusters(design), (*draws.location.shape[:2], -1)
    unit, names = "cluster", clusters.names
    if len(clusters) < _FEWEST_CLUSTERS or len(clusters) == len(design.y):
        unit, names = design.unit, design.labels
    if len(clusters) < min(_FEWEST_CLUSTERS, len(design.y)):
        values = ConditionalEffects(design, draws).log_densities_given_others()
        return Pointwise(values.reshape(shape), unit, names)
    given, values = given_draws(design, draws), np.empty((draws.size, len(clusters)))
    for u, rows in enumerate(clusters.rows):
        values[:, u] = given.given_effects(rows)
    return Pointwise(values.reshape(shape), unit, names)
