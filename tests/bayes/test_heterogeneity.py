"""τ², τ, I² and H²: against a grid posterior, brute force over studies and draws, and REML."""

import numpy as np
import pytest

import bayes_lsm as lsm
from bayes_lsm.bayes.summaries.intervals import bounds
from bayes_lsm.reml.prediction import heterogeneity as of_reml

from .fits import bcg, binomial_error, made_by_hand, many_studies
from .levels import MODELS, bayes_of, reml_at, reml_of


def test_agrees_with_the_grid():
    fit, grid = bcg()
    found = fit.heterogeneity(level=0.9)
    typical = of_reml.heterogeneity(
        lsm.fit_reml(fit.design)
    ).typical_variance  # of the sampling variances alone
    assert found.typical_variance == pytest.approx(typical)
    assert found.constant
    step = grid.log_tau2[0, 1] - grid.log_tau2[0, 0]
    for column, p in (("ci_lb", 0.05), ("estimate", 0.5), ("ci_ub", 0.95)):
        values = found.by_measure[column]
        log_tau2 = {
            "tau2": np.log(values["tau2"]),
            "tau": 2 * np.log(values["tau"]),
            "I2": np.log(typical * values["I2"] / (100 - values["I2"])),
            "H2": np.log((values["H2"] - 1) * typical),
        }
        for name, value in log_tau2.items():
            exact = grid.mean(np.clip((value - grid.log_tau2) / step + 0.5, 0, 1) + 0 * grid.mu)
            assert exact == pytest.approx(p, abs=4 * binomial_error(p, fit)), (name, column)


def test_the_average_study_by_brute_force():
    rng = np.random.default_rng(1)
    fit = made_by_hand(rng.normal(size=(400, 2)), rng.normal(-1, 1, size=(400, 2)))
    tau2 = np.exp(fit.design.Z @ fit.draws.flat_scale.T)  # (k, S)
    average = tau2.mean(axis=0)
    found = fit.heterogeneity()
    np.testing.assert_allclose(found.average_tau2, average)
    assert found.tau2 == pytest.approx(np.median(average))
    assert found.tau == pytest.approx(np.median(np.sqrt(average)))
    typical = found.typical_variance
    assert pytest.approx(np.median(100 * average / (average + typical))) == found.I2
    assert pytest.approx(np.median(1 + average / typical)) == found.H2
    np.testing.assert_allclose(
        found.by_measure.loc["tau2", ["ci_lb", "ci_ub"]], np.quantile(average, [0.025, 0.975])
    )
    by_study = found.by_study
    assert list(by_study.index) == list(fit.design.labels)
    # Between two draws a quantile in ln τ² differs from that in the measure, by their distance
    # squared.
    np.testing.assert_allclose(by_study["tau2"], np.median(tau2, axis=1), rtol=1e-3)
    np.testing.assert_allclose(
        by_study["I2_ci_ub"], np.quantile(100 * tau2 / (tau2 + typical), 0.975, axis=1), rtol=1e-3
    )
    assert not found.constant
    assert "of the average study" in found.title


def test_studies_with_equal_moderators_count_as_often_as_they_occur(continent):
    fit = continent.fit_bayes(engine="collapsed", draws=2000, seed=3)
    tau2 = np.exp(continent.design.Z @ fit.draws.flat_scale.T)
    np.testing.assert_allclose(fit.heterogeneity().average_tau2, tau2.mean(axis=0))


def test_with_many_studies_it_is_that_of_reml():
    bayes, reml = many_studies()
    ours, theirs = bayes.heterogeneity(), reml.heterogeneity()
    # The average τ² is known to 3%, and the prior moves it by much less.
    for name in ("tau2", "tau", "I2", "H2"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=0.02), name
    np.testing.assert_allclose(ours.by_study["tau2"], theirs.by_study["tau2"], rtol=0.1)
    half = np.ptp(ours.by_measure.loc["tau2", ["ci_lb", "ci_ub"]]) / 2
    assert half / 1.96 == pytest.approx(theirs.se_tau2, rel=0.1)
    assert set(theirs.by_study.columns) <= set(ours.by_study.columns)


def test_highest_density_is_of_each_measure():
    fit, _ = bcg()
    found = fit.heterogeneity(interval="hdi")
    for name, power in (("tau2", 1.0), ("tau", 0.5)):
        exact = bounds(found.average_tau2[:, None] ** power, level=0.95, interval="hdi")
        np.testing.assert_allclose(found.by_measure.loc[name, ["ci_lb", "ci_ub"]], np.ravel(exact))
    # Not the squares of each other.
    assert found.table["tau2_ci_ub"].item() < 0.97 * found.table["tau_ci_ub"].item() ** 2


def test_printed():
    fit, _ = bcg()
    text = str(fit.heterogeneity(level=0.9))
    assert text.startswith(
        "Heterogeneity in a Random-Effects Model (k = 13; Bayes; 90% equal-tailed intervals)"
    )
    assert "\nI2 " in text
    assert "<table" in fit.heterogeneity()._repr_html_()
    assert r"\midrule" in fit.heterogeneity().to_latex()


def test_bad_input():
    fit, _ = bcg()
    with pytest.raises(lsm.FitError, match="level must be between"):
        fit.heterogeneity(level=95)
    with pytest.raises(lsm.FitError, match="interval must be"):
        fit.heterogeneity(interval="profile")


@pytest.mark.parametrize("name", MODELS)
def test_heterogeneity_is_that_of_reml_at_each_draw(name, monkeypatch):
    monkeypatch.setattr(of_reml, "_r2_scale", lambda fit: np.nan)  # a refit for each draw
    fit, reml = bayes_of(name), reml_of(name)
    tables = [of_reml.heterogeneity(reml_at(reml, fit, draw)).table for draw in range(200)]
    found = fit.heterogeneity(level=0.9)
    total = ["total"] if len(fit.terms) > 1 else []
    assert list(found.table.index) == list(tables[0].index) == [*fit.terms, *total]
    for column in ("tau2", "tau", "I2", "H2"):
        draws = np.array([table[column] for table in tables])
        expected = np.quantile(draws, [0.5, 0.05, 0.95], axis=0).T
        ours = found.table[[column, f"{column}_ci_lb", f"{column}_ci_ub"]]
        np.testing.assert_allclose(ours, expected, rtol=1e-10)
    np.testing.assert_allclose(found.average_tau2, [table["tau2"].iloc[-1] for table in tables])
    assert found.typical_variance == of_reml.heterogeneity(reml).typical_variance
    assert "95% equal-tailed" in str(fit.heterogeneity())


def test_highest_density_intervals_are_shorter():
    fit = bayes_of("konstantopoulos2011")
    eti, hdi = fit.heterogeneity().table, fit.heterogeneity(interval="hdi").table
    for column in ("tau2", "tau", "I2"):
        widths = [each[f"{column}_ci_ub"] - each[f"{column}_ci_lb"] for each in (eti, hdi)]
        assert (widths[1] < widths[0]).all()
        assert (hdi[f"{column}_ci_lb"] <= hdi[column]).all()
