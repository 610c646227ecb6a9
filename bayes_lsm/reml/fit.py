"""REML and ML fits of a design, and what can be read from them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc, fdtrc

from bayes_lsm.design import Design
from bayes_lsm.errors import ConvergenceWarning, DivergentScaleWarning, FitError
from bayes_lsm.likelihood.independent import Method, evaluate
from bayes_lsm.reml.check import Check, check
from bayes_lsm.reml.divergence import Divergence
from bayes_lsm.reml.estimate import Bounds, Estimate, estimate_bounded, estimate_log
from bayes_lsm.reml.heterogeneity import (
    ChiSquareTest,
    Heterogeneity,
    cochran_q,
    standard_error_tau2,
    typical_sampling_variance,
)
from bayes_lsm.reml.identity import estimate_identity
from bayes_lsm.reml.search import Search
from bayes_lsm.results import model_title, stack_parts, wald_table
from bayes_lsm.tables import Printable, format_table, text_table, wrap_notes

Array = npt.NDArray[np.float64]
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
        return wald_table(
            self.design.location.names, self.beta, self.vcov_location, df=self._df(len(self.beta))
        )

    @property
    def scale(self) -> pd.DataFrame:
        """Scale coefficients of ln τ²: estimate, se, zval, pval, ci_lb, ci_ub; one row a term."""
        return wald_table(
            self.design.scale.names, self.alpha, self.vcov_scale, df=self._df(len(self.alpha))
        )

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
        return _omnibus(names, self.beta, self.vcov_location, df)

    @property
    def qs(self) -> ChiSquareTest | FTest:
        """Wald test of all scale moderators; nan when one of their coefficients diverges."""
        names, df = self.design.scale.names, self._df(len(self.alpha))
        return _omnibus(names, self.alpha, self.vcov_scale, df)

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

    def check(self, *, starts: int = 50, seed: int = 0) -> Check:
        """Whether the optimum is interior, unique among starts and well conditioned.

        See `bayes_lsm.reml.check.check`.
        """
        return check(self, starts=starts, seed=seed)

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

    @property
    def _is_identity(self) -> bool:
        return self.design.specification.link == "identity"

    @property
    def _is_flat(self) -> bool:
        """Whether a coefficient that was estimated has no standard error."""
        if self.divergence is not None or (self.at_bound and self._is_identity):
            return False
        known = {**self.fixed, **self.at_bound}
        names = self.design.scale.names
        return any(
            math.isnan(variance) and name not in known
            for name, variance in zip(names, np.diag(self.vcov_scale), strict=True)
        )

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
        elif self._is_flat:
            found.append(_FLAT)
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


def fit_reml(
    design: Design,
    *,
    method: Method = "REML",
    test: Test = "z",
    fixed: Mapping[str, float] | None = None,
    bounds: Bounds | None = None,
    start: Mapping[str, float] | None = None,
) -> RemlFit:
    """Fit a location-scale model by restricted or ordinary maximum likelihood.

    Parameters
    ----------
    design : Design
        Its specification names the link: ``"log"`` (ln τ² = z'α) or ``"identity"`` (τ² = z'α ≥ 0).
    method : {"REML", "ML"}, default "REML"
    test : {"z", "t", "knha"}, default "z"
        Reference distribution of the Wald tests: normal; t with k − p (location) and k − q (scale)
        degrees of freedom; or that, with the location covariance scaled as by Knapp & Hartung
        (2003, doi:10.1002/sim.1482).
    fixed : mapping of scale term to value, optional
        Scale coefficients that are not estimated.
    bounds : mapping of scale term to (lower, upper), optional
        Where scale coefficients must lie; infinite ends are allowed.
    start : mapping of scale term to value, optional
        One more starting point, for every scale coefficient that is not fixed.

    Returns
    -------
    RemlFit

    Raises
    ------
    FitError
        For an unknown term, bounds that are crossed or exclude the start or a fixed value, and an
        identity link for which no τ² ≥ 0 is possible.

    Warns
    -----
    DivergentScaleWarning
        When a scale coefficient has no finite estimate.
    ConvergenceWarning
        When the optimiser stopped early, or the data do not identify a scale coefficient.

    Examples
    --------
    >>> from bayes_lsm import Specification, build_design, load_dataset
    >>> spec = Specification("yi ~ ablat", "vi", scale="~ ablat")
    >>> fit = fit_reml(build_design(spec, load_dataset("bcg")), test="knha")
    >>> fit.location["df"].to_list()
    [11, 11]

    References
    ----------
    Viechtbauer, W., & López-López, J. A. (2022). Location-scale models for meta-analysis.
    Research Synthesis Methods, 13(6), 697-715. doi:10.1002/jrsm.1562
    """
    fixed, bounds = dict(fixed or {}), dict(bounds or {})
    _check_settings(design, test, fixed, bounds, start)
    if design.specification.link == "identity":
        found = estimate_identity(design, method, fixed=fixed, bounds=bounds, start=start)
    elif bounds:
        found = estimate_bounded(design, method, bounds, fixed=fixed, start=start)
    else:
        found = estimate_log(design, method, fixed=fixed, start=start)
    scaling = _knapp_hartung(design, found) if test == "knha" else 1.0
    fit = RemlFit(
        design=design,
        method=method,
        alpha=found.alpha,
        beta=found.beta,
        vcov_scale=found.vcov_scale,
        vcov_location=found.vcov_location * scaling,
        tau2=found.tau2,
        loglik=found.loglik,
        divergence=found.divergence,
        converged=found.converged,
        stop=found.stop,
        rival=found.rival,
        rival_loglik=found.rival_loglik,
        test=test,
        fixed=fixed,
        at_bound=dict(found.at_bound or {}),
    )
    _warn(fit)
    return fit


def _check_settings(
    design: Design,
    test: str,
    fixed: Mapping[str, float],
    bounds: Bounds,
    start: Mapping[str, float] | None,
) -> None:
    names = design.scale.names
    if test not in ("z", "t", "knha"):
        raise FitError(f"test must be 'z', 't' or 'knha', got {test!r}")
    for what, given in (("fixed value", fixed), ("bound", bounds), ("start", start or {})):
        for term in given:
            if term not in names:
                raise FitError(
                    f"a {what} is given for {term!r}, but the scale terms are {', '.join(names)}"
                )
    for term, value in fixed.items():
        if not math.isfinite(value):
            raise FitError(f"the fixed value of {term!r} must be finite, got {value}")
        if term in bounds:
            raise FitError(f"{term!r} is both fixed and bounded; choose one")
    for term, ends in bounds.items():
        low, high = ends
        if not low < high:
            raise FitError(f"the bounds of {term!r} must be (lower, upper), got {ends}")
        if start is not None and term in start and not low <= start[term] <= high:
            raise FitError(
                f"the bounds {ends} of {term!r} exclude its start {start[term]}; change one of them"
            )
    missing = [name for name in names if start is not None and name not in {**start, **fixed}]
    if missing:
        raise FitError(f"start must give every scale coefficient; missing: {', '.join(missing)}")


def _knapp_hartung(design: Design, found: Estimate) -> float:
    """Weighted residual mean square, by which the location covariance is multiplied."""
    residuals = design.y - design.X @ found.beta
    df = design.n_studies - len(found.beta)
    return float(np.sum(residuals**2 / (design.v + found.tau2)) / df)


def _omnibus(
    names: tuple[str, ...], estimate: Array, covariance: Array, df: int | None
) -> ChiSquareTest | FTest:
    tested = [j for j, name in enumerate(names) if name != "intrcpt"] or [0]
    b, V = estimate[tested], covariance[np.ix_(tested, tested)]
    statistic = math.nan
    if np.isfinite(b).all() and np.isfinite(V).all():
        statistic = float(b @ np.linalg.solve(V, b))
    if df is None:
        return ChiSquareTest(statistic, len(tested), float(chdtrc(len(tested), statistic)))
    ratio = statistic / len(tested)
    return FTest(ratio, len(tested), df, float(fdtrc(len(tested), df, ratio)))


def _warn(fit: RemlFit) -> None:
    if fit.divergence is not None:
        warnings.warn(
            f"{fit.divergence}. Fit the model with fit_bayes(), where a prior keeps it finite, or "
            "drop the term from the scale formula.",
            DivergentScaleWarning,
            stacklevel=3,
        )
    elif fit._is_flat:
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
