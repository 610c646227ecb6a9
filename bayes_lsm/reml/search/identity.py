"""The identity link: τ² = z'α ≥ 0 in every study.

The maximum may lie on the border, where some studies have τ² = 0. Only the studies at the corners
of the scale design can be the first to reach it, so they are the constraints. A constrained
optimiser finds the region, and a Newton ascent along the constraints that hold there finds the
maximum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bayes_lsm.arrays import Array
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.rows.closed_form import estimate_location
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search.estimate import facts_at, put_back, split_fixed
from bayes_lsm.reml.search.rows_surface import RowsSurface
from bayes_lsm.reml.search.surface import Point
from bayes_lsm.specification import Method

Bounds = Mapping[str, tuple[float, float]]

# τ² below this share of the largest is on the border.
_BORDER = 1e-7
_FEASIBLE = 1e-12


def estimate_identity(
    design: Design,
    method: Method,
    *,
    fixed: Mapping[str, float],
    bounds: Bounds,
    start: Mapping[str, float] | None = None,
) -> Estimates:
    """The maximum under the identity link; a FitError when no α within the bounds gives τ² ≥ 0."""
    held, _ = split_fixed(design, fixed)
    free = design.hold(held) if held else design
    offset = free.terms[0].offsets[:, 0]
    surface = RowsSurface(
        design.y, design.v, design.X, free.terms[0].Z[:, 0], method, offset=offset, identity=True
    )
    A, b = _constraints(free, surface, offset, bounds)
    starts = _starts(design, surface, offset, A, b)
    if start is not None:
        starts.append(surface.inside(np.array([start[name] for name in free.terms[0].names])))
    best, active = _maximise(surface, A, b, starts)
    found = facts_at(free, method, best, best.alpha)
    (term,) = found.terms.values()
    tau2 = np.maximum(term.tau2, 0.0)
    zero = tau2[:, 0] < _BORDER * max(tau2.max(), float(np.median(design.v)) * 1e-3)
    tau2[zero] = 0.0
    if active.any():
        nothing = np.full_like(term.vcov, np.nan)
        at_bound = {design.labels[i]: 0.0 for i in np.flatnonzero(zero)}
        found = replace(found, vcov_terms=nothing, limit_vcov=nothing, at_bound=at_bound)
        term = replace(term, vcov=nothing, limit_vcov=nothing, blind=np.zeros((len(nothing), 0)))
    found = replace(found, terms={term.term.name: replace(term, tau2=tau2)})
    return put_back(design, found, held)


def _constraints(
    free: Design, surface: RowsSurface, offset: Array, bounds: Bounds
) -> tuple[Array, Array]:
    """A, b with A a + b ≥ 0 for the coefficients a in the surface's coordinates."""
    rows = np.unique(np.c_[surface.rotated_Z, offset], axis=0)
    rows = rows[_corners(rows[:, :-1])] if not np.ptp(offset) else rows
    A, b = [rows[:, :-1]], [rows[:, -1]]
    names = free.terms[0].names
    for name, (low, high) in bounds.items():
        row = surface.back[names.index(name)]
        for sign, end in ((1.0, low), (-1.0, high)):
            if math.isfinite(end):
                A.append(sign * row[None])
                b.append(np.array([-sign * end]))
    return np.concatenate(A), np.concatenate(b)


def _corners(rows: Array) -> npt.NDArray[np.intp]:
    """Rows that span the cone of all rows, where that is cheap to find out."""
    from scipy.spatial import ConvexHull, QhullError

    everything = np.arange(len(rows))
    q = rows.shape[1]
    level = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0]
    if q == 1 or not np.allclose(rows @ level, 1.0) or q > 6 or len(rows) <= q + 1:
        return everything
    # All rows lie in a plane that does not hold the origin; the corners are those of their hull.
    basis = np.linalg.svd(level[None])[2][1:]
    points = rows @ basis.T
    if q == 2:
        return np.unique([int(points.argmin()), int(points.argmax())])
    try:
        return np.asarray(ConvexHull(points).vertices, dtype=np.intp)
    except QhullError:
        return everything


def _starts(design: Design, surface: RowsSurface, offset: Array, A: Array, b: Array) -> list[Array]:
    """Feasible starting values: about constant τ², and the middle of the feasible region."""
    from scipy.optimize import linprog

    residuals = estimate_location(design.y, design.v + np.mean(design.v), design.X).residuals
    common = max(float(np.mean(residuals**2 - design.v)), 0.05 * float(np.median(design.v)))
    Z = surface.rotated_Z
    wanted = [np.full(len(Z), c * common) for c in (1.0, 0.1, 5.0)]
    wanted.append(np.maximum(residuals**2 - design.v, 0.0))
    starts = [np.linalg.lstsq(Z, tau2 - offset, rcond=None)[0] for tau2 in wanted]
    feasible = [a for a in starts if (A @ a + b >= 0).all()]
    size = np.linalg.norm(A, axis=1)
    # maximise t subject to A a + b >= t |A|, t at most the wanted τ²
    q = Z.shape[1]
    program = linprog(
        np.r_[np.zeros(q), -1.0],
        A_ub=np.c_[-A, size],
        b_ub=b,
        bounds=[(None, None)] * q + [(0, common)],
    )
    if program.status != 0 or program.x is None:
        raise FitError(
            "no scale coefficients give τ² >= 0 in every study within these bounds and fixed "
            "values; relax them, or use link='log'"
        )
    return [*feasible, np.asarray(program.x[:q])]


def _maximise(
    surface: RowsSurface, A: Array, b: Array, starts: list[Array]
) -> tuple[Point, npt.NDArray[np.bool_]]:
    """The highest feasible point, and which constraints hold it."""
    from scipy.optimize import minimize

    def objective(a: Array) -> tuple[float, Array]:
        value, score = surface.value_and_score(a)
        return (-value, -score) if math.isfinite(value) else (1e10, np.zeros_like(a))

    candidates: list[tuple[Point, npt.NDArray[np.bool_]]] = []
    constraints: Any = [{"type": "ineq", "fun": lambda a: A @ a + b, "jac": lambda a: A}]
    options: Any = {"maxiter": 500, "ftol": 1e-12}
    for start in starts:
        found = minimize(
            objective,
            start,
            jac=True,
            method="SLSQP",
            constraints=constraints,
            options=options,
        )
        a = np.asarray(found.x)
        scale = np.linalg.norm(A, axis=1) * max(1e-12, float(np.abs(a).max()))
        slack = (A @ a + b) / scale
        for border in (1e-9, 1e-6, 1e-4, 1e-2):
            active = slack < border
            point = surface.climb_along(a, A[active], b[active])
            if point is not None and (A @ point.rotated + b >= -_FEASIBLE * scale).all():
                candidates.append((point, active))
    if not candidates:
        raise FitError(
            "the constrained optimiser found no maximum; use link='log', or fix a coefficient"
        )
    return max(candidates, key=lambda pair: pair[0].value)
