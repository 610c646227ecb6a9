"""τ², I², H², R² and Cochran's Q, against dense matrices and closed forms."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

from bayes_lsm.datasets import load_dataset
from bayes_lsm.design.design import Design, build_design
from bayes_lsm.errors import DivergentScaleWarning
from bayes_lsm.likelihood.typical_variance import typical_variance
from bayes_lsm.reml import fit_reml, likelihood_ratio_test
from bayes_lsm.reml.prediction.heterogeneity import heterogeneity, standard_error_tau2
from bayes_lsm.reml.wald import cochran_q
from bayes_lsm.specification import Specification

from .designs import example, homogeneous_group, make_design

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "frequentist.json").read_text(encoding="utf-8")
)["fits"]
# Two maxima that the data do not choose between: metafor's best start leads to the other one.
OTHER_PEAK = ("preterm_continent", "REML")


def projection(variance, X):
    W = np.diag(1 / variance)
    return W - W @ X @ np.linalg.inv(X.T @ W @ X) @ X.T @ W


@pytest.fixture
def design():
    return make_design(example(), "~ x")


def test_q_and_typical_variance(design):
    P = projection(design.v, design.X)
    q = cochran_q(design)
    assert q.statistic == pytest.approx(design.y @ P @ design.y)
    assert q.df == 28
    assert q.pval == pytest.approx(chi2.sf(q.statistic, 28))
    assert typical_variance(design) == pytest.approx(28 / np.trace(P))
    # With equal variances it is that variance.
    assert typical_variance(make_design(example().assign(vi=0.3), "~ x")) == pytest.approx(0.3)


@pytest.mark.parametrize("solver", ["rows", "blocks"])
def test_standard_error(design, solver, monkeypatch):
    monkeypatch.setattr(Design, "is_independent", solver == "rows")
    P, W = projection(design.v + 0.7, design.X), np.diag(1 / (design.v + 0.7))
    expected = {"REML": np.sqrt(2 / np.trace(P @ P)), "ML": np.sqrt(2 / np.trace(W @ W))}
    for method, value in expected.items():
        assert standard_error_tau2(design, 0.7, 0.1, method) == pytest.approx(value)
    # Where there is no heterogeneity the information about τ² is that at 0.
    P = projection(design.v, design.X)
    assert standard_error_tau2(design, 0.0, 0.1, "REML") == pytest.approx(
        np.sqrt(2 / np.trace(P @ P))
    )


def test_i2_and_h2_are_one_ratio(design):
    found = heterogeneity(fit_reml(design))
    assert pytest.approx(100 * (1 - 1 / found.H2)) == found.I2
    assert pytest.approx(found.tau2 / found.typical_variance + 1) == found.H2
    assert found.tau == pytest.approx(np.sqrt(found.tau2))
    assert found.constant


def test_r2(design):
    found = heterogeneity(fit_reml(design))
    without = heterogeneity(fit_reml(make_design(example())))
    assert np.isnan(without.R2)
    assert pytest.approx(100 * max(0, 1 - found.tau2 / without.tau2), abs=1e-6) == found.R2
    # A moderator that explains nothing is not given less than nothing.
    noise = example().assign(x=np.tile([0.0, 1.0, 0.0], 10))
    assert heterogeneity(fit_reml(make_design(noise, "~ x"))).R2 >= 0
    # Without an intercept there is no model to compare with, as in metafor.
    assert np.isnan(heterogeneity(fit_reml(make_design(example(), "~ 0 + x"))).R2)


def test_of_a_scale_model_it_is_of_the_average_study():
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    found = heterogeneity(fit)
    assert found.tau2 == pytest.approx(fit.tau2.mean())
    assert not found.constant
    text = str(found)
    assert "τ² of the average study:" in text
    assert f"{fit.tau2.min():.4f} … {fit.tau2.max():.4f}" in text
    assert f"{found.R2_scale:.2f}%" in text
    assert "(SE = " in text


def test_by_study():
    fit = fit_reml(
        make_design(example(study=[f"s{i}" for i in range(30)]), "~ x", "~ x", study="study")
    )
    found = heterogeneity(fit)
    table, typical = found.by_study, found.typical_variance
    assert list(table.index) == list(fit.design.labels)
    np.testing.assert_allclose(table["tau2"], np.exp(fit.design.Z @ fit.alpha))
    np.testing.assert_allclose(table["tau"] ** 2, fit.tau2)
    np.testing.assert_allclose(table["H2"], 1 / (1 - table["I2"] / 100))
    np.testing.assert_allclose(table["I2"], 100 * fit.tau2 / (fit.tau2 + typical))
    assert "s2" in found.to_string(by_study=3)
    assert "s3" not in found.to_string(by_study=3)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("name", REFERENCE)
def test_metafor_by_study(name, method):
    case = REFERENCE[name]
    specification = Specification(case["location"], "vi", "yi", case["scale"])
    design = build_design(specification, load_dataset(case["dataset"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        fit = fit_reml(design, method=method)
    found = heterogeneity(fit)
    theirs = case[method]
    if (name, method) == OTHER_PEAK:
        assert fit.rival_loglik == pytest.approx(theirs["logLik"], abs=1e-6)
        return
    assert found.typical_variance == pytest.approx(theirs["vt"], rel=1e-12)
    # Where a coefficient diverges metafor has stopped at a τ² above 0: seen at 1e-9 of the others.
    # Elsewhere τ² agrees to 1e-8; in per cent of I² that is 1e-6.
    np.testing.assert_allclose(found.by_study["I2"], theirs["I2"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.by_study["H2"], theirs["H2"], rtol=1e-6)
    np.testing.assert_allclose(found.by_study["tau2"], theirs["tau2"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("link", ["log", "identity"])
def test_standard_error_of_the_average(link):
    data = example(g=np.tile(list("ab"), 15))
    fit = fit_reml(make_design(data, "~ x", "~ g", link=link))
    assert not fit.at_bound
    found = heterogeneity(fit)

    def average(alpha):
        eta = fit.design.Z @ alpha
        return np.mean(np.exp(eta) if link == "log" else eta)

    steps = 1e-6 * np.eye(2)
    gradient = [(average(fit.alpha + h) - average(fit.alpha - h)) / 2e-6 for h in steps]
    expected = np.sqrt(gradient @ fit.vcov_scale @ gradient)
    assert found.se_tau2 == pytest.approx(expected, rel=1e-7)


def test_standard_error_is_missing_or_zero_where_there_is_none():
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(homogeneous_group("b"), "~ g", "~ g"))
    assert np.isnan(heterogeneity(fit).se_tau2)
    assert heterogeneity(fit).by_study["I2"].min() == 0
    assert "SE" not in str(heterogeneity(fit))
    known = fit_reml(make_design(example(), "~ x"), fixed={"intrcpt": -1.0})
    assert heterogeneity(known).se_tau2 == 0
    held = fit_reml(make_design(example(), "~ x"), bounds={"intrcpt": (2.0, np.inf)})
    assert np.isnan(heterogeneity(held).se_tau2)


def test_r2_of_a_scale_model_is_against_the_random_effects_model():
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    total = fit_reml(make_design(example())).tau2[0]
    expected = 100 * max(0, 1 - fit.tau2.mean() / total)
    found = heterogeneity(fit).R2
    assert found == pytest.approx(expected, abs=1e-6)
    assert np.isnan(heterogeneity(fit_reml(make_design(example(), "~ 1", "~ x"))).R2)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_r2_of_the_scale_part(method):
    full = fit_reml(make_design(example(), "~ x", "~ x"), method=method)
    constant = fit_reml(make_design(example(), "~ x"), method=method)
    ratio = likelihood_ratio_test(full, constant).statistic
    n = 28 if method == "REML" else 30
    found = heterogeneity(full).R2_scale
    assert found == pytest.approx(100 * (1 - np.exp(-ratio / n)))
    assert 0 < found < 100
    # The coding of the moderators does not matter, a constant among them does.
    data = example(g=np.tile(list("ab"), 15))
    by_level = fit_reml(make_design(data, "~ x", "~ 0 + g"), method=method)
    by_contrast = fit_reml(make_design(data, "~ x", "~ g"), method=method)
    expected = heterogeneity(by_contrast).R2_scale
    assert heterogeneity(by_level).R2_scale == pytest.approx(expected, abs=1e-6)
    assert np.isnan(heterogeneity(fit_reml(make_design(data, "~ x", "~ 0 + x"))).R2_scale)
    assert np.isnan(heterogeneity(constant).R2_scale)


def test_none():
    with pytest.warns(DivergentScaleWarning):
        found = heterogeneity(fit_reml(make_design(example().assign(yi=1.0))))
    assert (found.tau2, found.I2, found.H2) == (0, 0, 1)
    assert found.Q.statistic == pytest.approx(0, abs=1e-20)


def test_printed(design):
    found = heterogeneity(fit_reml(design))
    assert found.Q.pval < 1e-4
    text = str(found)
    assert "p < .0001" in text
    assert f"{found.tau2:.4f} (SE = {found.se_tau2:.4f})" in text
    assert f"{found.R2:.2f}%" in text
    statistic, df, pval = found.Q  # type: ignore[misc]
    assert (statistic, df, pval) == (found.Q.statistic, found.Q.df, found.Q.pval)
