"""What a standardised estimate is held against: the normal distribution, or Student's t."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, ndtr, ndtri, stdtr, stdtrit

from bayes_lsm.arrays import Array


@dataclass(frozen=True)
class Reference:
    """Normal, or t with `df` degrees of freedom, such as `Estimates.df_location`.

    Examples
    --------
    >>> round(Reference(None).quantile(0.975), 3), round(Reference(10).quantile(0.975), 3)
    (1.96, 2.228)
    """

    df: int | None

    def quantile(self, probability: float) -> float:
        """Its quantile."""
        return float(ndtri(probability) if self.df is None else stdtrit(self.df, probability))

    def cdf(self, x: Array) -> Array:
        """Its distribution function."""
        return np.asarray(ndtr(x) if self.df is None else stdtr(self.df, x))

    def density(self, x: Array) -> Array:
        """Its density."""
        if self.df is None:
            return np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
        df = self.df
        constant = math.exp(gammaln((df + 1) / 2) - gammaln(df / 2)) / math.sqrt(df * math.pi)
        return np.asarray(constant * (1 + x**2 / df) ** (-(df + 1) / 2))
