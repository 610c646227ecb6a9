"""Confidence intervals of the coefficients and correlations of several scale terms."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.choices import require_choice, require_level
from bayes_lsm.design.clusters import Cluster
from bayes_lsm.design.coefficients import Coefficient, Pair, coefficients, pairs
from bayes_lsm.errors import FitError
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.intervals.profile import profile
from bayes_lsm.reml.tests.bootstrap_test import check_iterations, checked_seed
from bayes_lsm.results import wald_table

Array = npt.NDArray[np.float64]
ClusteredPart = Literal["scale", "location", "correlation"]
ClusteredInterval = Literal["wald", "profile", "permutation", "bootstrap"]

# The grid of a profile whose interval alone is wanted.
_FEW_POINTS = 9


def clustered_intervals(
    fit: Estimates,
    *,
    part: ClusteredPart = "scale",
    method: ClusteredInterval = "wald",
    level: float = 0.95,
    iterations: int = 1000,
    seed: int | None = None,
    cluster: Cluster | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Intervals of one part, or of the correlations, in four ways.

    They are those of `confidence_intervals`. Permutations are of whole
    clusters, whose rows move together, and so of moderators with one value in each cluster; each is
    refitted by one climb, from a common τ² in each scale term. Bootstrap sets have the variances of
    all terms and correlated sampling errors, and each is refitted by a search.

    Parameters
    ----------
    fit : RemlFit
    part : {"scale", "location", "correlation"}
    method : {"wald", "profile", "permutation", "bootstrap"}
        Profiles are of the scale part and of correlations, permutations of the location and the
        scale part.
    level : float
    iterations : int, default 1000
        Number of permutations or simulated sets.
    seed : int, optional
        For permutation and bootstrap: the same seed gives the same result.
    cluster : str or sequence of length n, optional
        What a permutation moves as a whole, the grouping of a scale term or the cluster of each
        row; by default the outermost groups.
    progress : bool, default True
        Show a progress bar on standard error when it takes more than a second or two.

    Returns
    -------
    DataFrame
        Columns estimate, ci_lb, ci_ub; indexed by term, or by grouping and term. A profile interval
        ends at ±inf where the likelihood does not fall below the cut-off on that side.

    Raises
    ------
    FitError
        For an unknown part or method, a profile of the location part, permutations of correlations,
        of a part without moderators or of moderators that differ within clusters, a `cluster` of
        another method, and a level outside (0, 1).

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ 1", {"district": "~ 1", "district/school": "~ 1"}, variance="vi",
    ...     data=lsm.load_dataset("konstantopoulos2011")).fit_reml()
    >>> clustered_intervals(fit, method="bootstrap", iterations=20, seed=1).shape
    (2, 3)
    """
    require_level(level)
    require_choice("part", part, ClusteredPart)
    require_choice("method", method, ClusteredInterval)
    if cluster is not None and method != "permutation":
        raise FitError(f"cluster is for method='permutation', got {method!r}; leave it out")
    wald = _wald(fit, part, level)
    if method == "wald":
        return wald
    if method == "profile":
        return _profile(fit, part, level)
    from bayes_lsm.reml.intervals.clustered_resampling import bootstrap_ends, permutation_ends

    check_iterations(iterations)
    seed = checked_seed(seed)
    if method == "bootstrap":
        ends = bootstrap_ends(fit, part, level, iterations, seed, progress)
    elif part == "correlation":
        raise FitError(
            "no permutation of clusters says anything of correlations; use method='profile' or "
            "'bootstrap'"
        )
    else:
        ends = permutation_ends(fit, part, cluster, level, iterations, seed, progress)
    return wald.assign(ci_lb=ends[0], ci_ub=ends[1])


def _wald(fit: Estimates, part: ClusteredPart, level: float) -> pd.DataFrame:
    if part == "location":
        names, df = fit.design.location.names, fit.df_location
        found = wald_table(names, fit.beta, fit.known_vcov_location, level=level, df=df)
    else:
        found = fit.scale_at(level) if part == "scale" else fit.correlations_at(level)
    return found[["estimate", "ci_lb", "ci_ub"]]


def _profile(fit: Estimates, part: ClusteredPart, level: float) -> pd.DataFrame:
    if part == "location":
        raise FitError(
            "profile intervals are of the scale part and of correlations; for the location part "
            "use method='wald', 'permutation' or 'bootstrap'"
        )
    named: list[Coefficient] | list[Pair]
    named = coefficients(fit.design) if part == "scale" else pairs(fit.design)
    rows = [profile(fit, each.label, points=_FEW_POINTS, level=level) for each in named]
    index = pd.MultiIndex.from_tuples(
        [(each.grouping, each.name) for each in named],
        names=["grouping", "term" if part == "scale" else "pair"],
    )
    values = [(row.estimate, row.lower, row.upper) for row in rows]
    return pd.DataFrame(values, columns=["estimate", "ci_lb", "ci_ub"], index=index, dtype=float)
