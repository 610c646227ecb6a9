"""ν on the whole line: ln(ν − its smallest value), where it is drawn and its prior made wider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bayes_lsm.arrays import Array
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom
from bayes_lsm.priors.family import Family, Univariate

# e^30 degrees of freedom are as good as any more.
_LARGEST_LOG_DF = 30.0


class LogExcess(Family):
    """The prior of ln(ν − lower) that a prior of ν implies.

    Examples
    --------
    >>> prior = LogExcess(DegreesOfFreedom())
    >>> round(float(1 + np.exp(prior.quantile(0.5))), 1)
    16.9
    """

    on: Literal["coefficient"] = Field(default="coefficient", kw_only=True)
    df: DegreesOfFreedom
    family: Literal["log_excess"] = Field(default="log_excess", kw_only=True)

    words: ClassVar[str] = "of degrees of freedom"

    def _logpdf(self, x: Array) -> Array:
        # d ν / d ln(ν − lower) = ν − lower.
        return self.df.logpdf(self._to_df(x)) + x

    def _cdf(self, x: Array) -> Array:
        return self.df.cdf(self._to_df(x))

    def _quantile(self, p: Array) -> Array:
        return self._from_df(self.df.quantile(p))

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        return self._from_df(self.df.sample(size, rng))

    def _to_df(self, x: Array) -> Array:
        return Excess(self, self.df.lower).to_df(x)

    def _from_df(self, df: Array) -> Array:
        return Excess(self, self.df.lower).from_df(df)


@dataclass(frozen=True)
class Excess:
    """What is believed of ln(ν − lower)."""

    prior: Univariate
    lower: float

    @classmethod
    def of(cls, df: DegreesOfFreedom) -> Excess:
        """The same that a prior of ν says."""
        return cls(LogExcess(df), df.lower)

    def to_df(self, x: Array) -> Array:
        """ν from ln(ν − lower)."""
        return np.asarray(self.lower + np.exp(np.minimum(x, _LARGEST_LOG_DF)))

    def from_df(self, df: Array) -> Array:
        """ln(ν − lower) from ν."""
        return np.log(np.maximum(df - self.lower, np.finfo(float).tiny))


type Degrees = DegreesOfFreedom | Excess | float
