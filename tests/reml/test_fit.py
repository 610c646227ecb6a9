"""Fits: what they do not depend on, extreme data, and what they say and print."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from bayes_lsm.errors import ConvergenceWarning, DivergentScaleWarning
from bayes_lsm.reml import fit_reml

from .designs import example, homogeneous_group, make_design

METHODS = pytest.mark.parametrize("method", ["REML", "ML"])
# Two climbs to one maximum from other coordinates: each stops within 1e-15 of the log-likelihood,
# so within about 1e-7 of a standard error.
SAME = {"rtol": 1e-6, "atol": 1e-6}


@METHODS
def test_units_of_moderators_change_only_their_coefficients(method):
    data = example()
    fit = fit_reml(make_design(data, "~ x", "~ x"), method=method)
    other = fit_reml(
        make_design(data.assign(x=2000 + 1e-3 * data["x"]), "~ x", "~ x"), method=method
    )
    # REML integrates over β, whose unit has changed by 1e-3: |X'X| takes care of it.
    assert other.loglik == pytest.approx(fit.loglik, abs=1e-7)
    np.testing.assert_allclose(other.tau2, fit.tau2, **SAME)
    np.testing.assert_allclose(1e-3 * other.alpha[1], fit.alpha[1], **SAME)
    np.testing.assert_allclose(other.alpha @ [1, 2000], fit.alpha[0], **SAME)
    np.testing.assert_allclose(1e-3 * other.scale["se"]["x"], fit.scale["se"]["x"], **SAME)
    np.testing.assert_allclose(other.location["zval"]["x"], fit.location["zval"]["x"], **SAME)


@METHODS
@pytest.mark.parametrize("unit", [1e-6, 100.0])
def test_the_unit_of_the_effects_moves_the_intercept_of_the_scale(method, unit):
    data = example()
    fit = fit_reml(make_design(data, "~ x", "~ x"), method=method)
    rescaled = data.assign(yi=unit * data["yi"], vi=unit**2 * data["vi"])
    other = fit_reml(make_design(rescaled, "~ x", "~ x"), method=method)
    np.testing.assert_allclose(other.alpha - fit.alpha, [2 * np.log(unit), 0], **SAME)
    np.testing.assert_allclose(other.vcov_scale, fit.vcov_scale, **SAME)
    np.testing.assert_allclose(other.beta / unit, fit.beta, **SAME)
    df = len(data) - (2 if method == "REML" else 0)
    assert other.loglik == pytest.approx(fit.loglik - df * np.log(unit), abs=1e-7)


@METHODS
def test_a_shift_of_the_effects_moves_only_the_intercept(method):
    data = example()
    fit = fit_reml(make_design(data, "~ x", "~ x"), method=method)
    other = fit_reml(make_design(data.assign(yi=data["yi"] + 50), "~ x", "~ x"), method=method)
    np.testing.assert_allclose(other.alpha, fit.alpha, **SAME)
    np.testing.assert_allclose(other.beta - fit.beta, [50, 0], **SAME)


@METHODS
def test_the_order_of_the_rows_does_not_matter(method):
    data = example()
    fit = fit_reml(make_design(data, "~ x", "~ x"), method=method)
    order = np.random.default_rng(2).permutation(len(data))
    other = fit_reml(make_design(data.iloc[order], "~ x", "~ x"), method=method)
    np.testing.assert_allclose(other.to_dataframe(), fit.to_dataframe(), **SAME)
    np.testing.assert_allclose(other.tau2, fit.tau2[order], **SAME)


def test_cell_means_and_treatment_coding_are_one_model():
    rng = np.random.default_rng(4)
    data = example(k=80).assign(g=rng.permutation(list("abcd") * 20))
    treatment = fit_reml(make_design(data, "~ g", "~ g"))
    cells = fit_reml(make_design(data, "~ 0 + g", "~ 0 + g"))
    assert cells.loglik == pytest.approx(treatment.loglik, abs=1e-9)
    np.testing.assert_allclose(
        cells.alpha, treatment.alpha + np.r_[0, np.full(3, treatment.alpha[0])], **SAME
    )
    assert (cells.qm.df, treatment.qm.df) == (4, 3)
    assert (cells.qs.df, treatment.qs.df) == (4, 3)


@METHODS
def test_five_studies(method):
    data = example(k=5, seed=8)
    fit = fit_reml(make_design(data), method=method)
    assert fit.converged
    assert np.isfinite(fit.aicc)
    assert len(fit.tau2) == 5


def test_one_degree_of_freedom():
    # With k − p = 1 REML sees one contrast c'y; with equal v its τ² is (c'y)² − v, or nothing.
    data = pd.DataFrame({"yi": [0.0, 5.0, 1.0, 9.0], "vi": 1.0, "x": [1, 2, 3, 4.0]})
    design = make_design(data, "~ x + I(x ** 2)")
    contrast = np.array([-1, 3, -3, 1]) / np.sqrt(20)
    assert fit_reml(design).tau2[0] == pytest.approx((contrast @ data["yi"]) ** 2 - 1, rel=1e-8)
    with pytest.warns(DivergentScaleWarning, match="all 4 studies"):
        flat = fit_reml(make_design(data.assign(yi=data["x"] + 0.5 * contrast), "~ x + I(x ** 2)"))
    assert flat.alpha[0] == -np.inf


def test_equal_variances_have_a_closed_form():
    data = example(k=12).assign(vi=0.1)
    fit = fit_reml(make_design(data))
    assert fit.tau2[0] == pytest.approx(data["yi"].var(ddof=1) - 0.1, rel=1e-8)
    nearly = fit_reml(make_design(data.assign(vi=0.1 + 1e-13 * np.arange(12))))
    assert nearly.tau2[0] == pytest.approx(fit.tau2[0], rel=1e-8)


@METHODS
def test_variances_over_twelve_orders_of_magnitude(method):
    rng = np.random.default_rng(11)
    v = 10.0 ** np.linspace(-8, 4, 60)
    x = rng.normal(size=60)
    y = rng.normal(size=60) * np.sqrt(v + np.exp(x))
    fit = fit_reml(
        make_design(pd.DataFrame({"yi": y, "vi": v, "x": x}), "~ x", "~ x"), method=method
    )
    assert fit.converged
    assert fit.divergence is None
    np.testing.assert_allclose(fit.alpha, [0, 1], atol=4 * fit.scale["se"].max())


def test_a_million_studies():
    data = example(k=1_000_000)
    fit = fit_reml(make_design(data, "~ x", "~ x"))
    np.testing.assert_allclose(fit.alpha, [-0.5, 0.6], atol=5 * fit.scale["se"].max())
    assert fit.scale["se"].max() < 0.01


def test_group_of_two_studies_with_their_own_line_tells_nothing_of_its_heterogeneity():
    # Each of the two lies on its line, so REML is constant in their τ².
    data = example(k=30, seed=5).assign(g=["b", "b"] + ["a"] * 28)
    with pytest.warns(ConvergenceWarning, match="not informed by the data: scale coefficient gb"):
        fit = fit_reml(make_design(data, "~ g * x", "~ g"))
    assert fit.divergence is None
    assert np.isnan(fit.scale.loc["gb", "se"])
    assert np.isfinite(fit.scale.loc["intrcpt", "se"])
    assert "not informed by the data" in str(fit)


@METHODS
def test_information_criteria(method):
    fit = fit_reml(make_design(example(), "~ x", "~ x"), method=method)
    n = 30 - (2 if method == "REML" else 0)
    assert fit.n_parameters == 4
    assert fit.aic == pytest.approx(-2 * fit.loglik + 8)
    assert fit.bic == pytest.approx(-2 * fit.loglik + 4 * np.log(n))
    assert fit.aicc == pytest.approx(fit.aic + 2 * 4 * 5 / (n - 5))


def test_omnibus_tests_leave_the_intercept_out():
    fit = fit_reml(make_design(example().assign(u=np.sin(np.arange(30))), "~ x + u", "~ x"))
    b, V = fit.beta[1:], fit.vcov_location[1:, 1:]
    assert fit.qm.statistic == pytest.approx(b @ np.linalg.inv(V) @ b)
    assert fit.qm.df == 2
    assert fit.qs.statistic == pytest.approx(fit.scale.loc["x", "zval"] ** 2)
    alone = fit_reml(make_design(example()))
    assert alone.qm.statistic == pytest.approx(alone.location["zval"].iloc[0] ** 2)


def test_tables():
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    columns = ["estimate", "se", "zval", "pval", "ci_lb", "ci_ub"]
    assert list(fit.location.columns) == list(fit.scale.columns) == columns
    assert list(fit.to_dataframe().index) == [
        ("location", "intrcpt"),
        ("location", "x"),
        ("scale", "intrcpt"),
        ("scale", "x"),
    ]
    pd.testing.assert_frame_equal(fit.at_stop, fit.to_dataframe())


def test_what_is_printed_of_a_divergence():
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(homogeneous_group("b"), "~ g", "~ g"))
    text, html = str(fit), fit._repr_html_()
    for shown in ("-inf", "no finite maximum", "gb"):
        assert shown in text
        assert shown in html
    assert "nan" not in text
    assert "nan" not in html
    stop = fit.at_stop.loc["scale", "gb"]
    assert stop["estimate"] < -8
    assert stop["se"] > 100


def test_the_caution_of_the_data_is_printed_last():
    design = dataclasses.replace(make_design(example()), caution="half of the rows are invented")
    fit = fit_reml(design)
    assert str(fit).endswith("Note: half of the rows are invented")
    assert "half of the rows are invented" in fit._repr_html_()


def test_a_second_maximum_that_is_as_good_is_told(continent_reml):
    # The talk's maximum, which ordinary starts lead to, and another that is 0.0076 higher.
    assert continent_reml.loglik == pytest.approx(-88.0582, abs=1e-4)
    assert continent_reml.rival_loglik == pytest.approx(-88.0505, abs=1e-4)
    assert continent_reml.rival[3] == pytest.approx(-1.70, abs=0.01)
    assert "another maximum, higher by 0.0076" in " ".join(str(continent_reml).split())
