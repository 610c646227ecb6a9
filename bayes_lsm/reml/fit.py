"""REML and ML fits of a design, and what can be read from them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc

from bayes_lsm.design import Design
from bayes_lsm.errors import ConvergenceWarning, DivergentScaleWarning
from bayes_lsm.likelihood.independent import Method, evaluate
from bayes_lsm.reml.divergence import Cone, Divergence, Limit
from bayes_lsm.reml.heterogeneity import (
    ChiSquareTest,
    Heterogeneity,
    cochran_q,
    standard_error_tau2,
    typical_sampling_variance,
)
from bayes_lsm.reml.search import Search
from bayes_lsm.reml.surface import Point
from bayes_lsm.results import model_title, stack_parts, wald_table
from bayes_lsm.tables import Printable, format_table, text_table, wrap_notes

Array = npt.NDArray[np.float64]


_FLAT = (
    "the data do not identify every scale coefficient: the likelihood is flat around the estimate, "
    "so there no standard errors are given"
)


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

    @property
    def location(self) -> pd.DataFrame:
        """Location coefficients: estimate, se, zval, pval, ci_lb, ci_ub; one row a term."""
        return wald_table(self.design.location.names, self.beta, self.vcov_location)

    @property
    def scale(self) -> pd.DataFrame:
        """Scale coefficients of ln τ²: estimate, se, zval, pval, ci_lb, ci_ub; one row a term."""
        return wald_table(self.design.scale.names, self.alpha, self.vcov_scale)

    def to_dataframe(self) -> pd.DataFrame:
        """Both tables as one, indexed by part and term."""
        return stack_parts(self.location, self.scale)

    @property
    def n_parameters(self) -> int:
        """p + q."""
        return len(self.beta) + len(self.alpha)

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
    def qm(self) -> ChiSquareTest:
        """Wald test of all location moderators (of the intercept, when there are none)."""
        return _omnibus(self.design.location.names, self.beta, self.vcov_location)

    @property
    def qs(self) -> ChiSquareTest:
        """Wald test of all scale moderators; nan when one of their coefficients diverges."""
        return _omnibus(self.design.scale.names, self.alpha, self.vcov_scale)

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
        """τ², I², H², R² and Cochran's Q."""
        design = self.design
        constant = design.scale.names == ("intrcpt",)
        tau2 = float(np.mean(self.tau2))
        typical = typical_sampling_variance(design.v, design.X)
        return Heterogeneity(
            tau2=tau2,
            se_tau2=standard_error_tau2(design.v, design.X, tau2, method=self.method)
            if constant
            else np.nan,
            I2=100 * tau2 / (tau2 + typical),
            H2=tau2 / typical + 1,
            R2=self._r2(tau2) if constant else np.nan,
            typical_variance=typical,
            Q=self.qe,
            constant=constant,
        )

    def _r2(self, tau2: float) -> float:
        design = self.design
        if design.X.shape[1] == 1 or "intrcpt" not in design.location.names:
            return np.nan
        ones = np.ones((design.n_studies, 1))
        without = Search(design.y, design.v, ones, ones, self.method).best
        total = float(without.tau2[0])
        return 100 * max(0.0, 1 - tau2 / total) if total > 0 else 0.0

    @property
    def label(self) -> str:
        """The method."""
        return self.method

    @property
    def title(self) -> str:
        """The kind of model, its number of studies, and how it was fitted."""
        return model_title(self.design, self.label)

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
        elif np.isnan(self.vcov_scale).any():
            found.append(_FLAT)
        if self.rival is not None:
            at = ", ".join(
                f"{term} {value:.2f}"
                for term, value in zip(self.design.scale.names, self.rival, strict=True)
            )
            higher = self.rival_loglik - self.loglik
            found.append(
                f"the likelihood has another maximum, higher by {higher:.4f}, with the "
                f"scale coefficients {at}; the data do not choose between the two"
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


def fit_reml(design: Design, *, method: Method = "REML") -> RemlFit:
    """Fit a location-scale model by restricted or ordinary maximum likelihood.

    Parameters
    ----------
    design : Design
    method : {"REML", "ML"}, default "REML"

    Returns
    -------
    RemlFit

    Warns
    -----
    DivergentScaleWarning
        When a scale coefficient has no finite estimate.
    ConvergenceWarning
        When the optimiser stopped early, or the data do not identify a scale coefficient.

    References
    ----------
    Viechtbauer, W., & López-López, J. A. (2022). Location-scale models for meta-analysis.
    Research Synthesis Methods, 13(6), 697-715. doi:10.1002/jrsm.1562
    """
    search = Search(design.y, design.v, design.X, design.Z, method)
    best = search.best
    alpha = _alpha(best, design)
    fit = RemlFit(
        design=design,
        method=method,
        alpha=alpha,
        beta=best.beta,
        vcov_scale=_vcov_scale(best, alpha),
        vcov_location=best.vcov_location,
        tau2=best.tau2,
        loglik=best.value,
        divergence=_describe(best.limit, design),
        converged=best.converged,
        stop=search.stop,
        rival=None if search.rival is None else _alpha(search.rival, design),
        rival_loglik=np.nan if search.rival is None else search.rival.value,
    )
    _warn(fit)
    return fit


def _alpha(point: Point, design: Design) -> Array:
    """α on the user's terms: ±inf, or nan, for what a limit has taken."""
    if point.limit is None:
        return point.alpha
    alpha = np.full(design.Z.shape[1], np.nan)
    alpha[list(point.limit.kept)] = point.alpha
    for j, sign in Cone(design.Z).signs(point.limit.zero)[0].items():
        alpha[j] = sign
    return alpha


def _vcov_scale(point: Point, alpha: Array) -> Array:
    if point.limit is None:
        return point.covariance
    covariance = np.full((len(alpha), len(alpha)), np.nan)
    covariance[np.ix_(point.limit.kept, point.limit.kept)] = point.covariance
    infinite = ~np.isfinite(alpha)
    covariance[infinite, :] = covariance[:, infinite] = np.nan
    return covariance


def _describe(limit: Limit | None, design: Design) -> Divergence | None:
    if limit is None:
        return None
    signs, direction = Cone(design.Z).signs(limit.zero)
    names = design.scale.names
    return Divergence(
        terms={names[j]: sign for j, sign in signs.items()},
        direction=dict(zip(names, map(float, direction), strict=True)),
        studies=tuple(design.labels[i] for i in np.flatnonzero(limit.zero)),
        everywhere=bool(limit.zero.all()),
    )


def _omnibus(names: tuple[str, ...], estimate: Array, covariance: Array) -> ChiSquareTest:
    tested = [j for j, name in enumerate(names) if name != "intrcpt"] or [0]
    b, V = estimate[tested], covariance[np.ix_(tested, tested)]
    if not (np.isfinite(b).all() and np.isfinite(V).all()):
        return ChiSquareTest(np.nan, len(tested), np.nan)
    statistic = float(b @ np.linalg.solve(V, b))
    return ChiSquareTest(statistic, len(tested), float(chdtrc(len(tested), statistic)))


def _warn(fit: RemlFit) -> None:
    if fit.divergence is not None:
        warnings.warn(
            f"{fit.divergence}. Fit the model with fit_bayes(), where a prior keeps it finite, or "
            "drop the term from the scale formula.",
            DivergentScaleWarning,
            stacklevel=3,
        )
    elif np.isnan(fit.vcov_scale).any():
        warnings.warn(
            f"{_FLAT}; simplify the scale formula",
            ConvergenceWarning,
            stacklevel=3,
        )
    if not fit.converged:
        warnings.warn(
            "the optimiser did not converge; simplify the scale formula or use fit_bayes()",
            ConvergenceWarning,
            stacklevel=3,
        )
