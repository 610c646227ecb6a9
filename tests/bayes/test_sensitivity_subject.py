"""A fit's unknowns and its refits: against densities written out, and each other."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest, multivariate_normal

import bayes_lsm as lsm
from bayes_lsm.bayes.engines.pareto import relative_efficiency, smooth_weights
from bayes_lsm.bayes.pointwise_likelihood import joint_log_likelihood
from bayes_lsm.bayes.sensitivity.other_priors import other_families
from bayes_lsm.bayes.sensitivity.refits import PriorRefitter, stretched, summarise
from bayes_lsm.bayes.sensitivity.subject import Subject
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.priors import HalfNormal, Normal, PartialCorrelation, Priors

from .levels import as_dependent

FEW = {"factors": (0.5, 2), "presets": (), "progress": False}


def berkey():
    return lsm.LocationScaleModel.from_file("berkey1998")


@pytest.fixture(scope="module")
def terms():
    return Subject(berkey().fit_bayes(seed=2))


def test_names_are_those_of_the_tables(terms):
    fit = berkey().fit_bayes(seed=2)
    assert [str(each) for each in terms.coefficients] == [
        f"{part}[{term}]" for part, term in fit.summary().index
    ]
    found = fit.sensitivity(**FEW, draws=2000)
    assert list(found.table.index) == list(fit.summary().index)
    # Draws of another number: medians differ by three errors of 1.25 SD / √1000 at most.
    sd = fit.summary()["sd"]
    assert (((found.table["median"] - fit.summary()["median"]) / sd).abs() < 0.15).all()


def test_the_likelihood_is_that_of_a_normal_distribution(terms):
    design = berkey().design
    found = PriorRefitter(terms, 100, 3).base()
    locations, term = found.drawn.flat_location, design.terms[0]
    values = terms.log_likelihood(found)
    for draw in range(0, 100, 20):
        tau = np.exp(term.table @ found.scale[draw, :2] / 2).reshape(-1, 2)
        R = correlation_matrices(found.scale[draw : draw + 1, 2:], 2, "unstructured")[0]
        M = np.zeros((10, 10))
        for block in design.blocks:
            M[np.ix_(block.rows, block.rows)] = block.covariance
        for group in range(len(term.groups)):
            rows = np.flatnonzero(term.index == group)
            A = term.slopes[rows]
            M[np.ix_(rows, rows)] += A @ (tau[group][:, None] * R * tau[group]) @ A.T
        mean = design.X @ locations[draw]
        assert values[draw] == pytest.approx(multivariate_normal(mean, M).logpdf(design.y))


@pytest.mark.parametrize("effects", ["normal", "student_t"])
def test_the_likelihood_of_independent_effects_is_that_of_each(effects):
    model = lsm.LocationScaleModel(
        "yi ~ ablat", "~ ablat", variance="vi", data=lsm.load_dataset("bcg"), study_effects=effects
    )
    fit = model.fit_bayes(engine="collapsed", draws=2000, seed=1)
    subject = Subject(fit)
    values = subject.log_likelihood(subject.drawn())
    each = fit.posterior.log_likelihood["effect"].values.sum(axis=-1)
    np.testing.assert_allclose(values, each.ravel(), rtol=1e-12)
    if effects == "normal":
        again = joint_log_likelihood(as_dependent(model.design), fit.draws)
        np.testing.assert_allclose(values, again, rtol=1e-10)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_likelihood_where_correlations_are_one_is_the_limit(terms, sign):
    """R is singular there, and has no Cholesky factor."""
    draws = terms.drawn().drawn.take(np.arange(20))
    near, at = (
        joint_log_likelihood(terms._design, replace(draws, kappa=np.full_like(draws.kappa, each)))
        for each in (15.0 * sign, 40.0 * sign)
    )
    # 1 − ρ² is 4e-13 at κ = 15, and at most some thousand times that in units of V.
    np.testing.assert_allclose(near, at, rtol=1e-8)


def repeated(draws, times):
    """Chains that stay where they are for so many draws."""
    again = draws.take(np.repeat(np.arange(draws.size), times)).in_chains(4)
    return replace(again, importance=None)


def test_draws_that_chains_repeat_count_once(terms):
    """Of draws taken eight times each the same is known as of the draws themselves."""
    once = PriorRefitter(terms, 1000, 7).base()
    near = terms.under(terms.priors, repeated(once.drawn, 8))
    wider = stretched(terms.priors, terms.coefficients, 2.0)
    refit = PriorRefitter(OnlyDrawn(terms), 1000, 7)
    found, expected = (refit(wider, near=each) for each in (near, once))
    log_ratio = np.log(found.weights)
    # An effective number is itself estimated, here to some 10%.
    assert relative_efficiency(near.drawn, log_ratio) == pytest.approx(1 / 8, rel=0.3)
    assert relative_efficiency(near.drawn, np.zeros_like(log_ratio)) == 1.0
    assert relative_efficiency(once.drawn, log_ratio) == 1.0
    # The same tail is smoothed, but for a few draws at its begin.
    shares = found.weights.reshape(-1, 8).sum(axis=1)
    np.testing.assert_allclose(shares, expected.weights, rtol=0.1)
    left = [
        float(re.search(r"the weights leave (\d+) draws", " ".join(each.problems))[1])
        for each in (found, expected)
    ]
    assert left[0] == pytest.approx(left[1], rel=0.3)


@pytest.mark.slow
def test_reweighted_draws_agree_with_refits_under_slightly_wider_priors(terms):
    """What a fit by NUTS is given, where the other engine can refit."""
    refit = PriorRefitter(terms, 40_000, 4)
    base = refit.base()
    for each in terms.coefficients:
        wider = stretched(terms.priors, [each], 1 / 0.9)
        exact = summarise(refit(wider), terms.coefficients, level=0.9)
        near = PriorRefitter(OnlyDrawn(terms), 40_000, 4)(wider, near=base)
        assert not near.problems
        weighted = summarise(near, terms.coefficients, level=0.9)
        # Ends of 90% intervals of 40,000 draws worth 20,000: 0.015 SD, and four of them.
        sd = (exact["ci_ub"] - exact["ci_lb"]) / 3.29
        for column in ("median", "ci_lb", "ci_ub"):
            assert (((exact[column] - weighted[column]) / sd).abs() < 0.08).all(), (each, column)


class OnlyDrawn:
    """A subject that no engine but NUTS could fit."""

    def __init__(self, subject):
        self._subject = subject

    def __getattr__(self, name):
        return getattr(self._subject, name)

    def can_draw(self, priors):
        return False


def test_power_scaling_agrees_with_refits_of_the_powered_prior(terms):
    """Normal priors only: to the power 1/f² they are normal, f times as wide."""
    fit = berkey().fit_bayes(seed=2, prior=lsm.priors.independent_normal(location=1, scale=2))
    subject = Subject(fit)
    refit = PriorRefitter(subject, 40_000, 5)
    base = refit.base()
    kept = [each for each in subject.coefficients if each.kind != "correlation"]
    exact = refit(stretched(subject.priors, kept, 1 / 0.9))
    log_prior = base.log_priors["location"] + subject.priors.scale.logpdf(base.scale)[:, :2].sum(
        axis=1
    )
    weights = np.exp((0.81 - 1) * log_prior)
    for j, each in enumerate(subject.coefficients):
        first = np.average(base.values[:, j], weights=weights)
        # A mean of 20,000 has an error of 0.007 SD; of ln τ² below, a long tail makes it larger.
        assert first == pytest.approx(exact.values[:, j].mean(), abs=0.05 * base.values[:, j].std())
        assert abs(first - base.values[:, j].mean()) < 0.5 * base.values[:, j].std(), each


def test_correlations_of_three_effects_share_one_prior():
    rng = np.random.default_rng(4)
    n = 90
    data = pd.DataFrame({"trial": np.repeat(np.arange(30), 3), "outcome": ["a", "b", "c"] * 30})
    shared = np.repeat(rng.normal(0, 0.4, 30), 3)
    data["vi"], data["yi"] = 0.02, shared + rng.normal(0, np.sqrt(0.02 + 0.05), n)
    model = lsm.LocationScaleModel(
        "yi ~ 0 + outcome", {"outcome | trial": "~ 0 + outcome"}, variance="vi", data=data
    )
    subject = Subject(model.fit_bayes(seed=1))
    assert [each.own for each in subject.coefficients[-3:]] == [(3, 4, 5)] * 3
    found = PriorRefitter(subject, 2000, 1).base()
    kappa = found.drawn.kappa.reshape(-1, 3)
    np.testing.assert_array_equal(found.scale[:, 3:], kappa)
    i, j = np.tril_indices(3, -1)
    R = correlation_matrices(found.scale[:, 3:], 3, "unstructured")
    np.testing.assert_allclose(np.tanh(found.values[:, -3:]), R[:, i, j], atol=1e-12)


@pytest.mark.parametrize("b", [0.7, 1.0, 2.5])
def test_quantiles_of_a_partial_correlation(b):
    prior = PartialCorrelation(b)
    p = np.array([0.01, 0.3, 0.5, 0.9])
    assert prior.cdf(prior.quantile(p)) == pytest.approx(p)
    x = np.linspace(-30, 1.0, 200_001)
    assert np.trapezoid(np.exp(prior.logpdf(x)), x) == pytest.approx(prior.cdf(1.0), abs=1e-6)
    assert kstest(prior.sample(4000, np.random.default_rng(1)), prior.cdf).pvalue > 1e-3


def test_priors_of_single_terms_are_made_wider_by_themselves():
    model = lsm.LocationScaleModel.from_file("konstantopoulos2011")
    given = {"district: intrcpt": HalfNormal(0.5), "district/school: intrcpt": Normal(-3, 1)}
    subject = Subject(model.fit_bayes(seed=1, prior=Priors(scale=given), draws=1000))
    which = [
        each for each in subject.coefficients if str(each) == "scale (district/school)[intrcpt]"
    ]
    wider = stretched(subject.priors, which, 2.0)
    assert wider.location is subject.priors.location
    assert wider.scale.priors == (
        HalfNormal(0.5), Normal(-3, 2), subject.priors.scale.priors[2]
    )  # fmt: skip


def test_exact_refits_and_reweighted_draws_agree(continent):
    """The prior to the power 0.81: refitted, and by weights on the draws of the half-flat model."""
    fit = continent.fit_bayes(prior="slides", draws=20_000, seed=1)
    subject = Subject(fit)
    refit = PriorRefitter(subject, draws=20_000, seed=1)
    base = refit.base()
    exact = refit(stretched(subject.priors, subject.coefficients, 1 / 0.9)).values
    log_weights, k = smooth_weights((0.81 - 1) * refit.log_densities(base)[0])
    assert k < 0.7
    weights = np.exp(log_weights)
    order = np.argsort(base.values, axis=0)
    half = [
        base.values[column[np.searchsorted(np.cumsum(weights[column]), 0.5)], j]
        for j, column in enumerate(order.T)
    ]
    # A median's error is 1.25 SD/√ESS in either; four of them, with an ESS of 5000.
    error = 4 * 1.25 * math.sqrt(2 / 5000) * exact.std(axis=0)
    assert (np.abs(np.median(exact, axis=0) - half) < error).all()


def test_other_families_have_the_same_middle(continent):
    subject = Subject(continent.fit_bayes(prior="weakly_informative", draws=1000, seed=1))
    priors = subject.priors
    found = {each.name: each.priors for each in other_families(subject)}
    assert "location: normal" not in found
    assert "scale slopes: normal" not in found
    assert "τ: half-normal" not in found
    quartiles = [0.25, 0.5, 0.75]
    for name in ("location: Laplace", "scale slopes: Cauchy", "scale slopes: Student t (3 df)"):
        part = "location" if name.startswith("location") else "scale"
        for own, other in zip(
            getattr(priors, part).priors[1:], getattr(found[name], part).priors[1:], strict=True
        ):
            assert type(other) is not type(own)
            assert other.quantile(quartiles) == pytest.approx(own.quantile(quartiles), abs=1e-9)
    level = priors.scale.priors[0]
    for name in ("τ: half-Cauchy", "τ: half-t (3 df)", "τ: log-normal"):
        assert found[name].scale.priors[0].quantile(0.5) == pytest.approx(level.quantile(0.5))
        assert found[name].scale.priors[1:] == priors.scale.priors[1:]
    # On ln τ², twice the τ is ln 4 more.
    twice = found["τ: twice as large"].scale.priors[0]
    assert twice.quantile(quartiles) == pytest.approx(level.quantile(quartiles) + math.log(4))
