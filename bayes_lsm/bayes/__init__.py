"""Bayesian fits: priors that keep heterogeneous coefficients finite.

`graph` turns a design and priors into a `pm.Model`, `sampling` draws from it, `diagnostics` says
whether the draws can be trusted, `tree` makes them an ArviZ DataTree, and `fit` puts it all into a
`BayesFit`. Another engine is one more module that returns `Draws`. `calibration` and `coverage`
check any engine on simulated effects, by way of `refits`. PyMC and ArviZ are imported inside the
functions that need them.
"""

from bayes_lsm.bayes.calibration import Calibration, calibrate
from bayes_lsm.bayes.coverage import Coverage, coverage
from bayes_lsm.bayes.fit import BayesFit, fit_bayes
from bayes_lsm.bayes.graph import build_pymc_model

__all__ = [
    "BayesFit",
    "Calibration",
    "Coverage",
    "build_pymc_model",
    "calibrate",
    "coverage",
    "fit_bayes",
]
