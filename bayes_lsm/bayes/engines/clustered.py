"""The fast engine for several scale terms: β integrated out, α and the correlations drawn directly.

The same importance sampling as in `collapsed`, with the likelihood of `likelihood.clustered`. The
coefficients of all scale terms, and the κ of their correlations, are one vector; `resolve_priors`
says which prior each has.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import block_diag

from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.engines.collapsed import (
    CHAINS,
    draw_weighted,
    normal_prior,
    require_collapsible,
)
from bayes_lsm.bayes.engines.coordinates import Coordinates
from bayes_lsm.bayes.term_draws import join_terms, terms_of
from bayes_lsm.design.design import Design
from bayes_lsm.priors import (
    ResolvedPriors,
)


class ClusteredTarget:
    """The log posterior density of φ, up to the marginal likelihood."""

    def __init__(self, design: Design, priors: ResolvedPriors) -> None:
        from bayes_lsm.likelihood.blocks import blocks
        from bayes_lsm.likelihood.blocks.arrange import arrange_design

        self._data = arrange_design(design)
        self._location = blocks.NormalPrior(*normal_prior(priors.location))
        self._inverse = np.linalg.inv(priors.scale.contrasts)
        G = _information(design) @ self._inverse
        self.coordinates = Coordinates(priors.scale.priors, G / math.sqrt(2))
        away = _first_guess(design) - G @ self.coordinates.theta_middle
        self.guesses = np.array([self.coordinates.middle, self.coordinates.towards(G.T @ away / 2)])

    def coefficients(self, phi: Array) -> Array:
        """α and κ (m, q) from φ (m, q)."""
        return np.ascontiguousarray(self.coordinates.theta(phi) @ self._inverse.T)

    def __call__(self, phi: Array) -> Array:
        from bayes_lsm.likelihood.blocks import blocks

        alphas = self.coefficients(phi)
        values = blocks.log_likelihoods(alphas, self._data, method=self._location)
        values = values + self.coordinates.prior.logpdf(phi)
        return np.asarray(np.where(np.isnan(values), -np.inf, values))

    def draw_location(self, alphas: Array, rng: np.random.Generator) -> Array:
        """One β (m, p) given each α (m, q)."""
        from bayes_lsm.likelihood.blocks import blocks

        noise = rng.standard_normal((len(alphas), self._data.p))
        return blocks.draw_location(alphas, noise, self._data, prior=self._location)


def sample_clustered(design: Design, priors: ResolvedPriors, *, draws: int, seed: int) -> Draws:
    """Independent draws of β, α and correlations, and how good they are."""
    require_collapsible(priors, "use such priors, or engine='nuts'")
    rng = np.random.default_rng(seed)
    target = ClusteredTarget(design, priors)
    phi, importance = draw_weighted(target, draws, rng)
    alphas = target.coefficients(phi)
    location = target.draw_location(alphas, rng)
    return join_terms(location, terms_of(design, alphas), importance).in_chains(CHAINS)


def _information(design: Design) -> Array:
    """∂ln τ²/∂α of every variance that has rows, and for κ as much as from so many groups."""
    blocks = []
    for term in design.terms:
        Z = term.Z.reshape(-1, term.Z.shape[2])
        blocks.append(Z)
        kappas = term.n_correlations
        blocks.append(math.sqrt(2.0 * len(term.groups)) * np.eye(kappas))
    return np.asarray(block_diag(*blocks))


def _first_guess(design: Design) -> Array:
    """ln τ² of every variance: the residual variance in equal shares; 0 for κ."""
    residuals = design.y - design.X @ np.linalg.lstsq(design.X, design.y, rcond=None)[0]
    total = float(np.mean(residuals**2))
    share = max(total - float(np.mean(design.v)), 0.05 * total) / len(design.terms)
    values = []
    for term in design.terms:
        size = np.maximum(np.mean(term.slopes**2, axis=0), 1e-300)
        values.append(np.tile(np.log(share / size), len(term.groups)))
        values.append(np.zeros(term.n_correlations))
    return np.concatenate(values)
