"""Pareto-smoothed importance sampling: how far the largest weights can be trusted.

Vehtari, Simpson, Gelman, Yao & Gabry (2024), Journal of Machine Learning Research 25(72), 1-58; the
generalised Pareto fit is that of Zhang & Stephens (2009), doi:10.1198/tech.2009.08017.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import logsumexp

from bayes_lsm.bayes.draws import Array, Draws


def relative_efficiency(draws: Draws, log_weights: Array) -> float:
    """What a draw of chains is worth for the mean of weights (S,): at most 1.

    Draws of the collapsed engine are in no order, and worth 1 each.
    """
    if draws.importance is not None:
        return 1.0
    from arviz_stats.base import array_stats

    weights = np.exp(log_weights - np.max(log_weights)).reshape(draws.chains, -1)
    found = float(array_stats.ess(weights, method="mean", relative=True))
    return min(found, 1.0) if found > 0 else 1.0  # nan where all weights are alike


def smooth_weights(log_weights: Array, efficiency: float = 1.0) -> tuple[Array, float]:
    """Smoothed log weights (m,), normalised to sum to 1, and the Pareto shape k of their tail.

    k below 0.7: the weights can be trusted. nan weights count as zero. Of autocorrelated draws,
    each worth `efficiency` of an independent one, a longer tail is smoothed.
    """
    log_weights = np.where(np.isnan(log_weights), -np.inf, log_weights)
    log_weights = log_weights - np.max(log_weights)
    size = len(log_weights)
    tail = math.ceil(min(0.2 * size, 3 * math.sqrt(size / efficiency)))
    order = np.argsort(log_weights)
    cutoff = max(log_weights[order[-tail - 1]], math.log(np.finfo(float).tiny))
    # Draws are resampled: some stand there twice, at the cutoff as well.
    largest = order[-tail:][log_weights[order[-tail:]] > cutoff]
    smoothed, k = log_weights.copy(), math.inf
    if len(largest) >= 5:
        k, sigma = fit_pareto(np.exp(log_weights[largest]) - math.exp(cutoff))
        probability = (np.arange(len(largest)) + 0.5) / len(largest)
        expected = _quantile(probability, k, sigma)
        smoothed[largest] = np.minimum(np.log(expected + math.exp(cutoff)), 0.0)
    elif tail >= 5 and cutoff == 0.0:
        k = 0.0  # all large weights alike
    return smoothed - logsumexp(smoothed), k


def fit_pareto(excess: Array) -> tuple[float, float]:
    """Shape k and scale σ of a generalised Pareto distribution, from sorted values (m,) > 0.

    k is drawn a little towards ½, as in the paper on the smoothing.
    """
    size = len(excess)
    grid = 30 + int(math.sqrt(size))
    b = 1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    b = b / (3 * excess[int(size / 4 + 0.5) - 1]) + 1 / excess[-1]
    shapes = np.mean(np.log1p(-b[:, None] * excess), axis=1)
    log_density = size * (np.log(-(b / shapes)) - shapes - 1)
    weight = np.exp(log_density - logsumexp(log_density))
    b_mean = float(np.sum(b * weight))
    k = float(np.mean(np.log1p(-b_mean * excess)))
    sigma = -k / b_mean
    return (k * size + 0.5 * 10) / (size + 10), sigma


def _quantile(probability: Array, k: float, sigma: float) -> Array:
    if abs(k) < 1e-12:
        return -sigma * np.log1p(-probability)
    return np.asarray(sigma * np.expm1(-k * np.log1p(-probability)) / k)
