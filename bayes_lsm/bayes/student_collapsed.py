"""The fast engine for Student-t study effects: what is integrated out is the study effects.

With t effects β has no closed form, so location and scale coefficients and ν are drawn together, by
the same adaptive importance sampling as α alone with normal effects (`collapsed`). Each point costs
a sum over some dozens of λ a study (`likelihood.student`).
"""

from __future__ import annotations

import numpy as np

from bayes_lsm.bayes.collapsed import chain_shape, draw_weighted
from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.mixture import Fixed
from bayes_lsm.bayes.student import arrays
from bayes_lsm.degrees_of_freedom import DegreesOfFreedom
from bayes_lsm.design import Design
from bayes_lsm.priors import ResolvedPriors


def sample_student(
    design: Design,
    priors: ResolvedPriors,
    df: DegreesOfFreedom | float,
    *,
    draws: int = 4000,
    seed: int,
) -> Draws:
    """Independent draws from the posterior of a model with Student-t study effects.

    Parameters
    ----------
    design : Design
    priors : ResolvedPriors
        Of any families.
    df : DegreesOfFreedom or float
        Prior or fixed value of ν.
    draws : int, default 4000
    seed : int
        The same seed gives the same draws.

    Returns
    -------
    Draws
        With `df`, and `importance`: the effective number of draws, Pareto k, and the log marginal
        likelihood.
    """
    rng = np.random.default_rng(seed)
    target = _JointTarget(design, priors, df)
    points, importance = draw_weighted(target, draws, rng)
    location, scale, drawn = target.split(points)
    shape = chain_shape(draws)
    return Draws(
        location.reshape(shape),
        scale.reshape(shape),
        importance=importance,
        df=drawn.reshape(shape[:2]) if isinstance(df, DegreesOfFreedom) else np.full((1, 1), df),
    )


class _JointTarget:
    """The log posterior density of what the priors are stated on and, last, of ln(ν − lower)."""

    def __init__(
        self, design: Design, priors: ResolvedPriors, df: DegreesOfFreedom | float
    ) -> None:
        self._df = df
        self._priors = (*priors.location.priors, *priors.scale.priors)
        self._n_location = len(priors.location.priors)
        self._inverses = [np.linalg.inv(b.contrasts) for b in (priors.location, priors.scale)]
        self._data = arrays(design)
        self.prior = Fixed(self._prior_logpdf, self._prior_sample)

    def _prior_logpdf(self, points: Array) -> Array:
        total = sum(prior.logpdf(points[:, j]) for j, prior in enumerate(self._priors))
        if isinstance(self._df, DegreesOfFreedom):
            # d ν / d ln(ν − lower) = ν − lower.
            total = total + self._df.logpdf(self.split(points)[2]) + points[:, -1]
        return np.asarray(total)

    def _prior_sample(self, size: int, rng: np.random.Generator) -> Array:
        columns = [prior.sample(size, rng) for prior in self._priors]
        if isinstance(self._df, DegreesOfFreedom):
            columns.append(np.log(self._df.sample(size, rng) - self._df.lower))
        return np.column_stack(columns)

    def split(self, points: Array) -> tuple[Array, Array, Array]:
        """β (m, p), α (m, q) and ν (m,) of points (m, d)."""
        p, d = self._n_location, len(self._priors)
        location, scale = points[:, :p] @ self._inverses[0].T, points[:, p:d] @ self._inverses[1].T
        if isinstance(self._df, DegreesOfFreedom):
            # e^30 degrees of freedom are as good as any more.
            df = self._df.lower + np.exp(np.minimum(points[:, -1], 30.0))
        else:
            df = np.full(len(points), self._df)
        return np.ascontiguousarray(location), np.ascontiguousarray(scale), df

    def __call__(self, theta: Array) -> Array:
        from bayes_lsm.likelihood.student import log_likelihood

        values = log_likelihood(*self.split(theta), *self._data)
        return np.asarray(values + self._prior_logpdf(theta))
