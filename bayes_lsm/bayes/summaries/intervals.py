"""Intervals of posterior draws and of mixtures: equal-tailed, or of highest density."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import ndtri

from bayes_lsm.arrays import Array
from bayes_lsm.choices import require_choice, require_level
from bayes_lsm.links import tau2_from_log
from bayes_lsm.predictions import Interval as Interval

INTERVALS = {"eti": "equal-tailed", "hdi": "highest-density"}
Measure = Callable[[Array], Array]

# ln of a τ² that is 0: quantiles of infinite numbers are nan.
NO_VARIANCE = -1e6


def check_interval(level: float, interval: str) -> None:
    """A probability between 0 and 1, and a known kind of interval."""
    require_level(level)
    require_choice("interval", interval, Interval)


def how(label: str, level: float, interval: Interval) -> str:
    """For titles: ``Bayes; 95% equal-tailed intervals``."""
    return f"{label}; {100 * level:g}% {INTERVALS[interval]} intervals"


def bounds(values: Array, *, level: float, interval: Interval) -> tuple[Array, Array]:
    """Lower and upper bounds (m,) of each column of draws (S, m)."""
    return _BOUNDS[interval](values, level)


def _equal_tailed(values: Array, level: float) -> tuple[Array, Array]:
    tail = (1 - level) / 2
    lower, upper = np.quantile(values, [tail, 1 - tail], axis=0)
    return lower, upper


def _highest_density(values: Array, level: float) -> tuple[Array, Array]:
    """The shortest interval that holds `level` of the draws, column by column."""
    ordered = np.sort(values, axis=0)
    inside = int(np.ceil(level * len(ordered)))
    widths = ordered[inside - 1 :] - ordered[: len(ordered) - inside + 1]
    first = np.argmin(widths, axis=0)
    columns = np.arange(ordered.shape[1])
    return ordered[first, columns], ordered[first + inside - 1, columns]


_BOUNDS = {"eti": _equal_tailed, "hdi": _highest_density}


def mixture_bounds(
    centre: Array, sd: Array, *, level: float, interval: Interval
) -> tuple[Array, Array]:
    """Lower and upper bounds (m,) of mixtures of normals (m, S), one a row, a component a draw.

    Equal-tailed bounds solve the mixture's distribution function. Those of highest density are read
    off one value for each component, with evenly spaced normal scores in a fixed random order.
    """
    if interval == "hdi":
        size = centre.shape[1]
        scores = ndtri((np.random.default_rng(0).permutation(size) + 0.5) / size)
        return bounds((centre + scores * sd).T, level=level, interval=interval)
    from bayes_lsm.bayes.summaries.normal_mixture import quantiles

    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    found = quantiles(ndtri(tails), tails, np.ascontiguousarray(centre), np.ascontiguousarray(sd))
    return found[:, 0], found[:, 1]


def tau_summaries(
    eta: Array, measures: Mapping[str, Measure], *, level: float, interval: Interval
) -> dict[str, Array]:
    """Median and bounds (m,) of increasing functions of τ², given draws of η = ln τ² (m, S).

    The median and equal-tailed bounds commute with such functions; bounds of highest density do
    not. Of each measure its name, and that with ``_ci_lb`` and ``_ci_ub``.
    """
    tail = (1 - level) / 2
    eta = np.maximum(eta, NO_VARIANCE)
    middle = tau2_from_log(np.quantile(eta, [0.5, tail, 1 - tail], axis=1))
    columns: dict[str, Array] = {}
    for name, measure in measures.items():
        columns[name], *ends = measure(middle)
        if interval == "hdi":
            ends = list(bounds(measure(tau2_from_log(eta)).T, level=level, interval=interval))
        columns[f"{name}_ci_lb"], columns[f"{name}_ci_ub"] = ends
    return columns
