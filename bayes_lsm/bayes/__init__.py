"""Bayesian fits: priors that keep heterogeneous coefficients finite.

`graph` turns a design and priors into a `pm.Model`, `sampling` draws from it, `diagnostics` says
whether the draws can be trusted, `tree` makes them an ArviZ DataTree, and `fit` puts it all into a
`BayesFit`; `families` has the PyMC twins of the priors, and `prior_predictive` says what priors
imply. Another engine is one more module that returns `Draws`. PyMC and ArviZ are imported
inside the functions that need them.
"""

from bayes_lsm.bayes.fit import BayesFit, fit_bayes
from bayes_lsm.bayes.graph import build_pymc_model
from bayes_lsm.bayes.prior_predictive import PriorPredictive, prior_predictive

__all__ = ["BayesFit", "PriorPredictive", "build_pymc_model", "fit_bayes", "prior_predictive"]
