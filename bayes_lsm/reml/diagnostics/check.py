"""Whether a fit's optimum can be relied on: interior, the only one found, well conditioned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_count
from bayes_lsm.design.coordinates import unit_steps
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.tables import wrap_notes

# Log-likelihoods this near are of one maximum.
SAME = 1e-6
# Beyond this the curvatures differ so much that standard errors lose half their digits.
LARGEST_CONDITION = 1e8
# Curvature, in units of ln τ², below which the log-likelihood is flat.
_FLAT = 1e-6


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
        With the log link; its fixed coefficients stay fixed.
    starts : int, default 50
        Random starting points, near and far from where an ordinary optimiser stops.
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
    if starts < 1:
        raise FitError(f"starts must be at least 1, got {starts}")
    require_count("seed", seed, 0)
    require_capable("check", fit.design)
    likelihood, back = likelihood_of(fit.design), _back(fit)
    radii = np.resize([0.5, 2.0, 5.0], starts)[:, None]
    steps = radii * np.random.default_rng(seed).normal(size=(starts, back.shape[1])) @ back.T
    ends = likelihood.climb(fit.stop + steps, fit.method, held=fit.is_fixed)
    gains = ends.value - fit.loglik
    # Climbs along a tail end below its limit, by no more than rounding.
    reached = int((np.abs(gains) < SAME).sum())
    peaks = np.array([_is_peak(back.T @ hessian @ back) for hessian in ends.hessian])
    maxima = np.unique(np.round(gains[(gains > -SAME) | (peaks & np.isfinite(gains))], 6))[::-1]
    rival = fit.rival_loglik - fit.loglik  # nan without one
    if not math.isnan(rival) and not (np.abs(maxima - rival) < SAME).any():
        maxima = np.sort(np.append(maxima, round(rival, 6)))[::-1]
    interior = fit.divergence is None and not fit.at_bound and not fit.has_border
    gradient = condition = math.nan
    if interior and back.shape[1]:
        here = likelihood.evaluate(fit.summit, fit.method)
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


def _back(fit: Estimates) -> Array:
    """From unit steps of the coefficients that are not fixed to steps of all (m, f)."""
    held = [j for j, name in enumerate(fit.scale_names) if name in fit.fixed]
    found = np.zeros((len(fit.stop), int((~fit.is_fixed).sum())))
    found[~fit.is_fixed] = unit_steps(fit.design.without(scale=held))
    return found


def _is_peak(hessian: Array) -> bool:
    """Whether a climb has ended on a maximum.

    Where variances are next to nothing the log-likelihood is flat, though it may rise again farther
    on: such an end is no other maximum unless it is as high as the fit.
    """
    return bool(np.isfinite(hessian).all() and np.linalg.eigvalsh(hessian).max(initial=-1) < -_FLAT)
