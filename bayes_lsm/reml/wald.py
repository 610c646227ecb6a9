"""Test statistics that every fit prints: Wald tests of moderators, and Cochran's Q."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, fdtrc

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


def omnibus(
    names: Sequence[str], estimate: Array, covariance: Array, df: int | None
) -> ChiSquareTest | FTest:
    """Wald test of all but the intercept (of that, when it is alone); nan where one diverges."""
    tested = [j for j, name in enumerate(names) if name != "intrcpt"] or [0]
    b, V = estimate[tested], covariance[np.ix_(tested, tested)]
    statistic = math.nan
    if np.isfinite(b).all() and np.isfinite(V).all():
        statistic = float(b @ np.linalg.solve(V, b))
    if df is None:
        return ChiSquareTest(statistic, len(tested), float(chdtrc(len(tested), statistic)))
    ratio = statistic / len(tested)
    return FTest(ratio, len(tested), df, float(fdtrc(len(tested), df, ratio)))


def cochran_q(design: Design) -> ChiSquareTest:
    """Weighted residual sum of squares with weights V⁻¹: the test of (residual) heterogeneity.

    Raises
    ------
    FitError
        For individual data, which have no sampling variances.
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
