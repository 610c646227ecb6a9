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
from pydantic import Field
from scipy import special

from bayes_lsm.priors.families import Logistic
from bayes_lsm.priors.family import LOG_2, Family, Law, Positive


class PartialCorrelation(Family):
    """Prior of Fisher's z κ of a (partial) correlation r, (1 − r²)^(b − 1) on r.

    Parameters
    ----------
    b : float
        Above 0; 1 is uniform. (1 + r) / 2 ~ Beta(b, b), and κ is half its logit.
    """

    on: Literal["coefficient"] = Field(default="coefficient", kw_only=True)
    b: Positive
    family: Literal["partial_correlation"] = Field(default="partial_correlation", kw_only=True)

    words: ClassVar = "of a partial correlation"
    law_of: ClassVar = ("b",)
    law: ClassVar = Law(
        # sech²ᵇ κ over its integral B(½, b)
        logpdf=lambda z, b: 2 * b * (LOG_2 - np.logaddexp(z, -z)) - special.betaln(0.5, b),
        cdf=lambda z, b: special.betainc(b, b, special.expit(2 * z)),
        quantile=lambda p, b: special.logit(special.betaincinv(b, b, p)) / 2,
        sample=lambda rng, size, b: np.arctanh(2 * rng.beta(b, b, size) - 1),
    )


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
