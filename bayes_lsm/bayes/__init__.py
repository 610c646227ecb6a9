"""Bayesian fits: priors that keep heterogeneous coefficients finite.

The way of a fit, for every kind of model: `fitting` binds the priors to the data
(`resolved_priors`), has an engine draw (`engines`), asks whether its draws can be trusted
(`engines.diagnostics`), and puts it all into a `BayesFit` (`bayes_fit`), the face whose methods are
the verbs. What was drawn are `Draws` (`draws`), named as the variables of the PyMC model
(`coordinates`); `term_draws` shows them by scale term. `pymc_model` turns a design and priors into
a `pm.Model` (`graph`; `families` has the PyMC twins of the priors, `likelihood_node` says what the
observed effects are), and draws into an ArviZ DataTree (`datatree`, `pointwise_likelihood`,
`prior_draws`).

The engines: `collapsed` (normal effects, whatever their scale terms) and `student_collapsed`
(Student-t study effects) need no chains but `importance_sampling`, and `direct` says which draws
from a model; `nuts` draws from any. Another one is a module that returns `Draws`, and a line of
`direct`.

What is asked of a fit: `prediction` (effects, τ, probabilities, heterogeneity, contrasts),
`cross_validation` (leave-one-out, K-fold, WAIC), `evidence` (marginal likelihoods, Bayes factors,
the Savage–Dickey ratio, model averaging), `diagnostics` (posterior predictive checks, influence),
`sensitivity` (the same model under other priors) and `summaries`. Before there are data
`prior_predictive` says what the priors imply, and `calibration` checks any engine on simulated
effects. `student` has what differs with Student-t study effects. PyMC and ArviZ are imported inside
the functions that need them.
"""

from bayes_lsm.bayes.bayes_fit import BayesFit
from bayes_lsm.bayes.calibration.calibration import Calibration, calibrate
from bayes_lsm.bayes.calibration.coverage import Coverage, coverage
from bayes_lsm.bayes.cross_validation.elpd import Elpd, ElpdComparison, compare_elpd
from bayes_lsm.bayes.diagnostics.checks import PredictiveCheck, posterior_predictive_check
from bayes_lsm.bayes.diagnostics.diagnosis import Diagnosis, diagnose
from bayes_lsm.bayes.evidence.averaging import average_models
from bayes_lsm.bayes.evidence.bayes_factor import BayesFactor, bayes_factor
from bayes_lsm.bayes.evidence.model_average import ModelAverage
from bayes_lsm.bayes.evidence.model_prior import ModelPrior
from bayes_lsm.bayes.evidence.savage_dickey import SavageDickey, savage_dickey
from bayes_lsm.bayes.fitting import fit_bayes
from bayes_lsm.bayes.prediction.blup import blup
from bayes_lsm.bayes.prediction.group_effects import group_effects
from bayes_lsm.bayes.prediction.heterogeneity import Heterogeneity, heterogeneity
from bayes_lsm.bayes.prediction.prediction import new_effects, predict, predict_tau
from bayes_lsm.bayes.prediction.probability import Probability, probability
from bayes_lsm.bayes.prediction.true_effects import true_effects
from bayes_lsm.bayes.prior_predictive import PriorPredictive, prior_predictive
from bayes_lsm.bayes.pymc_model.graph import build_latent_pymc_model, build_pymc_model
from bayes_lsm.bayes.sensitivity.sensitivity import Sensitivity, sensitivity
from bayes_lsm.contrasts import tau_contrasts, tau_means, tau_steps
from bayes_lsm.predictions import Blups, GroupEffects, Prediction

__all__ = [
    "BayesFactor",
    "BayesFit",
    "Blups",
    "Calibration",
    "Coverage",
    "Diagnosis",
    "Elpd",
    "ElpdComparison",
    "GroupEffects",
    "Heterogeneity",
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
    "group_effects",
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
