"""Bayesian fits: priors that keep heterogeneous coefficients finite.

`graph` turns a design and priors into a `pm.Model`, `sampling` draws from it, `diagnostics` says
whether the draws can be trusted, `tree` makes them an ArviZ DataTree, and `fit` puts it all into a
`BayesFit`. `student` says what differs with Student-t study effects, `student_collapsed` draws from
such a model directly, and `weights` shows which studies it discounts. Another engine is one more
module that returns `Draws`. PyMC and ArviZ are imported inside the functions that need them.
"""

from bayes_lsm.bayes.fit import BayesFit, fit_bayes
from bayes_lsm.bayes.graph import build_pymc_model

__all__ = ["BayesFit", "build_pymc_model", "fit_bayes"]
