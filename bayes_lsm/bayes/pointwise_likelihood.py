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

import math
from dataclasses import dataclass

import numpy as np

from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.bayes.student.effects import student_log_likelihood
from bayes_lsm.design.clusters import independent_clusters
from bayes_lsm.design.design import Design
from bayes_lsm.design.subsets import Numbers
from bayes_lsm.links import tau2_from_log

_FEWEST_CLUSTERS = 3


@dataclass(frozen=True, eq=False)
class Pointwise:
    """The log likelihood by entries.

    Attributes
    ----------
    values : ndarray, shape (chains, draws, entries)
    unit : {"study", "cluster", "row"}
        What an entry is of.
    names : tuple of str
        Of the entries.
    """

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
    if design.is_independent:
        values = log_likelihood(design, draws.location, draws.scale, draws.df)
        return Pointwise(values, "study", design.labels)
    effects, clusters = ConditionalEffects(design, draws), independent_clusters(design)
    if len(clusters) < _FEWEST_CLUSTERS:
        values, unit, names = effects.log_densities_given_others(), "row", design.labels
    else:
        values, unit, names = effects.log_densities(clusters.code), "cluster", clusters.names
    return Pointwise(values.reshape(*draws.location.shape[:2], -1), unit, names)


def log_likelihood(
    design: Numbers, location: Array, scale: Array, df: Array | None = None
) -> Array:
    """Log density (..., k) of independent effects given β (..., p) and α (..., q).

    `df` is ν of Student-t study effects, of a shape that stretches to (...).
    """
    if df is not None:
        return student_log_likelihood(design, location, scale, df)
    variance = design.v + tau2_from_log(scale @ design.Z.T)
    residual = design.y - location @ design.X.T
    return -0.5 * (np.log(variance) + residual**2 / variance + math.log(2 * math.pi))
