"""Distributions of a τ or τ², for the level of the scale part; see `family`."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy import special

from bayes_lsm.arrays import Array
from bayes_lsm.priors.family import (
    GAUSSIAN,
    LOG_2,
    LOG_2PI,
    Law,
    Number,
    OnAVariance,
    OnVariance,
    Positive,
    Twin,
    log_t_constant,
)


class HalfNormal(OnAVariance):
    """Half-normal prior on τ (or τ²), for the intercept or the level means of the scale part.

    Parameters
    ----------
    sd : float, default 1
        Scale of the half-normal, in the units of the effects. Must be positive.
    on : {"tau", "tau2"}, default "tau"
    moderators : {"raw", "standardised"}, default "raw"

    Examples
    --------
    >>> HalfNormal(5)
    HalfNormal(sd=5.0)
    """

    sd: Positive = 1.0
    family: Literal["half_normal"] = Field(default="half_normal", kw_only=True)

    words: ClassVar = "half-normal"
    unit: ClassVar = "sd"
    law: ClassVar = Law(
        logpdf=lambda z: -0.5 * np.exp(2 * z) + z + LOG_2 - 0.5 * LOG_2PI,
        cdf=lambda z: special.erf(np.exp(z) / math.sqrt(2)),
        quantile=lambda p: np.log(math.sqrt(2) * special.erfinv(p)),
        sample=lambda rng, size: np.log(np.abs(rng.standard_normal(size))),
    )
    twin: ClassVar = Twin("HalfNormal", {"sigma": "sd"}, "tau")


def _log_half_t(z: Array, df: float) -> Array:
    tail = -0.5 * (df + 1) * np.logaddexp(0.0, 2 * z - math.log(df))
    return np.asarray(tail + z + LOG_2 + log_t_constant(df))


class HalfStudentT(OnAVariance):
    """Half-t prior on τ (or τ²).

    Parameters
    ----------
    df : float
        Degrees of freedom; must be positive.
    scale : float, default 1
        In the units of the effects; must be positive.
    on : {"tau", "tau2"}, default "tau"
    moderators : {"raw", "standardised"}, default "raw"

    Examples
    --------
    >>> HalfStudentT(3, 0.5)
    HalfStudentT(df=3.0, scale=0.5)

    References
    ----------
    Gelman, A. (2006). Prior distributions for variance parameters in hierarchical models. Bayesian
    Analysis, 1(3), 515-534. doi:10.1214/06-BA117A
    """

    df: Positive
    scale: Positive = 1.0
    family: Literal["half_student_t"] = Field(default="half_student_t", kw_only=True)

    words: ClassVar = "half-t"
    law_of: ClassVar = ("df",)
    law: ClassVar = Law(
        logpdf=_log_half_t,
        cdf=lambda z, df: 2 * special.stdtr(df, np.exp(z)) - 1,
        quantile=lambda p, df: np.log(special.stdtrit(df, 0.5 + p / 2)),
        sample=lambda rng, size, df: np.log(np.abs(rng.standard_t(df, size))),
    )
    twin: ClassVar = Twin("HalfStudentT", {"nu": "df", "sigma": "scale"})


class HalfCauchy(OnAVariance):
    """Half-Cauchy prior on τ (or τ²).

    Parameters
    ----------
    scale : float, default 1
        The median, in the units of the effects; must be positive.
    on : {"tau", "tau2"}, default "tau"
    moderators : {"raw", "standardised"}, default "raw"

    Examples
    --------
    >>> HalfCauchy(0.3)
    HalfCauchy(scale=0.3)
    """

    scale: Positive = 1.0
    family: Literal["half_cauchy"] = Field(default="half_cauchy", kw_only=True)

    words: ClassVar = "half-Cauchy"
    law: ClassVar = Law(
        logpdf=lambda z: z - np.logaddexp(0.0, 2 * z) + math.log(2 / math.pi),
        cdf=lambda z: 2 / math.pi * np.arctan(np.exp(z)),
        quantile=lambda p: np.log(np.tan(0.5 * math.pi * p)),
        sample=lambda rng, size: np.log(np.abs(rng.standard_cauchy(size))),
    )
    twin: ClassVar = Twin("HalfCauchy", {"beta": "scale"})


class LogNormal(OnAVariance):
    """Log-normal prior on τ (or τ²).

    Parameters
    ----------
    mean_log : float, default 0
        Of the logarithm, so exp(mean_log) is the median.
    sd_log : float, default 1
        Of the logarithm; must be positive.
    on : {"tau", "tau2"}, default "tau"
    moderators : {"raw", "standardised"}, default "raw"

    Examples
    --------
    >>> LogNormal(-2.56, 1.74, on="tau2")
    LogNormal(mean_log=-2.56, sd_log=1.74, on='tau2')
    """

    mean_log: Number = 0.0
    sd_log: Positive = 1.0
    family: Literal["log_normal"] = Field(default="log_normal", kw_only=True)

    words: ClassVar = "log-normal"
    law: ClassVar = GAUSSIAN
    twin: ClassVar = Twin("LogNormal", {"mu": "mean_log", "sigma": "sd_log"})

    @property
    def _place(self) -> tuple[float, float]:
        return self.mean_log, self.sd_log


class InverseGamma(OnAVariance):
    """Inverse-gamma prior on τ² (or τ).

    Parameters
    ----------
    shape, scale : float
        Must be positive. The mode is scale / (shape + 1).
    on : {"tau", "tau2"}, default "tau2"
    moderators : {"raw", "standardised"}, default "raw"

    Examples
    --------
    >>> InverseGamma(1, 0.15)
    InverseGamma(shape=1.0, scale=0.15)
    """

    on: OnVariance = Field(default="tau2", kw_only=True)
    shape: Positive
    scale: Positive
    family: Literal["inverse_gamma"] = Field(default="inverse_gamma", kw_only=True)

    words: ClassVar = "inverse gamma"
    twin: ClassVar = Twin("InverseGamma", {"alpha": "shape", "beta": "scale"})

    def _logpdf(self, z: Array) -> Array:
        return -self.shape * z - np.exp(-z) - math.lgamma(self.shape)

    def _cdf(self, z: Array) -> Any:
        return special.gammaincc(self.shape, np.exp(-z))

    def _quantile(self, p: Array) -> Array:
        gamma = special.gammainccinv(self.shape, p)
        # A small shape has quantiles below the smallest number: there P(a, g) ≈ g^a / Γ(a + 1).
        log_small = (np.log1p(-p) + math.lgamma(self.shape + 1)) / self.shape
        return -np.where(gamma < 1e-290, log_small, np.log(gamma))

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        # G(a) = G(a + 1) · U^(1/a), whose logarithm does not underflow for a small shape a.
        gamma, uniform = rng.standard_gamma(self.shape + 1, size), rng.uniform(size=size)
        return -np.log(gamma) - np.log(uniform) / self.shape
