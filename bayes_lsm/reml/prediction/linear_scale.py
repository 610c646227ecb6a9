"""Linear functions l'α of the scale coefficients: ln τ² somewhere, or the logarithm of a ratio.

`scale_at` gives them a standard error, also where coefficients diverge: it knows which of them stay
finite at the limit, and where the others go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, ndtr, ndtri, stdtr, stdtrit

from bayes_lsm.design.coefficients import scale_places
from bayes_lsm.errors import FitError

if TYPE_CHECKING:
    from bayes_lsm.reml.estimates import Estimates
    from bayes_lsm.reml.term_estimate import TermEstimate

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Relative size below which a number is the rounding of 0.
_ZERO = 1e-9


@dataclass(frozen=True, eq=False)
class ScaleValue:
    """Linear functions l'α of the scale coefficients.

    Attributes
    ----------
    estimate : ndarray, shape (m,)
        ±inf where it diverges; nan where a divergence pulls it both ways, or it is `blind`.
    se : ndarray, shape (m,)
        nan where there is none.
    coordinates : ndarray, shape (m, M)
        Those l on γ, see `Uncertain`: 0 for what a limit took.
    blind : ndarray of bool, shape (m,)
        Those of which the data say nothing; their estimates are nan.
    """

    estimate: Array
    se: Array
    coordinates: Array
    blind: Mask


@dataclass(frozen=True, eq=False)
class Uncertain:
    """The scale coefficients and κ of all terms, γ ~ Normal(γ̂, C), at a limit those that are left.

    Attributes
    ----------
    estimate : ndarray, shape (M,)
        `limit_alpha` and κ, term by term; 0 for what a limit took.
    covariance : ndarray, shape (M, M)
        0 for those, for what was fixed and for what is `unknown`.
    unknown : ndarray of bool, shape (M,)
        Those whose uncertainty nobody knows, such as one that a bound holds.
    """

    estimate: Array
    covariance: Array
    unknown: Mask

    @classmethod
    def of(cls, fit: Estimates) -> Uncertain:
        """Of a fit."""
        estimate = np.concatenate([_filled(each) for each in fit.terms.values()])
        places = scale_places(fit.design)
        missing = np.isnan(np.diag(fit.limit_vcov))
        given = [name in fit.fixed for name in fit.scale_names]
        unknown = np.zeros(len(missing), dtype=bool)
        unknown[places] = missing[places] & np.isfinite(fit.limit_alpha) & ~np.array(given)
        return cls(estimate, np.nan_to_num(fit.limit_vcov), unknown)


def _filled(each: TermEstimate) -> Array:
    """γ̂ of a term, as long as without a limit."""
    found = np.zeros(each.term.size)
    known = np.r_[np.nan_to_num(each.limit_alpha), each.kappa]
    found[: len(known)] = known
    return found


@dataclass(frozen=True)
class Reference:
    """The distribution a standardised estimate is held against: normal, or t with `df`."""

    df: int | None

    @classmethod
    def of_location(cls, fit: Estimates) -> Reference:
        """For location coefficients: t has n − p degrees of freedom."""
        return cls(fit.df_location)

    @classmethod
    def of_scale(cls, fit: Estimates) -> Reference:
        """For scale coefficients: t has k − q degrees of freedom."""
        return cls(fit.df_scale)

    def quantile(self, probability: float) -> float:
        """Its quantile."""
        return float(ndtri(probability) if self.df is None else stdtrit(self.df, probability))

    def cdf(self, x: Array) -> Array:
        """Its distribution function."""
        return np.asarray(ndtr(x) if self.df is None else stdtr(self.df, x))

    def density(self, x: Array) -> Array:
        """Its density."""
        if self.df is None:
            return np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
        df = self.df
        constant = math.exp(gammaln((df + 1) / 2) - gammaln(df / 2)) / math.sqrt(df * math.pi)
        return np.asarray(constant * (1 + x**2 / df) ** (-(df + 1) / 2))


def scale_at(fit: Estimates, rows: Array) -> ScaleValue:
    """l'α and its standard error for each row l (m, q): ln τ² at some z, or a difference of two.

    α are the coefficients of all scale terms. When some diverge, l'α stays finite for the l that
    depend on the effects with τ² > 0 alone. Other l'α go to −inf, to +inf, or both ways, as all
    the directions in which the coefficients can diverge say or do not say. Coefficients that were
    fixed have no uncertainty; those that a bound holds have none that is known.
    """
    rows = np.asarray(rows, dtype=float)
    uncertain = Uncertain.of(fit)
    coordinates = np.zeros((len(rows), len(uncertain.estimate)))
    added, blind = np.zeros(len(rows)), np.zeros(len(rows), dtype=bool)
    first = place = 0
    for each in fit.terms.values():
        own, more = each.read(rows[:, first : first + len(each.alpha)])
        coordinates[:, place : place + len(each.alpha)] = own
        blind |= each.unseen(own)
        with np.errstate(invalid="ignore"):  # −inf of one term and inf of another are undefined
            added = added + more
        first, place = first + len(each.alpha), place + each.term.size
    variance = np.einsum("ij,jk,ik->i", coordinates, uncertain.covariance, coordinates)
    se = np.sqrt(np.maximum(variance, 0.0))
    se[(coordinates[:, uncertain.unknown] != 0).any(axis=1) | ~np.isfinite(added)] = np.nan
    return ScaleValue(coordinates @ uncertain.estimate + added, se, coordinates, blind)


def split_space(rows: Array, q: int) -> tuple[Array, Array]:
    """Orthonormal bases of the row space of `rows` (n, q), and of what is orthogonal to it."""
    if not len(rows):
        return np.zeros((q, 0)), np.eye(q)
    _, sizes, directions = np.linalg.svd(np.linalg.qr(rows, mode="r"), full_matrices=True)
    rank = int((sizes > _ZERO * sizes[0]).sum())
    return directions[:rank].T, directions[rank:].T


def where_to(away: Array, gone: Array) -> Array:
    """Where l'c goes as c grows along any c with ``gone @ c < 0``: −inf, inf, or either (nan).

    By Farkas' lemma l'c < 0 for all those c just when l is a combination of the rows of `gone`
    with no negative weight.
    """
    from scipy.optimize import nnls

    units = np.unique((gone / np.linalg.norm(gone, axis=1)[:, None]).round(12), axis=0)
    rows = (away / np.linalg.norm(away, axis=1)[:, None]).round(12)
    rows, which = np.unique(rows, axis=0, return_inverse=True)
    found = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        for sign in (-1.0, 1.0):
            _, rest = nnls(units.T, -sign * row, maxiter=100 * len(units) + 1000)
            if rest < _ZERO:
                found[i] = sign * math.inf
    return found[which.reshape(-1)]


def is_identity(fit: Estimates) -> bool:
    """Whether the scale part is τ² itself."""
    return fit.design.specification.link == "identity"


def check_level(level: float) -> None:
    """A confidence level is a number between 0 and 1."""
    if not 0 < level < 1:
        raise FitError(f"level must lie between 0 and 1, such as 0.95; got {level!r}")
