"""Likelihood-ratio tests of two fits, of which one is a special case of the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.tests.nested_models import require_nested
from bayes_lsm.specification import Method
from bayes_lsm.tables import Tabled, format_pval


@dataclass(frozen=True, eq=False)
class LikelihoodRatioTest(Tabled):
    """A likelihood-ratio test of two nested fits.

    Attributes
    ----------
    statistic : float
        2(ℓ_full − ℓ_reduced).
    df : int
    pval : float
    table : DataFrame
        The two fits: df, AIC, BIC, AICc, logLik, LRT, pval.
    method : {"REML", "ML"}
    remarks : tuple of str
        Why χ² may not be the distribution of the statistic.
    """

    statistic: float
    df: int
    pval: float
    table: pd.DataFrame
    method: Method
    remarks: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The test in a line."""
        verdict = f"χ²(df = {self.df}) = {self.statistic:.4f}, {format_pval(self.pval)}"
        return f"Likelihood-ratio test ({self.method}): {verdict}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the p-value has to know."""
        return self.remarks


def likelihood_ratio_test(full: Estimates, reduced: Estimates) -> LikelihoodRatioTest:
    """Compare a fit with one whose model is a special case of it.

    Where a coefficient diverges, the log-likelihood is its supremum, so that the statistic exists
    all the same. Its χ² distribution is then doubtful: see `bootstrap_test`.

    Parameters
    ----------
    full, reduced : RemlFit or Estimates
        Of the same effects, by the same method; under REML with the same location part.

    Raises
    ------
    FitError
        When the two likelihoods cannot be compared.

    References
    ----------
    Viechtbauer & López-López (2022), doi:10.1002/jrsm.1562, section 2.3.
    """
    require_nested(full, reduced)
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
    table = pd.DataFrame(rows, index=pd.Index(["Full", "Reduced"], name="model"))
    return LikelihoodRatioTest(
        statistic, df, pval, table, full.method, tuple(_doubts(full, reduced))
    )


def _doubts(full: Estimates, reduced: Estimates) -> Iterator[str]:
    """What makes the χ² distribution of the statistic doubtful."""
    if full.divergence or reduced.divergence:
        yield (
            "scale coefficients run to infinity, where the statistic need not be χ²; use "
            "bootstrap_test"
        )
    elif len(full.terms) > len(reduced.terms):
        yield (
            "the reduced model has fewer scale terms, so that a variance is at its border 0 there: "
            "χ² makes the p-value too large; use bootstrap_test"
        )
    for name, fit in (("full", full), ("reduced", reduced)):
        if fit.rival is not None:
            yield (
                f"the likelihood of the {name} model has another maximum, higher by "
                f"{fit.rival_loglik - fit.loglik:.4f}, which the statistic leaves out"
            )
        if not fit.converged:
            yield f"the fit of the {name} model did not converge; do not use this test"
