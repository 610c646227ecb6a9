"""The distributions that one coefficient can have as its prior.

A prior is a distribution of one linear function θ of the coefficients. In the scale part θ lives on
ln τ², but the distribution may be *stated on* something else, which `on` names:

================  =============================================  =====
``on``            the distribution is one of                     x
================  =============================================  =====
``coefficient``   θ itself                                       θ
``log_tau2``      ln τ², or a slope of it: the same              θ
``log_tau``       ln τ, or a slope of it                         θ / 2
``tau``           τ (a level only)                               θ / 2
``tau2``          τ² (a level only)                              θ
================  =============================================  =====

Every family is written as the density of x, which is what the statement is about or its logarithm.
Then ``θ = power · x`` and the Jacobian from x to θ is a constant: `Family.logpdf` is the one place
that knows it. To add a distribution, add a class here and its PyMC twin in `bayes/families.py`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import special

from bayes_lsm.errors import PriorError
from bayes_lsm.frozen import Fault, Frozen

Array = npt.NDArray[np.float64]
OnLine = Literal["coefficient", "log_tau2", "log_tau"]
OnVariance = Literal["tau", "tau2"]
Moderators = Literal["raw", "standardised"]

_POWER = {"coefficient": 1.0, "log_tau2": 1.0, "tau2": 1.0, "log_tau": 2.0, "tau": 2.0}
SYMBOLS = {"log_tau2": "ln τ²", "log_tau": "ln τ", "tau": "τ", "tau2": "τ²"}
_LOG_2 = math.log(2.0)
_LOG_2PI = math.log(2.0 * math.pi)


class Checked(Frozen):
    """A record of this room: its faults are a `PriorError`."""

    error: ClassVar = PriorError


class Family(Checked):
    """A distribution of θ, one linear function of the coefficients of a part.

    Parameters
    ----------
    on : str
        What the distribution is stated on; see the module's docstring. Keyword only.
    moderators : {"raw", "standardised"}, default "raw"
        What θ is. Raw: the coefficient itself, a slope per unit of its moderator, or a level where
        all moderators are zero. Standardised: a slope per standard deviation of its moderator (per
        step of one with two values), or the level of a study with average moderators. Keyword only.
    """

    on: str = Field(default="coefficient", kw_only=True)
    moderators: Moderators = Field(default="raw", kw_only=True)

    words: ClassVar[str] = ""

    @property
    def power(self) -> float:
        """θ = power · x, where x is what `on` names, or the logarithm of it for τ and τ²."""
        return _POWER[self.on]

    @property
    def on_variance(self) -> bool:
        """Whether the statement is about τ or τ² themselves, so about a level and not a slope."""
        return self.on in ("tau", "tau2")

    def logpdf(self, theta: npt.ArrayLike) -> Array:
        """Log density of θ, elementwise."""
        with np.errstate(over="ignore", divide="ignore"):
            return self._logpdf(np.asarray(theta, dtype=float) / self.power) - math.log(self.power)

    def cdf(self, theta: npt.ArrayLike) -> Array:
        """Probability below θ, elementwise."""
        with np.errstate(over="ignore", divide="ignore"):
            return np.asarray(self._cdf(np.asarray(theta, dtype=float) / self.power))

    def quantile(self, probability: npt.ArrayLike) -> Array:
        """The θ below which a probability lies, elementwise."""
        with np.errstate(over="ignore", divide="ignore"):
            return np.asarray(self.power * self._quantile(np.asarray(probability, dtype=float)))

    def sample(self, size: int, rng: np.random.Generator) -> Array:
        """Independent draws of θ, shape (size,)."""
        return self.power * self._sample(size, rng)

    @abstractmethod
    def _logpdf(self, x: Array) -> Array: ...

    @abstractmethod
    def _cdf(self, x: Array) -> Array: ...

    @abstractmethod
    def _quantile(self, p: Array) -> Array: ...

    @abstractmethod
    def _sample(self, size: int, rng: np.random.Generator) -> Array: ...

    def to_dict(self) -> dict[str, Any]:
        """As a plain table for a model file: the family first, no settings at their default."""
        fields = self.model_dump()
        return {"family": fields["family"], **dict(self._said(fields.items()))}

    def __str__(self) -> str:
        """For a sentence: ``Normal(0, 0.5) on ln τ per SD``."""
        fields = {name: value for name, value in self.to_dict().items() if name != "family"}
        fields.pop("on", None)
        per_sd = " per SD" if fields.pop("moderators", None) else ""
        values = ", ".join(f"{value:.4g}" for value in fields.values())
        said = f" on {SYMBOLS[self.on]}" if self.on in SYMBOLS else ""
        return f"{type(self).__name__}({values}){said}{per_sd}"

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return list(self._said(self.__dict__.items()))

    def _said(self, fields: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, Any]]:
        given = dict(fields)
        options = {"on": given.pop("on"), "moderators": given.pop("moderators")}
        yield from ((name, value) for name, value in given.items() if name != "family")
        for name, value in options.items():
            if value != type(self).model_fields[name].default:
                yield name, value


class OnTheLine(Family):
    """A distribution on the whole line, of any coefficient."""

    on: OnLine = Field(default="coefficient", kw_only=True)


class OnAVariance(Family):
    """A distribution on the positive half line, of a τ or τ²."""

    on: OnVariance = Field(default="tau", kw_only=True)


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

    mean: float = Field(default=0.0, strict=True)
    sd: float = Field(default=1.0, gt=0, strict=True)
    family: Literal["normal"] = Field(default="normal", kw_only=True)

    words: ClassVar[str] = "normal"

    def _logpdf(self, x: Array) -> Array:
        z = (x - self.mean) / self.sd
        return np.asarray(-0.5 * z**2 - math.log(self.sd) - 0.5 * _LOG_2PI)

    def _cdf(self, x: Array) -> Array:
        return np.asarray(special.ndtr((x - self.mean) / self.sd))

    def _quantile(self, p: Array) -> Array:
        return np.asarray(self.mean + self.sd * special.ndtri(p))

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        return rng.normal(self.mean, self.sd, size)


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

    df: float = Field(gt=0, strict=True)
    loc: float = Field(default=0.0, strict=True)
    scale: float = Field(default=1.0, gt=0, strict=True)
    family: Literal["student_t"] = Field(default="student_t", kw_only=True)

    words: ClassVar[str] = "Student t"

    def _logpdf(self, x: Array) -> Array:
        z = (x - self.loc) / self.scale
        tail = -0.5 * (self.df + 1) * np.log1p(z**2 / self.df)
        return np.asarray(tail + _log_t_constant(self.df) - math.log(self.scale))

    def _cdf(self, x: Array) -> Array:
        return np.asarray(special.stdtr(self.df, (x - self.loc) / self.scale))

    def _quantile(self, p: Array) -> Array:
        return np.asarray(self.loc + self.scale * special.stdtrit(self.df, p))

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        return self.loc + self.scale * rng.standard_t(self.df, size)


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

    loc: float = Field(default=0.0, strict=True)
    scale: float = Field(default=1.0, gt=0, strict=True)
    family: Literal["cauchy"] = Field(default="cauchy", kw_only=True)

    words: ClassVar[str] = "Cauchy"

    def _logpdf(self, x: Array) -> Array:
        z = (x - self.loc) / self.scale
        return np.asarray(-np.log1p(z**2) - math.log(math.pi * self.scale))

    def _cdf(self, x: Array) -> Array:
        return np.asarray(0.5 + np.arctan((x - self.loc) / self.scale) / math.pi)

    def _quantile(self, p: Array) -> Array:
        return np.asarray(self.loc + self.scale * np.tan(math.pi * (p - 0.5)))

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        return self.loc + self.scale * rng.standard_cauchy(size)


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

    loc: float = Field(default=0.0, strict=True)
    scale: float = Field(default=1.0, gt=0, strict=True)
    family: Literal["laplace"] = Field(default="laplace", kw_only=True)

    words: ClassVar[str] = "Laplace"

    def _logpdf(self, x: Array) -> Array:
        return np.asarray(-np.abs((x - self.loc) / self.scale) - math.log(2 * self.scale))

    def _cdf(self, x: Array) -> Array:
        z = (x - self.loc) / self.scale
        tail = 0.5 * np.exp(-np.abs(z))
        return np.where(z < 0, tail, 1 - tail)

    def _quantile(self, p: Array) -> Array:
        z = -np.sign(p - 0.5) * np.log(2 * np.minimum(p, 1 - p))
        return np.asarray(self.loc + self.scale * z)

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        return rng.laplace(self.loc, self.scale, size)


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

    loc: float = Field(default=0.0, strict=True)
    scale: float = Field(default=1.0, gt=0, strict=True)
    family: Literal["logistic"] = Field(default="logistic", kw_only=True)

    words: ClassVar[str] = "logistic"

    def _logpdf(self, x: Array) -> Array:
        size = np.abs((x - self.loc) / self.scale)
        return np.asarray(-size - 2 * np.log1p(np.exp(-size)) - math.log(self.scale))

    def _cdf(self, x: Array) -> Array:
        return np.asarray(special.expit((x - self.loc) / self.scale))

    def _quantile(self, p: Array) -> Array:
        return np.asarray(self.loc + self.scale * special.logit(p))

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        return rng.logistic(self.loc, self.scale, size)


class Flat(OnTheLine):
    """No prior: a constant density on a location coefficient.

    It is improper: there is nothing to draw from it, and no marginal likelihood. A scale
    coefficient cannot have it. As τ² → 0 the likelihood tends to that of a common effect and not to
    zero, so the posterior would be improper as well.

    Examples
    --------
    >>> Flat()
    Flat()
    """

    family: Literal["flat"] = Field(default="flat", kw_only=True)

    words: ClassVar[str] = "flat"

    def _logpdf(self, x: Array) -> Array:
        return np.zeros_like(x)

    def _cdf(self, x: Array) -> Array:
        raise self._no_distribution()

    def _quantile(self, p: Array) -> Array:
        raise self._no_distribution()

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        raise self._no_distribution()

    def _no_distribution(self) -> PriorError:
        return PriorError(
            "a flat prior is no distribution: it has no quantiles and cannot be drawn from; use a "
            "wide normal prior"
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

    sd: float = Field(default=1.0, gt=0, strict=True)
    family: Literal["half_normal"] = Field(default="half_normal", kw_only=True)

    words: ClassVar[str] = "half-normal"

    def _logpdf(self, x: Array) -> Array:
        z = x - math.log(self.sd)
        return np.asarray(-0.5 * np.exp(2 * z) + z + _LOG_2 - 0.5 * _LOG_2PI)

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
        return np.asarray(tail + z + _LOG_2 + _log_t_constant(self.df))

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
        return np.asarray(-0.5 * z**2 - math.log(self.sd_log) - 0.5 * _LOG_2PI)

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
    lower: float = Field(strict=True)
    upper: float = Field(strict=True)
    family: Literal["uniform"] = Field(default="uniform", kw_only=True)

    words: ClassVar[str] = "uniform"

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


def _log_t_constant(df: float) -> float:
    return math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
