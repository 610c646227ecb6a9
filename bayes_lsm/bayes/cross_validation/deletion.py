"""The posterior of a fit without some of its rows: points near it, and what they say.

By the engines that need no chains, of α where β can be integrated out and else of all unknowns; of
random intercepts of ln τ², which only NUTS can draw, see `sampled_refits`.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from bayes_lsm.arrays import Index
from bayes_lsm.bayes.cross_validation.given_draws import DrawnDeletion, IndependentRows
from bayes_lsm.bayes.cross_validation.refits import NearPoints, Refittable
from bayes_lsm.bayes.cross_validation.sampled_refits import SampledRefits
from bayes_lsm.bayes.engines.collapsed import propose
from bayes_lsm.bayes.engines.direct import require_direct
from bayes_lsm.bayes.engines.student_collapsed import propose_student
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.student.effects import arrays
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.likelihood.protocol import NormalPrior
from bayes_lsm.priors import ResolvedPriors


def deletion_of(fit: Posterior) -> Refittable:
    """How rows are left out of a fit; by a FitError not with all priors."""
    design, rows = fit.design, len(fit.design.y)
    priors = resolve_priors(design, fit.priors)
    p, q = len(priors.location.priors), len(priors.scale.priors)
    width = max(p**2, p + q + 1)
    if any(term.random for term in design.terms):
        refits = SampledRefits(fit)
        return Refittable(refits.near, rows, width, False, True, refits.problems)
    require_direct(priors, "use psis_loo(), which needs no refits")
    near = partial(_near if priors.df is None else _jointly, design, priors)
    return Refittable(near, rows, width, priors.scale.is_proper)


def _near(
    design: Design, priors: ResolvedPriors, left: Index, *, points: int, seed: int
) -> NearPoints:
    """Points α near the posterior of the rows `left`, with β integrated out."""
    found = propose(design.keep(left), priors, points=points, seed=seed)
    prior = NormalPrior(found.mean, found.precision)
    return NearPoints(found.log_ratio, likelihood_of(design).deletion(left, found.alphas, prior))


def _jointly(
    design: Design,
    priors: ResolvedPriors,
    left: Index,
    *,
    points: int,
    seed: int,
) -> NearPoints:
    """Points of all unknowns, given which Student-t effects are independent."""
    from bayes_lsm.likelihood.student.kernels import log_likelihood

    part = design.keep(left)
    found = propose_student(part, priors, points=points, seed=seed)
    unknowns = found.location, found.scale, found.df
    total = np.asarray(log_likelihood(*unknowns, *arrays(part)))
    given = IndependentRows(design, *unknowns)
    return NearPoints(found.log_ratio, DrawnDeletion(given, total, len(left) == len(design.y)))
