"""Priors of correlations, by their partial correlations: the LKJ distribution, and the uniform.

A correlation matrix of s effects is its partial correlations r of effects j < i given those before
j, any of which between −1 and 1 make one. They are what is independent under the LKJ distribution
(Lewandowski, Kurowicka & Joe 2009, doi:10.1016/j.jmva.2009.04.008). The coefficients of a model are
their Fisher's z, κ.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bayes_lsm.priors.families import Logistic
from bayes_lsm.priors.family import Family

Array = npt.NDArray[np.float64]


class PartialCorrelation(Family):
    """Prior of Fisher's z κ of a (partial) correlation r, (1 − r²)^(b − 1) on r.

    Parameters
    ----------
    b : float
        Above 0; 1 is uniform. (1 + r) / 2 ~ Beta(b, b), and κ is half its logit.
    """

    on: Literal["coefficient"] = Field(default="coefficient", kw_only=True)
    b: float = Field(gt=0, strict=True)
    family: Literal["partial_correlation"] = Field(default="partial_correlation", kw_only=True)

    words: ClassVar[str] = "of a partial correlation"

    def _logpdf(self, x: Array) -> Array:
        """Of κ: sech²ᵇ κ over its integral B(½, b)."""
        from scipy.special import betaln

        log_sech = math.log(2.0) - np.logaddexp(x, -x)
        return np.asarray(2.0 * self.b * log_sech - betaln(0.5, self.b))

    def _cdf(self, x: Array) -> Array:
        from scipy.special import betainc, expit

        return np.asarray(betainc(self.b, self.b, expit(2.0 * x)))

    def _quantile(self, p: Array) -> Array:
        from scipy.special import betaincinv, logit

        return np.asarray(logit(betaincinv(self.b, self.b, p)) / 2.0)

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        return np.arctanh(2.0 * rng.beta(self.b, self.b, size) - 1.0)


def lkj(effects: int, concentration: float) -> list[Family]:
    """The priors of the κ of an unstructured correlation matrix, row by row below its diagonal.

    Examples
    --------
    >>> lkj(3, 1.0)
    [PartialCorrelation(b=1.5), PartialCorrelation(b=1.5), PartialCorrelation(b=1.0)]
    """
    return [
        PartialCorrelation(concentration + (effects - 2 - j) / 2)
        for i in range(effects)
        for j in range(i)
    ]


def compound_symmetric(effects: int, concentration: float) -> list[Family]:
    """The prior of the κ of a correlation that all effects share.

    That of more than two is uniform wherever their matrix is positive definite: above −1/(s − 1),
    where 2κ − ln(s − 1) is logistic.
    """
    if effects == 2:
        return [PartialCorrelation(concentration)]
    return [Logistic(math.log(effects - 1) / 2, 0.5)]
