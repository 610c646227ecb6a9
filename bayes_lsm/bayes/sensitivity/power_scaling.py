"""Power-scaling: how a posterior moves when the prior, or the likelihood, counts a little more.

The prior (or the likelihood) to the power 1 ± 0.01 reweights the draws that there are. How far that
moves the distribution of a coefficient (the cumulative Jensen-Shannon distance, per doubling of the
power) is its sensitivity: Kallioinen, Paananen, Bürkner & Vehtari (2024),
doi:10.1007/s11222-023-10366-5. Weights so near 1 have no tail, so the draws of a half-flat
posterior serve as well as others.
"""

from __future__ import annotations

import numpy as np

from bayes_lsm.arrays import Array

NOTICEABLE = 0.05
_POWERS = (0.99, 1.01)


def power_scaling(values: Array, log_component: Array) -> Array:
    """Sensitivity (P,) of each column of draws (S, P), of the coefficients.

    `log_component` (S,) is the log density, in each draw, of what is raised to a power: the log
    prior, up to a constant, or the log likelihood. From 0.05 up it is worth a look: a normal
    posterior has that whose mean moves by a quarter of its SD when the power is doubled.
    """
    from arviz_stats.base import array_stats

    lower, upper = (
        _normalised(array_stats.power_scale_lw(log_component, alpha=power, axis=-1))
        for power in _POWERS
    )
    found = [
        array_stats.power_scale_sense(
            column[None], lower[None], upper[None], lower_alpha=_POWERS[0], upper_alpha=_POWERS[1]
        )
        for column in values.T
    ]
    return np.array(found, dtype=float)


def _normalised(log_weights: Array) -> Array:
    weights = np.exp(log_weights - np.max(log_weights))
    return np.asarray(weights / weights.sum())
