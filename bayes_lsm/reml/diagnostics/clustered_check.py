"""Whether the optimum of several scale terms can be relied on, and where an optimiser stops."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.reml.diagnostics.check import LARGEST_CONDITION, SAME, Check
from bayes_lsm.reml.estimates import Estimates

Array = npt.NDArray[np.float64]

# As those of the search.
_TOLERANCE = 1e-13
# Curvature, in units of ln τ², below which the log-likelihood is flat.
_FLAT = 1e-6


def clustered_check(fit: Estimates, *, starts: int, seed: int) -> Check:
    """What `bayes_lsm.reml.diagnostics.check.check` does for several scale terms.

    Climbs start around the place where an ordinary optimiser stops, near and far from it, in the
    coefficients of all terms and the κ of their correlations. Where variances are next to nothing
    the log-likelihood is flat, though it may rise again farther on: such an end is no other maximum
    unless it is as high as the fit.

    Raises
    ------
    FitError
        For fewer than one start.
    """
    from bayes_lsm.likelihood.blocks.arrange import arrange_design
    from bayes_lsm.likelihood.blocks.blocks import ascend, evaluate

    if starts < 1:
        raise FitError(f"starts must be at least 1, got {starts}")
    data, back = arrange_design(fit.design), _back(fit.design)
    random = np.random.default_rng(seed)
    radii = np.resize([0.5, 2.0, 5.0], starts)[:, None]
    begun = fit.stop + radii * random.normal(size=(starts, len(back))) @ back.T
    ends = [ascend(start, data, method=fit.method, tolerance=_TOLERANCE) for start in begun]
    gains = np.array([end.at.value for end in ends]) - fit.loglik
    # Climbs along a tail end below its limit, by no more than rounding.
    reached = int((np.abs(gains) < SAME).sum())
    peaks = np.array([_is_peak(back.T @ end.at.hessian @ back) for end in ends])
    maxima = np.unique(np.round(gains[(gains > -SAME) | (peaks & np.isfinite(gains))], 6))[::-1]
    interior = fit.divergence is None and not fit.has_border
    gradient = condition = math.nan
    if interior:
        here = evaluate(fit.stop, data, method=fit.method)
        gradient = float(np.abs(back.T @ here.score).max())
        curvature = np.linalg.eigvalsh(-back.T @ here.hessian @ back)
        condition = float(curvature[-1] / curvature[0]) if curvature[0] > 0 else math.inf
    return Check(
        interior=interior,
        unique=bool((np.abs(maxima) < SAME).all()) and fit.rival is None,
        well_conditioned=condition < LARGEST_CONDITION,
        starts=starts,
        reached=reached,
        maxima=maxima,
        gradient=gradient,
        condition=condition,
    )


def _is_peak(hessian: Array) -> bool:
    return bool(np.isfinite(hessian).all() and np.linalg.eigvalsh(hessian)[-1] < -_FLAT)


def _back(design: Design) -> Array:
    """From coordinates in which a step of 1 changes ln τ² by about 1, or a κ, to coefficients."""
    q = sum(term.size for term in design.terms)
    back, first = np.eye(q), 0
    for term in design.terms:
        rows = term.Z[term.used]
        R = np.linalg.qr(rows, mode="r") / math.sqrt(len(rows))
        here = slice(first, first + len(R))
        back[here, here] = np.linalg.solve(R, np.eye(len(R)))
        first += term.size
    return back
