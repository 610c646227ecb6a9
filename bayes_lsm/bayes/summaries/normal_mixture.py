r"""Quantiles of mixtures of normals: one component for each posterior draw.

Given the coefficients, a true effect is normal; so its posterior is

    F(x) = (1/S) Σ_s Φ((x − m_s) / σ_s)

and F(x) = p is solved, which has no noise beyond that of the draws. From the normal quantile,
corrected for skewness and kurtosis (Cornish & Fisher 1938), each step follows the inverse
function's Taylor series to third order; what it cannot trust is bisected. Import this module inside
the functions that need it: it loads numba.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

# σ below this counts as a point; it is far above where 1/σ overflows.
_SMALLEST_SD = 1e-150
# Relative size of the second- and third-order terms below which the next error is near rounding.
_SMOOTH = 0.02
# A bracket this narrow, in units of the mixture's spread, is an answer: draws know far less.
_NARROW = 1e-9


@njit(cache=True, parallel=True)
def quantiles(scores, probabilities, centre, sd):
    """The quantiles (m, n) of m mixtures with centres (m, S) and SDs (m, S).

    `scores` (n,) are the standard normal's quantiles at `probabilities` (n,).
    """
    found = np.empty((len(centre), len(scores)))
    for i in prange(len(centre)):
        for j in range(len(scores)):
            found[i, j] = _quantile(scores[j], probabilities[j], centre[i], sd[i])
    return found


@njit(cache=True)
def _quantile(score, probability, centre, sd):
    size = len(centre)
    low, high, middle, narrowest = np.inf, -np.inf, 0.0, np.inf
    for s in range(size):
        end = centre[s] + score * sd[s]
        low, high = min(low, end), max(high, end)
        middle += centre[s] / size
        narrowest = min(narrowest, sd[s])
    unit = narrowest
    for s in range(size):
        unit += abs(centre[s] - middle) / size
    unit = max(unit, _SMALLEST_SD)
    # In arsinh((x − middle) / unit) a bracket of many powers of ten is soon bisected.
    left, right = math.asinh((low - middle) / unit), math.asinh((high - middle) / unit)
    x = min(max(_start(score, centre, sd, middle), low), high)
    if not math.isfinite(x):
        x = middle + unit * math.sinh((left + right) / 2)
    for iteration in range(300):
        if right - left <= _NARROW:
            break
        excess, f, slope, curvature = _expand(x, centre, sd)
        excess = probability - excess / size
        f, slope, curvature = f / size, slope / size, curvature / size
        if excess > 0:
            left = max(left, math.asinh((x - middle) / unit))
        else:
            right = min(right, math.asinh((x - middle) / unit))
        if excess == 0.0:
            break
        # Every other late step bisects, so that steps between spikes cannot go on for ever.
        if f > 0 and (iteration < 8 or iteration % 2):
            newton = excess / f
            second, third = newton * slope / f, newton * newton * curvature / f
            if abs(second) < 0.5 and abs(third) < 0.5:
                new = x + newton * (1 - second / 2 + (3 * second * second - third) / 6)
            else:
                new = x + newton
            place = math.asinh((new - middle) / unit)
            if left <= place <= right:
                x = new
                if abs(second) < _SMOOTH and abs(third) < _SMOOTH * _SMOOTH:
                    break
                continue
        x = middle + unit * math.sinh((left + right) / 2)
    return x


@njit(cache=True)
def _start(score, centre, sd, middle):
    """Cornish–Fisher where the mixture is nearly normal, the plain normal quantile elsewhere."""
    second, third, fourth = 0.0, 0.0, 0.0
    for s in range(len(centre)):
        d, v = centre[s] - middle, sd[s] * sd[s]
        dd = d * d
        second += dd + v
        third += d * (dd + 3.0 * v)
        fourth += dd * dd + 6.0 * dd * v + 3.0 * v * v
    second, third, fourth = second / len(centre), third / len(centre), fourth / len(centre)
    if second == 0.0:
        return middle
    skew, excess = third / second**1.5, fourth / (second * second) - 3.0
    if abs(skew) < 1.0 and abs(excess) < 2.0:
        z = score
        score += (z * z - 1) * skew / 6 + (z**3 - 3 * z) * excess / 24
        score -= (2 * z**3 - 5 * z) * skew * skew / 36
    return middle + math.sqrt(second) * score


@njit(cache=True)
def _expand(x, centre, sd):
    """Sums over the components of Φ, and of the density and its two derivatives, at x."""
    below, f, slope, curvature = 0.0, 0.0, 0.0, 0.0
    for s in range(len(centre)):
        scale = max(sd[s], _SMALLEST_SD)
        z = (x - centre[s]) / scale
        below += 0.5 * math.erfc(-z * 0.7071067811865476)
        density = 0.3989422804014327 * math.exp(-0.5 * z * z) / scale
        if density > 0.0:
            f += density
            slope -= density * z / scale
            curvature += density * (z * z - 1.0) / scale / scale
    return below, f, slope, curvature
