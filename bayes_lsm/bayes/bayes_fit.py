"""The face of a Bayesian fit: what was drawn, and every question as a method."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.cross_validation.loo import kfold, loo, psis_loo, waic
from bayes_lsm.bayes.datatree import build_datatree
from bayes_lsm.bayes.diagnostics.checks import posterior_predictive_check
from bayes_lsm.bayes.diagnostics.diagnosis import diagnose
from bayes_lsm.bayes.evidence import marginal_likelihood
from bayes_lsm.bayes.evidence.bayes_factor import bayes_factor
from bayes_lsm.bayes.evidence.evidence import Evidence
from bayes_lsm.bayes.evidence.savage_dickey import savage_dickey
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prediction.blup import blup
from bayes_lsm.bayes.prediction.contrasts import scale_functions
from bayes_lsm.bayes.prediction.group_effects import group_effects
from bayes_lsm.bayes.prediction.heterogeneity import heterogeneity
from bayes_lsm.bayes.prediction.prediction import new_effects, predict, predict_tau, row_tau2
from bayes_lsm.bayes.prediction.probability import probability
from bayes_lsm.bayes.prediction.study_weights import study_weights
from bayes_lsm.bayes.prediction.true_effects import true_effects
from bayes_lsm.bayes.sensitivity.sensitivity import sensitivity
from bayes_lsm.contrasts import tau_contrasts, tau_means, tau_steps
from bayes_lsm.writing import replacing

if TYPE_CHECKING:
    from xarray import DataTree


@dataclass(frozen=True, eq=False)
class BayesFit(Posterior):
    """A Bayesian fit of a location-scale model; its fields are those of `Posterior`.

    Every verb is the function of the same name, with the fit as its first argument.
    """

    blup = blup
    group_effects = group_effects
    heterogeneity = heterogeneity
    new_effects = new_effects
    predict = predict
    predict_tau = predict_tau
    probability = probability
    scale_functions = scale_functions
    study_weights = study_weights
    tau_contrasts = tau_contrasts
    tau_means = tau_means
    tau_steps = tau_steps
    true_effects = true_effects

    bayes_factor = bayes_factor
    savage_dickey = savage_dickey

    kfold = kfold
    loo = loo
    psis_loo = psis_loo
    waic = waic

    diagnose = diagnose
    posterior_predictive_check = posterior_predictive_check
    sensitivity = sensitivity

    @cached_property
    def posterior(self) -> DataTree:
        """The draws as an ArviZ DataTree, with the names of the PyMC model's variables.

        Groups posterior, log_likelihood, log_prior, posterior_predictive, observed_data, with
        proper priors prior and prior_predictive, and of NUTS sample_stats: see `build_datatree`.
        """
        return build_datatree(self.design, self.priors, self.draws, seed=self.seed)

    @property
    def tau2(self) -> Array:
        """Posterior median of τ² of each row, shape (n,): the variance of its true effect.

        With several scale terms that of their effects together, with their correlations; those of
        single terms are in ``terms[grouping].tau2``. With Student-t study effects τ is the scale of
        the t; their SD, τ √(ν / (ν − 2)), is in `study_weights` and `heterogeneity`.
        """
        return row_tau2(self)

    @cached_property
    def evidence(self) -> Evidence:
        """Marginal likelihood with its error; see `bayes_lsm.bayes.evidence.evidence.evidence`."""
        return marginal_likelihood.evidence(self)

    @property
    def log_evidence(self) -> float:
        """Log marginal likelihood ln p(y); see `bayes_lsm.bayes.evidence.evidence.evidence`."""
        return self.evidence.log

    def to_netcdf(self, path: str | Path) -> Path:
        """Save `posterior`; ``arviz.from_netcdf`` reads it back."""
        path = Path(path)
        with replacing(path) as new:
            self.posterior.to_netcdf(str(new))
        return path
