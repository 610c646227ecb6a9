"""The profile likelihood of a linear function of the scale coefficients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri

from bayes_lsm.reml.prediction.linear_scale import scale_at
from bayes_lsm.reml.search.rows_search import Search
from bayes_lsm.reml.search.surface import Point, Surface

if TYPE_CHECKING:
    from bayes_lsm.reml.estimates import Estimates

Array = npt.NDArray[np.float64]

# How far a profile is followed, in SDs of ln τ² over the studies, before it counts as unbounded.
_REACH = 100.0
# Below this a number in orthonormal coordinates is the rounding of 0.
_ROUNDING = 1e-12
# Deviances that differ by less are the same.
_SAME = 1e-6


def profile_interval(
    fit: Estimates, row: Array, *, level: float = 0.95
) -> tuple[float, float, float]:
    r"""The profile-likelihood interval of γ = l'α, and the likelihood-ratio statistic of γ = 0.

    The scale matrix is written as Zα = c γ + Z̃ δ with c = Z l/(l'l) and the columns of Z̃ spanning
    what leaves γ alone, in coordinates where the columns of Z are orthonormal. The bounds are where
    2(ℓ̂ − max_δ ℓ(γ, δ)) is the quantile of χ²₁; ±inf where it stays below.

    Parameters
    ----------
    fit : RemlFit
        With the log link and without a coefficient at a bound.
    row : ndarray, shape (q,)
        l, on the fit's scale coefficients.
    level : float, default 0.95

    Returns
    -------
    tuple of float
        Lower and upper bound, and the statistic (χ² with 1 degree of freedom when γ = 0).
    """
    profile = _Profile(fit, row)
    if profile.length == 0:
        return profile.constant, profile.constant, math.nan
    cutoff = float(chdtri(1, 1 - level))
    lower, upper = (profile.crossing(cutoff, sign) for sign in (-1.0, 1.0))
    return lower, upper, profile.deviance(0.0)


class _Profile:
    """2(ℓ̂ − max_δ ℓ(γ, δ)) as a function of γ.

    A full search for the maximum over δ takes long, so a bound is first found by climbing from
    where searches have ended before, and then confirmed by a search there.
    """

    def __init__(self, fit: Estimates, row: Array) -> None:
        design = fit.design
        held = np.array([name in fit.fixed for name in design.scale.names])
        self.constant = float(row[held] @ fit.alpha[held])
        Z = design.Z[:, ~held]
        back = np.linalg.inv(np.linalg.qr(Z, mode="r") / math.sqrt(len(Z))) if Z.shape[1] else Z.T
        direction = back.T @ row[~held]
        self.length = float(np.linalg.norm(direction))
        if self.length == 0:
            return
        unit = direction / self.length
        others = np.linalg.svd(unit[None])[2][1:].T
        self._along = Z @ (back @ unit) / self.length
        self._others = Z @ (back @ others)
        # Where the other coefficients change nothing it must be exactly nothing.
        self._others[np.abs(self._others) < _ROUNDING] = 0.0
        self._offset = design.Z[:, held] @ fit.alpha[held]
        self._arguments = (design.y, design.v, design.X, self._others, fit.method)
        rival = fit.rival_loglik
        self._highest = fit.loglik if math.isnan(rival) else max(fit.loglik, rival)
        self._ends: list[Point] = []
        found = scale_at(fit, row[None])
        self._start, self._step = float(found.estimate[0]), 2 * float(found.se[0])
        if not math.isfinite(self._start):
            self._start = self._finite_start(float(row @ fit.stop))
        if not (math.isfinite(self._step) and 0 < self._step < _REACH * self.length):
            self._step = self.length
        self.deviance(self._start)

    def _finite_start(self, stop: float) -> float:
        """Somewhere inside the interval, when its estimate is infinite."""
        shifts = (0.0, -5.0, 5.0, -20.0, 20.0, -_REACH, _REACH)
        return min((stop + shift * self.length for shift in shifts), key=self.deviance)

    def deviance(self, value: float) -> float:
        """At γ = `value`, by a full search."""
        if not self._others.shape[1]:
            return self._climbed(value)
        best = Search(*self._arguments, offset=self._shifted(value)).best
        self._ends.append(best)
        return 2 * (self._highest - best.value)

    def _climbed(self, value: float) -> float:
        """At γ = `value`, climbing from the ends of earlier searches: never too low."""
        offset, ends = self._shifted(value), self._ends
        if not self._others.shape[1]:
            points = Surface(*self._arguments, offset=offset).climb([np.zeros(0)])
        else:
            points = [
                point
                for end in ends
                for point in Surface(*self._arguments, offset=offset, limit=end.limit).climb(
                    [end.alpha]
                )
            ]
        return 2 * (self._highest - max(point.value for point in points))

    def _shifted(self, value: float) -> Array:
        return np.asarray(self._offset + self._along * (value - self.constant))

    def crossing(self, cutoff: float, sign: float) -> float:
        """The first γ to one side at which the deviance is `cutoff`; ±inf where there is none.

        nan where nothing inside was found to start from.
        """
        from scipy.optimize import brentq

        def excess(value: float) -> float:
            return self._climbed(value) - cutoff

        inside, step = self._start, sign * self._step
        if excess(inside) > 0:
            return math.nan
        while abs(inside - self._start) < _REACH * self.length:
            outside = inside + step
            if excess(outside) > 0:
                found = float(brentq(excess, inside, outside, xtol=1e-9 * self.length, rtol=1e-10))
                if self.deviance(found) > cutoff - _SAME:
                    return found
                # The search has found a higher point there: the bound lies further out.
                inside, step = found, 0.5 * step
            else:
                inside, step = outside, 2 * step
        return sign * math.inf
