"""The marginal likelihood by bridging a fit's own draws, with any proper priors.

In coordinates β, α, κ, ln ω and u of random intercepts ωu, with the effects of the groups
integrated out; see `bridge`.
"""

from __future__ import annotations

import math

import numpy as np

from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.evidence.bridge import MOST_ITERATIONS, bridge
from bayes_lsm.bayes.evidence.evidence import Evidence, with_error
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.resolved_priors.resolve import DEFAULT_SCALE_SD, resolve_priors
from bayes_lsm.bayes.term_draws import are_random, flat_coefficients
from bayes_lsm.likelihood.likelihood import likelihood_of

# An error beyond that cannot itself be trusted: the proposal misses much of the posterior.
_LARGEST_BRIDGE_SE = 0.5


def bridged_evidence(fit: Posterior) -> Evidence:
    """ln p(y) from the draws of a fit with normal effects, by either engine."""
    worth = float(fit.convergence.filter(like="ess").to_numpy().min())
    rng = np.random.default_rng(fit.seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        joint = _Joint(fit)
        found = bridge(joint, joint.coordinates(), worth=worth, rng=rng)
    problems = []
    # Written so that nan counts as wrong.
    if not (found.settled and found.se <= _LARGEST_BRIDGE_SE):
        problems.append(
            "the draws are far from normal for a bridge, and its error cannot be trusted; "
            "use tighter priors"
        )
    if not found.settled:
        problems.append(
            f"bridge sampling did not settle in {MOST_ITERATIONS} iterations; take more draws, or "
            "use tighter priors"
        )
    return with_error(found.log, found.se, problems, cure="take more draws")


class _Joint:
    """ln p(y, θ) at points θ = (β, α and κ of all terms, ln ω, u), without bounds."""

    def __init__(self, fit: Posterior) -> None:
        self._fit = fit
        self._priors = resolve_priors(fit.design, fit.priors)
        self._likelihood = likelihood_of(fit.design.given_levels())
        self._sd = fit.priors.scale_sd or DEFAULT_SCALE_SD
        self._random = [each for term in fit.terms.values() for each in term.random]
        self._log_jacobian = sum(
            float(np.linalg.slogdet(block.contrasts)[1])
            for block in (self._priors.location, self._priors.scale)
        )
        self._effect = are_random(fit.design)

    def coordinates(self) -> Array:
        """The draws of the fit, as such points."""
        flat = flat_coefficients(self._fit.terms)
        log_sd = [np.log(each.sd)[:, None] for each in self._random]
        u = [each.effect / each.sd[:, None] for each in self._random]
        return np.hstack([self._fit.draws.flat_location, flat[:, ~self._effect], *log_sd, *u])

    def __call__(self, points: Array) -> Array:
        p, q = self._fit.draws.flat_location.shape[1], int(np.sum(~self._effect))
        beta, alpha, rest = np.split(points, [p, p + q], axis=1)
        log_sd, u = np.split(rest, [len(self._random)], axis=1)
        flat = np.empty((len(points), len(self._effect)))
        flat[:, ~self._effect] = alpha
        sizes = [each.effect.shape[1] for each in self._random]
        flat[:, self._effect] = u * np.repeat(np.exp(log_sd), sizes, axis=1)
        likelihood = self._likelihood.densities(beta, flat)
        prior = self._log_jacobian + np.sum(self._priors.location.logpdf(beta), axis=1)
        prior = prior + np.sum(self._priors.scale.logpdf(alpha), axis=1)
        # The prior of ω is that of a τ, whose density is of ln τ² = 2 ln ω.
        prior = prior + np.sum(self._sd.logpdf(2.0 * log_sd) + math.log(2.0), axis=1)
        prior = prior - 0.5 * np.sum(u**2 + np.log(2 * np.pi), axis=1)
        return np.asarray(likelihood + prior)
