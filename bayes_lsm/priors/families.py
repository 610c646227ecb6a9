"""Distributions of any coefficient, and the union of all families; see `family`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Never

import numpy as np
from pydantic import Field
from scipy import special

from bayes_lsm.arrays import Array
from bayes_lsm.errors import PriorError
from bayes_lsm.frozen import Fault
from bayes_lsm.priors.family import (
    GAUSSIAN,
    Family,
    Law,
    Number,
    OnLine,
    OnTheLine,
    OnVariance,
    Positive,
    Twin,
    log_t_constant,
)
from bayes_lsm.priors.variances import (
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    InverseGamma,
    LogNormal,
)


class Normal(OnTheLine):
    """Normal prior on a coefficient (of the scale part: on ln τ², or with `on` on ln τ).

    Parameters
    ----------
    mean : float, default 0
    sd : float, default 1
        Must be positive.
    on : {"coefficient", "log_tau2", "log_tau"}, default "coefficient"
    moderators : {"raw", "standardised"}, default "raw"

    Examples
    --------
    >>> Normal(0, 7)
    Normal(mean=0.0, sd=7.0)
    >>> Normal(0, 0.5, on="log_tau", moderators="standardised")
    Normal(mean=0.0, sd=0.5, on='log_tau', moderators='standardised')
    """

    mean: Number = 0.0
    sd: Positive = 1.0
    family: Literal["normal"] = Field(default="normal", kw_only=True)

    words: ClassVar = "normal"
    axis: ClassVar = ("mean", "sd")
    law: ClassVar = GAUSSIAN
    twin: ClassVar = Twin("Normal", {"mu": "mean", "sigma": "sd"}, "theta")


class StudentT(OnTheLine):
    """Student t prior on a coefficient: its tails let single large values through.

    Parameters
    ----------
    df : float
        Degrees of freedom; must be positive.
    loc : float, default 0
    scale : float, default 1
        Must be positive.
    on : {"coefficient", "log_tau2", "log_tau"}, default "coefficient"
    moderators : {"raw", "standardised"}, default "raw"

    Examples
    --------
    >>> StudentT(5, -3.44, 2.59, on="log_tau2")
    StudentT(df=5.0, loc=-3.44, scale=2.59, on='log_tau2')
    """

    df: Positive
    loc: Number = 0.0
    scale: Positive = 1.0
    family: Literal["student_t"] = Field(default="student_t", kw_only=True)

    words: ClassVar = "Student t"
    law_of: ClassVar = ("df",)
    law: ClassVar = Law(
        logpdf=lambda z, df: log_t_constant(df) - 0.5 * (df + 1) * np.log1p(z**2 / df),
        cdf=lambda z, df: special.stdtr(df, z),
        quantile=lambda p, df: special.stdtrit(df, p),
        sample=lambda rng, size, df: rng.standard_t(df, size),
    )
    twin: ClassVar = Twin("StudentT", {"nu": "df", "mu": "loc", "sigma": "scale"})

    @property
    def moments(self) -> float:
        return self.df


class Cauchy(OnTheLine):
    """Cauchy prior on a coefficient.

    Parameters
    ----------
    loc : float, default 0
    scale : float, default 1
        Must be positive.
    on : {"coefficient", "log_tau2", "log_tau"}, default "coefficient"
    moderators : {"raw", "standardised"}, default "raw"

    Examples
    --------
    >>> Cauchy(0, 0.7)
    Cauchy(loc=0.0, scale=0.7)
    """

    loc: Number = 0.0
    scale: Positive = 1.0
    family: Literal["cauchy"] = Field(default="cauchy", kw_only=True)

    words: ClassVar = "Cauchy"
    law: ClassVar = Law(
        logpdf=lambda z: -np.log1p(z**2) - math.log(math.pi),
        cdf=lambda z: 0.5 + np.arctan(z) / math.pi,
        quantile=lambda p: np.tan(math.pi * (p - 0.5)),
        sample=lambda rng, size: rng.standard_cauchy(size),
    )
    twin: ClassVar = Twin("Cauchy", {"alpha": "loc", "beta": "scale"})

    @property
    def moments(self) -> float:
        return 1.0


class Laplace(OnTheLine):
    """Laplace (double exponential) prior on a coefficient.

    Parameters
    ----------
    loc : float, default 0
    scale : float, default 1
        Mean absolute deviation; must be positive.
    on : {"coefficient", "log_tau2", "log_tau"}, default "coefficient"
    moderators : {"raw", "standardised"}, default "raw"

    Examples
    --------
    >>> Laplace(0, 1)
    Laplace(loc=0.0, scale=1.0)
    """

    loc: Number = 0.0
    scale: Positive = 1.0
    family: Literal["laplace"] = Field(default="laplace", kw_only=True)

    words: ClassVar = "Laplace"
    law: ClassVar = Law(
        logpdf=lambda z: -np.abs(z) - math.log(2),
        cdf=lambda z: np.where(z < 0, 0.5 * np.exp(z), 1 - 0.5 * np.exp(-z)),
        quantile=lambda p: -np.sign(p - 0.5) * np.log(2 * np.minimum(p, 1 - p)),
        sample=lambda rng, size: rng.laplace(size=size),
    )
    twin: ClassVar = Twin("Laplace", {"mu": "loc", "b": "scale"})


class Logistic(OnTheLine):
    """Logistic prior on a coefficient.

    Parameters
    ----------
    loc : float, default 0
    scale : float, default 1
        Must be positive; the standard deviation is 1.81 times as large.
    on : {"coefficient", "log_tau2", "log_tau"}, default "coefficient"
    moderators : {"raw", "standardised"}, default "raw"

    Examples
    --------
    >>> Logistic(0, 1)
    Logistic(loc=0.0, scale=1.0)
    """

    loc: Number = 0.0
    scale: Positive = 1.0
    family: Literal["logistic"] = Field(default="logistic", kw_only=True)

    words: ClassVar = "logistic"
    law: ClassVar = Law(
        logpdf=lambda z: -np.abs(z) - 2 * np.log1p(np.exp(-np.abs(z))),
        cdf=special.expit,
        quantile=special.logit,
        sample=lambda rng, size: rng.logistic(size=size),
    )
    twin: ClassVar = Twin("Logistic", {"mu": "loc", "s": "scale"})


def _refuse(*_: Any) -> Never:
    raise PriorError(
        "a flat prior is no distribution: it has no quantiles and cannot be drawn from; use a wide "
        "normal prior"
    )


class Flat(Family):
    """No prior: a constant density on a coefficient.

    It is improper: there is nothing to draw from it, and no marginal likelihood. A scale
    coefficient can have it where the data bound the coefficient both ways. As τ² → 0 the likelihood
    tends to that of a common effect and not to zero; so that is not the intercept, but it may be a
    slope whose moderator raises τ² of some studies and lowers it in others (with the average study
    held where it is). Where the posterior would be improper too, the model refuses the prior with
    the reason.

    Examples
    --------
    >>> Flat()
    Flat()
    """

    on: OnLine = Field(default="coefficient", kw_only=True)
    family: Literal["flat"] = Field(default="flat", kw_only=True)

    words: ClassVar = "flat"
    law: ClassVar = Law(np.zeros_like, _refuse, _refuse, _refuse)
    twin: ClassVar = Twin("Flat")


class Uniform(Family):
    """Uniform prior between two values, on a coefficient or on τ, τ² or ln τ.

    Parameters
    ----------
    lower, upper : float
        With ``lower < upper``; not negative on τ and τ².
    on : {"coefficient", "log_tau2", "log_tau", "tau", "tau2"}, default "coefficient"
    moderators : {"raw", "standardised"}, default "raw"

    Examples
    --------
    >>> Uniform(0, 2, on="tau")
    Uniform(lower=0.0, upper=2.0, on='tau')
    """

    on: OnLine | OnVariance = Field(default="coefficient", kw_only=True)
    lower: Number
    upper: Number
    family: Literal["uniform"] = Field(default="uniform", kw_only=True)

    words: ClassVar = "uniform"
    twin: ClassVar = Twin("Uniform", {"lower": "lower", "upper": "upper"})

    @classmethod
    def _faults_between(cls, fields: Mapping[str, Any]) -> list[Fault]:
        lower, upper = fields.get("lower"), fields.get("upper")
        if not isinstance(lower, int | float) or not isinstance(upper, int | float):
            return []
        if not lower < upper:
            text = f"must be above lower = {lower:g}, got {upper:g}; swap or correct them"
            return [Fault("upper", text)]
        if fields.get("on") in ("tau", "tau2") and lower < 0:
            text = f"must not be negative on {fields['on']}, got {lower:g}; use 0"
            return [Fault("lower", text)]
        return []

    def _logpdf(self, x: Array) -> Array:
        value = np.exp(x) if self.on_variance else x
        inside = (value >= self.lower) & (value <= self.upper)
        jacobian = x if self.on_variance else 0.0
        return np.where(inside, jacobian - math.log(self.upper - self.lower), -np.inf)

    def _cdf(self, x: Array) -> Array:
        value = np.exp(x) if self.on_variance else x
        return np.clip((value - self.lower) / (self.upper - self.lower), 0.0, 1.0)

    def _quantile(self, p: Array) -> Array:
        value = self.lower + p * (self.upper - self.lower)
        return np.log(value) if self.on_variance else value

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        value = rng.uniform(self.lower, self.upper, size)
        return np.log(value) if self.on_variance else value


Prior = (
    Normal
    | StudentT
    | Cauchy
    | Laplace
    | Logistic
    | Uniform
    | Flat
    | HalfNormal
    | HalfStudentT
    | HalfCauchy
    | LogNormal
    | InverseGamma
)
AnyFamily = Annotated[Prior, Field(discriminator="family")]
