"""The fast engine: β integrated out, α and the correlations drawn directly.

Given α, β has an exact normal posterior, so what is left to explore has q dimensions, and thousands
of values of α can be tried in milliseconds, by adaptive importance sampling. The coefficients of
all scale terms, and the κ of their correlations, are one vector; `resolve_priors` says which prior
each has, and the likelihood of the design what the data say of it: `likelihood_of` chooses it.

Of ln τ² of one variance the effects can say ±√2 at best, so with G = ∂ln τ²/∂θ the information is
G'G/2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.coordinates import PosteriorCoordinates
from bayes_lsm.bayes.engines.importance_sampling import propose_phi
from bayes_lsm.bayes.term_draws import join_terms, terms_of
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.likelihood.protocol import NormalPrior
from bayes_lsm.priors import Normal, PriorBlock, ResolvedPriors


def can_collapse(priors: ResolvedPriors) -> bool:
    """Whether β can be integrated out (location priors normal) and α has no hyperparameters."""
    normal = all(isinstance(prior, Normal) for prior in priors.location.priors)
    return normal and priors.scale.shrinkage is None


@dataclass(frozen=True, eq=False)
class AlphaPoints:
    """Values of α (m, q) from a proposal near the posterior, to be weighted by any likelihood.

    `log_ratio` (m,) is the log density of the prior less that of the proposal. With a log
    likelihood added it is the log weight of a point, and the mean weight is the marginal
    likelihood. `mean` (p,) and `precision` (p, p) are of the normal prior of β.
    """

    alphas: Array
    log_ratio: Array
    mean: Array
    precision: Array


def propose(design: Design, priors: ResolvedPriors, *, points: int, seed: int) -> AlphaPoints:
    """Points from the mixture that `sample_directly` would draw from.

    The prior is a part of it, so no weight of a likelihood is above its maximum over that share;
    unless a prior is flat, in whose place there is a wide distribution.
    """
    target = CollapsedTarget(design, priors)
    phi, log_ratio = propose_phi(target, points, seed)
    location = target.location
    return AlphaPoints(target.coefficients(phi), log_ratio, location.mean, location.precision)


class CollapsedTarget:
    """The log posterior density of φ, with β integrated out, up to the marginal likelihood.

    `location` is the prior of β, and `guesses` (2, q) are as in `Target`.
    """

    def __init__(self, design: Design, priors: ResolvedPriors) -> None:
        self._likelihood = likelihood_of(design)
        self.location = NormalPrior(*normal_prior(priors.location))
        self._inverse = np.linalg.inv(priors.scale.contrasts)
        derivatives, log_tau2 = self._likelihood.first_guess()
        G = derivatives @ self._inverse
        self.coordinates = PosteriorCoordinates(priors.scale.priors, G / math.sqrt(2))
        away = log_tau2 - G @ self.coordinates.theta_middle
        self.guesses = np.array([self.coordinates.middle, self.coordinates.towards(G.T @ away / 2)])

    def coefficients(self, phi: Array) -> Array:
        """α and κ (m, q) from φ (m, q)."""
        return np.ascontiguousarray(self.coordinates.theta(phi) @ self._inverse.T)

    def __call__(self, phi: Array) -> Array:
        values = self._likelihood.values(self.coefficients(phi), self.location)
        values = values + self.coordinates.prior.logpdf(phi)
        return np.where(np.isnan(values), -np.inf, values)

    def draws(self, phi: Array, rng: np.random.Generator) -> Draws:
        """α and κ at points (m, q), and one β given each."""
        alphas = self.coefficients(phi)
        noise = rng.standard_normal((len(alphas), len(self.location.mean)))
        location = self._likelihood.draw_location(alphas, noise, self.location)
        return join_terms(location, terms_of(self._likelihood.design, alphas))


def normal_prior(block: PriorBlock) -> tuple[Array, Array]:
    """Mean (p,) and precision (p, p) of coefficients with C·coefficients ~ independent normals."""
    normals = [prior for prior in block.priors if isinstance(prior, Normal)]
    means = np.array([prior.mean for prior in normals])
    scaled = block.contrasts / np.array([prior.sd for prior in normals])[:, None]
    return np.linalg.solve(block.contrasts, means), scaled.T @ scaled
