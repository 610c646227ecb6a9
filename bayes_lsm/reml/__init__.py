"""The frequentist reference: REML and ML, with metafor's conventions, for every kind of model.

`fitting` makes a `RemlFit` (`reml_fit`: the face, whose methods are the verbs) of `Estimates`
(`estimates`: what was found, with a `TermEstimate` for each scale term). The maximum is that of
`search`: inside, or at a limit at infinity, with coefficients fixed or bounded, under either link;
`search.refits` does it by the hundred. Verbs are functions of estimates: `tests` and `intervals` of
coefficients, `prediction` of what they mean, `diagnostics` of whether to believe them. `wald` has
the statistics that every fit prints, `scale_values` linear functions of the scale coefficients, and
`uninformed` says what the data do not. A new method is a new module in one of these rooms, and a
method of the face.
"""

from bayes_lsm.contrasts import tau_contrasts, tau_means, tau_steps
from bayes_lsm.predictions import Blups, GroupEffects, Prediction
from bayes_lsm.reml.diagnostics.check import Check, check
from bayes_lsm.reml.diagnostics.influence import Influence, influence
from bayes_lsm.reml.diagnostics.leave_one_out import LeaveOneOut, leave_one_out
from bayes_lsm.reml.diagnostics.residuals import fitted_values, hat_values, residuals, weights
from bayes_lsm.reml.diagnostics.robust import RobustFit, robust
from bayes_lsm.reml.divergence import Divergence
from bayes_lsm.reml.estimates import Test
from bayes_lsm.reml.fitting import fit_reml
from bayes_lsm.reml.intervals.intervals import confidence_intervals
from bayes_lsm.reml.intervals.profile import Profile, profile
from bayes_lsm.reml.prediction.blup import blup
from bayes_lsm.reml.prediction.group_effects import group_effects
from bayes_lsm.reml.prediction.heterogeneity import Heterogeneity, heterogeneity
from bayes_lsm.reml.prediction.prediction import predict, predict_tau
from bayes_lsm.reml.prediction.tau2_estimators import estimate_tau2, q_profile_interval
from bayes_lsm.reml.reml_fit import RemlFit
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
