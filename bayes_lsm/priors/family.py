"""What all priors of one coefficient have in common.

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
that knows it. A family moves and stretches one standard distribution, ``x = centre + spread · z``;
its `Law` is that of z.

To add a distribution, add a class to `families` or `variances`, with its `Law` and its `Twin`, and
to the union `families.Prior`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import special

from bayes_lsm.arrays import Array
from bayes_lsm.errors import PriorError
from bayes_lsm.frozen import Frozen

OnLine = Literal["coefficient", "log_tau2", "log_tau"]
OnVariance = Literal["tau", "tau2"]
Moderators = Literal["raw", "standardised"]
Number = Annotated[float, Field(strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True)]

_POWER = {"coefficient": 1.0, "log_tau2": 1.0, "tau2": 1.0, "log_tau": 2.0, "tau": 2.0}
SYMBOLS = {"log_tau2": "ln τ²", "log_tau": "ln τ", "tau": "τ", "tau2": "τ²"}
LOG_2 = math.log(2.0)
LOG_2PI = math.log(2.0 * math.pi)


class Checked(Frozen):
    """A record of this room: its faults are a `PriorError`."""

    error: ClassVar = PriorError


class Univariate(Protocol):
    """What any distribution of one θ_j can be asked for."""

    def logpdf(self, theta: Array, /) -> Array:
        """Log density, elementwise."""

    def sample(self, size: int, rng: np.random.Generator, /) -> Array:
        """Independent draws, shape (size,)."""


@dataclass(frozen=True)
class Law:
    """A standard distribution: functions of z, z, p, or a generator and a size, and parameters."""

    logpdf: Callable[..., Any]
    cdf: Callable[..., Any]
    quantile: Callable[..., Any]
    sample: Callable[..., Any]


GAUSSIAN = Law(
    logpdf=lambda z: -0.5 * z**2 - 0.5 * LOG_2PI,
    cdf=special.ndtr,
    quantile=special.ndtri,
    sample=lambda rng, size: rng.standard_normal(size),
)


@dataclass(frozen=True)
class Twin:
    """How PyMC writes a family: its name there, and its names of the parameters beside ours.

    `suffix` ends the variable's name, where it is not the family's.
    """

    distribution: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""


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
    law: ClassVar[Law]
    law_of: ClassVar[tuple[str, ...]] = ()  # its parameters
    twin: ClassVar[Twin]

    @property
    def power(self) -> float:
        """θ = power · x, where x is what `on` names, or the logarithm of it for τ and τ²."""
        return _POWER[self.on]

    @property
    def on_variance(self) -> bool:
        """Whether the statement is about τ or τ² themselves, so about a level and not a slope."""
        return self.on in ("tau", "tau2")

    @property
    def moments(self) -> float:
        """θ has moments of every order below this: infinity, but for tails like a power."""
        return math.inf

    @property
    def _place(self) -> tuple[float, float]:
        """Centre and spread: x = centre + spread · z."""
        return 0.0, 1.0

    def logpdf(self, theta: npt.ArrayLike) -> Array:
        """Log density of θ, elementwise."""
        with np.errstate(over="ignore", divide="ignore"):
            log_stretch = math.log(self._place[1]) + math.log(self.power)
            return np.asarray(self._logpdf(self._standard(theta)) - log_stretch)

    def cdf(self, theta: npt.ArrayLike) -> Array:
        """Probability below θ, elementwise."""
        with np.errstate(over="ignore", divide="ignore"):
            return np.asarray(self._cdf(self._standard(theta)))

    def quantile(self, probability: npt.ArrayLike) -> Array:
        """The θ below which a probability lies, elementwise."""
        with np.errstate(over="ignore", divide="ignore"):
            return self._stated(self._quantile(np.asarray(probability, dtype=float)))

    def sample(self, size: int, rng: np.random.Generator) -> Array:
        """Independent draws of θ, shape (size,)."""
        return self._stated(self._sample(size, rng))

    def _standard(self, theta: npt.ArrayLike) -> Array:
        """z of θ."""
        centre, spread = self._place
        return np.asarray((np.asarray(theta, dtype=float) / self.power - centre) / spread)

    def _stated(self, z: Array) -> Array:
        """θ of z."""
        centre, spread = self._place
        return np.asarray(self.power * (centre + spread * z))

    def _logpdf(self, z: Array) -> Any:
        return self.law.logpdf(z, *self._parameters)

    def _cdf(self, z: Array) -> Any:
        return self.law.cdf(z, *self._parameters)

    def _quantile(self, p: Array) -> Any:
        return self.law.quantile(p, *self._parameters)

    def _sample(self, size: int, rng: np.random.Generator) -> Any:
        return self.law.sample(rng, size, *self._parameters)

    @property
    def _parameters(self) -> list[float]:
        return [getattr(self, name) for name in self.law_of]

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
    """A distribution on the whole line, of any coefficient; `axis` names its centre and spread."""

    on: OnLine = Field(default="coefficient", kw_only=True)
    axis: ClassVar[tuple[str, str]] = ("loc", "scale")

    @property
    def _place(self) -> tuple[float, float]:
        centre, spread = self.axis
        return getattr(self, centre), getattr(self, spread)


class OnAVariance(Family):
    """A distribution on the positive half line, of a τ or τ²; `unit` names what it is times."""

    on: OnVariance = Field(default="tau", kw_only=True)
    unit: ClassVar[str] = "scale"

    @property
    def _place(self) -> tuple[float, float]:
        return math.log(getattr(self, self.unit)), 1.0


def log_t_constant(df: float) -> float:
    """Of the log density of a t distribution with scale 1."""
    return math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
