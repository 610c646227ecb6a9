"""What a scale matrix alone says about the search: coordinates, limits at infinity, corners.

None of it depends on the effects, so that it is kept, for small problems, from one search to the
next: repeated fits of a design, its profiles and its simulated sets find it ready.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache

import numpy as np

from bayes_lsm.arrays import Array, Mask
from bayes_lsm.reml.divergence import Cone, Limit

Parts = tuple[tuple[int, ...], ...]

# With more studies than this the surface is smooth, and corners are not worth their time; nor is
# it worth the memory to keep what was found.
MANY_STUDIES = 3_000
# So many scale matrices are remembered, each with no more limits than this.
_REMEMBERED = 16
_MOST_LIMITS = 500


class Coordinates:
    """Coordinates in which the columns of Z (n, q) are orthogonal with mean square 1.

    So neither the units nor the means of the scale moderators change the path of a climb. `free`
    (n,) are the studies that count, `shares` (q,) of all rows those in which a column counts, if Z
    is block-diagonal. `forth` and `back` (q, q) lead from coefficients of Z to the coordinates, and
    back; `columns` (q, n) is Z in them, by columns.
    """

    def __init__(self, Z: Array, free: Mask | None = None, shares: Array | None = None) -> None:
        counted = Z if free is None else Z[free]
        q = Z.shape[1]
        if q:
            R = np.linalg.qr(counted, mode="r") / math.sqrt(len(counted))
            # The signs of a QR decomposition are arbitrary; these make the diagonal positive.
            self.forth = np.copysign(1.0, np.diag(R))[:, None] * R
            if shares is not None:
                self.forth /= np.sqrt(shares)[:, None]
            self.back = np.linalg.solve(self.forth, np.eye(q))
        else:
            self.forth = self.back = np.zeros((0, 0))
        self.columns = np.ascontiguousarray((Z @ self.back).T)


class Face:
    """A limit at infinity, with all about it that depends on Z alone.

    Its coordinates are of the columns that are kept, for the studies that keep their τ².
    """

    def __init__(self, geometry: Geometry, limit: Limit) -> None:
        self.limit = limit
        self._geometry = geometry
        kept = geometry.Z[:, list(limit.kept)]
        self.free = ~limit.zero
        self.coordinates = Coordinates(kept, self.free, geometry.shares(self.free, limit.kept))

    def regress(self, log_tau2: Array) -> Array:
        """The coefficients, in the limit's coordinates, nearest to ln τ² of its free studies."""
        return np.asarray(self._loadings @ log_tau2)

    def inside(self, log_tau2: Array) -> Array:
        """The α, in the coordinates of all studies, that has such ln τ² in the free studies."""
        return np.asarray(self._lift @ (self._loadings @ log_tau2))

    @cached_property
    def _loadings(self) -> Array:
        free = self.coordinates.columns[:, self.free]
        return np.asarray(free / np.sum(free**2, axis=1, keepdims=True))

    @cached_property
    def _lift(self) -> Array:
        kept = list(self.limit.kept)
        return self._geometry.coordinates.forth[:, kept] @ self.coordinates.back

    @cached_property
    def signs(self) -> tuple[dict[int, float], Array]:
        """Where coefficients go, and a direction (q,); see `Cone.signs`."""
        return self._geometry.cone.signs(self.limit.zero)

    @cached_property
    def direction(self) -> Array:
        """The direction, in the coordinates of all studies."""
        return np.asarray(self._geometry.coordinates.forth @ self.signs[1])

    @cached_property
    def descent(self) -> tuple[Array, Array]:
        """The columns (q, m) of the m studies that lose their τ², and how fast they do so (m,)."""
        columns = self._geometry.coordinates.columns[:, self.limit.zero]
        return columns, self.direction @ columns


class Geometry:
    """The geometry of one scale matrix Z (n, q), made of blocks.

    `parts` are the rows and columns of each: of each scale term.
    """

    def __init__(self, Z: Array, parts: Parts) -> None:
        self.Z = Z
        rows, columns = np.transpose(parts)
        self._parts = parts
        self._owner = np.repeat(np.arange(len(parts)), rows)
        self._column_owner = np.repeat(np.arange(len(parts)), columns)
        self._corners: dict[int, tuple[Face, ...]] = {}
        self.coordinates = Coordinates(Z, shares=self.shares(np.ones(len(Z), dtype=bool)))
        self._asked: dict[bytes, Face | None] = {}
        self._faces: dict[bytes, Face] = {}

    @cached_property
    def cone(self) -> Cone:
        """The cone of the rows of Z."""
        return Cone(self.Z)

    @cached_property
    def constant(self) -> Array:
        """The coefficients, in the coordinates, of ln τ² = 1 everywhere; 0 if there are none."""
        columns = self.coordinates.columns
        found = np.mean(columns, axis=1)
        exact = np.abs(found @ columns - 1.0).max() <= 1e-8
        return found if exact else np.zeros_like(found)

    def regress(self, log_tau2: Array) -> Array:
        """The coefficients, in the coordinates of all studies, nearest to some ln τ² (n,)."""
        columns = self.coordinates.columns
        return np.asarray(columns @ log_tau2 / np.sum(columns**2, axis=1))

    def face(self, free: Mask) -> Face | None:
        """The limit in which the studies `free` keep their τ² and all that can do so lose it."""
        key = free.tobytes()
        if not self.Z.shape[1]:
            return None
        if key not in self._asked:
            if len(self._asked) >= _MOST_LIMITS:
                self._asked.clear()
                self._faces.clear()
            limit = self.cone.limit(free)
            self._asked[key] = None if limit is None else self.face_of(limit)
        return self._asked[key]

    def face_of(self, limit: Limit) -> Face:
        """The face of a limit that is known to be one."""
        key = limit.zero.tobytes()
        if key not in self._faces:
            self._faces[key] = Face(self, limit)
        return self._faces[key]

    def shares(self, free: Mask, columns: Sequence[int] | None = None) -> Array | None:
        """Of some studies those that belong to the term of each column; None if all do."""
        if len(self._parts) == 1:
            return None
        owner = self._column_owner if columns is None else self._column_owner[list(columns)]
        counts = np.bincount(self._owner[free], minlength=len(self._parts))
        return np.asarray(counts[owner] / max(1, int(free.sum())))

    def corners(self, rows: int) -> tuple[Face, ...]:
        """Limits of one row of a term, or of all but one; and those in which a term has no τ².

        A term of more different `rows` than this has its extreme ones as corners.
        """
        if rows not in self._corners:
            found = [self.face(free) for free in self._corner_masks(rows)]
            faces = {id(face): face for face in found if face is not None}
            self._corners[rows] = tuple(faces.values())
        return self._corners[rows]

    def _corner_masks(self, most: int) -> Iterator[Mask]:
        """Sets of studies that could be the only ones with τ², or the only ones without."""
        for t in range(len(self._parts)):
            own, columns = self._owner == t, self._column_owner == t
            yield ~own
            if len(self.Z) > MANY_STUDIES or columns.sum() <= 1 or not most:
                continue
            table = self.Z[np.ix_(own, columns)]
            rows, found = np.unique(table, axis=0, return_inverse=True)
            which = np.full(len(own), -1)
            which[own] = found
            if len(rows) <= most:
                for j in range(len(rows)):
                    yield (which == j) | ~own
                    yield which != j
                continue
            for column in rows.T:
                yield (which == int(np.argmin(column))) | ~own
                yield (which == int(np.argmax(column))) | ~own


def geometry_of(Z: Array, parts: Parts | None = None) -> Geometry:
    """The geometry of Z (n, q), kept for the next search if there are not too many studies."""
    parts = (Z.shape,) if parts is None else parts
    if len(Z) > MANY_STUDIES or not Z.shape[1]:
        return Geometry(Z, parts)
    return _remembered(parts, Z.shape[1], Z.tobytes())


@lru_cache(maxsize=_REMEMBERED)
def _remembered(parts: Parts, columns: int, numbers: bytes) -> Geometry:
    return Geometry(np.frombuffer(numbers).reshape(-1, columns), parts)


@lru_cache(maxsize=16)
def steep_slopes(q: int, slopes: tuple[float, ...], oblique: int) -> Array:
    """Slopes along every axis, up and down, and in random directions, shape (s, q)."""
    between = np.random.default_rng(1).normal(size=(oblique * (q > 2) * q, q))
    between /= np.linalg.norm(between, axis=1)[:, None]
    directions = np.concatenate([np.eye(q), -np.eye(q), between])
    return np.ascontiguousarray((np.array(slopes)[:, None, None] * directions).reshape(-1, q))


@lru_cache(maxsize=16)
def random_steps(rounds: int, size: int, q: int, radii: tuple[float, ...]) -> Array:
    """Normal steps of each of some sizes in turn, the same each time, shape (rounds, size, q)."""
    steps = np.random.default_rng(0).normal(size=(rounds, size, q))
    return np.asarray(np.resize(radii, size)[:, None] * steps)
