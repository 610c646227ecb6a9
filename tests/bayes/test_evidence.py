"""Evidence against quadrature, grids and closed forms; Bayes factors by two routes."""

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import halfnorm, multivariate_normal, norm, t

import bayes_lsm as lsm
from bayes_lsm.bayes import fit_bayes
from bayes_lsm.bayes.evidence.bayes_factor import bayes_factor, grade
from bayes_lsm.bayes.evidence.bridged_evidence import bridged_evidence
from bayes_lsm.bayes.evidence.evidence import read_importance
from bayes_lsm.bayes.evidence.marginal_likelihood import evidence
from bayes_lsm.bayes.fitting import as_fit
from bayes_lsm.bayes.posterior_sampling import checked
from bayes_lsm.design.design import Design, build_design
from bayes_lsm.errors import FitError
from bayes_lsm.priors import HalfNormal, Normal, Priors, StudentT
from bayes_lsm.specification import Specification

from .test_scale_random_intercepts import SMALL, model_of


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


def test_a_large_error_names_itself_and_its_cure(ablat):
    large = dataclasses.replace(ablat.draws.importance, log_evidence_se=0.234)
    (problem,) = read_importance(large).problems
    assert "a Monte Carlo error of 0.23 (at most 0.1 is good); take more draws" in problem
    assert read_importance(ablat.draws.importance).problems == ()


def schools(location, **options):
    return lsm.LocationScaleModel(
        "yi ~ 1",
        {"district": "~ 1", "district/school": "~ 1"},
        variance="vi",
        data=lsm.load_dataset("konstantopoulos2011"),
        priors=Priors(location={"*": location}, scale={"*": Normal(-2, 1)}),
        **options,
    )


def as_chains(fit):
    """As NUTS would give them: draws without a marginal likelihood."""
    return as_fit(checked(fit.design, fit.priors, replace(fit.draws, importance=None), fit.seed))


@pytest.mark.parametrize("name", ["konstantopoulos2011", "berkey1998", "assink2016"])
def test_the_bridge_finds_the_evidence_of_the_collapsed_engine(name):
    """Nested terms, correlations with dependent sampling errors, and moderators."""
    fit = lsm.LocationScaleModel.from_file(name).fit_bayes(engine="collapsed", draws=8000, seed=1)
    found = bridged_evidence(as_chains(fit))
    assert found.se < 0.05
    assert not found.problems
    assert abs(found.log - fit.log_evidence) < 4 * np.hypot(found.se, fit.evidence.se)


def test_evidence_of_chains_of_nested_groups_is_found_by_the_collapsed_engine():
    fit = schools(Normal(0, 1)).fit_bayes(seed=3)
    found = evidence(replace(as_chains(fit), seed=4))
    assert found.log != fit.log_evidence
    assert abs(found.log - fit.log_evidence) < 4 * np.hypot(found.se, fit.evidence.se)


def test_a_large_error_of_a_bridge_asks_for_more_draws():
    fit = lsm.LocationScaleModel.from_file("berkey1998").fit_bayes(
        engine="collapsed", draws=8000, seed=1
    )

    def bridged(step):
        chosen = fit.draws.take(np.arange(0, 8000, step))
        return bridged_evidence(as_chains(replace(fit, draws=chosen)))

    few, many = bridged(80), bridged(1)
    assert few.se > 0.1
    assert few.problems == (
        f"the log marginal likelihood has a Monte Carlo error of {few.se:.2g} (at most 0.1 is "
        "good); take more draws",
    )
    assert many.se < 0.1
    assert many.problems == ()


def test_a_bridge_that_has_not_settled_is_said(monkeypatch):
    fit = as_chains(schools(Normal(0, 1)).fit_bayes(seed=3))
    assert bridged_evidence(fit).problems == ()
    monkeypatch.setattr("bayes_lsm.bayes.evidence.bridge.MOST_ITERATIONS", 2)
    found = bridged_evidence(fit)
    assert any("did not settle in" in problem for problem in found.problems)


def test_evidence_is_alike_by_either_solver(monkeypatch):
    data = lsm.load_dataset("bcg")
    one = lsm.LocationScaleModel("yi ~ ablat", "~ ablat", variance="vi", data=data).fit_bayes(
        seed=2
    )
    _ = one.evidence
    monkeypatch.setattr(Design, "is_independent", False)
    words = Specification("yi ~ ablat", "vi", scale={"residual": "~ ablat"})
    terms = fit_bayes(build_design(words, data), seed=1)
    found = terms.bayes_factor(one)
    assert found.se < 0.05
    assert abs(found.log_bf) < 4 * found.se
    assert one.bayes_factor(terms).log_bf == -found.log_bf
    assert "scale residual ~ ablat" in str(found)


def test_a_bridge_is_alike_by_either_solver(ablat, monkeypatch):
    ours = bridged_evidence(ablat)
    assert abs(ours.log - ablat.log_evidence) < 4 * math.hypot(ours.se, ablat.evidence.se)
    monkeypatch.setattr(Design, "is_independent", False)
    # The same draws and the same density: what is left is rounding.
    assert bridged_evidence(ablat).log == pytest.approx(ours.log, abs=1e-9)


def _log_density_of_rows(model, beta, alphas):
    """ln N(y; β, V + Σ τ² ZZ') at each β, by dense matrices."""
    design = model.design
    cov = np.diag(design.v)
    for term, alpha in zip(design.terms, alphas, strict=True):
        cov = cov + np.exp(alpha) * np.equal.outer(term.index.ravel(), term.index.ravel())
    root = np.linalg.cholesky(cov)
    r, one = np.linalg.solve(root, np.column_stack([design.y, np.ones(len(design.y))])).T
    square = r @ r - 2 * beta * (r @ one) + beta**2 * (one @ one)
    return -0.5 * (square + len(r) * np.log(2 * np.pi)) - np.log(np.diag(root)).sum()


@pytest.mark.slow
def test_with_a_location_prior_of_heavy_tails_it_is_that_of_a_grid():
    model = schools(StudentT(3, 0.5, 0.1))
    fit = model.fit_bayes(draws=8000, seed=1, target_accept=0.95, progress=False)
    assert fit.importance is None
    beta, alpha = np.linspace(-2, 3, 401), np.linspace(-9, 4, 80)
    found = np.array([[_log_density_of_rows(model, beta, (a, b)) for b in alpha] for a in alpha])
    found += norm.logpdf(alpha, -2, 1)[:, None, None] + norm.logpdf(alpha, -2, 1)[:, None]
    found += t.logpdf(beta, 3, 0.5, 0.1)
    steps = (beta[1] - beta[0]) * (alpha[1] - alpha[0]) ** 2
    exact = logsumexp(found) + np.log(steps)
    assert fit.evidence.se < 0.05
    assert abs(fit.log_evidence - exact) < 4 * fit.evidence.se


@pytest.mark.slow
def test_with_random_intercepts_it_is_that_of_quadrature():
    priors = Priors(
        location={"*": Normal(0, 1)}, scale={"*": Normal(-1, 1)}, scale_sd=HalfNormal(1)
    )
    fit = model_of(SMALL, "~ 1 + (1 | country)", priors=priors).fit_bayes(
        draws=12_000, seed=5, target_accept=0.99, progress=False
    )
    node, weight = np.polynomial.hermite_e.hermegauss(41)
    beta, alpha, sd = np.linspace(-2, 3, 81), np.linspace(-6, 5, 81), np.linspace(0, 5, 161)
    trapezoid = np.where(sd > 0, 1.0, 0.5)
    total = norm.logpdf(beta)[:, None, None] + norm.logpdf(alpha, -1, 1)[:, None]
    total = total + halfnorm.logpdf(sd) + np.log(trapezoid)
    for _, rows in SMALL.groupby("country"):
        tau2 = np.exp(alpha[:, None, None] + sd[:, None] * node)  # (α, ω, node)
        for b, here in zip(beta, total, strict=True):
            log_p = np.zeros(tau2.shape)
            for y, v in zip(rows["yi"], rows["vi"], strict=True):
                log_p += norm.logpdf(y, b, np.sqrt(v + tau2))
            with np.errstate(divide="ignore"):  # far corners of the grid have no density
                here += np.log(np.exp(log_p) @ (weight / weight.sum()))
    steps = (beta[1] - beta[0]) * (alpha[1] - alpha[0]) * (sd[1] - sd[0])
    exact = logsumexp(total) + np.log(steps)
    assert fit.evidence.se < 0.1
    assert abs(fit.log_evidence - exact) < 4 * fit.evidence.se


def test_flat_location_priors_have_no_evidence():
    fit = as_chains(schools(Normal(0, 1)).fit_bayes(seed=1))
    flat = replace(fit, priors=fit.priors.model_copy(update={"location": {"*": lsm.priors.Flat()}}))
    with pytest.raises(FitError, match="integrate to 1, got a flat location prior"):
        _ = flat.log_evidence


def test_other_sampling_covariances_are_other_data():
    data = lsm.load_dataset("berkey1998")
    V = lsm.SamplingCovariance("trial", columns=["v1i", "v2i"])
    fits = [
        lsm.LocationScaleModel(
            "yi ~ 0 + outcome", {"trial": "~ 1"}, variance="vi", data=data, **options
        ).fit_bayes(draws=1000, seed=1)
        for options in ({"sampling_covariance": V}, {})
    ]
    with pytest.raises(FitError, match="same sampling covariances in both fits"):
        bayes_factor(*fits)
    assert bayes_factor(fits[0], replace(fits[0], seed=2)).log_bf == 0
