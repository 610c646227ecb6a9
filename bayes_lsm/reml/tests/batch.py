"""Refits for the intervals until these use `search.refits`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from bayes_lsm.design import exchangeable as exchange
from bayes_lsm.design.clusters import Cluster
from bayes_lsm.design.design import Design
from bayes_lsm.design.exchangeable import PartName
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.rows.closed_form import estimate_location
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search.refits import Starts
from bayes_lsm.reml.search.rows_refits import climb_highest, common_start
from bayes_lsm.reml.search.surface import Surface
from bayes_lsm.reml.tests.permutations import Orders
from bayes_lsm.specification import Method

if TYPE_CHECKING:
    from bayes_lsm.likelihood.rows.ascent import Summits

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_STEEP = 3.0
_DIVERGING = 1e-6


@dataclass(frozen=True, eq=False)
class Refits:
    """Highest points of the log-likelihoods of m simulated sets of effects.

    Attributes
    ----------
    value : ndarray, shape (m,)
        The log-likelihood.
    alpha : ndarray, shape (m, q)
        In the coordinates of the design.
    information : ndarray, shape (m, q, q)
        −H in coordinates in which the columns of Z are orthogonal with mean square 1.
    beta : ndarray, shape (m, p)
    converged : ndarray of bool, shape (m,)
    log_tau2 : ndarray, shape (m, n)
    """

    value: Array
    alpha: Array
    information: Array
    beta: Array
    converged: Mask
    log_tau2: Array


class Refitter:
    """Fits of one design to other effects.

    Parameters
    ----------
    v : ndarray, shape (n,)
    X : ndarray, shape (n, p)
    Z : ndarray, shape (n, q)
    method : {"REML", "ML"}
    """

    def __init__(self, v: Array, X: Array, Z: Array, method: Method) -> None:
        self._surface = Surface(np.zeros_like(v), v, X, Z, method)
        self._v, self._X, self._Z = v, X, self._surface.rotated_Z

    def refit(self, Y: Array, log_tau2: Array, *more: Array) -> Refits:
        """Fit each row of Y (m, n).

        `log_tau2` (n,) or (m, n), and what follows, are further places to start from.
        """
        best = climb_highest(
            self._starts(Y, log_tau2, *more), self._surface.problem, effects=np.ascontiguousarray(Y)
        )
        return Refits(
            value=best.value + self._surface.constant,
            alpha=best.alpha @ self._surface.back.T,
            information=-best.hessian,
            beta=best.beta,
            converged=best.converged & np.isfinite(best.value),
            log_tau2=best.alpha @ self._Z.T,
        )

    def _starts(self, Y: Array, *log_tau2: Array) -> Iterator[Array]:
        """Starting points (m, q), or (q,) for all: moments, residuals, what is known, slopes."""
        v, n = self._v, len(self._v)
        Q = estimate_location(v, v + np.mean(v), self._X).basis
        root = np.sqrt(v + np.mean(v))
        residuals = Y - (Y / root @ Q) @ Q.T * root
        spread = n / max(1, n - Q.shape[1]) * np.mean(residuals**2 - v, axis=1)
        common = np.log(np.maximum(spread, 0.05 * np.median(v)))
        level = np.mean(self._Z, axis=0)  # the coefficients that come nearest to ln τ² = 1
        yield common[:, None] * level
        yield (common - math.log(10.0))[:, None] * level
        yield np.log(np.maximum(residuals**2 - v, 0.05 * v)) @ self._Z / n
        for known in log_tau2:
            yield np.maximum(known, np.log(1e-3 * v)) @ self._Z / n
        for j in range(1, self._Z.shape[1]):
            for slope in (-_STEEP, _STEEP):
                yield common[:, None] * level + slope * np.eye(len(level))[j]


@dataclass(frozen=True, eq=False)
class PermutedFits:
    """Refits of m permutations.

    Attributes
    ----------
    alpha : ndarray, shape (m, q)
    information : ndarray, shape (m, q, q)
        −H of `alpha`, in the coordinates in which Z is orthogonal.
    back : ndarray, shape (q, q)
        From those coordinates to the design's.
    beta, covariance : ndarray, shapes (m, p) and (m, p, p)
    diverged, failed : ndarray of bool, shape (m,)
    """

    alpha: Array
    information: Array
    back: Array
    beta: Array
    covariance: Array
    diverged: Mask
    failed: Mask

    @classmethod
    def of(cls, summits: Summits, back: Array) -> Self:
        """Where ascents ended, whose coordinates `back` (q, q) takes to the design's."""
        failed = ~(summits.converged & np.isfinite(summits.value))
        information = -summits.hessian
        information[failed] = np.eye(len(back))
        return cls(
            alpha=summits.alpha,
            information=information,
            back=back,
            beta=summits.beta,
            covariance=summits.covariance,
            diverged=is_diverging(information) & ~failed,
            failed=failed,
        )

    def statistics(self, part: PartName, tested: list[int]) -> tuple[Array, Array]:
        """z of each coefficient (m, terms), and joint χ² of the `tested` (m,)."""
        if part == "location":
            estimate, covariance = self.beta, self.covariance
            z = estimate / np.sqrt(np.einsum("ijj->ij", covariance))
        else:
            estimate, covariance, blind = self._scale_covariances()
            z = np.where(blind, 0.0, estimate / np.sqrt(np.einsum("ijj->ij", covariance)))
        chosen = estimate[:, tested]
        V = covariance[:, tested][:, :, tested]
        with np.errstate(all="ignore"):
            joint = np.einsum("ij,ij->i", chosen, _solve(V, chosen))
        if part == "scale":
            for i in np.flatnonzero(self.diverged):
                joint[i] = self._joint_at_limit(int(i), tested)
        z[self.failed], joint[self.failed] = np.inf, np.inf
        return z, joint

    def _scale_covariances(self) -> tuple[Array, Array, Mask]:
        """Of α: estimates, covariances of what is finite, and which coefficients diverge."""
        estimate = self.alpha @ self.back.T
        information = self.information.copy()
        information[self.diverged | self.failed] = np.eye(self.back.shape[0])
        covariance = self.back @ np.linalg.inv(information) @ self.back.T
        blind = np.zeros(estimate.shape, dtype=bool)
        for i in np.flatnonzero(self.diverged):
            values, vectors = np.linalg.eigh(self.information[i])
            informed = values > _DIVERGING
            directions = self.back @ vectors
            size = np.linalg.norm(directions, axis=1)
            blind[i] = np.linalg.norm(directions[:, ~informed], axis=1) > 1e-6 * size
            kept = directions[:, informed]
            covariance[i] = kept / values[informed] @ kept.T
            covariance[i][blind[i], blind[i]] = 1.0
        return estimate, covariance, blind

    def _joint_at_limit(self, i: int, tested: list[int]) -> float:
        """χ² of what is left to be tested: a'I a with the information I on the tested ones.

        Along the direction of divergence I is 0, so that it does not matter how far α has run.
        """
        forth = np.linalg.inv(self.back)
        information = forth.T @ self.information[i] @ forth
        others = [j for j in range(len(forth)) if j not in tested]
        alpha = (self.back @ self.alpha[i])[tested]
        efficient = information[np.ix_(tested, tested)]
        if others:
            cross = information[np.ix_(others, tested)]
            nuisance = information[np.ix_(others, others)]
            efficient = efficient - cross.T @ np.linalg.pinv(nuisance, 1e-9, hermitian=True) @ cross
        return max(0.0, float(alpha @ efficient @ alpha))


def _solve(V: Array, b: Array) -> Array:
    """V⁻¹b of each i; nan where V is singular."""
    try:
        return np.linalg.solve(V, b[..., None])[..., 0]
    except np.linalg.LinAlgError:
        return (np.linalg.pinv(V) @ b[..., None])[..., 0]


class Shuffler:
    """Refits of a fit's effects with the moderators of one part reordered."""

    def __init__(self, fit: Estimates, part: PartName, *, starts: Starts = "one") -> None:
        design = fit.design
        names, moderators = getattr(design, part).names, getattr(design, part).matrix
        if np.ptp(moderators, axis=0).max() == 0:
            raise FitError(
                f"there is nothing to permute: the {part} part has no moderators, only "
                f"{', '.join(names)}; use part={'location' if part == 'scale' else 'scale'!r}, or "
                "give a formula with moderators"
            )
        self.moderators = moderators
        surface = Surface(design.y, design.v, design.X, design.Z, fit.method)
        self.back, Z = surface.back, surface.rotated_Z
        self._problem = surface.problem
        self._part = part
        start = common_start(design.y, design.v, design.X, Z)
        steps = _STEEP * np.eye(len(start))[1 if starts == "several" else len(start) :]
        self._starts = [start, *(start + sign * step for step in steps for sign in (-1, 1))]

    def refit(self, orders: Orders) -> PermutedFits:
        """Fit each reordering (m, n)."""
        best = climb_highest(self._starts, self._problem, orders=orders, part=self._part)
        return PermutedFits.of(best, self.back)


def is_diverging(information: Array) -> Mask:
    """Whether ascents ended on the way to infinity, by their information (m, q, q)."""
    return np.asarray(np.linalg.eigvalsh(information)[:, 0] < _DIVERGING)


def exchangeable(
    design: Design, part: PartName, cluster: Cluster | None
) -> tuple[Array, Callable[[Orders], Design]]:
    found = exchange.exchangeable(design, part, cluster)
    return found.moderators, found.reorder
