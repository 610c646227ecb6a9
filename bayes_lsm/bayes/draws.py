"""Posterior draws of the coefficients, whichever engine made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


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
    """

    location: Array
    scale: Array
    stats: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)

    @property
    def flat_location(self) -> Array:
        """All chains as one, shape (chains · draws, p)."""
        return self.location.reshape(-1, self.location.shape[-1])

    @property
    def flat_scale(self) -> Array:
        """All chains as one, shape (chains · draws, q)."""
        return self.scale.reshape(-1, self.scale.shape[-1])
