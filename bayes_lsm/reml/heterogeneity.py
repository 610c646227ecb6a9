"""How much heterogeneity there is: τ², I², H² and Cochran's Q, as meta-analyses report them.

I² and H² compare τ² with the typical sampling variance ṽ = (k − p) / tr(P), P with weights 1/v
(Higgins & Thompson 2002, doi:10.1002/sim.1186): I² = τ²/(τ² + ṽ), H² = (τ² + ṽ)/ṽ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc

from bayes_lsm.likelihood.independent import estimate_location

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChiSquareTest:
    """A test statistic that is χ² under its null hypothesis; it unpacks as a tuple."""

    statistic: float
    df: int
    pval: float

    def __iter__(self) -> Iterator[float]:
        return iter((self.statistic, self.df, self.pval))


@dataclass(frozen=True, eq=False)
class Heterogeneity:
    """Heterogeneity of a fit.

    With an intercept-only scale part τ² is one number for all studies; otherwise `tau2`, `I2` and
    `H2` are of the average study (the mean τ²), and the fit's `tau2` has one for each study.

    Attributes
    ----------
    tau2, tau : float
    se_tau2 : float
        From the expected information; nan unless the scale part is intercept-only.
    I2 : float
        Per cent.
    H2 : float
    R2 : float
        Per cent of the τ² without location moderators that they account for; nan when the location
        part has no moderators or the scale part has some.
    typical_variance : float
        ṽ, the typical sampling variance.
    Q : ChiSquareTest
        Cochran's test of (residual) heterogeneity.
    """

    tau2: float
    se_tau2: float
    I2: float
    H2: float
    R2: float
    typical_variance: float
    Q: ChiSquareTest
    constant: bool

    @property
    def tau(self) -> float:
        """√τ²."""
        return float(np.sqrt(self.tau2))

    def __str__(self) -> str:
        about = "" if self.constant else " of the average study"
        se = f" (SE = {self.se_tau2:.4f})" if np.isfinite(self.se_tau2) else ""
        r2 = [f"R² (heterogeneity accounted for):        {self.R2:.2f}%"]
        pval = "p < .0001" if self.Q.pval < 1e-4 else f"p = {self.Q.pval:.4f}"
        q = f"Q(df = {self.Q.df}) = {self.Q.statistic:.4f}, {pval}"
        lines = [
            f"τ²{about}: {self.tau2:.4f}{se}",
            f"τ{about}:  {self.tau:.4f}",
            f"I² (heterogeneity / total variability):  {self.I2:.2f}%",
            f"H² (total / sampling variability):       {self.H2:.2f}",
            *(r2 if np.isfinite(self.R2) else []),
            f"Test for heterogeneity: {q}",
        ]
        return "\n".join(lines)


def cochran_q(y: Array, v: Array, X: Array) -> ChiSquareTest:
    """Weighted residual sum of squares with weights 1/v: the test of (residual) heterogeneity."""
    residuals = estimate_location(y, v, X).residuals
    df = len(y) - X.shape[1]
    statistic = float(np.sum(residuals**2 / v))
    return ChiSquareTest(statistic, df, float(chdtrc(df, statistic)))


def typical_sampling_variance(v: Array, X: Array) -> float:
    """ṽ = (k − p) / tr(P) with P = W − WX(X'WX)⁻¹X'W and W = diag(1/v)."""
    w = 1.0 / v
    C = estimate_location(np.zeros_like(v), v, X).covariance
    h = np.einsum("ij,jk,ik->i", X, C, X)
    return float((len(v) - X.shape[1]) / np.sum(w - w**2 * h))


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
