"""Diagnostics of a posterior: right numbers, limits that bite, and what cannot be asked."""

from functools import cache
from types import SimpleNamespace

import arviz as az
import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri

import bayes_lsm as lsm
from bayes_lsm.bayes.diagnostics import findings
from bayes_lsm.bayes.diagnostics.diagnosis import Diagnosis
from bayes_lsm.bayes.diagnostics.study_influence import MAD_TO_SD
from bayes_lsm.bayes.draws import Draws, Importance
from bayes_lsm.bayes.engines.diagnostics import convergence


@cache
def preterm():
    fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_bayes(seed=1)
    return fit, fit.diagnose(progress=False)


def simulated(k=60, *, outlier=0.0, spread=0.0, seed=3):
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({"x": rng.normal(size=k), "vi": rng.uniform(0.02, 0.1, k)})
    sd = np.sqrt(data["vi"] + np.exp(-2 + spread * data["x"]))
    data["yi"] = 0.3 + 0.2 * data["x"] + sd * rng.normal(size=k)
    data.loc[0, "yi"] += outlier
    return data


def status(found, name):
    table = found.to_dataframe()
    return table.xs(name, level="check")["status"].item()


def test_numbers_are_those_of_the_single_diagnostics():
    fit, found = preterm()
    table = found.to_dataframe()["value"]
    left_out, check = fit.loo(), fit.posterior_predictive_check()
    assert table["Draws", "effective draws"] == fit.draws.importance.ess
    assert table["Leave-one-study-out", "effective number of parameters"] == left_out.p
    ppp = check.to_dataframe()["ppp"].droplevel(0)
    assert table["Posterior predictive"].to_dict() == ppp.to_dict()
    assert found.studies["elpd"].to_numpy() == pytest.approx(left_out.pointwise)
    z = ndtri(left_out.pit)
    assert found.studies["z"].to_numpy() == pytest.approx(z)
    assert table["Studies", "largest |z| of LOO-PIT"] == pytest.approx(np.abs(z).max())


def test_influence_is_what_refits_without_the_study_say():
    fit, found = preterm()
    data = lsm.load_dataset("preterm_iq")
    words = fit.design.specification
    median = fit.summary()["median"].to_numpy()
    sd = MAD_TO_SD * fit.summary()["mad"].to_numpy()
    shifts = found.studies[findings.coefficient_columns(found.studies)].to_numpy()
    # One by importance weights, and the one that moves most, which is refitted.
    for row in (2, int(np.abs(shifts).max(axis=1).argmax())):
        without = lsm.LocationScaleModel.from_specification(
            words, data.drop(index=data.index[row])
        ).fit_bayes(draws=20_000, seed=2)
        expected = (without.summary()["median"].to_numpy() - median) / sd
        # Monte Carlo error of a median is 1.25/√4000 of its SD, of about 2000 weighted draws more.
        assert shifts[row] == pytest.approx(expected, abs=0.12)


def test_a_good_model_is_called_good_and_an_outlier_is_found():
    words = {"scale": "~ x", "variance": "vi"}
    good = lsm.LocationScaleModel("yi ~ x", data=simulated(), **words).fit_bayes(seed=1)
    found = good.diagnose(progress=False)
    assert "bad" not in set(found.to_dataframe()["status"])
    assert status(found, "LOO-PIT uniform, p") == "good"
    bad = lsm.LocationScaleModel("yi ~ x", data=simulated(outlier=8.0), **words).fit_bayes(seed=1)
    found = bad.diagnose(progress=False)
    assert status(found, "largest |z| of LOO-PIT") == "caution"
    assert found.studies["z"].abs().idxmax() == bad.design.labels[0]
    assert status(found, "skewness of z") != "good"
    assert found.verdict.count("out of bounds") >= 1


def test_a_missing_scale_moderator_is_found():
    data = simulated(k=150, spread=1.2)
    fit = lsm.LocationScaleModel("yi ~ x", variance="vi", data=data).fit_bayes(seed=1)
    found = fit.diagnose(progress=False)
    finding = next(each for each in found.findings if each.name == "cor(|z|, x)")
    assert finding.status != "good"
    assert finding.value < 0.02
    assert "rises more with this moderator" in finding.sentence
    told = lsm.LocationScaleModel("yi ~ x", scale="~ x", variance="vi", data=data)
    assert status(told.fit_bayes(seed=1).diagnose(progress=False), "cor(|z|, x)") == "good"


def chains(values, **stats):
    """A fit whose draws are given, of a random-effects model."""
    fit = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(
        seed=1
    )
    draws = Draws(values[..., :1], values[..., 1:], stats=stats)
    table = convergence(fit.design, draws)
    return type(fit)(fit.design, fit.priors, draws, 1, table, ())


def test_limits_of_chains_bite():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(4, 500, 2))
    energy = rng.normal(size=(4, 500))
    good = findings.draws_findings(
        chains(values, diverging=np.zeros((4, 500), bool), energy=energy)
    )
    assert {each.status for each in good} == {"good"}
    apart = values + np.arange(4)[:, None, None]
    diverging = np.zeros((4, 500), bool)
    diverging[0, :3] = True
    walk = np.cumsum(energy, axis=1)
    bad = {
        each.name: each
        for each in findings.draws_findings(chains(apart, diverging=diverging, energy=walk))
    }
    assert bad["largest R-hat"].status == "bad"
    assert bad["smallest bulk ESS"].status == "bad"
    assert bad["divergent transitions"].value == 3
    assert bad["smallest E-BFMI"].status == "caution"
    tree = az.from_dict({"posterior": {"x": apart[..., 0]}, "sample_stats": {"energy": walk}})
    # ArviZ divides by n − 1 in the variance.
    expected = float(az.bfmi(tree)["energy"].min()) * 500 / 499
    assert bad["smallest E-BFMI"].value == pytest.approx(expected)
    stuck = np.zeros((4, 500, 2))
    assert {each.status for each in findings.draws_findings(chains(stuck))} == {"bad", "good"}


def test_limits_of_weights_bite():
    fit = preterm()[0]
    heavy = SimpleNamespace(
        convergence=fit.convergence.assign(mcse_median=10.0),
        summary=fit.summary,
        importance=Importance(0.9, 0.05, 100.0, 0.0, 0.1, 1000),
        stats={},
    )
    found = findings.draws_findings(heavy)
    assert [each.status for each in found] == ["bad", "bad", "caution"]


def test_it_prints_the_verdict_and_the_limits():
    found = preterm()[1]
    text = str(found)
    assert "at most 0.7" in text
    assert found.verdict in " ".join(text.split()).replace(" Note:", "")
    assert "reconstructed" in text


@pytest.mark.slow
def test_engines_agree():
    fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_bayes(seed=1)
    found = fit.diagnose(engines=True, progress=False)
    assert isinstance(found, Diagnosis)
    assert status(found, "difference of medians / MCSE") == "good"
    assert found.engines["in_sd"].abs().max() < 0.2
    with_nuts = lsm.LocationScaleModel.from_file("preterm_weeks").fit_bayes(engine="nuts", seed=1)
    other = with_nuts.diagnose(engines=True, progress=False)
    assert status(other, "difference of medians / MCSE") == "good"
    assert other.engines["other"].to_numpy() == pytest.approx(
        fit.summary()["median"].to_numpy(), rel=0.1, abs=0.1
    )
