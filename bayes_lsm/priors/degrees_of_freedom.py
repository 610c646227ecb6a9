"""What is believed about ν, the degrees of freedom of Student-t study effects.

The default is the Gamma(2, 0.1) of Juárez & Steel (2010, doi:10.1198/jbes.2009.07145), cut off
below 1, where not even the mean exists: little weight on the heaviest tails, and a long right tail
towards the normal. `DegreesOfFreedom(1, 1/29)` is that of Kruschke (2013,
doi:10.1037/a0029146), an exponential distribution with mean 29 that begins at 1.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field
from scipy.special import gammaincc, gammainccinv, gammaln, xlogy

from bayes_lsm.arrays import Array
from bayes_lsm.priors.family import Checked, Positive


class DegreesOfFreedom(Checked):
    """Gamma prior on ν, cut off below.

    Parameters
    ----------
    shape : float, default 2
    rate : float, default 0.1
        The mean of the whole gamma distribution is shape / rate.
    lower : float, default 1
        The smallest ν that is possible; 2 where the variance of the study effects must exist.

    Examples
    --------
    >>> print(DegreesOfFreedom(lower=2))
    Gamma(2, 0.1) from 2 up
    """

    shape: Positive = 2.0
    rate: Positive = 0.1
    lower: float = Field(default=1.0, ge=0, strict=True)
    family: Literal["gamma"] = Field(default="gamma", repr=False)

    @cached_property
    def _above(self) -> float:
        """The probability of the part that is kept."""
        return float(gammaincc(self.shape, self.rate * self.lower))

    def logpdf(self, df: Array) -> Array:
        """Log density at ν > 0, elementwise; −inf below `lower`."""
        df = np.asarray(df, dtype=float)
        inside = (
            self.shape * np.log(self.rate)
            - gammaln(self.shape)
            - np.log(self._above)
            + xlogy(self.shape - 1.0, df)
            - self.rate * df
        )
        return np.where(df >= self.lower, inside, -np.inf)

    def cdf(self, df: Array) -> Array:
        """Probability below ν, elementwise."""
        above = gammaincc(self.shape, self.rate * np.maximum(df, self.lower))
        return np.asarray(1.0 - above / self._above)

    def quantile(self, probability: Array) -> Array:
        """The ν below which a probability lies, elementwise."""
        return self._with_above(self._above * (1.0 - np.asarray(probability)))

    def sample(self, size: int, rng: np.random.Generator) -> Array:
        """Independent draws, shape (size,)."""
        return self._with_above(rng.uniform(0.0, self._above, size))

    def _with_above(self, probability: Array) -> Array:
        return np.maximum(gammainccinv(self.shape, probability) / self.rate, self.lower)

    def to_dict(self) -> dict[str, float]:
        """As a plain table for a model file, without what is left at its default."""
        return self.model_dump(exclude_defaults=True)

    def __str__(self) -> str:
        return f"Gamma({self.shape:g}, {self.rate:g}) from {self.lower:g} up"


def _checked(value: Any) -> Any:
    """A number or a prior, or what pydantic can make one of; anything else in one message."""
    if isinstance(value, DegreesOfFreedom):
        return value
    if isinstance(value, dict):
        return DegreesOfFreedom(**value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < np.inf:
        return float(value)
    raise ValueError(
        f"must be a finite number > 0, which fixes ν, or a DegreesOfFreedom prior, got {value!r}"
    )


Df = Annotated[DegreesOfFreedom | float, BeforeValidator(_checked)]
"""ν: a number that fixes it, or its prior."""
