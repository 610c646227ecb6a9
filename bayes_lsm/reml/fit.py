"""REML and ML fits of a design, and what can be read from them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import chi2

from bayes_lsm.design import Design
from bayes_lsm.errors import ConvergenceWarning, DivergentScaleWarning
from bayes_lsm.likelihood.independent import (
    Evaluation,
    Method,
    estimate_location,
    evaluate,
)
from bayes_lsm.likelihood.independent import tau2 as tau2_of
from bayes_lsm.reml.divergence import Divergence, Limit, candidate_limits
from bayes_lsm.reml.heterogeneity import (
    ChiSquareTest,
    Heterogeneity,
    cochran_q,
    standard_error_tau2,
    typical_sampling_variance,
)
from bayes_lsm.reml.newton import Ascent, ascend
from bayes_lsm.results import format_table, stack_parts, wald_table

Array = npt.NDArray[np.float64]

# Two log-likelihoods nearer than this, relative to their size, are the same up to rounding.
_EQUAL = 1e-10
# A curvature this small, relative to the largest, leaves a coefficient without information.
_NO_INFORMATION = 1e-10


@dataclass(frozen=True, eq=False)
class RemlFit:
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
        design = self.design
        here = _evaluator(design, self.method)(self.stop)
        with np.errstate(invalid="ignore"):
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
        without = _best(design.y, design.v, ones, ones, self.method)[0]
        total = float(without.tau2[0])
        return 100 * max(0.0, 1 - tau2 / total) if total > 0 else 0.0

    @cached_property
    def _title(self) -> str:
        k, design = self.design.n_studies, self.design
        if design.scale.names != ("intrcpt",):
            kind = "Location-Scale Model"
        elif design.location.names == ("intrcpt",):
            kind = "Random-Effects Model"
        else:
            kind = "Mixed-Effects Model"
        dropped = f"; {len(design.dropped)} rows with missing values left out"
        return f"{kind} (k = {k}; {self.method}{dropped if design.dropped else ''})"

    def __str__(self) -> str:
        criteria = pd.DataFrame(
            {"logLik": [self.loglik], "AIC": [self.aic], "BIC": [self.bic], "AICc": [self.aicc]},
            index=[""],
        )
        lines = [self._title, "", format_table(criteria), ""]
        lines += ["Location:", format_table(self.location), ""]
        lines += ["Scale (ln τ²):", format_table(self.scale), ""]
        lines += [str(self.heterogeneity())]
        if self.divergence:
            lines += ["", f"Note: {self.divergence}."]
        if not self.converged:
            lines += ["", "Note: the optimiser did not converge; do not use these numbers."]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        table = self.to_dataframe().to_html(float_format="%.4f", na_rep="")
        note = f"<p>{self.divergence}</p>" if self.divergence else ""
        return f"<p>{self._title}, logLik = {self.loglik:.4f}</p>{table}{note}"


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
    best, stop = _best(design.y, design.v, design.X, design.Z, method)
    alpha, covariance = _coefficients(best, design.Z.shape[1])
    divergence = _describe(best.limit, design)
    fit = RemlFit(
        design=design,
        method=method,
        alpha=alpha,
        beta=best.ascent.evaluation.location.beta,
        vcov_scale=covariance,
        vcov_location=best.ascent.evaluation.location.covariance,
        tau2=best.tau2,
        loglik=best.value,
        divergence=divergence,
        converged=best.ascent.converged,
        stop=stop,
    )
    _warn(fit)
    return fit


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A stationary point, in the interior or at a limit; `Z` maps its coefficients to ln τ²."""

    ascent: Ascent
    tau2: Array
    Z: Array
    limit: Limit | None

    @property
    def value(self) -> float:
        return self.ascent.evaluation.value


def _best(y: Array, v: Array, X: Array, Z: Array, method: Method) -> tuple[_Candidate, Array]:
    """The highest point, limits at infinity included; and where an ordinary optimiser stops."""
    interior = [_climb(y, v, X, Z, method, start, None) for start in _starts(y, v, X, Z)]
    top = max(interior, key=lambda candidate: candidate.value)
    limits = []
    for ratio in {tuple(np.round(np.log10(c.tau2 / v + 1e-99), 1)): c for c in interior}.values():
        for limit in candidate_limits(Z, ratio.tau2 / v):
            kept = Z[:, list(limit.kept)]
            free = ~limit.zero
            start = _regress(np.log(ratio.tau2[free] + 1e-12 * v[free]), kept[free])
            limits.append(_climb(y, v, X, kept, method, start, limit))
    highest = max(limits, key=lambda candidate: candidate.value, default=top)
    slack = _EQUAL * max(1.0, abs(top.value))
    return (highest if highest.value >= top.value - slack else top), top.ascent.ordinary


def _climb(
    y: Array, v: Array, X: Array, Z: Array, method: Method, start: Array, limit: Limit | None
) -> _Candidate:
    """Ascend in coordinates in which the scale moderators are orthonormal.

    So neither the units of the moderators nor their means change the path.
    """
    zero = None if limit is None else limit.zero
    if not Z.shape[1]:
        here = evaluate(start, y, v, X, Z, method=method, zero=zero)
        return _Candidate(Ascent(start, here, start, True, 0), np.zeros_like(v), Z, limit)
    rows = slice(None) if zero is None else ~zero
    R = np.linalg.qr(Z[rows], mode="r") / np.sqrt(len(Z[rows]))
    inverse = np.linalg.solve(R, np.eye(len(R)))
    rotated = Z @ inverse
    ascent = ascend(partial(_evaluate_at, y, v, X, rotated, method, zero), R @ start, rotated[rows])
    back = _rotate(ascent, R, inverse)
    return _Candidate(back, tau2_of(back.alpha, Z, zero), Z, limit)


def _evaluate_at(
    y: Array,
    v: Array,
    X: Array,
    Z: Array,
    method: Method,
    zero: npt.NDArray[np.bool_] | None,
    alpha: Array,
) -> Evaluation:
    return evaluate(alpha, y, v, X, Z, method=method, zero=zero)


def _evaluator(design: Design, method: Method) -> partial[Evaluation]:
    return partial(_evaluate_at, design.y, design.v, design.X, design.Z, method, None)


def _rotate(ascent: Ascent, R: Array, inverse: Array) -> Ascent:
    here = ascent.evaluation
    original = Evaluation(here.value, R.T @ here.score, R.T @ here.hessian @ R, here.location)
    return Ascent(
        inverse @ ascent.alpha,
        original,
        inverse @ ascent.ordinary,
        ascent.converged,
        ascent.iterations,
    )


def _starts(y: Array, v: Array, X: Array, Z: Array) -> list[Array]:
    """Starting values: one common τ² (small, middling, large), and regressions of residuals."""
    residuals = estimate_location(y, v + np.mean(v), X).residuals
    spread = len(y) / max(1, len(y) - X.shape[1]) * float(np.mean(residuals**2 - v))
    common = max(spread, 0.05 * float(np.median(v)))
    starts = [_regress(np.full(len(y), np.log(common * c)), Z) for c in (1.0, 0.1, 10.0)]
    for floor in (0.5, 0.05):
        excess = np.log(np.maximum(residuals**2 - v, floor * v))
        starts.append(_regress(excess, Z))
    return starts


def _regress(log_tau2: Array, Z: Array) -> Array:
    if not Z.shape[1]:
        return np.zeros(0)
    return np.asarray(np.linalg.lstsq(Z, log_tau2, rcond=None)[0])


def _coefficients(best: _Candidate, q: int) -> tuple[Array, Array]:
    """α and its covariance on the user's terms, with ±inf and nan at a limit."""
    kept = list(range(q)) if best.limit is None else list(best.limit.kept)
    signs = {} if best.limit is None else best.limit.signs
    alpha = np.full(q, np.nan)
    covariance = np.full((q, q), np.nan)
    alpha[kept] = best.ascent.alpha
    covariance[np.ix_(kept, kept)] = _inverse_information(best.ascent.evaluation.hessian)
    for j, sign in signs.items():
        alpha[j] = sign
        covariance[j, :] = covariance[:, j] = np.nan
    return alpha, covariance


def _inverse_information(hessian: Array) -> Array:
    """The inverse of −H; nan where the curvature shows no information on a coefficient."""
    if not len(hessian):
        return hessian
    size = np.sqrt(np.abs(np.diag(hessian)))
    size[size == 0] = 1.0
    values, vectors = np.linalg.eigh(-hessian / np.outer(size, size))
    if values.min() < _NO_INFORMATION * max(values.max(), 1.0):
        return np.full_like(hessian, np.nan)
    return np.asarray(vectors / values @ vectors.T / np.outer(size, size))


def _describe(limit: Limit | None, design: Design) -> Divergence | None:
    if limit is None:
        return None
    names = design.scale.names
    return Divergence(
        terms={names[j]: sign for j, sign in limit.signs.items()},
        direction=dict(zip(names, map(float, limit.direction), strict=True)),
        studies=tuple(design.labels[i] for i in np.flatnonzero(limit.zero)),
        everywhere=bool(limit.zero.all()),
    )


def _omnibus(names: tuple[str, ...], estimate: Array, covariance: Array) -> ChiSquareTest:
    tested = [j for j, name in enumerate(names) if name != "intrcpt"] or [0]
    b, V = estimate[tested], covariance[np.ix_(tested, tested)]
    if not (np.isfinite(b).all() and np.isfinite(V).all()):
        return ChiSquareTest(np.nan, len(tested), np.nan)
    statistic = float(b @ np.linalg.solve(V, b))
    return ChiSquareTest(statistic, len(tested), float(chi2.sf(statistic, len(tested))))


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
            "the data do not identify every scale coefficient: the likelihood is flat around the "
            "estimate, so no standard errors are given; simplify the scale formula",
            ConvergenceWarning,
            stacklevel=3,
        )
    if not fit.converged:
        warnings.warn(
            "the optimiser did not converge; simplify the scale formula or use fit_bayes()",
            ConvergenceWarning,
            stacklevel=3,
        )
