"""The frequentist reference: REML and ML, with metafor's conventions.

`surface` climbs one likelihood surface, `divergence` knows its limits at infinity, and `search`
finds the highest point of all. `fit` makes a `RemlFit` of it; `heterogeneity` and `tests` read from
one. A new frequentist method belongs here, in a module of its own that takes a `RemlFit` or a
`Design`.
"""

from bayes_lsm.reml.divergence import Divergence
from bayes_lsm.reml.estimate import Bounds
from bayes_lsm.reml.fit import RemlFit, Test, fit_reml
from bayes_lsm.reml.tests import LikelihoodRatioTest, likelihood_ratio_test

__all__ = [
    "Bounds",
    "Divergence",
    "LikelihoodRatioTest",
    "RemlFit",
    "Test",
    "fit_reml",
    "likelihood_ratio_test",
]
