"""Bootstrap and permutation intervals with several scale terms: against refits and tests."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

import bayes_lsm as lsm
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.reml import fit_reml, permutation_test
from bayes_lsm.reml.intervals.intervals import confidence_intervals
from bayes_lsm.reml.resampling import simulate
from bayes_lsm.reml.search.maximum import estimate
from bayes_lsm.specification import Specification

from .nested import nested_data, nested_model
from .peers import gums

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def one_term():
    """The same model as either kind of fit."""
    data = lsm.load_dataset("bangertdrowns2004").assign(size=lambda d: d["ni"] / 100)
    words = Specification("yi ~ size", "vi", scale={"residual": "~ size"})
    single = lsm.LocationScaleModel("yi ~ size", scale="~ size", variance="vi", data=data)
    return estimate(build_design(words, data), "REML"), single.fit_reml()


def test_bootstrap_is_percentiles_of_the_other_engines_refits(one_term):
    clustered, single = one_term
    rng = np.random.default_rng(3)
    Y = np.vstack([simulate(clustered, 20, rng) for _ in range(3)])  # its batches
    refits = [_refit(single, y) for y in Y]
    for part in ("location", "scale"):
        found = clustered.confidence_intervals(
            part=part, method="bootstrap", level=0.8, iterations=60, seed=3, **QUIET
        )
        values = np.array([each.beta if part == "location" else each.alpha for each in refits])
        for end, at, open_end in (("ci_lb", 0.1, -np.inf), ("ci_ub", 0.9, np.inf)):
            known = np.where(np.isnan(values), open_end, values)
            expected = np.quantile(known, at, axis=0, method="inverted_cdf")
            # Either engine stops within 1e-13 of its maximum: the root of that, in the estimates.
            np.testing.assert_allclose(found[end], expected, rtol=1e-4, atol=1e-5)


def _refit(single, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        return fit_reml(replace(single.design, y=y))


@pytest.mark.parametrize("part", ["location", "scale"])
def test_permutation_of_rows_is_that_of_one_term(one_term, part):
    clustered, single = one_term
    options = {"part": part, "method": "permutation", "iterations": 100, "seed": 5, **QUIET}
    found = clustered.confidence_intervals(**options).to_numpy()
    expected = confidence_intervals(single, **options)
    half = (expected["ci_ub"] - expected["ci_lb"])["size"] / 2
    # The same permutations. Bisections end within 2^-12 of some half-widths, and another maximum in
    # one permutation of 100 moves an end by about 1/20 of one.
    np.testing.assert_allclose(found[1], expected.loc["size"], atol=0.1 * half)
    assert np.isnan(found[0, 1:]).all()


@pytest.mark.parametrize("part", ["location", "scale"])
def test_permutation_contains_zero_just_when_the_test_does_not_reject(part):
    checked = 0
    for seed in range(3):
        data = nested_data(seed, districts=8, schools=2, slopes=(0.0, 1.0), effect=0.3)
        words = {"location": "yi ~ z"} if part == "location" else {"school": "~ z"}
        fit = nested_model(data, **words).fit_reml()
        options = {"part": part, "iterations": 40, "seed": seed, **QUIET}
        test = permutation_test(fit, **options)
        name = "z" if part == "location" else "school: z"
        table = fit.confidence_intervals(method="permutation", level=0.8, **options)
        lower, upper = table[["ci_lb", "ci_ub"]].to_numpy()[-1]
        assert lower < table["estimate"].iloc[-1] < upper
        if abs(test.table["pval"][name] - 0.2) > 0.06:  # else within reach of 40 permutations
            assert (lower <= 0 <= upper) == (test.table["pval"][name] > 0.2)
            checked += 1
    assert checked >= 2


def test_what_is_open_is_open():
    """A variance that is 0 in many sets has no lower end; correlations end within their range."""
    fit = gums("unstructured").fit_reml()
    found = fit.confidence_intervals(
        part="correlation", method="bootstrap", iterations=60, seed=1, **QUIET
    )
    assert (found["ci_lb"] >= -1).all()
    assert (found["ci_ub"] <= 1).all()
    assert (found["ci_lb"] < found["estimate"]).all()
    small = nested_data(3, districts=5, schools=2)
    few = estimate(nested_model(small).design, "REML")
    ends = few.confidence_intervals(method="bootstrap", iterations=60, seed=1, **QUIET)
    assert (ends["ci_lb"] == -np.inf).any()
    again = few.confidence_intervals(method="bootstrap", iterations=60, seed=1, **QUIET)
    assert ends.equals(again)


def test_what_there_is_none_of():
    fit = nested_model(nested_data(2, districts=6), location="yi ~ z").fit_reml()
    for options, message in (
        ({"method": "jackknife"}, "'permutation' or 'bootstrap', got 'jackknife'"),
        ({"part": "correlation", "method": "permutation"}, "no permutation of clusters"),
        ({"method": "bootstrap", "cluster": "district"}, "cluster is for method='permutation'"),
        ({"method": "bootstrap", "iterations": 1}, "at least 2"),
        ({"part": "location", "method": "profile"}, "profile intervals are of the scale part"),
        ({"method": "permutation"}, "nothing to permute"),
    ):
        with pytest.raises(FitError, match=message):
            fit.confidence_intervals(**options)
