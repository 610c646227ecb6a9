"""Where a climb of several scale terms ended: inside, or at a limit that took some variances."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.blocks import blocks
from bayes_lsm.links import tau2_from_log

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Remaining:
    """What is left of one scale term at a limit.

    Attributes
    ----------
    zero : ndarray of bool, shape (G, s)
        Effects without variance.
    kept : tuple of int
        Coefficients that are left.
    """

    zero: Mask
    kept: tuple[int, ...]

    @property
    def effects(self) -> tuple[int, ...]:
        """Which of the s effects of a group have variance in some group; the first, if none has."""
        return tuple(int(k) for k in np.flatnonzero(~self.zero.all(axis=0))) or (0,)

    @property
    def key(self) -> bytes:
        """The same for the same limit."""
        return self.zero.tobytes()


@dataclass(frozen=True, eq=False)
class Spot:
    """Where a climb ended: α of what remains, term by term, and the criterion there."""

    remaining: tuple[Remaining, ...]
    data: blocks.Arranged
    ascent: blocks.Ascent

    @property
    def value(self) -> float:
        """The log-likelihood; −inf where it could not be computed."""
        value = self.ascent.at.value
        return value if np.isfinite(value) else -np.inf

    @cached_property
    def coefficients(self) -> list[tuple[Array, Array]]:
        """α and κ of each term."""
        found, starts = [], self.data.starts
        for t, term in enumerate(self.data.terms):
            both = self.ascent.alpha[starts[t] : starts[t + 1]]
            found.append((both[: term.table.shape[2]], both[term.table.shape[2] :]))
        return found

    @cached_property
    def tau2(self) -> list[Array]:
        """τ² of each term's effects, shape (G, s)."""
        found = []
        for term, left, (alpha, _) in zip(
            self.data.terms, self.remaining, self.coefficients, strict=True
        ):
            values = np.zeros(left.zero.shape)
            values[:, list(left.effects)] = tau2_from_log(term.offsets + term.table @ alpha)
            found.append(np.where(left.zero, 0.0, values))
        return found

    @property
    def is_inside(self) -> bool:
        """Whether every effect has a variance."""
        return not any(left.zero.any() for left in self.remaining)


def shares(design: Design, spot: Spot) -> list[Array]:
    """τ² of each effect as a share of the total variance of its rows, shape (G, s) each."""
    parts = [
        term.slopes**2 * tau2[term.index]
        for term, tau2 in zip(design.terms, spot.tau2, strict=True)
    ]
    total = design.v + sum(part.sum(axis=1) for part in parts)
    found = []
    for term, part in zip(design.terms, parts, strict=True):
        share = np.zeros(term.Z.shape[:2])
        for k in range(share.shape[1]):
            np.maximum.at(share[:, k], term.index, part[:, k] / total)
        found.append(share)
    return found
