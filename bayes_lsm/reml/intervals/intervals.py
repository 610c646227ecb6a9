"""Confidence intervals of coefficients in four ways: Wald, profile, permutation and bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

from bayes_lsm.choices import require_choice, require_level
from bayes_lsm.design.clusters import Cluster
from bayes_lsm.errors import FitError
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.intervals.profile import profile
from bayes_lsm.reml.search.divergence import Cone
from bayes_lsm.reml.search.surface import Surface
from bayes_lsm.reml.tests.batch import climb_highest
from bayes_lsm.reml.tests.bootstrap_test import (
    Refits,
    Refitter,
    batches,
    check_iterations,
    checked_seed,
    log_tau2_of,
    simulate,
)
from bayes_lsm.reml.tests.permutation_test import (
    PermutedFits,
    Shuffler,
    common_start,
    is_diverging,
    share_at_least,
)
from bayes_lsm.reml.tests.wald_and_ratio import PartName, require_free_log_link, term_columns
from bayes_lsm.results import wald_table

Array = npt.NDArray[np.float64]
Orders = npt.NDArray[np.intp]
IntervalMethod = Literal["wald", "profile", "permutation", "bootstrap"]

# τ²/v of a study that has lost its τ² when a refit has run towards infinity.
_VANISHED = 1e-6
# Doublings of the distance from the estimate before a permutation interval is called infinite, and
# halvings to find its end: 2^-12 of the last doubling is far below the Monte Carlo error.
_DOUBLINGS = 5
_HALVINGS = 12


def confidence_intervals(
    fit: Estimates,
    *,
    part: PartName = "scale",
    method: IntervalMethod = "wald",
    level: float = 0.95,
    iterations: int = 1000,
    seed: int | None = None,
    cluster: Cluster | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    r"""Confidence intervals of the coefficients of one part.

    - ``"wald"``: estimate ± quantile × SE, with t in place of the normal quantile if the fit's
      `test` says so. Missing where a coefficient diverges.
    - ``"profile"``: where the profile likelihood (see `profile`) falls by half the χ² quantile;
      infinite where it never does. Scale part only.
    - ``"permutation"``: the values c that a permutation test of α_j = c does not reject. For the
      scale part, ln τ² = Z_j c + Z π(α), with the permutation π of the rows of Z and Z_j c as an
      offset that stays with its study; the z of Z_j is compared with (α̂_j − c)/SE, which is its z
      in the data for every c. For the location part Z_j c becomes X_j c and is taken from the
      effects. The limits are found by bisection on c with the same permutations at every c, so that
      the p-value is a step function with few reversals. Limits of the method: under α_j = c the
      studies differ in v and in the offset, so that permutations are not exactly as likely as the
      data, and the test is approximate unless c = 0 and all v are equal; the intervals inherit the
      Monte Carlo error of 1/√iterations in the p-value. With several moderators and few studies the
      p-value can level off above 1 − level however large c; an end farther from the estimate than
      32 Wald half-widths counts as infinite. Missing for the intercept, whose column no permutation
      changes, and where a coefficient diverges.
    - ``"bootstrap"``: percentiles of the estimates from effects that are simulated from the fit
      and refitted. Refits in which the coefficient diverges count as ±inf, and where a limit leaves
      it open as -inf for the lower and +inf for the upper end.

    Parameters
    ----------
    fit : RemlFit
    part : {"scale", "location"}, default "scale"
    method : {"wald", "profile", "permutation", "bootstrap"}, default "wald"
    level : float, default 0.95
    iterations : int, default 1000
        Number of permutations or simulated sets.
    seed : int, optional
        For permutation and bootstrap: the same seed gives the same result.
    progress : bool, default True
        Show a progress bar on standard error when it takes more than a second or two.

    Returns
    -------
    DataFrame
        Columns estimate, ci_lb, ci_ub, in the units of the coefficients; one row a term.

    Raises
    ------
    FitError
        For a level that is not between 0 and 1, an unknown method, a profile of the location part,
        permutations of a part without moderators; and, but for Wald, a link other than log and
        fixed or bounded coefficients.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ weeks", scale="~ 1", variance="vi", data=lsm.load_dataset("raudenbush1985")
    ... ).fit_reml()
    >>> confidence_intervals(fit, method="profile").loc["intrcpt"].round(2).to_list()
    [-4.49, -inf, -2.64]

    References
    ----------
    Garthwaite, P. H. (1996). Confidence intervals from randomization tests. Biometrics, 52(4),
    1387-1393. doi:10.2307/2532852
    """
    if not fit.design.is_independent:
        from bayes_lsm.reml.intervals.clustered_intervals import clustered_intervals

        return clustered_intervals(
            fit,
            part=part,
            method=method,
            level=level,
            iterations=iterations,
            seed=seed,
            cluster=cluster,
            progress=progress,
        )
    require_choice("part", part, PartName)
    require_choice("method", method, IntervalMethod)
    require_level(level)
    if method == "wald":
        return _wald(fit, part, level)
    require_free_log_link(fit, f"a {method} interval")
    if method == "profile":
        return _profile(fit, part, level)
    check_iterations(iterations)
    rng = np.random.default_rng(checked_seed(seed))
    if method == "bootstrap":
        return _bootstrap(fit, part, level, iterations, rng, progress)
    return _permutation(fit, part, level, iterations, rng, progress)


def _table(fit: Estimates, part: PartName, lower: Array, upper: Array) -> pd.DataFrame:
    names = getattr(fit.design, part).names
    estimate = fit.beta if part == "location" else fit.alpha
    return pd.DataFrame(
        {"estimate": estimate, "ci_lb": lower, "ci_ub": upper}, index=pd.Index(names, name="term")
    )


def _wald(fit: Estimates, part: PartName, level: float) -> pd.DataFrame:
    names = getattr(fit.design, part).names
    estimate, covariance = (
        (fit.beta, fit.known_vcov_location) if part == "location" else (fit.alpha, fit.vcov_scale)
    )
    df = None if fit.test == "z" else fit.design.n_studies - len(names)
    table = wald_table(names, estimate, covariance, level=level, df=df)
    return table[["estimate", "ci_lb", "ci_ub"]]


def _profile(fit: Estimates, part: PartName, level: float) -> pd.DataFrame:
    if part == "location":
        raise FitError(
            "profile intervals are of scale coefficients; for the location part use method='wald', "
            "'permutation' or 'bootstrap'"
        )
    found = [profile(fit, term, level=level) for term in fit.design.scale.names]
    lower, upper = (np.array([getattr(each, end) for each in found]) for end in ("lower", "upper"))
    return _table(fit, part, lower, upper)


def _bootstrap(
    fit: Estimates,
    part: PartName,
    level: float,
    iterations: int,
    rng: np.random.Generator,
    progress: bool,
) -> pd.DataFrame:
    design = fit.design
    refitter = Refitter(design.v, design.X, design.Z, fit.method)
    known = log_tau2_of(fit)
    low: list[Array] = []
    high: list[Array] = []
    signs = _Signs(design.Z)
    work = design.n_studies * (5 + 2 * design.Z.shape[1])
    for batch in batches(iterations, work, "Refitting simulated effects", progress=progress):
        refits = refitter.refit(simulate(fit, batch.stop - batch.start, rng), known)
        ends = (refits.beta, refits.beta)
        if part == "scale":
            ends = signs.ends(refits, design.v)
        failed = ~refits.converged[:, None]
        low.append(np.where(failed, -np.inf, ends[0]))
        high.append(np.where(failed, np.inf, ends[1]))
    tail = (1 - level) / 2
    # A quantile that is one of the estimates: between an infinite one and another lies nothing.
    lower = np.quantile(np.vstack(low), tail, axis=0, method="inverted_cdf")
    upper = np.quantile(np.vstack(high), 1 - tail, axis=0, method="inverted_cdf")
    return _table(fit, part, lower, upper)


class _Signs:
    """Where the coefficients of refits that diverge have gone."""

    def __init__(self, Z: Array) -> None:
        self._cone = Cone(Z)
        self._seen: dict[bytes, dict[int, float]] = {}

    def ends(self, refits: Refits, v: Array) -> tuple[Array, Array]:
        """The least and the greatest that each α (m, q) may be."""
        low, high = refits.alpha.copy(), refits.alpha.copy()
        diverging = is_diverging(refits.information)
        gone = refits.log_tau2 < np.log(_VANISHED * v)
        for i in np.flatnonzero(diverging):
            for j, sign in self._of(gone[i]).items():
                low[i, j] = -np.inf if math.isnan(sign) else sign
                high[i, j] = np.inf if math.isnan(sign) else sign
        return low, high

    def _of(self, gone: npt.NDArray[np.bool_]) -> dict[int, float]:
        key = gone.tobytes()
        if key not in self._seen:
            limit = self._cone.limit(~gone)
            self._seen[key] = {} if limit is None else self._cone.signs(limit.zero)[0]
        return self._seen[key]


def _permutation(
    fit: Estimates,
    part: PartName,
    level: float,
    iterations: int,
    rng: np.random.Generator,
    progress: bool,
) -> pd.DataFrame:
    n = fit.design.n_studies
    inverter = _Inverter(
        fit, part, rng.permuted(np.tile(np.arange(n), (iterations - 1, 1)), axis=1)
    )
    names = getattr(fit.design, part).names
    tested = term_columns(part, names)
    ends = np.full((2, len(names)), np.nan)
    jobs = [(j, side) for j in tested for side in (0, 1)]
    # One evaluation of the p-value is `iterations` fits, and each end takes about a dozen.
    for batch in batches(
        len(jobs), n * iterations * _HALVINGS, "Inverting permutation tests", progress=progress
    ):
        for j, side in jobs[batch]:
            ends[side, j] = inverter.end(j, -1 if side == 0 else 1, level)
    return _table(fit, part, ends[0], ends[1])


def end_of_acceptance(
    pval: Callable[[float], float], estimate: float, half: float, level: float
) -> float:
    """Where the p-value of c falls below 1 − level, by doubling and bisection.

    `half` is the half-width of a Wald interval, negative for the lower end. The end is ±inf if p
    does not fall within 32 of them, and nan if there is none.
    """
    if not math.isfinite(half):
        return math.nan
    inside = outside = estimate
    for doubling in range(_DOUBLINGS + 1):
        outside = estimate + half * 2.0**doubling
        if pval(outside) < 1 - level:
            break
        inside = outside
    else:
        return math.copysign(math.inf, half)
    for _ in range(_HALVINGS):
        middle = 0.5 * (inside + outside)
        if pval(middle) < 1 - level:
            outside = middle
        else:
            inside = middle
    return 0.5 * (inside + outside)


class _Inverter:
    """p-values of α_j = c (or β_j = c) by the same permutations at every c."""

    def __init__(self, fit: Estimates, part: PartName, orders: Orders) -> None:
        Shuffler(fit, part)  # refuses a part without moderators
        self._part, self._orders = part, orders
        design = fit.design
        self._design = design
        self._surface = Surface(design.y, design.v, design.X, design.Z, fit.method)
        table = _wald(fit, part, 0.95)
        self._estimate = table["estimate"].to_numpy()
        self._half = (table["ci_ub"] - table["ci_lb"]).to_numpy() / 2
        self._se = self._half / float(ndtri(0.975))

    def end(self, j: int, side: int, level: float) -> float:
        """Where the p-value of α_j = c falls below 1 − level; ±inf if it never does."""
        estimate, half = float(self._estimate[j]), float(self._half[j])
        return end_of_acceptance(partial(self.pval, j), estimate, side * half, level)

    def pval(self, j: int, c: float) -> float:
        """The permutation p-value of the value c, the data as they are among the permutations."""
        z = (self._estimate[j] - c) / self._se[j]
        null = np.abs(self._refit(j, c).statistics(self._part, [j])[0][:, j])
        return share_at_least(np.append(null, abs(z)), abs(z))

    def _refit(self, j: int, c: float) -> PermutedFits:
        """Fit every permutation with the coefficient shifted by c."""
        design, problem = self._design, self._surface.problem
        Z, y, offset = self._surface.rotated_Z, design.y, np.zeros(design.n_studies)
        if self._part == "location":
            y = y - c * design.X[:, j]
        else:
            offset = c * design.Z[:, j]
        start = common_start(y, design.v, design.X, Z) - Z.T @ offset / len(y)
        shifted = problem._replace(y=y, offset=offset)
        summits = climb_highest([start], shifted, orders=self._orders, part=self._part)
        return PermutedFits.of(summits, self._surface.back)
