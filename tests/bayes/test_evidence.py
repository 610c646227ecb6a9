"""Evidence against quadrature, grids and closed forms; Bayes factors by two routes."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import halfnorm, multivariate_normal, norm

import bayes_lsm as lsm
from bayes_lsm.bayes.evidence.bayes_factor import bayes_factor, grade
from bayes_lsm.bayes.evidence.evidence import read_importance
from bayes_lsm.bayes.evidence.marginal_likelihood import evidence
from bayes_lsm.bayes.evidence.savage_dickey import savage_dickey
from bayes_lsm.priors import HalfNormal, Normal, Priors


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


def test_evidence_of_a_random_effects_model_is_that_of_quadrature():
    prior = Priors(location={"intrcpt": Normal(0.5, 2)}, scale={"intrcpt": HalfNormal(0.7)})
    fit = _model().fit_bayes(prior=prior, draws=40_000, seed=1)
    y, v = fit.design.y, fit.design.v
    ones = np.ones((len(y), len(y)))

    def density(tau):
        dense = multivariate_normal(np.full(len(y), 0.5), np.diag(v + tau**2) + 4 * ones)
        return np.exp(dense.logpdf(y)) * halfnorm.pdf(tau, scale=0.7)

    exact, _ = quad(density, 0, 8, epsabs=0, epsrel=1e-9, points=[0.5])
    error = fit.draws.importance.log_evidence_se
    # Beyond τ = 8 there is e^{-65} of the prior. Four Monte Carlo errors.
    assert error < 0.02
    assert fit.log_evidence == pytest.approx(math.log(exact), abs=4 * error)


def test_evidence_of_a_location_scale_model_is_that_of_a_grid():
    prior = Priors(
        location={"*": Normal(0, 3)}, scale={"intrcpt": Normal(-1, 2), "ablat": Normal(0, 0.05)}
    )
    fit = _model("yi ~ ablat", "~ ablat").fit_bayes(prior=prior, draws=40_000, seed=2)
    y, v, X, Z = fit.design.y, fit.design.v, fit.design.X, fit.design.Z
    # Six prior SDs either way; halving the steps moves the sum by less than 1e-4.
    grid = np.linspace(-6, 6, 121)
    values = []
    for a in -1 + 2 * grid:
        for b in 0.05 * grid:
            variance = v + np.exp(np.minimum(Z @ np.array([a, b]), 300))
            # |D + 9XX'| and its inverse by the p × p matrix, as Woodbury has it.
            A = X.T @ (X / variance[:, None]) + np.eye(2) / 9
            c = X.T @ (y / variance)
            square = np.sum(y**2 / variance) - c @ np.linalg.solve(A, c)
            log_det = np.sum(np.log(variance)) + np.linalg.slogdet(9 * A)[1]
            values.append(-0.5 * (len(y) * math.log(2 * math.pi) + log_det + square))
    weights = norm.logpdf(grid)[:, None] + norm.logpdf(grid)
    step = grid[1] - grid[0]
    exact = logsumexp(np.reshape(values, (121, 121)) + weights) + 2 * math.log(step)
    error = fit.draws.importance.log_evidence_se
    assert fit.log_evidence == pytest.approx(exact, abs=4 * error + 1e-4)


def test_bayes_factor_of_two_pinned_models_is_in_closed_form():
    """τ is all but known, so the data are normal and the location moderator's factor is exact."""
    scale = {"intrcpt": Normal(math.log(0.1), 1e-3)}
    prior = Priors(location={"*": Normal(0, 1)}, scale=scale)
    fits = [_model(f"yi ~ {x}").fit_bayes(prior=prior, seed=1) for x in ("ablat", "1")]
    exact = [
        multivariate_normal(
            np.zeros(13), np.diag(fit.design.v + 0.1) + fit.design.X @ fit.design.X.T
        ).logpdf(fit.design.y)
        for fit in fits
    ]
    found = bayes_factor(*fits, names=("slope", "no slope"), prior_odds=0.5)
    # A spread of 1e-3 in ln τ² moves each evidence by some 1e-6 times its curvature.
    assert found.log_bf == pytest.approx(exact[0] - exact[1], abs=1e-4 + 4 * found.se)
    odds = 0.5 * math.exp(exact[0] - exact[1])
    assert found.probability == pytest.approx(odds / (1 + odds), abs=1e-3)
    assert found.to_dataframe()["posterior"].sum() == pytest.approx(1)
    assert "slope: location ~ ablat" in str(found)


def test_evidence_of_chains_is_found_by_the_collapsed_engine(ablat, chains):
    found = evidence(chains)
    error = 4 * math.hypot(found.se, ablat.draws.importance.log_evidence_se)
    assert found.log == pytest.approx(ablat.log_evidence, abs=error)


def test_grades_are_those_of_their_sources():
    for bf, words in ((2.9, "not worth more than a bare mention"), (4, "positive")):
        assert grade(math.log(bf), "kass_raftery") == words
    assert grade(math.log(21), "kass_raftery") == "strong"
    assert grade(-math.log(151), "kass_raftery") == "very strong"
    jeffreys = [grade(math.log(bf), "jeffreys") for bf in (3, 4, 11, 40, 101)]
    assert jeffreys[1:] == ["substantial", "strong", "very strong", "decisive"]


def test_a_huge_bayes_factor_is_printed_as_a_power(ablat):
    found = bayes_factor(ablat, dataclasses.replace(ablat, seed=1))
    huge = dataclasses.replace(found, log_bf=1000.0)
    assert huge.bf == math.inf
    assert huge.probability == 1.0
    assert huge.title.startswith("Bayes factor e^1000.0")


def test_wrong_questions_are_refused(ablat, continent_bayes):
    with pytest.raises(lsm.FitError, match="same effects and variances in both fits, got k = 13"):
        bayes_factor(ablat, continent_bayes)
    with pytest.raises(lsm.FitError, match="grades must be 'kass_raftery' or 'jeffreys'"):
        bayes_factor(ablat, ablat, grades="lee")
    with pytest.raises(lsm.FitError, match="prior_odds must be finite and > 0"):
        bayes_factor(ablat, ablat, prior_odds=0)
    with pytest.raises(lsm.FitError, match="names must be two different ones"):
        bayes_factor(ablat, ablat, names=("a", "a"))
    with pytest.raises(lsm.FitError, match="there is no scale term 'weeks'"):
        savage_dickey(ablat, "weeks")
    with pytest.raises(lsm.FitError, match="part must be"):
        savage_dickey(ablat, "ablat", part="both")
    with pytest.raises(lsm.FitError, match="value must be a finite number"):
        savage_dickey(ablat, "ablat", math.nan)


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


def test_a_large_error_names_itself_and_its_cure(ablat):
    large = dataclasses.replace(ablat.draws.importance, log_evidence_se=0.234)
    (problem,) = read_importance(large).problems
    assert "a Monte Carlo error of 0.23 (at most 0.1 is good); take more draws" in problem
    assert read_importance(ablat.draws.importance).problems == ()
