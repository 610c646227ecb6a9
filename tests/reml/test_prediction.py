"""Predictions and BLUPs: against metafor, dense matrices, limits of fits, and simulation.

metafor's numbers are in tests/reference/frequentist.json, made by frequentist.R beside it.
"""

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from bayes_lsm.datasets import load_dataset
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import DataError, DivergentScaleWarning, FitError
from bayes_lsm.reml import blup, fit_reml, predict, predict_tau
from bayes_lsm.specification import Specification

from .designs import example, homogeneous_group, make_design

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "frequentist.json").read_text(encoding="utf-8")
)
# Measured 5e-9 for effects and 4e-8 (relative) for ln τ²: both sides stand at the optimum to about
# 1e-10, and metafor's scale covariance is from numerical second derivatives, 1e-9 of it.
CLOSE = {"rtol": 2e-7, "atol": 2e-8}

# Rows of new data that give the moderator values of the pinned predictions.
NEW = {
    "bangertdrowns": {"ni": [20, 100, 500]},
    "bangertdrowns_two_moderators": {"ni": [20, 100, 500], "year": [1985, 1990, 1996]},
    "bcg": {"ablat": [13, 33, 53]},
    "bcg_factor": {"alloc": ["random", "systematic", "alternate"], "ablat": [13, 33, 53]},
    "bcg_alloc": {"alloc": ["alternate", "random", "systematic"]},
    "raudenbush": {"weeks": [0, 2, 10]},
    "preterm_weeks": {"weeks": [26, 30, 34]},
}


@cache
def fitted(dataset, location, scale, method="REML", test="z", link="log"):
    specification = Specification(
        location=location, scale=scale, effect="yi", variance="vi", link=link
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        return fit_reml(
            build_design(specification, load_dataset(dataset)), method=method, test=test
        )


def case(section, name, method="REML", test="z"):
    words = REFERENCE[section][name]
    return fitted(words["dataset"], words["location"], words.get("scale", "~ 1"), method, test)


def diverging():
    """No heterogeneity in group b, some in group a that depends on x."""
    with pytest.warns(DivergentScaleWarning):
        return fit_reml(make_design(homogeneous_group("b"), "~ g + x", "~ g + x"))


def columns_of(table):
    """R writes some names with a dot."""
    return {name.replace(".", "_"): values for name, values in table.items()}


def test_every_pinned_prediction_is_tested():
    assert set(NEW) == set(REFERENCE["predict"])


@pytest.mark.parametrize("test", ["z", "t", "knha"])
@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("name", NEW)
def test_metafor(name, method, test):
    fit, there = case("predict", name, method, test), REFERENCE["predict"][name][method][test]
    new = pd.DataFrame(NEW[name])
    found = predict(fit, new, scale_uncertainty="plug-in").table
    columns = {"pred": "estimate", "se": "se", "ci_lb": "ci_lb", "ci_ub": "ci_ub"}
    for theirs, ours in {**columns, "pi_lb": "pi_lb", "pi_ub": "pi_ub"}.items():
        np.testing.assert_allclose(found[ours], there["both"][theirs], **CLOSE, err_msg=ours)
    scale = predict_tau(fit, new).table
    for theirs, ours in columns.items():
        np.testing.assert_allclose(scale[ours], there["log_tau2"][theirs], **CLOSE, err_msg=ours)
    for theirs, ours in {"pred": "tau", "ci_lb": "tau_ci_lb", "ci_ub": "tau_ci_ub"}.items():
        np.testing.assert_allclose(scale[ours], there["tau"][theirs], **CLOSE)
        np.testing.assert_allclose(found[ours], there["tau"][theirs], **CLOSE)
    studies = predict(fit, scale_uncertainty="plug-in").table
    for theirs, ours in {**columns, "pi_lb": "pi_lb", "pi_ub": "pi_ub"}.items():
        np.testing.assert_allclose(studies[ours], there["studies"][theirs], **CLOSE)


def test_propagated_is_plug_in_when_alpha_is_known():
    design = make_design(example(), "~ x", "~ x")
    fit = fit_reml(design, fixed={"intrcpt": -0.5, "x": 0.6})
    ours, plug_in = predict(fit).table, predict(fit, scale_uncertainty="plug-in").table
    pd.testing.assert_frame_equal(ours, plug_in, rtol=1e-9)
    np.testing.assert_allclose(ours["tau_ci_lb"], ours["tau"])


def test_fixed_coefficients_have_no_uncertainty():
    fit = fit_reml(make_design(example(), "~ x", "~ x"), fixed={"x": 0.6})
    found = predict_tau(fit, pd.DataFrame({"x": [-1.0, 2.0]})).table
    intercept = fit.scale.loc["intrcpt"]
    np.testing.assert_allclose(found["se"], intercept["se"])
    np.testing.assert_allclose(found["estimate"], intercept["estimate"] + 0.6 * np.array([-1, 2]))


def test_what_a_bound_holds_has_no_interval():
    free = fit_reml(make_design(example(), "~ x", "~ x"))
    slope = free.scale.loc["x", "estimate"]
    fit = fit_reml(free.design, bounds={"x": (slope + 0.5, np.inf)})
    found = predict(fit, pd.DataFrame({"x": [0.0, 1.0]}))
    assert np.isfinite(found.table["pi_lb"].iloc[0])
    assert np.isnan(found.table["pi_lb"].iloc[1])
    assert np.isfinite(found.table["estimate"]).all()
    assert "no standard error in row 1" in str(found)


def test_where_there_is_no_heterogeneity():
    fit = diverging()
    new = pd.DataFrame({"g": ["a", "b"], "x": [0.5, 0.5]})
    for how in ("propagated", "plug-in"):
        result = predict(fit, new, scale_uncertainty=how)
        a, b = result.table.iloc[0], result.table.iloc[1]
        assert (b["tau2"], b["tau"]) == (0, 0)
        assert (b["pi_lb"], b["pi_ub"]) == pytest.approx((b["ci_lb"], b["ci_ub"]))
        assert np.isnan(b["tau_ci_lb"])
        assert np.isnan(b["tau_ci_ub"])
        assert a["pi_ub"] > a["ci_ub"]
        assert "τ² = 0 in row 1" in str(result)
    # In group a it is as if group b were not in the scale part: fit its τ² there alone.
    data = homogeneous_group("b")
    steep = fit_reml(make_design(data, "~ g + x", "~ g + x"), fixed={"gb": -60.0})
    theirs, ours = predict_tau(steep, new).table, predict_tau(fit, new).table
    # τ² of e^-60 is 0 to rounding, so the two likelihoods are the same.
    np.testing.assert_allclose(ours.iloc[0], theirs.iloc[0], rtol=1e-6)
    np.testing.assert_allclose(
        predict(fit, new).table.iloc[0], predict(steep, new).table.iloc[0], rtol=1e-6
    )
    assert ours["estimate"].iloc[1] == -np.inf
    assert ours.loc["row 1", ["se", "ci_lb", "ci_ub"]].isna().all()


def test_a_limit_that_leaves_the_sign_open():
    # One moderator, and no heterogeneity at all: where it goes beyond the data is not known.
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(example().assign(yi=1.0), "~ 1", "~ x"))
    x = example()["x"]
    new = pd.DataFrame({"x": [x.mean(), x.max() + 1, x.min() - 1]})
    result = predict(fit, new)
    assert result.table["tau2"].iloc[0] == 0
    assert result.table["tau2"].iloc[1:].isna().all()
    assert result.table[["pi_lb", "pi_ub"]].iloc[1:].isna().all(axis=None)
    assert np.isfinite(result.table["estimate"]).all()
    assert "not defined in row 1, row 2" in str(result)


def test_beyond_a_limit_heterogeneity_is_infinite():
    # Heterogeneity at x = 1 alone, none at x = 0: at x = 2 there is no end to it.
    data = homogeneous_group("a").assign(x=lambda d: (d["g"] == "b") * 1.0)
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(data, "~ x", "~ x"))
    found = predict(fit, pd.DataFrame({"x": [0.0, 1.0, 2.0, -1.0]}))
    np.testing.assert_array_equal(found.table["tau2"].iloc[[0, 2, 3]], [0, np.inf, 0])
    assert 0 < found.table["tau2"].iloc[1] < np.inf
    assert np.isnan(found.table["pi_ub"].iloc[2])
    assert "τ² is infinite in row 2" in str(found)


def test_identity_link():
    fit = fitted("bangertdrowns2004", "~ I(ni / 100)", "~ I(ni / 100)", link="identity")
    new = pd.DataFrame({"ni": [20, 100, 500]})
    raw = np.array([[1, 0.2], [1, 1], [1, 5]]) @ fit.alpha
    found, scale = predict(fit, new), predict_tau(fit, new).table
    np.testing.assert_allclose(found.table["tau2"], np.maximum(raw, 0))
    np.testing.assert_allclose(scale["estimate"], np.maximum(raw, 0))
    assert (scale[["ci_lb", "tau_ci_lb"]].dropna() >= 0).all(axis=None)
    assert ("below 0 was set to 0" in str(found)) == bool((raw < 0).any())
    plug_in = predict(fit, new, scale_uncertainty="plug-in").table
    half = norm.ppf(0.975) * np.sqrt(plug_in["se"] ** 2 + np.maximum(raw, 0))
    np.testing.assert_allclose(plug_in["pi_ub"], plug_in["estimate"] + half)


BLUP = {"pred": "estimate", "se": "se", "pi_lb": "pi_lb", "pi_ub": "pi_ub"}
RANEF = {"pred": "u", "se": "u_se", "pi_lb": "u_pi_lb", "pi_ub": "u_pi_ub"}


@pytest.mark.parametrize("name", REFERENCE["after_location_scale"]["models"])
def test_blup_of_location_scale_models(name):
    words = REFERENCE["after_location_scale"]["models"][name]
    for test, key in (("z", "blup"), ("knha", "blup_knha")):
        fit = fitted(words["dataset"], words["location"], words["scale"], "REML", test)
        found = blup(fit).table
        for theirs, ours in BLUP.items():
            np.testing.assert_allclose(
                found[ours], columns_of(words[key])[theirs], **CLOSE, err_msg=ours
            )
        if test == "z":
            for theirs, ours in RANEF.items():
                np.testing.assert_allclose(found[ours], columns_of(words["ranef"])[theirs], **CLOSE)


@pytest.mark.parametrize("name", REFERENCE["influence"])
def test_blup_of_constant_heterogeneity(name):
    words, fit = REFERENCE["influence"][name], case("influence", name)
    found = blup(fit).table
    for theirs, ours in BLUP.items():
        np.testing.assert_allclose(found[ours], columns_of(words["blup"])[theirs], **CLOSE)
    for theirs, ours in RANEF.items():
        np.testing.assert_allclose(found[ours], columns_of(words["ranef"])[theirs], **CLOSE)


def test_blup_by_dense_matrices():
    # Henderson: with G = diag(τ²), û = G V⁻¹ (y − Xβ̂), var(û − u) = G − G P G.
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    design, G = fit.design, np.diag(fit.tau2)
    inverse = np.linalg.inv(G + np.diag(design.v))
    middle = np.linalg.inv(design.X.T @ inverse @ design.X)
    beta = middle @ design.X.T @ inverse @ design.y
    u = G @ inverse @ (design.y - design.X @ beta)
    P = inverse - inverse @ design.X @ middle @ design.X.T @ inverse
    found = blup(fit).table
    np.testing.assert_allclose(found["u"], u, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["u_se"], np.sqrt(np.diag(G - G @ P @ G)), rtol=1e-9)
    # θ̂ = y − R P y with R = diag(v), and var(θ̂ − θ) = R − R P R.
    R = np.diag(design.v)
    np.testing.assert_allclose(found["estimate"], design.y - R @ P @ design.y, rtol=1e-9)
    np.testing.assert_allclose(found["se"], np.sqrt(np.diag(R - R @ P @ R)), rtol=1e-9)
    np.testing.assert_allclose(found["weight"], fit.tau2 / (fit.tau2 + design.v))


def test_blup_without_heterogeneity_is_the_mean():
    fit = diverging()
    gone = fit.tau2 == 0
    table, mean = blup(fit).table[gone], predict(fit).table[gone]
    np.testing.assert_allclose(table["estimate"], mean["estimate"])
    np.testing.assert_allclose(table["se"], mean["se"])
    assert (table[["u", "u_se", "weight"]] == 0).all(axis=None)


def test_printed():
    fit = fit_reml(
        make_design(example(study=[f"s{i}" for i in range(30)]), "~ x", "~ x", study="study")
    )
    text = str(predict(fit))
    assert text.startswith("Predictions of a Location-Scale Model (k = 30; REML; 95% intervals")
    assert "uncertainty of τ² propagated" in text
    assert "s29" in text
    assert "ignored" in str(predict(fit, scale_uncertainty="plug-in"))
    assert "90% intervals" in str(blup(fit, level=0.9))
    assert "<table" in predict_tau(fit)._repr_html_()
    assert list(predict(fit).to_dataframe().index) == list(fit.design.labels)


def test_bad_input():
    fit = fit_reml(make_design(example(w=1.5), "~ x", "~ x"))
    for level in (0, 1, 95, np.nan):
        for function in (predict, predict_tau, blup):
            with pytest.raises(FitError, match="level must be between 0 and 1"):
                function(fit, level=level)
    with pytest.raises(FitError, match="'propagated' or 'plug-in', got 'none'"):
        predict(fit, scale_uncertainty="none")
    with pytest.raises(DataError, match="'x'"):
        predict(fit, pd.DataFrame({"z": [1.0]}))
    # Both parts are needed, also where only τ is asked for.
    design = make_design(example(w=np.arange(30.0)), "~ w", "~ x")
    with pytest.raises(DataError, match="'w'"):
        predict_tau(fit_reml(design), pd.DataFrame({"x": [1.0]}))
