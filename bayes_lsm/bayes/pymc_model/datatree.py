"""Draws as an ArviZ DataTree, with all groups that ArviZ's diagnostics ask for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.student.effects import sample_df, sample_effects, student_log_likelihood
from bayes_lsm.design.design import Design
from bayes_lsm.design.subsets import Numbers
from bayes_lsm.links import tau2_from_log
from bayes_lsm.priors import ResolvedPriors
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom

if TYPE_CHECKING:
    from xarray import DataTree

Array = npt.NDArray[np.float64]

_PRIOR_DRAWS = 1000


def log_likelihood(
    design: Numbers, location: Array, scale: Array, df: Array | None = None
) -> Array:
    """Log density of each effect given the coefficients.

    Parameters
    ----------
    location : ndarray, shape (..., p)
    scale : ndarray, shape (..., q)
    df : ndarray, optional
        ν of Student-t study effects, of a shape that stretches to (...).

    Returns
    -------
    ndarray, shape (..., k)
    """
    if df is not None:
        return student_log_likelihood(design, location, scale, df)
    variance = design.v + tau2_from_log(scale @ design.Z.T)
    residual = design.y - location @ design.X.T
    return -0.5 * (np.log(variance) + residual**2 / variance + math.log(2 * math.pi))


def build_datatree(
    design: Design,
    priors: ResolvedPriors,
    draws: Draws,
    *,
    seed: int,
    df: DegreesOfFreedom | float | None = None,
) -> DataTree:
    """The groups posterior, sample_stats, log_likelihood, log_prior, prior, prior_predictive,
    posterior_predictive and observed_data.

    ``log_prior`` has one value for each coefficient: the log density of what its prior is stated
    on (see `PriorBlock.logpdf`). Predictions are of new effects in the same studies. With a flat
    prior there is neither ``prior`` nor ``prior_predictive``. With Student-t study
    effects, `df` is the prior of ν or its fixed value; then the groups posterior, log_prior and
    prior have ``df`` too, or the group constant_data where it is fixed.
    """
    import arviz as az

    rng = np.random.default_rng(seed)
    groups: dict[str, dict[str, Any]] = {
        "posterior": {"location": draws.location, "scale": draws.scale},
        "log_likelihood": {"effect": log_likelihood(design, draws.location, draws.scale, draws.df)},
        "log_prior": {
            "location": priors.location.logpdf(draws.location),
            "scale": priors.scale.logpdf(draws.scale),
        },
        "posterior_predictive": {
            "effect": _predict(design, draws.location, draws.scale, draws.df, rng)
        },
        "observed_data": {"effect": design.y},
    }
    if priors.is_proper:  # a flat prior cannot be drawn from
        location = priors.location.sample(_PRIOR_DRAWS, rng)[None]
        scale = priors.scale.sample(_PRIOR_DRAWS, rng)[None]
        prior_df = None if df is None else sample_df(df, _PRIOR_DRAWS, rng)[None]
        groups["prior"] = {"location": location, "scale": scale}
        groups["prior_predictive"] = {"effect": _predict(design, location, scale, prior_df, rng)}
        if isinstance(df, DegreesOfFreedom):
            groups["prior"]["df"] = prior_df
    if isinstance(df, DegreesOfFreedom) and draws.df is not None:
        groups["posterior"]["df"] = draws.df
        groups["log_prior"]["df"] = df.logpdf(draws.df)
    elif df is not None:
        groups["constant_data"] = {"df": np.asarray(df)}
    if draws.true_effect is not None:
        groups["posterior"]["true_effect"] = draws.true_effect
    if draws.stats:
        groups["sample_stats"] = dict(draws.stats)
    tree: DataTree = az.from_dict(
        groups,
        dims={
            "location": ["location_term"],
            "scale": ["scale_term"],
            "effect": ["study"],
            "true_effect": ["study"],
        },
        coords={
            "location_term": list(design.location.names),
            "scale_term": list(design.scale.names),
            "study": list(design.labels),
        },
    )
    return tree


def _predict(
    design: Design, location: Array, scale: Array, df: Array | None, rng: np.random.Generator
) -> Array:
    """New effects of the same studies, shape (..., k)."""
    mean, tau2 = location @ design.X.T, tau2_from_log(scale @ design.Z.T)
    if df is not None:
        return sample_effects(mean, design.v, tau2, df, rng)
    return rng.normal(mean, np.sqrt(design.v + tau2))
