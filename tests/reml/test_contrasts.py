"""Marginal means and ratios of τ²: against refits, finite differences, profiles by brute force."""

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import chi2, norm, t

from bayes_lsm.contrasts import tau_contrasts, tau_means, tau_steps
from bayes_lsm.datasets import load_dataset
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import DataError, DivergentScaleWarning, FitError
from bayes_lsm.likelihood.rows.closed_form import log_likelihood
from bayes_lsm.reml import fit_reml, likelihood_ratio_test
from bayes_lsm.reml.prediction.prediction import predict_tau
from bayes_lsm.specification import Specification

from .designs import homogeneous_group, make_design


@cache
def three_groups(location="~ g", scale="~ g + x", test="z", k=60):
    rng = np.random.default_rng(4)
    g = np.array(["low", "mid", "top"])[rng.integers(3, size=k)]
    x, v = rng.normal(size=k), rng.uniform(0.05, 0.3, size=k)
    tau2 = np.exp(-1.0 + 0.5 * x + 1.2 * (g == "top"))
    data = pd.DataFrame(
        {"yi": rng.normal(size=k) * np.sqrt(v + tau2), "vi": v, "g": g, "x": x, "old": x > 0.3}
    )
    return data, fit_reml(make_design(data, location, scale), test=test)


def refit(reference):
    """With another level as reference, so that its contrasts are coefficients."""
    data, _ = three_groups()
    order = [reference, *[level for level in ("low", "mid", "top") if level != reference]]
    ordered = data.assign(g=pd.Categorical(data["g"], order))
    return fit_reml(make_design(ordered, "~ g", "~ g + x"))


def test_contrasts_are_coefficients_of_a_refit():
    _, fit = three_groups()
    found = tau_contrasts(fit, "g", measure="log_tau2").table
    assert list(found.index) == ["mid − low", "top − low", "top − mid"]
    by_mid = refit("mid").scale.loc["gtop"]
    # Two climbs to the same maximum: coefficients to about 1e-8.
    for name in ("estimate", "se", "zval", "pval", "ci_lb", "ci_ub"):
        assert found.loc["top − mid", name] == pytest.approx(by_mid[name], rel=1e-5), name
        assert found.loc["mid − low", name] == pytest.approx(fit.scale.loc["gmid", name], rel=1e-9)


def test_measures():
    _, fit = three_groups()
    logs = tau_contrasts(fit, "g", measure="log_tau2").table
    for measure, power in (("tau2", 1.0), ("tau", 0.5)):
        table = tau_contrasts(fit, "g", measure=measure).table
        assert table.index[0] == "mid / low"
        for name in ("estimate", "ci_lb", "ci_ub"):
            np.testing.assert_allclose(table[name], np.exp(power * logs[name]))
        np.testing.assert_allclose(table["se"], power * table["estimate"] * logs["se"].to_numpy())
        np.testing.assert_allclose(table["pval"], logs["pval"])


def test_kinds():
    _, fit = three_groups()
    names = tau_contrasts(fit, "g", kind="reference").table.index
    assert list(names) == ["mid / low", "top / low"]
    turned = tau_contrasts(fit, "g", kind="reference", values=["top", "low"]).table
    ratio = tau_contrasts(fit, "g").table.loc["top / low", "estimate"]
    assert turned.loc["low / top", "estimate"] == pytest.approx(1 / ratio)


def test_marginal_means_average_over_the_studies():
    data, fit = three_groups()
    found = tau_means(fit, "g", measure="log_tau2").table
    for level in ("low", "mid", "top"):
        everyone = predict_tau(fit, data.assign(g=level)).table["estimate"]
        assert found.loc[level, "estimate"] == pytest.approx(everyone.mean())
    # At given values of the others they are plain predictions.
    at = tau_means(fit, "g", at={"x": 0.7}).table
    new = pd.DataFrame({"g": ["low", "mid", "top"], "x": 0.7})
    there = predict_tau(fit, new).table
    np.testing.assert_allclose(at["estimate"], there["tau2"])
    np.testing.assert_allclose(at["ci_ub"], there["tau2_ci_ub"])


def test_other_categorical_moderators_stand_at_their_proportions():
    data, _ = three_groups()
    fit = fit_reml(make_design(data, "~ 1", "~ g + old"))
    found = tau_means(fit, "old", measure="log_tau2").table
    assert list(found.index) == ["False", "True"]
    for old in (False, True):
        everyone = predict_tau(fit, data.assign(old=old)).table["estimate"]
        assert found.loc[str(old), "estimate"] == pytest.approx(everyone.mean())


def test_interactions_need_a_value():
    data, _ = three_groups()
    fit = fit_reml(make_design(data, "~ 1", "~ g * x"))
    with pytest.raises(FitError, match=r"'g:x' combines g with x: say at which value, at=\{'x'"):
        tau_means(fit, "g")
    found = tau_contrasts(fit, "g", at={"x": 1.5}, measure="log_tau2").table
    names = list(fit.design.scale.names)
    slope = fit.alpha[names.index("gtop")] + 1.5 * fit.alpha[names.index("gtop:x")]
    assert found.loc["top − low", "estimate"] == pytest.approx(slope)


def test_a_location_column_has_no_influence():
    data, _ = three_groups()
    # log(x2) cannot be computed everywhere: any value serves that lets it be.
    design = make_design(data.assign(x2=np.exp(data["x"]) + 3), "~ log(x2 - 2)", "~ g")
    found = tau_means(fit_reml(design), "g").table
    assert np.isfinite(found["estimate"]).all()


def test_numeric_moderators():
    _, fit = three_groups()
    coefficient = fit.scale.loc["x"]
    found = tau_contrasts(fit, "x", values=[-1, 0, 2], measure="log_tau2").table
    assert list(found.index) == ["0 − -1", "2 − -1", "2 − 0"]
    np.testing.assert_allclose(found["estimate"], np.array([1, 3, 2]) * coefficient["estimate"])
    np.testing.assert_allclose(found["se"], np.array([1, 3, 2]) * coefficient["se"])
    steps = tau_steps(fit, "x", step=3, measure="log_tau2").table.loc["x"]
    assert steps["estimate"] == pytest.approx(3 * coefficient["estimate"])
    by_sd = tau_steps(fit, "x", step="sd", measure="log_tau2").table.loc["x", "estimate"]
    assert by_sd == pytest.approx(np.std(fit.design.Z[:, 3], ddof=1) * coefficient["estimate"])
    assert list(tau_steps(fit).table.index) == ["gmid", "gtop", "x"]


def test_t():
    _, fit = three_groups(test="t")
    found = tau_steps(fit, "x", measure="log_tau2").table.loc["x"]
    assert found["df"] == 56
    assert found["tval"] == pytest.approx(found["estimate"] / found["se"])
    assert found["pval"] == pytest.approx(2 * t.sf(abs(found["tval"]), 56))
    half = found["ci_ub"] - found["estimate"]
    assert half == pytest.approx(t.ppf(0.975, 56) * found["se"])


def test_level():
    _, fit = three_groups()
    found = tau_steps(fit, "x", measure="log_tau2", level=0.8).table.loc["x"]
    assert found["ci_ub"] - found["estimate"] == pytest.approx(norm.ppf(0.9) * found["se"])


def profile_by_refit(fit, term, value):
    return fit_reml(fit.design, method=fit.method, fixed={term: value}).loglik


def test_profile_of_a_contrast_is_that_of_a_refit():
    _, fit = three_groups()
    found = tau_contrasts(fit, "g", measure="log_tau2", method="profile").table.loc["top − mid"]
    other = refit("mid")
    for bound in ("ci_lb", "ci_ub"):
        drop = 2 * (other.loglik - profile_by_refit(other, "gtop", found[bound]))
        assert drop == pytest.approx(chi2.ppf(0.95, 1), abs=1e-6)
    # No difference is a model with two levels.
    data, _ = three_groups()
    merged = data.assign(h=data["g"].replace({"top": "mid"}))
    reduced = fit_reml(make_design(merged, "~ g", "~ h + x"))
    test = likelihood_ratio_test(fit, reduced)
    assert found["LRT"] == pytest.approx(test.statistic, abs=1e-7)
    assert found["pval"] == pytest.approx(test.pval, rel=1e-6)


@cache
def group_without():
    data = homogeneous_group("b")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        return fit_reml(make_design(data, "~ g", "~ g"))


def test_without_heterogeneity_wald_intervals_are_missing():
    fit = group_without()
    means, ratio = tau_means(fit, "g"), tau_contrasts(fit, "g")
    assert means.table.loc["b", "estimate"] == 0
    assert means.table.loc["b", ["se", "ci_lb", "ci_ub"]].isna().all()
    assert np.isfinite(means.table.loc["a"]).all()
    assert ratio.table.loc["b / a", "estimate"] == 0
    assert np.isnan(ratio.table.loc["b / a", "pval"])
    assert "b / a runs to 0" in str(ratio)
    assert "method='profile' gives a one-sided interval" in " ".join(ratio.notes)
    turned = tau_contrasts(fit, "g", values=["b", "a"]).table
    assert turned.loc["a / b", "estimate"] == np.inf


def test_without_heterogeneity_profile_intervals_are_one_sided():
    fit = group_without()
    means = tau_means(fit, "g", method="profile").table
    ratio = tau_contrasts(fit, "g", method="profile").table.loc["b / a"]
    assert (means.loc["b", "ci_lb"], ratio["ci_lb"]) == (0, 0)
    # The upper bound of b's τ² by a plain scan, a's τ² maximised at each.
    design, group = fit.design, np.array(fit.design.Z[:, 1], dtype=bool)

    def deviance(b, a):
        tau2 = np.where(group, b, a)
        return 2 * (fit.loglik - log_likelihood(design.y, design.v, design.X, tau2, method="REML"))

    upper = means.loc["b", "ci_ub"]
    lowest = minimize_scalar(lambda log_a: deviance(upper, np.exp(log_a)), (-2.0, 3.0)).fun
    # minimize_scalar finds the lowest deviance to its square-root accuracy.
    assert lowest == pytest.approx(chi2.ppf(0.95, 1), abs=1e-6)
    at = minimize_scalar(lambda a: deviance(ratio["ci_ub"] * np.exp(a), np.exp(a)), (-2.0, 3.0)).fun
    assert at == pytest.approx(chi2.ppf(0.95, 1), abs=1e-6)
    assert ratio["LRT"] > chi2.ppf(0.99, 1)
    turned = tau_contrasts(fit, "g", values=["b", "a"], method="profile").table.loc["a / b"]
    assert turned["ci_ub"] == np.inf
    assert turned["ci_lb"] == pytest.approx(1 / ratio["ci_ub"], rel=1e-6)


def test_the_example_of_the_slides():
    specification = Specification(
        "yi ~ continent + I(weeks - 40)", "vi", scale="~ continent + I(weeks - 40)"
    )
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(build_design(specification, load_dataset("preterm_iq")))
    found = tau_contrasts(fit, "continent", kind="reference", method="profile").table
    assert found.loc["Other / Europe", "estimate"] == 0
    assert found.loc["Other / Europe", "ci_lb"] == 0
    bound = np.log(found.loc["Other / Europe", "ci_ub"])
    height = profile_by_refit(fit, "continentOther", bound)
    # Two maxima that differ by 0.008 in ℓ: the deviance counts from the higher.
    assert 2 * (fit.rival_loglik - height) == pytest.approx(chi2.ppf(0.95, 1), abs=1e-5)


def test_printed():
    _, fit = three_groups()
    text = str(tau_contrasts(fit, "g", measure="tau"))
    assert text.startswith(
        "Ratios of τ between values of g in a Location-Scale Model (k = 60; REML"
    )
    assert "95% Wald intervals" in text
    assert "90% profile intervals" in str(tau_steps(fit, "x", method="profile", level=0.9))
    assert "<table" in tau_means(fit, "g")._repr_html_()


def test_bad_input():
    data, fit = three_groups()
    with pytest.raises(FitError, match="does not use 'z'; its columns are g, x"):
        tau_means(fit, "z")
    with pytest.raises(FitError, match="does not use 'yi'"):
        tau_means(fit, "g", at={"yi": 3})
    with pytest.raises(FitError, match="'x' is numeric: say where with values"):
        tau_contrasts(fit, "x")
    with pytest.raises(FitError, match="'g' is in `at`"):
        tau_means(fit, "g", at={"g": "low"})
    with pytest.raises(FitError, match="needs two values of 'g' or more"):
        tau_contrasts(fit, "g", values=["top"])
    with pytest.raises(FitError, match="must be given, got none"):
        tau_means(fit, "g", values=[])
    with pytest.raises(DataError, match="has the level 'high'"):
        tau_means(fit, "g", values=["high"])
    with pytest.raises(FitError, match="no scale term 'z'; the terms are intrcpt, gmid"):
        tau_steps(fit, "z")
    for step in (0, np.inf, "SD"):
        with pytest.raises(FitError, match="step must be"):
            tau_steps(fit, "x", step=step)
    with pytest.raises(FitError, match="is constant and has no SD"):
        tau_steps(fit, "intrcpt", step="sd")
    with pytest.raises(FitError, match="measure must be 'tau2', 'tau' or 'log_tau2', got 'sd'"):
        tau_means(fit, "g", measure="sd")
    with pytest.raises(FitError, match="method must be 'delta' or 'profile'"):
        tau_means(fit, "g", method="wald")
    with pytest.raises(FitError, match="kind must be"):
        tau_contrasts(fit, "g", kind="all")
    with pytest.raises(FitError, match="level must lie between"):
        tau_means(fit, "g", level=95)
    constant = fit_reml(make_design(data))
    with pytest.raises(FitError, match="none: the scale part is constant"):
        tau_means(constant, "g")
    with pytest.raises(FitError, match="no moderators"):
        tau_steps(constant)
    identity = fit_reml(make_design(data, "~ g", "~ g", link="identity"))
    with pytest.raises(FitError, match="link='identity'"):
        tau_contrasts(identity, "g")
    top = fit.scale.loc["gtop", "estimate"]
    held = fit_reml(fit.design, bounds={"gtop": (-np.inf, top - 0.3)})
    with pytest.raises(FitError, match="that a bound holds"):
        tau_contrasts(held, "g", method="profile")
