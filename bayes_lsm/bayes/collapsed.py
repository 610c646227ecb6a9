"""The fast engine: β integrated out, α drawn directly by adaptive importance sampling.

Given α, β has an exact normal posterior, so what is left to explore has q dimensions, and thousands
of values of α can be tried in milliseconds. A mixture of the prior and of Student-t distributions
is fitted to the posterior of α in a few rounds; the last round is weighted, the weights are
smoothed, and draws of equal weight are taken. All of it happens in the coordinates θ that the
priors are stated on. The weights say how good the result is: their Pareto k, and how many
independent draws they are worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bayes_lsm.bayes.draws import Array, Draws, Importance
from bayes_lsm.bayes.mixture import Fixed, Mixture, fit_mixture
from bayes_lsm.bayes.pareto import smooth_weights
from bayes_lsm.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.priors import Normal, PriorBlock, ResolvedPriors

_ROUND = 2000  # points of one adaptation round
_MOST_ROUNDS = 8
_GOOD_EFFICIENCY = 0.7
_COMPONENTS = 6
_LARGEST_SAMPLE = 60_000
_LARGE_WEIGHT = 0.01  # of the total
_CHAINS = 4  # independent draws, but ArviZ's diagnostics want several chains


def can_collapse(priors: ResolvedPriors) -> bool:
    """Whether β can be integrated out: every location prior is normal."""
    return all(isinstance(prior, Normal) for prior in priors.location.priors)


def sample_collapsed(
    design: Design, priors: ResolvedPriors, *, draws: int = 4000, seed: int
) -> Draws:
    """Independent draws from the posterior.

    Parameters
    ----------
    design : Design
    priors : ResolvedPriors
        With normal priors on the location part.
    draws : int, default 4000
    seed : int
        The same seed gives the same draws.

    Returns
    -------
    Draws
        With `importance`: the effective number of draws, Pareto k, and the log marginal likelihood.
    """
    if not can_collapse(priors):
        raise FitError(
            "the collapsed engine needs normal priors on all location coefficients; use "
            "engine='nuts'"
        )
    rng = np.random.default_rng(seed)
    target = _Target(design, priors)
    mixture, efficiency = _adapt(target, rng)
    mixture = mixture.widened()
    size = min(math.ceil(1.5 * draws / max(efficiency, 0.01)), max(_LARGEST_SAMPLE, draws))
    theta = mixture.sample(size, rng)
    log_weights = target(theta) - mixture.logpdf(theta)
    smoothed, k = smooth_weights(log_weights)
    weights = np.exp(smoothed)
    chosen = _resample(weights, draws, rng)
    alphas = target.coefficients(theta[chosen])
    location = target.draw_location(alphas, rng)
    shape = (_CHAINS, draws // _CHAINS, -1) if draws % _CHAINS == 0 else (1, draws, -1)
    return Draws(
        location.reshape(shape),
        alphas.reshape(shape),
        importance=_importance(log_weights, weights, k, draws),
    )


class _Target:
    """The log posterior density of θ, up to the marginal likelihood."""

    def __init__(self, design: Design, priors: ResolvedPriors) -> None:
        self._block = priors.scale
        self._inverse = np.linalg.inv(priors.scale.contrasts)
        mean, precision = normal_prior(priors.location)
        self._data = tuple(
            np.ascontiguousarray(array, dtype=float)
            for array in (design.y, design.v, design.X, design.Z, mean, precision)
        )
        self.prior = Fixed(self._prior_logpdf, self._prior_sample)

    def _prior_logpdf(self, theta: Array) -> Array:
        pairs = enumerate(self._block.priors)
        return np.asarray(sum(prior.logpdf(theta[:, j]) for j, prior in pairs))

    def _prior_sample(self, size: int, rng: np.random.Generator) -> Array:
        return np.column_stack([prior.sample(size, rng) for prior in self._block.priors])

    def coefficients(self, theta: Array) -> Array:
        """α (m, q) from θ (m, q)."""
        return np.ascontiguousarray(theta @ self._inverse.T)

    def __call__(self, theta: Array) -> Array:
        from bayes_lsm.likelihood.integrated import log_marginal

        values = log_marginal(self.coefficients(theta), *self._data)
        return np.asarray(values + self._prior_logpdf(theta))

    def draw_location(self, alphas: Array, rng: np.random.Generator) -> Array:
        """One β (m, p) given each α (m, q)."""
        from bayes_lsm.likelihood.integrated import draw_location

        noise = rng.standard_normal((len(alphas), self._data[2].shape[1]))
        return np.asarray(draw_location(alphas, noise, *self._data))


def normal_prior(block: PriorBlock) -> tuple[Array, Array]:
    """Mean (p,) and precision (p, p) of coefficients with C·coefficients ~ independent normals."""
    normals = [prior for prior in block.priors if isinstance(prior, Normal)]
    means = np.array([prior.mean for prior in normals])
    scaled = block.contrasts / np.array([prior.sd for prior in normals])[:, None]
    return np.linalg.solve(block.contrasts, means), scaled.T @ scaled


def _adapt(target: _Target, rng: np.random.Generator) -> tuple[Mixture, float]:
    """A mixture near the posterior, and the share of its points that are effective."""
    mixture = _first_mixture(target, rng)
    best, best_efficiency = mixture, 0.0
    for step in range(_MOST_ROUNDS):
        points = mixture.sample(_ROUND, rng)
        log_weights = target(points) - mixture.logpdf(points)
        log_weights = np.where(np.isnan(log_weights), -np.inf, log_weights)
        efficiency = _efficiency(log_weights)
        if efficiency > best_efficiency:
            best, best_efficiency = mixture, efficiency
        if efficiency > _GOOD_EFFICIENCY:
            break
        weights = _tempered(log_weights)
        if step == 0:
            mixture = _clustered(mixture, points, weights, rng)
        mixture = fit_mixture(mixture, points, weights)
    return best, best_efficiency


def _first_mixture(target: _Target, rng: np.random.Generator) -> Mixture:
    """The prior, and a narrow and a wide t around each mode that is found from three starts."""
    tried = target.prior.sample(500, rng)
    values = target(tried)
    width = np.subtract(*np.quantile(tried, [0.84, 0.16], axis=0)) / 2
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf))
    starts = [tried[order[0]], tried[order[1]], np.median(tried, axis=0)]
    means: list[Array] = []
    factors: list[Array] = []
    for start in starts:
        mode, covariance = _climb(target, start, width)
        apart = [
            np.linalg.norm(np.linalg.solve(f, mode - m))
            for m, f in zip(means, factors, strict=True)
        ]
        if min(apart, default=math.inf) > 0.5:
            means += [mode, mode]
            factor = np.linalg.cholesky(covariance)
            factors += [factor, 2.5 * factor]
    weights = np.r_[0.2, np.full(len(means), 0.8 / len(means))]
    return Mixture(weights, np.array(means), np.array(factors), target.prior)


def _climb(target: _Target, start: Array, width: Array) -> tuple[Array, Array]:
    """Newton ascent with differences for derivatives: the mode and the covariance there."""
    here, value = start, float(target(start[None])[0])
    covariance = np.diag(width**2)
    for _ in range(40):
        gradient, hessian = _derivatives(target, here, value, 1e-3 * width)
        # In units of the prior's width; where the posterior is flatter than the prior, the prior.
        curvature, vectors = np.linalg.eigh(-hessian * np.outer(width, width))
        curvature = np.maximum(np.abs(curvature), 0.2)
        covariance = (vectors / curvature @ vectors.T) * np.outer(width, width)
        step = covariance @ gradient
        lengths = 0.5 ** np.arange(8)
        values = target(here + lengths[:, None] * step)
        furthest = int(np.nanargmax(values)) if not np.isnan(values).all() else 0
        if not values[furthest] > value + 1e-3:
            break
        here, value = here + lengths[furthest] * step, float(values[furthest])
    return here, covariance


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


def _clustered(
    mixture: Mixture, points: Array, weights: Array, rng: np.random.Generator
) -> Mixture:
    """Components around the centres of clusters of the weighted points."""
    from scipy.cluster.vq import kmeans2  # slow to import

    drawn = points[_resample(weights, 500, rng)]
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


def _tempered(log_weights: Array, least: float = 0.1) -> Array:
    """Normalised weights, flattened by a power until a share `least` is effective."""
    log_weights = np.maximum(log_weights - np.max(log_weights), -700.0)
    low, high = 0.0, 1.0
    if _efficiency(log_weights) < least:
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if _efficiency(middle * log_weights) > least else (low, middle)
            )
        log_weights = low * log_weights
    weights = np.exp(log_weights)
    return np.asarray(weights / weights.sum())


def _resample(weights: Array, size: int, rng: np.random.Generator) -> np.ndarray:
    """Systematic resampling, in random order."""
    steps = (np.arange(size) + rng.uniform()) / size
    chosen = np.searchsorted(np.cumsum(weights), steps * weights.sum())
    return rng.permutation(np.minimum(chosen, len(weights) - 1))


def _importance(log_weights: Array, smoothed: Array, k: float, draws: int) -> Importance:
    top = np.nanmax(log_weights)
    weights = np.nan_to_num(np.exp(log_weights - top))
    mean = weights.mean()
    effective = 1.0 / np.sum(smoothed**2)
    return Importance(
        # The shape of the tail means something only where some weights are large.
        pareto_k=k if weights.max() > _LARGE_WEIGHT * weights.sum() else 0.0,
        # The variance of weighting and that of taking a finite number of draws add up.
        ess=1.0 / (1.0 / effective + 1.0 / draws),
        log_evidence=float(top + np.log(mean)),
        log_evidence_se=float(weights.std(ddof=1) / mean / math.sqrt(len(weights))),
        evaluations=len(weights),
    )
