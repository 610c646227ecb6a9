"""Draws as an ArviZ DataTree, with all groups that ArviZ's diagnostics ask for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bayes_lsm.bayes.draws import Draws
from bayes_lsm.design import Design
from bayes_lsm.links import tau2_from_log
from bayes_lsm.priors import ResolvedPriors

if TYPE_CHECKING:
    from xarray import DataTree

Array = npt.NDArray[np.float64]

_PRIOR_DRAWS = 1000


def log_likelihood(design: Design, location: Array, scale: Array) -> Array:
    """Log density of each effect given the coefficients.

    Parameters
    ----------
    location : ndarray, shape (..., p)
    scale : ndarray, shape (..., q)

    Returns
    -------
    ndarray, shape (..., k)
    """
    variance = design.v + tau2_from_log(scale @ design.Z.T)
    residual = design.y - location @ design.X.T
    return -0.5 * (np.log(variance) + residual**2 / variance + math.log(2 * math.pi))


def build_datatree(design: Design, priors: ResolvedPriors, draws: Draws, *, seed: int) -> DataTree:
    """The groups posterior, sample_stats, log_likelihood, log_prior, prior, prior_predictive,
    posterior_predictive and observed_data.

    ``log_prior`` has one value for each coefficient: the log density of what its prior is stated
    on (see `PriorBlock.logpdf`). Predictions are of new effects in the same studies.
    """
    import arviz as az

    rng = np.random.default_rng(seed)
    location = priors.location.sample(_PRIOR_DRAWS, rng)[None]
    scale = priors.scale.sample(_PRIOR_DRAWS, rng)[None]
    groups: dict[str, dict[str, Any]] = {
        "posterior": {"location": draws.location, "scale": draws.scale},
        "log_likelihood": {"effect": log_likelihood(design, draws.location, draws.scale)},
        "log_prior": {
            "location": priors.location.logpdf(draws.location),
            "scale": priors.scale.logpdf(draws.scale),
        },
        "posterior_predictive": {"effect": _predict(design, draws.location, draws.scale, rng)},
        "prior": {"location": location, "scale": scale},
        "prior_predictive": {"effect": _predict(design, location, scale, rng)},
        "observed_data": {"effect": design.y},
    }
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


def _predict(design: Design, location: Array, scale: Array, rng: np.random.Generator) -> Array:
    """New effects of the same studies, shape (..., k)."""
    variance = design.v + tau2_from_log(scale @ design.Z.T)
    return rng.normal(location @ design.X.T, np.sqrt(variance))
