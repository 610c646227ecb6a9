"""Bayesian fits: priors that keep heterogeneous coefficients finite.

`graph` turns a design and priors into a `pm.Model`, `sampling` draws from it, `diagnostics` says
whether the draws can be trusted, `tree` makes them an ArviZ DataTree, and `fit` puts it all into a
`BayesFit`; `families` has the PyMC twins of the priors, and `prior_predictive` says what priors
imply. `student` says what differs with Student-t study effects, `student_collapsed` draws from such
a model directly, and `weights` shows which studies it discounts. Another engine is one more module
that returns `Draws`; `calibration` and `coverage` check any engine on simulated effects, by way of
`refits`. All else takes a `BayesFit`: `prediction`, `probability`, `effects`, `heterogeneity` and
`contrasts`, the verbs of the REML room, say what the draws mean. PyMC and ArviZ are imported inside
the functions that need them.
"""

from bayes_lsm.bayes.calibration import Calibration, calibrate
from bayes_lsm.bayes.coverage import Coverage, coverage
from bayes_lsm.bayes.effects import Blups, blup, true_effects
from bayes_lsm.bayes.fit import BayesFit, fit_bayes
from bayes_lsm.bayes.graph import build_pymc_model
from bayes_lsm.bayes.heterogeneity import Heterogeneity, heterogeneity
from bayes_lsm.bayes.prediction import Prediction, new_effects, predict, predict_tau
from bayes_lsm.bayes.prior_predictive import PriorPredictive, prior_predictive
from bayes_lsm.bayes.probability import Probability, probability
from bayes_lsm.contrasts import tau_contrasts, tau_means, tau_steps

__all__ = [
    "BayesFit",
    "Blups",
    "Calibration",
    "Coverage",
    "Heterogeneity",
    "Prediction",
    "PriorPredictive",
    "Probability",
    "blup",
    "build_pymc_model",
    "calibrate",
    "coverage",
    "fit_bayes",
    "heterogeneity",
    "new_effects",
    "predict",
    "predict_tau",
    "prior_predictive",
    "probability",
    "tau_contrasts",
    "tau_means",
    "tau_steps",
    "true_effects",
]
