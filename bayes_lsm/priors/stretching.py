"""A prior made wider or narrower, or moved, whatever its family."""

from __future__ import annotations

import math
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bayes_lsm.arrays import Array
from bayes_lsm.priors.families import Normal
from bayes_lsm.priors.family import Family
from bayes_lsm.priors.shrinkage import Shrinkage


class Stretched(Family):
    """The distribution of m + shift + factor · (θ − m), where θ has the prior `base`, its median m.

    Every interval of it is `factor` times as long, on the scale of the coefficient (ln τ² in the
    scale part), and its median is `shift` away.

    Parameters
    ----------
    base : Family
    factor : float
        Must be positive.
    shift : float, default 0

    Examples
    --------
    >>> from bayes_lsm.priors import HalfNormal
    >>> base = HalfNormal(0.5)
    >>> lengths = [float(np.diff(prior.quantile([0.1, 0.9]))[0])
    ...            for prior in (base, Stretched(base, 2.0))]
    >>> round(lengths[1] / lengths[0], 6)
    2.0
    """

    on: Literal["coefficient"] = Field(default="coefficient", kw_only=True)
    base: Family
    factor: float = Field(gt=0, strict=True)
    shift: float = Field(default=0.0, strict=True)
    family: Literal["stretched"] = Field(default="stretched", kw_only=True)

    words: ClassVar[str] = "stretched"

    @property
    def moments(self) -> float:
        return self.base.moments

    @cached_property
    def _median(self) -> float:
        return float(self.base.quantile(0.5))

    def _back(self, theta: Array) -> Array:
        return self._median + (theta - self.shift - self._median) / self.factor

    def _forth(self, theta: Array) -> Array:
        return np.asarray(self._median + self.shift + self.factor * (theta - self._median))

    def _logpdf(self, x: Array) -> Array:
        return self.base.logpdf(self._back(x)) - math.log(self.factor)

    def _cdf(self, x: Array) -> Array:
        return self.base.cdf(self._back(x))

    def _quantile(self, p: Array) -> Array:
        return self._forth(self.base.quantile(p))

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        return self._forth(self.base.sample(size, rng))


def stretch[AnyPrior: (Family, Shrinkage, Family | Shrinkage)](
    prior: AnyPrior, factor: float
) -> AnyPrior:
    """A prior `factor` times as wide about its median; a normal one stays normal.

    Of a normal prior that is the prior to the power 1/factor², as in power-scaling. A shrinkage
    prior keeps its shape, and all slopes are `factor` times as large.

    Examples
    --------
    >>> stretch(Normal(0, 7), 0.25)
    Normal(mean=0.0, sd=1.75)
    """
    if factor == 1:
        return prior
    if isinstance(prior, Shrinkage):
        return prior.times(factor)
    if isinstance(prior, Normal):
        return prior.model_copy(update={"sd": prior.sd * factor})
    return Stretched(prior, float(factor))
