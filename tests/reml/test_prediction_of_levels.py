"""Predictions with several variances: brute force, differences, and what they are made of."""

from functools import cache

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.likelihood.blocks.arrange import arrange_design
from bayes_lsm.likelihood.blocks.blocks import evaluate
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices

from .nested import nested_data, nested_model
from .peers import gums


@cache
def levels():
    data = nested_data(2, districts=25, slopes=(0.0, 0.5))
    return nested_model(data, location="yi ~ z", school="~ x").fit_reml()


@cache
def slopes():
    """Correlated intercepts and slopes of districts, and schools."""
    rng = np.random.default_rng(7)
    district, x = np.repeat(np.arange(30), 6), rng.normal(size=180)
    u = rng.multivariate_normal([0, 0], [[0.3, 0.1], [0.1, 0.2]], size=30)[district]
    school = np.arange(180) // 2
    y = u[:, 0] + u[:, 1] * x + 0.2 * rng.normal(size=90)[school] + 0.2 * rng.normal(size=180)
    data = pd.DataFrame({"yi": y, "vi": 0.04, "district": district, "school": school, "x": x})
    scale = {"1 + x | district": "~ 1", "school": "~ 1"}
    return lsm.LocationScaleModel("yi ~ x", scale, variance="vi", data=data).fit_reml()


FITS = {"levels": levels, "slopes": slopes}
NEW = pd.DataFrame({"z": [1.0, -1.0, 0.3], "x": [1.0, -0.5, 2.0], "district": 0, "school": 0})


def brute_force(fit, new, slopes, Z, draws=200_000):
    """Quantiles of effects drawn one after the other, β̂ and its covariance where γ is."""
    rng = np.random.default_rng(1)
    data = arrange_design(fit.design)
    estimate = np.concatenate(
        [part for each in fit.terms.values() for part in (each.alpha, each.kappa)]
    )
    gamma = rng.multivariate_normal(estimate, fit.vcov_terms, size=400)
    found = []
    for here in gamma:
        at = evaluate(here, data, method="REML")
        variance, first = 0.0, 0
        for t, each in enumerate(fit.terms.values()):
            q, c = len(each.alpha), len(each.kappa)
            loads = slopes[t] * np.exp(0.5 * Z[t] @ here[first : first + q])
            R = np.eye(len(loads))
            if c:
                R[0, 1] = R[1, 0] = np.tanh(here[first + q])
            variance += loads @ R @ loads
            first += q + c
        sd = np.sqrt(new @ at.covariance @ new + variance)
        found.append(rng.normal(new @ at.beta, sd, size=draws // 400))
    return np.quantile(np.concatenate(found), [0.025, 0.975])


@pytest.mark.parametrize("name", FITS)
def test_intervals_are_those_of_brute_force(name):
    fit = FITS[name]()
    found, there = fit.predict(NEW).table, fit.design.for_new_data(NEW)
    for i in range(2):
        low, high = brute_force(
            fit,
            there.X[i],
            [each.slopes[i] for each in there.terms],
            [each.Z[i] for each in there.terms],
        )
        # 400 outer draws: the ends are good to some per cent of their distance.
        assert found["pi_lb"].iloc[i] == pytest.approx(low, abs=0.03 * (high - low))
        assert found["pi_ub"].iloc[i] == pytest.approx(high, abs=0.03 * (high - low))
    plug_in = fit.predict(NEW, scale_uncertainty="plug-in").table
    assert (plug_in["pi_lb"] > found["pi_lb"]).all()


def log_variance(fit, there, gamma, names):
    """ln of the sum of the terms' a'Da in each new row, at some γ."""
    total, first = 0.0, 0
    for (name, each), new in zip(fit.terms.items(), there.terms, strict=True):
        q, c = len(each.alpha), len(each.kappa)
        loads = new.slopes * np.exp(0.5 * new.Z @ gamma[first : first + q])
        kind = each.term.correlation if c else "none"
        R = correlation_matrices(gamma[None, first + q : first + q + c], loads.shape[1], kind)[0]
        if name in names:
            total = total + np.einsum("ij,jk,ik->i", loads, R, loads)
        first += q + c
    return np.log(total)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("chosen", ["all", "first"])
def test_tau_of_the_chosen_terms_is_by_the_delta_method(name, chosen):
    fit = FITS[name]()
    names = list(fit.terms) if chosen == "all" else list(fit.terms)[:1]
    terms = None if chosen == "all" else names
    there = fit.design.for_new_data(NEW)
    gamma = np.concatenate([np.r_[each.alpha, each.kappa] for each in fit.terms.values()])
    steps = 1e-5 * np.eye(len(gamma))
    gradient = np.transpose(
        [
            log_variance(fit, there, gamma + h, names) - log_variance(fit, there, gamma - h, names)
            for h in steps
        ]
    )
    gradient /= 2e-5
    found = fit.predict_tau(NEW, terms=terms).table
    np.testing.assert_allclose(found["estimate"], log_variance(fit, there, gamma, names))
    se = np.sqrt(np.einsum("ij,jk,ik->i", gradient, fit.vcov_terms, gradient))
    np.testing.assert_allclose(found["se"], se, rtol=1e-6)
    np.testing.assert_allclose(found["tau_ci_ub"], np.sqrt(np.exp(found["ci_ub"])))
    # The same as beside the predictions.
    columns = ["tau2", "tau", "tau_ci_lb", "tau_ci_ub"]
    beside = fit.predict(NEW, terms=terms).table
    pd.testing.assert_frame_equal(found[columns], beside[columns])
    parts = [column for column in beside if column.startswith("tau2 (")]
    assert parts == [f"tau2 ({name})" for name in names]
    np.testing.assert_allclose(beside[parts].sum(axis=1), beside["tau2"])


@pytest.mark.parametrize("name", FITS)
def test_without_new_data_the_rows_are_predicted(name):
    fit = FITS[name]()
    found, design = fit.predict().table, fit.design
    assert list(found.index) == list(design.labels)
    assert found.index.name == "study"
    np.testing.assert_allclose(found["tau2"], fit.tau2)
    data = design.moderators.assign(district=0, school=0)
    np.testing.assert_allclose(found, fit.predict(data).table, rtol=1e-10)
    np.testing.assert_allclose(fit.predict_tau().table["tau2"], fit.tau2)


def test_what_is_certain_is_not_widened():
    """A term without variance, and terms that are not asked for, add nothing."""
    data = lsm.load_dataset("konstantopoulos2011")
    words = {"district": "~ 1", "district/school": "~ 1", "year": "~ 1"}
    with pytest.warns(DivergentScaleWarning):
        fit = lsm.LocationScaleModel("yi ~ 1", words, variance="vi", data=data).fit_reml()
    new = data.head(1)
    result = fit.predict(new, terms=["year"])
    year = result.table.iloc[0]
    assert year["tau2"] == 0.0
    assert (year["pi_lb"], year["pi_ub"]) == (year["ci_lb"], year["ci_ub"])
    assert "τ² of 'year' = 0 in all rows" in str(result)
    assert fit.predict_tau(new, terms=["year"]).table[["se", "ci_lb"]].isna().all(axis=None)
    without = lsm.LocationScaleModel(
        "yi ~ 1", {"district": "~ 1", "district/school": "~ 1"}, variance="vi", data=data
    ).fit_reml()
    ends = ["pi_lb", "pi_ub", "tau", "tau_ci_lb", "tau_ci_ub"]
    np.testing.assert_allclose(
        fit.predict(new).table[ends].to_numpy(float),
        without.predict(new).table[ends].to_numpy(float),
        rtol=1e-4,
    )


def test_at_a_limit_the_mean_follows_the_variances_that_are_left():
    """As in the model without the variance that is gone, whose points are the same."""
    data = nested_data(4, districts=20, tau2=(0.3, 0.0)).assign(yi=lambda d: d["yi"].round(2))
    with pytest.warns(DivergentScaleWarning):
        fit = nested_model(data, location="yi ~ x").fit_reml()
    gone = [name for name, each in fit.terms.items() if each.divergence is not None]
    assert gone == ["school"]
    alone = lsm.LocationScaleModel("yi ~ x", {"district": "~ 1"}, variance="vi", data=data)
    ends = ["pi_lb", "pi_ub"]
    found, expected = (each.predict(NEW).table for each in (fit, alone.fit_reml()))
    width = (expected["pi_ub"] - expected["pi_lb"]).to_numpy()[:, None]
    # A mean over points against an integral.
    assert (np.abs(found[ends] - expected[ends]).to_numpy() < 2e-3 * width).all()


def test_what_a_bound_holds_has_no_interval():
    free = levels()
    slope = free.scale.loc[("school", "x"), "estimate"]
    model = nested_model(
        nested_data(2, districts=25, slopes=(0.0, 0.5)), location="yi ~ z", school="~ x"
    )
    fit = model.fit_reml(bounds={"school: x": (slope + 0.5, np.inf)})
    new = NEW.assign(x=[0.0, 1.0, 1.0])
    result = fit.predict(new)
    assert result.table["pi_lb"].isna().to_list() == [False, True, True]
    assert "τ² of 'school' has no standard error in row 1, row 2" in str(result)
    fixed = model.fit_reml(fixed={"school: x": slope})
    assert np.isfinite(fixed.predict(new).table).all(axis=None)
    np.testing.assert_allclose(
        fixed.predict(new).table["tau2"], free.predict(new).table["tau2"], rtol=1e-4
    )


def test_without_a_variance_it_is_the_interval_of_the_mean():
    found = levels().predict(NEW, terms=[]).table
    np.testing.assert_array_equal(found[["pi_lb", "pi_ub"]], found[["ci_lb", "ci_ub"]])
    assert (found["tau"] == 0).all()


def test_outcomes_and_repeated_calls():
    fit = gums("unstructured").fit_reml()
    new = lsm.load_dataset("berkey1998").iloc[:2][["outcome", "trial"]]
    first, again = fit.predict(new).table, fit.predict(new).table
    pd.testing.assert_frame_equal(first, again)
    plug_in = fit.predict(new, scale_uncertainty="plug-in").table
    assert (first["pi_ub"] > plug_in["pi_ub"]).all()
    with pytest.raises(FitError, match="scale_uncertainty must be"):
        fit.predict(new, scale_uncertainty="none")


@pytest.mark.parametrize("verb", ["predict", "predict_tau"])
def test_terms_that_there_are_not(verb):
    with pytest.raises(FitError, match="no scale term 'county'; there are 'district', 'school'"):
        getattr(levels(), verb)(NEW, terms=["county"])


def test_the_residual_of_individual_data_is_no_heterogeneity():
    fit = lsm.LocationScaleModel.from_file("preterm_one_stage").fit_reml()
    new = lsm.load_dataset("preterm_iq_ipd").head(1)
    names = list(fit.terms)
    assert names[-1] == "residual"
    default, both = (
        fit.predict_tau(new, terms=each).table["tau2"].iloc[0] for each in (None, names)
    )
    alone = fit.predict_tau(new, terms=["residual"]).table["tau2"].iloc[0]
    assert both == pytest.approx(default + alone)


def test_rows_are_called_as_in_predictions_of_one_scale_term():
    data = lsm.load_dataset("konstantopoulos2011")
    several = {"district": "~ 1", "district/school": "~ 1"}
    new = data.iloc[:2].set_axis(["first", "second"])
    for study in (None, "study"):
        options = {"variance": "vi", "data": data, "study": study}
        indices = [
            lsm.LocationScaleModel("yi ~ 1", scale, **options).fit_reml().predict(new).table.index
            for scale in (several, "~ 1")
        ]
        assert indices[0].equals(indices[1])
        assert indices[0].name == indices[1].name
