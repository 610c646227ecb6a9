"""Distributions of a τ or τ², for the level of the scale part; see `family`."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy import special

from bayes_lsm.priors.family import LOG_2, LOG_2PI, Array, OnAVariance, OnVariance, log_t_constant


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

    sd: float = Field(default=1.0, gt=0, strict=True)
    family: Literal["half_normal"] = Field(default="half_normal", kw_only=True)

    words: ClassVar[str] = "half-normal"

    def _logpdf(self, x: Array) -> Array:
        z = x - math.log(self.sd)
        return np.asarray(-0.5 * np.exp(2 * z) + z + LOG_2 - 0.5 * LOG_2PI)

    def _cdf(self, x: Array) -> Array:
        return np.asarray(special.erf(np.exp(x) / (self.sd * math.sqrt(2))))

    def _quantile(self, p: Array) -> Array:
        return np.asarray(np.log(self.sd * math.sqrt(2) * special.erfinv(p)))

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        return np.log(np.abs(rng.normal(0.0, self.sd, size)))


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

    df: float = Field(gt=0, strict=True)
    scale: float = Field(default=1.0, gt=0, strict=True)
    family: Literal["half_student_t"] = Field(default="half_student_t", kw_only=True)

    words: ClassVar[str] = "half-t"

    def _logpdf(self, x: Array) -> Array:
        z = x - math.log(self.scale)
        tail = -0.5 * (self.df + 1) * np.logaddexp(0.0, 2 * z - math.log(self.df))
        return np.asarray(tail + z + LOG_2 + log_t_constant(self.df))

    def _cdf(self, x: Array) -> Array:
        return np.asarray(2 * special.stdtr(self.df, np.exp(x) / self.scale) - 1)

    def _quantile(self, p: Array) -> Array:
        return np.asarray(np.log(self.scale * special.stdtrit(self.df, 0.5 + p / 2)))

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        return np.log(self.scale * np.abs(rng.standard_t(self.df, size)))


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

    scale: float = Field(default=1.0, gt=0, strict=True)
    family: Literal["half_cauchy"] = Field(default="half_cauchy", kw_only=True)

    words: ClassVar[str] = "half-Cauchy"

    def _logpdf(self, x: Array) -> Array:
        z = x - math.log(self.scale)
        return np.asarray(z - np.logaddexp(0.0, 2 * z) + math.log(2 / math.pi))

    def _cdf(self, x: Array) -> Array:
        return np.asarray(2 / math.pi * np.arctan(np.exp(x) / self.scale))

    def _quantile(self, p: Array) -> Array:
        return np.asarray(np.log(self.scale * np.tan(0.5 * math.pi * p)))

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        return np.log(self.scale * np.abs(rng.standard_cauchy(size)))


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

    mean_log: float = Field(default=0.0, strict=True)
    sd_log: float = Field(default=1.0, gt=0, strict=True)
    family: Literal["log_normal"] = Field(default="log_normal", kw_only=True)

    words: ClassVar[str] = "log-normal"

    def _logpdf(self, x: Array) -> Array:
        z = (x - self.mean_log) / self.sd_log
        return np.asarray(-0.5 * z**2 - math.log(self.sd_log) - 0.5 * LOG_2PI)

    def _cdf(self, x: Array) -> Array:
        return np.asarray(special.ndtr((x - self.mean_log) / self.sd_log))

    def _quantile(self, p: Array) -> Array:
        return np.asarray(self.mean_log + self.sd_log * special.ndtri(p))

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        return rng.normal(self.mean_log, self.sd_log, size)


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
    shape: float = Field(gt=0, strict=True)
    scale: float = Field(gt=0, strict=True)
    family: Literal["inverse_gamma"] = Field(default="inverse_gamma", kw_only=True)

    words: ClassVar[str] = "inverse gamma"

    def _logpdf(self, x: Array) -> Array:
        z = x - math.log(self.scale)
        return np.asarray(-self.shape * z - np.exp(-z) - math.lgamma(self.shape))

    def _cdf(self, x: Array) -> Array:
        return np.asarray(special.gammaincc(self.shape, self.scale * np.exp(-x)))

    def _quantile(self, p: Array) -> Array:
        gamma = special.gammainccinv(self.shape, p)
        # A small shape has quantiles below the smallest number: there P(a, g) ≈ g^a / Γ(a + 1).
        log_small = (np.log1p(-p) + math.lgamma(self.shape + 1)) / self.shape
        return np.asarray(math.log(self.scale) - np.where(gamma < 1e-290, log_small, np.log(gamma)))

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        # G(a) = G(a + 1) · U^(1/a), whose logarithm does not underflow for a small shape a.
        gamma, uniform = rng.standard_gamma(self.shape + 1, size), rng.uniform(size=size)
        return np.asarray(math.log(self.scale) - np.log(gamma) - np.log(uniform) / self.shape)
