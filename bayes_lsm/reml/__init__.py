"""The frequentist reference: REML and ML, with metafor's conventions.

`surface` climbs one likelihood surface, `divergence` knows its limits at infinity, and `search`
finds the highest point of all; `estimate` and `identity` add fixed values, bounds and the other
link, and `fitting` makes a `RemlFit` of it. All else takes a `RemlFit`: `tests`, `score`,
`permutation`, `bootstrap`, `profile` and `intervals` on its coefficients; `heterogeneity`,
`prediction` and `contrasts` on what they mean; `residuals`, `influence`, `robust` and `check` on
whether to believe it. `tau2_estimators` has the classical estimators of one τ². What is named
`clustered_…` is the same for several scale terms: `clustered_search` and `clustered_fitting` make a
`RemlFit`; `uninformed` says what the data do not. A new method is a new module here.
"""

from bayes_lsm.contrasts import tau_contrasts, tau_means, tau_steps
from bayes_lsm.reml.diagnostics.check import Check, check
from bayes_lsm.reml.diagnostics.influence import Influence, influence
from bayes_lsm.reml.diagnostics.leave_one_out import LeaveOneOut, leave_one_out
from bayes_lsm.reml.diagnostics.residuals import fitted_values, hat_values, residuals, weights
from bayes_lsm.reml.diagnostics.robust import RobustFit, robust
from bayes_lsm.reml.estimates import Test
from bayes_lsm.reml.fitting import fit_reml
from bayes_lsm.reml.intervals.intervals import confidence_intervals
from bayes_lsm.reml.intervals.profile import Profile, profile
from bayes_lsm.reml.prediction.blup import Blups, blup
from bayes_lsm.reml.prediction.group_effects import GroupEffects, group_effects
from bayes_lsm.reml.prediction.heterogeneity import Heterogeneity, heterogeneity
from bayes_lsm.reml.prediction.prediction import Prediction, predict, predict_tau
from bayes_lsm.reml.prediction.tau2_estimators import estimate_tau2, q_profile_interval
from bayes_lsm.reml.reml_fit import RemlFit
from bayes_lsm.reml.search.divergence import Divergence
from bayes_lsm.reml.search.maximum import Bounds
from bayes_lsm.reml.tests.bootstrap_test import BootstrapTest, bootstrap_test
from bayes_lsm.reml.tests.likelihood_ratio_test import LikelihoodRatioTest, likelihood_ratio_test
from bayes_lsm.reml.tests.permutation_test import PermutationTest, permutation_test
from bayes_lsm.reml.tests.score_test import ScoreTest, score_test
from bayes_lsm.reml.tests.wald_test import WaldTest, wald_test

__all__ = [
    "Blups",
    "BootstrapTest",
    "Bounds",
    "Check",
    "Divergence",
    "GroupEffects",
    "Heterogeneity",
    "Influence",
    "LeaveOneOut",
    "LikelihoodRatioTest",
    "PermutationTest",
    "Prediction",
    "Profile",
    "RemlFit",
    "RobustFit",
    "ScoreTest",
    "Test",
    "WaldTest",
    "blup",
    "bootstrap_test",
    "check",
    "confidence_intervals",
    "estimate_tau2",
    "fit_reml",
    "fitted_values",
    "group_effects",
    "hat_values",
    "heterogeneity",
    "influence",
    "leave_one_out",
    "likelihood_ratio_test",
    "permutation_test",
    "predict",
    "predict_tau",
    "profile",
    "q_profile_interval",
    "residuals",
    "robust",
    "score_test",
    "tau_contrasts",
    "tau_means",
    "tau_steps",
    "wald_test",
    "weights",
]
