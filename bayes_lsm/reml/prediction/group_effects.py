"""Predicted effects of the groups of every scale term: deviations from x'β̂."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from bayes_lsm.choices import require_level
from bayes_lsm.likelihood.blocks.covariance import loadings, stack_covariances
from bayes_lsm.predictions import GroupEffects, index_of_effects
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.reference import Reference
from bayes_lsm.results import model_title

Array = npt.NDArray[np.float64]


def group_effects(fit: Estimates, *, level: float = 0.95) -> GroupEffects:
    """Best linear unbiased predictions of the effects of all groups.

    With u ~ Normal(0, D) and P = Σ⁻¹ − Σ⁻¹X(X'Σ⁻¹X)⁻¹X'Σ⁻¹, û = D A'P y, and the errors û − u have
    the covariance D − D A'PA D: that of β̂ is in it, that of the variances is not. Where the effects
    are independent the groups are the studies, and this is metafor's ``ranef()``.

    Parameters
    ----------
    fit : RemlFit
    level : float, default 0.95
        Of the intervals.

    Returns
    -------
    GroupEffects
        Columns estimate, se, pi_lb, pi_ub, of the effects themselves: deviations from x'β. One row
        a study, or group; indexed by the effect as well where a group has several, and by the
        grouping where there are several scale terms. nan where the data say nothing of their
        variance.

    Raises
    ------
    FitError
        For a level outside (0, 1).

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_reml()
    >>> group_effects(fit).table["estimate"].iloc[:2].round(3).to_list()
    [-0.2, -0.088]

    References
    ----------
    Robinson, G. K. (1991). That BLUP is a good thing: the estimation of random effects. Statistical
    Science, 6(1), 15-32. doi:10.1214/ss/1177011926
    """
    require_level(level)
    design, covariance = fit.design, fit.covariance
    D = covariance_of_effects(fit)
    shared = sparse.csr_array(loadings(design) @ D)
    # An effect that no row has is what it was before the data.
    estimate = shared.T @ covariance.solve(design.y - design.X @ fit.beta)
    pull = shared.T @ covariance.solve(design.X)
    variance = D.diagonal() - covariance.explained(shared)
    variance += np.einsum("ij,jk,ik->i", pull, fit.vcov_location, pull)
    known = np.concatenate([each.is_known.ravel() for each in fit.terms.values()])
    estimate, variance = np.where(known, [estimate, variance], np.nan)
    table = interval_table(fit, estimate, np.sqrt(np.maximum(variance, 0.0)), level)
    title = f"Effects of the groups of a {model_title(design, how(fit, level))}"
    index = index_of_effects(design, [np.ones_like(each.used) for each in design.terms])
    return GroupEffects(title, table.set_axis(index), fit.notes, level)


def how(fit: Estimates, level: float) -> str:
    """The method and the level, for a title."""
    return f"{fit.label}; {100 * level:g}% intervals"


def covariance_of_effects(fit: Estimates) -> sparse.csr_array:
    """D (m, m) of the effects of all groups as it was estimated, terms beside each other."""
    terms = fit.terms.values()
    return stack_covariances(
        [each.tau2 for each in terms], [np.nan_to_num(each.correlation) for each in terms]
    )


def interval_table(fit: Estimates, estimate: Array, se: Array, level: float) -> pd.DataFrame:
    """Predictions with their intervals: estimate, se, pi_lb, pi_ub."""
    half = Reference(fit.df_location).quantile(0.5 + level / 2) * se
    return pd.DataFrame(
        {"estimate": estimate, "se": se, "pi_lb": estimate - half, "pi_ub": estimate + half}
    )
