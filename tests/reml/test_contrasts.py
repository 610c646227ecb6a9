"""Marginal means and ratios of τ²: against refits, predictions, and profiles by brute force."""

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import chi2, norm, t

import bayes_lsm as lsm
from bayes_lsm.contrasts import tau_contrasts, tau_means, tau_steps
from bayes_lsm.datasets import load_dataset
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import DataError, DivergentScaleWarning, FitError
from bayes_lsm.likelihood.rows.closed_form import log_likelihood
from bayes_lsm.reml import fit_reml, likelihood_ratio_test, wald_test
from bayes_lsm.reml.prediction.prediction import predict_tau
from bayes_lsm.specification import Specification

from .designs import homogeneous_group, make_design
from .nested import nested_data, nested_model
from .peers import gums

HOW = ("delta", "profile")
EITHER_SOLVER = pytest.mark.usefixtures("solver")


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


def test_either_solver_says_the_same(monkeypatch):
    design = make_design(three_groups()[0], "~ g", "~ g + x")
    tables = []
    for _ in range(2):
        fit = fit_reml(design)
        found = [verb(fit, "g", method=how) for verb in (tau_means, tau_contrasts) for how in HOW]
        found.append(tau_steps(fit, step="sd"))
        tables.append([each.table for each in found])
        monkeypatch.setattr(type(design), "is_independent", False)
    for rows, blocks in zip(*tables, strict=True):
        # Both stop within 1e-13 of the likelihood: √ of that in the coefficients.
        pd.testing.assert_frame_equal(rows, blocks, rtol=1e-5)


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
    with pytest.raises(FitError, match="no scale coefficient 'z'; there are 'intrcpt', 'gmid'"):
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
    with pytest.raises(FitError, match="level must be between 0 and 1"):
        tau_means(fit, "g", level=95)
    constant = fit_reml(make_design(data))
    with pytest.raises(FitError, match="tau_means does not take constant scale formulas"):
        tau_means(constant, "g")
    with pytest.raises(FitError, match="no moderators"):
        tau_steps(constant)
    identity = fit_reml(make_design(data, "~ g", "~ g", link="identity"))
    with pytest.raises(FitError, match="link='identity'"):
        tau_contrasts(identity, "g")
    top = fit.scale.loc["gtop", "estimate"]
    held = fit_reml(fit.design, bounds={"gtop": (-np.inf, top - 0.3)})
    with pytest.raises(FitError, match="no bound holds, got gtop"):
        tau_contrasts(held, "g", method="profile")


def profiled(fit, row, level=0.95):
    """Both ends of the profile interval of l'α, and the likelihood ratio of l'α = 0."""
    table = fit.scale_functions(np.array([row]), ["l"], method="profile", level=level).table
    return table.loc[0, ["ci_lb", "ci_ub", "LRT"]]


@pytest.mark.slow
@EITHER_SOLVER
@pytest.mark.parametrize("term", ["gmid", "gtop", "x"])
def test_the_profile_of_a_coefficient_is_that_of_refits(term):
    fit = fit_reml(make_design(three_groups()[0], "~ g", "~ g + x"))
    row = (np.array(fit.scale_names) == term) * 1.0
    lower, upper, ratio = profiled(fit, row)
    assert lower < fit.scale.loc[term, "estimate"] < upper
    for bound in (lower, upper):
        drop = 2 * (fit.loglik - profile_by_refit(fit, term, bound))
        # The bound is found to 1e-9, the two maxima to about 1e-10.
        assert drop == pytest.approx(chi2.ppf(0.95, 1), abs=1e-6)
    assert ratio == pytest.approx(2 * (fit.loglik - profile_by_refit(fit, term, 0.0)), abs=1e-7)
    one = fit.profile(term)
    # Roots of the same profile, within 1e-10.
    assert (lower, upper) == (pytest.approx(one.lower), pytest.approx(one.upper))


@EITHER_SOLVER
def test_profile_with_a_fixed_coefficient():
    design = make_design(three_groups()[0], "~ g", "~ g + x")
    fit = fit_reml(design, fixed={"x": 0.4})
    lower, upper, _ = profiled(fit, [1.0, 0.0, 0.0, 2.0])
    for bound in (lower, upper):
        drop = fit.loglik - fit_reml(design, fixed={"x": 0.4, "intrcpt": bound - 0.8}).loglik
        assert 2 * drop == pytest.approx(chi2.ppf(0.95, 1), abs=1e-6)
    # What is fixed alone has no uncertainty.
    lower, upper, ratio = profiled(fit, [0.0, 0.0, 0.0, 2.0])
    assert (lower, upper) == pytest.approx((0.8, 0.8))
    assert np.isnan(ratio)


@pytest.mark.slow
def test_a_function_of_one_terms_coefficients_is_profiled_among_others(several_terms):
    data, fit = several_terms
    found = tau_contrasts(fit, "g", measure="log_tau2", method="profile").table
    turned = data.assign(g=pd.Categorical(data["g"], list("bac")))
    other = nested_model(turned, school="~ g + x").fit_reml()
    single = other.profile("school: gc")
    assert found.loc["c − b", "ci_lb"] == pytest.approx(single.lower, abs=1e-6)
    assert found.loc["c − b", "ci_ub"] == pytest.approx(single.upper, abs=1e-6)
    reduced = fit_reml(other.design, fixed={"school: gc": 0.0}).loglik
    # Two ways to the same two maxima, each within 1e-13.
    assert found.loc["c − b", "LRT"] == pytest.approx(2 * (other.loglik - reduced), abs=1e-6)
    across = np.zeros((1, 5))
    across[0, [0, 1]] = 1.0, -1.0
    with pytest.raises(FitError, match=r"several scale terms \('district', 'school'\)"):
        fit.scale_functions(across, ["both"], method="profile")


@pytest.fixture(scope="module")
def several_terms():
    rng = np.random.default_rng(4)
    found = nested_data(2, districts=24, slopes=(0.0, 0.7))
    kind = np.array(["a", "b", "c"])[rng.integers(0, 3, 72)]
    data = found.assign(g=kind[found["school"]])
    return data, nested_model(data, school="~ g + x").fit_reml()


def test_means_are_those_of_predictions_at_the_mean_of_the_groups(several_terms):
    data, fit = several_terms
    groups = data.drop_duplicates("school")
    new = pd.DataFrame({"g": list("abc"), "x": groups["x"].mean()})
    predicted = fit.predict(new, terms=["school"]).table["tau2 (school)"]
    np.testing.assert_allclose(tau_means(fit, "g").table["estimate"], predicted, rtol=1e-10)


def test_ratios_are_wald_tests_of_contrasts(several_terms):
    _, fit = several_terms
    found = tau_contrasts(fit, "g", measure="log_tau2").table
    test = wald_test(fit, contrast={"school: gc": 1, "school: gb": -1})
    assert found.loc["c − b", "zval"] == pytest.approx(test.statistic)
    assert found.loc["c − b", "ci_ub"] == pytest.approx(test.table["ci_ub"].iloc[0])
    step = tau_steps(fit, "x", measure="log_tau2").table
    assert step.loc["school: x", "estimate"] == pytest.approx(
        fit.scale.loc[("school", "x")].iloc[0]
    )


def test_outcomes_have_a_mean_each():
    fit = gums("unstructured").fit_reml()
    table = tau_means(fit, "outcome").table
    np.testing.assert_allclose(table["estimate"], np.exp(fit.alpha), rtol=1e-12)
    # The only scale term may be named, too.
    named = tau_means(fit, "outcome", grouping="outcome | trial").table
    pd.testing.assert_frame_equal(named, table)


def test_a_variable_of_several_terms_needs_its_term(several_terms):
    fit = nested_model(several_terms[0], district="~ z", school="~ z").fit_reml()
    with pytest.raises(FitError, match="several scale terms use 'z'; say which, grouping="):
        tau_means(fit, "z", values=[0, 1])
    found = tau_means(fit, "z", values=[0], grouping="school").table
    level = fit.scale.loc[("school", "intrcpt"), "estimate"]
    assert found["estimate"].iloc[0] == pytest.approx(np.exp(level))
    with pytest.raises(FitError, match="there is no scale term 'town'; there are 'district'"):
        tau_means(fit, "z", values=[0], grouping="town")
    with pytest.raises(FitError, match="several scale terms have 'z'"):
        tau_steps(fit, "z")


def limit_data():
    """Districts of kind a are all alike, those of kind b are not."""
    rng = np.random.default_rng(1)
    d = np.repeat(np.arange(20), 3)
    g = np.where(d < 10, "a", "b")
    y = np.where(d < 10, 0.0, 1.0) * rng.normal(size=20)[d] + 0.3 * rng.normal(size=60)
    within = y - pd.Series(y).groupby(d).transform("mean").to_numpy()
    return pd.DataFrame({"yi": np.where(g == "a", within, y), "vi": 0.05, "d": d, "g": g})


def fit_limit(formula):
    scale = {"d": formula}
    with pytest.warns(DivergentScaleWarning):
        return lsm.LocationScaleModel("yi ~ 1", scale, variance="vi", data=limit_data()).fit_reml()


@pytest.mark.parametrize("formula", ["~ g", "~ 0 + g"])
def test_a_level_without_variance_has_a_mean_of_0_in_any_coding(formula):
    """ln τ² of kind b is −inf + inf of the coefficients of ``~ g``."""
    fit = fit_limit(formula)
    means = tau_means(fit, "g").table
    alive = fit.terms["d"].tau2.max()
    assert means["estimate"].to_list() == pytest.approx([0.0, alive])
    assert means["se"].isna().to_list() == [True, False]
    ratio = tau_contrasts(fit, "g")
    assert ratio.table["estimate"].iloc[0] == np.inf
    assert "runs to infinity" in str(ratio)
    # The standard error of ln τ² of b is that of the model of its districts alone.
    alone = limit_data().query("g == 'b'")
    other = lsm.LocationScaleModel("yi ~ 1", {"d": "~ 1"}, variance="vi", data=alone).fit_reml()
    ours = means["se"].iloc[1] / means["estimate"].iloc[1]
    assert ours == pytest.approx(other.scale.loc["intrcpt", "se"], rel=0.1)


@pytest.mark.parametrize("formula", ["~ g", "~ 0 + g"])
def test_predictions_at_a_limit_do_not_depend_on_the_coding(formula):
    fit = fit_limit(formula)
    new = pd.DataFrame({"g": ["a", "b"]})
    table = fit.predict(new).table
    assert table["tau2"].to_list() == pytest.approx([0.0, fit.terms["d"].tau2.max()])
    other = fit_limit("~ 0 + g").predict(new).table
    np.testing.assert_allclose(table, other, rtol=1e-5)
    # The deleted residual of a district of kind b has the τ² that the fit without it gives to b.
    found = fit.influence(cluster="d")
    by_kind = fit_limit("~ 0 + g").influence(cluster="d").leave_one_out
    rows = fit.terms["d"].term.index == 15
    expected = np.sqrt(0.05 + np.exp(by_kind.alpha[15, 1]) + by_kind.se_beta[15, 0] ** 2)
    assert found.deleted_residual_se[rows] == pytest.approx(expected, rel=1e-6)


def test_levels_of_ln_tau2_are_no_steps():
    """A slope's own τ², or an outcome's, is not the ratio of two."""
    data = nested_data(slopes=(0, 0.7))
    data["w"] = np.arange(len(data)) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        fit = lsm.LocationScaleModel(
            "yi ~ w", {"1 + w | district": "~ 1", "residual": "~ x"}, variance="vi", data=data
        ).fit_reml()
    assert list(tau_steps(fit).table.index) == ["residual: x"]
    outcomes = lsm.LocationScaleModel.from_file("berkey1998").fit_reml()
    with pytest.raises(FitError, match="tau_steps does not take a scale part of levels alone"):
        tau_steps(outcomes)
