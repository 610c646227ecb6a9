"""Score tests: finite differences, a refit by hand, simulation, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from bayes_lsm.reml.tests.wald_and_ratio import wald_test
from scipy.stats import chi2

from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.likelihood.rows.closed_form import evaluate, log_likelihood
from bayes_lsm.reml import fit_reml, likelihood_ratio_test
from bayes_lsm.reml.tests.score_test import expected_information, score_test

from .designs import example, homogeneous_group, make_design

METHODS = pytest.mark.parametrize("method", ["REML", "ML"])


def loglik(alpha, design, method):
    tau2 = np.exp(design.Z @ alpha)
    return log_likelihood(design.y, design.v, design.X, tau2, method=method)


@METHODS
def test_the_score_is_the_slope_at_the_reduced_fit(method):
    design = make_design(example(z=np.arange(30.0) % 7), "~ x", "~ x + z")
    fit = fit_reml(design, method=method)
    found = score_test(fit, ["x", "z"])
    reduced = fit_reml(make_design(example(), "~ x"), method=method)
    np.testing.assert_allclose(found.alpha, [reduced.alpha[0], 0, 0], atol=1e-7)
    # Central differences: error h² = 1e-10 and rounding 1e-13/h = 1e-8.
    step = 1e-5 * np.eye(3)
    slopes = [
        (loglik(found.alpha + h, design, method) - loglik(found.alpha - h, design, method)) / 2e-5
        for h in step
    ]
    np.testing.assert_allclose(slopes, [0, *found.score], atol=1e-6)
    assert (found.df, found.terms) == (2, ("x", "z"))
    assert found.pval == pytest.approx(chi2.sf(found.statistic, 2))


@METHODS
def test_expected_information_is_the_mean_of_the_negative_hessian(method):
    design = make_design(example(k=15), "~ x", "~ x")
    alpha = np.array([-0.5, 0.6])
    variance = design.v + np.exp(design.Z @ alpha)
    rng = np.random.default_rng(1)
    hessians = [
        evaluate(
            alpha,
            design.X @ [0.5, 0.3] + rng.normal(size=15) * np.sqrt(variance),
            design.v,
            design.X,
            design.Z,
            method=method,
        ).hessian
        for _ in range(6000)
    ]
    scores = np.std(hessians, axis=0) / np.sqrt(6000)
    expected = expected_information(alpha, design.v, design.X, design.Z, method=method)
    mean = -np.mean(hessians, axis=0)
    if method == "REML":
        # Four Monte Carlo standard errors.
        assert (np.abs(mean - expected) < 4 * scores).all()
    else:
        # The profile likelihood's Hessian lacks what estimating β takes: a part p/k of it.
        np.testing.assert_allclose(mean, expected, rtol=0.35, atol=0.35)


@METHODS
def test_the_formula_with_full_matrices(method):
    design = make_design(example(z=np.arange(30.0) % 7), "~ x", "~ x + z")
    found = score_test(fit_reml(design, method=method), "z")
    W = np.diag(1 / (design.v + np.exp(design.Z @ found.alpha)))
    X = design.X
    P = W - W @ X @ np.linalg.inv(X.T @ W @ X) @ X.T @ W
    d = np.exp(design.Z @ found.alpha)
    V = [np.diag(d * z) for z in design.Z.T]
    T = P if method == "REML" else W
    score = np.array([0.5 * (design.y @ P @ A @ P @ design.y - np.trace(T @ A)) for A in V])
    information = np.array([[0.5 * np.trace(T @ A @ T @ B) for B in V] for A in V])
    # The scores of x and the intercept are 0 up to the accuracy of the maximum.
    assert found.statistic == pytest.approx(score @ np.linalg.solve(information, score), rel=1e-6)


def test_units_do_not_matter():
    data = example()
    plain = score_test(fit_reml(make_design(data, "~ x", "~ x")), "x")
    shifted = data.assign(x=2000 + 1e-3 * data["x"])
    other = score_test(fit_reml(make_design(shifted, "~ x", "~ x")), "x")
    assert other.statistic == pytest.approx(plain.statistic, rel=1e-6)


@pytest.mark.slow
def test_size_and_agreement_with_the_other_tests_at_100_studies():
    rng = np.random.default_rng(4)
    k, sets = 100, 1000
    x = rng.normal(size=k)
    v = rng.uniform(0.05, 0.2, size=k)
    pvals = []
    for _ in range(sets):
        data = pd.DataFrame({"yi": rng.normal(size=k) * np.sqrt(v + 0.5), "vi": v, "x": x})
        full = fit_reml(make_design(data, "~ 1", "~ x"))
        reduced = fit_reml(make_design(data))
        pvals.append(
            [
                score_test(full, "x").pval,
                likelihood_ratio_test(full, reduced).pval,
                wald_test(full).pval,
            ]
        )
    sizes = np.mean(np.array(pvals) < 0.05, axis=0)
    # 5% with a Monte Carlo standard error of 0.7%; four of them, as k is finite.
    assert (np.abs(sizes - 0.05) < 0.028).all(), sizes
    ranks = pd.DataFrame(pvals).corr("spearman").to_numpy()
    assert ranks.min() > 0.97


def test_it_exists_where_the_full_model_diverges():
    data = homogeneous_group("b")
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(data, "~ g", "~ g"))
    assert score_test(fit, "gb").pval < 0.01


def test_nothing_left_to_estimate():
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    found = score_test(fit, ["intrcpt", "x"])
    assert (found.alpha == 0).all()
    assert "χ²(df = 2)" in str(found)


def test_refusals():
    flat = pd.DataFrame({"yi": np.tile([-0.1, 0.1], 10), "vi": 1.0, "x": np.arange(20.0)})
    with pytest.warns(DivergentScaleWarning):
        nothing = fit_reml(make_design(flat, scale="~ x"))
    with pytest.raises(FitError, match=r"τ² is 0 in 20 of 20 studies.*bootstrap_test"):
        score_test(nothing, "x")
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    with pytest.raises(FitError, match="no scale term 'w'"):
        score_test(fit, "w")
    with pytest.raises(FitError, match="holds x"):
        score_test(fit_reml(fit.design, fixed={"x": 0.1}), "x")
    identity = fit_reml(make_design(example(), "~ x", "~ x", link="identity"))
    with pytest.raises(FitError, match="link='log'"):
        score_test(identity, "x")
