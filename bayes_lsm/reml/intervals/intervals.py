"""Confidence intervals of coefficients in four ways: Wald, profile, permutation and bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_choice, require_level, seed_or_new
from bayes_lsm.design.clusters import Cluster
from bayes_lsm.design.coefficients import Coefficient, Pair, coefficients, pairs
from bayes_lsm.errors import FitError
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.intervals.profile import profile
from bayes_lsm.reml.intervals.resampling import bootstrap_ends, permutation_ends
from bayes_lsm.reml.requirements import require_no_bounds
from bayes_lsm.reml.resampling import check_iterations
from bayes_lsm.reml.wald import wald_table

IntervalPart = Literal["scale", "location", "correlation"]
IntervalMethod = Literal["wald", "profile", "permutation", "bootstrap"]

# The verbs by which intervals are found, as the table of what cannot be done calls them.
_MADE_OF = {
    "profile": "profile",
    "permutation": "permutation_test",
    "bootstrap": "bootstrap_test",
}


def confidence_intervals(
    fit: Estimates,
    *,
    part: IntervalPart = "scale",
    method: IntervalMethod = "wald",
    level: float = 0.95,
    iterations: int = 1000,
    seed: int | None = None,
    cluster: Cluster | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    r"""Confidence intervals of the coefficients of one part, or of the correlations.

    - ``"wald"``: estimate ± quantile × SE, with t in place of the normal quantile if the fit's
      `test` says so. Missing where a coefficient diverges. Correlations as `RemlFit.correlations`.
    - ``"profile"``: where the profile likelihood (see `profile`) falls by half the χ² quantile;
      infinite (of a correlation, its border) where it never does. Not of the location part.
    - ``"permutation"``: the values c that a permutation test of α_j = c does not reject. For the
      scale part, ln τ² = Z_j c + Z π(α), with the permutation π of the rows of Z and Z_j c as an
      offset that stays with its study; the z of Z_j is compared with (α̂_j − c)/SE, which is its z
      in the data for every c. For the location part Z_j c becomes X_j c and is taken from the
      effects. Where effects are dependent whole clusters move, and so moderators must have one
      value in each; each permutation is refitted by one climb, from a common τ² in each scale term.
      The limits are found by bisection on c with the same permutations at every c, so that
      the p-value is a step function with few reversals. Limits of the method: under α_j = c the
      studies differ in v and in the offset, so that permutations are not exactly as likely as the
      data, and the test is approximate unless c = 0 and all v are equal; the intervals inherit the
      Monte Carlo error of 1/√iterations in the p-value. With several moderators and few studies the
      p-value can level off above 1 − level however large c; an end farther from the estimate than
      32 Wald half-widths counts as infinite. Missing for the intercept, whose column no permutation
      changes, and where a coefficient diverges. Not of correlations.
    - ``"bootstrap"``: percentiles of the estimates from effects that are simulated from the fit
      and refitted. Refits in which the coefficient diverges count as ±inf, and where a limit leaves
      it open as -inf for the lower and +inf for the upper end (of a correlation, −1 and 1).

    Parameters
    ----------
    fit : RemlFit or Estimates
    part : {"scale", "location", "correlation"}, default "scale"
    method : {"wald", "profile", "permutation", "bootstrap"}, default "wald"
    level : float, default 0.95
    iterations : int, default 1000
        Number of permutations or simulated sets.
    seed : int, optional
        For permutation and bootstrap: the same seed gives the same result.
    cluster : str or sequence of length n, optional
        What a permutation moves as a whole, the grouping of a scale term or the cluster of each
        row; by default the outermost groups, which are the rows where effects are independent.
    progress : bool, default True
        Show a progress bar on standard error when it takes more than a second or two.

    Returns
    -------
    DataFrame
        Columns estimate, ci_lb, ci_ub, in the units of the coefficients; one row a term, with
        several scale terms indexed by grouping and term. Fixed coefficients have no interval.

    Raises
    ------
    FitError
        For a level that is not between 0 and 1, an unknown part or method, correlations of a model
        that has none, a profile of the location part, permutations of correlations or of a part
        without moderators, a `cluster` of another method; and, but for Wald, a link other than log
        and bounded coefficients.

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
    require_choice("part", part, IntervalPart)
    require_choice("method", method, IntervalMethod)
    require_level(level)
    if cluster is not None and method != "permutation":
        raise FitError(f"cluster is for method='permutation', got {method!r}; leave it out")
    if part == "correlation" and not pairs(fit.design):
        raise FitError(
            "the model has no correlated effects; ask for part='location' or part='scale'"
        )
    wald = _wald(fit, part, level)
    if method == "wald":
        return wald
    require_capable(_MADE_OF[method], fit.design)
    require_no_bounds(fit, f"a {method} interval")
    if method == "profile":
        lower, upper = _profile_ends(fit, part, level)
        return wald.assign(ci_lb=lower, ci_ub=upper)
    check_iterations(iterations)
    seed = seed_or_new(seed)
    if method == "bootstrap":
        lower, upper = bootstrap_ends(fit, part, level, iterations, seed, progress)
    elif part == "correlation":
        raise FitError(
            "no permutation of clusters says anything of correlations; use method='profile' or "
            "'bootstrap'"
        )
    else:
        lower, upper = permutation_ends(fit, part, cluster, level, iterations, seed, progress)
    return wald.assign(ci_lb=lower, ci_ub=upper)


def _wald(fit: Estimates, part: IntervalPart, level: float) -> pd.DataFrame:
    if part == "location":
        names, df = fit.design.location.names, fit.df_location
        found = wald_table(names, fit.beta, fit.known_vcov_location, level=level, df=df)
    else:
        found = fit.scale_at(level) if part == "scale" else fit.correlations_at(level)
    return found[["estimate", "ci_lb", "ci_ub"]]


def _profile_ends(fit: Estimates, part: IntervalPart, level: float) -> Array:
    """Lower and upper ends, shape (2, terms)."""
    if part == "location":
        raise FitError(
            "profile intervals are of the scale part and of correlations; for the location part "
            "use method='wald', 'permutation' or 'bootstrap'"
        )
    named: Sequence[Coefficient | Pair] = (
        coefficients(fit.design) if part == "scale" else pairs(fit.design)
    )
    ends = np.full((2, len(named)), np.nan)
    for j, each in enumerate(named):
        if each.label not in fit.fixed:
            found = profile(fit, each.label, level=level)
            ends[:, j] = found.lower, found.upper
    return ends
