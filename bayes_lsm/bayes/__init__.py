"""Bayesian fits: priors that keep heterogeneous coefficients finite.

`graph` turns a design and priors into a `pm.Model`, `sampling` draws from it, `diagnostics` says
whether the draws can be trusted, `tree` makes them an ArviZ DataTree, and `fit` puts it all into a
`BayesFit`; `families` has the PyMC twins of the priors, and `prior_predictive` says what priors
imply. `student` says what differs with Student-t study effects, `student_collapsed` draws from such
a model directly (`direct` takes either kind), and `weights` shows which studies it discounts.
`clustered` draws from a model with several scale terms directly, `clustered_graph` and
`clustered_nuts` through PyMC, `clustered_fitting` makes a `clustered_fit` of either, and
`posterior_summaries` prints any fit. Another engine is one more module that returns `Draws`;
`calibration` and `coverage` check any engine on simulated effects (`replications` and
`clustered_replications`). PyMC and ArviZ are imported inside the functions that need them.

What is asked of a fit: `prediction`, `probability`, `effects`, `heterogeneity` and `contrasts`, the
verbs of the REML room; `evidence` (Bayes factors) and `savage_dickey` (of `nested` models); `loo`
(leave-one-study-out, K-fold, WAIC) and `clustered_loo` (the same of whole clusters), by the exact
refits of `refits`, which ask `row_deletion` and `clustered_deletion` for them, as `criteria`;
`checks` (posterior predictive, of `quantities`); `sensitivity` (the same model under other priors);
and of a model with some of its terms left out (`submodels`), `averaging`. Of several scale terms
`clustered_checks`, `clustered_nested`, `clustered_diagnosis` and `clustered_averaging` have what
differs, as have `clustered_prior` and `clustered_prior_predictive` before there are data, and
`dispatch` hands a verb on to such a fit. With Student-t study effects the same modules
answer; `student_deletion` leaves rows out, and `scores` says how far out an effect is.
"""

from bayes_lsm.bayes.bayes_fit import BayesFit
from bayes_lsm.bayes.calibration.calibration import Calibration, calibrate
from bayes_lsm.bayes.calibration.coverage import Coverage, coverage
from bayes_lsm.bayes.clustered_prior_predictive import LevelPriorPredictive
from bayes_lsm.bayes.cross_validation.elpd import Elpd, ElpdComparison, compare_elpd
from bayes_lsm.bayes.diagnostics.checks import PredictiveCheck, posterior_predictive_check
from bayes_lsm.bayes.diagnostics.diagnosis import Diagnosis, diagnose
from bayes_lsm.bayes.evidence.averaging import ModelAverage, average_models
from bayes_lsm.bayes.evidence.clustered_averaging import ClusteredModelAverage
from bayes_lsm.bayes.evidence.evidence import BayesFactor, bayes_factor
from bayes_lsm.bayes.evidence.model_prior import ModelPrior
from bayes_lsm.bayes.evidence.savage_dickey import SavageDickey, savage_dickey
from bayes_lsm.bayes.fitting import fit_bayes
from bayes_lsm.bayes.prediction.effects import Blups, blup, true_effects
from bayes_lsm.bayes.prediction.heterogeneity import Heterogeneity, heterogeneity
from bayes_lsm.bayes.prediction.prediction import Prediction, new_effects, predict, predict_tau
from bayes_lsm.bayes.prediction.probability import Probability, probability
from bayes_lsm.bayes.prior_predictive import PriorPredictive, prior_predictive
from bayes_lsm.bayes.pymc_model.graph import build_latent_pymc_model, build_pymc_model
from bayes_lsm.bayes.sensitivity.sensitivity import Sensitivity, sensitivity
from bayes_lsm.contrasts import tau_contrasts, tau_means, tau_steps

__all__ = [
    "BayesFactor",
    "BayesFit",
    "Blups",
    "Calibration",
    "ClusteredModelAverage",
    "Coverage",
    "Diagnosis",
    "Elpd",
    "ElpdComparison",
    "Heterogeneity",
    "LevelPriorPredictive",
    "ModelAverage",
    "ModelPrior",
    "Prediction",
    "PredictiveCheck",
    "PriorPredictive",
    "Probability",
    "SavageDickey",
    "Sensitivity",
    "average_models",
    "bayes_factor",
    "blup",
    "build_latent_pymc_model",
    "build_pymc_model",
    "calibrate",
    "compare_elpd",
    "coverage",
    "diagnose",
    "fit_bayes",
    "heterogeneity",
    "new_effects",
    "posterior_predictive_check",
    "predict",
    "predict_tau",
    "prior_predictive",
    "probability",
    "savage_dickey",
    "sensitivity",
    "tau_contrasts",
    "tau_means",
    "tau_steps",
    "true_effects",
]
