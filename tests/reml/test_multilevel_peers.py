"""Models with several scale terms, from words to tables, against rma.mv, lme and the slides.

The likelihood itself is held to these peers in tests/likelihood/test_blocks_peers.py; here it is
what the front door makes of it. How far the peers' numbers are good is in multilevel.R.
"""

import json

import numpy as np
import pytest

import bayes_lsm as lsm

from .peers import PEERS, REFERENCE, crimes, gums, schools

SLIDE = json.loads((REFERENCE / "slides.json").read_text())["one_stage_multilevel"]


CASES = {
    "schools": schools(),
    "schools_year": schools(year=True),
    "crimes_correlated": crimes(),
    "gums_UN": gums("unstructured"),
    "gums_HCS": gums("compound_symmetric"),
    "gums_DIAG": gums("none"),
}


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("case", CASES)
def test_rma_mv(case, method):
    peer = PEERS["metafor"][case][method]
    fit = CASES[case].fit_reml(method=method)
    # Where an optimiser of rma.mv stops, the likelihood is flat to 1e-8 or so, β to its root.
    assert fit.loglik == pytest.approx(peer["logLik"], abs=1e-7)
    assert fit.aic == pytest.approx(peer["AIC"], abs=1e-6)
    assert fit.bic == pytest.approx(peer["BIC"], abs=1e-6)
    assert fit.n_parameters == peer["parms"]
    np.testing.assert_allclose(fit.beta, peer["estimate"], rtol=1e-4)
    np.testing.assert_allclose(fit.location["se"], peer["se"], rtol=1e-4)


def test_the_levels_of_a_three_level_model():
    """rma.mv(yi, vi, random = ~ 1 | district/school) of metafor 3.8.1: ranef, predict, I²."""
    fit = CASES["schools"].fit_reml()
    heterogeneity = fit.heterogeneity().table
    np.testing.assert_allclose(heterogeneity["I2"].iloc[:2], [63.32484, 31.86248], rtol=1e-5)
    effects = fit.group_effects().table.droplevel("effect")
    np.testing.assert_allclose(
        effects.loc["district"].iloc[:2],
        [
            [-0.18998596, 0.1665397, -0.5163977, 0.1364258],
            [-0.08467077, 0.1240789, -0.3278610, 0.1585194],
        ],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        effects.loc["district/school"].iloc[0],
        [-0.03794675, 0.1638819, -0.3591495, 0.2832560],
        rtol=1e-5,
    )
    new = lsm.load_dataset("konstantopoulos2011").head(1)
    prediction = fit.predict(new, scale_uncertainty="plug-in").table.iloc[0]
    assert prediction["pi_lb"] == pytest.approx(-0.4502, abs=5e-5)
    assert prediction["pi_ub"] == pytest.approx(0.8197, abs=5e-5)


def test_the_effects_of_a_multivariate_model():
    """ranef of rma.mv(yi, V, mods = ~ 0 + outcome, random = ~ outcome | trial, struct = "UN")."""
    blups = CASES["gums_UN"].fit_reml().group_effects().table.reset_index(drop=True)
    expected = [
        [0.014322291, 0.10625133],
        [0.064148226, 0.07521715],
        [-0.252011773, 0.09018051],
        [-0.123527210, 0.07147487],
    ]
    np.testing.assert_allclose(blups[["estimate", "se"]].iloc[:4], expected, rtol=1e-4)


@pytest.fixture(scope="module")
def one_stage():
    model = lsm.LocationScaleModel(
        "iq ~ 0 + C(study) + atterm",
        {"0 + atterm | study": "~ 1", "residual": "~ 0 + C(study):group"},
        data=lsm.load_dataset("preterm_iq_ipd"),
    )
    return model.fit_reml(test="t")


def test_the_one_stage_model_of_the_slides(one_stage):
    printed = one_stage.nlme
    assert printed["logLik"] == pytest.approx(SLIDE["logLik"], abs=0.005)
    assert printed["AIC"] == pytest.approx(SLIDE["AIC"], abs=0.005)
    # The slides' 58541.94; nlme counts n − p observations as we do.
    assert printed["BIC"] == pytest.approx(SLIDE["BIC"], abs=0.005)
    assert one_stage.n_parameters == 113
    location = one_stage.location
    assert location.loc["atterm", "df"] == SLIDE["coef"]["atterm"]["df"]
    # The reconstructed scores come as near to the printed coefficients as the rounded summaries.
    for term, name in (("study1", "C(study)1"), ("study37", "C(study)37"), ("atterm", "atterm")):
        row = location.loc[name if name in location.index else term]
        assert row["estimate"] == pytest.approx(SLIDE["coef"][term]["estimate"], abs=0.1)
        assert row["se"] == pytest.approx(SLIDE["coef"][term]["se"], abs=0.01)
    slope = one_stage.components.loc["0 + atterm | study", "tau"]
    assert slope == pytest.approx(SLIDE["sd_atterm"], abs=5e-4)


def test_the_one_stage_model_of_nlme(one_stage):
    peer = PEERS["one_stage"]["REML"]
    assert one_stage.nlme["logLik"] == pytest.approx(peer["logLik"], abs=1e-4)
    np.testing.assert_allclose(one_stage.beta, peer["estimate"], rtol=1e-4)
    np.testing.assert_allclose(one_stage.location["se"], peer["se"], rtol=1e-3)
    slope = one_stage.components.loc["0 + atterm | study", "tau"]
    # lme's optimiser stops where it does: 3.65062 against 3.65060.
    assert slope == pytest.approx(peer["sd_random"][0], rel=1e-4)


def test_predictions_follow_the_levels_and_refuse_others():
    fit = CASES["gums_UN"].fit_reml()
    new = lsm.load_dataset("berkey1998").iloc[:2][["outcome", "trial"]]
    table = fit.predict(new).table
    tau2 = np.exp(fit.terms["outcome | trial"].alpha)
    names = fit.terms["outcome | trial"].term.names
    for label, outcome in zip(table.index, new["outcome"], strict=True):
        expected = tau2[names.index(f"outcome{outcome}")]
        assert table.loc[label, "tau2"] == pytest.approx(expected)
    with pytest.raises(lsm.DataError, match="'XX', which the fitted data do not have"):
        fit.predict(new.assign(outcome="XX"))
    with pytest.raises(lsm.FitError, match="no scale term 'author'"):
        fit.predict(new, terms=["author"])
