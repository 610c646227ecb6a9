"""Wald tests: metafor's anova, closed forms, and what is refused."""

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from bayes_lsm.reml.tests.wald_and_ratio import wald_test
from scipy.stats import chi2, norm, t

from bayes_lsm.datasets import load_dataset
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.reml import fit_reml

from .designs import example, homogeneous_group, make_design

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "frequentist.json").read_text(encoding="utf-8")
)["wald"]
CASES = [
    (name, method, test, i)
    for name, case in REFERENCE.items()
    for method in ("REML", "ML")
    for test in ("z", "t", "knha")
    for i in range(len(case[method][test]))
]


@cache
def fitted(name, method, test):
    case = REFERENCE[name]
    data = load_dataset(case["dataset"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        return fit_reml(
            make_design(data, case["location"], case["scale"]), method=method, test=test
        )


@pytest.mark.parametrize(("name", "method", "test", "i"), CASES)
def test_metafor(name, method, test, i):
    theirs = REFERENCE[name][method][test][i]
    fit = fitted(name, method, test)
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


def test_default_is_all_moderators():
    fit = fit_reml(make_design(example(z=np.arange(30.0) % 7), "~ x", "~ x + z"))
    assert wald_test(fit).statistic == pytest.approx(fit.qs.statistic, rel=1e-10)
    assert wald_test(fit, part="location").statistic ** 2 == pytest.approx(
        fit.qm.statistic, rel=1e-10
    )
    one = fit_reml(make_design(example()))
    assert wald_test(one).table.index.to_list() == ["intrcpt"]


def test_a_contrast_is_said_in_any_way():
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


def test_a_diverging_coefficient_is_refused_by_name_and_the_others_are_not():
    data = homogeneous_group("b")
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(data, "~ g", "~ g + x"))
    for arguments in ({}, {"terms": "gb"}, {"contrast": {"intrcpt": 1, "gb": 1}}):
        with pytest.raises(FitError, match=r"Wald test of gb does not exist.*gb to -inf"):
            wald_test(fit, **arguments)
    assert wald_test(fit, terms="x").statistic == pytest.approx(fit.scale["zval"]["x"])
    assert np.isfinite(wald_test(fit, part="location").statistic)


def test_a_fixed_coefficient_is_refused():
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
