"""Linear functions l'α of the scale coefficients: ln τ² somewhere, or the logarithm of a ratio.

`scale_at` gives them a standard error, also where coefficients diverge: it knows which of them stay
finite at the limit, and where the others go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, ndtr, ndtri, stdtr, stdtrit

from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.rows.closed_form import evaluate
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search.divergence import split_space, where_to

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Relative size below which a number is the rounding of 0.
_ZERO = 1e-9
# Information on a combination of ln τ² (SE 10,000) below which there is none.
_NO_INFORMATION = 1e-8


@dataclass(frozen=True, eq=False)
class ScaleValue:
    """Linear functions l'α of the scale coefficients.

    Attributes
    ----------
    estimate : ndarray, shape (m,)
        ±inf where it diverges; nan where a divergence pulls it both ways, or it is `blind`.
    se : ndarray, shape (m,)
        nan where there is none.
    coordinates : ndarray, shape (m, r)
        Those l in the coordinates of α that have a covariance: at a limit not all do.
    covariance : ndarray, shape (r, r)
        Of α in those coordinates.
    loadings : ndarray, shape (n, r)
        Each study's z in those coordinates.
    blind : ndarray of bool, shape (m,)
        Those of which the data say nothing; their estimates are nan.
    """

    estimate: Array
    se: Array
    coordinates: Array
    covariance: Array
    loadings: Array
    blind: Mask


@dataclass(frozen=True)
class Reference:
    """The distribution a standardised estimate is held against: normal, or t with `df`."""

    df: int | None

    @classmethod
    def of_location(cls, fit: Estimates) -> Reference:
        """For location coefficients: t has k − p degrees of freedom."""
        return cls(None if fit.test == "z" else fit.design.n_studies - len(fit.beta))

    @classmethod
    def of_scale(cls, fit: Estimates) -> Reference:
        """For scale coefficients: t has k − q degrees of freedom."""
        return cls(None if fit.test == "z" else fit.design.n_studies - len(fit.alpha))

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

    When coefficients diverge, l'α stays finite for the l that depend on the studies with τ² > 0
    alone; their Hessian at the limit gives its standard error. Other l'α go to −inf, to +inf, or
    both ways, as all the directions in which the coefficients can diverge say or do not say.
    Coefficients that were fixed have no uncertainty; those that a bound holds have none that is
    known.
    """
    rows = np.asarray(rows, dtype=float)
    if not np.isfinite(fit.alpha).all() or (fit.is_flat and not is_identity(fit)):
        return _scale_at_limit(fit, rows)
    names = fit.design.scale.names
    V = fit.vcov_scale.copy()
    for j in [j for j, name in enumerate(names) if name in fit.fixed]:
        V[j, :] = V[:, j] = 0.0
    unknown = np.isnan(np.diag(V))
    V = np.nan_to_num(V)
    variance = np.einsum("ij,jk,ik->i", rows, V, rows)
    variance[(rows[:, unknown] != 0).any(axis=1)] = np.nan
    se = np.sqrt(np.maximum(variance, 0.0))
    blind = (rows[:, [name in fit.uninformed for name in names]] != 0).any(axis=1)
    estimate = np.where(blind, np.nan, rows @ fit.alpha)
    return ScaleValue(estimate, se, rows, V, fit.design.Z, blind)


def _scale_at_limit(fit: Estimates, rows: Array) -> ScaleValue:
    design, zero = fit.design, fit.tau2 == 0
    held = np.array([n in fit.fixed or n in fit.at_bound for n in design.scale.names])
    offset = design.Z[:, held] @ fit.alpha[held]
    # Coordinates in which neither the units nor the means of the moderators matter.
    R = np.linalg.qr(design.Z[:, ~held], mode="r") / math.sqrt(len(zero))
    back = np.linalg.solve(R, np.eye(len(R)))
    U, u = design.Z[:, ~held] @ back, rows[:, ~held] @ back
    kept, lost = split_space(U[~zero], len(R))
    log_tau2 = np.log(fit.tau2[~zero]) - offset[~zero]
    a = np.linalg.lstsq(U[~zero] @ kept, log_tau2, rcond=None)[0]
    hessian = evaluate(
        np.r_[a, 1.0],
        design.y,
        design.v,
        design.X,
        np.c_[U @ kept, offset],
        method=fit.method,
        zero=zero,
    ).hessian[:-1, :-1]
    estimate = rows[:, held] @ fit.alpha[held] + u @ (kept @ a)
    covariance, flat = _inverse(-hessian)
    coordinates = u @ kept
    variance = np.einsum("ij,jk,ik->i", coordinates, covariance, coordinates)
    se = np.sqrt(np.maximum(variance, 0.0))  # rounding, where nothing is known
    size = np.linalg.norm(coordinates, axis=1)
    blind = np.linalg.norm(coordinates @ flat, axis=1) > 1e-6 * size
    estimate[blind] = se[blind] = np.nan
    bound = np.array([name in fit.at_bound for name in design.scale.names])
    se[(rows[:, bound] != 0).any(axis=1)] = np.nan
    away = u @ lost
    outside = np.linalg.norm(away, axis=1) > _ZERO * np.maximum(1.0, np.linalg.norm(u, axis=1))
    estimate[outside] = where_to(away[outside], U[zero] @ lost)
    se[outside] = np.nan
    return ScaleValue(estimate, se, coordinates, covariance, U @ kept, blind & ~outside)


def _inverse(information: Array) -> tuple[Array, Array]:
    """The inverse, and a basis of the directions without information, which it leaves out."""
    values, vectors = np.linalg.eigh(information)
    informed = values > _NO_INFORMATION
    known = vectors[:, informed]
    return known / values[informed] @ known.T, vectors[:, ~informed]


def is_identity(fit: Estimates) -> bool:
    """Whether the scale part is τ² itself."""
    return fit.design.specification.link == "identity"


def check_level(level: float) -> None:
    """A confidence level is a number between 0 and 1."""
    if not 0 < level < 1:
        raise FitError(f"level must lie between 0 and 1, such as 0.95; got {level!r}")
