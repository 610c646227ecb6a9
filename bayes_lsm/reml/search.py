"""The highest point of the log-likelihood, wherever it lies: inside, or at a limit at infinity.

The surface can have several local maxima, and more with outlying studies. So climbs start from many
points inside; wherever they stop with τ² near 0 in some studies, and at the corners of the scale
design, the limit in which those studies lose their τ² is climbed as well; and near the good limits
and around the best point new climbs start. What is returned is the highest of all. A limit is
reported when it is above every point inside, or equal to one that is on its way to it.

No finite search is a proof: on the nastiest datasets of the tests (outliers, k = 6 to 40,
moderators with Cauchy tails) about one in a thousand still has a higher, very sharp peak elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import combinations

import numpy as np
import numpy.typing as npt

from bayes_lsm.likelihood.independent import Method, estimate_location
from bayes_lsm.reml.divergence import Cone
from bayes_lsm.reml.surface import Point, Surface

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Two log-likelihoods nearer than this, relative to their size, are the same up to rounding.
_EQUAL = 1e-10
# Log-likelihoods that differ by less (a likelihood ratio of 1.05) do not choose between two maxima.
# Then the one that ordinary starts lead to is returned, as other software does, and the other told.
_UNDECIDED = 0.05
# That many starts are ordinary.
_ORDINARY = 5
# τ²/v below which a study may be one whose τ² goes to zero; each gives a limit to be tried.
_SMALL_RATIOS = (1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10)
# τ²/v of a study whose τ² has gone to zero, when a climb has ended on a flat tail.
_VANISHED = 1e-6
# Where climbs back from a limit start: the largest τ²/v of the studies that have none at the limit.
_RETURNS = (1e-1, 1e-4)
# A limit lower than the best point by more than this is not worth returning from.
_WORTH = 5.0
# That many of the best limits are joined in pairs.
_JOINED = 6
# More different rows of Z than this, and only its extreme rows are tried as corners.
_MANY_ROWS = 12
# With more studies than this the surface is smooth, and corners are not worth their time.
_MANY_STUDIES = 3_000
_ROUNDS = 5
# Random starts for each coefficient, and how far from their centre they lie, in ln τ².
_CLOUD = 6
_RADII = (1.0, 3.0, 8.0)
# Outlying studies to go through, slopes in ln τ² for each SD of a moderator, and how many of the
# best of these starts are climbed from for each coefficient.
_OUTLIERS = 6
_SLOPES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_STEEP = 3
# With more than one slope, that many oblique directions for each coefficient.
_OBLIQUE = 4


class Search:
    """The search for the highest point of one log-likelihood.

    Attributes
    ----------
    best : Point
    rival : Point or None
        A higher point elsewhere, by less than the data can tell.
    stop : ndarray, shape (q,)
        Where an ordinary optimiser, started inside, stops.
    """

    def __init__(
        self,
        y: Array,
        v: Array,
        X: Array,
        Z: Array,
        method: Method,
        *,
        offset: Array | None = None,
        start: Array | None = None,
    ) -> None:
        self._v, self._Z = v, Z
        self._surface = partial(Surface, y, v, X, Z, method, offset=offset)
        self._inside = self._surface()
        self._cone, self._cloud = Cone(Z), _Cloud(self._inside, len(y))
        self._tried: set[bytes] = set()
        self._limits: dict[bytes, Point] = {}
        self._returned: set[bytes] = set()
        self._offset = np.zeros(len(y)) if offset is None else offset
        starts = self._starts(y, v, X)
        if start is not None:
            starts.insert(0, start)
        inside = self._inside.climb([*starts, *self._cloud.around(starts[0])])
        highest = self._explore(inside)
        home = max(inside[:_ORDINARY], key=_value)
        best, near = self._at_limit(highest, anywhere=True), self._at_limit(home)
        self.stop = home.ordinary_alpha
        self.best, self.rival = best, None
        if _slack(best) < best.value - near.value < _UNDECIDED:
            self.best, self.rival = near, best

    def _starts(self, y: Array, v: Array, X: Array) -> list[Array]:
        """Starting values: one common τ², regressions of residuals, and steep slopes."""
        residuals = estimate_location(y, v + np.mean(v), X).residuals
        spread = len(y) / max(1, len(y) - X.shape[1]) * float(np.mean(residuals**2 - v))
        common = max(spread, 0.05 * float(np.median(v)))
        log_tau2 = [np.full(len(y), np.log(common * c)) for c in (1.0, 0.1, 10.0)]
        log_tau2 += [np.log(np.maximum(residuals**2 - v, floor * v)) for floor in (0.5, 0.05)]
        starts = [self._inside.regress(each) for each in log_tau2]
        return starts if len(y) > _MANY_STUDIES else starts + self._steep(residuals)

    def _steep(self, residuals: Array) -> list[Array]:
        """Steep slopes of ln τ² through outlying studies: peaks that climbs from afar walk past."""
        Z, v = self._Z, self._v
        q = Z.shape[1]
        back = self._inside.back
        constant = self._inside.regress(1.0 + self._offset)
        if np.abs(Z @ constant - 1.0).max() > 1e-8:
            constant = np.zeros_like(constant)
        pivots = np.argsort(-(residuals**2) / v)[:_OUTLIERS]
        oblique = np.random.default_rng(1).normal(size=(_OBLIQUE * (q > 2) * q, q))
        oblique /= np.linalg.norm(oblique, axis=1)[:, None]
        directions = np.concatenate([back.T, -back.T, oblique @ back.T])
        slopes = (np.array(_SLOPES)[:, None, None] * directions).reshape(-1, q)
        peaks = np.log(residuals[pivots] ** 2 + 1e-3 * v[pivots]) - self._offset[pivots]
        shifts = peaks - slopes @ Z[pivots].T
        tried = (slopes[:, None] + shifts[..., None] * constant).reshape(-1, q)
        order = np.argsort(-self._inside.values(tried), kind="stable")
        return list(tried[order[: _STEEP * q]])

    def _explore(self, inside: list[Point]) -> Point:
        """Alternate between limits and points inside, until nothing higher is found."""
        best = max(inside, key=_value)
        for free in _corners(self._Z):
            self._try_limit(free, best)
        for _ in range(_ROUNDS):
            self._follow(inside)
            self._join(best)
            inside = self._inside.climb([*self._cloud.around(best.alpha), *self._returns(best)])
            higher = max(inside, key=_value, default=best)
            if higher.value <= best.value + _slack(best):
                break
            best = higher
        self._follow(inside)
        return best

    def _follow(self, points: list[Point]) -> None:
        """Climb the limits that these points are near to, and the limits of those."""
        points = _distinct(points)
        while points:
            point = points.pop()
            ratios = point.tau2 / self._v
            smallest = ratios.min()
            for ratio in _SMALL_RATIOS:
                if smallest >= ratio:
                    break
                found = self._try_limit(ratios >= ratio, point)
                points += [found] if found else []

    def _join(self, best: Point) -> None:
        """Climb the limits in which the studies that keep their τ² at two good limits all do."""
        good = sorted(self._limits.values(), key=_value)[-_JOINED:]
        for one, other in combinations([point.limit for point in good if point.limit], 2):
            self._try_limit(~(one.zero & other.zero), best)

    def _try_limit(self, free: Mask, origin: Point) -> Point | None:
        if free.all() or free.tobytes() in self._tried:
            return None
        self._tried.add(free.tobytes())
        limit = self._cone.limit(free)
        if limit is None or limit.zero.tobytes() in self._limits:
            return None
        start = _regress(
            np.log(origin.tau2 + 1e-3 * self._v)[~limit.zero] - self._offset[~limit.zero],
            self._Z[np.ix_(~limit.zero, limit.kept)],
        )
        (point,) = self._surface(limit=limit).climb([start])
        self._limits[limit.zero.tobytes()] = point
        return point

    def _returns(self, best: Point) -> Iterator[Array]:
        """Starts inside near the limits that are worth it, at several distances; once for each."""
        for key, point in self._limits.items():
            if point.limit is None or key in self._returned or point.value < best.value - _WORTH:
                continue
            self._returned.add(key)
            zero, kept = point.limit.zero, list(point.limit.kept)
            log_v = np.log(self._v)
            alpha = np.zeros(self._Z.shape[1])
            finite = np.log(np.maximum(point.tau2, self._v))[~zero] - self._offset[~zero]
            alpha[kept] = _regress(finite, self._Z[np.ix_(~zero, kept)])
            _, direction = self._cone.signs(zero)
            for ratio in _RETURNS:
                wanted = math.log(ratio) + log_v[zero] - self._offset[zero]
                far = (wanted - self._Z[zero] @ alpha) / (self._Z[zero] @ direction)
                yield alpha + max(0.0, float(far.max())) * direction

    def _at_limit(self, inside: Point, *, anywhere: bool = False) -> Point:
        """The limit that a point inside is on its way to, or else the point itself.

        A higher limit elsewhere counts too where `anywhere` says so. Equal values alone prove
        nothing: the likelihood may not depend on some τ² at all. Of equal limits, the one with most
        studies without heterogeneity says it most simply.
        """
        vanished = inside.tau2 < _VANISHED * self._v
        slack = _slack(inside)
        found = [
            (point.value, int(limit.zero.sum()), point)
            for point in self._limits.values()
            if (limit := point.limit) is not None
            and point.value >= inside.value - slack
            and (vanished[limit.zero].all() or (anywhere and point.value > inside.value + slack))
        ]
        highest = max((value for value, _, _ in found), default=inside.value)
        equal = [(zeros, point) for value, zeros, point in found if value >= highest - slack]
        return max(equal, key=lambda pair: pair[0])[1] if equal else inside


def _distinct(points: list[Point]) -> list[Point]:
    """One point of each maximum; many climbs end at the same."""
    return list(
        {(round(point.value, 7), *np.round(point.rotated, 4)): point for point in points}.values()
    )


def _slack(point: Point) -> float:
    return _EQUAL * max(1.0, abs(point.value))


def _value(point: Point) -> float:
    return point.value


def _corners(Z: Array) -> Iterator[Mask]:
    """Sets of studies that could be the only ones with τ², or the only ones without."""
    yield np.zeros(len(Z), dtype=bool)
    if len(Z) > _MANY_STUDIES or Z.shape[1] == 1:
        return
    rows, which = np.unique(Z, axis=0, return_inverse=True)
    if len(rows) <= _MANY_ROWS:
        for j in range(len(rows)):
            yield which == j
            yield which != j
        return
    for column in rows.T:
        yield which == int(np.argmin(column))
        yield which == int(np.argmax(column))


def _regress(log_tau2: Array, Z: Array) -> Array:
    if not Z.shape[1]:
        return np.zeros(0)
    return np.asarray(np.linalg.lstsq(Z, log_tau2, rcond=None)[0])


class _Cloud:
    """Random starts around a point, in coordinates in which neither units nor origins matter."""

    def __init__(self, inside: Surface, studies: int) -> None:
        # The signs of a QR decomposition are arbitrary; without them the cloud does not turn.
        signs = np.copysign(1.0, np.diag(inside.forth))
        self._forth, self._back = signs[:, None] * inside.forth, inside.back * signs
        self._size = 0 if studies > _MANY_STUDIES else _CLOUD * len(signs)
        self._random = np.random.default_rng(0)

    def around(self, alpha: Array) -> list[Array]:
        """Starts around `alpha` (q,), some near and some far."""
        far = float(np.linalg.norm((self._forth @ alpha)[1:]))
        radii = np.resize([*_RADII, far], self._size)[:, None]
        steps = radii * self._random.normal(size=(self._size, len(alpha)))
        return list(alpha + steps @ self._back.T)
