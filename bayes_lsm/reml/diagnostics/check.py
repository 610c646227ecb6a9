"""Whether a fit's optimum can be relied on: interior, the only one found, well conditioned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bayes_lsm.errors import FitError
from bayes_lsm.reml.search.surface import Surface
from bayes_lsm.tables import wrap_notes

if TYPE_CHECKING:
    from bayes_lsm.reml.estimates import Estimates

Array = npt.NDArray[np.float64]

# Log-likelihoods this near are of one maximum.
SAME = 1e-6
# Beyond this the curvatures differ so much that standard errors lose half their digits.
LARGEST_CONDITION = 1e8


@dataclass(frozen=True, eq=False)
class Check:
    """What more climbs say of a fit.

    Attributes
    ----------
    interior : bool
        No coefficient runs to infinity, and none is held by a bound or border.
    unique : bool
        No start led to another maximum.
    well_conditioned : bool
    starts, reached : int
        Climbs, and how many of them ended at the fit's log-likelihood.
    maxima : ndarray
        The log-likelihoods of all maxima that were found, less the fit's; descending.
    gradient : float
        Largest slope of the log-likelihood at the estimate, per unit of ln τ² (0 at a maximum).
    condition : float
        Largest over smallest curvature, for orthonormal scale moderators.
    """

    interior: bool
    unique: bool
    well_conditioned: bool
    starts: int
    reached: int
    maxima: Array
    gradient: float
    condition: float

    @property
    def ok(self) -> bool:
        """All three."""
        return self.interior and self.unique and self.well_conditioned

    @property
    def _conditioning(self) -> str:
        if math.isnan(self.condition):
            return "not asked where the optimum is not interior"
        verdict = "yes" if self.well_conditioned else "no"
        return f"{verdict} (condition {self.condition:.3g}, largest slope {self.gradient:.1e})"

    def __str__(self) -> str:
        others = ", ".join(f"{m:+.4f}" for m in self.maxima if abs(m) > SAME)
        lines = [
            f"interior:         {'yes' if self.interior else 'no'}",
            f"unique:           {'yes' if self.unique else 'no'} ({self.reached} of {self.starts} "
            f"climbs end there{f'; others at {others} in the log-likelihood' if others else ''})",
            f"well conditioned: {self._conditioning}",
        ]
        if not self.ok:
            advice = "see the fit's notes and profiles, simplify the scale part, or use fit_bayes()"
            lines += wrap_notes([advice])
        return "\n".join(lines)

    __repr__ = __str__


def check(fit: Estimates, *, starts: int = 50, seed: int = 0) -> Check:
    """Climb from many random starts, and look at the curvature where the fit ended.

    Parameters
    ----------
    fit : RemlFit or Estimates
        With the log link.
    starts : int, default 50
        Random starting points, near and far from the estimate.
    seed : int, default 0

    Raises
    ------
    FitError
        For the identity link, or fewer than one start.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> print(lsm.LocationScaleModel.from_file("preterm_weeks").fit_reml().check())
    interior:         yes
    unique:           yes (50 of 50 climbs end there)
    well conditioned: yes (condition 6.53, largest slope ...)
    """

    if not fit.design.is_independent:
        from bayes_lsm.reml.diagnostics.clustered_check import clustered_check

        return clustered_check(fit, starts=starts, seed=seed)
    if starts < 1:
        raise FitError(f"starts must be at least 1, got {starts}")
    design = fit.design
    if design.specification.link != "log":
        raise FitError("check() is for the log link; the identity link's optimum is checked by it")
    free = [j for j, name in enumerate(design.scale.names) if name not in fit.fixed]
    held = np.array([fit.fixed.get(name, 0.0) for name in design.scale.names])
    surface = Surface(
        design.y, design.v, design.X, design.Z[:, free], fit.method, offset=design.Z @ held
    )
    here = surface.forth @ fit.stop[free]
    rng = np.random.default_rng(seed)
    radii = np.resize([0.5, 2.0, 5.0], starts)[:, None]
    begun = here + radii * rng.normal(size=(starts, len(free)))
    points = surface.climb(list(begun @ surface.back.T))
    gains = np.array([point.value - fit.loglik for point in points])
    # Climbs along a tail end below its limit, by no more than rounding.
    reached = int((np.abs(gains) < SAME).sum())
    maxima = np.unique(np.round(gains[np.isfinite(gains)], 6))[::-1]
    interior = fit.divergence is None and not fit.at_bound
    gradient, condition = _at(surface, here) if interior else (math.nan, math.nan)
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


def _at(surface: Surface, here: Array) -> tuple[float, float]:
    (point,) = surface.climb([surface.back @ here])
    _, score = surface.value_and_score(point.rotated)
    curvature = np.linalg.eigvalsh(-point.hessian)
    condition = curvature[-1] / curvature[0] if curvature[0] > 0 else math.inf
    return float(np.abs(score).max()), float(condition)
