"""Draws from the priors of a model with several scale terms."""

from __future__ import annotations

import numpy as np

from bayes_lsm.bayes.engines.diagnostics import convergence
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prior_draws import draw_priors
from bayes_lsm.bayes.prior_predictive import require_proper
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.design.design import Design
from bayes_lsm.priors import Priors


def draw_from_prior(
    design: Design, prior: Priors, *, size: int, seed: int, rng: np.random.Generator
) -> Posterior:
    """Independent draws of everything unknown from the priors, held as a fit holds its own.

    Raises
    ------
    PriorError
        When a prior is flat, or names a term that the model does not have.
    """
    resolved = resolve_priors(design, prior)
    require_proper(resolved)
    draws = draw_priors(design, prior, resolved, size, rng)
    return Posterior(design, prior, draws, seed, convergence(design, draws), ())
