"""Profiles of scale coefficients and correlations, against rma.mv and the likelihood itself."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

import bayes_lsm as lsm
from bayes_lsm import plots
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.likelihood.blocks.arrange import arrange_design
from bayes_lsm.likelihood.blocks.blocks import evaluate

from .peers import PEERS, gums, schools

VERBS = PEERS["metafor_verbs"]
# In the order of metafor's components: name, and from its units to ours.
PROFILED = [
    ("schools", 0, "district: intrcpt", np.log),
    ("schools", 1, "district/school: intrcpt", np.log),
    ("gums_UN", 0, "outcomeAL", np.log),
    ("gums_UN", 1, "outcome | trial: outcomePD", np.log),
    ("gums_UN", 2, "AL, PD", np.array),
]


@pytest.fixture(scope="module")
def fits():
    return {"schools": schools().fit_reml(), "gums_UN": gums("unstructured").fit_reml()}


@pytest.mark.parametrize(("case", "i", "name", "ours"), PROFILED)
def test_profile_and_interval_of_rma_mv(fits, case, i, name, ours):
    peer = VERBS[case]["profile"][i]
    loglik = np.array(peer["loglik"], dtype=float)
    found = fits[case].profile(name, points=ours(np.array(peer["value"])))
    # Its refits stop within 1e-9 of their maxima, never above.
    np.testing.assert_allclose(found.loglik, loglik, atol=1e-8)
    estimate, low, high = VERBS[case]["interval"][i]
    assert found.estimate == pytest.approx(float(ours(estimate)), abs=1e-4)
    # uniroot stops within 1e-8 of the root, in τ² or ρ; where τ² is small, ln τ² has fewer digits.
    assert found.lower == pytest.approx(float(ours(low)), abs=1e-6)
    assert found.upper == pytest.approx(float(ours(high)), abs=1e-6)


def test_intervals_are_those_of_the_profiles(fits):
    fit = fits["gums_UN"]
    table = fit.confidence_intervals(method="profile")
    single = fit.profile("outcomePD")
    np.testing.assert_allclose(
        table.loc[("outcome | trial", "outcomePD")], [single.estimate, single.lower, single.upper]
    )
    pairs = fit.confidence_intervals(part="correlation", method="profile")
    assert pairs.loc[("outcome | trial", "AL, PD"), "ci_ub"] == 1.0
    wald = fit.confidence_intervals(level=0.9)
    assert (wald["ci_lb"] > fit.scale["ci_lb"]).all()


def test_a_profile_that_stays_high_says_so(fits):
    found = fits["gums_UN"].profile("AL, PD", points=15)
    assert found.verdict == "flat towards +1"
    assert (np.abs(found.values) < 1).all()
    assert plots.profile(found).get_title(loc="left") == "flat towards +1"


def test_the_interval_is_one_sided_where_the_estimate_diverges():
    data = lsm.load_dataset("konstantopoulos2011")
    words = {"district": "~ 1", "district/school": "~ 1", "year": "~ 1"}
    crossed = lsm.LocationScaleModel("yi ~ 1", words, variance="vi", data=data)
    with pytest.warns(DivergentScaleWarning, match="all 6 groups of 'year'"):
        fit = crossed.fit_reml()
    found = fit.profile("year: intrcpt")
    assert found.estimate == -np.inf
    assert found.lower == -np.inf
    assert found.maximum == pytest.approx(fit.loglik, abs=1e-9)
    assert found.verdict == "flat towards -inf"
    # At the upper end the likelihood has fallen by half the quantile.
    there = fit.profile("year: intrcpt", points=[found.upper]).loglik[0]
    assert there == pytest.approx(fit.loglik - 1.920729, abs=1e-6)


def three_outcomes(seed=3, trials=30):
    """Three outcomes of each trial, some missing, with correlated true effects."""
    rng = np.random.default_rng(seed)
    R = np.array([[1.0, 0.6, 0.2], [0.6, 1.0, 0.4], [0.2, 0.4, 1.0]])
    u = rng.multivariate_normal(np.zeros(3), 0.2 * R, size=trials)
    trial, outcome = np.divmod(np.arange(3 * trials), 3)
    v = rng.uniform(0.02, 0.1, 3 * trials)
    y = u.ravel() + rng.normal(size=3 * trials) * np.sqrt(v)
    data = pd.DataFrame(
        {"yi": y, "vi": v, "trial": trial, "outcome": np.array(list("abc"))[outcome]}
    )
    return data.drop(index=[1, 14, 30])


@pytest.mark.parametrize("correlation", ["unstructured", "compound_symmetric"])
def test_every_correlation_is_profiled(correlation):
    model = lsm.LocationScaleModel(
        "yi ~ 0 + outcome",
        {"outcome | trial": "~ 0 + outcome"},
        variance="vi",
        data=three_outcomes(),
        correlation={"outcome | trial": correlation},
    )
    fit = model.fit_reml(method="ML")
    for name, row in fit.correlations.droplevel(0).iterrows():
        found = fit.profile(name, points=9)
        assert found.maximum == pytest.approx(fit.loglik, abs=1e-8)
        assert found.estimate == pytest.approx(row["estimate"], abs=1e-6)
        # Wald on Fisher's z and profile are near to each other in thirty trials.
        assert found.lower == pytest.approx(row["ci_lb"], abs=0.08)
        assert found.upper == pytest.approx(row["ci_ub"], abs=0.08)


def test_the_interval_of_a_later_correlation_is_that_of_its_own_order():
    """Sorted the other way round, the pair of the last two is the first, with a z of its own."""
    data = three_outcomes()
    renamed = data.assign(outcome=data["outcome"].map({"a": "z", "b": "b", "c": "c"}))
    tables = []
    for frame in (data, renamed):
        fit = lsm.LocationScaleModel(
            "yi ~ 0 + outcome",
            {"outcome | trial": "~ 0 + outcome"},
            variance="vi",
            data=frame,
        ).fit_reml()
        tables.append(fit.correlations.droplevel(0))
    # Two ways to the same maximum: each stops within 1e-13 of it, √ of that in the coefficients.
    np.testing.assert_allclose(tables[0].loc["b, c"], tables[1].loc["b, c"], atol=1e-5)
    np.testing.assert_allclose(tables[0].loc["a, b"], tables[1].loc["b, z"], atol=1e-5)


def test_a_held_coefficient_is_the_likelihood_at_it(fits):
    """The slopes carry it: no other coefficient of the term is left, so its likelihood is plain."""
    fit = fits["schools"]
    data = arrange_design(fit.design)
    other = fit.terms["district/school"].alpha[0]
    held = fit.profile("district: intrcpt", points=[-6.0]).loglik[0]
    grid = np.linspace(other - 2, other + 2, 400)
    best = max(evaluate(np.array([-6.0, x]), data, method="REML").value for x in grid)
    assert best <= held + 1e-9
    assert best == pytest.approx(held, abs=1e-3)  # a grid in steps of 0.01


def test_names_that_are_unknown_or_in_several_terms(fits):
    with pytest.raises(FitError, match="several scale terms have 'intrcpt'; write one of"):
        fits["schools"].profile("intrcpt")
    with pytest.raises(FitError, match="no scale coefficient or correlation 'weeks'"):
        fits["schools"].profile("weeks")
    with pytest.raises(FitError, match="must be 'wald', 'profile', 'permutation' or 'bootstrap'"):
        fits["schools"].confidence_intervals(method="jackknife")
    with pytest.raises(FitError, match="part must be"):
        fits["schools"].confidence_intervals(part="tau")


def test_two_effects_with_one_correlation_are_either_way_the_same():
    profiles = [
        gums(kind).fit_reml().profile("AL, PD", points=[-0.5, 0.0, 0.9]).loglik
        for kind in ("unstructured", "compound_symmetric")
    ]
    np.testing.assert_allclose(profiles[0], profiles[1], atol=1e-9)


def test_a_held_correlation_is_that_of_the_dense_likelihood(fits):
    """At ρ = 0.3 and the τ² that the profile chose, Σ by hand."""
    fit = gums("unstructured").fit_reml(method="ML")
    design = fit.design
    V = np.diag(design.v)
    for block in design.blocks:
        V[np.ix_(block.rows, block.rows)] = block.covariance
    term = design.terms[0]
    same = np.equal.outer(term.index, term.index)
    outcome = term.slopes.argmax(axis=1)
    R = np.where(np.equal.outer(outcome, outcome), 1.0, 0.3)

    def dense(alpha):
        tau = np.exp(alpha / 2)[outcome]
        sigma = V + same * R * np.outer(tau, tau)
        W = np.linalg.inv(sigma)
        beta = np.linalg.solve(design.X.T @ W @ design.X, design.X.T @ W @ design.y)
        return multivariate_normal.logpdf(design.y, design.X @ beta, sigma)

    from scipy.optimize import minimize

    found = minimize(lambda a: -dense(a), fit.terms[term.name].alpha, method="Nelder-Mead")
    held = fit.profile("AL, PD", points=[0.3]).loglik[0]
    assert -found.fun == pytest.approx(held, abs=1e-6)
