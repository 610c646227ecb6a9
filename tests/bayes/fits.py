"""Fits made by hand, and a posterior known on a grid, for the tests of what fits can do."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy.special import logsumexp, ndtr
from scipy.stats import norm

import bayes_lsm as lsm
from bayes_lsm.bayes.draws import Draws, Importance


@dataclass(frozen=True, eq=False)
class Grid:
    """The exact posterior of a random-effects model: points and their probabilities.

    mu (m, 1), log_tau2 (1, n), weight (m, n).
    """

    mu: np.ndarray
    log_tau2: np.ndarray
    weight: np.ndarray

    def mean(self, values):
        """Posterior mean of values (m, n)."""
        return float(np.sum(self.weight * values))

    def below(self, x, centre, sd):
        """P(θ < x) where θ is Normal(centre, sd²) at each point."""
        return self.mean(ndtr((x - centre) / sd))


@cache
def grid_of(y, v, *, prior_sd=(100.0, 7.0)):
    """With normal priors on μ and ln τ²; y and v are tuples.

    Wide enough for all but 1e-6 of either marginal. The sum over an even grid of a smooth density
    is exact to far below any Monte Carlo error where the steps are a fraction of its SDs.
    """
    mu, log_tau2 = np.linspace(-4, 3, 351)[:, None], np.linspace(-40, 8, 401)[None]
    log_density = norm.logpdf(mu, 0, prior_sd[0]) + norm.logpdf(log_tau2, 0, prior_sd[1])
    for effect, variance in zip(y, v, strict=True):
        log_density = log_density + norm.logpdf(effect, mu, np.sqrt(variance + np.exp(log_tau2)))
    return Grid(mu, log_tau2, np.exp(log_density - logsumexp(log_density)))


@cache
def bcg():
    """The random-effects model of the BCG trials: its fit and its grid."""
    model = lsm.LocationScaleModel(
        "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"), priors="slides"
    )
    fit = model.fit_bayes(engine="collapsed", draws=20_000, seed=5)
    return fit, grid_of(tuple(model.design.y), tuple(model.design.v))


@cache
def many_studies(k=3000):
    """So many studies that the priors weigh nothing: the Bayesian fit and that by REML."""
    rng = np.random.default_rng(8)
    data = pd.DataFrame({"vi": rng.uniform(0.01, 0.2, k), "x": rng.normal(size=k)})
    data["g"] = np.array(["a", "b"])[rng.integers(2, size=k)]
    tau2 = np.exp(-2 + 0.5 * data["x"] + 0.7 * (data["g"] == "b"))
    data["yi"] = rng.normal(0.3 + 0.1 * data["x"], np.sqrt(data["vi"] + tau2))
    model = lsm.LocationScaleModel("yi ~ x", scale="~ x + g", variance="vi", data=data)
    return model.fit_bayes(engine="collapsed", draws=1000, seed=1), model.fit_reml()


def made_by_hand(location, scale, *, data=None, formulas=("~ x", "~ x"), importance=True):
    """A fit with given draws (S, p) and (S, q), in four chains."""
    if data is None:
        rng = np.random.default_rng(3)
        data = pd.DataFrame({"yi": rng.normal(size=12), "vi": rng.uniform(0.1, 1, 12)})
        data["x"] = rng.normal(size=12)
    model = lsm.LocationScaleModel(f"yi {formulas[0]}", scale=formulas[1], variance="vi", data=data)
    size = len(location)
    draws = Draws(
        np.reshape(location, (4, size // 4, -1)),
        np.reshape(scale, (4, size // 4, -1)),
        importance=Importance(0.1, 1 / size, size, 0.0, 0.0, size) if importance else None,
    )
    return lsm.BayesFit(model.design, lsm.priors.preset("slides"), draws, 1, pd.DataFrame(), ())


def binomial_error(probability, fit):
    """Monte Carlo standard error of a probability that is counted from the draws."""
    return np.sqrt(probability * (1 - probability) / fit.draws.importance.ess)
