"""Each family against scipy.stats and the change of variables, and against itself."""

import itertools
import math
from typing import get_args

import numpy as np
import pytest
from scipy import integrate, stats

from bayes_lsm.errors import PriorError
from bayes_lsm.priors import (
    R2D2,
    Cauchy,
    Flat,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    Horseshoe,
    InverseGamma,
    Laplace,
    Logistic,
    LogNormal,
    Normal,
    Prior,
    Priors,
    StudentT,
    Uniform,
)
from bayes_lsm.priors.stretching import stretch

# A prior without `on`, and the distribution of what it is stated on.
ON_LINE = [
    (Normal, {"mean": -1.0, "sd": 2.0}, stats.norm(-1, 2)),
    (StudentT, {"df": 5.0, "loc": -3.44, "scale": 2.59}, stats.t(5, -3.44, 2.59)),
    (Cauchy, {"loc": 0.5, "scale": 0.7}, stats.cauchy(0.5, 0.7)),
    (Laplace, {"loc": 0.5, "scale": 0.7}, stats.laplace(0.5, 0.7)),
    (Logistic, {"loc": 0.5, "scale": 0.7}, stats.logistic(0.5, 0.7)),
    (Uniform, {"lower": -1.0, "upper": 3.0}, stats.uniform(-1, 4)),
]
ON_VARIANCE = [
    (HalfNormal, {"sd": 2.0}, stats.halfnorm(scale=2)),
    (HalfStudentT, {"df": 3.0, "scale": 0.5}, stats.t(3, scale=0.5)),
    (HalfCauchy, {"scale": 0.3}, stats.halfcauchy(scale=0.3)),
    (LogNormal, {"mean_log": -2.56, "sd_log": 1.74}, stats.lognorm(1.74, scale=math.exp(-2.56))),
    (InverseGamma, {"shape": 1.5, "scale": 0.15}, stats.invgamma(1.5, scale=0.15)),
    (InverseGamma, {"shape": 0.05, "scale": 0.001}, stats.invgamma(0.05, scale=0.001)),
    (Uniform, {"lower": 0.5, "upper": 2.0}, stats.uniform(0.5, 1.5)),
]
# What is stated, as a function of θ = ln τ², and its inverse.
STATED = {
    "coefficient": (lambda theta: theta, lambda u: u),
    "log_tau2": (lambda theta: theta, lambda u: u),
    "log_tau": (lambda theta: theta / 2, lambda u: 2 * u),
    "tau2": (np.exp, np.log),
    "tau": (lambda theta: np.exp(theta / 2), lambda u: 2 * np.log(u)),
}
CASES = [
    (family(**values, on=on), peer)
    for cases, statements in (
        (ON_LINE, ("coefficient", "log_tau2", "log_tau")),
        (ON_VARIANCE, ("tau", "tau2")),
    )
    for family, values, peer in cases
    for on in statements
]
each_case = pytest.mark.parametrize(("prior", "peer"), CASES, ids=lambda value: str(value)[:60])


def _peer_quantile(prior, peer, p):
    """Of what the prior is stated on; scipy has no half-t."""
    return peer.ppf((1 + p) / 2 if isinstance(prior, HalfStudentT) else p)


def test_every_family_but_the_flat_one_is_among_the_cases():
    assert {type(prior) for prior, _ in CASES} == set(get_args(Prior)) - {Flat}


@each_case
def test_the_density_is_scipys_times_the_jacobian(prior, peer):
    stated, back = STATED[prior.on]
    theta = back(_peer_quantile(prior, peer, np.array([0.01, 0.2, 0.5, 0.8, 0.99])))
    theta = theta[np.isfinite(theta)]
    h = 1e-5
    jacobian = (stated(theta + h) - stated(theta - h)) / (2 * h)
    twice = math.log(2) if isinstance(prior, HalfStudentT) else 0.0
    expected = peer.logpdf(stated(theta)) + twice + np.log(jacobian)
    # The error of the central difference is h²/6 of the third derivative: about 1e-11.
    np.testing.assert_allclose(prior.logpdf(theta), expected, atol=1e-8, rtol=1e-8)


@each_case
def test_the_density_integrates_to_one_over_ln_tau2(prior, peer):
    # Between two quantiles, because the tails of a Cauchy are beyond any quadrature. In small steps
    # of probability, so that the quadrature meets the same curve everywhere.
    edges = prior.quantile(np.linspace(0.001, 0.999, 21))
    edges = edges[np.isfinite(edges)]
    pieces = [
        integrate.quad(lambda t: math.exp(prior.logpdf(t)), low, high, epsabs=1e-11)[0]
        for low, high in itertools.pairwise(edges)
    ]
    np.testing.assert_allclose(sum(pieces), prior.cdf(edges[-1]) - prior.cdf(edges[0]), atol=1e-9)
    assert prior.cdf(-1e12) == pytest.approx(0, abs=1e-6)
    # The half-t and half-Cauchy on τ have a density of e^-θ/2 far up; θ = 1e4 is as good as ∞.
    assert prior.cdf(1e12 if not prior.on_variance else 1e4) == pytest.approx(1, abs=1e-6)


@each_case
def test_quantiles_are_scipys_and_undo_the_distribution_function(prior, peer):
    p = np.array([0.001, 0.1, 0.5, 0.9, 0.999])
    _, back = STATED[prior.on]
    expected = back(_peer_quantile(prior, peer, p))
    known = np.isfinite(expected)  # scipy's own quantiles overflow for a small shape
    np.testing.assert_allclose(prior.quantile(p)[known], expected[known], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(prior.cdf(prior.quantile(p))[known], p[known], rtol=1e-6)


@each_case
def test_draws_follow_the_distribution(prior, peer):
    draws = prior.sample(4000, np.random.default_rng(8))
    assert draws.shape == (4000,)
    inside = np.isfinite(draws) & (draws < 600)  # exp(θ) overflows beyond
    assert inside.mean() > 0.5
    limit = float(prior.cdf(600.0)) if not inside.all() else 1.0
    # 26 cases: a p-value below 1e-4 in one of them would happen once in 400 seeds.
    assert stats.kstest(prior.cdf(draws[inside]) / limit, "uniform").pvalue > 1e-4


def test_a_small_shape_neither_underflows_nor_overflows():
    prior = InverseGamma(0.001, 0.001)
    draws = prior.sample(2000, np.random.default_rng(1))
    assert np.isfinite(draws).all()
    # P(τ² > x) = P(G < 0.001/x) ≈ (0.001/x)^a / Γ(1 + a): the median of ln τ² is far beyond exp().
    median = math.log(0.001) + (math.log(2) - math.lgamma(1.001)) / 0.001
    assert prior.quantile(0.5) == pytest.approx(median, rel=1e-3)
    # The tail is exponential with mean 1000, so a median of 2000 draws is off by 1000/√2000 ≈ 22.
    assert np.median(draws) == pytest.approx(median, abs=4 * 22.4)


def test_log_tau_halves_a_slope_and_a_level():
    theta = np.linspace(-4, 4, 5)
    np.testing.assert_allclose(
        Normal(-2, 1, on="log_tau").logpdf(theta), Normal(-4, 2).logpdf(theta)
    )
    np.testing.assert_allclose(
        LogNormal(-2, 1).logpdf(theta), Normal(-2, 1, on="log_tau").logpdf(theta)
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("prior", [prior for prior, _ in CASES], ids=str)
def test_far_out_a_density_is_a_number_and_silent(prior):
    values = prior.logpdf(np.array([-2000.0, 2000.0]))
    assert not np.isnan(values).any()
    assert (values <= 0).all()


def test_moments_are_those_of_the_tails():
    """Of powers of the coefficient; of ln τ² a power law of τ is an exponential one."""
    found = {type(prior): prior.moments for prior in (StudentT(3.5), Cauchy(), HalfCauchy(1))}
    assert found == {StudentT: 3.5, Cauchy: 1.0, HalfCauchy: math.inf}
    assert stretch(StudentT(3.5), 2.0).moments == 3.5
    assert R2D2(0.5, 0.75).moments == 1.5  # θ falls like |θ|^(−1 − 2b)
    assert Horseshoe().moments == math.inf


def test_a_flat_prior_is_one_everywhere_and_cannot_be_drawn_from():
    assert (Flat().logpdf(np.array([-1e9, 3.0])) == 0).all()
    for ask in (lambda: Flat().sample(3, np.random.default_rng(1)), lambda: Flat().quantile(0.5)):
        with pytest.raises(PriorError, match="a flat prior is no distribution"):
            ask()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StudentT(), "df: required"),  # type: ignore[call-arg]
        (lambda: StudentT(0), "df: .*greater than 0, got 0"),
        (lambda: HalfStudentT(3, -1), "scale: .*greater than 0"),
        (lambda: InverseGamma(1), "scale: required"),  # type: ignore[call-arg]
        (lambda: Uniform(2, 1), r"upper: must be above lower = 2, got 1; swap"),
        (lambda: Uniform(0, 0), "upper: must be above"),
        (lambda: Uniform(-1, 1, on="tau"), r"lower: must not be negative on tau, got -1; use 0"),
        (lambda: Normal(on="tau"), "on: .*'coefficient', 'log_tau2' or 'log_tau', got 'tau'"),
        (lambda: HalfNormal(on="log_tau"), "on: .*'tau' or 'tau2', got 'log_tau'"),
        (lambda: Normal(moderators="sd"), "moderators: .*'raw' or 'standardised', got 'sd'"),
        (lambda: Priors(location={"x": LogNormal()}), r"location\.x: .*log-normal on τ"),
        (lambda: Priors(location={"x": Normal(on="log_tau")}), "normal on ln τ, but a location"),
    ],
)
def test_a_faulty_prior_is_refused_with_place_and_cure(make, message):
    with pytest.raises(PriorError, match=message):
        make()


@pytest.mark.parametrize(
    ("prior", "text", "code"),
    [
        (Normal(0, 7), "Normal(0, 7)", "Normal(mean=0.0, sd=7.0)"),
        (
            Normal(0, 0.5, on="log_tau", moderators="standardised"),
            "Normal(0, 0.5) on ln τ per SD",
            "Normal(mean=0.0, sd=0.5, on='log_tau', moderators='standardised')",
        ),
        (HalfNormal(1 / 3), "HalfNormal(0.3333)", "HalfNormal(sd=0.3333333333333333)"),
        (
            InverseGamma(1, 0.15, on="tau"),
            "InverseGamma(1, 0.15) on τ",
            "InverseGamma(shape=1.0, scale=0.15, on='tau')",
        ),
        (Flat(), "Flat()", "Flat()"),
    ],
)
def test_a_prior_in_words_and_in_code(prior, text, code):
    assert str(prior).startswith(text)
    assert repr(prior) == code
    assert eval(code) == prior
