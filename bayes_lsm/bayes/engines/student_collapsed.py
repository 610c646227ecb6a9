"""The fast engine for Student-t study effects: what is integrated out is the study effects.

With t effects β has no closed form, so location and scale coefficients and ν are drawn together, by
the same adaptive importance sampling as α alone with normal effects. Each point costs a sum over
some dozens of λ a study (`likelihood.student`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.coordinates import PosteriorCoordinates
from bayes_lsm.bayes.engines.importance_sampling import propose_phi
from bayes_lsm.bayes.student.effects import arrays
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.rows.closed_form import log_tau2_of_residuals
from bayes_lsm.priors import ResolvedPriors
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom
from bayes_lsm.priors.excess import Excess
from bayes_lsm.priors.family import Univariate


def can_sample_student(priors: ResolvedPriors) -> bool:
    """Whether the priors can be drawn from (not flat), and α has no hyperparameters."""
    return priors.location.is_proper and priors.scale.shrinkage is None


@dataclass(frozen=True, eq=False)
class JointPoints:
    """β (m, p), α (m, q) and ν (m,) from a proposal near the posterior; see `AlphaPoints`."""

    location: Array
    scale: Array
    df: Array
    log_ratio: Array


def propose_student(
    design: Design,
    priors: ResolvedPriors,
    *,
    points: int,
    seed: int,
) -> JointPoints:
    """Points from the mixture that `sample_directly` would draw from."""
    target = StudentTarget(design, priors)
    phi, log_ratio = propose_phi(target, points, seed)
    return JointPoints(*target.split(phi), log_ratio)


class StudentTarget:
    """The log posterior density of φ; of θ the last is ln(ν − lower), where ν is not fixed."""

    def __init__(self, design: Design, priors: ResolvedPriors) -> None:
        df = priors.df
        self._df = Excess.of(df) if isinstance(df, DegreesOfFreedom) else df
        self._n_location = len(priors.location.priors)
        self._inverses = [np.linalg.inv(b.contrasts) for b in (priors.location, priors.scale)]
        self._data = arrays(design)
        each: list[Univariate] = [*priors.location.priors, *priors.scale.priors]
        self._n_coefficients = len(each)
        if isinstance(self._df, Excess):
            each.append(self._df.prior)
        # Of β the effects say most without heterogeneity.
        H, G = (of @ C for of, C in zip((design.X, design.Z), self._inverses, strict=True))
        information = np.zeros((2 * len(design.y), len(each)))
        information[: len(design.y), : self._n_location] = H / np.sqrt(design.v)[:, None]
        information[len(design.y) :, self._n_location : self._n_coefficients] = G / math.sqrt(2)
        self.coordinates = PosteriorCoordinates(each, information)
        b, log_tau2 = log_tau2_of_residuals(design.y, design.v, design.X)
        at = self.coordinates.theta_middle
        p, d = self._n_location, self._n_coefficients
        gradient = np.zeros(len(each))
        gradient[:p] = H.T @ ((design.X @ b - H @ at[:p]) / design.v)
        gradient[p:d] = G.T @ (log_tau2 - G @ at[p:d]) / 2
        self.guesses = np.array([self.coordinates.middle, self.coordinates.towards(gradient)])

    def split(self, phi: Array) -> tuple[Array, Array, Array]:
        """β (m, p), α (m, q) and ν (m,) of points (m, d)."""
        theta, p, d = self.coordinates.theta(phi), self._n_location, self._n_coefficients
        location, scale = theta[:, :p] @ self._inverses[0].T, theta[:, p:d] @ self._inverses[1].T
        if isinstance(self._df, Excess):
            df = self._df.to_df(theta[:, -1])
        else:
            df = np.full(len(theta), self._df)
        return np.ascontiguousarray(location), np.ascontiguousarray(scale), df

    def draws(self, phi: Array, rng: np.random.Generator) -> Draws:
        """β, α and ν at points (m, d)."""
        location, scale, df = self.split(phi)
        own_df = np.full((1, 1), self._df) if isinstance(self._df, float) else df[None]
        return Draws(location[None], scale[None], df=own_df)

    def __call__(self, phi: Array) -> Array:
        from bayes_lsm.likelihood.student.kernels import log_likelihood

        values = np.asarray(log_likelihood(*self.split(phi), *self._data))
        values = values + self.coordinates.prior.logpdf(phi)
        return np.where(np.isnan(values), -np.inf, values)
