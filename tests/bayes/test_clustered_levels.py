"""τ², I² and contrasts of several scale terms: REML's formula at each draw, and one term's fit."""

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm import tau_contrasts, tau_means, tau_steps
from bayes_lsm.bayes import fit_bayes
from bayes_lsm.bayes.prediction.heterogeneity import heterogeneity
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import FitError
from bayes_lsm.reml.prediction import heterogeneity as of_reml
from bayes_lsm.specification import Specification

from .levels import MODELS, as_dependent, bayes_of, reml_at, reml_of


@pytest.mark.parametrize("name", MODELS)
def test_heterogeneity_is_that_of_reml_at_each_draw(name, monkeypatch):
    monkeypatch.setattr(of_reml, "_r2_scale", lambda fit: np.nan)  # a refit for each draw
    fit, reml = bayes_of(name), reml_of(name)
    rows = [*range(len(reml.terms)), -1]  # the terms, and all together
    tables = [
        of_reml.heterogeneity(reml_at(reml, fit, draw)).table.iloc[rows] for draw in range(200)
    ]
    found = fit.heterogeneity(level=0.9)
    assert list(found.table.index) == [*fit.terms, "total"]
    for column in ("tau2", "tau", "I2"):
        draws = np.array([table[column] for table in tables])
        expected = np.quantile(draws, [0.5, 0.05, 0.95], axis=0).T
        ours = found.table[[column, f"{column}_ci_lb", f"{column}_ci_ub"]]
        np.testing.assert_allclose(ours, expected, rtol=1e-10)
    np.testing.assert_allclose(found.tau2["total"], [table["tau2"].iloc[-1] for table in tables])
    assert found.typical_variance == of_reml.heterogeneity(reml).typical_variance
    assert "95% equal-tailed" in str(fit.heterogeneity())


def test_highest_density_intervals_are_shorter():
    fit = bayes_of("konstantopoulos2011")
    eti, hdi = fit.heterogeneity().table, fit.heterogeneity(interval="hdi").table
    for column in ("tau2", "tau", "I2"):
        widths = [each[f"{column}_ci_ub"] - each[f"{column}_ci_lb"] for each in (eti, hdi)]
        assert (widths[1] < widths[0]).all()
        assert (hdi[f"{column}_ci_lb"] <= hdi[column]).all()


def test_one_term_of_rows_has_the_ordinary_answers():
    """The same posterior by two engines: each answer within 4 Monte Carlo errors of the other."""
    data = lsm.load_dataset("bcg")
    words = Specification("yi ~ ablat", "vi", scale={"residual": "~ alloc"})
    several = fit_bayes(as_dependent(build_design(words, data)), draws=20_000, seed=1)
    model = lsm.LocationScaleModel("yi ~ ablat", "~ alloc", variance="vi", data=data)
    one = model.fit_bayes(engine="collapsed", draws=20_000, seed=2)
    # Four standard errors of a probability of ½ that is counted from so many draws, twice.
    near = 4 * 0.5 * np.sqrt(2 / min(several.importance.ess, one.draws.importance.ess))
    share = 100 * (several.heterogeneity().tau2["total"] > heterogeneity(one).tau2).mean()
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
    with pytest.raises(FitError, match="method must be 'eti' or 'hdi'"):
        tau_steps(fit, method="delta")


@pytest.mark.parametrize("name", MODELS)
def test_views_of_the_coefficients(name):
    fit = bayes_of(name)
    summary = fit.summary()
    pd.testing.assert_frame_equal(fit.location, summary.loc["location"], check_names=False)
    several = len(fit.terms) > 1
    assert list(fit.scale.index.names) == ["grouping", "term"] if several else ["term"]
    for grouping, each in fit.terms.items():
        medians = np.median(each.alpha, axis=0)
        table = fit.scale.loc[grouping] if several else fit.scale
        np.testing.assert_allclose(table["median"], medians)
        expected = np.median(np.exp(np.tensordot(each.term.Z, each.alpha.T, 1)), axis=2)
        # exp of a median of two draws in the middle is not the median of their exp.
        np.testing.assert_allclose(each.tau2, expected, rtol=1e-3)


def test_bad_input():
    fit = bayes_of("konstantopoulos2011")
    with pytest.raises(FitError, match="level must be between 0 and 1, got 95"):
        fit.heterogeneity(level=95)
    with pytest.raises(FitError, match="interval must be 'eti' or 'hdi'"):
        fit.heterogeneity(interval="wald")
