"""Density ratios: marginal likelihoods, closed forms, and either solver."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

import bayes_lsm as lsm
from bayes_lsm.bayes import bayes_factor
from bayes_lsm.bayes.evidence.nested import Nesting
from bayes_lsm.bayes.evidence.savage_dickey import savage_dickey
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.priors import Normal, Priors

from .levels import model_of
from .test_scale_random_intercepts import SMALL
from .test_scale_random_intercepts import model_of as mixed_model

YEAR = "I((year - 1990) / 10)"


def _model(location="yi ~ 1", scale="~ 1", **options):
    data = lsm.load_dataset("bcg")
    return lsm.LocationScaleModel(location, scale=scale, variance="vi", data=data, **options)


@pytest.fixture(scope="module")
def ablat():
    return _model("yi ~ ablat", "~ ablat").fit_bayes(draws=20_000, seed=4)


@pytest.fixture(scope="module")
def chains(ablat):
    """As NUTS would give them: chains without a marginal likelihood."""
    from bayes_lsm.bayes.engines.diagnostics import convergence

    draws = dataclasses.replace(ablat.draws, importance=None)
    table = convergence(ablat.design, draws)
    return dataclasses.replace(ablat, draws=draws, convergence=table)


@pytest.mark.parametrize("part", ["location", "scale"])
@pytest.mark.parametrize("term", ["continent", "continentOther", "I(weeks - 40)"])
def test_density_ratio_is_the_ratio_of_marginal_likelihoods(continent, part, term):
    fit = continent.fit_bayes(prior="weakly_informative", draws=20_000, seed=6)
    found = fit.savage_dickey(term, part=part)
    # Two independent routes to one number; four of their Monte Carlo errors, which are small.
    assert math.hypot(found.se, found.restricted.se) < 0.08
    assert abs(found.agreement) < 4, found
    assert found.to_dataframe().shape == (2, 3)


def test_density_ratio_of_the_divergent_model(continent):
    """A half-flat coefficient, and a far region of the slope that has 0.6% of the mass."""
    fit = continent.fit_bayes(draws=8000, seed=3)
    for term in ("continentOther", "I(weeks - 40)"):
        found = fit.savage_dickey(term)
        assert found.se < 0.15
        assert abs(found.agreement) < 4, found


def test_density_ratio_of_chains(chains):
    for part in ("location", "scale"):
        found = savage_dickey(chains, "ablat", part=part)
        assert abs(found.agreement) < 4, found


def test_density_ratio_at_a_value_is_in_closed_form():
    """τ is all but known: the posterior of μ is normal."""
    scale = {"intrcpt": Normal(math.log(0.1), 1e-3)}
    prior = Priors(location={"intrcpt": Normal(0.3, 1)}, scale=scale)
    fit = _model().fit_bayes(prior=prior, seed=1)
    weight = 1 / (fit.design.v + 0.1)
    precision = weight.sum() + 1
    mean = (weight @ fit.design.y + 0.3) / precision
    found = savage_dickey(fit, "intrcpt", -0.5, part="location")
    exact = norm.logpdf(-0.5, mean, precision**-0.5) - norm.logpdf(-0.5, 0.3, 1)
    assert found.log_bf == pytest.approx(exact, abs=1e-3)
    assert found.restricted is None  # a model without an intercept is another one
    assert math.isnan(found.agreement)


def test_prior_density_of_an_intercept_is_that_of_prior_draws(ablat):
    """The scale intercept's prior hangs on the slope, through the average study."""
    from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors

    block = resolve_priors(ablat.design, ablat.priors).scale
    drawn = block.sample(400_000, np.random.default_rng(3))[:, 0]
    near = np.mean(np.abs(drawn + 1.0) < 0.1) / 0.2
    found = savage_dickey(ablat, "intrcpt", -1.0)
    # Four binomial errors of the share near -1; the density is straight over so short a stretch.
    error = 4 * math.sqrt(near / 0.2 / 400_000) / near
    assert found.log_prior == pytest.approx(math.log(near), abs=error + 1e-3)


@pytest.fixture(scope="module")
def schools():
    return model_of("konstantopoulos2011").fit_bayes(engine="collapsed", seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("term", [YEAR, f"district/school: {YEAR}"])
def test_it_is_the_bayes_factor_against_the_model_without(schools, term):
    """The smaller model fitted by itself, with the preset of its own."""
    found = schools.savage_dickey(term)
    assert found.terms == (f"district/school: {YEAR}",)
    without = lsm.LocationScaleModel(
        "yi ~ 1",
        {"district": "~ 1", "district/school": "~ 1"},
        variance="vi",
        data=lsm.load_dataset("konstantopoulos2011"),
    ).fit_bayes(engine="collapsed", seed=2)
    other = bayes_factor(without, schools)
    # Monte Carlo errors of about 0.02 each.
    assert found.se < 0.04
    assert abs(found.log_bf - other.log_bf) < 4 * math.hypot(found.se, other.se)
    assert abs(found.agreement) < 4


@pytest.mark.slow
def test_location_and_several_coefficients_at_once():
    fit = lsm.LocationScaleModel(
        f"yi ~ {YEAR}",
        {"district": "~ 1", "district/school": "~ C(late)"},
        variance="vi",
        data=lsm.load_dataset("konstantopoulos2011").assign(
            late=lambda d: np.digitize(d["year"], [1990, 1995])
        ),
    ).fit_bayes(engine="collapsed", seed=3)
    whole, slope = fit.savage_dickey("C(late)"), fit.savage_dickey(YEAR, part="location")
    assert len(whole.terms) == 2
    for found in (whole, slope):
        assert found.restricted is not None
        assert abs(found.agreement) < 4, found


@pytest.mark.slow
def test_a_correlation_of_two_outcomes():
    """By the model without it: scale terms of the outcomes by themselves."""
    fit = model_of("berkey1998").fit_bayes(engine="collapsed", seed=1)
    found = fit.savage_dickey("AL, PD")
    assert found.terms == ("AL, PD",)
    assert Nesting(fit).find("scale", "outcome | trial: AL, PD") == [2]
    # LKJ(1) of two effects: ρ is uniform, and of Fisher's z the density at 0 is 1/2.
    assert found.log_prior == pytest.approx(math.log(0.5))
    assert abs(found.agreement) < 4, found
    rho = fit.terms["outcome | trial"].pairs[1][:, 0]  # of the same density as z at 0
    share = np.mean(np.abs(rho) < 0.1)
    # The density of ρ at 0 by counting: four binomial errors of independent draws worth 2,000.
    error = 4 * math.sqrt(share / 2000) / 0.2
    assert math.exp(found.log_posterior) == pytest.approx(share / 0.2, abs=error)


def test_density_of_a_location_coefficient_is_in_closed_form():
    """Variances that are all but known: β has a normal posterior, by dense algebra."""
    priors = Priors(
        location={"*": Normal(0.2, 1.5)},
        scale={
            "district: intrcpt": Normal(math.log(0.06), 1e-3),
            "district/school: intrcpt": Normal(math.log(0.03), 1e-3),
        },
    )
    model = lsm.LocationScaleModel(
        "yi ~ 1",
        {"district": "~ 1", "district/school": "~ 1"},
        variance="vi",
        data=lsm.load_dataset("konstantopoulos2011"),
        priors=priors,
    )
    found = model.fit_bayes(seed=1).savage_dickey("intrcpt", 0.1, part="location")
    y, ones = model.design.y, np.ones(len(model.design.y))
    sigma = np.diag(model.design.v)
    for term, tau2 in zip(model.design.terms, (0.06, 0.03), strict=True):
        sigma += tau2 * np.equal.outer(term.index, term.index)
    likelihood = multivariate_normal(0.1 * ones, sigma).logpdf(y)
    total = multivariate_normal(0.2 * ones, sigma + 1.5**2).logpdf(y)
    # The ratio of densities is that of the likelihood at the value to the marginal one; variances
    # spread by 1e-3 move it by less than as much.
    assert found.log_bf == pytest.approx(likelihood - total, abs=1e-3)
    assert found.log_prior == pytest.approx(norm.logpdf(0.1, 0.2, 1.5))
    assert found.restricted is None


def test_density_ratio_is_alike_by_either_solver(ablat, monkeypatch):
    ours = {part: savage_dickey(ablat, "ablat", part=part) for part in ("location", "scale")}
    monkeypatch.setattr(Design, "is_independent", False)
    again = _model("yi ~ ablat", "~ ablat").fit_bayes(engine="collapsed", draws=8000, seed=5)
    for part, a in ours.items():
        b = again.savage_dickey("ablat", part=part)
        assert a.log_prior == pytest.approx(b.log_prior, rel=1e-9)
        assert abs(a.log_bf - b.log_bf) < 4 * math.hypot(a.se, b.se)
        assert abs(b.agreement) < 4


@pytest.mark.slow
def test_random_intercepts_of_the_scale_stay_where_they_are():
    """NUTS, and bridges of its draws with and without the slope of ln τ²."""
    fits = [
        mixed_model(SMALL, scale).fit_bayes(seed=1, draws=8000, progress=False)
        for scale in ("~ x + (1 | country)", "~ 1 + (1 | country)")
    ]
    found, other = fits[0].savage_dickey("x"), bayes_factor(fits[1], fits[0])
    assert found.restricted is None
    assert abs(found.log_bf - other.log_bf) < 4 * math.hypot(found.se, other.se)


def test_wrong_questions_are_refused(schools, ablat):
    with pytest.raises(FitError, match="there is no scale term 'weeks'; there are 'intrcpt', 'abl"):
        ablat.savage_dickey("weeks")
    with pytest.raises(
        FitError, match="several scale terms have 'intrcpt'; write one of 'district"
    ):
        schools.savage_dickey("intrcpt", -2.0)
    with pytest.raises(FitError, match="there is no scale term 'weeks'"):
        schools.savage_dickey("weeks")
    with pytest.raises(FitError, match="part must be"):
        schools.savage_dickey(YEAR, part="both")
    with pytest.raises(FitError, match="value must be a finite number"):
        schools.savage_dickey(YEAR, math.nan)
