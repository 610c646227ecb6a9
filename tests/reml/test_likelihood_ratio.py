"""Likelihood-ratio tests: the number, and what cannot be compared."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

import bayes_lsm as lsm
from bayes_lsm.datasets import load_dataset
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.reml import fit_reml, likelihood_ratio_test

from .designs import example, homogeneous_group, make_design
from .nested import nested_data, nested_model

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "frequentist.json").read_text(encoding="utf-8")
)["lrt"]
CASES = [
    (model, name, method)
    for model, cases in REFERENCE.items()
    for name in cases
    for method in ("REML", "ML")
]


@pytest.mark.parametrize(("model", "name", "method"), CASES)
def test_metafor(model, name, method):
    case = REFERENCE[model][name]
    theirs = case[method]
    data = load_dataset(case["dataset"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        fits = [
            fit_reml(make_design(data, location, scale), method=method)
            for location, scale in (
                (case["location"], case["scale"]),
                (case["reduced_location"], case["reduced_scale"]),
            )
        ]
    if method == "REML" and case["location"] != case["reduced_location"]:
        # metafor warns and goes on.
        with pytest.raises(FitError, match="method='ML'"):
            likelihood_ratio_test(*fits)
        return
    found = likelihood_ratio_test(*fits)
    # A rival maximum that is higher by less than 0.05 is told and not reported.
    rival = 2 * np.nan_to_num(fits[0].rival_loglik - fits[0].loglik)
    # Both sides have their maxima to 1e-9.
    assert found.statistic + rival == pytest.approx(theirs["LRT"], abs=1e-6)
    for row, fit in zip(("full", "reduced"), fits, strict=True):
        table = found.table.loc[row.capitalize()]
        assert table["df"] == theirs[row]["df"]
        missing = np.nan_to_num(fit.rival_loglik - fit.loglik)
        assert table["logLik"] + missing == pytest.approx(theirs[row]["ll"], abs=1e-6)
        for ours in ("AIC", "BIC", "AICc"):
            assert table[ours] - 2 * missing == pytest.approx(theirs[row][ours], abs=2e-6)
    if not rival:
        assert found.pval == pytest.approx(theirs["pval"], abs=1e-6)


@pytest.fixture
def full(solver):
    return fit_reml(make_design(example(), "~ x", "~ x"))


@pytest.fixture
def reduced(solver):
    return fit_reml(make_design(example(), "~ x"))


def test_statistic(full, reduced):
    test = likelihood_ratio_test(full, reduced)
    assert test.statistic == pytest.approx(2 * (full.loglik - reduced.loglik))
    assert test.df == 1
    assert test.pval == pytest.approx(chi2.sf(test.statistic, 1))
    assert list(test.table.index) == ["Full", "Reduced"]
    assert test.table.loc["Full", "AIC"] == full.aic
    assert np.isnan(test.table.loc["Full", "LRT"])
    for text in (str(test), test._repr_html_()):
        assert f"{test.statistic:.4f}" in text
        assert "nan" not in text.lower()


def test_small_p_values_are_printed_as_such():
    data = homogeneous_group("b", k=100)
    with pytest.warns(DivergentScaleWarning):
        full = fit_reml(make_design(data, "~ g", "~ g"))
    test = likelihood_ratio_test(full, fit_reml(make_design(data, "~ g")))
    assert test.pval < 1e-4
    assert "<.0001" in str(test)
    assert "&lt;.0001" in test._repr_html_()


def test_another_coding_of_the_location_is_the_same_location(solver):
    data = example().assign(z=lambda d: 3 - 2 * d["x"])
    full = fit_reml(make_design(data, "~ x", "~ x"))
    test = likelihood_ratio_test(full, fit_reml(make_design(data, "~ z")))
    plain = likelihood_ratio_test(full, fit_reml(make_design(data, "~ x")))
    # |X'X| differs by the coding, and |X'WX| with it.
    assert test.statistic == pytest.approx(plain.statistic, abs=1e-9)


def test_locations_are_compared_by_ml():
    data = example()
    full, reduced = make_design(data, "~ x", "~ x"), make_design(data, "~ 1", "~ x")
    with pytest.raises(FitError, match="method='ML'"):
        likelihood_ratio_test(fit_reml(full), fit_reml(reduced))
    test = likelihood_ratio_test(fit_reml(full, method="ML"), fit_reml(reduced, method="ML"))
    assert test.df == 1
    assert test.statistic > 0


def test_what_cannot_be_compared(full, reduced):
    with pytest.raises(FitError, match=r"order \(full, reduced\)"):
        likelihood_ratio_test(reduced, full)
    with pytest.raises(FitError, match="REML with ML"):
        likelihood_ratio_test(full, fit_reml(reduced.design, method="ML"))
    with pytest.raises(FitError, match="different rows"):
        likelihood_ratio_test(full, fit_reml(make_design(example().iloc[1:], "~ x")))
    other = example().assign(u=np.sin(np.arange(30)))
    two = fit_reml(make_design(other, "~ x", "~ x + I(x ** 2)"))
    with pytest.raises(FitError, match="nested"):
        likelihood_ratio_test(two, fit_reml(make_design(other, "~ x", "~ u")))


def test_a_fixed_coefficient_is_a_null_hypothesis(full):
    reduced = fit_reml(full.design, fixed={"x": 0.5})
    test = likelihood_ratio_test(full, reduced)
    assert test.df == 1
    assert test.statistic == pytest.approx(2 * (full.loglik - reduced.loglik))
    # What is held at another value is another model, whatever its number of coefficients.
    with pytest.raises(FitError, match="special case"):
        likelihood_ratio_test(reduced, fit_reml(full.design, fixed={"x": 0.0, "intrcpt": -1.0}))
    both = fit_reml(full.design, fixed={"x": 0.5, "intrcpt": -1.0})
    assert likelihood_ratio_test(reduced, both).df == 1
    with pytest.raises(FitError, match="special case"):
        likelihood_ratio_test(
            reduced, fit_reml(make_design(example(), "~ x"), fixed={"intrcpt": 0.0})
        )


def test_other_codings_of_a_fixed_coefficient_are_the_same_model(solver):
    data = example().assign(z=lambda d: 3 - 2 * d["x"])
    full = fit_reml(make_design(data, "~ x", "~ x"))
    # 0.5 x = 0.75 − 0.25 z: the constant is the intercept's.
    one, other = (
        fit_reml(make_design(data, "~ x", scale), fixed=fixed)
        for scale, fixed in (("~ x", {"x": 0.5}), ("~ z", {"z": -0.25}))
    )
    statistics = [likelihood_ratio_test(full, fit).statistic for fit in (one, other)]
    assert statistics[0] == pytest.approx(statistics[1], abs=1e-9)


LEVELS = {"district": "~ z", "school": "~ x"}


def levels(**words):
    return nested_model(nested_data(slopes=(0.5, 0.7), effect=0.2), **words)


def test_several_terms_that_cannot_be_compared():
    full, without = levels(location="yi ~ z", **LEVELS).fit_reml(), levels(**LEVELS).fit_reml()
    with pytest.raises(FitError, match="REML likelihoods of different location parts"):
        likelihood_ratio_test(full, without)
    ml = [levels(location=y, **LEVELS).fit_reml(method="ML") for y in ("yi ~ z", "yi ~ 1")]
    assert likelihood_ratio_test(*ml).df == 1
    with pytest.raises(FitError, match="REML with ML"):
        likelihood_ratio_test(full, ml[1])
    data = nested_data(slopes=(0.5, 0.7), effect=0.2)
    fewer = nested_model(data.iloc[:-2], location="yi ~ z").fit_reml()
    with pytest.raises(FitError, match="different rows"):
        likelihood_ratio_test(full, fewer)


def test_a_term_less_is_said_to_be_at_a_border():
    full = levels().fit_reml()
    data = nested_data(slopes=(0.5, 0.7), effect=0.2)
    reduced = lsm.LocationScaleModel(
        "yi ~ 1", {"school": "~ 1"}, variance="vi", data=data
    ).fit_reml()
    test = likelihood_ratio_test(full, reduced)
    assert test.df == 1
    assert "a variance is at its border 0" in str(test)
    with pytest.raises(FitError, match="special case"):
        likelihood_ratio_test(levels(school="~ x").fit_reml(), levels(district="~ z").fit_reml())


def test_other_sampling_covariances():
    data = load_dataset("assink2016")
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
