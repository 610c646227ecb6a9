"""Limits at infinity: scale coefficients without a finite maximum-likelihood estimate.

Along a direction d with z_i'd ≤ 0 for every study, τ_i² → 0 where z_i'd < 0 and stays finite where
z_i'd = 0. The log-likelihood tends to that of the model with τ² = 0 in the first group of studies,
and when that limit lies above every finite point, α̂ does not exist: like separation in logistic
regression. (Directions with z_i'd > 0 somewhere send τ² to infinity, and that never helps.)

Which studies can lose their τ² together is a matter of Z alone: the studies that keep it are those
on a face of the cone of the rows of Z.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import qr

from bayes_lsm.arrays import Array, Mask

# Relative size below which a number is the rounding of 0.
_ZERO = 1e-9


@dataclass(frozen=True)
class Divergence:
    """What runs to infinity, and why.

    Attributes
    ----------
    terms : dict of str to float
        Diverging coefficients: ``-inf``, ``inf``, or nan where the data leave the sign open.
    direction : dict of str to float
        The direction in the coefficients, scaled to a largest component of 1.
    studies : tuple of str
        The studies (of several scale terms the groups, or effects of groups) whose τ² goes to zero.
    everywhere : bool
        Whether those are all there are: no heterogeneity at all.
    one, many : str
        What such a unit is called.
    said : str
        All of it in words, where several scale terms diverge, each in its own way.
    """

    terms: dict[str, float]
    direction: dict[str, float]
    studies: tuple[str, ...]
    everywhere: bool
    one: str = "study"
    many: str = "studies"
    said: str = ""

    def __str__(self) -> str:
        if self.said:
            return self.said
        known = [
            f"{term} to {'+' if sign > 0 else '-'}inf"
            for term, sign in self.terms.items()
            if not math.isnan(sign)
        ]
        unknown = [term for term, sign in self.terms.items() if math.isnan(sign)]
        runs = f"scale coefficient{'s' if len(known) > 1 else ''} {', '.join(known)}"
        also = f"{', '.join(unknown)} not identified"
        what = f"{runs} ({also})" if known and unknown else runs if known else also
        return (
            f"the likelihood has no finite maximum: {what}, because τ² goes to 0 in {self._where}"
        )

    @property
    def _where(self) -> str:
        count = len(self.studies)
        if self.everywhere:
            return f"all {count} {self.many}"
        shown = ", ".join(self.studies[:8]) + (" …" if count > 8 else "")
        return f"the {self.one} {shown}" if count == 1 else f"{count} {self.many}: {shown}"


def together(found: Mapping[str, Divergence], names: Sequence[str]) -> Divergence:
    """What diverges in several scale terms, as one; `names` are those of all coefficients."""
    terms = {f"{name}: {term}": s for name, each in found.items() for term, s in each.terms.items()}
    direction = dict.fromkeys(names, 0.0)
    for name, each in found.items():
        direction |= {f"{name}: {term}": d for term, d in each.direction.items()}
    return Divergence(
        terms=terms,
        direction=direction,
        studies=tuple(study for each in found.values() for study in each.studies),
        everywhere=all(each.everywhere for each in found.values()),
        said="; ".join(f"{name}: {each}" for name, each in found.items()),
    )


@dataclass(frozen=True, eq=False)
class Limit:
    """A model at infinity: τ² is 0 in the studies `zero` (n,), and fewer coefficients are left.

    `kept` are the columns of Z that describe τ² in the other studies.
    """

    zero: Mask
    kept: tuple[int, ...]


class Cone:
    """The rows of a scale matrix Z (n, q), and what can go to zero along them.

    It works in coordinates in which the columns of Z are orthonormal, so that neither the units nor
    the origin of a moderator matter.
    """

    def __init__(self, Z: Array) -> None:
        self.Z = Z
        R = np.linalg.qr(Z, mode="r") / math.sqrt(len(Z))
        self._back = np.linalg.solve(R, np.eye(len(R)))
        self._rows = Z @ self._back

    def limit(self, free: Mask) -> Limit | None:
        """The limit in which the studies `free` keep their τ² and all that can do so lose it."""
        basis = _null_space(self._rows[free], self.Z.shape[1])
        if basis.shape[1] == 0:
            return None
        zero = _can_go(self._rows @ basis)
        return Limit(zero, self._kept_columns(~zero)) if zero.any() else None

    def signs(self, zero: Mask) -> tuple[dict[int, float], Array]:
        """Where the coefficients go when the studies `zero` lose their τ².

        Returns column → -inf, inf or nan (either way) for those without a finite value, and one
        direction (q,). If one coefficient alone can carry the divergence, it is taken to do so.
        """
        basis = _null_space(self._rows[~zero], self.Z.shape[1])
        coefficients = self._back @ basis
        sizes = np.linalg.norm(coefficients, axis=1)
        moved = sizes > _ZERO * np.linalg.norm(self._back, axis=1)
        gone = _distinct(self._rows[zero] @ basis)
        direction = coefficients @ _separate(gone)[0]
        signs = {
            int(j): _shared_sign(coefficients[j] / sizes[j], gone) for j in np.flatnonzero(moved)
        }
        if all(map(math.isnan, signs.values())):
            for j in signs:
                column = self.Z[zero, j]
                if not self.Z[~zero, j].any() and (column.min() > 0 or column.max() < 0):
                    signs[j] = -math.inf if column.min() > 0 else math.inf
                    return signs, np.where(np.arange(len(moved)) == j, np.sign(signs[j]), 0.0)
        direction = np.where(moved, direction, 0.0)
        return signs, direction / np.abs(direction).max()

    def _kept_columns(self, free: Mask) -> tuple[int, ...]:
        """Independent columns for the studies that keep their τ²: first those that stay finite."""
        if not free.any():
            return ()
        basis = _null_space(self._rows[free], self.Z.shape[1])
        rank = self.Z.shape[1] - basis.shape[1]
        moves = np.linalg.norm(self._back @ basis, axis=1)
        moved = moves > _ZERO * np.linalg.norm(self._back, axis=1)
        finite, others = np.flatnonzero(~moved), np.flatnonzero(moved)
        here = self.Z[free] / np.maximum(np.linalg.norm(self.Z[free], axis=0), 1e-300)
        rest = here[:, others]
        if len(finite):
            Q = np.linalg.qr(here[:, finite])[0]
            rest = rest - Q @ (Q.T @ rest)
        _, _, pivots = qr(rest, mode="economic", pivoting=True)
        chosen = [int(others[i]) for i in pivots[: rank - len(finite)]]
        return tuple(sorted([*map(int, finite), *chosen]))


def _null_space(rows: Array, q: int) -> Array:
    """An orthonormal basis (q, m) of the directions along which `rows` (n, q) do not change."""
    if not len(rows):
        return np.eye(q)
    _, sizes, directions = np.linalg.svd(np.linalg.qr(rows, mode="r"), full_matrices=True)
    # Rows are of the order of 1; a block that is all rounding leaves every direction free.
    return np.asarray(directions[int((sizes > _ZERO * max(1.0, sizes[0])).sum()) :].T)


def split_space(rows: Array, q: int) -> tuple[Array, Array]:
    """Orthonormal bases of the row space of `rows` (n, q), and of what is orthogonal to it."""
    if not len(rows):
        return np.zeros((q, 0)), np.eye(q)
    _, sizes, directions = np.linalg.svd(np.linalg.qr(rows, mode="r"), full_matrices=True)
    rank = int((sizes > _ZERO * sizes[0]).sum())
    return directions[:rank].T, directions[rank:].T


def where_to(away: Array, gone: Array) -> Array:
    """Where l'c goes as c grows along any c with ``gone @ c < 0``: −inf, inf, or either (nan).

    One answer for each row l of `away`, (m, q); `gone` is (n, q).
    """
    units = np.unique((gone / np.linalg.norm(gone, axis=1)[:, None]).round(12), axis=0)
    rows = (away / np.linalg.norm(away, axis=1)[:, None]).round(12)
    rows, which = np.unique(rows, axis=0, return_inverse=True)
    found = np.array([_shared_sign(row, units) for row in rows])
    return found[which.reshape(-1)]


def _can_go(rows: Array) -> Mask:
    """The largest set of rows (n, m) with ``rows @ c < 0`` for some c with ``rows @ c <= 0``."""
    sizes = np.linalg.norm(rows, axis=1)
    outside = sizes > _ZERO * max(1.0, sizes.max())
    found = np.zeros(len(rows), dtype=bool)
    if not outside.any():
        return found
    units = rows[outside] / sizes[outside, None]
    found[outside] = _largest(units)
    return found


def _largest(units: Array) -> Mask:
    """Set aside the rows that hold each other at 0, look along the others, and so on."""
    left = np.arange(len(units))
    rows = units
    while len(left):
        _, weights = _separate(rows)
        if weights is None:
            break
        basis = _null_space(rows[weights > _ZERO * weights.max()], rows.shape[1])
        rows = rows @ basis
        sizes = np.linalg.norm(rows, axis=1)
        left, rows = left[sizes > _ZERO], rows[sizes > _ZERO]
        rows = rows / sizes[sizes > _ZERO, None]
    return np.isin(np.arange(len(units)), left)


def _separate(units: Array) -> tuple[Array, Array | None]:
    """A c with ``units @ c < 0``; or, where there is none, weights with which the rows cancel.

    Gordan's theorem: either c exists, or the convex hull of the rows contains 0. The residual of
    the point of the hull nearest to 0 is such a c.
    """
    guess = np.asarray(np.linalg.lstsq(units, -np.ones(len(units)), rcond=None)[0])
    if (units @ guess < -_ZERO).all():
        return guess, None
    from scipy.optimize import nnls

    target = np.r_[np.zeros(units.shape[1]), 1.0]
    hull = np.vstack([units.T, np.ones(len(units))])
    weights, rest = nnls(hull, target, maxiter=100 * len(units) + 1000)
    if rest < _ZERO:
        return guess, weights
    return (target - hull @ weights)[:-1], None


def _shared_sign(coefficient: Array, gone: Array) -> float:
    """±inf if the coefficient has this sign in every c with ``gone @ c < 0``, else nan.

    By Farkas' lemma ``coefficient @ c <= 0`` for all those c just when it is a combination of the
    rows of `gone` with no negative weight.
    """
    from scipy.optimize import nnls

    for sign in (-1.0, 1.0):
        _, rest = nnls(gone.T, -sign * coefficient, maxiter=100 * len(gone) + 1000)
        if rest < _ZERO:
            return sign * math.inf
    return math.nan


def _distinct(rows: Array) -> Array:
    """The different rows; in a plane, only the outermost two directions bound anything."""
    units = rows / np.linalg.norm(rows, axis=1)[:, None]
    if units.shape[1] == 2:
        centre = -_separate(units)[0]
        across = units @ np.array([-centre[1], centre[0]]) / (units @ centre)
        return np.asarray(units[[int(np.argmin(across)), int(np.argmax(across))]])
    return np.unique(units, axis=0)
