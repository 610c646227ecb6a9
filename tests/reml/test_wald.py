"""Wald tests: metafor's anova, closed forms, several scale terms, and what is refused."""

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2, norm, t

import bayes_lsm as lsm
from bayes_lsm.datasets import load_dataset
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.reml import fit_reml, wald_test

from .conftest import SOLVERS
from .designs import example, homogeneous_group, make_design
from .nested import nested_data, nested_model
from .peers import gums

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "frequentist.json").read_text(encoding="utf-8")
)["wald"]
# Groups that share rows leave no count of independent variances: of scale coefficients z alone.
CASES = [
    (name, method, test, i, solver)
    for name, case in REFERENCE.items()
    for method in ("REML", "ML")
    for test in ("z", "t", "knha")
    for i, theirs in enumerate(case[method][test])
    for solver in SOLVERS
    if solver == "rows" or test == "z" or theirs["argument"] not in ("att", "Z")
]


@cache
def fitted(name, method, test, solver):
    case = REFERENCE[name]
    data = load_dataset(case["dataset"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        return fit_reml(
            make_design(data, case["location"], case["scale"]), method=method, test=test
        )


@pytest.mark.parametrize(("name", "method", "test", "i", "solver"), CASES, indirect=["solver"])
def test_metafor(name, method, test, i, solver):
    theirs = REFERENCE[name][method][test][i]
    fit = fitted(name, method, test, solver)
    part = "scale" if theirs["argument"] in ("att", "Z") else "location"
    names = getattr(fit.design, part).names
    given = np.array(theirs["value"])
    if theirs["argument"] in ("btt", "att"):
        found = wald_test(fit, part=part, terms=[names[j - 1] for j in np.atleast_1d(given)])
    else:
        found = wald_test(fit, part=part, contrast=given)
        ratio = found.table["zval" if test == "z" else "tval"]
        # metafor's SEs come from a numerical Hessian: 1e-8 relative; p-values in far tails lose
        # some digits more.
        for ours, there in (
            (found.table["estimate"], "estimate"),
            (found.table["se"], "se"),
            (ratio, "statistic"),
        ):
            np.testing.assert_allclose(ours, theirs[there], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(found.table["pval"], theirs["pval"], rtol=1e-4)
    joint = theirs["joint"]
    statistic = found.statistic**2 if found.df == 1 else found.statistic
    assert statistic == pytest.approx(joint["statistic"], rel=1e-6, abs=1e-8)
    assert found.df == joint["df1"]
    assert found.df_residual == joint["df2"]
    assert found.pval == pytest.approx(joint["pval"], rel=1e-4)


def test_default_is_all_moderators(solver):
    fit = fit_reml(make_design(example(z=np.arange(30.0) % 7), "~ x", "~ x + z"))
    assert wald_test(fit).statistic == pytest.approx(fit.qs.statistic, rel=1e-10)
    assert wald_test(fit, part="location").statistic ** 2 == pytest.approx(
        fit.qm.statistic, rel=1e-10
    )
    one = fit_reml(make_design(example()))
    assert wald_test(one).table.index.to_list() == ["intrcpt"]


def test_a_contrast_is_said_in_any_way(solver):
    fit = fit_reml(make_design(example(z=np.arange(30.0) % 7), "~ x", "~ x + z"))
    by_name = wald_test(fit, contrast=[{"x": 1, "z": -2}, {"intrcpt": 1}])
    by_row = wald_test(fit, contrast=[[0, 1, -2], [1, 0, 0]])
    assert by_name.statistic == by_row.statistic
    assert by_name.table.index.to_list() == ["x - 2×z", "intrcpt"]
    assert wald_test(fit, contrast={"x": -1}).statistic == pytest.approx(-fit.scale["zval"]["x"])
    # Another basis of the same space of hypotheses.
    turned = wald_test(fit, contrast=[[3, 1, -2], [1, 1, -2]])
    assert turned.statistic == pytest.approx(by_row.statistic, rel=1e-9)


def test_value_and_reference_distributions():
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    se = fit.scale["se"]["x"]
    found = wald_test(fit, terms="x", value=0.7)
    z = (fit.alpha[1] - 0.7) / se
    assert found.statistic == pytest.approx(z)
    assert found.pval == pytest.approx(2 * norm.sf(abs(z)))
    both = wald_test(fit, terms=["intrcpt", "x"], value=fit.alpha + np.array([0.1, 0]))
    assert both.pval == pytest.approx(chi2.sf(both.statistic, 2))
    small = fit_reml(make_design(example(), "~ x", "~ x"), test="t")
    assert wald_test(small, terms="x", value=0.7).pval == pytest.approx(2 * t.sf(abs(z), 28))
    assert "t(df = 28)" in str(wald_test(small, terms="x"))
    assert "χ²(df = 2)" in str(both)
    assert "nan" not in both._repr_html_().lower()


def test_a_diverging_coefficient_is_refused_by_name_and_the_others_are_not(solver):
    data = homogeneous_group("b")
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(data, "~ g", "~ g + x"))
    for arguments in ({}, {"terms": "gb"}, {"contrast": {"intrcpt": 1, "gb": 1}}):
        with pytest.raises(FitError, match=r"Wald test of gb does not exist.*gb to -inf"):
            wald_test(fit, **arguments)
    assert wald_test(fit, terms="x").statistic == pytest.approx(fit.scale["zval"]["x"])
    assert np.isfinite(wald_test(fit, part="location").statistic)


def test_a_fixed_coefficient_is_refused(solver):
    fit = fit_reml(make_design(example(), "~ x", "~ x"), fixed={"x": 0.5})
    with pytest.raises(FitError, match="no standard error"):
        wald_test(fit, terms="x")
    assert np.isfinite(wald_test(fit, terms="intrcpt").statistic)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"terms": "w"}, "no scale term 'w'; the scale terms are intrcpt, x"),
        ({"terms": []}, "no terms"),
        ({"terms": ["x", "x"]}, "once"),
        ({"contrast": {"w": 1}}, "no scale term 'w'"),
        ({"contrast": {}}, "no terms"),
        ({"contrast": [1, 2, 3]}, "weight for each of the 2 scale terms"),
        ({"contrast": "x"}, "mapping of term to weight"),
        ({"contrast": [0, 0]}, "combinations of each other"),
        ({"contrast": [[0, 1], [0, 2]]}, "combinations of each other"),
        ({"contrast": [0, np.nan]}, "finite"),
        ({"contrast": [0, 1], "terms": "x"}, "not both"),
        ({"terms": "x", "value": [1, 2]}, "value must be"),
        ({"part": "tau"}, "'location' or 'scale', got 'tau'"),
    ],
)
def test_bad_input(arguments, message):
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    with pytest.raises(FitError, match=message):
        wald_test(fit, **arguments)


@pytest.fixture(scope="module")
def levels():
    data = nested_data(slopes=(0.5, 0.7), effect=0.2)
    return nested_model(data, location="yi ~ z", district="~ z", school="~ x").fit_reml(test="t")


def test_scale_coefficients_of_several_terms(levels):
    """Their covariance is that of the curvature, across the terms."""
    V = np.linalg.inv(-likelihood_of(levels.design).evaluate(levels.alpha, "REML").hessian)
    joint = wald_test(levels)  # district: z, school: x
    b = levels.alpha[[1, 3]]
    expected = b @ np.linalg.solve(V[np.ix_([1, 3], [1, 3])], b)
    assert joint.statistic == pytest.approx(expected, rel=1e-9)
    assert joint.df == 2
    assert list(joint.table.index) == ["district: z", "school: x"]
    assert joint.table.loc["school: x", "se"] == pytest.approx(
        levels.scale.loc[("school", "x"), "se"]
    )
    single = wald_test(levels, contrast={"z": 1, "school: x": -1}, value=0.1)
    weights = np.array([0, 1, 0, -1])
    z = (weights @ levels.alpha - 0.1) / np.sqrt(weights @ V @ weights)
    assert single.statistic == pytest.approx(z, rel=1e-9)
    assert single.df_residual is None
    assert levels.qs.statistic == pytest.approx(joint.statistic)


def test_the_location_of_several_terms_follows_the_fit(levels):
    test = wald_test(levels, part="location", contrast=np.eye(2))
    b = levels.beta
    F = b @ np.linalg.solve(levels.vcov_location, b) / 2
    assert test.statistic == pytest.approx(F)
    assert test.df_residual == len(levels.design.y) - 2
    assert levels.qm.statistic == pytest.approx(levels.location.loc["z", "tval"] ** 2)


def test_correlations_take_no_place_among_the_coefficients():
    fit = gums("unstructured").fit_reml()
    table = wald_test(fit, contrast=np.eye(len(fit.alpha))).table
    np.testing.assert_allclose(table["se"], np.concatenate([fit.scale["se"]]), rtol=1e-12)


def test_names_that_are_not_clear(levels):
    with pytest.raises(FitError, match="several scale terms have 'intrcpt'; write one of"):
        wald_test(levels, terms="intrcpt")
    with pytest.raises(FitError, match="there is no scale term 'w'"):
        wald_test(levels, terms="w")
    with pytest.raises(FitError, match="part must be"):
        wald_test(levels, part="district")


def test_a_term_without_variance_is_refused_and_the_others_are_not():
    data = load_dataset("konstantopoulos2011")
    words = {"district": "~ 1", "district/school": "~ 1", "year": "~ 1"}
    with pytest.warns(DivergentScaleWarning):
        fit = lsm.LocationScaleModel("yi ~ 1", words, variance="vi", data=data).fit_reml()
    with pytest.raises(FitError, match="does not exist: year: the likelihood has no finite"):
        wald_test(fit, terms="year: intrcpt")
    assert wald_test(fit, terms="district: intrcpt").df == 1
