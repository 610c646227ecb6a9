"""Coordinates φ in which nothing in the posterior of the scale coefficients is very narrow.

θ is what the priors are stated on, α = Cθ, and φ = Rθ. With G = ∂ln τ²/∂θ and w the widths of the
priors, R'R = diag(w)⁻² + G'G/2: the precision of the priors plus the most that the effects could
say of ln τ². So a moderator far from zero (a year), whose coefficient is all but collinear with the
intercept, does no harm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.mixture import Fixed


class Distribution(Protocol):
    """A prior of one θ_j."""

    def logpdf(self, theta: Array) -> Array:
        """Log density, elementwise."""

    def sample(self, size: int, rng: np.random.Generator) -> Array:
        """Independent draws, shape (size,)."""


class Coordinates:
    """Priors of θ (q,), seen in φ.

    Attributes
    ----------
    prior : Fixed
        Log density and draws of φ.
    prior_factor : ndarray, shape (q, q)
        The priors' scale matrix is the square of this.
    middle : ndarray, shape (q,)
        The priors' medians, as φ.
    """

    def __init__(
        self, priors: Sequence[Distribution], contrasts: Array, information: Array
    ) -> None:
        """`contrasts` (q, q) takes α to θ; `information` (m, q) is ∂ln τ²/∂α of m variances."""
        self._priors = priors
        inverse = np.linalg.inv(contrasts)
        middle, width = _middle_and_width(priors)
        self._G = information @ inverse
        R = np.linalg.qr(np.vstack([np.diag(1 / width), self._G / math.sqrt(2)]), mode="r")
        self._R, self._to_theta = R, np.linalg.inv(R)
        self._to_alpha = inverse @ self._to_theta
        self._log_jacobian = -float(np.log(np.abs(np.diag(R))).sum())
        self._middle = middle
        self.middle = R @ middle
        self.prior_factor = R * width
        self.prior = Fixed(self._logpdf, self._sample)

    def coefficients(self, phi: Array) -> Array:
        """α (m, q) from φ (m, q)."""
        return np.ascontiguousarray(phi @ self._to_alpha.T)

    def toward(self, log_tau2: Array) -> Array:
        """φ a step from the priors' middle to where ln τ² of the m variances is as given."""
        step = self._to_theta.T @ self._G.T @ (log_tau2 - self._G @ self._middle) / 2
        return np.asarray(self.middle + step)

    def _logpdf(self, phi: Array) -> Array:
        theta = phi @ self._to_theta.T
        logs = (prior.logpdf(theta[:, j]) for j, prior in enumerate(self._priors))
        return np.asarray(sum(logs) + self._log_jacobian)

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        theta = np.column_stack([prior.sample(size, rng) for prior in self._priors])
        return np.asarray(theta @ self._R.T)


def _middle_and_width(priors: Sequence[Distribution]) -> tuple[Array, Array]:
    """Median (q,) of each prior, and half the width (q,) of its central 68%."""
    rng = np.random.default_rng(0)
    drawn = np.column_stack([prior.sample(2000, rng) for prior in priors])
    lower, middle, upper = np.quantile(drawn, [0.16, 0.5, 0.84], axis=0)
    return middle, (upper - lower) / 2
