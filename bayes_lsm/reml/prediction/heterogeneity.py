"""How much heterogeneity there is: τ², I², H², R² and Cochran's Q, as meta-analyses report them.

I² and H² compare τ² with the typical sampling variance ṽ = (k − p) / tr(P), P with weights 1/v
(Higgins & Thompson 2002, doi:10.1002/sim.1186): I² = τ²/(τ² + ṽ), H² = (τ² + ṽ)/ṽ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.likelihood.rows.closed_form import estimate_location, typical_sampling_variance
from bayes_lsm.reml.uninformed import mean_of_known
from bayes_lsm.reml.wald import ChiSquareTest, cochran_q
from bayes_lsm.tables import format_table

if TYPE_CHECKING:
    from bayes_lsm.reml.estimates import Estimates

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Heterogeneity:
    """Heterogeneity of a fit.

    With an intercept-only scale part τ² is one number for all studies; otherwise `tau2`, `I2` and
    `H2` are of the average study (the mean τ²), and `by_study` has those of each study.

    Attributes
    ----------
    tau2, tau : float
    se_tau2 : float
        From the expected information (constant τ²), or for the mean τ² by the delta method from the
        covariance of α̂; nan when that is missing, as when a coefficient diverges.
    I2 : float
        Per cent.
    H2 : float
    R2 : float
        100 (1 − τ̄²/τ²_RE), at least 0: the per cent of τ²_RE, the τ² of the random-effects model
        (no moderators at all, same method), that the location moderators account for, with τ̄² the
        mean τ² of this fit. nan without location moderators or without an intercept.
    typical_variance : float
        ṽ, the typical sampling variance.
    Q : ChiSquareTest
        Cochran's test of (residual) heterogeneity.
    constant : bool
        Whether the scale part is intercept-only.
    R2_scale : float
        100 (1 − exp(−LR/n)), the likelihood-ratio R² of the scale moderators (Magee 1990): LR
        compares the fit with that of constant τ² and the same location part, n = k (ML) or k − p
        (REML). It says how much better the moderators describe the spread of the effects, and is
        not a share of any variance. nan with constant τ², without a constant in the scale part, or
        with the identity link.
    by_study : DataFrame
        One row a study: tau2, tau, I2, H2.

    References
    ----------
    Magee, L. (1990). R² measures based on Wald and likelihood ratio joint significance tests.
    The American Statistician, 44(3), 250-253. doi:10.1080/00031305.1990.10475731
    """

    tau2: float
    se_tau2: float
    I2: float
    H2: float
    R2: float
    typical_variance: float
    Q: ChiSquareTest
    constant: bool
    R2_scale: float = math.nan
    by_study: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def tau(self) -> float:
        """√τ²."""
        return float(np.sqrt(self.tau2))

    def __str__(self) -> str:
        return self.to_string()

    def to_string(self, *, digits: int = 4, by_study: int = 0) -> str:
        """All of it as text, with the rows of the first `by_study` studies below it."""
        about = "" if self.constant else " of the average study"
        has_se = np.isfinite(self.se_tau2)
        se = f" (SE = {self.se_tau2:.{digits}f})" if has_se else ""
        smallest = 10.0**-digits
        pval = (
            f"p < {smallest:.{digits}f}".replace("0.", ".", 1)
            if self.Q.pval < smallest
            else f"p = {self.Q.pval:.{digits}f}"
        )
        rows = [
            (f"τ²{about}:", f"{self.tau2:.{digits}f}{se}"),
            (f"τ{about}:", f"{self.tau:.{digits}f}"),
        ]
        if not self.constant and len(self.by_study):
            low, high = self.by_study["tau2"].min(), self.by_study["tau2"].max()
            rows.append(("τ² of the studies, from … to:", f"{low:.{digits}f} … {high:.{digits}f}"))
        rows += [
            ("I² (heterogeneity / total variability):", f"{self.I2:.2f}%"),
            ("H² (total / sampling variability):", f"{self.H2:.2f}"),
        ]
        if np.isfinite(self.R2):
            rows.append(("R² (heterogeneity accounted for):", f"{self.R2:.2f}%"))
        if np.isfinite(self.R2_scale):
            rows.append(("R² of the scale part (likelihood ratio):", f"{self.R2_scale:.2f}%"))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}} {value}" for name, value in rows]
        q = f"Q(df = {self.Q.df}) = {self.Q.statistic:.{digits}f}, {pval}"
        lines.append(f"Test for heterogeneity: {q}")
        if by_study:
            lines += ["", format_table(self.by_study.head(by_study), digits=digits)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(str(self))}</pre>"


def heterogeneity(fit: Estimates) -> Any:
    """τ², I², H², R² and Cochran's Q of a fit.

    With scale moderators the numbers are of each study (`Heterogeneity.by_study`) and of the
    average study, whose τ² is the mean of the studies' τ². I² and H² are metafor's: every τ² is
    compared with the same typical sampling variance.

    Parameters
    ----------
    fit : RemlFit

    Returns
    -------
    Heterogeneity
        See there how R² and the R² of the scale part are defined.

    Examples
    --------
    >>> from bayes_lsm import Specification, build_design, load_dataset
    >>> from bayes_lsm.reml import fit_reml
    >>> spec = Specification("yi ~ ablat", "vi", scale="~ ablat")
    >>> found = heterogeneity(fit_reml(build_design(spec, load_dataset("bcg"))))
    >>> round(found.R2, 1), round(found.R2_scale, 2)
    (75.5, 0.0)
    >>> found.by_study.head(2).round(3)
            tau2    tau      I2     H2
    study
    row 0  0.076  0.276  68.344  3.159
    row 1  0.076  0.275  68.170  3.142
    """
    if not fit.design.is_independent:
        from bayes_lsm.reml.prediction.clustered_effects import level_heterogeneity

        return level_heterogeneity(fit)
    design = fit.design
    constant = design.scale.names == ("intrcpt",)
    identity = design.specification.link == "identity"
    tau2 = fit.known_tau2
    average = mean_of_known(tau2)
    typical = typical_sampling_variance(design.v, design.X)
    by_study = pd.DataFrame(
        {
            "tau2": tau2,
            "tau": np.sqrt(tau2),
            "I2": 100 * tau2 / (tau2 + typical),
            "H2": tau2 / typical + 1,
        },
        index=pd.Index(design.labels, name="study"),
    )
    return Heterogeneity(
        tau2=average,
        se_tau2=standard_error_tau2(design.v, design.X, average, method=fit.method)
        if constant and not fit.fixed and (identity or not fit.at_bound)
        else _standard_error_average(fit),
        I2=100 * average / (average + typical),
        H2=average / typical + 1,
        R2=_r2(fit, average),
        typical_variance=typical,
        Q=cochran_q(design),
        constant=constant,
        R2_scale=math.nan if constant else _r2_scale(fit),
        by_study=by_study,
    )


def _standard_error_average(fit: Estimates) -> float:
    """Delta method: the gradient of the mean τ² in α is Σ τ_i² z_i / k (identity: Σ z_i / k)."""
    from bayes_lsm.reml.prediction.linear_scale import scale_at

    if not np.isfinite(fit.alpha).all():
        return math.nan
    identity = fit.design.specification.link == "identity"
    known = fit.is_known
    slope = (np.ones_like(fit.tau2) if identity else fit.tau2)[known]
    return float(scale_at(fit, (slope @ fit.design.Z[known] / len(slope))[None]).se[0])


def _r2(fit: Estimates, average: float) -> float:
    design = fit.design
    if design.X.shape[1] == 1 or "intrcpt" not in design.location.names:
        return math.nan
    total = _constant_fit(fit, np.ones((design.n_studies, 1)))[0]
    return 100 * max(0.0, 1 - average / total) if total > 0 else 0.0


def _r2_scale(fit: Estimates) -> float:
    design = fit.design
    ones = np.ones(design.n_studies)
    level = np.linalg.lstsq(design.Z, ones, rcond=None)[0]
    if design.specification.link == "identity" or not np.allclose(design.Z @ level, ones):
        return math.nan
    ratio = max(0.0, 2 * (fit.loglik - _constant_fit(fit, design.X)[1]))
    return -100 * math.expm1(-ratio / (len(ones) - len(fit.beta) * (fit.method == "REML")))


def _constant_fit(fit: Estimates, X: Array) -> tuple[float, float]:
    """τ² and the log-likelihood of the model with constant τ² and the location matrix X (n, p)."""
    from bayes_lsm.reml.search.rows_search import Search

    design = fit.design
    best = Search(design.y, design.v, X, np.ones((design.n_studies, 1)), fit.method).best
    return float(best.tau2[0]), best.value


def standard_error_tau2(v: Array, X: Array, tau2: float, *, method: Literal["REML", "ML"]) -> float:
    """SE of one common τ² from the expected information, ½ tr(PP) (REML) or ½ tr(WW) (ML)."""
    w = 1.0 / (v + tau2)
    information = np.sum(w**2)
    if method == "REML":
        C = estimate_location(np.zeros_like(v), v + tau2, X).covariance
        h = np.einsum("ij,jk,ik->i", X, C, X)
        M = C @ (X.T @ (w[:, None] ** 2 * X))
        information = np.sum(w**2) - 2.0 * np.sum(w**3 * h) + np.trace(M @ M)
    return float(np.sqrt(2.0 / information))
