"""Adaptive importance sampling: draws from a density that is known at any point, up to a constant.

A mixture of the prior and of Student-t distributions is fitted to the posterior in a few rounds;
the last round is weighted, the weights are smoothed, and draws of equal weight are taken. The
weights say how good the result is: their Pareto k, and how many independent draws they are worth.
(A flat prior cannot be drawn from, and a wide distribution takes its place in the mixture: see
`PosteriorCoordinates.cover`.)

What no point has found the weights cannot tell. In three dimensions and more a far, broad region
may hold some hundredths of the posterior and yet be met by so few points of a proposal that fits
the rest that all looks well. So there a part of the proposal is fitted to the prior times a power
of the likelihood, to which such regions are large.

All of it happens in the coordinates φ of `coordinates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import Draws, Importance
from bayes_lsm.bayes.engines.coordinates import PosteriorCoordinates
from bayes_lsm.bayes.engines.pareto import smooth_weights
from bayes_lsm.bayes.engines.proposal import Mixture, fit_mixture

_ROUND = 2000  # points of one adaptation round, at least
_POINTS_PER_COVARIANCE = 100  # and covariance entry
_MOST_ROUNDS = 8
_GOOD_EFFICIENCY = 0.7
_FAIR_EFFICIENCY = 0.4  # good enough when it no longer rises
_LEAST_EFFICIENCY = 0.1  # to which weights are flattened
_SMALLEST_GAIN = 0.03
_COMPONENTS = 6
_FEW_DIMENSIONS = 2  # where the prior's share of the points fills the space
_HEAT = 0.3  # power of the likelihood
_HEATED_ROUNDS = 3
_HEATED_ITERATIONS = 4  # a rough fit does
_HEATED_SHARE = 0.25
_LARGEST_SAMPLE = 60_000
_TRIED = 250  # points, of which the best are climbed from
_NEGLIGIBLE_HILL = 25.0  # below the highest, in logs
_STEP = 0.01  # of a difference, in φ
_CHAINS = 4  # independent draws, but ArviZ's diagnostics want several chains


class Target(Protocol):
    """A posterior density to draw from, in coordinates φ with d dimensions.

    `guesses` (2, d): the priors' middle, and where the residuals point.
    """

    coordinates: PosteriorCoordinates
    guesses: Array

    def __call__(self, phi: Array) -> Array:
        """Log density (m,) of points (m, d), up to the marginal likelihood; never nan."""

    def draws(self, phi: Array, rng: np.random.Generator) -> Draws:
        """All unknowns at points (m, d), as one chain."""


def sample_target(target: Target, draws: int, seed: int) -> Draws:
    """Independent draws of all unknowns, in chains; the same for the same seed."""
    rng = np.random.default_rng(seed)
    phi, importance = draw_weighted(target, draws, rng)
    return replace(target.draws(phi, rng), importance=importance).in_chains(_CHAINS)


def draw_weighted(target: Target, draws: int, rng: np.random.Generator) -> tuple[Array, Importance]:
    """Draws (draws, d) of equal weight from a target, and how good they are."""
    mixture, efficiency = _find_proposal(target, rng)
    size = min(math.ceil(1.5 * draws / max(efficiency, 0.01)), max(_LARGEST_SAMPLE, draws))
    phi = mixture.sample(size, rng)
    log_weights = target(phi) - mixture.logpdf(phi)
    smoothed, k = smooth_weights(log_weights)
    weights = np.exp(smoothed)
    chosen = resample(weights, draws, rng)
    importance = _importance(log_weights, weights, k, draws)
    return phi[chosen], replace(importance, bounded=target.coordinates.bounded)


def propose_phi(target: Target, points: int, seed: int) -> tuple[Array, Array]:
    """Points φ (m, d) near a target, and the log density of its prior less theirs (m,)."""
    rng = np.random.default_rng(seed)
    mixture, _ = _find_proposal(target, rng)
    phi = mixture.sample(points, rng)
    return phi, target.coordinates.prior.logpdf(phi) - mixture.logpdf(phi)


def _find_proposal(target: Target, rng: np.random.Generator) -> tuple[Mixture, float]:
    """What to draw the points from, and the share of them that is effective, about."""
    mixture, efficiency = _adapt(target, rng)
    if mixture.means.shape[1] > _FEW_DIMENSIONS:
        heated = _heated(target, mixture, rng)
        return mixture.widened().joined(heated, _HEATED_SHARE), efficiency * (1.0 - _HEATED_SHARE)
    return mixture.widened(), efficiency


def _heated(target: Target, mixture: Mixture, rng: np.random.Generator) -> Mixture:
    """A mixture near the prior times a power of the likelihood, from one near the posterior."""
    size = _round_size(mixture)
    for _ in range(_HEATED_ROUNDS):
        points = mixture.sample(size, rng)
        prior = mixture.fixed.logpdf(points)
        # Where the prior is 0, so is the target.
        log_density = (1.0 - _HEAT) * prior + _HEAT * target(points)
        weights = _tempered(log_density - mixture.logpdf(points))
        mixture = fit_mixture(mixture, points, weights, iterations=_HEATED_ITERATIONS)
    return mixture


def _round_size(mixture: Mixture) -> int:
    """Points of a round of adaptation."""
    q: int = mixture.means.shape[1]
    return max(_ROUND, _POINTS_PER_COVARIANCE * (q + 1) * (q + 2))


def _adapt(target: Target, rng: np.random.Generator) -> tuple[Mixture, float]:
    """A mixture near the posterior, and the share of its points that are effective."""
    mixture = _first_mixture(target, rng)
    size = _round_size(mixture)
    best, best_efficiency = mixture, 0.0
    for step in range(_MOST_ROUNDS):
        points = mixture.sample(size, rng)
        log_weights = target(points) - mixture.logpdf(points)
        efficiency = _efficiency(log_weights)
        gained = efficiency > best_efficiency + _SMALLEST_GAIN
        if efficiency > best_efficiency:
            best, best_efficiency = mixture, efficiency
        if efficiency > _GOOD_EFFICIENCY or (efficiency > _FAIR_EFFICIENCY and not gained):
            break
        weights = _tempered(log_weights)
        if step == 0:
            mixture = _around_clusters(mixture, points, weights, rng)
        mixture = fit_mixture(mixture, points, weights)
    return best, best_efficiency


def _first_mixture(target: Target, rng: np.random.Generator) -> Mixture:
    """The prior, and a narrow and a wide t around each mode that is found from a few starts."""
    means: list[Array] = []
    factors: list[Array] = []
    heights: list[float] = []
    for start in _starts(target, rng):
        mode, factor, value = _climb(target, start)
        known = zip(means, factors, strict=True)
        if any(_near(mode, m, f) and _near(mode, m, factor) for m, f in known):
            continue
        means.append(mode)
        factors.append(factor)
        # The mass of a normal hill, up to a constant.
        heights.append(value + float(np.log(np.diag(factor)).sum()))
    # What lies lower holds nothing, unless in a breadth that only the prior can cover.
    kept = np.array(heights) > np.max(heights) - _NEGLIGIBLE_HILL
    mode, hill = np.array(means)[kept], np.array(factors)[kept]
    cover = target.coordinates.cover
    weights = np.r_[0.2, np.full(2 * len(mode), 0.4 / len(mode))]
    return Mixture(weights, np.r_[mode, mode], np.r_[hill, 2.5 * hill], cover)


def _starts(target: Target, rng: np.random.Generator) -> list[Array]:
    """The prior's middle, the guess from the residuals, and the best points about either."""
    middle, guess = target.guesses
    about_guess = guess + 4.0 * rng.standard_normal((_TRIED, len(guess)))
    starts = [middle, guess]
    for tried in (target.coordinates.cover.sample(_TRIED, rng), about_guess):
        starts += list(tried[np.argsort(-target(tried))[:2]])
    return starts


def _near(x: Array, mean: Array, factor: Array) -> bool:
    return bool(np.linalg.norm(np.linalg.solve(factor, x - mean)) < 0.5)


def _climb(target: Target, start: Array) -> tuple[Array, Array, float]:
    """Newton ascent with differences for derivatives.

    The mode, a lower Cholesky factor of the covariance there, and the log density.
    """
    here, value = start, float(target(start[None])[0])
    unit = target.coordinates.cover_factor
    covariance = unit @ unit.T
    for _ in range(40):
        gradient, hessian = _derivatives(target, here, value, np.full(len(here), _STEP))
        if not (np.isfinite(gradient).all() and np.isfinite(hessian).all()):
            break
        # In units of the prior's width; where the posterior is flatter than the prior, the prior.
        curvature, vectors = np.linalg.eigh(-unit.T @ hessian @ unit)
        curvature = np.maximum(np.abs(curvature), 0.2)
        axes = unit @ vectors
        covariance = (axes / curvature) @ axes.T
        step = covariance @ gradient
        lengths = 0.5 ** np.arange(16)
        values = target(here + lengths[:, None] * step)
        furthest = int(np.argmax(values))
        if not values[furthest] > value + 1e-3:
            break
        here, value = here + lengths[furthest] * step, float(values[furthest])
    return here, np.linalg.cholesky(covariance), value


def _derivatives(
    target: Callable[[Array], Array], here: Array, value: float, h: Array
) -> tuple[Array, Array]:
    """Central differences: gradient (q,) and Hessian (q, q), in one call of `target`."""
    q = len(here)
    unit = np.diag(h)
    rows, columns = np.tril_indices(q, -1)
    pairs = unit[rows] + unit[columns]
    found = target(here + np.concatenate([unit, -unit, pairs, -pairs]))
    up, down = found[:q], found[q : 2 * q]
    hessian = np.diag((up - 2 * value + down) / h**2)
    both = found[2 * q :].reshape(2, -1).sum(axis=0)
    cross = (both - up[rows] - up[columns] - down[rows] - down[columns] + 2 * value) / 2
    hessian[rows, columns] = hessian[columns, rows] = cross / (h[rows] * h[columns])
    return (up - down) / (2 * h), hessian


def _around_clusters(
    mixture: Mixture, points: Array, weights: Array, rng: np.random.Generator
) -> Mixture:
    """Components around the centres of clusters of the weighted points."""
    from scipy.cluster.vq import kmeans2  # slow to import

    drawn = points[resample(weights, 500, rng)]
    spread = drawn.std(axis=0) + 1e-12
    centres, label = kmeans2(drawn / spread, _COMPONENTS, minit="++", seed=rng)
    counts = np.bincount(label, minlength=_COMPONENTS)
    used = counts > 0
    overall = np.cov(drawn.T).reshape(len(spread), -1) + 1e-6 * np.diag(spread**2)
    factor = np.linalg.cholesky(overall / 2)
    shares = np.r_[0.1, 0.9 * counts[used] / counts.sum()]
    factors = np.repeat(factor[None], used.sum(), axis=0)
    return Mixture(shares, centres[used] * spread, factors, mixture.fixed)


def _efficiency(log_weights: Array) -> float:
    """Effective share of the points, 1 / (1 + variance of the weights over their mean)."""
    weights = np.exp(log_weights - np.max(log_weights))
    return float(weights.sum() ** 2 / np.sum(weights**2) / len(weights))


def _tempered(log_weights: Array) -> Array:
    """Normalised weights, flattened by a power until a tenth of the points is effective."""
    log_weights = np.maximum(log_weights - np.max(log_weights), -700.0)
    low, high = 0.0, 1.0
    if _efficiency(log_weights) < _LEAST_EFFICIENCY:
        for _ in range(30):
            middle = (low + high) / 2
            enough = _efficiency(middle * log_weights) > _LEAST_EFFICIENCY
            low, high = (middle, high) if enough else (low, middle)
        log_weights = low * log_weights
    weights = np.exp(log_weights)
    return np.asarray(weights / weights.sum())


def resample(weights: Array, size: int, rng: np.random.Generator) -> np.ndarray:
    """Systematic resampling by weights that sum to 1, in random order: which points (size,)."""
    steps = (np.arange(size) + rng.uniform()) / size
    chosen = np.searchsorted(np.cumsum(weights), steps * weights.sum())
    return rng.permutation(np.minimum(chosen, len(weights) - 1))


def _importance(log_weights: Array, smoothed: Array, k: float, draws: int) -> Importance:
    top = np.nanmax(log_weights)
    weights = np.nan_to_num(np.exp(log_weights - top))
    mean = weights.mean()
    effective = 1.0 / np.sum(smoothed**2)
    return Importance(
        pareto_k=k,
        largest_weight=float(weights.max() / weights.sum()),
        # The variance of weighting and that of taking a finite number of draws add up.
        ess=1.0 / (1.0 / effective + 1.0 / draws),
        log_evidence=float(top + np.log(mean)),
        log_evidence_se=float(weights.std(ddof=1) / mean / math.sqrt(len(weights))),
        evaluations=len(weights),
    )
