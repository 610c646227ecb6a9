"""Permutation and bootstrap intervals with several scale terms, from refits of whole clusters.

What they are is said at `confidence_intervals`; here clusters, and not
rows, are exchangeable. What c adds to ln τ² goes into the slopes, as its root, as in a profile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.linalg import block_diag
from scipy.special import ndtri

from bayes_lsm.design.clusters import Cluster
from bayes_lsm.design.coefficients import coefficients, pairs, scale_places, term_columns
from bayes_lsm.design.design import Design
from bayes_lsm.design.exchangeable import PartName
from bayes_lsm.errors import FitError
from bayes_lsm.reml.clustered_covariance import simulate_clustered
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.intervals.intervals import end_of_acceptance
from bayes_lsm.reml.resampling import batches, share_at_least
from bayes_lsm.reml.search.maximum import estimate
from bayes_lsm.reml.tests.batch import PermutedFits, exchangeable, is_diverging
from bayes_lsm.reml.tests.permutations import RandomOrders

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# Of the work that `batches` puts into one of its batches: some tenths of a second.
_WORK = 50_000
# What c may add to ln τ², so that neither it nor a product with it overflows.
_MOST = 300.0
# Share of a row's variance below which no climb starts.
_FLOOR = 0.05
_TOLERANCE = 1e-13


def bootstrap_ends(
    fit: Estimates, part: str, level: float, iterations: int, seed: int, progress: bool
) -> tuple[Array, Array]:
    """Percentiles of the estimates of a part from simulated effects: lower and upper ends.

    An estimate that a limit leaves open may be anything, and so may that of a refit that failed.
    """
    rng = np.random.default_rng(seed)
    read = {"location": _location, "scale": _scale, "correlation": _correlations}[part]
    estimates = []
    for batch in batches(iterations, _WORK, "Refitting simulated effects", progress=progress):
        for y in simulate_clustered(fit, batch.stop - batch.start, rng):
            estimates.append(_estimates(replace(fit.design, y=y), fit, read))
    found, most = np.array(estimates), 1.0 if part == "correlation" else np.inf
    tail = (1 - level) / 2
    # A quantile that is one of the estimates: between an infinite one and another lies nothing.
    lower, upper = (
        np.quantile(
            np.nan_to_num(found, nan=end, neginf=-most, posinf=most),
            at,
            axis=0,
            method="inverted_cdf",
        )
        for end, at in ((-most, tail), (most, 1 - tail))
    )
    return lower, upper


def _estimates(design: Design, fit: Estimates, read: Callable[[Estimates], Array]) -> Array:
    try:
        refit = estimate(design, fit.method, turns=0, near=[fit.stop])
    except FitError:  # no starting value has a likelihood
        return np.full(len(read(fit)), np.nan)
    return read(refit) if refit.converged else np.full(len(read(fit)), np.nan)


def _location(fit: Estimates) -> Array:
    return fit.beta


def _scale(fit: Estimates) -> Array:
    return fit.alpha


def _correlations(fit: Estimates) -> Array:
    matrices = [each.correlation for each in fit.terms.values()]
    return np.array([matrices[pair.t][pair.a, pair.b] for pair in pairs(fit.design)])


def permutation_ends(
    fit: Estimates,
    part: PartName,
    cluster: Cluster | None,
    level: float,
    iterations: int,
    seed: int,
    progress: bool,
) -> tuple[Array, Array]:
    """The values that a permutation test of whole clusters does not reject: both ends of each.

    nan for intercepts, and where a coefficient diverges.
    """
    inverter = _Inverter(fit, part, cluster, iterations, seed)
    names = fit.scale_names if part == "scale" else fit.design.location.names
    ends = np.full((2, len(names)), np.nan)
    jobs = [(j, side) for j in term_columns(part, names) for side in (0, 1)]
    for batch in batches(
        len(jobs), _WORK * iterations, "Inverting permutation tests", progress=progress
    ):
        for j, side in jobs[batch]:
            ends[side, j] = inverter.end(j, (-1, 1)[side], level)
    return ends[0], ends[1]


class _Inverter:
    """p-values of α_j = c (or β_j = c) by the same permutations of the clusters at every c."""

    def __init__(
        self,
        fit: Estimates,
        part: PartName,
        cluster: Cluster | None,
        iterations: int,
        seed: int,
    ) -> None:
        rows, _ = exchangeable(fit.design, part, cluster)
        self._fit, self._part, self._cluster = fit, part, cluster
        self._orders = RandomOrders(len(rows), seed)(iterations - 1)
        scale = part == "scale"
        self._estimate = fit.alpha if scale else fit.beta
        self._se = np.sqrt(np.diag(fit.vcov_terms if scale else fit.vcov_location))
        self._places = scale_places(fit.design) if scale else np.arange(len(fit.beta))
        self._back = _back(fit.design)

    def end(self, j: int, side: int, level: float) -> float:
        """One end of the interval of a coefficient."""
        estimate = float(self._estimate[j])
        half = float(ndtri(0.975) * self._se[j]) if math.isfinite(estimate) else math.nan
        return end_of_acceptance(partial(self.pval, j), estimate, side * half, level)

    def pval(self, j: int, c: float) -> float:
        """The permutation p-value of the value c, the data as they are among the permutations."""
        z = abs(float((self._estimate[j] - c) / self._se[j]))
        place = int(self._places[j])
        null = np.abs(self._refit(j, c).statistics(self._part, [place])[0][:, place])
        return share_at_least(np.append(null, z), z)

    def _refit(self, j: int, c: float) -> PermutedFits:
        """One climb for every permutation, with the coefficient shifted by c."""
        from bayes_lsm.likelihood.blocks.arrange import arrange_design
        from bayes_lsm.likelihood.blocks.blocks import ascend

        shifted, start = self._shifted(j, c)
        _, reorder = exchangeable(shifted, self._part, self._cluster)
        climbs = [
            ascend(
                start,
                arrange_design(reorder(order)),
                method=self._fit.method,
                tolerance=_TOLERANCE,
            )
            for order in self._orders
        ]
        back, q = self._back, len(self._back)
        failed = np.array([not (each.converged and np.isfinite(each.at.value)) for each in climbs])
        information = np.array([-back.T @ each.at.hessian @ back for each in climbs])
        information[failed] = np.eye(q)
        forth = np.linalg.inv(back)
        return PermutedFits(
            alpha=np.array([forth @ each.alpha for each in climbs]),
            information=information,
            back=back,
            beta=np.array([each.at.beta for each in climbs]),
            covariance=np.array([each.at.covariance for each in climbs]),
            diverged=is_diverging(information) & ~failed,
            failed=failed,
        )

    def _shifted(self, j: int, c: float) -> tuple[Design, Array]:
        """The design with c in its effects or its slopes, and where its climbs start."""
        design = self._fit.design
        start = np.concatenate(list(_common(self._fit)))
        if self._part == "location":
            return replace(design, y=design.y - c * design.X[:, j]), start
        which = coefficients(design)[j]
        terms = list(design.terms)
        term = terms[which.t]
        column = term.Z[:, :, which.j]
        root = np.exp(0.5 * np.clip(c * column, -_MOST, _MOST))
        terms[which.t] = replace(term, slopes=term.slopes * root[term.index])
        # One common τ² less the offset, which the permuted columns can follow in its mean alone.
        offset = np.full(term.Z.shape[:2], c * float(np.mean(column[term.used])))
        first = int(self._places[j]) - which.j
        start[first : first + len(term.names)] -= _coefficients_of(term.Z, term.used, offset)
        return replace(design, terms=tuple(terms)), start


def _common(fit: Estimates) -> Iterator[Array]:
    """α and κ of each term with the same τ² in all groups: the mean of the fit's."""
    design = fit.design
    row = [
        float(np.mean(np.sum(each.term.slopes**2 * each.tau2[each.term.index], axis=1)))
        for each in fit.terms.values()
    ]
    total = float(np.mean(design.v)) + sum(row)
    for each, size in zip(fit.terms.values(), row, strict=True):
        term = each.term
        slope = float(np.mean(np.sum(term.slopes**2, axis=1)))
        level = math.log(max(size, _FLOOR * total) / slope)
        alpha = _coefficients_of(term.Z, term.used, np.full(term.Z.shape[:2], level))
        yield np.r_[alpha, np.zeros(term.size - len(term.names))]


def _coefficients_of(Z: Array, used: npt.NDArray[np.bool_], log_tau2: Array) -> Array:
    """The coefficients that come nearest to some ln τ² (G, s)."""
    return np.asarray(np.linalg.lstsq(Z[used], log_tau2[used], rcond=None)[0])


def _back(design: Design) -> Array:
    """From coordinates in which each term's columns are orthogonal, of mean square 1."""
    parts = []
    for term in design.terms:
        Z = term.Z[term.used]
        R = np.linalg.qr(Z, mode="r") / math.sqrt(len(Z))
        parts += [np.linalg.inv(R), np.eye(term.size - len(term.names))]
    return np.asarray(block_diag(*[part for part in parts if len(part)]))
