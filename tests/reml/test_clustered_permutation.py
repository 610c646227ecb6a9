"""Permutation tests that reshuffle whole clusters."""

import dataclasses
import itertools

import numpy as np
import pytest

import bayes_lsm as lsm
from bayes_lsm.errors import FitError
from bayes_lsm.reml import permutation_test
from bayes_lsm.reml.search.maximum import estimate

from .nested import nested_data, nested_model
from .peers import gums


def test_the_exact_test_goes_through_every_order_of_the_clusters():
    data = nested_data(2, districts=4, schools=4, effect=0.3)
    fit = nested_model(data, location="yi ~ z").fit_reml()
    test = permutation_test(fit, part="location", iterations=24, progress=False)
    assert test.exact
    assert test.iterations == 24
    # By hand: each district gets the z of another.
    z = data.groupby("district")["z"].first().to_numpy()
    by_hand = []
    for order in itertools.permutations(range(4)):
        moved = data.assign(z=z[list(order)][data["district"]])
        refit = nested_model(moved, location="yi ~ z")
        found = estimate(refit.design, "REML")
        by_hand.append(found.location.loc["z", "zval"])
    np.testing.assert_allclose(np.sort(test.null["z"]), np.sort(by_hand), atol=1e-6)
    observed = abs(fit.location.loc["z", "zval"])
    expected = np.mean(np.abs(by_hand) >= observed - 1e-6)
    assert test.table.loc["z", "pval"] == pytest.approx(expected)
    assert test.pval == pytest.approx(expected)


def test_scale_moderators_of_several_terms_move_together():
    data = nested_data(4, districts=16, slopes=(1.5, 0.0))
    fit = nested_model(data, district="~ z", school="~ z").fit_reml()
    test = permutation_test(fit, iterations=50, seed=1, progress=False)
    again = permutation_test(fit, iterations=50, seed=1, progress=False)
    np.testing.assert_array_equal(test.null_joint, again.null_joint)
    assert list(test.table.index) == list(fit.scale_names)
    assert test.df == 2
    assert test.statistic == pytest.approx(lsm.reml.wald_test(fit).statistic)
    assert test.null_joint[0] == pytest.approx(test.statistic)
    # Whole clusters: a scale formula's column has as many values as districts, after any order.
    assert test.failed == 0


def test_what_cannot_be_permuted_says_why():
    data = nested_data(4, districts=6)
    with pytest.raises(FitError, match="x of 'school' differs within groups of 'district'"):
        permutation_test(nested_model(data, school="~ x").fit_reml())
    with pytest.raises(FitError, match="nothing to permute"):
        permutation_test(nested_model(data, school="~ x").fit_reml(), part="location")
    fit = nested_model(data, location="yi ~ z").fit_reml()
    with pytest.raises(FitError, match="the groups of 'district' lie in several clusters"):
        permutation_test(fit, part="location", cluster="school")
    with pytest.raises(FitError, match="no scale term 'county'"):
        permutation_test(fit, part="location", cluster="county")
    with pytest.raises(FitError, match="one entry for each of the 36 rows"):
        permutation_test(fit, part="location", cluster=[1, 2])
    with pytest.raises(FitError, match="leave out starts"):
        permutation_test(fit, part="location", starts="several")
    with pytest.raises(FitError, match="outcomeAL"):
        permutation_test(gums("none").fit_reml(), part="location")


def test_groups_that_cross_ask_for_clusters():
    data = nested_data(4, districts=6).assign(year=lambda d: d["school"] % 4)
    model = lsm.LocationScaleModel(
        "yi ~ z", {"district": "~ 1", "year": "~ 1"}, variance="vi", data=data
    )
    fit = estimate(model.design, "REML")
    with pytest.raises(FitError, match="the groups of 'district' lie in several groups of 'year'"):
        permutation_test(fit, part="location")


@pytest.mark.slow
def test_the_size_of_the_permutation_test():
    """Under the null every order is as likely: 5% are rejected, up to Monte Carlo error."""
    pvals = []
    for seed in range(60):
        data = nested_data(seed + 50, districts=8, schools=2)
        fit = estimate(nested_model(data, location="yi ~ z").design, "REML")
        test = permutation_test(fit, part="location", iterations=20, seed=seed, progress=False)
        pvals.append(test.pval)
    # p is a multiple of 1/20.
    assert abs(np.mean(np.array(pvals) <= 0.1) - 0.1) < 3 * np.sqrt(0.1 * 0.9 / 60)


def test_an_order_leaves_the_effects_where_they_are():
    data = nested_data(4, districts=6)
    fit = nested_model(data, location="yi ~ z").fit_reml()
    test = permutation_test(fit, part="location", iterations=5, seed=1, exact=False, progress=False)
    assert test.iterations == 5
    assert dataclasses.is_dataclass(test)
    assert "permutation" in str(test)
