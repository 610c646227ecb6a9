"""Confidence intervals of the coefficients and correlations of several scale terms."""

from __future__ import annotations

from typing import Literal, get_args

import pandas as pd

from bayes_lsm.errors import FitError
from bayes_lsm.reml.clustered_fit import ClusteredFit
from bayes_lsm.reml.clustered_terms import Coefficient, Pair, coefficients, pairs
from bayes_lsm.reml.profile import check_level, profile
from bayes_lsm.results import wald_table

ClusteredPart = Literal["scale", "location", "correlation"]

# The grid of a profile whose interval alone is wanted.
_FEW_POINTS = 9


def clustered_intervals(
    fit: ClusteredFit, *, part: ClusteredPart, method: Literal["wald", "profile"], level: float
) -> pd.DataFrame:
    """Wald or profile-likelihood intervals of one part, or of the correlations.

    Parameters
    ----------
    fit : ClusteredFit
    part : {"scale", "location", "correlation"}
    method : {"wald", "profile"}
        Profiles are of the scale part and of correlations.
    level : float

    Returns
    -------
    DataFrame
        Columns estimate, ci_lb, ci_ub; indexed by term, or by grouping and term. A profile interval
        ends at ±inf where the likelihood does not fall below the cut-off on that side.

    Raises
    ------
    FitError
        For an unknown part or method, permutation and bootstrap intervals, a profile of the
        location part, and a level outside (0, 1).
    """
    check_level(level)
    if part not in get_args(ClusteredPart):
        raise FitError(f"part must be 'scale', 'location' or 'correlation', got {part!r}")
    if method not in ("wald", "profile"):
        raise FitError(
            f"with several scale terms method must be 'wald' or 'profile', got {method!r}; see "
            "permutation_test and bootstrap_test for tests"
        )
    if part == "location":
        if method == "profile":
            raise FitError("profile intervals are of the scale part; use method='wald' here")
        df = fit.df_location
        table = wald_table(
            fit.design.location.names, fit.beta, fit.vcov_location, level=level, df=df
        )
        return table[["estimate", "ci_lb", "ci_ub"]]
    if method == "wald":
        found = fit.scale_at(level) if part == "scale" else fit.correlations_at(level)
        return found[["estimate", "ci_lb", "ci_ub"]]
    named: list[Coefficient] | list[Pair]
    named = coefficients(fit.design) if part == "scale" else pairs(fit.design)
    rows = [profile(fit, each.label, points=_FEW_POINTS, level=level) for each in named]
    index = pd.MultiIndex.from_tuples(
        [(each.grouping, each.name) for each in named],
        names=["grouping", "term" if part == "scale" else "pair"],
    )
    values = [(row.estimate, row.lower, row.upper) for row in rows]
    return pd.DataFrame(values, columns=["estimate", "ci_lb", "ci_ub"], index=index, dtype=float)
