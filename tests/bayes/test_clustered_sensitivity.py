"""Prior sensitivity with several scale terms: against one term, refits and closed forms."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta as beta_distribution
from scipy.stats import halfnorm, kstest, multivariate_normal

import bayes_lsm as lsm
from bayes_lsm.bayes.sensitivity.clustered_sensitivity import Terms
from bayes_lsm.bayes.sensitivity.refits import Refitter, stretched, summarise
from bayes_lsm.design.design import build_design
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices, kappas_of
from bayes_lsm.priors import HalfNormal, Normal, PartialCorrelation, Priors
from bayes_lsm.specification import Specification

from .levels import as_dependent

FEW = {"factors": (0.5, 2), "presets": (), "progress": False}


def berkey():
    return lsm.LocationScaleModel.from_file("berkey1998")


@pytest.fixture(scope="module")
def both():
    """One model by the path of one term and by that of several: the groups are the studies."""
    data = lsm.load_dataset("preterm_iq")
    one = lsm.LocationScaleModel("yi ~ weeks", "~ weeks", variance="vi", data=data)
    words = Specification("yi ~ weeks", "vi", scale={"study": "~ weeks"})
    design = as_dependent(build_design(words, data))
    options = {"draws": 8000, "seed": 1}
    return one.fit_bayes(**options), lsm.bayes.fit_bayes(design, **options)


def test_a_clustered_spelling_of_one_term_gives_the_same_numbers(both):
    one, several = (fit.sensitivity(draws=20_000, **FEW) for fit in both)
    table = several.table
    assert list(one.table.index) == list(table.index)
    assert (table["verdict"] == one.table["verdict"]).all()
    # 20,000 draws, worth half as many independent ones: the ends of an interval have an error of
    # 0.03 SD, its length one of 1%, and a rate over a factor of 4 one of 0.01.
    for column, error in (
        ("share", 0.04), ("together", 0.04), ("contraction", 0.02), ("overlap", 0.03),
        ("prior_sens", 0.02), ("lik_sens", 0.03), ("moved", 0.06),
    ):  # fmt: skip
        difference = table[column].to_numpy() - one.table[column].to_numpy()
        assert np.abs(difference).max() < error, column
    sd = (one.table["ci_ub"] - one.table["ci_lb"]).to_numpy() / 3.92
    for column, error in (("median", 0.05), ("ci_lb", 0.15), ("ci_ub", 0.15)):
        difference = (table[column].to_numpy() - one.table[column].to_numpy()) / sd
        assert np.abs(difference).max() < error, column
    assert list(several.families.index.unique("prior")) == list(one.families.index.unique("prior"))
    assert several.tau.index.names[1] == "variance"
    assert one.tau.index.names[1] == "study"


@pytest.fixture(scope="module")
def terms():
    return Terms(berkey().fit_bayes(seed=2))


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
    found = Refitter(terms, 100, 3).base()
    term = design.terms[0]
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
        mean = design.X @ found.location[draw]
        assert values[draw] == pytest.approx(multivariate_normal(mean, M).logpdf(design.y))


def test_reweighted_draws_agree_with_refits_under_slightly_wider_priors(terms):
    """What a fit by NUTS is given, where the other engine can refit."""
    refit = Refitter(terms, 40_000, 4)
    base = refit.base()
    for each in terms.coefficients:
        wider = stretched(terms.priors, [each], 1 / 0.9)
        exact = summarise(refit(wider), terms.coefficients, level=0.9)
        near = Refitter(OnlyDrawn(terms), 40_000, 4)(wider, near=base)
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
    subject = Terms(fit)
    refit = Refitter(subject, 40_000, 5)
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


def test_a_correlation_without_data_is_the_priors():
    """Two outcomes that no trial has both of."""
    rng = np.random.default_rng(3)
    n = 16
    data = pd.DataFrame({"trial": np.arange(n), "outcome": np.where(np.arange(n) % 2, "a", "b")})
    data["vi"] = 0.02
    data["yi"] = rng.normal(0, np.sqrt(0.02 + 0.1), n)
    model = lsm.LocationScaleModel(
        "yi ~ 0 + outcome", {"outcome | trial": "~ 0 + outcome"}, variance="vi", data=data
    )
    found = model.fit_bayes(seed=1, prior=Priors(lkj=2.0)).sensitivity(**FEW)
    row = found.table.loc[("correlation", "a, b")]
    # Nothing is learned; lengths of intervals of 8000 draws have an error of 2%, squares of 4%.
    assert row["share"] == pytest.approx(1.0, abs=0.06)
    assert row["contraction"] == pytest.approx(0.0, abs=0.1)
    assert row["verdict"] == "prior-dominated"
    # LKJ(2) of two effects: r = 2 Beta(2, 2) − 1.
    ends = 2 * beta_distribution(2, 2).ppf([0.5, 0.025, 0.975]) - 1
    assert row[["median", "ci_lb", "ci_ub"]].to_numpy(dtype=float) == pytest.approx(ends, abs=0.04)
    assert (found.table["verdict"].drop(row.name) != "prior-dominated").all()


def test_correlations_of_three_effects_share_one_prior():
    rng = np.random.default_rng(4)
    n = 90
    data = pd.DataFrame({"trial": np.repeat(np.arange(30), 3), "outcome": ["a", "b", "c"] * 30})
    shared = np.repeat(rng.normal(0, 0.4, 30), 3)
    data["vi"], data["yi"] = 0.02, shared + rng.normal(0, np.sqrt(0.02 + 0.05), n)
    model = lsm.LocationScaleModel(
        "yi ~ 0 + outcome", {"outcome | trial": "~ 0 + outcome"}, variance="vi", data=data
    )
    subject = Terms(model.fit_bayes(seed=1))
    assert [each.own for each in subject.coefficients[-3:]] == [(3, 4, 5)] * 3
    found = Refitter(subject, 2000, 1).base()
    drawn = replace(subject._fit).terms["outcome | trial"].correlation
    kappa = kappas_of(drawn, "unstructured")
    np.testing.assert_allclose(correlation_matrices(kappa, 3, "unstructured"), drawn, atol=1e-12)
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
    subject = Terms(model.fit_bayes(seed=1, prior=Priors(scale=given), draws=1000))
    which = [
        each for each in subject.coefficients if str(each) == "scale (district/school)[intrcpt]"
    ]
    wider = stretched(subject.priors, which, 2.0)
    assert wider.location is subject.priors.location
    assert wider.scale.priors == (
        HalfNormal(0.5), Normal(-3, 2), subject.priors.scale.priors[2]
    )  # fmt: skip


def share_of_half_normal(fit, factor=1.1):
    """How fast the interval of ln ω² grows with its half-normal(1) prior, by weights."""
    log_omega2 = 2 * np.log(fit.terms["study"].random[0].sd)
    median = 2 * np.log(halfnorm.median())

    def log_length(width):
        back = median + (log_omega2 - median) / width
        ln_prior = (x / 2 - np.exp(x) / 2 for x in (back, log_omega2))
        weights = np.exp(next(ln_prior) - next(ln_prior))
        order = np.argsort(log_omega2)
        below = np.cumsum(weights[order]) - weights[order] / 2
        ends = np.interp([0.025, 0.975], below / weights.sum(), log_omega2[order])
        return np.log(ends[1] - ends[0])

    return (log_length(factor) - log_length(1 / factor)) / (2 * np.log(factor))


@pytest.mark.slow
def test_random_intercepts_are_judged_from_draws():
    """A scale with (1 | country): only NUTS can fit it, so its draws are reweighted."""
    rng = np.random.default_rng(6)
    country = np.repeat(np.arange(12), 8)
    u = rng.normal(0, 1.0, 12)
    data = pd.DataFrame({"study": np.arange(96), "country": country, "vi": 0.02})
    data["yi"] = rng.normal(0.2, np.sqrt(0.02 + np.exp(-2 + u[country])))
    model = lsm.LocationScaleModel(
        "yi ~ 1", {"study": "~ 1 + (1 | country)"}, variance="vi", data=data
    )
    fit = model.fit_bayes(seed=2, draws=4000, progress=False)
    found = fit.sensitivity(progress=False)
    assert found.reweighted
    assert "not refitted but reweighted, 4000 draws of NUTS" in " ".join(str(found).split())
    assert "only NUTS can refit" in found.skipped["slides"]
    name = ("scale_sd", "country")
    row = found.table.loc[name]
    assert row["median"] == pytest.approx(fit.summary().loc[name, "median"], rel=0.01)
    narrow, wide = (
        model.fit_bayes(seed=2, prior=Priors(scale_sd=HalfNormal(sd)), progress=False).summary()
        for sd in (0.5, 2.0)
    )
    # Of a half-normal prior a factor on ω is a shift of ln ω², not a stretching.
    length = [np.log(each.loc[name, "ci_ub"] / each.loc[name, "ci_lb"]) for each in (narrow, wide)]
    assert abs(np.log(length[1] / length[0]) / np.log(4)) < 0.35
    # With the formula of the prior, stretched by hand, on the same draws. Weights are not smoothed
    # here and quantiles interpolated: of 4000 draws that moves an end by a draw or two. The share
    # itself has a Monte Carlo error of about 0.1: 32,000 draws give 0.53 to 0.62.
    assert row["share"] == pytest.approx(share_of_half_normal(fit), abs=0.05)
    assert found.table.loc[("location", "intrcpt"), "verdict"] == "data-driven"
    asked = fit.sensitivity(presets=("slides",), progress=False)
    assert set(asked.presets.index.unique("prior")) == {"as fitted", "slides"}


@pytest.mark.parametrize("kind", ["unstructured", "compound_symmetric"])
def test_correlations_that_rounding_makes_one_are_read(kind):
    """κ beyond 19 gives ρ = 1 to the last digit: a singular matrix, whose κ is as large as any."""
    kappa = np.array([[0.4], [25.0], [-25.0]])
    found = kappas_of(correlation_matrices(kappa, 2, kind), kind)
    assert found[0] == pytest.approx(0.4, rel=1e-12)
    assert found[1] > 18
    assert found[2] < -18
    three = kappas_of(np.ones((1, 3, 3)), "unstructured")
    assert np.isfinite(three).all()
    np.testing.assert_allclose(correlation_matrices(three, 3, "unstructured"), 1.0, atol=1e-12)
