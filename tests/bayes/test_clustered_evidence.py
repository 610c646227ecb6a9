"""Evidence of several scale terms: two engines, quadrature, grids, and the engine of one term."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import halfnorm, norm, t

import bayes_lsm as lsm
from bayes_lsm.bayes import bayes_factor, fit_bayes
from bayes_lsm.bayes.evidence.bridged_evidence import bridged_evidence
from bayes_lsm.bayes.evidence.marginal_likelihood import evidence
from bayes_lsm.bayes.fitting import as_fit
from bayes_lsm.bayes.posterior_sampling import checked
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import FitError
from bayes_lsm.priors import HalfNormal, Normal, Priors, StudentT
from bayes_lsm.specification import Specification

from .levels import as_dependent
from .test_scale_random_intercepts import SMALL, model_of


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


def test_evidence_of_chains_is_found_by_the_collapsed_engine():
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


def test_one_term_of_rows_has_the_evidence_of_the_ordinary_engine():
    data = lsm.load_dataset("bcg")
    words = Specification("yi ~ ablat", "vi", scale={"residual": "~ ablat"})
    terms = fit_bayes(as_dependent(build_design(words, data)), seed=1)
    one = lsm.LocationScaleModel("yi ~ ablat", "~ ablat", variance="vi", data=data).fit_bayes(
        seed=2
    )
    found = terms.bayes_factor(one)
    assert found.se < 0.05
    assert abs(found.log_bf) < 4 * found.se
    assert one.bayes_factor(terms).log_bf == -found.log_bf
    assert "scale residual ~ ablat" in str(found)


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
