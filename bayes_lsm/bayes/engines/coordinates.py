"""Where the direct engines move: coordinates φ = Rθ in which no direction is very narrow.

θ is what the priors are stated on. R'R = diag(w)⁻² + J'J, where w are the widths of the priors and
J'J is the most that the effects could say of θ. So nothing in the posterior is much narrower than
1, even where a moderator (a year) is far from zero and its coefficient all but collinear with the
intercept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.engines.proposal import Fixed
from bayes_lsm.priors import Cauchy, Flat
from bayes_lsm.priors.family import Univariate

# By how much, in ln τ², the middle half of what stands for a flat prior moves a study's τ² at most.
_FLAT_REACH = 10.0


class PosteriorCoordinates:
    """φ = Rθ, d of them, with the priors of θ.

    `middle` (d,) is φ where each θ_j has its prior's median; `prior` that of φ, and `cover` the
    same with a wide Cauchy distribution in the place of each flat prior, from which nothing can be
    drawn: its scale matrix is the square of `cover_factor`. `bounded`: the two are the same.
    """

    def __init__(self, priors: Sequence[Univariate], information: Array) -> None:
        cover = _cover(priors, information)
        self.theta_middle, width = _middle_and_width(cover)
        self._R = np.linalg.qr(np.vstack([np.diag(1 / width), information]), mode="r")
        self._inverse = np.linalg.inv(self._R)
        self._log_jacobian = -float(np.log(np.abs(np.diag(self._R))).sum())
        self.middle = self._R @ self.theta_middle
        self.cover_factor = self._R * width
        self.bounded = not any(isinstance(prior, Flat) for prior in priors)
        self.prior, self.cover = self._fixed(priors), self._fixed(cover)

    def theta(self, phi: Array) -> Array:
        """θ (m, d) from φ (m, d)."""
        return np.asarray(phi @ self._inverse.T)

    def towards(self, gradient: Array) -> Array:
        """φ one step of the information above the priors' middle, given a gradient in θ (d,)."""
        return np.asarray(self.middle + self._inverse.T @ gradient)

    def _fixed(self, priors: Sequence[Univariate]) -> Fixed:
        def logpdf(phi: Array) -> Array:
            theta = self.theta(phi)
            each = (prior.logpdf(theta[:, j]) for j, prior in enumerate(priors))
            return np.asarray(sum(each) + self._log_jacobian)

        def sample(size: int, rng: np.random.Generator) -> Array:
            theta = np.column_stack([prior.sample(size, rng) for prior in priors])
            return np.asarray(theta @ self._R.T)

        return Fixed(logpdf, sample)


def _cover(priors: Sequence[Univariate], information: Array) -> list[Univariate]:
    """The priors, with a wide distribution in the place of each flat one.

    The tails of a posterior under a flat prior are at least as thin as exponential ones.
    """
    return [
        Cauchy(0.0, _FLAT_REACH / (math.sqrt(2) * float(np.abs(column).max())))
        if isinstance(prior, Flat)
        else prior
        for prior, column in zip(priors, information.T, strict=True)
    ]


def _middle_and_width(priors: Sequence[Univariate]) -> tuple[Array, Array]:
    """Median (d,) of each prior, and half the width (d,) of its central 68%."""
    rng = np.random.default_rng(0)
    drawn = np.column_stack([prior.sample(2000, rng) for prior in priors])
    lower, middle, upper = np.quantile(drawn, [0.16, 0.5, 0.84], axis=0)
    return middle, (upper - lower) / 2
