"""Posterior draws of the coefficients, whichever engine made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """How good a weighted sample is, and what it says of the evidence.

    Attributes
    ----------
    pareto_k : float
        Shape of the tail of the weights; below 0.7 they can be trusted. 0 where no single weight
        holds a hundredth of the total: there the tail is too short to matter.
    ess : float
        Effective number of independent draws.
    log_evidence, log_evidence_se : float
        Log marginal likelihood ln p(y) and its Monte Carlo error.
    evaluations : int
        Points in the last round.
    """

    pareto_k: float
    ess: float
    log_evidence: float
    log_evidence_se: float
    evaluations: int


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of the coefficients, on the user's scale.

    Attributes
    ----------
    location : ndarray, shape (chains, draws, p)
    scale : ndarray, shape (chains, draws, q)
        Coefficients of ln τ².
    stats : mapping of str to ndarray, shape (chains, draws)
        What the sampler says of each draw (``diverging``, ``energy``, …).
    importance : Importance or None
        Of the collapsed engine.
    true_effect : ndarray, shape (chains, draws, k), or None
        True effects of the studies, of a model with latent study effects.
    """

    location: Array
    scale: Array
    stats: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    importance: Importance | None = None
    true_effect: Array | None = None

    @property
    def flat_location(self) -> Array:
        """All chains as one, shape (chains · draws, p)."""
        return self.location.reshape(-1, self.location.shape[-1])

    @property
    def flat_scale(self) -> Array:
        """All chains as one, shape (chains · draws, q)."""
        return self.scale.reshape(-1, self.scale.shape[-1])
