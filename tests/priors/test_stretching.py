"""A stretched prior is a distribution, and as many times as wide as it says."""

import numpy as np
import pytest
from scipy.integrate import quad

from bayes_lsm.priors import (
    Cauchy,
    HalfCauchy,
    HalfNormal,
    InverseGamma,
    Laplace,
    LogNormal,
    Normal,
    Stretched,
    StudentT,
    Uniform,
    stretch,
)

BASES = [
    Normal(1, 2, on="log_tau"),
    StudentT(5, -3.44, 2.59, on="log_tau2"),
    Cauchy(1, 0.7),
    Laplace(-1, 2),
    Uniform(-2, 5),
    HalfNormal(0.5),
    HalfCauchy(0.3),
    LogNormal(-2.56, 1.74, on="tau2"),
    InverseGamma(1, 0.15),
]


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.words)
def test_quantiles_lie_so_many_times_as_far_from_the_median(base):
    probabilities = np.array([0.025, 0.3, 0.5, 0.8, 0.975])
    own = base.quantile(probabilities)
    wide = Stretched(base=base, factor=3.0, shift=0.5)
    assert wide.quantile(probabilities) == pytest.approx(own[2] + 0.5 + 3 * (own - own[2]))
    assert wide.cdf(wide.quantile(probabilities)) == pytest.approx(probabilities)


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.words)
def test_density_is_the_slope_of_the_distribution_function(base):
    wide = stretch(base, 0.4)
    lower, upper = wide.quantile([0.2, 0.9])
    area, _ = quad(lambda theta: float(np.exp(wide.logpdf(theta))), lower, upper, limit=200)
    assert area == pytest.approx(0.7, abs=1e-7)


def test_draws_follow_the_distribution():
    wide = stretch(HalfNormal(0.5), 2.0)
    drawn = wide.sample(40_000, np.random.default_rng(1))
    # Four binomial standard errors.
    for p in (0.1, 0.5, 0.9):
        share = np.mean(drawn < wide.quantile(p))
        assert share == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 40_000))


def test_a_normal_prior_stays_normal_and_is_a_power_of_itself():
    prior = Normal(1, 2, on="log_tau")
    assert stretch(prior, 1.0) is prior
    wide = stretch(prior, 3.0)
    assert wide == Normal(1, 6, on="log_tau")
    x = np.array([-4.0, 1.0, 7.0])
    difference = wide.logpdf(x) - prior.logpdf(x) / 9
    assert difference == pytest.approx(difference[0])
