"""Profile likelihood of a scale coefficient or correlation: the likelihood of each of its values.

For a value c of α_j the other coefficients are chosen for it, limits at infinity included. What is
wide apart is searched afresh; what lies between is climbed from the neighbours' other coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayes_lsm.arrays import Array
from bayes_lsm.choices import require_level
from bayes_lsm.errors import FitError
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.intervals.slices import Slices, slices_of
from bayes_lsm.tables import format_table

# Doublings of the first step on the way out, on either side.
_FURTHEST = 24
# Changes of the profile smaller than this, twice in succession, mean that it has become flat; but
# not before ln τ² of some study has moved by so much.
_FLAT = 1e-7
_FAR = 60.0
# A log-likelihood so far below the maximum that nothing is to be looked for beyond.
_HOPELESS = 200.0
# A dip of the log-likelihood between two peaks that is worth a word.
_DIP = 0.05
_MOST_POINTS = 10_000


@dataclass(frozen=True, eq=False)
class Profile:
    """The profile likelihood of one scale coefficient, or of one correlation.

    Attributes
    ----------
    term : str
    values : ndarray, shape (m,)
        Values of the coefficient, increasing.
    loglik : ndarray, shape (m,)
        The highest log-likelihood with the coefficient held at each.
    estimate : float
        Its estimate: ±inf where it diverges, nan where the data leave it open.
    maximum : float
        The highest log-likelihood of all; the supremum where the estimate is infinite.
    cutoff : float
        `maximum` − χ²/2: values with a lower log-likelihood are outside the interval.
    lower, upper : float
        Ends of the profile-likelihood interval; -inf or inf (of a correlation, its border) where
        the profile does not fall below the cut-off on that side. With several peaks, the interval
        that holds them all. nan where the supremum lies farther out than was looked.
    level : float
    verdict : str
        ``"peaked"``, or what is the matter: ``"flat towards -inf"``, ``"flat towards +inf"``,
        ``"several peaks"``, joined by commas; ``"maximum not reached"`` when an end is nan.
    peaks : ndarray
        Values at which the profile has a maximum of its own; ±inf for one at the end.
    """

    term: str
    values: Array
    loglik: Array
    estimate: float
    maximum: float
    cutoff: float
    lower: float
    upper: float
    level: float
    verdict: str
    peaks: Array

    def to_dataframe(self) -> pd.DataFrame:
        """The grid: value, loglik, and the drop from the maximum."""
        return pd.DataFrame(
            {
                "value": self.values,
                "loglik": self.loglik,
                "drop": self.maximum - self.loglik,
            }
        )

    def __str__(self) -> str:
        row = pd.DataFrame(
            {
                "estimate": [self.estimate],
                "ci_lb": [self.lower],
                "ci_ub": [self.upper],
                "logLik": [self.maximum],
                "cut-off": [self.cutoff],
            },
            index=[self.term],
        )
        level = f"{100 * self.level:g}%"
        return f"Profile likelihood ({level} interval): {self.verdict}\n\n{format_table(row)}"


def profile(
    fit: Estimates,
    term: str,
    *,
    points: int | Sequence[float] = 41,
    level: float = 0.95,
) -> Profile:
    """Profile the likelihood of a scale coefficient, or of a correlation.

    Parameters
    ----------
    fit : RemlFit or Estimates
    term : str
        A scale term. With several of them a coefficient such as ``"school: size"``, or ``"size"``
        where no other has it, or a correlation such as ``"AL, PD"``, as `Estimates.correlations`
        calls it.
    points : int or sequence of float, default 41
        Number of values on the grid, or the values themselves, in the units of the coefficient (the
        change of ln τ² for each unit of its moderator). The grid reaches somewhat beyond the
        interval, and where that is infinite to where the profile is flat.
    level : float, default 0.95
        Of the interval: its ends are where the profile falls by half the χ² quantile with one
        degree of freedom.

    Returns
    -------
    Profile

    Raises
    ------
    FitError
        For an unknown term or one that was fixed, a level that is not between 0 and 1, fewer than
        3 points, a link other than log, and a fit that a bound holds.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", scale="~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_reml()
    >>> found = profile(fit, "ablat", points=11)
    >>> found.verdict
    'peaked'
    >>> bool(found.lower < found.estimate < found.upper)
    True

    References
    ----------
    Venzon, D. J., & Moolgavkar, S. H. (1988). A method for computing profile-likelihood-based
    confidence intervals. Applied Statistics, 37(1), 87-94. doi:10.2307/2347496
    """
    require_level(level)
    return profile_of(slices_of(fit, term), points=points, level=level)


def profile_of(slices: Slices, *, points: int | Sequence[float] = 41, level: float) -> Profile:
    """`profile` of any slices."""
    given = _given(points)
    curve = Curve(slices)
    curve.explore()
    maximum = curve.maximum
    cutoff = maximum - 0.5 * float(ndtri(0.5 + level / 2)) ** 2
    lower, upper = curve.bound(cutoff, -1), curve.bound(cutoff, 1)
    if isinstance(given, np.ndarray):
        values = slices.hide(given)
    else:
        values = curve.grid(given, lower, upper)
    loglik = curve.sweep(values)
    if curve.maximum > maximum + 1e-9:
        # The grid has met a peak that fit and way out have stepped over.
        maximum = curve.refine()
        cutoff = maximum - 0.5 * float(ndtri(0.5 + level / 2)) ** 2
    lower, upper = curve.bound(cutoff, -1), curve.bound(cutoff, 1)
    peaks = curve.peaks()
    ends = slices.show(np.array([-math.inf, math.inf]))
    shown = slices.show(np.array([slices.estimate, lower, upper]))
    return Profile(
        term=slices.label,
        values=slices.show(values),
        loglik=loglik,
        estimate=float(shown[0]),
        maximum=maximum,
        cutoff=cutoff,
        lower=float(shown[1]),
        upper=float(shown[2]),
        level=level,
        verdict=_verdict(lower, upper, peaks, ends),
        peaks=slices.show(peaks),
    )


def _given(points: int | Sequence[float]) -> int | Array:
    """The number of grid points, or the points in order."""
    if isinstance(points, int | np.integer) and not isinstance(points, bool):
        if not 3 <= points <= _MOST_POINTS:
            raise FitError(f"points must be from 3 to {_MOST_POINTS}, got {points}")
        return int(points)
    try:
        values = np.asarray(points, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    values = np.unique(values) if values.ndim == 1 else np.empty(0)
    if not len(values) or not np.isfinite(values).all():
        raise FitError(f"points must be a number of points or finite values, got {points!r}")
    return values


def _verdict(lower: float, upper: float, peaks: Array, ends: Array) -> str:
    if math.isnan(lower) or math.isnan(upper):
        return "maximum not reached"
    found = ["several peaks"] if len(peaks) > 1 else []
    found += [f"flat towards {ends[0]:+g}"] if math.isinf(lower) else []
    found += [f"flat towards {ends[1]:+g}"] if math.isinf(upper) else []
    return ", ".join(found) or "peaked"


class Curve:
    """ℓ_p(c), and all the points at which it is known."""

    def __init__(self, slices: Slices) -> None:
        self._slices = slices
        self._known: dict[float, tuple[float, Array]] = {}
        self._estimate = slices.estimate
        self._centre = slices.estimate if math.isfinite(slices.estimate) else 0.0
        se = math.sqrt(slices.variance) if slices.variance > 0 else math.inf
        self._step = min(0.5 * se, 1.0 / slices.spread)

    @property
    def maximum(self) -> float:
        """The highest log-likelihood that is known."""
        return max(self._slices.highest, *(value for value, _ in self._known.values()))

    @cached_property
    def _far(self) -> float:
        return _FAR / self._slices.spread

    def search(self, c: float) -> float:
        """ℓ_p(c) by a search of its own."""
        if not self._slices.others:
            return self._climb(c, [])
        self._known[c] = self._slices.search(c)
        return self._known[c][0]

    def climb(self, c: float) -> float:
        """ℓ_p(c), climbed from the nearest known points on both sides."""
        if c in self._known:
            return self._known[c][0]
        order = sorted(self._known)
        at = int(np.searchsorted(order, c))
        near = order[max(0, at - 2) : at + 2]
        starts = [self._known[point][1] for point in near]
        for one, other in pairwise(near):
            a, b = self._known[one][1], self._known[other][1]
            starts.append(a + (c - one) / (other - one) * (b - a))
        return self._climb(c, starts)

    def _climb(self, c: float, starts: list[Array]) -> float:
        self._known[c] = self._slices.climb(c, starts)
        return self._known[c][0]

    def explore(self) -> None:
        """From the centre out in doubling steps, on both sides, until the profile is flat."""
        self.search(self._centre)
        for side in (-1, 1):
            last, still = -math.inf, 0
            for doubling in range(_FURTHEST):
                distance = self._step * 2.0**doubling
                value = self.search(self._centre + side * distance)
                still = still + 1 if abs(value - last) < _FLAT else 0
                last = value
                if still >= 2 and distance > self._far:
                    break
                if self.maximum - value > _HOPELESS and not self._runs_to(side):
                    break

    def refine(self) -> float:
        """The maximum near the highest point that is known."""
        from scipy.optimize import minimize_scalar

        order = sorted(self._known)
        at = max(range(len(order)), key=lambda i: self._known[order[i]][0])
        ends = order[max(0, at - 1)], order[min(len(order) - 1, at + 1)]
        minimize_scalar(
            lambda c: -self.climb(float(c)),
            bounds=ends,
            method="bounded",
            options={"xatol": 1e-6 * (ends[1] - ends[0])},
        )
        return self.maximum

    def _runs_to(self, side: int) -> bool:
        """Whether the estimate is at the end of this side, or may be."""
        return math.isnan(self._estimate) or self._estimate == side * math.inf

    def bound(self, cutoff: float, side: int) -> float:
        """The outermost crossing of the cut-off on one side; infinite if the end is above it."""
        from scipy.optimize import brentq

        order = sorted(self._known)[::-side]  # from the end of this side inwards
        if self._known[order[0]][0] >= cutoff:
            return side * math.inf
        outside = order[0]
        for c in order:
            if self._known[c][0] >= cutoff:
                break
            outside = c
        else:
            # No point comes near the supremum: it lies farther out than was looked.
            return self._estimate if self._estimate == side * math.inf else math.nan
        root = brentq(lambda x: self.climb(x) - cutoff, outside, c, xtol=1e-10, rtol=1e-12)
        return float(root)

    def grid(self, points: int, lower: float, upper: float) -> Array:
        """Equal steps somewhat beyond the interval, or to where the profile has become flat."""
        ends = [
            bound if math.isfinite(bound) else self._flat_from(side)
            for bound, side in ((lower, -1), (upper, 1))
        ]
        margin = 0.25 * (ends[1] - ends[0])
        reach = np.array([ends[0] - margin, ends[1] + margin])
        first, last = map(float, self._slices.show(reach))
        return self._slices.hide(np.linspace(first, last, points))

    def _flat_from(self, side: int) -> float:
        """Where the profile comes within 0.01 of what it is at the end of this side."""
        order = sorted(self._known)[::-side]
        end = self._known[order[0]][0]
        flat = order[0]
        for c in order:
            if abs(self._known[c][0] - end) > 0.01:
                break
            flat = c
        return flat

    def sweep(self, values: Array) -> Array:
        """ℓ_p on a grid: searched at every eighth point, climbed between, in both directions."""
        for c in values[::8]:
            if float(c) not in self._known:
                self.search(float(c))
        for c in values:
            self.climb(float(c))
        for c in values[::-1]:
            self._improve(float(c))
        return np.array([self._known[float(c)][0] for c in values])

    def _improve(self, c: float) -> None:
        """Climb once more, from the neighbours as they are now."""
        before = self._known.pop(c)
        if self.climb(c) < before[0]:
            self._known[c] = before

    def peaks(self) -> Array:
        """Local maxima of what is known, apart by more than a ripple; ±inf for the ends."""
        order = np.array(sorted(self._known))
        heights = np.array([self._known[c][0] for c in order])
        found: list[int] = []
        lowest = -math.inf  # since the last peak
        for i, height in enumerate(heights):
            lowest = min(lowest, height)
            if not found:
                found, lowest = [i], height
            elif height > lowest + _DIP and heights[found[-1]] > lowest + _DIP:
                found.append(i)
                lowest = height
            elif height > heights[found[-1]]:
                found[-1], lowest = i, height
        last = len(order) - 1
        places = [float(order[i]) for i in found]
        # A plateau that goes on to the end has its peak there.
        if heights[0] >= heights[found[0]] - _FLAT or found[0] == 0:
            places[0] = -math.inf
        if heights[last] >= heights[found[-1]] - _FLAT or found[-1] == last:
            places[-1] = math.inf
        return np.array(places)
