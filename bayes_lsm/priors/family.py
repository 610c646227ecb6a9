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
that knows it. To add a distribution, add a class to `families` or `variances`, and its PyMC twin to
`bayes/pymc_model/families.py`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bayes_lsm.errors import PriorError
from bayes_lsm.frozen import Frozen

Array = npt.NDArray[np.float64]
OnLine = Literal["coefficient", "log_tau2", "log_tau"]
OnVariance = Literal["tau", "tau2"]
Moderators = Literal["raw", "standardised"]

_POWER = {"coefficient": 1.0, "log_tau2": 1.0, "tau2": 1.0, "log_tau": 2.0, "tau": 2.0}
SYMBOLS = {"log_tau2": "ln τ²", "log_tau": "ln τ", "tau": "τ", "tau2": "τ²"}
LOG_2 = math.log(2.0)
LOG_2PI = math.log(2.0 * math.pi)


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

    @property
    def moments(self) -> float:
        """θ has moments of every order below this: infinity, but for tails like a power."""
        return math.inf

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


def log_t_constant(df: float) -> float:
    """Of the log density of a t distribution with scale 1."""
    return math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
