"""Estimators of one τ²: metafor's numbers, defining equations in dense matrices, Q-profile."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bayes_lsm.datasets import load_dataset
from bayes_lsm.errors import FitError
from bayes_lsm.reml import fit_reml
from bayes_lsm.reml.prediction.tau2_estimators import estimate_tau2, q_profile_interval

from .designs import example, make_design

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "frequentist.json").read_text(encoding="utf-8")
)
CASES, INTERVALS = REFERENCE["estimators"], REFERENCE["tau2_intervals"]
ESTIMATORS = ["DL", "HE", "SJ", "PM", "EB", "ML", "REML"]
# Closed forms and roots agree to the last digits (measured 4e-13); the likelihood's maximum is as
# exact as its flat top lets it be (measured 2e-7).
TOLERANCE = {"ML": 2e-6, "REML": 2e-6}


def near(ours, theirs, tolerance):
    theirs = np.array([np.nan if value is None else value for value in theirs])
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * 1e-3)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", CASES)
def test_estimates_as_metafor(name, estimator):
    case = CASES[name]
    found = estimate_tau2(make_design(load_dataset(case["dataset"]), case["location"]), estimator)
    theirs, tolerance = case[estimator], TOLERANCE.get(estimator, 1e-10)
    assert found.converged
    h = found.heterogeneity()
    near(
        [h.tau2, h.se_tau2, h.I2, h.H2, h.R2, h.typical_variance],
        [theirs[key] for key in ("tau2", "se_tau2", "I2", "H2", "R2", "vt")],
        tolerance,
    )
    near(list(h.Q), [theirs["QE"][key] for key in ("statistic", "df1", "pval")], 1e-10)
    for ours, key in (("estimate", "estimate"), ("se", "se"), ("zval", "statistic")):
        near(found.location[ours], theirs["location"][key], tolerance)
    near(found.location["ci_ub"], theirs["location"]["ci_ub"], tolerance)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("name", INTERVALS)
def test_q_profile_as_metafor(name, method):
    case = INTERVALS[name]
    design = make_design(load_dataset(case["dataset"]), case["location"])
    table = q_profile_interval(fit_reml(design, method=method)).table
    for row, key in zip(table.index, ("tau2", "tau", "I2", "H2"), strict=True):
        theirs = case[method]["QP"][key]
        near([table["estimate"][row]], [theirs["estimate"]], 2e-6)
        # metafor's root is found to 1e-13 of τ².
        near(table.loc[row, ["ci_lb", "ci_ub"]], [theirs["ci_lb"], theirs["ci_ub"]], 1e-9)


def projection(design, w):
    W, X = np.diag(w), design.X
    return W - W @ X @ np.linalg.inv(X.T @ W @ X) @ X.T @ W


@pytest.fixture
def design():
    return make_design(example(k=20, seed=2), "~ x")


def test_defining_equations(design):
    y, v = design.y, design.v
    k, p = design.X.shape
    P = projection(design, 1 / v)
    tau2 = estimate_tau2(design, "DL").tau2
    assert tau2 == pytest.approx((y @ P @ y - (k - p)) / np.trace(P), rel=1e-10)
    P = projection(design, np.ones(k))
    tau2 = estimate_tau2(design, "HE").tau2
    assert tau2 == pytest.approx((y @ P @ y - np.trace(P @ np.diag(v))) / (k - p), rel=1e-10)
    P = projection(design, 1 / (v + y.var()))
    assert estimate_tau2(design, "SJ").tau2 == pytest.approx(y.var() * (y @ P @ y) / (k - p))
    for estimator in ("PM", "EB"):
        P = projection(design, 1 / (v + estimate_tau2(design, estimator).tau2))
        assert y @ P @ y == pytest.approx(k - p, rel=1e-10)


@pytest.mark.parametrize("estimator", ["DL", "HE", "SJ"])
def test_standard_error_is_that_of_a_quadratic_form(design, estimator):
    # τ² is a y'Py + b with given weights; Var(y'Py) = 2 tr(PΣPΣ) with Σ = V + τ²I.
    y, v = design.y, design.v
    k, p = design.X.shape
    found = estimate_tau2(design, estimator)
    w, factor = {
        "DL": (1 / v, None),
        "HE": (np.ones(k), 1 / (k - p)),
        "SJ": (1 / (v + y.var()), y.var() / (k - p)),
    }[estimator]
    P = projection(design, w)
    S = P @ np.diag(v + found.tau2)
    factor = 1 / np.trace(P) if factor is None else factor
    assert found.se_tau2 == pytest.approx(factor * np.sqrt(2 * np.trace(S @ S)), rel=1e-10)


@pytest.mark.parametrize("estimator", ["ML", "REML"])
def test_likelihood_estimates_are_those_of_the_fit(design, estimator):
    found, fit = estimate_tau2(design, estimator), fit_reml(design, method=estimator)
    assert found.tau2 == pytest.approx(fit.tau2[0], rel=1e-12)
    np.testing.assert_allclose(found.beta, fit.beta, rtol=1e-12)
    np.testing.assert_allclose(found.location["se"], fit.location["se"], rtol=1e-9)
    assert str(found.heterogeneity()) == str(fit.heterogeneity())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_heterogeneity_at_all(estimator):
    data = example(k=12)
    found = estimate_tau2(make_design(data.assign(yi=0.3 + 1e-3 * data["x"])), estimator)
    limits = {"SJ": 1e-9, "ML": 0.0, "REML": 0.0}
    assert 0 <= found.tau2 <= limits.get(estimator, 0.0)
    assert found.truncated == (estimator in ("DL", "HE", "PM", "EB"))
    assert ("was set to 0" in str(found)) == found.truncated
    assert np.isfinite(found.se_tau2)
    assert np.isfinite(found.location).all(axis=None)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equal_effects_and_wild_variances(estimator):
    data = example(k=12).assign(yi=1.0, vi=10.0 ** np.linspace(-8, 4, 12))
    found = estimate_tau2(make_design(data), estimator)
    assert found.tau2 == 0
    assert np.isfinite(found.se_tau2)
    assert found.beta[0] == pytest.approx(1.0)


def test_bounds_are_where_q_has_its_quantiles(design):
    k, p = design.X.shape
    for level in (0.5, 0.9, 0.99):
        lower, upper = q_profile_interval(design, level=level).tau2
        for bound, quantile in ((lower, (1 + level) / 2), (upper, (1 - level) / 2)):
            P = projection(design, 1 / (design.v + bound))
            if bound > 0:
                target = stats.chi2(k - p).ppf(quantile)
                assert design.y @ P @ design.y == pytest.approx(target, rel=1e-9)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(5)
    v = rng.uniform(0.05, 0.5, size=10)
    data = example(k=10).assign(vi=v)
    covered = 0
    for _ in range(300):
        design = make_design(data.assign(yi=rng.normal(size=10) * np.sqrt(v + 0.4)))
        lower, upper = q_profile_interval(design, level=0.8).tau2
        covered += lower <= 0.4 <= upper
    # Exact, so 240 of 300 with a standard deviation of 7; 4 of those.
    assert abs(covered - 240) < 28


def test_an_empty_interval():
    data = example(k=12)
    found = q_profile_interval(make_design(data.assign(yi=0.3)))
    assert found.empty
    assert found.tau2 == (0.0, 0.0)
    assert "is empty" in str(found)
    assert not q_profile_interval(make_design(data)).empty


def test_whose_estimate_stands_beside_the_interval(design):
    one = q_profile_interval(design)
    other = q_profile_interval(estimate_tau2(design, "DL"))
    third = q_profile_interval(fit_reml(design))
    assert [one.estimator, other.estimator, third.estimator] == ["PM", "DL", "REML"]
    assert one.tau2 == other.tau2 == third.tau2
    lower, upper = one.tau2
    assert lower <= one.table.loc["τ²", "estimate"] <= upper
    assert "<table" in one._repr_html_()
    np.testing.assert_allclose(third.table.loc["τ"] ** 2, third.table.loc["τ²"], rtol=1e-12)


def test_refusals(design):
    with pytest.raises(FitError, match="'DL', 'HE', 'SJ', 'PM', 'EB', 'ML' or 'REML', got 'HS'"):
        estimate_tau2(design, "HS")
    location_scale = make_design(example(), "~ x", "~ x")
    with pytest.raises(FitError, match=r"estimate_tau2 does not take scale moderators: .* one τ²"):
        estimate_tau2(location_scale)
    with pytest.raises(FitError, match="q_profile_interval does not take scale moderators"):
        q_profile_interval(fit_reml(location_scale))
    with pytest.raises(FitError, match=r"between 0 and 1, such as 0\.95, got 95"):
        q_profile_interval(design, level=95)


def test_what_is_printed(design):
    text = str(estimate_tau2(design, "PM"))
    assert "Mixed-Effects Model (k = 20; τ² estimator: PM)" in text
    assert "I² (heterogeneity / total variability)" in text
    assert "R² (heterogeneity accounted for)" in text
    assert "<table" in estimate_tau2(design, "PM").to_html()
