r"""The distribution of a new study's true effect when τ², and with it β̂, is uncertain.

Let η = z'α be the scale predictor of the new study, ln τ² (or τ² with the identity link), and c its
coordinates in the α that have a covariance C. With α ~ Normal(α̂, C), η ~ Normal(η̂, s²), s² = c'Cc,
and given η the coefficients have the mean α(η) = α̂ + Cc (η − η̂)/s² and the covariance
C − Cc c'C/s². Given α the effect is Normal(x'β̂(α), x'V_β(α)x + τ²). So

    θ_new ~ ∫ Normal( x'β̂(α(η)),  x'V_β(α(η))x + x'J (C − Cc c'C/s²) J'x + τ²(η) ) dNormal(η; η̂, s²)

with J = ∂β̂/∂α' = −(X'WX)⁻¹X' diag(w_i² r_i ∂τ_i²/∂α'): exact along the line α(η), and of first
order across it. The integral is a trapezoidal sum, exact to rounding for such smooth functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bayes_lsm.links import tau2_from_log
from bayes_lsm.reml.prediction.linear_scale import Reference, ScaleValue, is_identity

if TYPE_CHECKING:
    from bayes_lsm.reml.estimates import Estimates

Array = npt.NDArray[np.float64]

# The normal distribution of η is integrated over ± that many SDs, in steps that are small against
# its SD and against the width (about 2 in ln τ²) over which an integrand changes.
# With the identity link the integrand has an edge at τ² = 0, and the sum needs finer steps.
_RANGE, _STEP, _STEP_LOG_TAU2, _STEP_IDENTITY = 7.5, 0.4, 0.5, 0.02
_MOST_NODES = 1501
# Rows × nodes × studies beyond which β̂ is held at its estimate: with that many studies, how it
# follows α does not matter.
_MOST_WORK = 100_000_000
_LARGEST_TABLE = 2_000_000
# A study's weight, relative to the largest, below which X'WX might become singular.
_SMALLEST_WEIGHT = 1e-10


def predictive_interval(
    fit: Estimates, X: Array, se: Array, scale: ScaleValue, level: float
) -> tuple[Array, Array]:
    """The central `level` of the effects of new studies, with their moderators in rows X (m, p).

    nan for rows whose scale predictor is not finite or has no standard error; that of the mean
    alone (se, (m,)) where τ² is 0.
    """
    reference = Reference.of_location(fit)
    mean = X @ fit.beta
    half = np.where(np.isneginf(scale.estimate), reference.quantile(0.5 + level / 2) * se, np.nan)
    bounds = np.array([mean - half, mean + half])
    ready = np.flatnonzero(np.isfinite(scale.estimate) & np.isfinite(scale.se))
    if not len(ready):
        return bounds[0], bounds[1]
    nodes, weights = _nodes(fit, float(scale.se[ready].max()))
    follows = len(ready) * len(nodes) * len(fit.tau2) <= _MOST_WORK
    path = _Path(fit, scale) if follows else None
    for rows in np.array_split(ready, math.ceil(len(ready) * len(nodes) / _LARGEST_TABLE)):
        eta = scale.estimate[rows, None] + scale.se[rows, None] * nodes
        variance = _tau2(fit, eta)
        centre = np.repeat(mean[rows, None], len(nodes), axis=1)
        if path is None:
            variance += se[rows, None] ** 2
        else:
            for i, row in enumerate(rows):
                centre[i], of_mean = path.location(X[row], int(row), nodes)
                variance[i] += of_mean
        mixture = Mixture(centre, np.sqrt(variance), weights, reference)
        for j, probability in enumerate((0.5 - level / 2, 0.5 + level / 2)):
            bounds[j, rows] = mixture.quantile(probability, mean[rows], se[rows])
    return bounds[0], bounds[1]


def _nodes(fit: Estimates, largest: float) -> tuple[Array, Array]:
    vague = _STEP_LOG_TAU2 / max(1.0, largest)
    step = _STEP_IDENTITY if is_identity(fit) else min(_STEP, vague)
    count = min(2 * math.ceil(_RANGE / step) + 1, _MOST_NODES)
    nodes = np.linspace(-_RANGE, _RANGE, count)
    weights = np.exp(-0.5 * nodes**2)
    return nodes, weights / weights.sum()


def _tau2(fit: Estimates, eta: Array) -> Array:
    return np.maximum(eta, 0.0) if is_identity(fit) else tau2_from_log(eta)


class _Path:
    """β̂ and its covariance as α moves along the line on which it follows one row's η."""

    def __init__(self, fit: Estimates, scale: ScaleValue) -> None:
        design = fit.design
        self._fit, self._scale = fit, scale
        self._zero = fit.tau2 == 0 if fit.divergence else np.zeros(len(fit.tau2), dtype=bool)
        with np.errstate(divide="ignore"):
            self._eta = fit.tau2 if is_identity(fit) else np.log(fit.tau2)
        # In orthonormal coordinates of X the normal equations keep their digits.
        self._R = np.linalg.qr(design.X, mode="r")
        self._X = np.linalg.solve(self._R.T, design.X.T).T
        n, p = self._X.shape
        self._XX = (self._X[:, :, None] * self._X[:, None, :]).reshape(n, p * p)
        self._Xy = self._X * design.y[:, None]
        self._J = self._slope()

    def _slope(self) -> Array:
        """∂β̂/∂α' at the estimate, shape (p, r), in the coordinates of X here."""
        fit, X = self._fit, self._X
        w = 1 / (fit.design.v + fit.tau2)
        slope = np.ones_like(w) if is_identity(fit) else fit.tau2
        residuals = fit.design.y - fit.design.X @ fit.beta
        weighted = (w**2 * residuals * slope)[:, None] * self._scale.loadings
        return -np.linalg.solve(X.T @ (w[:, None] * X), X.T @ weighted)

    def location(self, x: Array, row: int, nodes: Array) -> tuple[Array, Array]:
        """x'β̂ and its variance at each node (K,)."""
        fit, scale = self._fit, self._scale
        x = np.linalg.solve(self._R.T, x)
        along, s = scale.covariance @ scale.coordinates[row], float(scale.se[row])
        covariance = scale.covariance - (np.outer(along, along) / s**2 if s > 0 else 0.0)
        across = x @ self._J
        shift = scale.loadings @ along / s if s > 0 else np.zeros(len(fit.tau2))
        tau2 = np.where(self._zero, 0.0, _tau2(fit, self._eta + nodes[:, None] * shift))
        w = 1 / (fit.design.v + tau2)
        w = np.maximum(w, _SMALLEST_WEIGHT * w.max(axis=1, keepdims=True))
        p = len(x)
        inverse = np.linalg.inv((w @ self._XX).reshape(-1, p, p))
        beta = np.einsum("kij,kj->ki", inverse, w @ self._Xy)
        variance = inverse @ x @ x
        if fit.test == "knha":
            residuals = fit.design.y - beta @ self._X.T
            variance *= np.sum(w * residuals**2, axis=1) / (len(fit.tau2) - p)
        return beta @ x, variance + max(0.0, float(across @ covariance @ across))


@dataclass(frozen=True, eq=False)
class Mixture:
    """Mixtures, one a row, of a distribution at some centres and with some SDs (m, K)."""

    centre: Array
    sd: Array
    weights: Array
    reference: Reference

    def quantile(self, probability: float, middle: Array, unit: Array) -> Array:
        """Its quantile (m,), by Newton's method on arsinh((θ − middle)/unit), kept in a bracket.

        The quantile lies between the smallest and the largest of the components' quantiles.
        """
        middle, unit = middle[:, None], unit[:, None]
        ends = (self.centre + self.reference.quantile(probability) * self.sd - middle) / unit
        low, high = np.arcsinh(ends.min(axis=1)), np.arcsinh(ends.max(axis=1))
        x = np.clip(np.arcsinh(ends[:, ends.shape[1] // 2]), low, high)
        for _ in range(200):
            z = (middle + unit * np.sinh(x)[:, None] - self.centre) / self.sd
            excess = self.reference.cdf(z) @ self.weights - probability
            density = (self.reference.density(z) / self.sd) @ self.weights
            slope = density * unit[:, 0] * np.cosh(x)
            low, high = np.where(excess < 0, x, low), np.where(excess < 0, high, x)
            step = np.divide(excess, slope, out=np.full_like(x, np.inf), where=slope > 0)
            inside = (x - step >= low) & (x - step <= high)
            new = np.where(inside, x - step, (low + high) / 2)
            if np.max(np.abs(new - x) / (1 + np.abs(x))) < 1e-12:
                break
            x = new
        return np.asarray(middle[:, 0] + unit[:, 0] * np.sinh(x))
