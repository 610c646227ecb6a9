"""Tests of scale coefficients that compare two fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from bayes_lsm.errors import FitError
from bayes_lsm.reml.fit import RemlFit
from bayes_lsm.tables import format_cells, format_table


@dataclass(frozen=True, eq=False)
class LikelihoodRatioTest:
    """A likelihood-ratio test of two nested fits.

    Attributes
    ----------
    statistic : float
        2(ℓ_full − ℓ_reduced).
    df : int
    pval : float
    table : DataFrame
        The two fits: df, AIC, BIC, AICc, logLik, LRT, pval.
    """

    statistic: float
    df: int
    pval: float
    table: pd.DataFrame

    def __str__(self) -> str:
        return format_table(self.table)

    def _repr_html_(self) -> str:
        return str(format_cells(self.table, digits=4).to_html())


def likelihood_ratio_test(full: RemlFit, reduced: RemlFit) -> LikelihoodRatioTest:
    """Compare a fit with one whose model is a special case of it.

    Parameters
    ----------
    full, reduced : RemlFit
        Of the same effects, by the same method; under REML with the same location part.

    Raises
    ------
    FitError
        When the two likelihoods cannot be compared.

    References
    ----------
    Viechtbauer & López-López (2022), doi:10.1002/jrsm.1562, section 2.3.
    """
    _check_comparable(full, reduced)
    df = full.n_parameters - reduced.n_parameters
    statistic = max(0.0, 2 * (full.loglik - reduced.loglik))
    pval = float(chdtrc(df, statistic))
    rows = [
        {
            "df": fit.n_parameters,
            "AIC": fit.aic,
            "BIC": fit.bic,
            "AICc": fit.aicc,
            "logLik": fit.loglik,
            "LRT": np.nan if fit is full else statistic,
            "pval": np.nan if fit is full else pval,
        }
        for fit in (full, reduced)
    ]
    return LikelihoodRatioTest(statistic, df, pval, pd.DataFrame(rows, index=["Full", "Reduced"]))


def _check_comparable(full: RemlFit, reduced: RemlFit) -> None:
    if full.method != reduced.method:
        raise FitError(f"cannot compare {full.method} with {reduced.method}; refit by one method")
    if not (
        np.array_equal(full.design.y, reduced.design.y)
        and np.array_equal(full.design.v, reduced.design.v)
    ):
        raise FitError(
            f"the fits are of different rows ({full.design.n_studies} and "
            f"{reduced.design.n_studies} studies); drop rows with missing moderators first"
        )
    if full.method == "REML" and not _same_space(full.design.X, reduced.design.X):
        raise FitError(
            "REML likelihoods of different location parts cannot be compared; use method='ML'"
        )
    nested = _inside(reduced.design.X, full.design.X) and _inside(reduced.design.Z, full.design.Z)
    if full.n_parameters <= reduced.n_parameters or not nested:
        raise FitError(
            "the reduced model must be a special case of the full one, with fewer coefficients; "
            "give them in the order (full, reduced) and check that the models are nested"
        )


def _inside(A: np.ndarray, B: np.ndarray) -> bool:
    """Whether the columns of A lie in the span of those of B."""
    Q = np.linalg.qr(B)[0]
    return bool(np.allclose(Q @ (Q.T @ A), A, rtol=1e-8, atol=1e-8 * np.abs(A).max()))


def _same_space(A: np.ndarray, B: np.ndarray) -> bool:
    return A.shape[1] == B.shape[1] and _inside(A, B)
