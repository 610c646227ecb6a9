"""A mixture of Student-t distributions and one given distribution, fitted to weighted points.

The given distribution is the prior: where the data say nothing about a coefficient the posterior
*is* the prior, and a proposal that holds it covers such regions exactly, however far away.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from bayes_lsm.arrays import Array

_DF = 5.0
_SMALLEST_SCALE = 0.03  # of a component, in any direction
_SMALLEST_WEIGHT = 0.02
# With a share w of the prior, no weight exceeds max p(y | α) / (w · p(y)).
_SMALLEST_WIDE_WEIGHT = 0.05


@dataclass(frozen=True)
class Fixed:
    """The distribution that is always part of the mixture."""

    logpdf: Callable[[Array], Array]
    sample: Callable[[int, np.random.Generator], Array]


@dataclass(frozen=True, eq=False)
class Mixture:
    """weights[0] · fixed + Σ weights[k] · t(means[k], factors[k] factors[k]', 5 df).

    The weights (K + 1,), means (K, q) and lower Cholesky factors (K, q, q) of the scale matrices.
    """

    weights: Array
    means: Array
    factors: Array
    fixed: Fixed

    def component_logpdf(self, x: Array) -> tuple[Array, Array]:
        """Log densities (m, K + 1) at points (m, q), and squared distances (m, K)."""
        q = x.shape[1]
        inverses = np.linalg.inv(self.factors)
        z = np.matmul(x[None] - self.means[:, None], np.swapaxes(inverses, 1, 2))
        distance = np.einsum("kmq,kmq->mk", z, z)
        log_det = np.log(np.diagonal(self.factors, axis1=1, axis2=2)).sum(axis=1)
        constant = gammaln((_DF + q) / 2) - gammaln(_DF / 2) - q / 2 * math.log(_DF * math.pi)
        density = constant - log_det - (_DF + q) / 2 * np.log1p(distance / _DF)
        return np.c_[self.fixed.logpdf(x), density], distance

    def logpdf(self, x: Array) -> Array:
        """Log density (m,) at points (m, q)."""
        return _log_sum_exp(self.component_logpdf(x)[0] + np.log(self.weights))[:, 0]

    def widened(self) -> Mixture:
        """A quarter of each t given to a twin of three times its width, for the shoulders."""
        return Mixture(
            np.r_[self.weights[0], 0.75 * self.weights[1:], 0.25 * self.weights[1:]],
            np.r_[self.means, self.means],
            np.r_[self.factors, 3.0 * self.factors],
            self.fixed,
        )

    def joined(self, other: Mixture, share: float) -> Mixture:
        """The two together, with a share of the points for the other."""
        mine, theirs = (1.0 - share) * self.weights, share * other.weights
        return Mixture(
            np.r_[mine[0] + theirs[0], mine[1:], theirs[1:]],
            np.r_[self.means, other.means],
            np.r_[self.factors, other.factors],
            self.fixed,
        )

    def sample(self, size: int, rng: np.random.Generator) -> Array:
        """Points (size, q); each component gets its share of them, rounded at random."""
        bounds = np.floor(np.cumsum(self.weights) * size + rng.uniform()).astype(int)
        bounds[-1] = size
        counts = np.diff(np.minimum(bounds, size), prepend=0)
        points = [self.fixed.sample(int(counts[0]), rng)]
        for count, mean, factor in zip(counts[1:], self.means, self.factors, strict=True):
            normal = rng.standard_normal((count, len(mean)))
            spread = np.sqrt(_DF / rng.chisquare(_DF, size=(count, 1)))
            points.append(mean + spread * normal @ factor.T)
        return np.concatenate(points)


def fit_mixture(start: Mixture, points: Array, weights: Array, *, iterations: int = 12) -> Mixture:
    """Expectation–maximisation from `start`, for points (m, q) with weights (m,) that sum to 1.

    No component becomes narrower than 0.03 in any direction.
    """
    mixture, q = start, points.shape[1]
    centre = weights @ points
    overall = np.cov(points.T, aweights=weights, ddof=0).reshape(q, q)
    ridge = _SMALLEST_SCALE**2 * np.eye(q)
    for _ in range(iterations):
        density, distance = mixture.component_logpdf(points)
        share = density + np.log(mixture.weights)
        share = np.exp(share - _log_sum_exp(share)) * weights[:, None]
        sizes = share.sum(axis=0)
        pull = share[:, 1:] * (_DF + q) / (_DF + distance)
        total = pull.sum(axis=0) + 1e-300
        means = (pull.T @ points) / total[:, None]
        factors = np.empty_like(mixture.factors)
        for k, mean in enumerate(means):
            away = points - mean
            scatter = (pull[:, k, None] * away).T @ away / max(sizes[k + 1], 1e-300)
            if sizes[k + 1] < 1e-6:  # a component that lost its points takes the overall shape
                means[k], scatter = centre, overall
            factors[k] = np.linalg.cholesky(scatter + ridge)
        # The last one stays broad, for the tails that the others leave thin.
        means[-1], factors[-1] = centre, np.linalg.cholesky(2.0 * overall + ridge)
        floored = np.maximum(sizes, _SMALLEST_WEIGHT)
        floored[[0, -1]] = np.maximum(sizes[[0, -1]], _SMALLEST_WIDE_WEIGHT)
        mixture = Mixture(floored / floored.sum(), means, factors, start.fixed)
    return mixture


def _log_sum_exp(logs: Array) -> Array:
    """ln Σ exp over the rows of (m, K), shape (m, 1); scipy's costs as much as an EM iteration."""
    top = logs.max(axis=1, keepdims=True)
    return np.asarray(top + np.log(np.exp(logs - top).sum(axis=1, keepdims=True)))
