"""Means and ratios of τ from draws: against two grids, the coefficients, predictions and REML."""

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm import tau_contrasts, tau_means, tau_steps
from bayes_lsm.bayes import fit_bayes, predict_tau
from bayes_lsm.design.design import build_design
from bayes_lsm.specification import Specification

from .fits import binomial_error, grid_of, made_by_hand, many_studies
from .levels import as_dependent


@pytest.fixture(scope="module")
def two_groups():
    """Each group with its own mean and τ², so that the posterior is that of two grids."""
    rng = np.random.default_rng(1)
    g, v = np.array(["a", "b"] * 8), rng.uniform(0.05, 0.2, 16)
    y = rng.normal(np.where(g == "a", 0.2, -0.3), np.sqrt(v + np.where(g == "a", 0.1, 0.6)))
    data = pd.DataFrame({"yi": y, "vi": v, "g": g})
    model = lsm.LocationScaleModel(
        "yi ~ 0 + g", scale="~ 0 + g", variance="vi", data=data, priors="slides"
    )
    grids = [grid_of(tuple(y[g == each]), tuple(v[g == each])) for each in "ab"]
    return model.fit_bayes(engine="collapsed", draws=20_000, seed=4), grids


def test_the_ratio_agrees_with_two_grids(two_groups):
    fit, grids = two_groups
    a, b = (grid.weight.sum(axis=0) for grid in grids)
    log_tau2 = grids[0].log_tau2[0]
    step = log_tau2[1] - log_tau2[0]
    difference = log_tau2[None] - log_tau2[:, None]  # ln τ²_b − ln τ²_a
    joint = a[:, None] * b[None]

    def below(value):
        # The convolution of two cells is a triangle; half of it lies on either side.
        return np.sum(joint * np.clip((value - difference) / step + 0.5, 0, 1))

    found = tau_contrasts(fit, "g", measure="tau", level=0.9).table.loc["b / a"]
    for name, p in (("ci_lb", 0.05), ("estimate", 0.5), ("ci_ub", 0.95)):
        exact = below(2 * np.log(found[name]))
        assert exact == pytest.approx(p, abs=4 * binomial_error(p, fit)), name
    above = 1 - below(0.0)
    assert found["prob_above"] == pytest.approx(above, abs=4 * binomial_error(above, fit))
    means = tau_means(fit, "g", measure="log_tau2").table
    for level, weight in (("a", a), ("b", b)):
        exact = np.sum(weight * np.clip((means.loc[level, "ci_ub"] - log_tau2) / step + 0.5, 0, 1))
        assert exact == pytest.approx(0.975, abs=4 * binomial_error(0.975, fit))


def test_contrasts_with_the_reference_are_the_coefficients(continent_bayes):
    found = tau_contrasts(continent_bayes, "continent", kind="reference", measure="log_tau2").table
    summary = continent_bayes.scale
    for level in ("America", "Other"):
        row, coefficient = found.loc[f"{level} − Europe"], summary.loc[f"continent{level}"]
        assert row["estimate"] == pytest.approx(coefficient["median"])
        assert row["ci_lb"] == pytest.approx(coefficient["ci_lb"])
        assert row["ci_ub"] == pytest.approx(coefficient["ci_ub"])
    positive = np.mean(continent_bayes.draws.flat_scale[:, 2] > 0)
    assert found.loc["Other − Europe", "prob_above"] == positive


def test_means_at_given_values_are_predictions(continent_bayes):
    found = tau_means(continent_bayes, "continent", at={"weeks": 32}).table
    new = pd.DataFrame({"continent": ["Europe", "America", "Other"], "weeks": 32})
    there = predict_tau(continent_bayes, new).table
    for ours, theirs in (("estimate", "tau2"), ("ci_lb", "tau2_ci_lb"), ("ci_ub", "tau2_ci_ub")):
        np.testing.assert_allclose(found[ours], there[theirs])


def test_measures_are_powers_of_each_other(continent_bayes):
    tables = {
        measure: tau_steps(continent_bayes, "I(weeks - 40)", step=-4, measure=measure).table.iloc[0]
        for measure in ("log_tau2", "tau2", "tau")
    }
    for name in ("estimate", "ci_lb", "ci_ub"):
        assert tables["tau2"][name] == pytest.approx(np.exp(tables["log_tau2"][name]))
        assert tables["tau"][name] == pytest.approx(np.exp(tables["log_tau2"][name] / 2))
    assert len({row["prob_above"] for row in tables.values()}) == 1


def test_highest_density_is_on_the_scale_of_the_measure(continent_bayes):
    fit = continent_bayes
    values = fit.draws.flat_scale[:, 1]
    for measure, power in (("tau2", 1.0), ("tau", 0.5)):
        row = tau_steps(fit, "continentAmerica", measure=measure, method="hdi").table.iloc[0]
        drawn = np.exp(power * values)
        inside = (drawn >= row["ci_lb"]) & (drawn <= row["ci_ub"])
        assert inside.mean() == pytest.approx(0.95, abs=1e-4)
        lower, upper = np.quantile(drawn, [0.025, 0.975])
        assert row["ci_ub"] - row["ci_lb"] < upper - lower


def test_with_many_studies_it_is_what_reml_says():
    bayes, reml = many_studies()
    for ask in (
        lambda fit: tau_contrasts(fit, "g", measure="log_tau2"),
        lambda fit: tau_means(fit, "g", measure="log_tau2"),
        lambda fit: tau_steps(fit, "x", step="sd", measure="log_tau2"),
    ):
        ours, theirs = ask(bayes).table, ask(reml).table
        assert list(ours.index) == list(theirs.index)
        # Both are normal here: half a standard error is far above either's error.
        for name in ("estimate", "ci_lb", "ci_ub"):
            assert (np.abs(ours[name] - theirs[name]) < 0.5 * theirs["se"]).all(), name


def test_a_half_flat_coefficient_is_printed_as_a_small_number(continent_bayes):
    text = str(tau_contrasts(continent_bayes, "continent", measure="tau2"))
    assert "-0.0000" not in text
    row = next(line for line in text.splitlines() if line.startswith("Other / Europe"))
    assert "0.0000" not in row
    assert "e-" in row
    assert "95% equal-tailed intervals" in text
    assert text.startswith("Ratios of τ² between values of continent in a Location-Scale Model (k")
    assert r"\times 10^{-" in tau_contrasts(continent_bayes, "continent").to_latex()


def test_extreme_draws_do_not_overflow():
    scale = np.column_stack([np.zeros(100), np.repeat([-4000.0, 4000.0], 50)])
    fit = made_by_hand(np.zeros((100, 2)), scale)
    with np.errstate(over="raise", invalid="raise"):
        table = tau_steps(fit).table
    assert np.isfinite(table).all(axis=None)
    assert table.loc["x", "prob_above"] == 0.5


def test_bad_input(continent_bayes, continent_reml):
    with pytest.raises(lsm.FitError, match="for a Bayesian fit method must be 'eti' or 'hdi'"):
        tau_steps(continent_bayes, method="profile")
    with pytest.raises(lsm.FitError, match="method must be 'delta' or 'profile'"):
        tau_steps(continent_reml, method="hdi")
    with pytest.raises(lsm.FitError, match="level must be between"):
        tau_steps(continent_bayes, level=95)
    with pytest.raises(lsm.FitError, match="does not use 'z'; its columns are"):
        tau_means(continent_bayes, "z")
    with pytest.raises(lsm.FitError, match="measure must be"):
        tau_means(continent_bayes, "continent", measure="sd")


def test_one_term_of_rows_has_the_ordinary_answers():
    """The same posterior by two engines: each answer within 4 Monte Carlo errors of the other."""
    data = lsm.load_dataset("bcg")
    words = Specification("yi ~ ablat", "vi", scale={"residual": "~ alloc"})
    several = fit_bayes(as_dependent(build_design(words, data)), draws=20_000, seed=1)
    model = lsm.LocationScaleModel("yi ~ ablat", "~ alloc", variance="vi", data=data)
    one = model.fit_bayes(engine="collapsed", draws=20_000, seed=2)
    # Four standard errors of a probability of ½ that is counted from so many draws, twice.
    near = 4 * 0.5 * np.sqrt(2 / min(several.importance.ess, one.draws.importance.ess))
    share = 100 * (several.heterogeneity().average_tau2 > one.heterogeneity().tau2).mean()
    assert share == pytest.approx(50, abs=100 * near)
    log_tau2 = several.terms["residual"].log_tau2(slice(0, 13))
    np.testing.assert_allclose((log_tau2 > np.log(one.tau2)[:, None]).mean(axis=1), 0.5, atol=near)
    ratio = tau_contrasts(several, "alloc")
    theirs = tau_contrasts(one, "alloc").table
    draws = np.exp(several.terms["residual"].alpha @ ratio.rows.T)
    for end, p in (("estimate", 0.5), ("ci_lb", 0.025), ("ci_ub", 0.975)):
        np.testing.assert_allclose((draws < theirs[end].to_numpy()).mean(axis=0), p, atol=near)


def test_means_contrasts_and_steps_are_of_one_grouping():
    data = lsm.load_dataset("assink2016")
    data = data.assign(kind=np.where(data["pubstatus"] == 1, "yes", "no"))
    fit = lsm.LocationScaleModel(
        "yi ~ 1", {"study": "~ 1", "study/esid": "~ kind + year"}, variance="vi", data=data
    ).fit_bayes(engine="collapsed", draws=1000, seed=3)
    alpha = fit.terms["study/esid"].alpha
    found = tau_contrasts(fit, "kind", measure="log_tau2", level=0.8).table.loc["yes − no"]
    expected = np.quantile(alpha[:, 1], [0.5, 0.1, 0.9])
    np.testing.assert_allclose(found[["estimate", "ci_lb", "ci_ub"]], expected)
    assert found["prob_above"] == np.mean(alpha[:, 1] > 0)
    means = tau_means(fit, "kind", measure="log_tau2", at={"year": 2.0}).table
    assert means.loc["no", "estimate"] == pytest.approx(np.median(alpha[:, 0] + 2 * alpha[:, 2]))
    steps = tau_steps(fit, step=-2, measure="tau").table
    assert list(steps.index) == ["study/esid: kindyes", "study/esid: year"]
    np.testing.assert_allclose(steps["estimate"], np.exp(np.median(-alpha[:, 1:], axis=0)))
    with pytest.raises(lsm.FitError, match="method must be 'eti' or 'hdi'"):
        tau_steps(fit, method="delta")
