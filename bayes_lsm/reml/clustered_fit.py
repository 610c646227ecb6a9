"""REML and ML fits of models with several scale terms, and what can be read from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.clustered_design import ClusteredDesign
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.independent import Method
from bayes_lsm.reml.clustered_terms import coefficients, scale_places
from bayes_lsm.reml.divergence import Divergence
from bayes_lsm.reml.fit import FTest, omnibus
from bayes_lsm.reml.heterogeneity import ChiSquareTest
from bayes_lsm.reml.term_estimate import TermEstimate, at_border, correlation_table
from bayes_lsm.reml.uninformed import location_directions, mean_of_known, say, without_unknown
from bayes_lsm.results import model_title, wald_table
from bayes_lsm.tables import Printable, format_table, text_table, wrap_notes

if TYPE_CHECKING:
    from bayes_lsm.clusters import Cluster
    from bayes_lsm.contrasts import ContrastInterval, Measure, ScaleFunctions
    from bayes_lsm.reml.check import Check
    from bayes_lsm.reml.clustered_effects import (
        LevelEffects,
        LevelHeterogeneity,
        LevelPrediction,
    )
    from bayes_lsm.reml.clustered_influence import ClusterInfluence
    from bayes_lsm.reml.clustered_intervals import ClusteredInterval, ClusteredPart
    from bayes_lsm.reml.permutation import PermutationTest
    from bayes_lsm.reml.prediction import ScaleUncertainty
    from bayes_lsm.reml.profile import Profile
    from bayes_lsm.reml.tests import PartName

Array = npt.NDArray[np.float64]
ClusteredTest = Literal["z", "t"]


_ONE_TERM = (
    "{what} is for fits with one scale term and independent effects, got one of several scale "
    "terms or dependent sampling errors; {cure}"
)


@dataclass(frozen=True, eq=False)
class ClusteredFit(Printable):
    """A frequentist fit of a model with several scale terms.

    Attributes
    ----------
    design : ClusteredDesign
    method : {"REML", "ML"}
    beta : ndarray, shape (p,)
        Location coefficients.
    vcov_location : ndarray, shape (p, p)
        (X'Σ⁻¹X)⁻¹ at the estimated variances.
    terms : mapping of str to TermEstimate
        The scale terms by their grouping.
    vcov_scale : ndarray, shape (m, m)
        Of all scale coefficients and κ, term by term, as one; nan where the terms' own are.
    limit_vcov : ndarray, shape (m, m)
        The same of the coefficients that give ln τ² where others diverge (`limit_alpha`).
    loglik : float
        With metafor's constants; the supremum when a coefficient diverges.
    log_det_XX : float
        ln |X'X|, by which nlme's REML log-likelihood differs.
    converged : bool
    stop : ndarray, shape (m,)
        Scale coefficients and κ where an ordinary optimiser stops.
    test : {"z", "t"}
        ``"t"``: with n − p degrees of freedom for the location coefficients.
    rival : mapping of str to ndarray, or None
        Scale coefficients, by grouping, of another maximum that is higher, but by so little (less
        than 0.05 in the log-likelihood) that the data do not choose between the two. The one
        reported is the one that ordinary starting values lead to.
    rival_loglik : float
        Its log-likelihood; nan without one.
    """

    design: ClusteredDesign
    method: Method
    beta: Array
    vcov_location: Array
    terms: Mapping[str, TermEstimate]
    vcov_scale: Array
    limit_vcov: Array
    loglik: float
    log_det_XX: float
    converged: bool
    stop: Array
    test: ClusteredTest = "z"
    rival: Mapping[str, Array] | None = None
    rival_loglik: float = math.nan

    @property
    def highest(self) -> float:
        """The highest log-likelihood that was found."""
        return self.loglik if self.rival is None else self.rival_loglik

    @property
    def scale_names(self) -> tuple[str, ...]:
        """The scale coefficients with their groupings, such as ``"school: size"``; term by term."""
        return tuple(each.label for each in coefficients(self.design))

    @property
    def alpha(self) -> Array:
        """The scale coefficients of all terms."""
        return np.concatenate([each.alpha for each in self.terms.values()])

    @property
    def limit_alpha(self) -> Array:
        """`limit_alpha` of all terms."""
        return np.concatenate([each.limit_alpha for each in self.terms.values()])

    @property
    def vcov_alpha(self) -> Array:
        """Their covariance: `vcov_scale` without the κ."""
        places = scale_places(self.design)
        return self.vcov_scale[np.ix_(places, places)]

    @property
    def df_location(self) -> int | None:
        """n − p where the location coefficients are tested by t; None with z."""
        return None if self.test == "z" else len(self.design.y) - len(self.beta)

    @property
    def location(self) -> pd.DataFrame:
        """Location coefficients: estimate, se, zval, pval, ci_lb, ci_ub; one row a term."""
        names = self.design.location.names
        return wald_table(names, self.beta, self.known_vcov_location, df=self.df_location)

    @property
    def scale(self) -> pd.DataFrame:
        """Scale coefficients of ln τ², indexed by grouping and term."""
        return self.scale_at(0.95)

    def scale_at(self, level: float) -> pd.DataFrame:
        """`scale` with intervals of another level."""
        tables = {
            name: wald_table(each.term.names, each.shown, each.vcov, level=level)
            for name, each in self.terms.items()
        }
        return pd.concat(tables, names=["grouping", "term"])

    @property
    def correlations(self) -> pd.DataFrame:
        """Correlations of a group's effects: estimate, ci_lb, ci_ub; indexed by grouping and pair.

        Wald intervals of Fisher's z (of the compound-symmetric κ with three or more effects), by
        the delta method where an unstructured matrix has others as its coefficients; nan where a
        correlation is at its border.
        """
        return self.correlations_at(0.95)

    def correlations_at(self, level: float) -> pd.DataFrame:
        """`correlations` with intervals of another level."""
        tables = {name: correlation_table(each, level) for name, each in self.terms.items()}
        found = {name: table for name, table in tables.items() if len(table)}
        if not found:
            return pd.DataFrame(columns=["estimate", "ci_lb", "ci_ub"], dtype=float)
        return pd.concat(found, names=["grouping", "pair"])

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
        parts = {"location": self.location}
        for name, each in self.terms.items():
            parts[f"scale ({name})"] = wald_table(each.term.names, each.shown, each.vcov)
        shared = ["estimate", "se", "pval", "ci_lb", "ci_ub"]
        if self.test == "t":
            parts = {name: table[shared] for name, table in parts.items()}
        for name, table in (
            (name, correlation_table(each, 0.95)) for name, each in self.terms.items()
        ):
            if len(table):
                parts[f"correlation ({name})"] = table.reindex(columns=parts["location"].columns)
        return pd.concat(parts, names=["part", "term"])

    @property
    def n_parameters(self) -> int:
        """Location and scale coefficients, and correlations."""
        scale = sum(len(each.alpha) + len(each.kappa) for each in self.terms.values())
        return len(self.beta) + scale

    @property
    def _effective_n(self) -> int:
        return len(self.design.y) - (len(self.beta) if self.method == "REML" else 0)

    @property
    def aic(self) -> float:
        """Akaike's information criterion."""
        return -2 * self.loglik + 2 * self.n_parameters

    @property
    def bic(self) -> float:
        """Bayesian information criterion, with n − p observations under REML."""
        return -2 * self.loglik + math.log(self._effective_n) * self.n_parameters

    @property
    def aicc(self) -> float:
        """AIC corrected for small samples, with n − p observations under REML."""
        n = max(self._effective_n, self.n_parameters + 2)
        return -2 * self.loglik + 2 * self.n_parameters * n / (n - self.n_parameters - 1)

    @property
    def qe(self) -> ChiSquareTest:
        """Cochran's test of (residual) heterogeneity, with weights V⁻¹: statistic, df, pval."""
        from bayes_lsm.reml.clustered_effects import cochran_q_of_blocks

        return cochran_q_of_blocks(self.design)

    @property
    def qm(self) -> ChiSquareTest | FTest:
        """Wald test of all location moderators (of the intercept, when there are none)."""
        names = self.design.location.names
        return omnibus(names, self.beta, self.known_vcov_location, self.df_location)

    @property
    def qs(self) -> ChiSquareTest | FTest:
        """Wald test of the scale moderators of all terms; nan when one of them diverges."""
        names = [each.name for each in coefficients(self.design)]
        return omnibus(names, self.alpha, self.vcov_alpha, None)

    @property
    def uninformed(self) -> tuple[str, ...]:
        """Scale coefficients of which the data say nothing, such as ``"school: size"``."""
        hidden = np.concatenate([np.isnan(each.shown) for each in self.terms.values()])
        hidden &= np.isfinite(self.alpha)
        return tuple(name for name, is_it in zip(self.scale_names, hidden, strict=True) if is_it)

    @property
    def is_flat(self) -> bool:
        """Whether there are such coefficients."""
        return bool(self.uninformed)

    @cached_property
    def blind_location(self) -> Array:
        """Directions b (p, m) of β: V_β has τ² bb' with a τ² of which the data say nothing."""
        if not self.is_flat:
            return np.zeros((len(self.beta), 0))
        from bayes_lsm.reml.clustered_blocks import loadings

        known = np.concatenate([each.is_known.ravel() for each in self.terms.values()])
        columns = loadings(self.design)[:, np.flatnonzero(~known)].toarray()
        return location_directions(self.design.X, np.unique(columns, axis=1))

    @property
    def known_vcov_location(self) -> Array:
        """`vcov_location`, but nan where it depends on a variance of which the data say nothing."""
        return without_unknown(self.vcov_location, self.blind_location)

    @property
    def at_stop(self) -> pd.DataFrame:
        """What an ordinary optimiser prints, where it stops: all coefficients as one table.

        The same as `to_dataframe` unless a coefficient diverges. Then its estimate here is an
        accident of the optimiser's tolerance, and its standard error is meaningless.
        """
        from bayes_lsm.reml.clustered_check import fit_at_stop

        return fit_at_stop(self).to_dataframe() if self.divergent else self.to_dataframe()

    def check(self, *, starts: int = 50, seed: int = 0) -> Check:
        """Whether the optimum is interior, unique among starts and well conditioned.

        See `bayes_lsm.reml.check.check`.
        """
        from bayes_lsm.reml.clustered_check import clustered_check

        return clustered_check(self, starts=starts, seed=seed)

    @property
    def has_border(self) -> bool:
        """Whether a correlation is at its border."""
        return any(at_border(each) for each in self.terms.values())

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
        """Linear functions of the scale coefficients of all terms, for `bayes_lsm.contrasts`.

        See `bayes_lsm.reml.clustered_contrasts.clustered_functions`.
        """
        from bayes_lsm.reml.clustered_contrasts import clustered_functions

        return clustered_functions(
            self, rows, labels, measure=measure, method=method, level=level, compared=compared
        )

    @property
    def nlme(self) -> pd.Series:
        """logLik, AIC and BIC as nlme prints them: its REML likelihood leaves out ln |X'X|."""
        loglik = self.loglik - (0.5 * self.log_det_XX if self.method == "REML" else 0.0)
        return pd.Series(
            {
                "logLik": loglik,
                "AIC": -2 * loglik + 2 * self.n_parameters,
                "BIC": -2 * loglik + math.log(self._effective_n) * self.n_parameters,
            }
        )

    @property
    def label(self) -> str:
        """The method."""
        return self.method

    @property
    def title(self) -> str:
        """The kind of model, its number of effects, and how it was fitted."""
        return model_title(self.design, self.label)

    @property
    def divergent(self) -> dict[str, Divergence]:
        """The scale terms whose likelihood has no finite maximum, and why."""
        return {
            name: each.divergence
            for name, each in self.terms.items()
            if each.divergence is not None
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any table of this fit has to know."""
        found = [f"{name}: {each}" for name, each in self.divergent.items()]
        if self.uninformed:
            found.append(say(self.uninformed))
        for name, each in self.terms.items():
            if at_border(each):
                found.append(f"{name}: a correlation is at its border; it has no interval")
        if self.rival is not None:
            higher = self.rival_loglik - self.loglik
            found.append(
                f"the likelihood has another maximum, higher by {higher:.4f}, with other scale "
                "coefficients (.rival); the data do not choose between the two"
            )
        if not self.converged:
            found.append("the optimiser did not converge; do not use these numbers")
        return (*found, *self.design.notes)

    def comparison(self, *, at_stop: bool = False) -> dict[str, pd.DataFrame]:
        """The columns of this fit in a side-by-side table: estimate and se."""
        shown = ["estimate", "se"]
        columns = {"": self.to_dataframe()[shown]}
        if at_stop and self.divergent:
            columns[" at stop"] = self.at_stop[shown]
        return columns

    def heterogeneity(self) -> LevelHeterogeneity:
        """τ² and I² of each scale term.

        See `bayes_lsm.reml.clustered_effects.level_heterogeneity`.
        """
        from bayes_lsm.reml.clustered_effects import level_heterogeneity

        return level_heterogeneity(self)

    def predict(
        self,
        new_data: pd.DataFrame | None = None,
        *,
        terms: Sequence[str] | None = None,
        level: float = 0.95,
        scale_uncertainty: ScaleUncertainty = "propagated",
    ) -> LevelPrediction:
        """The mean effect and a prediction interval in new groups.

        See `bayes_lsm.reml.clustered_effects.predict_levels`.
        """
        from bayes_lsm.reml.clustered_effects import predict_levels

        if new_data is None:
            raise FitError(
                "with several scale terms new_data must say where to predict, one row for each "
                "prediction; the effects of the groups in the data are blup()"
            )
        return predict_levels(
            self, new_data, terms=terms, level=level, scale_uncertainty=scale_uncertainty
        )

    def blup(self, *, level: float = 0.95) -> LevelEffects:
        """Predicted effects of the groups of every scale term.

        See `bayes_lsm.reml.clustered_effects.level_effects`.
        """
        from bayes_lsm.reml.clustered_effects import level_effects

        return level_effects(self, level=level)

    def profile(
        self, term: str, *, points: int | Sequence[float] = 41, level: float = 0.95
    ) -> Profile:
        """Profile likelihood of a scale coefficient or correlation.

        See `bayes_lsm.reml.profile.profile`.
        """
        from bayes_lsm.reml.profile import profile

        return profile(self, term, points=points, level=level)

    def confidence_intervals(
        self,
        *,
        part: ClusteredPart = "scale",
        method: ClusteredInterval = "wald",
        level: float = 0.95,
        iterations: int = 1000,
        seed: int | None = None,
        cluster: Cluster | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Wald, profile, permutation or bootstrap intervals of coefficients and correlations.

        See `bayes_lsm.reml.clustered_intervals.clustered_intervals`.
        """
        from bayes_lsm.reml.clustered_intervals import clustered_intervals

        return clustered_intervals(
            self,
            part=part,
            method=method,
            level=level,
            iterations=iterations,
            seed=seed,
            cluster=cluster,
            progress=progress,
        )

    def permutation_test(
        self,
        *,
        part: PartName = "scale",
        cluster: Cluster | None = None,
        iterations: int = 1000,
        seed: int | None = None,
        progress: bool = True,
    ) -> PermutationTest:
        """Reshuffle the moderators of a part, whole clusters at a time.

        See `bayes_lsm.reml.permutation.permutation_test`.
        """
        from bayes_lsm.reml.permutation import permutation_test

        return permutation_test(
            self, part=part, cluster=cluster, iterations=iterations, seed=seed, progress=progress
        )

    def influence(
        self, cluster: Cluster | None = None, *, progress: bool = True
    ) -> ClusterInfluence:
        """What each cluster does to the fit, by refits without it.

        See `bayes_lsm.reml.clustered_influence.cluster_influence`.
        """
        from bayes_lsm.reml.clustered_influence import cluster_influence

        return cluster_influence(self, cluster, progress=progress)

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
            format_table(self.components, digits=digits),
            text_table(self.to_dataframe(), digits=digits),
            *wrap_notes(self.notes),
        ]
        return "\n\n".join(parts)


def require_one_term(fit: object, what: str, cure: str) -> None:
    """Refuse a fit of several scale terms where a verb is for one τ² a study."""
    if isinstance(fit, ClusteredFit):
        raise FitError(_ONE_TERM.format(what=what, cure=cure))
