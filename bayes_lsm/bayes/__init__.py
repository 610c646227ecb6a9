"""Bayesian fits: priors that keep heterogeneous coefficients finite.

`graph` turns a design and priors into a `pm.Model`, `sampling` draws from it, `diagnostics` says
whether the draws can be trusted, `tree` makes them an ArviZ DataTree, and `fit` puts it all into a
`BayesFit`. Another engine is one more module that returns `Draws`. PyMC and ArviZ are imported
inside the functions that need them.
"""

from bayes_lsm.bayes.fit import BayesFit, fit_bayes
from bayes_lsm.bayes.graph import build_latent_pymc_model, build_pymc_model

__all__ = ["BayesFit", "build_latent_pymc_model", "build_pymc_model", "fit_bayes"]
