"""The face of a REML or ML fit: its facts as tables, and every verb as a method."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_lsm.contrasts import tau_contrasts, tau_means, tau_steps
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.reml.diagnostics.check import check
from bayes_lsm.reml.diagnostics.influence import influence
from bayes_lsm.reml.diagnostics.leave_one_out import leave_one_out
from bayes_lsm.reml.diagnostics.residuals import fitted_values, hat_values, residuals, weights
from bayes_lsm.reml.diagnostics.robust import robust
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.intervals.contrasts import scale_functions
from bayes_lsm.reml.intervals.intervals import confidence_intervals
from bayes_lsm.reml.intervals.profile import profile
from bayes_lsm.reml.prediction.blup import blup
from bayes_lsm.reml.prediction.group_effects import group_effects
from bayes_lsm.reml.prediction.heterogeneity import heterogeneity
from bayes_lsm.reml.prediction.prediction import predict, predict_tau
from bayes_lsm.reml.term_estimate import correlation_table
from bayes_lsm.reml.tests.bootstrap_test import bootstrap_test
from bayes_lsm.reml.tests.likelihood_ratio_test import likelihood_ratio_test
from bayes_lsm.reml.tests.permutation_test import permutation_test
from bayes_lsm.reml.tests.score_test import score_test
from bayes_lsm.reml.tests.wald_test import wald_test
from bayes_lsm.reml.uninformed import mean_of_known
from bayes_lsm.reml.wald import ChiSquareTest, FTest, cochran_q, omnibus, wald_table
from bayes_lsm.tables import Printable, format_table, text_table, wrap_notes


@dataclass(frozen=True, eq=False)
class RemlFit(Estimates, Printable):
    """A frequentist fit of a location-scale model; its fields are those of `Estimates`.

    Every verb is the function of the same name, with the fit as its first argument.
    """

    bootstrap_test = bootstrap_test
    likelihood_ratio_test = likelihood_ratio_test
    permutation_test = permutation_test
    score_test = score_test
    wald_test = wald_test

    confidence_intervals = confidence_intervals
    profile = profile
    scale_functions = scale_functions
    tau_contrasts = tau_contrasts
    tau_means = tau_means
    tau_steps = tau_steps

    blup = blup
    group_effects = group_effects
    heterogeneity = heterogeneity
    predict = predict
    predict_tau = predict_tau

    check = check
    fitted_values = fitted_values
    hat_values = hat_values
    influence = influence
    leave_one_out = leave_one_out
    residuals = residuals
    robust = robust
    weights = weights

    @property
    def correlations(self) -> pd.DataFrame:
        """Correlations of a group's effects: estimate, ci_lb, ci_ub; indexed by grouping and pair.

        Wald intervals of Fisher's z (of the compound-symmetric κ with three or more effects), by
        the delta method where an unstructured matrix has others as its coefficients; nan where a
        correlation is at its border.
        """
        return self.correlations_at(0.95)

    @property
    def components(self) -> pd.DataFrame:
        """τ² and τ of each scale term, and its number of groups; means where τ² differs.

        Groups of which the data say nothing are in no mean.
        """
        rows = []
        for name, each in self.terms.items():
            used = each.term.used
            for k, effect in enumerate(each.term.effects):
                values = each.known_tau2[used[:, k], k]
                label = name if len(each.term.effects) == 1 else f"{name}: {effect}"
                mean = mean_of_known(values)
                rows.append((label, mean, math.sqrt(mean), len(values)))
        table = pd.DataFrame(rows, columns=["component", "tau2", "tau", "groups"])
        return table.set_index("component")

    def to_dataframe(self) -> pd.DataFrame:
        """All coefficients as one table, indexed by part and term."""
        name_of, parts = self.design.part_name, {"location": self.location}
        for each in self.terms.values():
            parts[name_of("scale", each.term)] = wald_table(
                each.term.names, each.shown, each.vcov, df=self.df_scale
            )
        if (self.df_location is None) != (self.df_scale is None):
            shared = ["estimate", "se", "pval", "ci_lb", "ci_ub"]
            parts = {name: table[shared] for name, table in parts.items()}
        for each in self.terms.values():
            table = correlation_table(each, 0.95)
            if len(table):
                columns = parts["location"].columns
                parts[name_of("correlation", each.term)] = table.reindex(columns=columns)
        return pd.concat(parts, names=["part", "term"])

    @property
    def nlme(self) -> pd.Series:
        """logLik, AIC and BIC as nlme prints them: its REML likelihood leaves out ln |X'X|."""
        R = np.linalg.qr(self.design.X, mode="r")
        log_det_XX = 2.0 * float(np.sum(np.log(np.abs(np.diag(R)))))
        loglik = self.loglik - (0.5 * log_det_XX if self.method == "REML" else 0.0)
        return pd.Series(
            {
                "logLik": loglik,
                "AIC": -2 * loglik + 2 * self.n_parameters,
                "BIC": -2 * loglik + math.log(self.effective_n) * self.n_parameters,
            }
        )

    @property
    def qe(self) -> ChiSquareTest:
        """Cochran's test of (residual) heterogeneity, with weights V⁻¹: statistic, df, pval."""
        return cochran_q(self.design)

    @property
    def qm(self) -> ChiSquareTest | FTest:
        """Wald test of all location moderators (of the intercept, when there are none)."""
        names = self.design.location.names
        return omnibus(names, self.beta, self.known_vcov_location, self.df_location)

    @property
    def qs(self) -> ChiSquareTest | FTest:
        """Wald test of the scale moderators of all terms; nan when one of them diverges."""
        names = [name for each in self.terms.values() for name in each.term.names]
        return omnibus(names, self.alpha, self.vcov_scale, self.df_scale)

    @property
    def at_stop(self) -> pd.DataFrame:
        """What an ordinary optimiser prints, where it stops: all coefficients as one table.

        The same as `to_dataframe` unless a coefficient diverges. Then its estimate here is an
        accident of the optimiser's tolerance, and its standard error is meaningless.
        """
        if self.divergence is None:
            return self.to_dataframe()
        here = likelihood_of(self.design).evaluate(self.stop, self.method)
        with np.errstate(invalid="ignore", divide="ignore"):
            covariance = np.linalg.pinv(-here.hessian, 1e-20)
        names = self.design.location.names
        parts = {"location": wald_table(names, here.beta, here.covariance, df=self.df_location)}
        for term, at in zip(self.design.terms, self.design.places, strict=True):
            places = slice(at.start, at.start + len(term.names))
            name = self.design.part_name("scale", term)
            parts[name] = wald_table(
                term.names, self.stop[places], covariance[places, places], df=self.df_scale
            )
        return pd.concat(parts, names=["part", "term"])

    def comparison(self, *, at_stop: bool = False) -> dict[str, pd.DataFrame]:
        """The columns of this fit in a side-by-side table: estimate and se."""
        shown = ["estimate", "se"]
        columns = {"": self.to_dataframe()[shown]}
        if at_stop and self.divergence:
            columns[" at stop"] = self.at_stop[shown]
        return columns

    def to_string(self, *, digits: int | None = None) -> str:
        """All of the fit as text."""
        digits = self._digits if digits is None else digits
        criteria = pd.DataFrame(
            {"logLik": [self.loglik], "AIC": [self.aic], "BIC": [self.bic], "AICc": [self.aicc]},
            index=[""],
        )
        parts = [
            self.title,
            format_table(criteria, digits=digits),
            *self._components_as_text(digits),
            text_table(self.to_dataframe(), digits=digits),
            *self._heterogeneity_as_text(),
            *wrap_notes(self.notes),
        ]
        return "\n\n".join(parts)

    def _components_as_text(self, digits: int) -> list[str]:
        if self.design.is_independent:
            return []
        return [format_table(self.components, digits=digits)]

    def _heterogeneity_as_text(self) -> list[str]:
        return [str(self.heterogeneity())] if self.design.is_independent else []
