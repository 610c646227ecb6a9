"""Draws of all that is unknown from the priors, held as those of a posterior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.resolved_priors.resolve import scale_sd_prior
from bayes_lsm.bayes.student.effects import sample_df
from bayes_lsm.bayes.term_draws import RandomInterceptDraws, join_terms, terms_of
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.priors import Priors, ResolvedPriors


def draw_priors(
    design: Design, priors: Priors, resolved: ResolvedPriors, size: int, rng: np.random.Generator
) -> Draws:
    """Independent draws of everything unknown from proper priors, as one chain.

    Of the coefficients and the κ of correlations they are those of `resolved`, of ν and of random
    intercepts of ln τ² those of `priors`.
    """
    location = resolved.location.sample(size, rng)
    terms = terms_of(design, resolved.scale.sample(size, rng))
    drawn_df = None
    if resolved.df is not None:
        drawn_df = np.atleast_2d(sample_df(resolved.df, size, rng))
    of_sd = scale_sd_prior(priors)
    drawn = {
        name: replace(each, random=_random_intercepts(each.term, of_sd.sample, size, rng))
        for name, each in terms.items()
    }
    return replace(join_terms(location, drawn), df=drawn_df)


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
