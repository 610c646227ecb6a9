"""Draws from the priors of a model with several scale terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bayes_lsm.bayes.clustered_draws import RandomInterceptDraws
from bayes_lsm.bayes.clustered_fit import ClusteredBayesFit
from bayes_lsm.bayes.clustered_fitting import terms_of
from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.prior_predictive import require_proper
from bayes_lsm.bayes.resolved_priors.resolve import DEFAULT_SCALE_SD, resolve_priors
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.priors import Priors


def draw_from_prior(
    design: Design, prior: Priors, *, size: int, seed: int, rng: np.random.Generator
) -> ClusteredBayesFit:
    """Independent draws of everything unknown from the priors, held as a fit holds its own.

    Raises
    ------
    PriorError
        When a prior is flat, or names a term that the model does not have.
    """
    resolved = resolve_priors(design, prior)
    require_proper(resolved)
    beta = resolved.location.sample(size, rng)
    terms = terms_of(design, resolved.scale.sample(size, rng))
    of_sd = prior.scale_sd or DEFAULT_SCALE_SD
    drawn = {
        name: replace(each, random=_random_intercepts(each.term, of_sd.sample, size, rng))
        for name, each in terms.items()
    }
    return ClusteredBayesFit(design, prior, beta, drawn, None, seed, ())


def _random_intercepts(
    term: ScaleTerm,
    log_square: Callable[[int, np.random.Generator], Array],
    size: int,
    rng: np.random.Generator,
) -> tuple[RandomInterceptDraws, ...]:
    found = []
    for each in term.random:
        sd = np.exp(log_square(size, rng) / 2)  # the prior is one of ln ω²
        effect = sd[:, None] * rng.standard_normal((size, len(each.levels)))
        found.append(RandomInterceptDraws(each, sd, effect))
    return tuple(found)
