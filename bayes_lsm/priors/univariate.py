"""What any distribution of one number can be asked for."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from bayes_lsm.arrays import Array


class Univariate(Protocol):
    """A distribution of one θ_j."""

    def logpdf(self, theta: Array, /) -> Array:
        """Log density, elementwise."""

    def sample(self, size: int, rng: np.random.Generator, /) -> Array:
        """Independent draws, shape (size,)."""
