"""Score tests: finite differences, a refit by hand, simulation, and what is refused."""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.likelihood.rows.closed_form import log_likelihood
from bayes_lsm.reml import fit_reml, likelihood_ratio_test, score_test, wald_test
from bayes_lsm.reml.resampling import simulate

from .designs import example, homogeneous_group, make_design
from .nested import nested_data, nested_model
from .peers import gums

METHODS = pytest.mark.parametrize("method", ["REML", "ML"])


def scale_matrix(design):
    return design.terms[0].table


def loglik(alpha, design, method):
    tau2 = np.exp(scale_matrix(design) @ alpha)
    return log_likelihood(design.y, design.v, design.X, tau2, method=method)


@METHODS
def test_the_score_is_the_slope_at_the_reduced_fit(method, solver):
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
def test_expected_information_is_the_mean_of_the_negative_hessian(method, solver):
    design = make_design(example(k=15), "~ x", "~ x")
    alpha = np.array([-0.5, 0.6])
    variance = design.v + np.exp(scale_matrix(design) @ alpha)
    rng = np.random.default_rng(1)
    # A solver of any effects takes longer for a set.
    sets = {"rows": 6000, "blocks": 1500}[solver]
    hessians = []
    for _ in range(sets):
        y = design.X @ [0.5, 0.3] + rng.normal(size=15) * np.sqrt(variance)
        likelihood = likelihood_of(dataclasses.replace(design, y=y))
        hessians.append(likelihood.evaluate(alpha, method).hessian)
    scores = np.std(hessians, axis=0) / np.sqrt(sets)
    expected = likelihood_of(design).information(alpha, method)
    mean = -np.mean(hessians, axis=0)
    if method == "REML":
        # Four Monte Carlo standard errors.
        assert (np.abs(mean - expected) < 4 * scores).all()
    else:
        # The profile likelihood's Hessian lacks what estimating β takes: a part p/k of it.
        np.testing.assert_allclose(mean, expected, rtol=0.35, atol=0.35)


@METHODS
def test_the_formula_with_full_matrices(method, solver):
    design = make_design(example(z=np.arange(30.0) % 7), "~ x", "~ x + z")
    found = score_test(fit_reml(design, method=method), "z")
    Z = scale_matrix(design)
    W = np.diag(1 / (design.v + np.exp(Z @ found.alpha)))
    X = design.X
    P = W - W @ X @ np.linalg.inv(X.T @ W @ X) @ X.T @ W
    d = np.exp(Z @ found.alpha)
    V = [np.diag(d * z) for z in Z.T]
    T = P if method == "REML" else W
    score = np.array([0.5 * (design.y @ P @ A @ P @ design.y - np.trace(T @ A)) for A in V])
    information = np.array([[0.5 * np.trace(T @ A @ T @ B) for B in V] for A in V])
    # The scores of x and the intercept are 0 up to the accuracy of the maximum.
    assert found.statistic == pytest.approx(score @ np.linalg.solve(information, score), rel=1e-6)


def test_units_do_not_matter(solver):
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


def test_it_exists_where_the_full_model_diverges(solver):
    data = homogeneous_group("b")
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(data, "~ g", "~ g"))
    assert score_test(fit, "gb").pval < 0.01


def test_nothing_left_to_estimate(solver):
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    found = score_test(fit, ["intrcpt", "x"])
    assert (found.alpha == 0).all()
    assert "χ²(df = 2)" in str(found)


def test_a_fixed_coefficient_stays_where_it_is(solver):
    data = example(z=np.arange(30.0) % 7)
    design = make_design(data, "~ x", "~ x + z")
    held = score_test(fit_reml(design, fixed={"z": 0.0}), "x")
    without = score_test(fit_reml(make_design(data, "~ x", "~ x")), "x")
    assert held.statistic == pytest.approx(without.statistic, rel=1e-6)
    other = score_test(fit_reml(design, fixed={"z": 0.2}))
    assert other.terms == ("x",)
    assert other.alpha[2] == 0.2
    # Central differences: error h² = 1e-10 and rounding 1e-13/h = 1e-8.
    step = 1e-5 * np.eye(3)[:2]
    slopes = [
        (loglik(other.alpha + h, design, "REML") - loglik(other.alpha - h, design, "REML")) / 2e-5
        for h in step
    ]
    np.testing.assert_allclose(slopes, [0, *other.score], atol=1e-6)


def test_refusals(solver):
    flat = pd.DataFrame({"yi": np.tile([-0.1, 0.1], 10), "vi": 1.0, "x": np.arange(20.0)})
    with pytest.warns(DivergentScaleWarning):
        nothing = fit_reml(make_design(flat, scale="~ x"))
    with pytest.raises(FitError, match=r"τ² is 0 in 20 of 20 .*bootstrap_test"):
        score_test(nothing, "x")
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    with pytest.raises(FitError, match="no scale term 'w'"):
        score_test(fit, "w")
    with pytest.raises(FitError, match="no score test of x: the fit holds it fixed"):
        score_test(fit_reml(fit.design, fixed={"x": 0.1}), "x")
    with pytest.raises(FitError, match="every scale coefficient is fixed"):
        score_test(fit_reml(fit.design, fixed={"x": 0.1, "intrcpt": -1.0}))
    with pytest.raises(FitError, match="got x at a bound"):
        score_test(fit_reml(fit.design, bounds={"x": (-0.1, 0.1)}), "x")


def test_only_of_the_log_link():
    identity = fit_reml(make_design(example(), "~ x", "~ x", link="identity"))
    with pytest.raises(FitError, match="link='log'"):
        score_test(identity, "x")


def coefficients_of(fit):
    """α and κ, term by term."""
    return np.concatenate(
        [part for each in fit.terms.values() for part in (each.alpha, each.kappa)]
    )


def dense_sigma(alpha, design):
    """Σ of two levels, or of correlated outcomes."""
    sigma = np.diag(design.v)
    for block in design.blocks:
        sigma[np.ix_(block.rows, block.rows)] = block.covariance
    first = 0
    for term in design.terms:
        q, s = len(term.names), len(term.effects)
        tau = np.exp(0.5 * term.Z @ alpha[first : first + q])
        R = np.eye(s)
        first += q
        if s == 2:
            R[0, 1] = R[1, 0] = np.tanh(alpha[first])
            first += 1
        loads = term.slopes * tau[term.index]
        sigma += np.equal.outer(term.index, term.index) * (loads @ R @ loads.T)
    return sigma


@METHODS
@pytest.mark.parametrize("case", ["levels", "outcomes"])
def test_expected_information_is_that_of_the_dense_matrices(case, method):
    model = gums("unstructured")
    if case == "levels":
        model = nested_model(
            nested_data(districts=8), location="yi ~ z", district="~ z", school="~ x"
        )
    fit = model.fit_reml(method=method)
    at, design = coefficients_of(fit), fit.design
    steps = 1e-5 * np.eye(len(at))
    V = [(dense_sigma(at + h, design) - dense_sigma(at - h, design)) / 2e-5 for h in steps]
    P = np.linalg.inv(dense_sigma(at, design))
    if method == "REML":
        WX = P @ design.X
        P = P - WX @ np.linalg.solve(design.X.T @ WX, WX.T)
    expected = [[0.5 * np.trace(P @ a @ P @ b) for b in V] for a in V]
    found = likelihood_of(design).information(at, method)
    # The central differences have an error of 1e-10 of a size 1e0, and rounding of 1e-11.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_expected_information_of_several_terms_is_the_mean_of_the_negative_hessian():
    words = {"district": "~ z", "school": "~ x"}
    fit = nested_model(nested_data(districts=8), **words).fit_reml()
    at, rng = coefficients_of(fit), np.random.default_rng(1)
    negative = [
        -likelihood_of(dataclasses.replace(fit.design, y=y)).evaluate(at, "REML").hessian
        for y in simulate(fit, 500, rng)
    ]
    error = np.std(negative, axis=0) / np.sqrt(len(negative))
    expected = likelihood_of(fit.design).information(at, "REML")
    # 4.5 Monte Carlo standard errors, of ten numbers.
    assert (np.abs(np.mean(negative, axis=0) - expected) < 4.5 * error).all()


def test_score_and_likelihood_ratio_agree_in_large_samples():
    data = nested_data(5, districts=300, slopes=(0.0, 0.4))
    full = nested_model(data, school="~ x").fit_reml()
    reduced = nested_model(data).fit_reml()
    ratio, score = likelihood_ratio_test(full, reduced), score_test(full, "x")
    assert ratio.statistic > 10
    # They differ by the third derivative of the likelihood, of the order of one standard error.
    assert score.statistic == pytest.approx(ratio.statistic, rel=0.15)
    assert score.terms == ("school: x",)
    assert np.count_nonzero(score.alpha) == 2


def test_the_score_of_several_terms_is_the_slope_at_the_fit_without():
    data = nested_data(slopes=(0.5, 0.7), effect=0.2)
    full = nested_model(data, location="yi ~ z", district="~ z", school="~ x").fit_reml(test="t")
    found = score_test(full)
    slope = likelihood_of(full.design).evaluate(found.alpha, "REML").score
    np.testing.assert_allclose(slope[[1, 3]], found.score, rtol=1e-9)
    # An ascent ends with a predicted gain of 1e-13: the slope is the root of it.
    np.testing.assert_allclose(slope[[0, 2]], 0.0, atol=1e-6)


def test_correlations_are_estimated_at_the_null():
    data = gums("unstructured")
    fit = data.fit_reml(method="ML")
    found = score_test(fit, fit.scale_names[0])
    null = fit_reml(fit.design, method="ML", fixed={fit.scale_names[0]: 0.0})
    at, design = coefficients_of(null), fit.design
    slope = likelihood_of(design).evaluate(at, "ML").score
    information = likelihood_of(design).information(at, "ML")
    efficient = 1 / np.linalg.inv(information)[0, 0]
    # The searches end within 1e-6 of a standard error of the same null.
    assert found.statistic == pytest.approx(slope[0] ** 2 / efficient, rel=1e-4)


def test_no_score_where_a_variance_is_zero():
    data = nested_data(3, tau2=(0.2, 1e-12))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        fit = nested_model(data, school="~ x").fit_reml()
    with pytest.raises(FitError, match="use bootstrap_test"):
        score_test(fit, "school: x")


@pytest.mark.slow
def test_the_size_of_the_score_test():
    """At 60 schools in 20 districts; χ² is an approximation, so 5% are met within 2%."""
    pvals = []
    for seed in range(250):
        data = nested_data(seed + 1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergentScaleWarning)
            fit = nested_model(data, school="~ x").fit_reml()
        try:
            pvals.append(score_test(fit, "x").pval)
        except FitError:  # a variance of zero
            continue
    assert len(pvals) > 220
    assert abs(np.mean(np.array(pvals) < 0.05) - 0.05) < 0.02 + 3 * np.sqrt(0.05 * 0.95 / 250)
