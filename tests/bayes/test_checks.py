"""Posterior predictive checks: their quantities by other routes, their p-values under a truth."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import skew

import bayes_lsm as lsm
from bayes_lsm.links import tau2_from_log


@pytest.fixture(scope="module")
def check(continent_bayes):
    return continent_bayes.posterior_predictive_check(quantities={"range": np.ptp}, seed=1)


def test_quantities_of_the_observed_effects(check, continent, continent_reml):
    y, v = continent.design.y, continent.design.v
    observed = {name: values[0] for name, values in check.observed.items()}
    # metafor's QE, to its printed digits and more: two routes to a sum of 37 squares.
    assert observed["Q"] == pytest.approx(continent_reml.qe.statistic, rel=1e-10)
    assert observed["share significant"] == np.mean(np.abs(y / np.sqrt(v)) > 1.96)
    assert observed["smallest effect"] == y.min()
    assert observed["range"] == np.ptp(y)


def test_quantities_that_hang_on_the_coefficients(continent_bayes):
    design, draws = continent_bayes.design, continent_bayes.draws
    check = continent_bayes.posterior_predictive_check(draws=200, seed=2)
    chosen = np.random.default_rng(2).choice(40_000, size=200, replace=False)
    beta, alpha = draws.flat_location[chosen[7]], draws.flat_scale[chosen[7]]
    z = (design.y - design.X @ beta) / np.sqrt(design.v + tau2_from_log(design.Z @ alpha))
    assert check.observed["largest |z|"][7] == pytest.approx(np.abs(z).max())
    assert check.observed["skewness of z"][7] == pytest.approx(skew(z))
    weeks = np.corrcoef(np.abs(z), design.Z[:, 3])[0, 1]
    assert check.observed["cor(|z|, I(weeks - 40))"][7] == pytest.approx(weeks)
    se = np.corrcoef(z, np.sqrt(design.v))[0, 1]
    assert check.observed["cor(z, standard error)"][7] == pytest.approx(se)


def test_p_values_count_ties_by_half(check):
    table = check.to_dataframe().loc["Quantity"]
    replicated, observed = check.replicated["Q"], check.observed["Q"]
    assert table.loc["Q", "ppp"] == pytest.approx(np.mean(replicated > observed))
    ties = check.replicated["share significant"] == check.observed["share significant"]
    assert ties.any()
    higher = np.mean(check.replicated["share significant"] > check.observed["share significant"])
    assert table.loc["share significant", "ppp"] == pytest.approx(higher + ties.mean() / 2)


def test_heterogeneity_that_the_scale_part_misses_is_found():
    rng = np.random.default_rng(4)
    k = 120
    data = pd.DataFrame({"x": rng.uniform(-1, 1, k), "vi": rng.uniform(0.02, 0.06, k)})
    data["yi"] = rng.normal(0.3, np.sqrt(data["vi"] + np.exp(-2 + 3 * data["x"])))
    p = {}
    for scale in ("~ 1", "~ x"):
        model = lsm.LocationScaleModel("yi ~ x", scale=scale, variance="vi", data=data)
        check = model.fit_bayes(seed=1).posterior_predictive_check(seed=1)
        p[scale] = check.to_dataframe().loc[("Quantity", "cor(|z|, x)"), "ppp"]
        assert ("does not account for" in str(check)) == (p[scale] < 0.025), str(check)
    # A slope of 3 in ln τ² is seen; the model that has it passes.
    assert p["~ 1"] < 0.01
    assert 0.1 < p["~ x"] < 0.9


@pytest.mark.slow
def test_p_values_crowd_around_one_half_under_a_right_model():
    """Both effects of using the data twice: centred, and not spread out as uniform ones are."""
    rng = np.random.default_rng(5)
    found = []
    for seed in range(40):
        vi = rng.uniform(0.02, 0.2, 12)
        data = pd.DataFrame({"vi": vi, "yi": rng.normal(0.2, np.sqrt(vi + 0.1))})
        model = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data)
        fit = model.fit_bayes(engine="collapsed", draws=1000, seed=seed)
        table = fit.posterior_predictive_check(draws=500).to_dataframe()
        found.append(table.loc[("Quantity", "Q"), "ppp"])
    # Uniform p-values would have SD 0.289, and the mean of 40 an error of 0.046.
    assert np.mean(found) == pytest.approx(0.5, abs=4 * 0.046)
    assert np.std(found) < 0.289


def test_same_seed_same_check(continent_bayes, check):
    again = continent_bayes.posterior_predictive_check(quantities={"range": np.ptp}, seed=1)
    pd.testing.assert_frame_equal(check.to_dataframe(), again.to_dataframe())
    assert len(check.replicated["Q"]) == 2000


def test_equal_variances_and_few_studies():
    data = pd.DataFrame({"yi": [0.1, 0.3, 0.2, -0.1, 0.4], "vi": [0.1] * 5})
    fit = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data).fit_bayes(seed=1)
    table = fit.posterior_predictive_check().to_dataframe()
    assert np.isfinite(table.to_numpy()).all()
    assert ("Quantity", "cor(z, standard error)") not in table.index


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 10}, "draws must be a whole number of at least 100, got 10"),
        ({"quantities": {"Q": np.ptp}}, "the quantity 'Q' is there already"),
        ({"quantities": {"nan": lambda y: np.nan}}, "'nan' must give one finite number"),
    ],
)
def test_wrong_settings_are_refused(continent_bayes, settings, message):
    with pytest.raises(lsm.FitError, match=message):
        continent_bayes.posterior_predictive_check(**settings)
