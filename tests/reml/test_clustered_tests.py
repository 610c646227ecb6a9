"""Tests of coefficients with several scale terms: Wald, likelihood ratio, score, bootstrap."""

import dataclasses
import warnings

import numpy as np
import pytest
from bayes_lsm.reml.tests.clustered_score import expected_information
from scipy.stats import chi2

import bayes_lsm as lsm
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.likelihood.blocks.arrange import arrange_design
from bayes_lsm.likelihood.blocks.blocks import evaluate
from bayes_lsm.reml import (
    bootstrap_test,
    fit_reml,
    likelihood_ratio_test,
    score_test,
    wald_test,
)
from bayes_lsm.reml.resampling import simulate
from bayes_lsm.reml.tests.score_test import expected_information as expected_information_of_one
from bayes_lsm.specification import Specification

from .nested import nested_data, nested_model
from .peers import gums

METHODS = ["REML", "ML"]


@pytest.fixture(scope="module")
def full():
    data = nested_data(slopes=(0.5, 0.7), effect=0.2)
    return nested_model(data, location="yi ~ z", district="~ z", school="~ x").fit_reml(test="t")


def one_term(method="REML"):
    """The same model with one scale term, as either kind of fit."""
    data = lsm.load_dataset("bangertdrowns2004")
    words = Specification("yi ~ 1", "vi", scale={"residual": "~ I(ni / 100)"})
    clustered = fit_reml(build_design(words, data), method=method)
    single = lsm.LocationScaleModel("yi ~ 1", scale="~ I(ni / 100)", variance="vi", data=data)
    return clustered, single.fit_reml(method=method)


def test_wald_of_scale_coefficients_of_several_terms(full):
    """Their covariance is that of the curvature, across the terms."""
    data = arrange_design(full.design)
    V = np.linalg.inv(-evaluate(full.alpha, data, method="REML").hessian)
    joint = wald_test(full)  # district: z, school: x
    b = full.alpha[[1, 3]]
    expected = b @ np.linalg.solve(V[np.ix_([1, 3], [1, 3])], b)
    assert joint.statistic == pytest.approx(expected, rel=1e-9)
    assert joint.df == 2
    assert list(joint.table.index) == ["district: z", "school: x"]
    assert joint.table.loc["school: x", "se"] == pytest.approx(
        full.scale.loc[("school", "x"), "se"]
    )
    single = wald_test(full, contrast={"z": 1, "school: x": -1}, value=0.1)
    weights = np.array([0, 1, 0, -1])
    z = (weights @ full.alpha - 0.1) / np.sqrt(weights @ V @ weights)
    assert single.statistic == pytest.approx(z, rel=1e-9)
    assert single.df_residual is None


def test_wald_of_the_location_follows_the_fit(full):
    test = wald_test(full, part="location", contrast=np.eye(2))
    b = full.beta
    F = b @ np.linalg.solve(full.vcov_location, b) / 2
    assert test.statistic == pytest.approx(F)
    assert test.df_residual == len(full.design.y) - 2


def test_wald_names_that_are_not_clear(full):
    with pytest.raises(FitError, match="several scale terms have 'intrcpt'; write one of"):
        wald_test(full, terms="intrcpt")
    with pytest.raises(FitError, match="there is no scale term 'w'"):
        wald_test(full, terms="w")
    with pytest.raises(FitError, match="part must be"):
        wald_test(full, part="district")


def test_no_wald_of_what_diverges():
    data = lsm.load_dataset("konstantopoulos2011")
    words = {"district": "~ 1", "district/school": "~ 1", "year": "~ 1"}
    with pytest.warns(DivergentScaleWarning):
        fit = lsm.LocationScaleModel("yi ~ 1", words, variance="vi", data=data).fit_reml()
    with pytest.raises(FitError, match="does not exist: year: the likelihood has no finite"):
        wald_test(fit, terms="year: intrcpt")
    assert wald_test(fit, terms="district: intrcpt").df == 1


def test_likelihood_ratio_refuses_what_cannot_be_compared(full):
    data = nested_data(slopes=(0.5, 0.7), effect=0.2)
    words = {"district": "~ z", "school": "~ x"}
    without = nested_model(data, **words).fit_reml()
    with pytest.raises(FitError, match="REML likelihoods of different location parts"):
        likelihood_ratio_test(full, without)
    ml = [
        nested_model(data, location=y, **words).fit_reml(method="ML") for y in ("yi ~ z", "yi ~ 1")
    ]
    assert likelihood_ratio_test(*ml).df == 1
    with pytest.raises(FitError, match="REML with ML"):
        likelihood_ratio_test(full, ml[1])
    fewer = nested_model(data.iloc[:-2], location="yi ~ z").fit_reml()
    with pytest.raises(FitError, match="different rows"):
        likelihood_ratio_test(full, fewer)


def test_likelihood_ratio_refuses_other_sampling_covariances():
    data = lsm.load_dataset("assink2016")
    fits = [
        lsm.LocationScaleModel(
            "yi ~ 1",
            scale,
            variance="vi",
            data=data,
            sampling_covariance=lsm.SamplingCovariance("study", rho=rho),
        ).fit_reml()
        for scale, rho in (({"study": "~ 1", "id": "~ 1"}, 0.6), ({"study": "~ 1"}, 0.3))
    ]
    with pytest.raises(FitError, match="other sampling variances"):
        likelihood_ratio_test(*fits)


@pytest.mark.parametrize("method", METHODS)
def test_the_score_test_of_one_term_is_the_ordinary_one(method):
    clustered, single = one_term(method)
    ours, theirs = score_test(clustered), score_test(single)
    # Both stop near the null's maximum: within the root of 1e-13.
    assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-5)
    np.testing.assert_allclose(ours.information, theirs.information, rtol=1e-5)
    at = np.array([-2.0, 0.3])
    np.testing.assert_allclose(
        expected_information(at, clustered.design, method=method),
        expected_information_of_one(
            at, single.design.v, single.design.X, single.design.Z, method=method
        ),
        rtol=1e-10,
    )


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


@pytest.mark.parametrize("method", METHODS)
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
    found = expected_information(at, design, method=method)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_expected_information_is_the_mean_of_the_negative_hessian():
    words = {"district": "~ z", "school": "~ x"}
    fit = nested_model(nested_data(districts=8), **words).fit_reml()
    at, rng = coefficients_of(fit), np.random.default_rng(1)
    negative = [
        -evaluate(at, arrange_design(dataclasses.replace(fit.design, y=y)), method="REML").hessian
        for y in simulate(fit, 500, rng)
    ]
    error = np.std(negative, axis=0) / np.sqrt(len(negative))
    expected = expected_information(at, fit.design, method="REML")
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


def test_the_score_is_the_slope_at_the_fit_without(full):
    found = score_test(full)
    slope = evaluate(found.alpha, arrange_design(full.design), method="REML").score
    np.testing.assert_allclose(slope[[1, 3]], found.score, rtol=1e-9)
    np.testing.assert_allclose(slope[[0, 2]], 0.0, atol=1e-6)


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


def test_the_bootstrap_is_seeded_and_near_chi2_away_from_the_border():
    data = nested_data(7, districts=30)
    full, reduced = nested_model(data, school="~ x").fit_reml(), nested_model(data).fit_reml()
    test = bootstrap_test(full, reduced, iterations=40, seed=1, progress=False)
    again = bootstrap_test(full, reduced, iterations=40, seed=1, progress=False)
    np.testing.assert_array_equal(test.null, again.null)
    assert test.failed == 0
    # 40 draws of χ²(1): their mean is 1 with a standard error of 0.22.
    assert test.null.mean() == pytest.approx(1.0, abs=0.75)
    assert test.pval_chi2 == pytest.approx(chi2.sf(test.statistic, 1))


def test_the_bootstrap_of_a_variance_knows_its_border():
    """Without districts half of the statistics are 0; the reduced model is one of a single term."""
    data = nested_data(8, districts=15, rows=1, tau2=(0.05, 0.1))
    words = {"district": "~ 1", "residual": "~ 1"}
    full = lsm.LocationScaleModel("yi ~ 1", words, variance="vi", data=data).fit_reml()
    reduced = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data).fit_reml()
    test = bootstrap_test(full, reduced, iterations=100, seed=2, progress=False)
    assert 0.3 < np.mean(test.null < 1e-6) < 0.75
    assert test.pval < test.pval_chi2


def test_the_bootstrap_is_that_of_one_term():
    clustered, single = one_term("ML")
    data = lsm.load_dataset("bangertdrowns2004")
    reduced = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data).fit_reml(method="ML")
    draws = [
        bootstrap_test(full, reduced, iterations=12, seed=5, progress=False).null
        for full in (clustered, single)
    ]
    # The same seeds draw the same effects, and the searches find the same maxima.
    np.testing.assert_allclose(draws[0], draws[1], atol=1e-6)
