"""The studies' true effects: against a grid posterior, closed forms, draws, and REML's BLUPs."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import norm

import bayes_lsm as lsm
from bayes_lsm.bayes import blup, true_effects
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.priors import Normal, Priors

from .fits import bcg, binomial_error, made_by_hand, many_studies


def test_effects_agree_with_the_grid():
    fit, grid = bcg()
    table = blup(fit, level=0.9).table
    tau2 = np.exp(grid.log_tau2)
    for i in (0, 3, 7):
        y, v = fit.design.y[i], fit.design.v[i]
        weight = tau2 / (tau2 + v)
        centre, sd = weight * y + (1 - weight) * grid.mu, np.sqrt(weight * v)
        mean = grid.mean(centre)
        exact_sd = np.sqrt(grid.mean(sd**2 + centre**2) - mean**2)
        row = table.iloc[i]
        # At most the error of a mean, and of an SD, of draws of the effect itself.
        error = exact_sd / np.sqrt(fit.draws.importance.ess)
        assert row["estimate"] == pytest.approx(mean, abs=4 * error)
        assert row["sd"] == pytest.approx(exact_sd, abs=4 * error)
        assert row["u"] == pytest.approx(mean - grid.mean(grid.mu + 0 * tau2), abs=8 * error)
        assert row["weight"] == pytest.approx(grid.mean(weight + 0 * grid.mu), abs=0.01)
        for name, shift in (("", 0.0), ("u_", grid.mu)):
            for bound, p in (("pi_lb", 0.05), ("pi_ub", 0.95)):
                below = grid.below(row[name + bound], centre - shift, sd)
                assert below == pytest.approx(p, abs=4 * binomial_error(p, fit)), (i, name, bound)
        found = fit.probability(-0.8).table.iloc[i]
        exact = 1 - grid.below(-0.8, centre, sd)
        assert found["true_effect"] == pytest.approx(
            exact, abs=4 * found["true_effect_mcse"] + 1e-9
        )


def test_with_known_tau_effects_are_normal():
    """τ² = 0.3 by its prior: the closed formula, with the uncertainty of the mean alone."""
    priors = Priors("slides", scale={"intrcpt": Normal(float(np.log(0.3)), 1e-4)})
    model = lsm.LocationScaleModel(
        "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"), priors=priors
    )
    fit = model.fit_bayes(engine="collapsed", draws=20_000, seed=2)
    y, v = model.design.y, model.design.v
    variance = 1 / (np.sum(1 / (v + 0.3)) + 1 / 100**2)
    mean = variance * np.sum(y / (v + 0.3))
    weight = 0.3 / (0.3 + v)
    table = fit.blup().table
    total = weight * v + (1 - weight) ** 2 * variance
    ess = fit.draws.importance.ess
    # Errors come from the draws of the mean alone; those of quantiles and SDs are 2.7 times that
    # of a mean at most.
    error = 4 * (1 - weight) * np.sqrt(variance / ess)
    assert (np.abs(table["estimate"] - (weight * y + (1 - weight) * mean)) < error).all()
    np.testing.assert_allclose(table["sd"], np.sqrt(total), rtol=4 / np.sqrt(2 * ess))
    half = norm.ppf(0.975) * np.sqrt(total)
    assert (np.abs(table["pi_ub"] - table["estimate"] - half) < 2.7 * error).all()
    assert (np.abs(table["estimate"] - table["pi_lb"] - half) < 2.7 * error).all()
    u_sd = np.sqrt(weight * v + weight**2 * variance)
    np.testing.assert_allclose(table["u_sd"], u_sd, rtol=4 / np.sqrt(2 * ess))
    np.testing.assert_allclose(table["weight"], weight, rtol=1e-3)


def test_effects_lie_between_what_was_observed_and_the_mean():
    rng = np.random.default_rng(1)
    fit = made_by_hand(rng.normal(size=(400, 2)), rng.normal(-1, 2, size=(400, 2)))
    u, variance = ConditionalEffects(fit.design, fit.draws).combine(sparse.eye_array(12).tocsr())
    y, mean = fit.design.y[:, None], fit.design.X @ fit.draws.flat_location.T
    centre = mean + u
    low, high = np.minimum(y, mean), np.maximum(y, mean)
    assert ((centre >= low - 1e-12) & (centre <= high + 1e-12)).all()
    tau2 = np.exp(fit.design.Z @ fit.draws.flat_scale.T)
    v = fit.design.v[:, None]
    # Precisions add up: 1/λv = 1/v + 1/τ².
    np.testing.assert_allclose(1 / variance, 1 / v + 1 / tau2)
    table = fit.blup().table
    np.testing.assert_allclose(table["estimate"] - table["u"], mean.mean(axis=1))


def test_without_heterogeneity_the_effect_is_the_mean_and_with_endless_one_what_was_observed():
    location = np.random.default_rng(2).normal(size=(400, 2))
    for log_tau2, expected in ((-5000.0, None), (5000.0, "y")):
        scale = np.column_stack([np.full(400, log_tau2), np.zeros(400)])
        fit = made_by_hand(location, scale)
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            table = fit.blup().table
        if expected:
            np.testing.assert_allclose(table["estimate"], fit.design.y)
            np.testing.assert_allclose(table["sd"], np.sqrt(fit.design.v))
        else:
            mean = fit.design.X @ location.T
            np.testing.assert_allclose(table["estimate"], mean.mean(axis=1))
            np.testing.assert_allclose(table["sd"], mean.std(axis=1))
            assert (table[["u", "u_sd", "u_pi_lb", "u_pi_ub", "weight"]] == 0).all(axis=None)


def test_drawn_effects_have_the_moments_and_quantiles_of_the_table():
    fit, _ = bcg()
    drawn = true_effects(fit, seed=4)
    assert drawn.shape == (4, 5000, 13)
    flat, table = drawn.reshape(-1, 13), fit.blup().table
    error = table["sd"] / np.sqrt(fit.draws.importance.ess)
    assert (np.abs(flat.mean(axis=0) - table["estimate"]) < 4 * error).all()
    np.testing.assert_allclose(flat.std(axis=0), table["sd"], rtol=0.05)
    inside = np.mean(
        (flat > table["pi_lb"].to_numpy()) & (flat < table["pi_ub"].to_numpy()), axis=0
    )
    np.testing.assert_allclose(inside, 0.95, atol=4 * binomial_error(0.95, fit))
    np.testing.assert_array_equal(drawn, fit.true_effects(seed=4))
    np.testing.assert_array_equal(true_effects(fit), fit.true_effects(seed=fit.seed))
    assert not np.array_equal(drawn, true_effects(fit))


def test_with_many_studies_effects_are_the_blups_of_reml():
    bayes, reml = many_studies()
    ours, theirs = bayes.blup().table, reml.blup().table
    assert list(ours.columns) == [name.replace("se", "sd") for name in theirs.columns]
    # τ² is all but known: 3% of a prediction's SE is what its uncertainty moves at most.
    assert (np.abs(ours["estimate"] - theirs["estimate"]) < 0.05 * theirs["se"]).all()
    np.testing.assert_allclose(ours["sd"], theirs["se"], rtol=0.03)
    for name in ("pi_lb", "pi_ub", "u", "u_pi_lb", "u_pi_ub"):
        assert (np.abs(ours[name] - theirs[name]) < 0.1 * theirs["se"]).all(), name


def test_the_interval_of_highest_density_is_the_shortest():
    fit, _ = bcg()
    eti, hdi = fit.blup().table, fit.blup(interval="hdi").table
    widths = [table["pi_ub"] - table["pi_lb"] for table in (eti, hdi)]
    # Read off draws, so a little noisy where it is no shorter.
    assert (widths[1] < 1.02 * widths[0]).all()


def test_five_studies():
    data = pd.DataFrame({"yi": [0.1, 0.5, -0.2, 0.9, 0.3], "vi": [0.1, 0.2, 0.1, 0.3, 0.2]})
    fit = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data).fit_bayes(seed=1)
    table = fit.blup().table
    assert np.isfinite(table).all(axis=None)
    assert table["sd"].le(np.sqrt(data["vi"]).to_numpy() * 1.2).all()
    assert "True effects in a Random-Effects Model (k = 5; Bayes; 95% equal-tailed" in str(
        fit.blup()
    )


def test_bad_input():
    fit, _ = bcg()
    with pytest.raises(lsm.FitError, match="level must be between"):
        fit.blup(level=1.0)
    with pytest.raises(lsm.FitError, match="interval must be"):
        fit.blup(interval="wald")
