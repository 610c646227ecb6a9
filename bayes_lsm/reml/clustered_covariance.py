"""Σ at the estimates of a fit with several scale terms, and effects drawn from it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from bayes_lsm.likelihood.blocks.covariance import blocks, loadings, stack_covariances
from bayes_lsm.reml.estimates import Estimates

Array = npt.NDArray[np.float64]


def covariance_of_effects(fit: Estimates) -> sparse.csr_array:
    """D (m, m) as it was estimated."""
    terms = fit.terms.values()
    return stack_covariances(
        [each.tau2 for each in terms], [np.nan_to_num(each.correlation) for each in terms]
    )


def simulate_clustered(fit: Estimates, sets: int, rng: np.random.Generator) -> Array:
    """Sets of effects from a fit, shape (sets, n): Normal(Xβ̂, Σ̂)."""
    design = fit.design
    noise = np.empty((sets, len(design.y)))
    for block in blocks(design, loadings(design), covariance_of_effects(fit)):
        noise[:, block.rows] = rng.normal(size=(sets, len(block.rows))) @ block.root.T
    return np.asarray(design.X @ fit.beta + noise)
