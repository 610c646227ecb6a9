"""The highest point of a log-likelihood, wherever it lies: inside, or at a limit at infinity.

The surface can have several local maxima, and more with outlying studies. So climbs start from many
points inside; wherever they stop with τ² near 0 in some effects, and at the corners of the scale
design, the limit in which those lose their τ² is climbed as well; and near the good limits and
around the best point new climbs start. What is returned is the highest of all. A limit is reported
when it is above every point inside, or equal to one that is on its way to it.

No finite search is a proof: on the nastiest datasets of the tests (outliers, k = 6 to 40,
moderators with Cauchy tails) about one in a thousand still has a higher, very sharp peak elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import combinations

import numpy as np

from bayes_lsm.arrays import Array, Mask
from bayes_lsm.reml.divergence import split_space
from bayes_lsm.reml.search.geometry import Face, random_steps
from bayes_lsm.reml.search.surface import Point, Surface

# Log-likelihoods that differ by less (a likelihood ratio of 1.05) do not choose between two maxima.
# Then the one that ordinary starts lead to is returned, as other software does, and the other told.
_UNDECIDED = 0.05
# τ²/size below which an effect may be one whose τ² goes to zero; each gives a limit to be tried.
_SMALL_RATIOS = (1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10)
# τ²/size of an effect whose τ² has gone to zero, when a climb has ended on a flat tail.
_VANISHED = 1e-6
# τ²/size that is given back to an effect without heterogeneity, to see whether it loses it again,
# and below which it has.
_RETURNED, _PRESENT = 1e-2, 1e-3
# Where climbs back from a limit start: the largest τ²/size of the effects that have none there.
_RETURNS = (1e-1, 1e-4)
# A limit lower than the best point by more than this is not worth returning from.
_WORTH = 5.0
# How far random starts lie from their centre, in ln τ²; the last ones as many times farther as the
# centre is from a common τ².
_RADII = (1.0, 3.0, 8.0, 1.0)


class Search:
    """The search for the highest point of a log-likelihood; starts are in its coordinates.

    `stop` is where an ordinary optimiser, started inside, stops.
    """

    def __init__(self, surface: Surface, given: Sequence[Array] = ()) -> None:
        self._inside, self._effort = surface, surface.effort
        self._geometry = surface.geometry
        self._tried: set[bytes] = set()
        self._limits: dict[Face, Point] = {}
        self._returned: set[Face] = set()
        effort = self._effort
        starts = surface.first_starts(given)
        if not starts.shape[1]:  # everything is fixed
            (self.stop,) = surface.climb(starts[:1])
            self._highest = self._near = self.stop
            self._is_undecided = False
            return
        turns = effort.rounds + effort.clouds
        self._steps = random_steps(turns, effort.cloud, starts.shape[1], _RADII)
        clouds = [self._cloud(start, c) for c, start in enumerate(starts[: effort.clouds])]
        points, leads_to = surface.reach(np.concatenate([starts, *clouds]))
        self._origins = _distinct(points)[: effort.origins] if effort.origins else []
        home = max((points[i] for i in leads_to[: effort.ordinary]), key=_value)
        highest = self._explore(points)
        self._highest = self._at_limit(highest, self._limits, anywhere=True)
        self._near = self._at_limit(home, self._limits_of(home))
        self.stop = home
        higher = self._highest.value - self._near.value
        self._is_undecided = self._slack(self._highest) < higher < _UNDECIDED

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
        best, effort = max(points, key=_value), self._effort
        for face in self._geometry.corners(effort.corner_rows):
            self._climb_limit(face, best)
        for turn in range(effort.rounds):
            self._follow(points)
            self._join(best)
            around = best.rotated + self._inside.steep_steps
            starts = [self._cloud(best.rotated, turn + effort.clouds), around, *self._returns(best)]
            points, _ = self._inside.reach(np.concatenate(starts))
            higher = max(points, key=_value, default=best)
            if higher.value <= best.value + self._slack(best):
                break
            best = higher
        self._follow(points)
        return best

    def _cloud(self, centre: Array, turn: int) -> Array:
        """Random starts around a point (q,), some near and some far, shape (m, q)."""
        cloud: Array = self._steps[turn] * self._inside.spread
        cloud[len(_RADII) - 1 :: len(_RADII)] *= math.sqrt(float(centre[1:] @ centre[1:]))
        cloud += centre
        return cloud

    def _follow(self, points: list[Point]) -> None:
        """Climb the limits that these points are near to, and the limits of those."""
        points = list(points)
        while points:
            point = points.pop()
            ratios = point.tau2 / point.sizes
            smallest = ratios.min(initial=math.inf)
            for ratio in _SMALL_RATIOS:
                if smallest >= ratio:
                    break
                found = self._try_limit(ratios >= ratio, point)
                points += [found] if found else []

    def _join(self, best: Point) -> None:
        """Climb the limits in which the effects that keep their τ² at two good limits all do."""
        for one, other in combinations(self._good_limits(self._effort.joined), 2):
            self._try_limit(one.free | other.free, best)

    def _good_limits(self, count: int) -> list[Face]:
        """The best of the limits, the highest last."""
        good = sorted(self._limits, key=lambda face: self._limits[face].value)
        return good[-count:] if count else []

    def _try_limit(self, free: Mask, origin: Point) -> Point | None:
        key = free.tobytes()
        if key in self._tried:
            return None
        self._tried.add(key)
        face = None if free.all() else self._geometry.face(free)
        return None if face is None else self._climb_limit(face, origin)

    def _climb_limit(self, face: Face, origin: Point) -> Point | None:
        """The highest point of a limit, unless it is known already."""
        if face in self._limits or not self._inside.allows(face):
            return None
        self._limits[face] = self._climb_from(face, origin, *self._origins)
        return self._limits[face]

    def _climb_from(self, face: Face, *origins: Point) -> Point:
        """The highest point of a limit that starts near to some points lead to."""
        surface, floor = self._inside.at(face), self._effort.floor
        starts = []
        for origin in origins:
            wanted = self._inside.shift(np.log(origin.tau2 + floor * origin.sizes))
            starts.append(_with(face.regress(wanted[face.free]), surface.n_correlations))
        return max(surface.climb(np.array(starts)), key=_value)

    def _limits_of(self, inside: Point) -> dict[Face, Point]:
        """The limits that this point is on its way to, climbed from there.

        One limit can have several summits, and what is known of it may be another of them.
        """
        vanished = inside.tau2 < _VANISHED * inside.sizes
        return {
            face: self._climb_from(face, inside)
            for face in self._limits
            if vanished[face.limit.zero].all()
        }

    def _returns(self, best: Point) -> list[Array]:
        """Starts inside near the limits that are worth it, at several distances; once for each."""
        found, good = [], set(self._good_limits(self._effort.returns))
        for face, point in self._limits.items():
            known = face in self._returned or face not in good
            if known or point.value < best.value - _WORTH:
                continue
            self._returned.add(face)
            least = self._effort.least * point.sizes
            log_tau2 = self._inside.shift(np.log(np.maximum(point.tau2, least)))
            alpha = face.inside(log_tau2[face.free])
            columns, speeds = face.descent
            short = self._inside.shift(np.log(point.sizes))[face.limit.zero] - alpha @ columns
            for ratio in _RETURNS:
                far = float(((math.log(ratio) + short) / speeds).max())
                found.append(self._back(alpha + max(0.0, far) * face.direction, point)[None])
        return found

    def _back(self, alpha: Array, point: Point) -> Array:
        """A start inside, with the κ of a limit if it has all of them."""
        count = self._inside.n_correlations
        kappa = point.kappa if len(point.kappa) == count else np.zeros(count)
        return np.concatenate([alpha, kappa]) if count else alpha

    def _at_limit(
        self, inside: Point, limits: dict[Face, Point], *, anywhere: bool = False
    ) -> Point:
        """The limit that a point inside is on its way to, or else the point itself.

        A higher limit elsewhere counts too where `anywhere` says so. Equal values alone prove
        nothing: the likelihood may not depend on some τ² at all. Of equal limits, the one with most
        effects without heterogeneity says it most simply.
        """
        vanished = inside.tau2 < _VANISHED * inside.sizes
        slack = self._slack(inside)
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

        Where the likelihood does not depend on some τ², it has the same value without it. So what a
        limit took is given back, a little of it, and climbed from: what the data send to 0 returns
        there, and what stays away from it at no loss they say nothing of.
        """
        if point.limit is None:
            return point
        zero, geometry = point.limit.zero, self._geometry
        columns, lost = geometry.coordinates.columns, geometry.coordinates.columns[:, zero]
        tau2 = np.maximum(point.tau2, np.finfo(float).tiny)
        tau2 = np.where(zero, _RETURNED * point.sizes, tau2)
        log_tau2 = self._inside.shift(np.log(tau2))
        start = geometry.face_of(point.limit).inside(log_tau2[~zero])
        _, move = split_space(columns[:, ~zero].T, len(start))
        start = start + move @ np.linalg.lstsq(lost.T @ move, log_tau2[zero] - start @ lost)[0]
        (back,) = self._inside.climb(self._back(start, point)[None])
        gone = zero & (back.tau2 < _PRESENT * back.sizes)
        if (gone == zero).all() or back.value < point.value - self._slack(point):
            return point
        if not gone.any():
            return back
        face = geometry.face(~gone)
        if face is None or (face.limit.zero != gone).any():
            return point  # what is not known goes along with what is gone
        found = self._climb_from(face, back)
        return found if found.value >= point.value - self._slack(point) else point

    def _slack(self, point: Point) -> float:
        return self._effort.equal * max(1.0, abs(point.value))


def _with(alpha: Array, correlations: int) -> Array:
    """With correlations of 0."""
    return np.concatenate([alpha, np.zeros(correlations)]) if correlations else alpha


def _distinct(points: list[Point]) -> list[Point]:
    """One of the points that are the same."""
    computed = [each for each in points if math.isfinite(each.value)]
    return list({round(each.value, 6): each for each in computed}.values())


def _value(point: Point) -> float:
    return point.value
