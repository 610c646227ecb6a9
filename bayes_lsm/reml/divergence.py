"""Limits at infinity: scale coefficients without a finite maximum-likelihood estimate.

Along a direction d with z_i'd ≤ 0 for every study, τ_i² → 0 where z_i'd < 0 and stays finite where
z_i'd = 0. The log-likelihood tends to that of the model with τ² = 0 in the first group of studies,
and when that limit lies above every finite point, α̂ does not exist: like separation in logistic
regression. (Directions with z_i'd > 0 somewhere send τ² to infinity and the log-likelihood to −∞.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import null_space, qr
from scipy.optimize import linprog

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# τ²/v below which a study may be one whose τ² goes to zero; each gives a candidate to be tried.
_SMALL_RATIOS = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10)
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
        The studies whose τ² goes to zero.
    everywhere : bool
        Whether those are all studies: no heterogeneity at all.
    """

    terms: dict[str, float]
    direction: dict[str, float]
    studies: tuple[str, ...]
    everywhere: bool

    def __str__(self) -> str:
        runs = ", ".join(
            f"{term} to {_signed(value)}" for term, value in self.terms.items() if value == value
        )
        unknown = [term for term, value in self.terms.items() if value != value]
        also = f" ({', '.join(unknown)} not identified)" if unknown else ""
        where = "all" if self.everywhere else "the"
        shown = ", ".join(self.studies[:8]) + (" …" if len(self.studies) > 8 else "")
        return (
            f"the likelihood has no finite maximum: scale coefficient {runs}{also}, because τ² "
            f"goes to 0 in {where} {len(self.studies)} studies {shown}"
        )


def _signed(value: float) -> str:
    return "+inf" if value > 0 else "-inf"


@dataclass(frozen=True, eq=False)
class Limit:
    """A model at infinity: τ² is 0 in some studies, and fewer coefficients are left.

    Attributes
    ----------
    zero : ndarray of bool, shape (n,)
        Studies with τ² = 0.
    kept : tuple of int
        Columns of Z that describe τ² in the other studies.
    signs : dict of int to float
        Column → −inf, +inf or nan for the coefficients without a finite value.
    direction : ndarray, shape (q,)
    """

    zero: Mask
    kept: tuple[int, ...]
    signs: dict[int, float]
    direction: Array


def candidate_limits(Z: Array, ratio: Array) -> list[Limit]:
    """The limits that a point with these τ²/v (n,) may be on its way to; Z is (n, q)."""
    found: dict[bytes, Limit] = {}
    for mask in [ratio < small for small in _SMALL_RATIOS] + [np.ones(len(Z), dtype=bool)]:
        if mask.any() and mask.tobytes() not in found:
            limit = limit_of(Z, mask)
            if limit is not None:
                found[mask.tobytes()] = limit
    return list(found.values())


def limit_of(Z: Array, zero: Mask) -> Limit | None:
    """The limit in which exactly the studies `zero` lose their τ²; None when none exists."""
    q = Z.shape[1]
    units = np.abs(Z).max(axis=0)
    scaled = Z / units
    free, gone = np.unique(scaled[~zero], axis=0), np.unique(scaled[zero], axis=0)
    basis = null_space(free, rcond=_ZERO) if len(free) else np.eye(q)
    if basis.shape[1] == 0:
        return None
    moved = np.abs(basis).max(axis=1) > _ZERO
    direction = _direction(gone @ basis)
    if direction is None:
        return None
    if basis.shape[1] == 1:
        d = basis @ direction
        signs = {int(j): float(np.copysign(np.inf, d[j])) for j in np.flatnonzero(moved)}
    else:
        d, signs = _signs(basis, gone @ basis, np.flatnonzero(moved), basis @ direction)
    return Limit(zero, _kept_columns(free, moved), signs, _scaled(d / units))


def _scaled(direction: Array) -> Array:
    largest = float(np.abs(direction).max())
    return np.where(np.abs(direction) < _ZERO * largest, 0.0, direction / largest)


def _direction(gone: Array) -> Array | None:
    """A c with ``gone @ c < 0`` in every row, or None."""
    m = gone.shape[1]
    if m == 1:
        column = gone[:, 0]
        if (column < -_ZERO).all():
            return np.ones(1)
        return -np.ones(1) if (column > _ZERO).all() else None
    # maximise t subject to gone @ c + t <= 0, |c| <= 1
    program = linprog(
        np.r_[np.zeros(m), -1.0],
        A_ub=np.c_[gone, np.ones(len(gone))],
        b_ub=np.zeros(len(gone)),
        bounds=[(-1, 1)] * m + [(0, None)],
    )
    if program.status != 0 or -program.fun < _ZERO:
        return None
    return np.asarray(program.x[:m])


def _signs(
    basis: Array, gone: Array, moved: npt.NDArray[np.intp], direction: Array
) -> tuple[Array, dict[int, float]]:
    """Signs that every feasible direction shares; nan for the others.

    If one coefficient alone can carry the divergence, it is taken as the one that does.
    """
    m = basis.shape[1]
    signs: dict[int, float] = {}
    for j in moved:
        ends = [
            linprog(
                -sign * basis[j], A_ub=gone, b_ub=-np.ones(len(gone)), bounds=[(None, None)] * m
            )
            for sign in (1.0, -1.0)
        ]
        highest = np.inf if ends[0].status != 0 else -ends[0].fun
        lowest = -np.inf if ends[1].status != 0 else ends[1].fun
        signs[int(j)] = -np.inf if highest <= _ZERO else np.inf if lowest >= -_ZERO else np.nan
    if any(np.isfinite(value) or np.isinf(value) for value in signs.values()):
        return direction, signs
    for j in moved:
        unit = np.zeros(len(basis))
        unit[j] = 1.0
        along = gone @ (np.linalg.pinv(basis) @ unit)
        inside = np.allclose(basis @ (np.linalg.pinv(basis) @ unit), unit)
        for sign in (-1.0, 1.0):
            if inside and (sign * along < -_ZERO).all():
                signs[int(j)] = sign * np.inf
                return sign * unit, signs
    return direction, signs


def _kept_columns(free: Array, moved: Mask) -> tuple[int, ...]:
    """Independent columns for the studies that keep their τ²: first those that stay finite."""
    finite = list(np.flatnonzero(~moved))
    if not len(free):
        return ()
    others = list(np.flatnonzero(moved))
    rest = free[:, others]
    if finite:
        Q = np.linalg.qr(free[:, finite])[0]
        rest = rest - Q @ (Q.T @ rest)
    _, R, pivots = qr(rest, mode="economic", pivoting=True)
    diagonal = np.abs(np.diag(R))
    rank = int((diagonal > _ZERO * max(1.0, float(np.abs(free).max()))).sum())
    return tuple(sorted(finite + [others[i] for i in pivots[:rank]]))
