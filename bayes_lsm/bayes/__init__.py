"""Bayesian fits: priors that keep heterogeneous coefficients finite.

`graph` turns a design and priors into a `pm.Model`, `sampling` draws from it, `diagnostics` says
whether the draws can be trusted, `tree` makes them an ArviZ DataTree, and `fit` puts it all into a
`BayesFit`. Another engine is one more module that returns `Draws`. PyMC and ArviZ are imported
inside the functions that need them.

What is asked of a fit: `evidence` (Bayes factors) and `savage_dickey`; `loo` (leave-one-study-out,
K-fold, WAIC), by the exact refits of `refits`; `checks` (posterior predictive); and of a model with
some of its terms left out (`submodels`), `averaging`.
"""

from bayes_lsm.bayes.averaging import ModelAverage, average_models
from bayes_lsm.bayes.checks import PredictiveCheck, posterior_predictive_check
from bayes_lsm.bayes.elpd import Elpd, ElpdComparison, compare_elpd
from bayes_lsm.bayes.evidence import BayesFactor, bayes_factor
from bayes_lsm.bayes.fit import BayesFit, fit_bayes
from bayes_lsm.bayes.graph import build_pymc_model
from bayes_lsm.bayes.model_prior import ModelPrior
from bayes_lsm.bayes.savage_dickey import SavageDickey, savage_dickey

__all__ = [
    "BayesFactor",
    "BayesFit",
    "Elpd",
    "ElpdComparison",
    "ModelAverage",
    "ModelPrior",
    "PredictiveCheck",
    "SavageDickey",
    "average_models",
    "bayes_factor",
    "build_pymc_model",
    "compare_elpd",
    "fit_bayes",
    "posterior_predictive_check",
    "savage_dickey",
]
