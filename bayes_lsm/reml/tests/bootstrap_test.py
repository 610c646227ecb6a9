"""Parametric bootstrap of a likelihood ratio: simulate from the smaller model, refit both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import seed_or_new
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.requirements import require_no_bounds
from bayes_lsm.reml.resampling import (
    TIED,
    batches,
    check_iterations,
    log_tau2_of,
    simulate,
)
from bayes_lsm.reml.search.refitter import refitter_of
from bayes_lsm.reml.tests.likelihood_ratio_test import likelihood_ratio_test
from bayes_lsm.reml.tests.nested_models import require_nested
from bayes_lsm.tables import Tabled, format_pval


@dataclass(frozen=True, eq=False)
class BootstrapTest(Tabled):
    """A likelihood-ratio test whose null distribution is simulated.

    Attributes
    ----------
    statistic : float
        2(ℓ_full − ℓ_reduced) of the data.
    df : int
    pval : float
        (1 + number of simulated statistics at least as large) / (1 + iterations).
    pval_chi2 : float
        What the χ² approximation says.
    null : ndarray, shape (iterations,)
        The simulated statistics; inf where a refit failed, so that the test errs on the safe side.
    failed : int
        Simulated sets of which a refit did not converge.
    iterations, seed : int
    table : DataFrame
        The two fits: df, AIC, BIC, AICc, logLik, LRT, pval.
    """

    statistic: float
    df: int
    pval: float
    pval_chi2: float
    null: Array
    failed: int
    iterations: int
    seed: int
    table: pd.DataFrame

    @property
    def mc_se(self) -> float:
        """Monte Carlo standard error of the p-value."""
        return math.sqrt(self.pval * (1 - self.pval) / self.iterations)

    @property
    def title(self) -> str:
        """The test in a line."""
        return f"Parametric-bootstrap likelihood-ratio test: {format_pval(self.pval)}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the p-value comes from, and what the refits were like."""
        found = [
            f"{self.iterations} sets of effects from the reduced model (seed {self.seed}), Monte "
            f"Carlo SE of the p-value {self.mc_se:.4f}",
            f"the approximation χ²(df = {self.df}) would give {format_pval(self.pval_chi2)}",
        ]
        if self.failed:
            found.append(f"{self.failed} refits did not converge and count against the full model")
        return tuple(found)


def bootstrap_test(
    full: Estimates,
    reduced: Estimates,
    *,
    iterations: int = 1000,
    seed: int | None = None,
    progress: bool = True,
) -> BootstrapTest:
    """Likelihood-ratio test with a simulated null distribution: the parametric bootstrap.

    Effects are simulated from the reduced fit, y* ~ Normal(Xβ̂, Σ̂), and both models are fitted to
    each set: independent effects by ascents from several starts, others by a search with fewer
    starts than that of the data. Unlike the χ² distribution this needs no large number of studies,
    and holds where τ² can be 0 or a coefficient diverges: then the log-likelihood is its supremum,
    in the data and in the simulated sets alike. What a fit holds fixed stays so in every set.

    Parameters
    ----------
    full, reduced : RemlFit or Estimates
        Of the same effects, by the same method; under REML with the same location part.
    iterations : int, default 1000
    seed : int, optional
        The same seed gives the same result; by default a new one, which the result keeps.
    progress : bool, default True
        Show a progress bar on standard error when it takes more than a second or two.

    Returns
    -------
    BootstrapTest

    Raises
    ------
    FitError
        When the two likelihoods cannot be compared, for a link other than log, and for coefficients
        at a bound.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> bcg = lsm.load_dataset("bcg")
    >>> full, reduced = (
    ...     lsm.LocationScaleModel("yi ~ 1", scale=scale, variance="vi", data=bcg).fit_reml()
    ...     for scale in ("~ ablat", "~ 1"))
    >>> test = bootstrap_test(full, reduced, iterations=200, seed=1)
    >>> len(test.null)
    200

    References
    ----------
    Davison, A. C., & Hinkley, D. V. (1997). Bootstrap Methods and their Application, section 4.2.
    Cambridge University Press. doi:10.1017/CBO9780511802843
    """
    require_nested(full, reduced)
    for fit in (full, reduced):
        require_capable("bootstrap_test", fit.design)
        require_no_bounds(fit, "a bootstrap test")
    check_iterations(iterations)
    seed = seed_or_new(seed)
    observed = likelihood_ratio_test(full, reduced)
    null = _null(full, reduced, iterations, np.random.default_rng(seed), progress)
    extreme = int(np.sum(null >= observed.statistic - TIED))
    return BootstrapTest(
        statistic=observed.statistic,
        df=observed.df,
        pval=(1 + extreme) / (1 + iterations),
        pval_chi2=observed.pval,
        null=null,
        failed=int(np.isinf(null).sum()),
        iterations=iterations,
        seed=seed,
        table=observed.table,
    )


def _null(
    full: Estimates, reduced: Estimates, iterations: int, rng: np.random.Generator, progress: bool
) -> Array:
    """Statistics of sets of effects from the reduced fit; inf where a refit failed."""
    larger, smaller = refitter_of(full), refitter_of(reduced)
    known, null = log_tau2_of(reduced), np.empty(iterations)
    work = max(larger.work, smaller.work)
    for batch in batches(iterations, work, "Refitting simulated effects", progress=progress):
        Y = simulate(reduced, batch.stop - batch.start, rng)
        below = smaller.effects(Y, [known])
        above = larger.effects(Y, [known, below.log_tau2])
        fine = above.converged & below.converged
        statistic = 2 * (np.where(fine, above.value, 0.0) - np.where(fine, below.value, 0.0))
        null[batch] = np.where(fine, np.maximum(0.0, statistic), np.inf)
    return null
