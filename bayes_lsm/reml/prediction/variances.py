r"""The variance of true effects in some rows, and how it depends on the scale coefficients.

With a scale term's slopes a and ln τ² = Zα of a row's effects, the term's variance in that row is
V = a'Da, D = diag(τ) R diag(τ); that of several terms is their sum. With loads b_k = a_k τ_k,

    ∂V/∂ ln τ_k² = b_k (Rb)_k,     ∂V/∂κ_j = b' ∂R/∂κ_j b,

and γ, the coefficients and κ of all terms, stands behind both (see `Uncertain`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bayes_lsm.arrays import Array, Mask
from bayes_lsm.design.chosen_terms import chosen_terms
from bayes_lsm.design.coefficients import scale_places
from bayes_lsm.design.new_data import NewData, NewTerm
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.links import tau2_from_log
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.scale_values import ScaleValues, scale_values
from bayes_lsm.reml.term_estimate import TermEstimate

# Step of a central difference in κ: its error is the square.
_STEP = 1e-5


@dataclass(frozen=True, eq=False)
class Uncertain:
    """The scale coefficients and κ of all terms, γ ~ Normal(γ̂, C), at a limit those that are left.

    The `estimate` (M,) is `limit_alpha` and κ, term by term, 0 for what a limit took; the
    covariance is 0 for those, for what was fixed and for what is `unknown`: coefficients whose
    uncertainty nobody knows, such as one that a bound holds.
    """

    estimate: Array
    covariance: Array
    unknown: Mask

    @classmethod
    def of(cls, fit: Estimates) -> Uncertain:
        """Of a fit."""
        estimate = np.concatenate([_filled(each) for each in fit.terms.values()])
        places = scale_places(fit.design)
        missing = np.isnan(np.diag(fit.limit_vcov))[places]
        given = np.array([name in fit.fixed for name in fit.scale_names], dtype=bool)
        unknown = np.zeros(len(estimate), dtype=bool)
        unknown[places] = missing & np.isfinite(fit.limit_alpha) & ~given
        return cls(estimate, np.nan_to_num(fit.limit_vcov), unknown)


def _filled(each: TermEstimate) -> Array:
    """γ̂ of a term, as long as without a limit."""
    found = np.zeros(each.term.size)
    known = np.r_[np.nan_to_num(each.limit_alpha), each.kappa]
    found[: len(known)] = known
    return found


def is_identity(fit: Estimates) -> bool:
    """Whether the scale part is τ² itself."""
    return fit.design.specification.link == "identity"


@dataclass(frozen=True, eq=False)
class TermVariance:
    """The variance of one scale term's effects in m rows, whose `slopes` are (m, s).

    `value` is ln τ² of each of the m·s effects (with the identity link τ²), and `coordinates`
    (m, s, M) it as a function of γ, among which the term's coefficients begin at `place`.
    """

    each: TermEstimate
    slopes: Array
    value: ScaleValues
    coordinates: Array
    place: int
    identity: bool

    @property
    def active(self) -> Mask:
        """Which effects a row has, shape (m, s)."""
        return np.asarray(self.slopes != 0)

    @property
    def log_tau2(self) -> Array:
        """ln τ² of the effects, or τ² with the identity link, shape (m, s)."""
        return self.value.estimate.reshape(self.slopes.shape)

    @property
    def se(self) -> Array:
        """Its standard error, shape (m, s)."""
        return self.value.se.reshape(self.slopes.shape)

    @property
    def blind(self) -> Mask:
        """Rows of whose variance the data say nothing, shape (m,)."""
        return np.asarray((self.value.blind.reshape(self.slopes.shape) & self.active).any(axis=1))

    @property
    def correlation_places(self) -> slice:
        """Where its κ are among γ, if all are left."""
        lost = self.each.term.n_correlations != len(self.each.kappa)
        first = self.place + len(self.each.alpha)
        return slice(first, first + (0 if lost else len(self.each.kappa)))

    @cached_property
    def _scaled(self) -> tuple[Array, Array, Array]:
        """Loads b (m, s) relative to the largest, its logarithm (m,), and Rb."""
        with np.errstate(divide="ignore"):
            size = np.where(self.active, 0.5 * self.log_tau2 + np.log(np.abs(self.slopes)), -np.inf)
        largest = size.max(axis=1)
        finite = np.where(np.isfinite(largest), largest, 0.0)
        b = np.sign(self.slopes) * np.exp(
            np.where(np.isneginf(size), -np.inf, size - finite[:, None])
        )
        return b, largest, b @ np.nan_to_num(self.each.correlation)

    @property
    def predictor(self) -> Array:
        """ln V, or V with the identity link, shape (m,)."""
        if self.identity:
            return np.asarray(self.slopes[:, 0] ** 2 * self.log_tau2[:, 0])
        b, largest, Rb = self._scaled
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(
                np.isfinite(largest), 2.0 * largest + np.log(np.sum(b * Rb, axis=1)), largest
            )

    @property
    def gradient(self) -> Array:
        """Of `predictor` in γ, shape (m, M); 0 where there is no variance."""
        if self.identity:
            return np.asarray(self.slopes**2 * self.coordinates[:, 0])
        b, largest, Rb = self._scaled
        found = np.einsum("is,isj->ij", b * Rb, self.coordinates)
        places, term = self.correlation_places, self.each.term
        for j, step in enumerate(_STEP * np.eye(places.stop - places.start)):
            ends = np.array([self.each.kappa + step, self.each.kappa - step])
            ahead, behind = correlation_matrices(ends, len(term.effects), term.correlation)
            change = (ahead - behind) / (2 * _STEP)
            found[:, places.start + j] += np.einsum("is,st,it->i", b, change, b)
        total = np.sum(b * Rb, axis=1)[:, None]
        known = np.isfinite(largest)[:, None] & (total > 0)
        return np.asarray(np.divide(found, total, out=np.zeros_like(found), where=known))

    def along(self, rows: npt.NDArray[np.intp], shift: Array, gammas: Array | None = None) -> Array:
        """The variance of some rows where ln τ² has moved by `shift` (rows, s, K), shape (rows, K).

        The correlations are those of each of `gammas` (K, M); without, those of the estimate.
        """
        predictor, slopes = self.log_tau2[rows, :, None] + shift, self.slopes[rows]
        if self.identity:
            return np.asarray(slopes**2 * np.maximum(predictor[:, 0], 0.0))
        if slopes.shape[1] == 1:
            with np.errstate(invalid="ignore"):
                variance = slopes**2 * tau2_from_log(predictor[:, 0])
            return np.where(slopes == 0, 0.0, variance)
        loads = slopes[:, :, None] * np.exp(0.5 * np.where(slopes[:, :, None] == 0, 0.0, predictor))
        R = np.nan_to_num(self.each.correlation)[None]
        places, term = self.correlation_places, self.each.term
        if gammas is not None and places.stop > places.start:
            R = correlation_matrices(gammas[:, places], len(term.effects), term.correlation)
        R = np.broadcast_to(R, (predictor.shape[2], *R.shape[1:]))
        return np.asarray(np.einsum("isk,kst,itk->ik", loads, R, loads, optimize=True))


def variances_at(
    fit: Estimates, points: NewData, terms: Sequence[str] | None = None
) -> dict[str, TermVariance]:
    """The variances of the chosen terms' effects in the m rows of `points`.

    By default all terms but the residual of individual data; an unknown one is a FitError.
    """
    design, found = fit.design, {}
    chosen, size = chosen_terms(design, terms), design.places[-1].stop
    for name, there, here, place in zip(
        fit.terms, points.terms, design.columns, design.places, strict=True
    ):
        if name not in chosen:
            continue
        rows = np.zeros((there.slopes.size, len(fit.alpha)))
        rows[:, here] = there.Z.reshape(len(rows), -1)
        value = scale_values(fit, rows)
        coordinates = np.zeros((len(rows), size))
        coordinates[:, scale_places(design)] = value.coordinates
        coordinates = coordinates.reshape(*there.slopes.shape, size)
        found[name] = TermVariance(
            fit.terms[name], there.slopes, value, coordinates, place.start, is_identity(fit)
        )
    return found


def of_the_data(fit: Estimates) -> NewData:
    """The rows of the data, as if they were new."""
    design = fit.design
    terms = tuple(NewTerm(term.slopes, term.Z[term.index]) for term in design.terms)
    return NewData(design.X, terms, design.labels)


@dataclass(frozen=True, eq=False)
class Total:
    """The variance of all chosen terms together in m rows: a `predictor` (m,) and its SE.

    That is ln of it, or itself with the identity link; −inf where there is none, nan where it is
    not known. The SE is by the delta method, and nan where there is none.
    """

    predictor: Array
    se: Array

    @classmethod
    def of(cls, fit: Estimates, parts: Sequence[TermVariance], m: int) -> Total:
        """Of the parts, each of m rows."""
        uncertain = Uncertain.of(fit)
        gradient = np.zeros((m, len(uncertain.estimate)))
        if is_identity(fit):
            predictor = np.zeros(m)
            for part in parts:
                predictor, gradient = predictor + part.predictor, gradient + part.gradient
        else:
            logs = np.array([part.predictor for part in parts]).reshape(-1, m)
            with np.errstate(invalid="ignore"):
                predictor = np.logaddexp.reduce(logs, axis=0, initial=-np.inf)
                shares = np.where(np.isneginf(logs), 0.0, np.exp(logs - predictor))
            for share, part in zip(shares, parts, strict=True):
                gradient += share[:, None] * part.gradient
        variance = np.einsum("ij,jk,ik->i", gradient, uncertain.covariance, gradient)
        se = np.sqrt(np.maximum(variance, 0.0))
        for part in parts:
            has = part.active & np.isfinite(part.log_tau2)
            se[(has & np.isnan(part.se)).any(axis=1)] = np.nan
        return cls(predictor, np.where(np.isfinite(predictor), se, np.nan))
