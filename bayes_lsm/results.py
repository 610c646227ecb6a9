"""What every fit can do, whoever made it: tables that print like a statistician's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import norm

from bayes_lsm.design import Design

Array = npt.NDArray[np.float64]


class Fit(Protocol):
    """A fitted location-scale model."""

    @property
    def design(self) -> Design:
        """The numbers that were fitted."""

    @property
    def location(self) -> pd.DataFrame:
        """Location coefficients, one row a term."""

    @property
    def scale(self) -> pd.DataFrame:
        """Scale coefficients, those of ln τ², one row a term."""

    def to_dataframe(self) -> pd.DataFrame:
        """Both tables as one, indexed by part and term."""


def stack_parts(location: pd.DataFrame, scale: pd.DataFrame) -> pd.DataFrame:
    """Location and scale tables as one, indexed by part and term."""
    return pd.concat({"location": location, "scale": scale}, names=["part", "term"])


def wald_table(
    names: Sequence[str], estimate: Array, covariance: Array, *, level: float = 0.95
) -> pd.DataFrame:
    """Estimates with Wald tests: columns estimate, se, zval, pval, ci_lb, ci_ub; one row a term."""
    se = np.sqrt(np.diag(covariance))
    finite = np.isfinite(estimate)
    z = np.divide(estimate, se, out=np.full(len(se), np.nan), where=finite)
    half = norm.ppf(0.5 + level / 2) * se
    bounds = np.where(finite, estimate, np.nan)
    return pd.DataFrame(
        {
            "estimate": estimate,
            "se": np.where(finite, se, np.nan),
            "zval": z,
            "pval": 2 * norm.sf(np.abs(z)),
            "ci_lb": bounds - half,
            "ci_ub": bounds + half,
        },
        index=pd.Index(names, name="term"),
    )


def format_table(table: pd.DataFrame, *, digits: int = 4) -> str:
    """A table of numbers as text: fixed digits, small p-values as ``<.0001``, ``.`` for missing."""
    smallest = 10.0**-digits

    def text(column: str, value: object) -> str:
        if not isinstance(value, int | float | np.number):
            return str(value)
        if np.isnan(value):
            return "."
        if column == "pval" and value < smallest:
            return f"<{smallest:.{digits}f}".replace("0.", ".")
        if isinstance(value, int | np.integer):
            return str(value)
        return f"{value:.{digits}f}"

    texts = pd.DataFrame(
        {column: [text(str(column), value) for value in table[column]] for column in table},
        index=table.index.rename(None),
    )
    return texts.to_string(line_width=10_000)
