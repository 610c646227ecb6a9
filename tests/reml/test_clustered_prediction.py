"""Predictions with the uncertainty of several variances, against one term and brute force."""

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.likelihood.blocks.arrange import arrange_design
from bayes_lsm.likelihood.blocks.blocks import evaluate
from bayes_lsm.reml.search.maximum import estimate
from bayes_lsm.specification import Specification

from .nested import nested_data, nested_model
from .peers import gums


def test_one_term_of_rows_is_the_ordinary_prediction():
    data = lsm.load_dataset("bangertdrowns2004")
    words = Specification("yi ~ 1", "vi", scale={"residual": "~ I(ni / 100)"})
    clustered = estimate(build_design(words, data), "REML")
    single = lsm.LocationScaleModel("yi ~ 1", scale="~ I(ni / 100)", variance="vi", data=data)
    new = pd.DataFrame({"ni": [50, 200]})
    ours = clustered.predict(new).table
    theirs = single.fit_reml().predict(new).table
    # A mean over 4096 points against an integral; the latter lets β̂ follow α to first order.
    width = theirs["pi_ub"] - theirs["pi_lb"]
    for end in ("pi_lb", "pi_ub"):
        assert (
            np.abs(ours[end].to_numpy() - theirs[end].to_numpy()) < 0.01 * width.to_numpy()
        ).all()
    np.testing.assert_allclose(ours["tau2"], theirs["tau2"], rtol=1e-5)


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


def test_two_levels_are_those_of_brute_force():
    data = nested_data(2, districts=25, slopes=(0.0, 0.5))
    fit = nested_model(data, location="yi ~ z", school="~ x").fit_reml()
    found = fit.predict(pd.DataFrame({"z": [1.0], "x": [1.0]})).table.iloc[0]
    Z = [np.array([[1.0]]), np.array([[1.0, 1.0]])]
    low, high = brute_force(fit, np.array([1.0, 1.0]), [np.ones(1)] * 2, Z)
    # 400 outer draws: the ends are good to some per cent of their distance.
    width = high - low
    assert found["pi_lb"] == pytest.approx(low, abs=0.03 * width)
    assert found["pi_ub"] == pytest.approx(high, abs=0.03 * width)
    plug_in = fit.predict(pd.DataFrame({"z": [1.0], "x": [1.0]}), scale_uncertainty="plug-in")
    assert plug_in.table["pi_lb"].iloc[0] > found["pi_lb"]


def test_what_is_certain_is_not_widened():
    """A term without variance, and terms that are not asked for, add nothing."""
    data = lsm.load_dataset("konstantopoulos2011")
    words = {"district": "~ 1", "district/school": "~ 1", "year": "~ 1"}
    with pytest.warns(DivergentScaleWarning):
        fit = lsm.LocationScaleModel("yi ~ 1", words, variance="vi", data=data).fit_reml()
    new = data.head(1)
    year = fit.predict(new, terms=["year"]).table.iloc[0]
    assert year["tau2"] == 0.0
    # The mean alone, whose own uncertainty moves with the variances of the others.
    assert year["pi_lb"] == pytest.approx(year["ci_lb"], abs=0.02)
    without = lsm.LocationScaleModel(
        "yi ~ 1", {"district": "~ 1", "district/school": "~ 1"}, variance="vi", data=data
    ).fit_reml()
    ends = ["pi_lb", "pi_ub"]
    np.testing.assert_allclose(
        fit.predict(new).table[ends].to_numpy(float),
        without.predict(new).table[ends].to_numpy(float),
        rtol=1e-4,
    )


def test_outcomes_and_repeated_calls():
    fit = gums("unstructured").fit_reml()
    new = lsm.load_dataset("berkey1998").iloc[:2][["outcome", "trial"]]
    first, again = fit.predict(new).table, fit.predict(new).table
    pd.testing.assert_frame_equal(first, again)
    plug_in = fit.predict(new, scale_uncertainty="plug-in").table
    assert (first["pi_ub"] > plug_in["pi_ub"]).all()
    with pytest.raises(FitError, match="scale_uncertainty must be"):
        fit.predict(new, scale_uncertainty="none")


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
