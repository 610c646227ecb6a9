r"""A map that takes standard normals to a mixture of normals, one coordinate after another.

With g(θ) = Σ_k w_k N(θ; μ_k, F_k F_k'), z_j = Φ⁻¹( G_j(θ_j | θ_1 … θ_{j−1}) ), where G_j is the
conditional distribution function, takes θ ~ g to independent standard normals (Rosenblatt 1952,
doi:10.1214/aoms/1177729394). Its inverse is what a sampler needs as coordinates: where g is near
the posterior, the posterior of z is near the standard normal, however skewed that of θ is. Import
this module inside the functions that need it: it loads numba.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.special import logsumexp

Array = npt.NDArray[np.float64]

FURTHEST = 30.0  # Φ(−z) underflows beyond 37
_SQRT2 = math.sqrt(2.0)
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
_ITERATIONS = 25
_POINTS_A_DIMENSION = 10


@dataclass(frozen=True, eq=False)
class NormalMixture:
    """Σ_k exp(log_weights[k]) · N(means[k], factors[k] factors[k]').

    Attributes
    ----------
    log_weights : ndarray, shape (K,)
    means : ndarray, shape (K, q)
    factors : ndarray, shape (K, q, q)
        Lower Cholesky factors of the covariances.
    """

    log_weights: Array
    means: Array
    factors: Array

    def __call__(self, z: Array) -> tuple[Array, float]:
        """The point θ (q,) of standard normals z (q,), and ln |dθ/dz| there."""
        theta, log_det, _, _ = transport(z, self.log_weights, self.means, self.factors)
        return theta, float(log_det)


def fit_normal_mixture(points: Array, components: int, rng: np.random.Generator) -> NormalMixture:
    """Expectation–maximisation for points (m, q) of equal weight."""
    from scipy.cluster.vq import kmeans2  # slow to import

    m, q = points.shape
    spread = points.std(axis=0) + 1e-12
    centre, overall = points.mean(axis=0), np.cov(points.T).reshape(q, q)
    ridge = 1e-4 * np.diag(spread**2)
    start, label = kmeans2((points - centre) / spread, components, minit="++", seed=rng)
    counts = np.bincount(label, minlength=components)
    means = centre + start[counts > 0] * spread
    covariances = np.repeat((overall / 4 + ridge)[None], len(means), axis=0)
    weights = counts[counts > 0] / m
    for _ in range(_ITERATIONS):
        share = np.exp(_log_shares(points, weights, means, covariances))
        sizes = share.sum(axis=1)
        # A covariance from a handful of points would bend the map beyond use.
        kept = (sizes > _POINTS_A_DIMENSION * q) | (sizes == sizes.max())
        share, sizes = share[kept], sizes[kept]
        weights = sizes / sizes.sum()
        means = share @ points / sizes[:, None]
        away = points[None] - means[:, None]
        covariances = np.matmul(np.swapaxes(share[:, :, None] * away, 1, 2), away)
        covariances = covariances / sizes[:, None, None] + ridge
    return NormalMixture(np.log(weights), means, np.linalg.cholesky(covariances))


def _log_shares(points: Array, weights: Array, means: Array, covariances: Array) -> Array:
    """ln P(component | point), shape (K, m)."""
    factors = np.linalg.cholesky(covariances)
    away = np.swapaxes(points[None] - means[:, None], 1, 2)
    e = np.linalg.solve(factors, away)
    log_det = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    joint = (np.log(weights) - log_det)[:, None] - 0.5 * np.sum(e**2, axis=1)
    return np.asarray(joint - logsumexp(joint, axis=0))


@njit(cache=True)
def _tail(e, side):
    """Φ(e) for side = 1, 1 − Φ(e) for side = −1, to full relative accuracy in the small tail."""
    return 0.5 * math.erfc(-side * e / _SQRT2)


@njit(cache=True)
def _density(e):
    return math.exp(-0.5 * e * e - _LOG_SQRT_2PI)


@njit(cache=True)
def _quantile(z, weights, centres, scales):
    """The a with Σ w_k Φ((a − c_k) / s_k) = Φ(z), by Newton steps inside a bracket."""
    # Each component's own quantile c_k + s_k z; that of the mixture lies between them.
    low, high, a = np.inf, -np.inf, 0.0
    for k in range(len(weights)):
        own = centres[k] + scales[k] * z
        low, high = min(low, own), max(high, own)
        a += weights[k] * own
    side = -1.0 if z > 0.0 else 1.0
    aim = math.log(_tail(z, side))
    for _ in range(100):
        tail, density = 0.0, 0.0
        for k in range(len(weights)):
            e = (a - centres[k]) / scales[k]
            tail += weights[k] * _tail(e, side)
            density += weights[k] * _density(e) / scales[k]
        gap = side * (math.log(tail) - aim) if tail > 0.0 else -side * np.inf
        if gap > 0.0:
            high = a
        else:
            low = a
        following = a - gap * tail / density if density > 0.0 and tail > 0.0 else np.nan
        if not low < following < high:
            following = 0.5 * (low + high)
        done = abs(following - a) <= 1e-14 * (1.0 + abs(a))
        a = following
        if done:
            break
    return a


@njit(cache=True)
def transport(z, log_weights, means, factors):
    """θ (q,), ln |dθ/dz|, its gradient in z (q,), and dθ/dz (q, q); nan for |z| > 30."""
    components, q = means.shape
    theta, log_det, slope = np.full(q, np.nan), np.nan, np.full(q, np.nan)
    inverse_slope = np.zeros((q, q))  # dz/dθ, lower triangular
    if not np.max(np.abs(z)) < FURTHEST:
        return theta, log_det, slope, np.full((q, q), np.nan)
    whitening = np.zeros((components, q, q))
    for k in range(components):
        whitening[k] = np.linalg.inv(factors[k])
    e = np.zeros((components, q))
    log_joint = log_weights.copy()  # ln w_k + ln density of θ_1 … θ_j under k
    gradient = np.zeros((components, q))  # of log_joint in θ
    share, centre, scale = np.empty(components), np.empty(components), np.empty(components)
    log_normal = 0.0
    for j in range(q):
        share[:] = np.exp(log_joint - np.max(log_joint))
        share /= share.sum()
        for k in range(components):
            centre[k], scale[k] = means[k, j], factors[k, j, j]
            for i in range(j):
                centre[k] += factors[k, j, i] * e[k, i]
        theta[j] = _quantile(z[j], share, centre, scale)
        side = -1.0 if z[j] > 0.0 else 1.0
        for k in range(components):
            e[k, j] = (theta[j] - centre[k]) / scale[k]
            for i in range(j + 1):
                inverse_slope[j, i] += share[k] * _density(e[k, j]) * whitening[k, j, i]
        for i in range(j):
            average = np.sum(share * gradient[:, i])
            for k in range(components):
                change = share[k] * (gradient[k, i] - average)
                inverse_slope[j, i] += change * side * _tail(e[k, j], side)
        inverse_slope[j] /= _density(z[j])
        log_normal -= 0.5 * z[j] * z[j] + _LOG_SQRT_2PI
        for k in range(components):
            log_joint[k] -= 0.5 * e[k, j] ** 2 + _LOG_SQRT_2PI + math.log(scale[k])
            for i in range(j + 1):
                gradient[k, i] -= e[k, j] * whitening[k, j, i]
    top = np.max(log_joint)
    share[:] = np.exp(log_joint - top)
    log_det = log_normal - top - math.log(share.sum())
    share /= share.sum()
    jacobian = np.linalg.inv(inverse_slope)
    for i in range(q):
        slope[i] = -z[i]
        for j in range(q):
            slope[i] -= jacobian[j, i] * np.sum(share * gradient[:, j])
    return theta, log_det, slope, jacobian
