"""REML and ML fits of a design, and what can be read from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc, fdtrc

from bayes_lsm.design import Design
from bayes_lsm.likelihood.independent import Method, evaluate
from bayes_lsm.reml.divergence import Divergence
from bayes_lsm.reml.heterogeneity import (
    ChiSquareTest,
    Heterogeneity,
    cochran_q,
    heterogeneity,
)
from bayes_lsm.reml.uninformed import location_directions, say, without_unknown
from bayes_lsm.results import model_title, stack_parts, wald_table
from bayes_lsm.tables import Printable, format_table, text_table, wrap_notes

if TYPE_CHECKING:
    from bayes_lsm.contrasts import ContrastInterval, Measure, ScaleFunctions
    from bayes_lsm.reml.check import Check
    from bayes_lsm.reml.influence import Influence
    from bayes_lsm.reml.intervals import IntervalMethod
    from bayes_lsm.reml.permutation import PermutationTest
    from bayes_lsm.reml.prediction import Blups, Prediction, ScaleUncertainty
    from bayes_lsm.reml.profile import Profile
    from bayes_lsm.reml.tests import PartName

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Test = Literal["z", "t", "knha"]


@dataclass(frozen=True)
class FTest:
    """A test statistic that is F under its null hypothesis; it unpacks as a tuple."""

    statistic: float
    df: int
    df2: int
    pval: float

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter((self.statistic, self.df, self.df2, self.pval))


@dataclass(frozen=True, eq=False)
class RemlFit(Printable):
    """A frequentist fit of a location-scale model.

    Attributes
    ----------
    design : Design
    method : {"REML", "ML"}
    alpha : ndarray, shape (q,)
        Scale coefficients, on ln τ²; ±inf where the likelihood has no finite maximum, nan where
        such a limit leaves a coefficient unidentified.
    beta : ndarray, shape (p,)
        Location coefficients.
    vcov_scale : ndarray, shape (q, q)
        Inverse negative Hessian; nan in the rows of diverging coefficients.
    vcov_location : ndarray, shape (p, p)
        (X'WX)⁻¹ at the estimated variances.
    tau2 : ndarray, shape (n,)
        τ² of each study.
    loglik : float
        With metafor's constants; the supremum when a coefficient diverges.
    divergence : Divergence or None
        Which scale coefficients run to infinity, and why.
    converged : bool
    stop : ndarray, shape (q,)
        Scale coefficients where an ordinary optimiser stops.
    rival : ndarray, shape (q,), or None
        Scale coefficients of another maximum that is higher, but by so little (less than 0.05 in
        the log-likelihood) that the data do not choose between the two. The one reported is the one
        that ordinary starting values lead to.
    rival_loglik : float
        Its log-likelihood; nan without one.
    test : {"z", "t", "knha"}
    fixed : mapping of str to float
        Scale coefficients that were not estimated.
    at_bound : mapping of str to float
        Scale coefficients that are held by a bound, or with the identity link the studies whose τ²
        is at its border 0. No standard errors are given there.
    """

    design: Design
    method: Method
    alpha: Array
    beta: Array
    vcov_scale: Array
    vcov_location: Array
    tau2: Array
    loglik: float
    divergence: Divergence | None
    converged: bool
    stop: Array
    rival: Array | None = None
    rival_loglik: float = np.nan
    test: Test = "z"
    fixed: Mapping[str, float] = field(default_factory=dict)
    at_bound: Mapping[str, float] = field(default_factory=dict)

    @property
    def location(self) -> pd.DataFrame:
        """Location coefficients: estimate, se, zval, pval, ci_lb, ci_ub; one row a term."""
        names, df = self.design.location.names, self._df(len(self.beta))
        return wald_table(names, self.beta, self.known_vcov_location, df=df)

    @property
    def scale(self) -> pd.DataFrame:
        """Scale coefficients of ln τ²: estimate, se, zval, pval, ci_lb, ci_ub; one row a term."""
        names, df = self.design.scale.names, self._df(len(self.alpha))
        alpha = np.where([name in self.uninformed for name in names], np.nan, self.alpha)
        return wald_table(names, alpha, self.vcov_scale, df=df)

    def _df(self, coefficients: int) -> int | None:
        return None if self.test == "z" else self.design.n_studies - coefficients

    def to_dataframe(self) -> pd.DataFrame:
        """Both tables as one, indexed by part and term."""
        return stack_parts(self.location, self.scale)

    @property
    def n_parameters(self) -> int:
        """p + q, less the fixed coefficients."""
        return len(self.beta) + len(self.alpha) - len(self.fixed)

    @property
    def _effective_n(self) -> int:
        """The number of observations of BIC and AICc: k − p for REML, as in metafor."""
        return self.design.n_studies - (len(self.beta) if self.method == "REML" else 0)

    @property
    def aic(self) -> float:
        """Akaike's information criterion."""
        return -2 * self.loglik + 2 * self.n_parameters

    @property
    def bic(self) -> float:
        """Bayesian information criterion, with k − p observations under REML."""
        return -2 * self.loglik + float(np.log(self._effective_n)) * self.n_parameters

    @property
    def aicc(self) -> float:
        """AIC corrected for small samples, with k − p observations under REML."""
        n = max(self._effective_n, self.n_parameters + 2)
        return -2 * self.loglik + 2 * self.n_parameters * n / (n - self.n_parameters - 1)

    @property
    def qe(self) -> ChiSquareTest:
        """Cochran's test of (residual) heterogeneity: statistic, df, pval."""
        return cochran_q(self.design.y, self.design.v, self.design.X)

    @property
    def qm(self) -> ChiSquareTest | FTest:
        """Wald test of all location moderators (of the intercept, when there are none)."""
        names, df = self.design.location.names, self._df(len(self.beta))
        return omnibus(names, self.beta, self.known_vcov_location, df)

    @property
    def qs(self) -> ChiSquareTest | FTest:
        """Wald test of all scale moderators; nan when one of their coefficients diverges."""
        names, df = self.design.scale.names, self._df(len(self.alpha))
        return omnibus(names, self.alpha, self.vcov_scale, df)

    @property
    def at_stop(self) -> pd.DataFrame:
        """What an ordinary optimiser prints, where it stops: both tables as one.

        The same as `to_dataframe` unless a coefficient diverges. Then its estimate here is an
        accident of the optimiser's tolerance, and its standard error is meaningless.
        """
        if self.divergence is None:
            return self.to_dataframe()
        design = self.design
        here = evaluate(self.stop, design.y, design.v, design.X, design.Z, method=self.method)
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = wald_table(design.scale.names, self.stop, np.linalg.pinv(-here.hessian, 1e-20))
        return stack_parts(
            wald_table(design.location.names, here.location.beta, here.location.covariance), scale
        )

    def heterogeneity(self) -> Heterogeneity:
        """τ², I², H², R² and Cochran's Q; see `bayes_lsm.reml.heterogeneity.heterogeneity`."""
        return heterogeneity(self)

    def check(self, *, starts: int = 50, seed: int = 0) -> Check:
        """Whether the optimum is interior, unique among starts and well conditioned.

        See `bayes_lsm.reml.check.check`.
        """
        from bayes_lsm.reml.check import check

        return check(self, starts=starts, seed=seed)

    def predict(
        self,
        new_data: pd.DataFrame | None = None,
        *,
        level: float = 0.95,
        scale_uncertainty: ScaleUncertainty = "propagated",
    ) -> Prediction:
        """Effects, prediction intervals and τ at new moderators, or of the studies themselves.

        See `bayes_lsm.reml.prediction.predict`.
        """
        from bayes_lsm.reml.prediction import predict

        return predict(self, new_data, level=level, scale_uncertainty=scale_uncertainty)

    def blup(self, *, level: float = 0.95) -> Blups:
        """Best linear unbiased predictions of the studies' true effects.

        See `bayes_lsm.reml.prediction.blup`.
        """
        from bayes_lsm.reml.prediction import blup

        return blup(self, level=level)

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

        See `bayes_lsm.reml.contrasts.scale_functions`.
        """
        from bayes_lsm.reml.contrasts import scale_functions

        return scale_functions(
            self, rows, labels, measure=measure, method=method, level=level, compared=compared
        )

    def profile(
        self, term: str, *, points: int | Sequence[float] = 41, level: float = 0.95
    ) -> Profile:
        """Profile likelihood of a scale coefficient; see `bayes_lsm.reml.profile.profile`."""
        from bayes_lsm.reml.profile import profile

        return profile(self, term, points=points, level=level)

    def confidence_intervals(
        self,
        *,
        part: PartName = "scale",
        method: IntervalMethod = "wald",
        level: float = 0.95,
        iterations: int = 1000,
        seed: int | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Wald, profile, permutation or bootstrap intervals of coefficients.

        See `bayes_lsm.reml.intervals.confidence_intervals`.
        """
        from bayes_lsm.reml.intervals import confidence_intervals

        return confidence_intervals(
            self,
            part=part,
            method=method,
            level=level,
            iterations=iterations,
            seed=seed,
            progress=progress,
        )

    def permutation_test(
        self,
        *,
        part: PartName = "scale",
        iterations: int = 1000,
        seed: int | None = None,
        progress: bool = True,
    ) -> PermutationTest:
        """Reshuffle the moderators of a part; see `bayes_lsm.reml.permutation.permutation_test`."""
        from bayes_lsm.reml.permutation import permutation_test

        return permutation_test(
            self, part=part, iterations=iterations, seed=seed, progress=progress
        )

    def influence(self, *, progress: bool = True) -> Influence:
        """What each study does to the fit, by refits without it.

        See `bayes_lsm.reml.influence.influence`.
        """
        from bayes_lsm.reml.influence import influence

        return influence(self, progress=progress)

    @property
    def label(self) -> str:
        """The method."""
        return self.method

    @property
    def title(self) -> str:
        """The kind of model, its number of studies, and how it was fitted."""
        return model_title(self.design, self.label)

    @property
    def _is_identity(self) -> bool:
        return self.design.specification.link == "identity"

    @property
    def uninformed(self) -> tuple[str, ...]:
        """Scale coefficients of which the data say nothing."""
        if not np.isnan(self.vcov_scale).any() or (self.at_bound and self._is_identity):
            return ()
        known = {**self.fixed, **self.at_bound}
        hidden = np.isnan(np.diag(self.vcov_scale)) & np.isfinite(self.alpha)
        names = zip(self.design.scale.names, hidden, strict=True)
        return tuple(name for name, is_it in names if is_it and name not in known)

    @property
    def is_flat(self) -> bool:
        """Whether there are such coefficients."""
        return bool(self.uninformed)

    @cached_property
    def is_known(self) -> Mask:
        """Whether the data say anything of τ² of each study, shape (n,)."""
        if not self.is_flat:
            return np.ones(len(self.tau2), dtype=bool)
        from bayes_lsm.reml.linear_scale import scale_at

        return ~scale_at(self, self.design.Z).blind

    @property
    def known_tau2(self) -> Array:
        """`tau2`, but nan where the data say nothing of it."""
        return np.where(self.is_known, self.tau2, np.nan)

    @cached_property
    def blind_location(self) -> Array:
        """Directions b (p, m) of β: V_β has τ² bb' with a τ² of which the data say nothing."""
        return location_directions(self.design.X, np.eye(len(self.tau2))[:, ~self.is_known])

    @property
    def known_vcov_location(self) -> Array:
        """`vcov_location`, but nan where it depends on a τ² of which the data say nothing."""
        return without_unknown(self.vcov_location, self.blind_location)

    def comparison(self, *, at_stop: bool = False) -> dict[str, pd.DataFrame]:
        """The columns of this fit in a side-by-side table: estimate and se."""
        shown = ["estimate", "se"]
        columns = {"": self.to_dataframe()[shown]}
        if at_stop and self.divergence:
            columns[" at stop"] = self.at_stop[shown]
        return columns

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any table of this fit has to know."""
        found = []
        if self.divergence:
            found.append(str(self.divergence))
        if self.uninformed:
            found.append(say(self.uninformed))
        if self.at_bound:
            held = ", ".join(list(self.at_bound)[:8]) + (" …" if len(self.at_bound) > 8 else "")
            what = "the studies with τ² = 0" if self._is_identity else "these coefficients"
            found.append(f"the maximum lies on the border, held by {what}: {held}")
        if self.rival is not None:
            higher = self.rival_loglik - self.loglik
            found.append(
                f"the likelihood has another maximum, higher by {higher:.4f}, with other scale "
                "coefficients (.rival); the data do not choose between the two"
            )
        if not self.converged:
            found.append("the optimiser did not converge; do not use these numbers")
        return (*found, *self.design.notes)

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
            text_table(self.to_dataframe(), digits=digits),
            str(self.heterogeneity()),
            *wrap_notes(self.notes),
        ]
        return "\n\n".join(parts)


def omnibus(
    names: Sequence[str], estimate: Array, covariance: Array, df: int | None
) -> ChiSquareTest | FTest:
    """Wald test of all but the intercept (of that, when it is alone); nan where one diverges."""
    tested = [j for j, name in enumerate(names) if name != "intrcpt"] or [0]
    b, V = estimate[tested], covariance[np.ix_(tested, tested)]
    statistic = math.nan
    if np.isfinite(b).all() and np.isfinite(V).all():
        statistic = float(b @ np.linalg.solve(V, b))
    if df is None:
        return ChiSquareTest(statistic, len(tested), float(chdtrc(len(tested), statistic)))
    ratio = statistic / len(tested)
    return FTest(ratio, len(tested), df, float(fdtrc(len(tested), df, ratio)))
