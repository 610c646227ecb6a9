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
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt

from bayes_lsm.reml.divergence import split_space
from bayes_lsm.reml.search.geometry import MANY_STUDIES, Face, random_steps, steep_slopes
from bayes_lsm.reml.search.surface import Point, Surface
from bayes_lsm.specification import Method

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
# τ²/v that is given back to a study without heterogeneity, to see whether it loses it again, and
# below which it has.
_RETURNED, _PRESENT = 1e-2, 1e-3
# Where climbs back from a limit start: the largest τ²/v of the studies that have none at the limit.
_RETURNS = (1e-1, 1e-4)
# A limit lower than the best point by more than this is not worth returning from.
_WORTH = 5.0
# That many of the best limits are joined in pairs.
_JOINED = 6
_ROUNDS = 5
# Random starts for each coefficient, and how far from their centre they lie, in ln τ²; the last
# ones as many times farther as the centre is from a common τ².
_CLOUD = 6
_RADII = (1.0, 3.0, 8.0, 1.0)
# Outlying studies to go through, slopes in ln τ² for each SD of a moderator, and how many of the
# best of these starts are climbed from for each coefficient.
_OUTLIERS = 6
_SLOPES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_STEEP = 3
# With more than one slope there is more room for peaks: that many times the random starts and the
# steep ones.
_MORE = 2
# With more than one slope, that many oblique directions for each coefficient.
_OBLIQUE = 12


class Search:
    """The search for the highest point of one log-likelihood.

    Attributes
    ----------
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
        n, q = Z.shape
        self._v, self._log_v = v, np.log(v)
        self._offset = np.zeros(n) if offset is None else offset
        self._inside = Surface(y, v, X, Z, method, offset=offset)
        self._geometry = self._inside.geometry
        self._tried: set[bytes] = set()
        self._limits: dict[Face, Point] = {}
        self._returned: set[Face] = set()
        small = n <= MANY_STUDIES
        many = q * small * (_MORE if q > 2 else 1)
        self._steps = random_steps(_ROUNDS + 1, _CLOUD * many, q, _RADII)
        given = np.zeros((0, q)) if start is None else (self._inside.forth @ start)[None]
        starts = self._inside.first_starts(
            given,
            steep_slopes(q, _SLOPES, _OBLIQUE),
            pivots=_OUTLIERS,
            kept=_STEEP * many,
        )
        cloud = self._cloud(starts[0], 0)
        self._reached, leads_to = self._inside.climb_distinct(np.concatenate([starts, cloud]))
        points = self._inside.points(self._reached)
        home = max((points[i] for i in leads_to[:_ORDINARY]), key=_value)
        highest = self._explore(points)
        self._highest = self._at_limit(highest, self._limits, anywhere=True)
        self._near = self._at_limit(home, self._limits_of(home))
        self.stop = home.ordinary_alpha
        higher = self._highest.value - self._near.value
        self._is_undecided = _slack(self._highest) < higher < _UNDECIDED

    @cached_property
    def best(self) -> Point:
        """The highest point, or that which ordinary starts lead to if the data do not choose."""
        return self._informed(self._near if self._is_undecided else self._highest)

    @cached_property
    def rival(self) -> Point | None:
        """Then the highest."""
        return self._informed(self._highest) if self._is_undecided else None

    def _explore(self, points: list[Point]) -> Point:
        """Alternate between limits and points inside, until nothing higher is found."""
        best = max(points, key=_value)
        for face in self._geometry.corners:
            self._climb_limit(face, best)
        for turn in range(_ROUNDS):
            self._follow(points)
            self._join(best)
            known = len(self._reached.value)
            starts = [self._cloud(best.rotated, turn + 1), *self._returns(best)]
            self._reached, _ = self._inside.climb_distinct(np.concatenate(starts), self._reached)
            points = self._inside.points(self._reached, known)
            higher = max(points, key=_value, default=best)
            if higher.value <= best.value + _slack(best):
                break
            best = higher
        self._follow(points)
        return best

    def _cloud(self, centre: Array, turn: int) -> Array:
        """Random starts around a point (q,), some near and some far, shape (m, q)."""
        cloud: Array = self._steps[turn] + 0.0
        cloud[len(_RADII) - 1 :: len(_RADII)] *= math.sqrt(float(centre[1:] @ centre[1:]))
        cloud += centre
        return cloud

    def _follow(self, points: list[Point]) -> None:
        """Climb the limits that these points are near to, and the limits of those."""
        points = list(points)
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
        good = sorted(self._limits.items(), key=lambda item: item[1].value)[-_JOINED:]
        for (one, _), (other, _) in combinations(good, 2):
            self._try_limit(one.free | other.free, best)

    def _try_limit(self, free: Mask, origin: Point) -> Point | None:
        key = free.tobytes()
        if key in self._tried:
            return None
        self._tried.add(key)
        face = None if free.all() else self._geometry.face(free)
        return None if face is None else self._climb_limit(face, origin)

    def _climb_limit(self, face: Face, origin: Point) -> Point | None:
        """The highest point of a limit, unless it is known already."""
        if face in self._limits:
            return None
        self._limits[face] = self._climb_from(origin, face)
        return self._limits[face]

    def _climb_from(self, origin: Point, face: Face) -> Point:
        wanted = np.log(origin.tau2 + 1e-3 * self._v) - self._offset
        start = face.regress(wanted[face.free])
        (point,) = self._inside.at(face).climb_rotated(start[None])
        return point

    def _limits_of(self, inside: Point) -> dict[Face, Point]:
        """The limits that this point is on its way to, climbed from there.

        One limit can have several summits, and what is known of it may be another of them.
        """
        vanished = inside.tau2 < _VANISHED * self._v
        return {
            face: self._climb_from(inside, face)
            for face in self._limits
            if vanished[face.limit.zero].all()
        }

    def _returns(self, best: Point) -> list[Array]:
        """Starts inside near the limits that are worth it, at several distances; once for each."""
        found = []
        for face, point in self._limits.items():
            if face in self._returned or point.value < best.value - _WORTH:
                continue
            self._returned.add(face)
            log_tau2 = np.log(np.maximum(point.tau2, self._v)) - self._offset
            alpha = face.inside(log_tau2[face.free])
            columns, speeds = face.descent
            zero = face.limit.zero
            short = self._log_v[zero] - self._offset[zero] - alpha @ columns
            for ratio in _RETURNS:
                far = float(((math.log(ratio) + short) / speeds).max())
                found.append((alpha + max(0.0, far) * face.direction)[None])
        return found

    def _at_limit(
        self, inside: Point, limits: dict[Face, Point], *, anywhere: bool = False
    ) -> Point:
        """The limit that a point inside is on its way to, or else the point itself.

        A higher limit elsewhere counts too where `anywhere` says so. Equal values alone prove
        nothing: the likelihood may not depend on some τ² at all. Of equal limits, the one with most
        studies without heterogeneity says it most simply.
        """
        vanished = inside.tau2 < _VANISHED * self._v
        slack = _slack(inside)
        found = [
            (point.value, int(face.limit.zero.sum()), point)
            for face, point in limits.items()
            if point.value >= inside.value - slack
            and (
                vanished[face.limit.zero].all() or (anywhere and point.value > inside.value + slack)
            )
        ]
        highest = max((value for value, _, _ in found), default=inside.value)
        equal = [(zeros, point) for value, zeros, point in found if value >= highest - slack]
        return max(equal, key=lambda pair: pair[0])[1] if equal else inside

    def _informed(self, point: Point) -> Point:
        """The same, with the τ² that only seem to be gone put back.

        Where the likelihood does not depend on a study's τ², it has the same value without it. So
        what a limit took is given back, a little of it, and climbed from: what the data send to 0
        returns there, and what stays away from it at no loss they say nothing of.
        """
        if point.limit is None:
            return point
        zero, geometry = point.limit.zero, self._geometry
        columns, lost = geometry.coordinates.columns, geometry.coordinates.columns[:, zero]
        tau2 = np.where(zero, _RETURNED * self._v, np.maximum(point.tau2, np.finfo(float).tiny))
        log_tau2 = np.log(tau2) - self._offset
        start = geometry.face_of(point.limit).inside(log_tau2[~zero])
        _, move = split_space(columns[:, ~zero].T, len(start))
        start = start + move @ np.linalg.lstsq(lost.T @ move, log_tau2[zero] - start @ lost)[0]
        (back,) = self._inside.climb_rotated(start[None])
        gone = zero & (back.tau2 < _PRESENT * self._v)
        if (gone == zero).all() or back.value < point.value - _slack(point):
            return point
        if not gone.any():
            return back
        face = geometry.face(~gone)
        if face is None or (face.limit.zero != gone).any():
            return point  # what is not known goes along with what is gone
        found = self._climb_from(back, face)
        return found if found.value >= point.value - _slack(point) else point


def _slack(point: Point) -> float:
    return _EQUAL * max(1.0, abs(point.value))


def _value(point: Point) -> float:
    return point.value
