"""The face of a REML or ML fit: its facts as tables, and every verb as a method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.term_estimate import correlation_table
from bayes_lsm.reml.uninformed import mean_of_known
from bayes_lsm.reml.wald import ChiSquareTest, FTest, cochran_q, omnibus
from bayes_lsm.results import wald_table
from bayes_lsm.tables import Printable, format_table, text_table, wrap_notes

if TYPE_CHECKING:
    from bayes_lsm.contrasts import ContrastInterval, Measure, ScaleContrasts, ScaleFunctions
    from bayes_lsm.contrasts import Kind as ContrastKind
    from bayes_lsm.design.clusters import Cluster
    from bayes_lsm.design.exchangeable import PartName
    from bayes_lsm.predictions import Blups, GroupEffects, Prediction, ScaleUncertainty
    from bayes_lsm.reml.diagnostics.check import Check
    from bayes_lsm.reml.diagnostics.influence import Influence
    from bayes_lsm.reml.diagnostics.leave_one_out import LeaveOneOut
    from bayes_lsm.reml.diagnostics.residuals import ResidualKind, Residuals, WeightKind
    from bayes_lsm.reml.diagnostics.robust import Kind as RobustKind
    from bayes_lsm.reml.diagnostics.robust import RobustFit
    from bayes_lsm.reml.intervals.intervals import IntervalMethod, IntervalPart
    from bayes_lsm.reml.intervals.profile import Profile
    from bayes_lsm.reml.prediction.heterogeneity import Heterogeneity
    from bayes_lsm.reml.search.refits import Starts
    from bayes_lsm.reml.tests.bootstrap_test import BootstrapTest
    from bayes_lsm.reml.tests.likelihood_ratio_test import LikelihoodRatioTest
    from bayes_lsm.reml.tests.permutation_test import PermutationTest
    from bayes_lsm.reml.tests.score_test import ScoreTest
    from bayes_lsm.reml.tests.wald_test import WaldTest

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RemlFit(Estimates, Printable):
    """A frequentist fit of a location-scale model; its fields are those of `Estimates`."""

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
        names, first = self.design.location.names, 0
        parts = {"location": wald_table(names, here.beta, here.covariance, df=self.df_location)}
        for term in self.design.terms:
            places = slice(first, first + len(term.names))
            name = self.design.part_name("scale", term)
            parts[name] = wald_table(
                term.names, self.stop[places], covariance[places, places], df=self.df_scale
            )
            first += term.size
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

    def heterogeneity(self) -> Heterogeneity:
        """τ², I², H², R² and Cochran's Q, level by level; see `heterogeneity`."""
        from bayes_lsm.reml.prediction.heterogeneity import heterogeneity

        return heterogeneity(self)

    def predict(
        self,
        new_data: pd.DataFrame | None = None,
        *,
        terms: Sequence[str] | None = None,
        level: float = 0.95,
        scale_uncertainty: ScaleUncertainty = "propagated",
    ) -> Prediction:
        """Effects, prediction intervals and τ at new moderators, or those of the data.

        See `bayes_lsm.reml.prediction.prediction.predict`.
        """
        from bayes_lsm.reml.prediction.prediction import predict

        return predict(
            self, new_data, terms=terms, level=level, scale_uncertainty=scale_uncertainty
        )

    def predict_tau(
        self,
        new_data: pd.DataFrame | None = None,
        *,
        terms: Sequence[str] | None = None,
        level: float = 0.95,
    ) -> Prediction:
        """τ at new moderators, or those of the data.

        See `bayes_lsm.reml.prediction.prediction.predict_tau`.
        """
        from bayes_lsm.reml.prediction.prediction import predict_tau

        return predict_tau(self, new_data, terms=terms, level=level)

    def blup(self, *, level: float = 0.95) -> Blups:
        """Best linear unbiased predictions of the rows' true effects; see `blup`."""

        from bayes_lsm.reml.prediction.blup import blup

        return blup(self, level=level)

    def group_effects(self, *, level: float = 0.95) -> GroupEffects:
        """Best linear unbiased predictions of the groups' effects; see `group_effects`."""

        from bayes_lsm.reml.prediction.group_effects import group_effects

        return group_effects(self, level=level)

    def scale_functions(
        self,
        rows: Array,
        labels: Sequence[str],
        *,
        measure: Measure = "log_tau2",
        method: ContrastInterval | None = None,
        level: float = 0.95,
        compared: bool = True,
    ) -> ScaleFunctions:
        """Linear functions of the scale coefficients, for `bayes_lsm.contrasts`.

        See `bayes_lsm.reml.intervals.contrasts.scale_functions`.
        """
        from bayes_lsm.reml.intervals.contrasts import scale_functions

        return scale_functions(
            self, rows, labels, measure=measure, method=method, level=level, compared=compared
        )

    def tau_means(
        self,
        variable: str,
        *,
        grouping: str | None = None,
        values: Sequence[Any] | None = None,
        at: Mapping[str, Any] | None = None,
        measure: Measure = "tau2",
        method: ContrastInterval | None = None,
        level: float = 0.95,
    ) -> ScaleContrasts:
        """τ² at the values of a moderator; see `bayes_lsm.contrasts.tau_means`."""
        from bayes_lsm.contrasts import tau_means

        return tau_means(
            self,
            variable,
            grouping=grouping,
            values=values,
            at=at,
            measure=measure,
            method=method,
            level=level,
        )

    def tau_contrasts(
        self,
        variable: str,
        *,
        kind: ContrastKind = "pairwise",
        grouping: str | None = None,
        values: Sequence[Any] | None = None,
        at: Mapping[str, Any] | None = None,
        measure: Measure = "tau2",
        method: ContrastInterval | None = None,
        level: float = 0.95,
    ) -> ScaleContrasts:
        """Ratios of τ² between values of a moderator; see `bayes_lsm.contrasts.tau_contrasts`."""
        from bayes_lsm.contrasts import tau_contrasts

        return tau_contrasts(
            self,
            variable,
            kind=kind,
            grouping=grouping,
            values=values,
            at=at,
            measure=measure,
            method=method,
            level=level,
        )

    def tau_steps(
        self,
        terms: str | Sequence[str] | None = None,
        *,
        step: float | Literal["sd"] = 1.0,
        measure: Measure = "tau2",
        method: ContrastInterval | None = None,
        level: float = 0.95,
    ) -> ScaleContrasts:
        """By what τ² is multiplied for a step of a moderator; see `tau_steps`."""
        from bayes_lsm.contrasts import tau_steps

        return tau_steps(self, terms, step=step, measure=measure, method=method, level=level)

    def wald_test(
        self,
        *,
        part: PartName = "scale",
        contrast: Any = None,
        terms: str | Sequence[str] | None = None,
        value: float | npt.ArrayLike = 0.0,
    ) -> WaldTest:
        """Test coefficients or combinations of them; see `wald_test`."""
        from bayes_lsm.reml.tests.wald_test import wald_test

        return wald_test(self, part=part, contrast=contrast, terms=terms, value=value)

    def score_test(self, terms: str | Sequence[str] | None = None) -> ScoreTest:
        """Test scale coefficients at the fit without them; see `score_test`."""
        from bayes_lsm.reml.tests.score_test import score_test

        return score_test(self, terms)

    def likelihood_ratio_test(self, reduced: RemlFit) -> LikelihoodRatioTest:
        """Test this fit against a nested one; see `likelihood_ratio_test`."""
        from bayes_lsm.reml.tests.likelihood_ratio_test import likelihood_ratio_test

        return likelihood_ratio_test(self, reduced)

    def bootstrap_test(
        self,
        reduced: RemlFit,
        *,
        iterations: int = 1000,
        seed: int | None = None,
        progress: bool = True,
    ) -> BootstrapTest:
        """The likelihood ratio against a nested fit, by simulation; see `bootstrap_test`."""
        from bayes_lsm.reml.tests.bootstrap_test import bootstrap_test

        return bootstrap_test(self, reduced, iterations=iterations, seed=seed, progress=progress)

    def permutation_test(
        self,
        *,
        part: PartName = "scale",
        iterations: int = 1000,
        seed: int | None = None,
        exact: bool | Literal["auto"] = "auto",
        starts: Starts = "one",
        cluster: Cluster | None = None,
        progress: bool = True,
    ) -> PermutationTest:
        """Reshuffle the moderators of a part; see `permutation_test`."""
        from bayes_lsm.reml.tests.permutation_test import permutation_test

        return permutation_test(
            self,
            part=part,
            iterations=iterations,
            seed=seed,
            exact=exact,
            starts=starts,
            cluster=cluster,
            progress=progress,
        )

    def profile(
        self, term: str, *, points: int | Sequence[float] = 41, level: float = 0.95
    ) -> Profile:
        """Profile likelihood of a scale coefficient or correlation; see `profile`."""
        from bayes_lsm.reml.intervals.profile import profile

        return profile(self, term, points=points, level=level)

    def confidence_intervals(
        self,
        *,
        part: IntervalPart = "scale",
        method: IntervalMethod = "wald",
        level: float = 0.95,
        iterations: int = 1000,
        seed: int | None = None,
        cluster: Cluster | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Wald, profile, permutation or bootstrap intervals; see `confidence_intervals`."""
        from bayes_lsm.reml.intervals.intervals import confidence_intervals

        return confidence_intervals(
            self,
            part=part,
            method=method,
            level=level,
            iterations=iterations,
            seed=seed,
            cluster=cluster,
            progress=progress,
        )

    def check(self, *, starts: int = 50, seed: int = 0) -> Check:
        """Whether the optimum is interior, unique among starts and well conditioned.

        See `bayes_lsm.reml.diagnostics.check.check`.
        """
        from bayes_lsm.reml.diagnostics.check import check

        return check(self, starts=starts, seed=seed)

    def residuals(self, kind: ResidualKind = "raw", *, cluster: Cluster | None = None) -> Residuals:
        """Residuals of the rows; see `residuals`."""
        from bayes_lsm.reml.diagnostics.residuals import residuals

        return residuals(self, kind, cluster=cluster)

    def fitted_values(self) -> Array:
        """What the location part predicts of each row, x_i'β̂ (n,)."""
        return np.asarray(self.design.X @ self.beta)

    def hat_values(self) -> Array:
        """How far each row pulls its own fitted value; see `hat_values`."""
        from bayes_lsm.reml.diagnostics.residuals import hat_values

        return hat_values(self)

    def weights(self, *, kind: WeightKind = "diagonal") -> Array:
        """Each row's share of the weights, in per cent; see `weights`."""
        from bayes_lsm.reml.diagnostics.residuals import weights

        return weights(self, kind=kind)

    def influence(self, *, cluster: Cluster | None = None, progress: bool = True) -> Influence:
        """What each study, or cluster, does to the fit, by refits without it; see `influence`."""
        from bayes_lsm.reml.diagnostics.influence import influence

        return influence(self, cluster=cluster, progress=progress)

    def leave_one_out(
        self, *, cluster: Cluster | None = None, progress: bool = True
    ) -> LeaveOneOut:
        """The fit without each study, or cluster, in turn; see `leave_one_out`."""
        from bayes_lsm.reml.diagnostics.leave_one_out import leave_one_out

        return leave_one_out(self, cluster=cluster, progress=progress)

    def robust(
        self,
        cluster: Cluster | None = None,
        *,
        kind: RobustKind = "CR1",
        small_sample: bool = True,
    ) -> RobustFit:
        """Cluster-robust standard errors; see `robust`."""
        from bayes_lsm.reml.diagnostics.robust import robust

        return robust(self, cluster, kind=kind, small_sample=small_sample)
