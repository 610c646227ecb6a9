"""Parametric bootstrap: simulate from a fit, refit, and see how the estimates and tests vary.

Every simulated set is refitted by compiled ascents from several starts, so that its maximum is the
highest one as often as that of the data is. Where a maximum lies at infinity an ascent ends on the
flat way there, at the supremum up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.rows.closed_form import estimate_location
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search.surface import Surface
from bayes_lsm.reml.tests.batch import climb_highest
from bayes_lsm.reml.tests.wald_and_ratio import (
    AnyFit,
    check_nested,
    format_pval,
    likelihood_ratio_test,
    require_free_log_link,
)
from bayes_lsm.specification import Method
from bayes_lsm.tables import Printable

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Two statistics nearer than this are equal: the accuracy of an ascent, and not a difference.
TIED = 1e-6
# Studies × fits in one batch: about a second's work and 100 MB.
_BATCH = 1_000_000
# Slopes of the extra starts, in ln τ² for each SD of a moderator.
_STEEP = 3.0


@dataclass(frozen=True, eq=False)
class Refits:
    """Highest points of the log-likelihoods of m simulated sets of effects.

    Attributes
    ----------
    value : ndarray, shape (m,)
        The log-likelihood.
    alpha : ndarray, shape (m, q)
        In the coordinates of the design.
    information : ndarray, shape (m, q, q)
        −H in coordinates in which the columns of Z are orthogonal with mean square 1.
    beta : ndarray, shape (m, p)
    converged : ndarray of bool, shape (m,)
    log_tau2 : ndarray, shape (m, n)
    """

    value: Array
    alpha: Array
    information: Array
    beta: Array
    converged: Mask
    log_tau2: Array


class Refitter:
    """Fits of one design to other effects.

    Parameters
    ----------
    v : ndarray, shape (n,)
    X : ndarray, shape (n, p)
    Z : ndarray, shape (n, q)
    method : {"REML", "ML"}
    """

    def __init__(self, v: Array, X: Array, Z: Array, method: Method) -> None:
        self._surface = Surface(np.zeros_like(v), v, X, Z, method)
        self._v, self._X, self._Z = v, X, self._surface.rotated_Z

    def refit(self, Y: Array, log_tau2: Array, *more: Array) -> Refits:
        """Fit each row of Y (m, n).

        `log_tau2` (n,) or (m, n), and what follows, are further places to start from.
        """
        best = climb_highest(
            self._starts(Y, log_tau2, *more), self._surface.problem, effects=np.ascontiguousarray(Y)
        )
        return Refits(
            value=best.value + self._surface.constant,
            alpha=best.alpha @ self._surface.back.T,
            information=-best.hessian,
            beta=best.beta,
            converged=best.converged & np.isfinite(best.value),
            log_tau2=best.alpha @ self._Z.T,
        )

    def _starts(self, Y: Array, *log_tau2: Array) -> Iterator[Array]:
        """Starting points (m, q), or (q,) for all: moments, residuals, what is known, slopes."""
        v, n = self._v, len(self._v)
        Q = estimate_location(v, v + np.mean(v), self._X).basis
        root = np.sqrt(v + np.mean(v))
        residuals = Y - (Y / root @ Q) @ Q.T * root
        spread = n / max(1, n - Q.shape[1]) * np.mean(residuals**2 - v, axis=1)
        common = np.log(np.maximum(spread, 0.05 * np.median(v)))
        level = np.mean(self._Z, axis=0)  # the coefficients that come nearest to ln τ² = 1
        yield common[:, None] * level
        yield (common - math.log(10.0))[:, None] * level
        yield np.log(np.maximum(residuals**2 - v, 0.05 * v)) @ self._Z / n
        for known in log_tau2:
            yield np.maximum(known, np.log(1e-3 * v)) @ self._Z / n
        for j in range(1, self._Z.shape[1]):
            for slope in (-_STEEP, _STEEP):
                yield common[:, None] * level + slope * np.eye(len(level))[j]


@dataclass(frozen=True, eq=False)
class BootstrapTest(Printable):
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

    def to_dataframe(self) -> pd.DataFrame:
        """The two fits."""
        return self.table.copy()


def bootstrap_test(
    full: AnyFit,
    reduced: AnyFit,
    *,
    iterations: int = 1000,
    seed: int | None = None,
    progress: bool = True,
) -> BootstrapTest:
    """Likelihood-ratio test with a simulated null distribution: the parametric bootstrap.

    Effects are simulated from the reduced fit, y* ~ Normal(Xβ̂, v + τ̂²), and both models are fitted
    to each set. Unlike the χ² distribution this needs no large number of studies, and holds where
    τ² can be 0 or a coefficient diverges: then the log-likelihood is its supremum, in the data and
    in the simulated sets alike.

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
        When the two likelihoods cannot be compared, for a link other than log, and for fixed or
        bounded coefficients.

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
    check_nested(full, reduced)
    for fit in (full, reduced):
        if fit.design.is_independent:
            require_free_log_link(fit, "a bootstrap test")
    check_iterations(iterations)
    seed = checked_seed(seed)
    observed = likelihood_ratio_test(full, reduced)
    rng = np.random.default_rng(seed)
    if full.design.is_independent and reduced.design.is_independent:
        null = _null(full, reduced, iterations, rng, progress)
    else:
        from bayes_lsm.reml.tests.clustered_bootstrap import clustered_null

        null = clustered_null(full, reduced, iterations, rng, progress)
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
    refitters = [
        Refitter(fit.design.v, fit.design.X, fit.design.Z, fit.method) for fit in (full, reduced)
    ]
    known = log_tau2_of(reduced)
    null = np.empty(iterations)
    work = reduced.design.n_studies * (12 + 4 * full.design.Z.shape[1])
    for batch in batches(iterations, work, "Refitting simulated effects", progress=progress):
        Y = simulate(reduced, batch.stop - batch.start, rng)
        below = refitters[1].refit(Y, known)
        above = refitters[0].refit(Y, known, below.log_tau2)
        statistic = 2 * np.maximum(0.0, above.value - below.value)
        null[batch] = np.where(above.converged & below.converged, statistic, np.inf)
    return null


def simulate(fit: Estimates, sets: int, rng: np.random.Generator) -> Array:
    """Sets of effects from a fit, shape (sets, n): Normal(Xβ̂, v + τ̂²)."""
    design = fit.design
    noise = rng.normal(size=(sets, design.n_studies))
    return np.asarray(design.X @ fit.beta + noise * np.sqrt(design.v + fit.tau2))


def log_tau2_of(fit: Estimates) -> Array:
    """ln τ² of each study (n,); where τ² is 0, that of next to nothing."""
    return np.log(np.maximum(fit.tau2, 1e-12 * fit.design.v))


def checked_seed(seed: int | None) -> int:
    """The seed that is used: the given one, or a new one."""
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    return seed


def check_iterations(iterations: int) -> None:
    """Refuse fewer than two."""
    if isinstance(iterations, bool) or not isinstance(iterations, int | np.integer):
        raise FitError(f"iterations must be a whole number, got {iterations!r}")
    if iterations < 2:
        raise FitError(f"iterations must be at least 2, got {iterations}; take 1000 or more")


def batches(total: int, work: int, words: str, *, progress: bool) -> Iterator[slice]:
    """Slices of `total` fits, each fit some `work`; a progress bar, if there are several."""
    size = max(1, _BATCH // work)
    slices = [slice(i, min(i + size, total)) for i in range(0, total, size)]
    if not progress or len(slices) < 3:
        yield from slices
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(slices, description=words, console=Console(stderr=True), transient=True)
