"""Figures of results, and of nothing else: every number in them is one that a result gives.

Each function takes a result and, if wanted, axes to draw in, and returns the axes; without any it
makes a figure of its own (``ax.figure.savefig("forest.pdf")``). Nothing touches matplotlib's global
state, and matplotlib is loaded when a figure is drawn. `canvas` has the colours and the shared
parts of all figures, `reading` what they ask of a fit; a new figure is a new module here.
"""

from bayes_lsm.plots.beliefs import prior_posterior
from bayes_lsm.plots.bubble import bubble
from bayes_lsm.plots.effects import caterpillar, new_effect
from bayes_lsm.plots.forest import forest
from bayes_lsm.plots.influential import influence
from bayes_lsm.plots.nulls import bootstrap_null, permutation_null
from bayes_lsm.plots.predictive import loo_pit, replicated, shifts
from bayes_lsm.plots.profiles import profile, profiles
from bayes_lsm.plots.residual import funnel, qq
from bayes_lsm.plots.scale import heterogeneity
from bayes_lsm.plots.sensitivity import sensitivity, under_priors

__all__ = [
    "bootstrap_null",
    "bubble",
    "caterpillar",
    "forest",
    "funnel",
    "heterogeneity",
    "influence",
    "loo_pit",
    "new_effect",
    "permutation_null",
    "prior_posterior",
    "profile",
    "profiles",
    "qq",
    "replicated",
    "sensitivity",
    "shifts",
    "under_priors",
]
