"""Hard sets of effects for the collapsed engine, and a judge that shares nothing with its search.

The judge is sequential Monte Carlo: points from the prior, moved by a random walk as the likelihood
is raised to its full power step by step. A proposal that is fitted to where they end, with a large
share of the prior, is then weighted by very many points.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

import bayes_lsm as lsm
from bayes_lsm.bayes.engines.importance_sampling import Target, _efficiency, resample
from bayes_lsm.bayes.engines.proposal import Mixture, fit_mixture

_PARTICLES = 3000
_MOVES = 8
PRESETS = ("weakly_informative", "slides", "blsmeta", "robma")


def hard_model(number):
    """Model number `number`: 8 to 40 studies, 3 to 8 scale coefficients.

    A third has two moderators that are all but collinear, a third a group of two or three studies
    whose τ² is 0 (a half-flat coefficient), a third both.
    """
    rng = np.random.default_rng([number, 20])
    k, q = int(rng.integers(8, 41)), int(rng.integers(3, 9))
    k = max(k, q + 2)
    x = rng.normal(size=(k, q - 1)) * rng.uniform(0.3, 3, q - 1)
    log_tau2 = -2 + x @ rng.normal(0, 0.5, q - 1) * (rng.random() < 0.7)
    names = [f"x{j}" for j in range(q - 1)]
    data = pd.DataFrame(x, columns=names)
    if number % 3 != 1:
        data["x1"] = data["x0"] + 0.03 * rng.normal(size=k)
    if number % 3 != 0:
        few = rng.permutation(k) < rng.integers(2, 4)
        data["x0"] = few.astype(float)
        log_tau2 = np.where(few, -40, log_tau2)
    data["vi"] = np.exp(rng.normal(-3, 0.7, k))
    data["yi"] = rng.normal(0.3, np.sqrt(data["vi"] + np.exp(log_tau2)))
    location = " + ".join(["1", *names[: int(rng.integers(0, 3))]])
    preset = PRESETS[number % len(PRESETS)]
    return lsm.LocationScaleModel(
        f"yi ~ {location}",
        scale="~ " + " + ".join(names),
        variance="vi",
        data=data,
        priors=lsm.priors.preset(preset, measure="SMD"),
    )


@dataclass(frozen=True, eq=False)
class Judgement:
    """The log evidence, its error, and weighted points φ."""

    log_evidence: float
    se: float
    phi: np.ndarray
    weights: np.ndarray


def judge(target: Target, *, points: int, seed: int) -> Judgement:
    """By `points` points from a proposal that sequential Monte Carlo has found."""
    rng = np.random.default_rng(seed)
    particles = _temper(target, rng)
    proposal = _around(particles, target, rng)
    phi = np.concatenate([proposal.sample(points // 8, rng) for _ in range(8)])
    log_weights = np.concatenate(
        [target(part) - proposal.logpdf(part) for part in np.array_split(phi, 16)]
    )
    top = log_weights.max()
    weights = np.exp(log_weights - top)
    se = weights.std() / weights.mean() / np.sqrt(len(weights))
    return Judgement(top + np.log(weights.mean()), se, phi, weights / weights.sum())


def _temper(target, rng):
    prior = target.coordinates.prior
    x = prior.sample(_PARTICLES, rng)
    before = prior.logpdf(x)
    log_likelihood = target(x) - before
    power = 0.0
    while power < 1.0:
        low, high = 0.0, 1.0 - power
        for _ in range(40):
            middle = (low + high) / 2
            fine = _efficiency(middle * log_likelihood) > 0.5
            low, high = (middle, high) if fine else (low, middle)
        step = 1.0 - power if _efficiency((1.0 - power) * log_likelihood) > 0.5 else low
        weights = np.exp(step * (log_likelihood - log_likelihood.max()))
        chosen = resample(weights / weights.sum(), len(x), rng)
        x, before, log_likelihood = x[chosen], before[chosen], log_likelihood[chosen]
        power += step
        q = x.shape[1]
        for move in range(_MOVES):
            # Now far, now near, and along the differences of two others (ter Braak 2006).
            a, b = rng.permutation(len(x)), rng.permutation(len(x))
            length = (2.38 / np.sqrt(2 * q)) * (1.0, 0.4)[move % 2]
            there = x + length * (x[a] - x[b]) + 1e-4 * rng.standard_normal(x.shape)
            new_before = prior.logpdf(there)
            new = target(there) - new_before
            log_ratio = new_before - before + power * (new - log_likelihood)
            moved = np.log(rng.random(len(x))) < log_ratio
            x[moved], before[moved], log_likelihood[moved] = (
                there[moved], new_before[moved], new[moved],
            )  # fmt: skip
    return x


def _around(particles, target, rng, components=10):
    q = particles.shape[1]
    centres = particles[rng.choice(len(particles), components, replace=False)]
    factor = np.linalg.cholesky(np.cov(particles.T) / 2 + 1e-6 * np.eye(q))
    shares = np.r_[0.1, np.full(components, 0.9 / components)]
    start = Mixture(
        shares, centres, np.repeat(factor[None], components, axis=0), target.coordinates.prior
    )
    weights = np.full(len(particles), 1 / len(particles))
    fitted = fit_mixture(start, particles, weights, iterations=30).widened()
    shares = np.r_[0.25, 0.75 * fitted.weights[1:] / fitted.weights[1:].sum()]
    return Mixture(shares, fitted.means, fitted.factors, fitted.fixed)
