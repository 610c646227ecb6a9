r"""Estimators of one τ² for all studies that need no likelihood, and its Q-profile interval.

With weights w_i and P = W − WX(X'WX)⁻¹X'W (k studies, p location coefficients):

- DL (DerSimonian & Laird 1986): w_i = 1/v_i, τ² = (y'Py − (k − p)) / tr P.
- HE (Hedges & Olkin 1985): w_i = 1, τ² = (y'Py − tr PV) / (k − p).
- SJ (Sidik & Jonkman 2005): w_i = 1/(v_i + τ₀²), τ² = τ₀² y'Py / (k − p), where τ₀² is the variance
  of the effects (with denominator k).
- PM (Paule & Mandel 1982): w_i = 1/(v_i + τ²), the root of y'Py = k − p.
- EB (empirical Bayes; Morris 1983): the same root, written as the fixed point of another iteration.

All but SJ can be negative, and are then set to 0. Standard errors are those of metafor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import chdtri

from bayes_lsm.arrays import Array
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_choice, require_level
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.rows.closed_form import estimate_location
from bayes_lsm.likelihood.typical_variance import typical_variance
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.prediction.heterogeneity import (
    Heterogeneity,
    accounted_for,
    facts,
    standard_error_tau2,
)
from bayes_lsm.reml.search.estimate import estimate
from bayes_lsm.reml.wald import wald_table
from bayes_lsm.results import model_title
from bayes_lsm.specification import Method
from bayes_lsm.tables import Printable, format_cells, format_table, text_table, wrap_notes

Estimator = Literal["DL", "HE", "SJ", "PM", "EB", "ML", "REML"]


@dataclass(frozen=True, eq=False)
class Tau2Estimate(Printable):
    """A random-effects or meta-regression model with τ² by any of the usual estimators.

    Attributes
    ----------
    design : Design
    estimator : {"DL", "HE", "SJ", "PM", "EB", "ML", "REML"}
    tau2 : float
        Heterogeneity variance, in the squared unit of the effects; never negative.
    se_tau2 : float
    beta : ndarray, shape (p,)
        Location coefficients, by weighted least squares with this τ².
    vcov_location : ndarray, shape (p, p)
    R2 : float
        Per cent of the τ² without moderators that they account for, both by the same estimator; nan
        without moderators, or without an intercept.
    truncated : bool
        Whether the estimator gave a negative number, which has been set to 0.
    converged : bool
        False only where the climb of the likelihood (ML, REML) did not end at a maximum.
    """

    design: Design
    estimator: Estimator
    tau2: float
    se_tau2: float
    beta: Array
    vcov_location: Array
    R2: float
    truncated: bool
    converged: bool

    @property
    def location(self) -> pd.DataFrame:
        """Location coefficients: estimate, se, zval, pval, ci_lb, ci_ub; one row a term."""
        return wald_table(self.design.location.names, self.beta, self.vcov_location)

    def heterogeneity(self) -> Heterogeneity:
        """τ², its SE, I², H², R² and Cochran's Q."""
        design, tau2, se = self.design, np.array([self.tau2]), np.array([self.se_tau2])
        rows = np.full(len(design.y), self.tau2)
        return Heterogeneity(
            **facts(design, tau2, se, rows, typical_variance(design)),
            heading=f"Heterogeneity of a {self.title}",
            remarks=self.notes,
            R2=self.R2,
            R2_scale=math.nan,
            constant=True,
        )

    @property
    def label(self) -> str:
        """The estimator."""
        return self.estimator

    @property
    def title(self) -> str:
        """The kind of model, the number of studies and the estimator of τ²."""
        return model_title(self.design, f"τ² estimator: {self.estimator}")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""
        found = []
        if self.truncated:
            found.append(f"the {self.estimator} estimate of τ² is negative and was set to 0")
        if not self.converged:
            found.append("the optimiser did not converge; do not use these numbers")
        return (*found, *self.design.notes)

    def to_dataframe(self) -> pd.DataFrame:
        """The location table, indexed by part and term."""
        return pd.concat({"location": self.location}, names=["part", "term"])

    def to_string(self, *, digits: int | None = None) -> str:
        """Coefficients and heterogeneity as text."""
        digits = self._digits if digits is None else digits
        table = text_table(self.to_dataframe(), digits=digits)
        parts = [self.title, table, str(self.heterogeneity()), *wrap_notes(self.notes)]
        return "\n\n".join(parts)


def estimate_tau2(design: Design, estimator: Estimator = "REML") -> Tau2Estimate:
    """Fit a model with one τ² for all studies, by any of the usual estimators.

    Parameters
    ----------
    design : Design
        With an intercept-only scale part.
    estimator : {"DL", "HE", "SJ", "PM", "EB", "ML", "REML"}, default "REML"
        DerSimonian-Laird, Hedges, Sidik-Jonkman, Paule-Mandel, empirical Bayes, or maximum and
        restricted maximum likelihood.

    Returns
    -------
    Tau2Estimate

    Raises
    ------
    FitError
        For an unknown estimator, a location-scale model, which has no single τ², and effects that
        are not independent.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"))
    >>> print(estimate_tau2(model.design, "DL"))
    Random-Effects Model (k = 13; τ² estimator: DL)
    <BLANKLINE>
               estimate      se     zval    pval    ci_lb    ci_ub
    Location
      intrcpt   -0.7141  0.1787  -3.9952  <.0001  -1.0644  -0.3638
    <BLANKLINE>
    τ²: 0.3088 (SE = 0.2299)
    τ:  0.5557
    I² (heterogeneity / total variability):  92.12%
    H² (total / sampling variability):       12.69
    Test for heterogeneity: Q(df = 12) = 152.2330, p < .0001

    References
    ----------
    Veroniki, A. A., et al. (2016). Methods to estimate the between-study variance and its
    uncertainty in meta-analysis. Research Synthesis Methods, 7(1), 55-79. doi:10.1002/jrsm.1164
    """
    require_choice("estimator", estimator, Estimator)
    require_capable("estimate_tau2", design)
    found = _ESTIMATORS[estimator](design)
    tau2 = max(0.0, found.tau2)
    location = estimate_location(design.y, design.v + tau2, design.X)
    return Tau2Estimate(
        design=design,
        estimator=estimator,
        tau2=tau2,
        se_tau2=found.se,
        beta=location.beta,
        vcov_location=location.covariance,
        R2=accounted_for(design, tau2, lambda alone: max(0.0, _ESTIMATORS[estimator](alone).tau2)),
        truncated=found.tau2 < 0,
        converged=found.converged,
    )


@dataclass(frozen=True)
class _Found:
    """An estimate before truncation, and its standard error after it."""

    tau2: float
    se: float
    converged: bool = True


class _Projection:
    """P = W − WX(X'WX)⁻¹X'W with W = diag(w), from sums over studies only."""

    def __init__(self, y: Array, w: Array, X: Array) -> None:
        location = estimate_location(y, 1.0 / w, X)
        self._w, self._Q = w, location.basis
        self._h = np.sum(self._Q**2, axis=1)
        self.quadratic = float(np.sum(w * location.residuals**2))

    def trace(self, d: Array | float = 1.0) -> float:
        """tr(P D) with D = diag(d)."""
        return float(np.sum(d * self._w * (1.0 - self._h)))

    def trace_product(self, d: Array | float = 1.0, e: Array | float = 1.0) -> float:
        """tr(P D P E) with diagonal D and E."""
        Q, wd, we = self._Q, self._w * d, self._w * e
        M, N = Q.T @ (wd[:, None] * Q), Q.T @ (we[:, None] * Q)
        return float(np.sum(wd * we * (1.0 - 2.0 * self._h)) + np.sum(M * N.T))


def _dersimonian_laird(design: Design) -> _Found:
    y, v, X = design.y, design.v, design.X
    df = len(y) - X.shape[1]
    P = _Projection(y, 1.0 / v, X)
    trace = P.trace()
    tau2 = (P.quadratic - df) / trace
    t = max(0.0, tau2)
    variance = (2.0 * df + 4.0 * t * trace + 2.0 * t**2 * P.trace_product()) / trace**2
    return _Found(tau2, float(np.sqrt(variance)))


def _hedges(design: Design) -> _Found:
    y, v, X = design.y, design.v, design.X
    df = len(y) - X.shape[1]
    P = _Projection(y, np.ones_like(v), X)
    tau2 = (P.quadratic - P.trace(v)) / df
    t = max(0.0, tau2)
    variance = (2.0 * P.trace_product(v, v) + 4.0 * t * P.trace(v) + 2.0 * t**2 * df) / df**2
    return _Found(tau2, float(np.sqrt(variance)))


def _sidik_jonkman(design: Design) -> _Found:
    y, v, X = design.y, design.v, design.X
    df = len(y) - X.shape[1]
    rough = float(np.var(y))
    P = _Projection(y, 1.0 / (v + rough), X)
    t = rough * P.quadratic / df
    spread = P.trace_product(v, v) + 2.0 * t * P.trace_product(v) + t**2 * P.trace_product()
    return _Found(t, float(rough / df * np.sqrt(2.0 * spread)))


def _paule_mandel(design: Design) -> _Found:
    y, v, X = design.y, design.v, design.X
    k, p = X.shape
    root = _q_root(y, v, X, float(k - p))
    tau2 = -1.0 if root is None else root
    total = np.sum(1.0 / (v + max(0.0, tau2)))
    return _Found(tau2, float(np.sqrt(2.0 * k**2 / (k - p)) / total))


def _likelihood(method: Method) -> Callable[[Design], _Found]:
    def of(design: Design) -> _Found:
        found = estimate(design, method)
        tau2 = float(found.tau2[0])
        se = standard_error_tau2(design, tau2, typical_variance(design), method)
        return _Found(tau2, se, found.converged)

    return of


_ESTIMATORS: dict[Estimator, Callable[[Design], _Found]] = {
    "DL": _dersimonian_laird,
    "HE": _hedges,
    "SJ": _sidik_jonkman,
    "PM": _paule_mandel,
    "EB": _paule_mandel,
    "ML": _likelihood("ML"),
    "REML": _likelihood("REML"),
}


def _q_root(y: Array, v: Array, X: Array, target: float) -> float | None:
    """The τ² at which the generalised Q of y equals `target`; None where it is below it at 0."""
    from scipy.optimize import brentq

    def above(tau2: float) -> float:
        residuals = estimate_location(y, v + tau2, X).residuals
        return float(np.sum(residuals**2 / (v + tau2))) - target

    if above(0.0) < 0.0:
        return None
    upper = float(np.mean(v))
    while above(upper) > 0.0:
        upper *= 8.0
    # As exact as rounding lets it be.
    tightest = 4 * float(np.finfo(float).eps)
    return float(brentq(above, 0.0, upper, xtol=1e-16 * upper, rtol=tightest, maxiter=1000))


@dataclass(frozen=True, eq=False)
class QProfileInterval:
    """Confidence intervals for one τ², and for τ, I² and H² with it.

    Attributes
    ----------
    table : DataFrame
        Rows τ², τ, I² (per cent) and H²; columns estimate, ci_lb, ci_ub.
    level : float
    estimator : str
        Whose estimate of τ² stands beside the interval.
    empty : bool
        Whether no τ² ≥ 0 is in the interval: the effects differ less than their sampling errors
        explain. The bounds are then both 0, as in metafor.
    """

    table: pd.DataFrame
    level: float
    estimator: str
    empty: bool

    @property
    def tau2(self) -> tuple[float, float]:
        """The two bounds for τ²."""
        lower, upper = self.table.loc["τ²", ["ci_lb", "ci_ub"]].to_numpy(float)
        return float(lower), float(upper)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""
        if not self.empty:
            return ()
        return (
            "the effects differ less than their sampling variances lead one to expect, so the "
            "interval for τ² is empty; 0 is shown for both bounds",
        )

    def __str__(self) -> str:
        title = f"Q-profile intervals ({100 * self.level:g}%), with the {self.estimator} estimate"
        return "\n".join([title, "", format_table(self.table), *wrap_notes(self.notes)])

    def _repr_html_(self) -> str:
        return str(format_cells(self.table, digits=4).to_html())


def q_profile_interval(
    fit: Estimates | Tau2Estimate | Design, *, level: float = 0.95
) -> QProfileInterval:
    """Confidence interval for one τ² from the exact distribution of the generalised Q.

    With weights 1/(v_i + τ²) at the true τ², Q(τ²) = y'Py is χ² with k − p degrees of freedom. The
    interval holds each τ² whose Q is not in a tail of that distribution.

    Parameters
    ----------
    fit : RemlFit, Tau2Estimate or Design
        Of a model with an intercept-only scale part. The interval does not depend on the estimator
        of τ²; a design gets the Paule-Mandel estimate beside it.
    level : float, default 0.95

    Returns
    -------
    QProfileInterval

    Raises
    ------
    FitError
        For a level outside (0, 1), a location-scale model, which has no single τ², and effects that
        are not independent.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"))
    >>> print(q_profile_interval(model.fit_reml()))
    Q-profile intervals (95%), with the REML estimate
    <BLANKLINE>
       estimate    ci_lb    ci_ub
    τ²   0.3132   0.1197   1.1115
    τ    0.5597   0.3460   1.0543
    I²  92.2214  81.9206  97.6781
    H²  12.8558   5.5311  43.0677

    References
    ----------
    Viechtbauer, W. (2007). Confidence intervals for the amount of heterogeneity in meta-analysis.
    Statistics in Medicine, 26(1), 37-52. doi:10.1002/sim.2514
    """
    require_level(level)
    design = fit if isinstance(fit, Design) else fit.design
    require_capable("q_profile_interval", design)
    y, v, X = design.y, design.v, design.X
    found = estimate_tau2(fit, "PM") if isinstance(fit, Design) else fit
    estimated = float(np.ravel(found.tau2)[0])
    tail, df = (1.0 - level) / 2.0, len(y) - X.shape[1]
    lower = _q_root(y, v, X, float(chdtri(df, tail)))
    upper = _q_root(y, v, X, float(chdtri(df, 1.0 - tail)))
    values = np.array([estimated, lower or 0.0, upper or 0.0])
    typical = typical_variance(design)
    table = pd.DataFrame(
        [values, np.sqrt(values), 100 * values / (values + typical), values / typical + 1],
        index=["τ²", "τ", "I²", "H²"],
        columns=["estimate", "ci_lb", "ci_ub"],
    )
    return QProfileInterval(table, level, found.label, upper is None)
