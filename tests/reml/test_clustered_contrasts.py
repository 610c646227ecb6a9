"""Marginal means and ratios of τ² of several scale terms, in the data's terms and at limits."""

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm import reml
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.reml.search.maximum import estimate
from bayes_lsm.specification import Specification

from .nested import nested_data, nested_model
from .peers import gums


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(4)
    found = nested_data(2, districts=24, slopes=(0.0, 0.7))
    kind = np.array(["a", "b", "c"])[rng.integers(0, 3, 72)]
    return found.assign(g=kind[found["school"]])


@pytest.fixture(scope="module")
def fit(data):
    return nested_model(data, school="~ g + x").fit_reml()


def limit_data():
    """Districts of kind a are all alike, those of kind b are not."""
    rng = np.random.default_rng(1)
    d = np.repeat(np.arange(20), 3)
    g = np.where(d < 10, "a", "b")
    y = np.where(d < 10, 0.0, 1.0) * rng.normal(size=20)[d] + 0.3 * rng.normal(size=60)
    within = y - pd.Series(y).groupby(d).transform("mean").to_numpy()
    return pd.DataFrame({"yi": np.where(g == "a", within, y), "vi": 0.05, "d": d, "g": g})


def fit_limit(formula):
    scale = {"d": formula}
    with pytest.warns(DivergentScaleWarning):
        return lsm.LocationScaleModel("yi ~ 1", scale, variance="vi", data=limit_data()).fit_reml()


def test_one_term_of_rows_has_the_ordinary_means():
    data = lsm.load_dataset("bcg")
    words = Specification("yi ~ 1", "vi", scale={"residual": "~ alloc + ablat"})
    several = estimate(build_design(words, data), "REML")
    one = lsm.LocationScaleModel("yi ~ 1", "~ alloc + ablat", variance="vi", data=data).fit_reml()
    for verb, variable in ((reml.tau_means, "alloc"), (reml.tau_contrasts, "alloc")):
        ours, theirs = verb(several, variable).table, verb(one, variable).table
        # Both stop within 1e-13 of the likelihood: √ of that in the coefficients.
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4)
    ours, theirs = reml.tau_steps(several, step="sd").table, reml.tau_steps(one, step="sd").table
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert list(ours.index) == [f"residual: {name}" for name in theirs.index]


def test_means_are_those_of_predictions_at_the_mean_of_the_groups(fit, data):
    groups = data.drop_duplicates("school")
    new = pd.DataFrame({"g": list("abc"), "x": groups["x"].mean()})
    predicted = fit.predict(new, terms=["school"]).table["tau2 (school)"]
    np.testing.assert_allclose(reml.tau_means(fit, "g").table["estimate"], predicted, rtol=1e-10)


def test_ratios_are_wald_tests_of_contrasts(fit):
    found = reml.tau_contrasts(fit, "g", measure="log_tau2").table
    contrast = {"school: gc": 1, "school: gb": -1}
    test = reml.wald_test(fit, contrast=contrast)
    assert found.loc["c − b", "zval"] == pytest.approx(test.statistic)
    assert found.loc["c − b", "ci_ub"] == pytest.approx(test.table["ci_ub"].iloc[0])
    step = reml.tau_steps(fit, "x", measure="log_tau2").table
    assert step.loc["school: x", "estimate"] == pytest.approx(
        fit.scale.loc[("school", "x")].iloc[0]
    )


def test_outcomes_have_a_mean_each():
    fit = gums("unstructured").fit_reml()
    table = reml.tau_means(fit, "outcome").table
    np.testing.assert_allclose(table["estimate"], np.exp(fit.alpha), rtol=1e-12)


def test_a_variable_of_several_terms_needs_its_term(data):
    fit = nested_model(data, district="~ z", school="~ z").fit_reml()
    with pytest.raises(FitError, match="several scale terms use 'z'; say which, grouping="):
        reml.tau_means(fit, "z", values=[0, 1])
    found = reml.tau_means(fit, "z", values=[0], grouping="school").table
    level = fit.scale.loc[("school", "intrcpt"), "estimate"]
    assert found["estimate"].iloc[0] == pytest.approx(np.exp(level))
    with pytest.raises(FitError, match="there is no scale term 'town'"):
        reml.tau_means(fit, "z", values=[0], grouping="town")
    with pytest.raises(FitError, match="several scale terms have 'z'"):
        reml.tau_steps(fit, "z")
    with pytest.raises(FitError, match="method must be 'delta'"):
        reml.tau_steps(fit, "school: z", method="profile")


@pytest.mark.parametrize("formula", ["~ g", "~ 0 + g"])
def test_a_level_without_variance_has_a_mean_of_0_in_any_coding(formula):
    """ln τ² of kind b is −inf + inf of the coefficients of ``~ g``."""
    fit = fit_limit(formula)
    means = reml.tau_means(fit, "g").table
    alive = fit.terms["d"].tau2.max()
    assert means["estimate"].to_list() == pytest.approx([0.0, alive])
    assert means["se"].isna().to_list() == [True, False]
    ratio = reml.tau_contrasts(fit, "g")
    assert ratio.table["estimate"].iloc[0] == np.inf
    assert "runs to infinity" in str(ratio)
    # The standard error of ln τ² of b is that of the model of its districts alone.
    alone = limit_data().query("g == 'b'")
    other = lsm.LocationScaleModel("yi ~ 1", {"d": "~ 1"}, variance="vi", data=alone).fit_reml()
    ours = means["se"].iloc[1] / means["estimate"].iloc[1]
    assert ours == pytest.approx(other.scale.loc[("d", "intrcpt"), "se"], rel=0.1)


@pytest.mark.parametrize("formula", ["~ g", "~ 0 + g"])
def test_predictions_at_a_limit_do_not_depend_on_the_coding(formula):
    fit = fit_limit(formula)
    new = pd.DataFrame({"g": ["a", "b"]})
    table = fit.predict(new).table
    assert table["tau2 (d)"].to_list() == pytest.approx([0.0, fit.terms["d"].tau2.max()])
    other = fit_limit("~ 0 + g").predict(new).table
    np.testing.assert_allclose(table, other, rtol=1e-5)
    # The deleted residual of a district of kind b has the τ² that the fit without it gives to b.
    found = fit.influence(cluster="d", progress=False)
    by_kind = fit_limit("~ 0 + g").leave_one_out(cluster="d", progress=False)
    rows = fit.terms["d"].term.index == 15
    expected = np.sqrt(0.05 + np.exp(by_kind.alpha[15, 1]) + by_kind.se_beta[15, 0] ** 2)
    assert found.deleted_residual_se[rows] == pytest.approx(expected, rel=1e-6)
