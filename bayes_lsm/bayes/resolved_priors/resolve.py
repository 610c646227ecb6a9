"""Priors bound to the data of a design."""

from __future__ import annotations

from bayes_lsm.bayes.engines.clustered import resolve_terms
from bayes_lsm.bayes.pymc_model import graph
from bayes_lsm.design.design import Design
from bayes_lsm.priors import Priors, ResolvedPriors


def resolve_priors(design: Design, priors: Priors) -> ResolvedPriors:
    """The priors of a design's location coefficients, scale coefficients and correlations.

    In the scale part the coefficients of a term come before the κ of its correlations, and the next
    term after those.

    Raises
    ------
    PriorError
        When a prior names a term, or something else, that the model does not have, or is flat on a
        scale coefficient that the data do not bound.
    """
    resolve = graph.resolve_priors if design.is_independent else resolve_terms
    return resolve(design, priors)
