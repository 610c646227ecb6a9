"""The maximum, with some coefficients fixed or bounded: what `fit` makes a `RemlFit` of.

A fixed coefficient moves into an offset of ln τ². With bounds, every choice of which bounded
coefficients sit at a bound is a model with fixed coefficients; the highest of those whose other
coefficients keep their bounds is the answer, limits at infinity included.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.reml.search.divergence import Divergence, Limit
from bayes_lsm.reml.search.geometry import geometry_of
from bayes_lsm.reml.search.search import Search
from bayes_lsm.reml.search.surface import Point, Surface
from bayes_lsm.specification import Method

Array = npt.NDArray[np.float64]
Bounds = Mapping[str, tuple[float, float]]

# More bounded coefficients would mean more than 3^6 searches.
_MOST_BOUNDED = 6


@dataclass(frozen=True, eq=False)
class Estimate:
    """Where the log-likelihood is highest, on the user's coefficients.

    Attributes
    ----------
    alpha : ndarray, shape (q,)
    vcov_scale : ndarray, shape (q, q)
    beta : ndarray, shape (p,)
    vcov_location : ndarray, shape (p, p)
    tau2 : ndarray, shape (n,)
    loglik : float
    divergence : Divergence or None
    converged : bool
    stop : ndarray, shape (q,)
        Where an ordinary optimiser stops.
    rival : ndarray, shape (q,), or None
    rival_loglik : float
    at_bound : dict of str to float
        Coefficients that a bound holds; or, with the identity link, studies and their τ² of 0.
    """

    alpha: Array
    vcov_scale: Array
    beta: Array
    vcov_location: Array
    tau2: Array
    loglik: float
    divergence: Divergence | None
    converged: bool
    stop: Array
    rival: Array | None = None
    rival_loglik: float = math.nan
    at_bound: Mapping[str, float] | None = None


def estimate_log(
    design: Design,
    method: Method,
    *,
    fixed: Mapping[str, float] | None = None,
    start: Mapping[str, float] | None = None,
) -> Estimate:
    """The maximum under the log link, with some coefficients fixed."""
    fixed = fixed or {}
    names, Z = design.scale.names, design.Z
    free = [j for j, name in enumerate(names) if name not in fixed]
    full = np.array([fixed.get(name, math.nan) for name in names])
    offset = Z @ np.nan_to_num(full) if fixed else None
    if not free:
        surface = Surface(design.y, design.v, design.X, Z[:, []], method, offset=offset)
        (point,) = surface.climb([np.zeros(0)])
        return _estimate(design, point, full, free, stop=np.zeros(0))
    begin = None if start is None else np.array([start[names[j]] for j in free])
    search = Search(design.y, design.v, design.X, Z[:, free], method, offset=offset, start=begin)
    found = _estimate(design, search.best, full, free, stop=search.stop)
    if search.rival is None:
        return found
    rival = _estimate(design, search.rival, full, free, stop=search.stop)
    return replace(found, rival=rival.alpha, rival_loglik=rival.loglik)


def estimate_bounded(
    design: Design,
    method: Method,
    bounds: Bounds,
    *,
    fixed: Mapping[str, float],
    start: Mapping[str, float] | None = None,
) -> Estimate:
    """The maximum under the log link, with some coefficients kept between bounds."""
    if len(bounds) > _MOST_BOUNDED:
        raise FitError(
            f"bounds are given for {len(bounds)} coefficients, at most {_MOST_BOUNDED} can have "
            "some; fix the others, or leave their bounds out"
        )
    best: Estimate | None = None
    places = [(None, *(end for end in ends if math.isfinite(end))) for ends in bounds.values()]
    for chosen in itertools.product(*places):
        held = {name: end for name, end in zip(bounds, chosen, strict=True) if end is not None}
        found = estimate_log(design, method, fixed={**fixed, **held}, start=start)
        if _inside(design, found, bounds) and (best is None or found.loglik > best.loglik + 1e-12):
            best = replace(found, at_bound=held)
            if not held:
                return best
    if best is None:
        raise FitError("no maximum was found within the bounds; widen them")
    return best


def _inside(design: Design, found: Estimate, bounds: Bounds) -> bool:
    alpha = dict(zip(design.scale.names, found.alpha, strict=True))
    return all(low <= alpha[name] <= high for name, (low, high) in bounds.items())


def _estimate(
    design: Design, point: Point, full: Array, free: list[int], *, stop: Array
) -> Estimate:
    """Put the free coefficients back among the fixed ones; ±inf or nan for what a limit took."""
    q = len(full)
    alpha, stopped = full.copy(), full.copy()
    covariance = np.full((q, q), math.nan)
    kept = free if point.limit is None else [free[j] for j in point.limit.kept]
    alpha[kept] = point.alpha
    stopped[free] = stop
    if len(kept) == q:
        covariance = point.covariance
    else:
        covariance[np.ix_(kept, kept)] = point.covariance
    divergence = None
    if point.limit is not None:
        face = geometry_of(design.Z[:, free]).face_of(point.limit)
        signs, direction = face.signs
        for j, sign in signs.items():
            alpha[free[j]] = sign
        infinite = ~np.isfinite(alpha)
        covariance[infinite, :] = covariance[:, infinite] = np.nan
        divergence = _describe(design, point.limit, free, signs, direction)
    return Estimate(
        alpha=alpha,
        vcov_scale=covariance,
        beta=point.beta,
        vcov_location=point.vcov_location,
        tau2=point.tau2,
        loglik=point.value,
        divergence=divergence,
        converged=point.converged,
        stop=stopped,
    )


def _describe(
    design: Design, limit: Limit, free: list[int], signs: Mapping[int, float], direction: Array
) -> Divergence:
    names = [design.scale.names[j] for j in free]
    return Divergence(
        terms={names[j]: sign for j, sign in signs.items()},
        direction=dict(zip(names, map(float, direction), strict=True)),
        studies=tuple(design.labels[i] for i in np.flatnonzero(limit.zero)),
        everywhere=bool(limit.zero.all()),
    )
