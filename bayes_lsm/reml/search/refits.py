"""Fits of many data sets of one design: other effects, or moderators in another order.

What a permutation test and a bootstrap do by the thousand. `refitter_of` picks how: a compiled
batch where effects are independent, a search for each set elsewhere. Both come back as `Refits`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from bayes_lsm.arrays import Array, Index, Mask
from bayes_lsm.design.coefficients import coefficients, scale_places
from bayes_lsm.design.design import Design
from bayes_lsm.design.exchangeable import Exchangeable, PartName
from bayes_lsm.reml.estimates import Estimates

Starts = Literal["one", "several"]
Shift = tuple[int, float]

# Information on a combination of ln τ² (SE 1000) below which an ascent was on its way to infinity:
# it ends there with 1e-12 or less, while even two or three studies with τ² have 0.1.
_DIVERGING = 1e-6


@dataclass(frozen=True, eq=False)
class Refits:
    """Where the likelihoods of m data sets are highest; −inf where one cannot be computed.

    `beta` and `vcov_location` are as the fit's test has them: by Knapp and Hartung, if that is what
    was asked for. `rotated` (m, s) are the free scale coefficients and κ, in coordinates in which
    each term's columns are orthogonal with mean square 1; finite, also where they diverge.
    `information` (m, s, s) is −H there: 0, or next to nothing, along what diverges. `back` leads to
    the design's coordinates, and `places` are where the scale coefficients stand among the s.
    `log_tau2` (m, n) is very negative where a variance vanishes; `correlations` (m, c) are nan
    where a limit took an effect; `infinite` says which scale coefficients of refit i diverge: their
    numbers, and ±inf or nan.
    """

    value: Array
    converged: Mask
    beta: Array
    vcov_location: Array
    rotated: Array
    information: Array
    back: Array
    places: Index
    log_tau2: Array
    correlations: Array
    infinite: Callable[[int], Mapping[int, float]]

    @property
    def failed(self) -> Mask:
        """Whether nothing can be said of a set."""
        return ~self.converged

    @property
    def diverged(self) -> Mask:
        """Whether scale coefficients ran to infinity, or the data say nothing of them."""
        return np.asarray(self._scale[2][:, self.places].any(axis=1))

    @cached_property
    def alpha(self) -> Array:
        """The free scale coefficients (m, q); ±inf or nan where they diverge."""
        found = (self.rotated @ self.back.T)[:, self.places]
        for i in np.flatnonzero(self._is_flat):
            for j, sign in self.infinite(int(i)).items():
                found[i, j] = sign
        return found

    def statistics(self, part: PartName, tested: Sequence[int]) -> tuple[Array, Array]:
        """z of each coefficient of a part (m, terms), and joint χ² of the `tested` (m,).

        Where coefficients diverge these are limits: standard errors grow faster than coefficients,
        so that z → 0, and χ² is that of what is left to be tested. Both are inf where a refit
        failed, so that a test errs on the safe side.
        """
        if part == "location":
            estimate, covariance, chosen = self.beta, self.vcov_location, list(tested)
            z = estimate / np.sqrt(np.einsum("ijj->ij", covariance))
        else:
            estimate, covariance, blind = self._scale
            z = np.where(blind, 0.0, estimate / np.sqrt(np.einsum("ijj->ij", covariance)))
            z, chosen = z[:, self.places], [int(self.places[j]) for j in tested]
        b = estimate[:, chosen]
        V = covariance[:, chosen][:, :, chosen]
        with np.errstate(all="ignore"):
            joint = np.einsum("ij,ij->i", b, _solve(V, b))
        if part == "scale":
            for i in np.flatnonzero(self._is_flat):
                joint[i] = self._joint_at_limit(int(i), chosen)
        z[self.failed], joint[self.failed] = np.inf, np.inf
        return z, joint

    @cached_property
    def _information(self) -> Array:
        """The information, and something invertible where a refit failed."""
        found = self.information
        if self.failed.any():
            found = found.copy()
            found[self.failed] = np.eye(found.shape[1])
        return found

    @cached_property
    def _is_flat(self) -> Mask:
        """Whether the likelihood is flat in some direction, on the way to a limit or everywhere."""
        if not self.information.shape[1]:
            return np.zeros(len(self.value), dtype=bool)
        least = np.linalg.eigvalsh(self._information)[:, 0]
        return np.asarray((least < _DIVERGING) & ~self.failed)

    @cached_property
    def _scale(self) -> tuple[Array, Array, Mask]:
        """Of α and κ: estimates, covariances of what is finite, and which coefficients diverge."""
        estimate = self.rotated @ self.back.T
        information = self._information.copy()
        information[self._is_flat] = np.eye(len(self.back))
        covariance = self.back @ np.linalg.inv(information) @ self.back.T
        blind = np.zeros(estimate.shape, dtype=bool)
        for i in np.flatnonzero(self._is_flat):
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
        alpha = (self.back @ self.rotated[i])[tested]
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


class Refitter(ABC):
    """Refits of what a fit was made of; what it holds fixed is an offset of ln τ²."""

    def __init__(self, fit: Estimates) -> None:
        self._fit, self._design = fit, held(fit)[0]

    @property
    @abstractmethod
    def work(self) -> int:
        """How long one refit takes, for `batches`."""

    @abstractmethod
    def effects(self, Y: Array, near: Sequence[Array] = ()) -> Refits:
        """Fit each row of Y (m, n) in place of the effects.

        `near`: ln τ² of the rows, (n,) or (m, n), to start from as well. Only independent effects
        have a use for it; a search of others starts near the fit.
        """

    @abstractmethod
    def orders(
        self,
        what: Exchangeable,
        orders: Index,
        *,
        starts: Starts = "one",
        shift: Shift | None = None,
    ) -> Refits:
        """Fit with each of some orders (m, G) of the clusters' moderators.

        `shift`, a column of the part and a number c: c times this column stays in the model, where
        it is, whatever the order; then each set is climbed once, from a common τ².
        """


def shifted(what: Exchangeable, j: int, c: float) -> Exchangeable:
    """What is permuted, with c times column j in its effects or ln τ²; see `Refitter.orders`."""
    design = what.design
    if what.part == "location":
        return replace(what, design=replace(design, y=design.y - c * design.X[:, j]))
    which, terms = coefficients(design)[j], list(design.terms)
    term = terms[which.t]
    terms[which.t] = replace(term, offset=term.offsets + c * term.Z[:, :, which.j])
    return replace(what, design=replace(design, terms=tuple(terms)))


def held(fit: Estimates) -> tuple[Design, list[int]]:
    """The design with the fixed coefficients held, and the numbers of the free ones."""
    names = [each.label for each in coefficients(fit.design)]
    values = {names.index(name): value for name, value in fit.fixed.items()}
    free = [j for j in range(len(names)) if j not in values]
    return fit.design.hold(values) if values else fit.design, free


def free_part(fit: Estimates, part: PartName) -> tuple[list[str], Array, Array]:
    """The names of the free coefficients of a part, their estimates, and the covariance."""
    if part == "location":
        return list(fit.design.location.names), fit.beta, fit.known_vcov_location
    free = held(fit)[1]
    return [fit.scale_names[j] for j in free], fit.alpha[free], fit.vcov_scale[np.ix_(free, free)]


def free_places(fit: Estimates) -> Index:
    """Where the free coefficients, and κ, stand among all of a fit's."""
    names = [each.label for each in coefficients(fit.design)]
    lost = [
        place
        for name, place in zip(names, scale_places(fit.design), strict=True)
        if name in fit.fixed
    ]
    return np.setdiff1d(np.arange(len(fit.stop)), np.array(lost, dtype=np.intp))
