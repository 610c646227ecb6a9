"""Tests that every fit prints: Wald tests, of coefficients and of moderators, and Cochran's Q."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import chdtrc, fdtrc, ndtr, ndtri, stdtr, stdtrit

from bayes_lsm.arrays import Array
from bayes_lsm.capabilities import require_capable
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.likelihood import likelihood_of


@dataclass(frozen=True)
class ChiSquareTest:
    """A test statistic that is χ² under its null hypothesis; it unpacks as a tuple."""

    statistic: float
    df: int
    pval: float

    def __iter__(self) -> Iterator[float]:
        return iter((self.statistic, self.df, self.pval))


@dataclass(frozen=True)
class FTest:
    """A test statistic that is F under its null hypothesis; it unpacks as a tuple."""

    statistic: float
    df: int
    df2: int
    pval: float

    def __iter__(self) -> Iterator[float]:
        return iter((self.statistic, self.df, self.df2, self.pval))


def wald_columns(
    estimate: Array, se: Array, df: Array | int | None, *, level: float = 0.95
) -> dict[str, Array]:
    """Wald tests and intervals: estimate, se, zval, pval, ci_lb, ci_ub.

    With degrees of freedom tval and df in place of zval. There is neither test nor interval of what
    has no finite estimate.
    """
    finite = np.where(np.isfinite(estimate), estimate, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = finite / se
    if df is None:
        test, pval = {"zval": ratio}, 2 * ndtr(-np.abs(ratio))
        half = ndtri(0.5 + level / 2) * se
    else:
        test, pval = {"tval": ratio, "df": np.full(len(ratio), df)}, 2 * stdtr(df, -np.abs(ratio))
        half = stdtrit(df, 0.5 + level / 2) * se
    bounds = {"ci_lb": finite - half, "ci_ub": finite + half}
    return {"estimate": estimate, "se": se, **test, "pval": pval, **bounds}


def wald_table(
    names: Sequence[str],
    estimate: Array,
    covariance: Array,
    *,
    level: float = 0.95,
    df: Array | int | None = None,
) -> pd.DataFrame:
    """The columns of `wald_columns`, one row a term."""
    variances = np.diag(covariance)
    se = np.sqrt(np.where((variances >= 0) & np.isfinite(estimate), variances, np.nan))
    columns = wald_columns(estimate, se, df, level=level)
    return pd.DataFrame(columns, index=pd.Index(names, name="term"))


def omnibus(
    names: Sequence[str], estimate: Array, covariance: Array, df: int | None
) -> ChiSquareTest | FTest:
    """Wald test of all but the intercept (of that, when it is alone); nan where one diverges."""
    tested = [j for j, name in enumerate(names) if name != "intrcpt"] or [0]
    return joint_test(estimate[tested], covariance[np.ix_(tested, tested)], df)


def joint_test(b: Array, V: Array, df: int | None) -> ChiSquareTest | FTest:
    """Wald test that estimates b with the covariance V are all 0; nan where one is not finite."""
    statistic = math.nan
    if np.isfinite(b).all() and np.isfinite(V).all():
        statistic = float(b @ np.linalg.solve(V, b))
    if df is None:
        return ChiSquareTest(statistic, len(b), float(chdtrc(len(b), statistic)))
    ratio = statistic / len(b)
    return FTest(ratio, len(b), df, float(fdtrc(len(b), df, ratio)))


def cochran_q(design: Design) -> ChiSquareTest:
    """Weighted residual sum of squares with weights V⁻¹: the test of (residual) heterogeneity.

    A FitError for individual data, which have no sampling variances.
    """
    require_capable("cochran_q", design)
    white = (
        likelihood_of(design).sampling_covariance().whiten(np.column_stack([design.X, design.y]))
    )
    Q, _ = np.linalg.qr(white[:, :-1])
    residuals = white[:, -1] - Q @ (Q.T @ white[:, -1])
    df = len(design.y) - design.X.shape[1]
    statistic = float(residuals @ residuals)
    return ChiSquareTest(statistic, df, float(chdtrc(df, statistic)))
