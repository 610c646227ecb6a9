"""One log-likelihood of scale coefficients as a search sees it: inside, or at a limit at infinity.

Whatever the scale terms, their effects stand in one row here, those of all groups of the first term
first, and Z is block-diagonal. So a limit of several terms is one of Z, like that of one. A
`Surface` climbs from any number of starts, in coordinates in which the scale moderators are
orthonormal, so that neither their units nor their means change the path. A `Point` is where a climb
ended. How it climbs, and from where at first, is the solver's: `rows_surface`, `blocks_surface`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from bayes_lsm.arrays import Array, Index, Mask
from bayes_lsm.links import tau2_from_log
from bayes_lsm.reml.divergence import Limit
from bayes_lsm.reml.search.geometry import Coordinates, Face, Geometry

# Information on a combination of ln τ² (SE 10,000) below which there is none.
_NO_INFORMATION = 1e-8
# A coefficient's share of a direction, below which that is rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Point:
    """Where a climb ended, inside or at a limit; −inf where the value cannot be computed.

    In the surface's coordinates, κ after those of ln τ², the coefficients are `rotated`, and
    `ordinary` where an optimiser with an ordinary tolerance would have stopped; so is the
    `hessian`.
    """

    surface: Surface
    rotated: Array
    ordinary: Array
    hessian: Array
    value: float
    beta: Array
    vcov_location: Array
    converged: bool

    @property
    def limit(self) -> Limit | None:
        """The limit that was climbed, or None inside."""
        return self.surface.limit

    @property
    def alpha(self) -> Array:
        """Coefficients of all columns of Z, or of those kept at the limit."""
        return self.surface.back @ self.rotated[: len(self.surface.back)]

    @property
    def kappa(self) -> Array:
        """The κ of the correlations that are left, term by term."""
        return self.rotated[len(self.surface.back) :]

    @cached_property
    def tau2(self) -> Array:
        """τ² of each effect, shape (n,)."""
        return self.surface.tau2(self.rotated)

    @cached_property
    def sizes(self) -> Array:
        """The τ² at which an effect counts as much as the rest of its rows' variance, (n,)."""
        return self.surface.sizes(self.tau2)

    @cached_property
    def covariance_across(self) -> Array:
        """Of `alpha` and κ across the directions without information, which it leaves out."""
        directions, values, informed = self._axes
        known = directions[:, informed]
        return np.asarray(known / values[informed] @ known.T)

    @property
    def covariance(self) -> Array:
        """The inverse of −H; nan for coefficients without information."""
        covariance, lost = self.covariance_across.copy(), self.blind.any(axis=1)
        covariance[lost, :] = covariance[:, lost] = np.nan
        return covariance

    @cached_property
    def blind(self) -> Array:
        """Directions of `alpha` and κ (m, b) in which the likelihood is flat."""
        directions, _, informed = self._axes
        flat = directions[:, ~informed]
        if not flat.shape[1]:
            return flat
        size = np.linalg.norm(directions, axis=1, keepdims=True)
        return np.where(np.abs(flat) > _ROUNDING * size, flat, 0.0)

    @cached_property
    def _axes(self) -> tuple[Array, Array, Mask]:
        values, vectors = np.linalg.eigh(-self.hessian)
        q = len(self.surface.back)
        directions = np.concatenate([self.surface.back @ vectors[:q], vectors[q:]])
        return directions, values, values > _NO_INFORMATION


@dataclass(frozen=True)
class Effort:
    """How much a search does, by what a climb costs.

    So many of the first starts are those of any optimiser (`ordinary`); so many (`clouds`) have a
    `cloud` of random starts around them. There are `rounds` of climbs from around the best point
    and from near good limits, of which each round returns from so many (`returns`); so many of the
    first summits are starts of every limit, too (`origins`), and so many of the best limits are
    `joined` in pairs. Up to `corner_rows` different rows of a term each is a corner; else the
    extreme ones. Log-likelihoods nearer than `equal`, relative to their size, are the same up to
    rounding. τ² when a climb starts at a limit, relative to `Point.sizes`, is at least `floor`;
    when it returns, `least`.
    """

    ordinary: int
    cloud: int
    clouds: int
    rounds: int
    origins: int
    returns: int
    joined: int
    corner_rows: int
    equal: float
    floor: float
    least: float


class Surface(ABC):
    """The log-likelihood of ln τ² = offset + Zα and κ, profiled over β; `geometry` is of Z.

    At a `limit` some effects have τ² = 0, and only some columns of Z count. `forth` and `back` lead
    from coefficients of these to the coordinates, and back, and `columns` (q, n) are they in them;
    `spread` is of random steps there; `offset` (n,), or empty, is what fixed coefficients add to
    ln τ².
    """

    geometry: Geometry
    limit: Limit | None
    forth: Array
    back: Array
    columns: Array
    offset: Array
    effort: Effort
    spread: Array | float = 1.0

    def _lie_in(self, limit: Limit | None, coordinates: Coordinates) -> None:
        self.limit, self.columns = limit, coordinates.columns
        self.forth, self.back = coordinates.forth, coordinates.back

    def at(self, face: Face) -> Self:
        """The surface of a limit of this one."""
        there = object.__new__(type(self))
        there.__dict__.update(self.__dict__)
        there._lie_in(face.limit, face.coordinates)
        there._prepare()
        return there

    def inside(self, natural: Array) -> Array:
        """Coefficients and κ of all terms, as the likelihood takes them, in the coordinates."""
        return np.asarray(self.forth @ natural)

    def natural(self, rotated: Array) -> Array:
        """The inverse of `inside`."""
        return np.asarray(self.back @ rotated)

    def allows(self, face: Face) -> bool:
        """Whether every row keeps a variance at a limit."""
        return True

    @property
    def n_correlations(self) -> int:
        """How many κ there are."""
        return 0

    def tau2(self, rotated: Array) -> Array:
        """τ² of each effect (n,), at coefficients in the surface's coordinates."""
        eta = rotated[: len(self.columns)] @ self.columns
        if len(self.offset):
            eta = self.offset + eta
        values = tau2_from_log(eta)
        return values if self.limit is None else np.where(self.limit.zero, 0.0, values)

    def shift(self, log_tau2: Array) -> Array:
        """What the coefficients have to give of some ln τ² (n,)."""
        return log_tau2 - self.offset if len(self.offset) else log_tau2

    @property
    def steep_steps(self) -> Array:
        """Steps (m, q) that a round takes from its best point besides random ones."""
        return np.zeros((0, 1))

    @abstractmethod
    def _prepare(self) -> None:
        """What there is to be climbed, at the limit that the surface is at."""

    @abstractmethod
    def sizes(self, tau2: Array) -> Array:
        """See `Point.sizes`."""

    @abstractmethod
    def first_starts(self, given: Sequence[Array]) -> Array:
        """Where a search begins (m, q), in the coordinates; the first of them ordinary."""

    @abstractmethod
    def climb(self, starts: Array) -> list[Point]:
        """Climb from each of some coefficients (m, q) in the coordinates; one point for each."""

    @abstractmethod
    def reach(self, starts: Array) -> tuple[list[Point], Index]:
        """The same, but only what was not reached before; and to which each start leads."""
