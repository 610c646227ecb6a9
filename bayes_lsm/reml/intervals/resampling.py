"""Bootstrap and permutation intervals, from refits by the hundred.

What they are is said at `confidence_intervals`; how a design is refitted is the refitter's matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.special import ndtri

from bayes_lsm.arrays import Array
from bayes_lsm.design.clusters import Cluster
from bayes_lsm.design.coefficients import term_columns
from bayes_lsm.design.exchangeable import PartName, exchangeable
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.resampling import batches, log_tau2_of, share_at_least, simulate
from bayes_lsm.reml.search.refits import free_part, held
from bayes_lsm.reml.search.refitter import refitter_of
from bayes_lsm.reml.tests.permutations import RandomOrders

# Doublings of the distance from the estimate before a permutation interval is called infinite, and
# halvings to find its end: 2^-12 of the last doubling is far below the Monte Carlo error.
_DOUBLINGS = 5
_HALVINGS = 12


def bootstrap_ends(
    fit: Estimates, part: str, level: float, iterations: int, seed: int, progress: bool
) -> tuple[Array, Array]:
    """Percentiles of the estimates of a part from simulated effects: lower and upper ends.

    An estimate that a limit leaves open may be anything, and so may that of a refit that failed,
    and that of a coefficient of which the data say nothing. nan for coefficients that are fixed.
    """
    rng, refitter = np.random.default_rng(seed), refitter_of(fit)
    near, found, work = [log_tau2_of(fit)], [], refitter.work
    for batch in batches(iterations, work, "Refitting simulated effects", progress=progress):
        refits = refitter.effects(simulate(fit, batch.stop - batch.start, rng), near)
        of_part = {"location": "beta", "scale": "alpha", "correlation": "correlations"}[part]
        estimates = getattr(refits, of_part).copy()
        estimates[refits.failed] = np.nan
        found.append(estimates)
    estimates, most, tail = np.vstack(found), np.inf, (1 - level) / 2
    if part == "correlation":
        most = 1.0
    if part == "scale":
        free = held(fit)[1]
        unknown = [fit.scale_names[j] in fit.uninformed for j in free]
        estimates[:, unknown] = np.nan
    # A quantile that is one of the estimates: between an infinite one and another lies nothing.
    lower, upper = (
        np.quantile(
            np.nan_to_num(estimates, nan=end, neginf=-most, posinf=most),
            at,
            axis=0,
            method="inverted_cdf",
        )
        for end, at in ((-most, tail), (most, 1 - tail))
    )
    if part == "scale":
        return _among_fixed(fit, lower), _among_fixed(fit, upper)
    return lower, upper


def _among_fixed(fit: Estimates, free: Array) -> Array:
    """Values of the free scale coefficients among those of all, nan for the fixed ones."""
    found = np.full(len(fit.scale_names), np.nan)
    found[held(fit)[1]] = free
    return found


def permutation_ends(
    fit: Estimates,
    part: PartName,
    cluster: Cluster | None,
    level: float,
    iterations: int,
    seed: int,
    progress: bool,
) -> tuple[Array, Array]:
    """The values that a permutation test does not reject: lower and upper ends.

    nan for intercepts, where a coefficient diverges, and for those that are fixed.
    """
    inverter = _Inverter(fit, part, cluster, iterations, seed)
    ends = np.full((2, len(inverter.names)), np.nan)
    jobs = [(j, side) for j in term_columns(part, inverter.names) for side in (0, 1)]
    # One p-value takes `iterations` refits, and each end about a dozen p-values.
    work = inverter.work * iterations * _HALVINGS
    for batch in batches(len(jobs), work, "Inverting permutation tests", progress=progress):
        for j, side in jobs[batch]:
            ends[side, j] = inverter.end(j, (-1, 1)[side], level)
    if part == "scale":
        return _among_fixed(fit, ends[0]), _among_fixed(fit, ends[1])
    return ends[0], ends[1]


class _Inverter:
    """p-values of α_j = c (or β_j = c) by the same permutations at every c.

    `names` are of the free coefficients of the part; `work` is how long one refit takes.
    """

    def __init__(
        self, fit: Estimates, part: PartName, cluster: Cluster | None, iterations: int, seed: int
    ) -> None:
        self._what = exchangeable(held(fit)[0], part, cluster)
        self._orders = RandomOrders(len(self._what), seed)(iterations - 1)
        self._refitter, self._part = refitter_of(fit), part
        self.work = self._refitter.work
        self.names, self._estimate, covariance = free_part(fit, part)
        self._se = np.sqrt(np.diag(covariance))

    def end(self, j: int, side: int, level: float) -> float:
        """Where the p-value of α_j = c falls below 1 − level; ±inf if it never does."""
        estimate = float(self._estimate[j])
        half = float(ndtri(0.975) * self._se[j]) if math.isfinite(estimate) else math.nan
        return end_of_acceptance(partial(self.pval, j), estimate, side * half, level)

    def pval(self, j: int, c: float) -> float:
        """The permutation p-value of the value c, the data as they are among the permutations."""
        z = abs(float((self._estimate[j] - c) / self._se[j]))
        refits = self._refitter.orders(self._what, self._orders, shift=(j, c))
        null = np.abs(refits.statistics(self._part, [j])[0][:, j])
        return share_at_least(np.append(null, z), z)


def end_of_acceptance(
    pval: Callable[[float], float], estimate: float, half: float, level: float
) -> float:
    """Where the p-value of c falls below 1 − level, by doubling and bisection.

    `half` is the half-width of a Wald interval, negative for the lower end. The end is ±inf if p
    does not fall within 32 of them, and nan if there is none.
    """
    if not math.isfinite(half):
        return math.nan
    inside = outside = estimate
    for doubling in range(_DOUBLINGS + 1):
        outside = estimate + half * 2.0**doubling
        if pval(outside) < 1 - level:
            break
        inside = outside
    else:
        return math.copysign(math.inf, half)
    for _ in range(_HALVINGS):
        middle = 0.5 * (inside + outside)
        if pval(middle) < 1 - level:
            outside = middle
        else:
            inside = middle
    return 0.5 * (inside + outside)
