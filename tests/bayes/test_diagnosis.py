"""Diagnostics of a posterior: right numbers, limits that bite, and what cannot be asked.

Where effects are shared: dense algebra, closed forms, refits, and a model of independent effects'.
"""

import warnings
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import arviz as az
import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri
from scipy.stats import multivariate_normal, norm

import bayes_lsm as lsm
from bayes_lsm.bayes import fit_bayes
from bayes_lsm.bayes.diagnostics import findings
from bayes_lsm.bayes.diagnostics.diagnosis import Diagnosis
from bayes_lsm.bayes.diagnostics.findings import coefficient_columns
from bayes_lsm.bayes.diagnostics.study_influence import MAD_TO_SD
from bayes_lsm.bayes.draws import Draws, Importance
from bayes_lsm.bayes.engines.diagnostics import convergence
from bayes_lsm.bayes.fitting import as_fit
from bayes_lsm.bayes.posterior_sampling import checked
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.design.design import build_design
from bayes_lsm.plots import loo_pit, replicated, shifts
from bayes_lsm.priors import Normal, Priors, StudentT
from bayes_lsm.specification import Specification

from .levels import DESIGNS, as_dependent, chosen_draws, dense_model, model_of, with_draws
from .test_leave_out_clusters import PINNED, conditional, dense, schools
from .test_scale_random_intercepts import SMALL
from .test_scale_random_intercepts import model_of as mixed_model

FIXED = Priors(location={"*": Normal(0, 1)}, scale={"*": Normal(-3, 1.5)})


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
    shifts = found.studies[coefficient_columns(found.studies)].to_numpy()
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


@pytest.mark.parametrize("name", DESIGNS)
def test_scores_one_after_another_are_those_of_a_cholesky_factor(name):
    fit = chosen_draws(DESIGNS[name]())
    z, log_density = ConditionalEffects(fit.design, fit.draws).scores_in_order()
    for draw in range(6):
        A, D, V = dense_model(fit, draw)
        sigma, r = V + A @ D @ A.T, fit.design.y - fit.design.X @ fit.draws.flat_location[draw]
        exact = np.linalg.solve(np.linalg.cholesky(sigma), r)
        np.testing.assert_allclose(z[draw], exact, rtol=1e-7, atol=1e-8)
        total = multivariate_normal(np.zeros(len(r)), sigma).logpdf(r)
        assert log_density[draw].sum() == pytest.approx(total, rel=1e-8)


def test_pit_of_a_pinned_model_are_in_closed_form():
    fit = schools(priors=PINNED).fit_bayes(draws=8000, seed=1)
    found, y = fit.diagnose(progress=False), fit.design.y
    covariance = dense(fit.design, (0.06, 0.03))
    for rows in found.loo.studies.rows:
        left = np.setdiff1d(np.arange(len(y)), rows)
        for j, row in enumerate(rows):
            before = np.concatenate([left, rows[:j]])
            centre, spread = conditional(0.2, covariance, y, rows[j : j + 1], before)
            exact = norm.cdf(y[row], centre[0], np.sqrt(spread[0, 0]))
            # β alone is drawn, and moves a mean by far less than the SD of an effect: a PIT, as the
            # mean of 8,000 draws that are worth half as many, has an error below 0.003.
            assert found.loo.pit[row] == pytest.approx(exact, abs=0.012)
    assert found.studies.index.name == "district"


@pytest.mark.parametrize("study_effects", ["normal", "student_t"])
def test_pit_of_studies_with_several_rows_are_taken_one_after_another(study_effects):
    """Their effects share β alone, which is known by the others and by those before."""
    data = lsm.load_dataset("bcg").assign(paper=list("aabbcdeeefghi"))
    tau2, robust = 0.1, study_effects == "student_t"
    priors = Priors(
        location={"*": Normal(-0.5, 1.0)},
        scale={"*": Normal(np.log(tau2), 1e-3)},
        # So many that they are normal: a density differs by the factor 1 + O(z⁴/4ν).
        df=1e9 if robust else None,
    )
    model = lsm.LocationScaleModel(
        "yi ~ 1",
        variance="vi",
        study="paper",
        data=data,
        priors=priors,
        study_effects=study_effects,
    )
    found, y = model.fit_bayes(draws=8000, seed=1).diagnose(progress=False), model.design.y
    covariance = np.diag(model.design.v + tau2) + 1.0
    assert [len(rows) for rows in found.loo.studies.rows] == [2, 2, 1, 1, 3, 1, 1, 1, 1]
    for rows in found.loo.studies.rows:
        left = np.setdiff1d(np.arange(len(y)), rows)
        for j, row in enumerate(rows):
            before = np.concatenate([left, rows[:j]])
            centre, spread = conditional(-0.5, covariance, y, rows[j : j + 1], before)
            exact = norm.cdf(y[row], centre[0], np.sqrt(spread[0, 0]))
            # As of the schools: β alone is drawn.
            assert found.loo.pit[row] == pytest.approx(exact, abs=0.012)
    assert any("the effects before it in that study" in note for note in found.remarks)


def test_a_single_study_is_not_left_out():
    data = lsm.load_dataset("bcg").iloc[:4].assign(paper="a")
    model = lsm.LocationScaleModel("yi ~ 1", variance="vi", study="paper", data=data)
    found = model.fit_bayes(seed=1).diagnose(progress=False)
    assert found.loo is None
    assert found.remarks == (
        "nothing was left out: leaving studies out needs at least 2 of them, got 1 (a); name "
        "smaller ones with cluster=",
    )


def test_priors_that_no_refit_takes_leave_the_weights():
    fit = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(
        seed=1
    )
    heavy = Priors(location={"*": StudentT(3, 0.0, 10.0)})
    found = replace(fit, priors=heavy).diagnose(progress=False)
    assert found.loo.criterion == "psis_loo"
    assert not found.studies["refitted"].any()
    assert found.remarks[0].startswith("without refits, by importance sampling: ")


@pytest.mark.parametrize(
    ("model", "data", "column"),
    [(schools, "konstantopoulos2011", "district"), (None, "berkey1998", "trial")],
)
def test_shifts_are_those_of_refits_to_the_other_rows(model, data, column):
    """By weights where they can be trusted, and by refits where they cannot."""
    frame = lsm.load_dataset(data)

    def fit_of(rows, seed):
        if model is schools:
            words = schools(rows.reset_index(drop=True), priors=FIXED)
        else:
            words = berkey_of(rows.reset_index(drop=True))
        return words.fit_bayes(engine="collapsed", draws=8000, seed=seed)

    fit = fit_of(frame, 1)
    found = fit.diagnose(progress=False).studies
    columns = coefficient_columns(found)
    assert columns[-1].startswith("correlation" if model is None else "scale (district/school)")
    summary = fit.summary()
    sd = 1.482602218505602 * summary["mad"].to_numpy()
    far = found[columns].abs().max(axis=1)
    for name in {far.idxmax(), far.idxmin(), *found.index[found["refitted"]]}:
        without = fit_of(frame[frame[column].astype(str) != name], 2).summary()["median"].to_numpy()
        exact = (without - summary["median"].to_numpy()) / sd
        # Medians of draws worth about 4,000, and of weighted ones worth a quarter of that.
        np.testing.assert_allclose(found.loc[name, columns].astype(float), exact, atol=0.25)


def berkey_of(data):
    return lsm.LocationScaleModel(
        "yi ~ 0 + outcome",
        {"outcome | trial": "~ 0 + outcome"},
        variance="vi",
        sampling_covariance=lsm.SamplingCovariance("trial", columns=["v1i", "v2i"]),
        data=data,
        priors=FIXED,
    )


def test_one_term_of_single_studies_is_diagnosed_as_by_its_own():
    data = lsm.load_dataset("bcg")
    model = lsm.LocationScaleModel("yi ~ ablat", "~ 1", variance="vi", data=data)
    named = data.assign(unit=[f"u{i:02d}" for i in range(len(data))])
    spec = Specification("yi ~ ablat", "vi", scale={"unit": "~ 1"})
    one = model.fit_bayes(engine="collapsed", draws=8000, seed=4).diagnose(progress=False)
    fit = fit_bayes(as_dependent(build_design(spec, named)), draws=8000, seed=5)
    several = fit.diagnose(progress=False)
    # Of refits: their error is below 0.01 each.
    np.testing.assert_allclose(several.loo.pointwise, one.loo.pointwise, atol=0.03)
    # Of so many draws: errors of a probability of 0.01, of a score below 3 of a few times as much.
    np.testing.assert_allclose(several.loo.pit, one.loo.pit, atol=0.03)
    ours, theirs = (each.studies[coefficient_columns(each.studies)] for each in (several, one))
    np.testing.assert_allclose(ours, theirs, atol=0.2)
    assert [f.name for f in several.findings if f.part == "Draws"] == [
        f.name for f in one.findings if f.part == "Draws"
    ]
    assert len(several.findings) == len(one.findings)


def test_random_intercepts_are_left_out_by_weights():
    design = mixed_model(SMALL).design
    term, rng = design.terms[0], np.random.default_rng(1)
    fit = with_draws(
        design,
        rng.normal(0.3, 0.1, (400, 1)),
        [rng.normal([-1.0, 0.5], 0.2, (400, 2))],
        random=[(rng.uniform(0.5, 1, 400), rng.normal(size=(400, len(term.random[0].levels))))],
    )
    found = fit.diagnose(progress=False)
    assert found.loo.criterion == "psis_loo"
    assert "by importance sampling: those of random intercepts" in found.remarks[0]
    assert not found.studies["refitted"].any()
    assert not [name for name in coefficient_columns(found.studies) if "scale_effect" in name]
    # Rows are independent given the draws, so that each is a cluster: PIT are those of its own.
    with pytest.warns(lsm.ConvergenceWarning, match="Pareto k is above"):
        plain = fit.psis_loo(progress=False)
    np.testing.assert_allclose(found.loo.pit, plain.pit, atol=1e-9)
    np.testing.assert_allclose(found.studies["pareto_k"], plain.columns["pareto_k"])
    assert any(each.name.endswith("Pareto k > 0.7") and each.value > 0 for each in found.findings)


def test_too_few_clusters_are_said():
    data = lsm.load_dataset("konstantopoulos2011").query("district in [11, 12]")
    found = schools(data.reset_index(drop=True)).fit_bayes(seed=1).diagnose(progress=False)
    assert found.studies is None
    assert found.loo is None
    assert "nothing was left out: leaving clusters out needs at least 3" in found.remarks[0]


def test_what_is_left_out_can_be_named():
    data = lsm.load_dataset("konstantopoulos2011").query("district in [11, 12]")
    fit = schools(data.reset_index(drop=True)).fit_bayes(seed=1)
    found = fit.diagnose(unit="row", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lsm.ConvergenceWarning)
        alone = fit.loo(unit="row", progress=False)
    assert found.studies.index.name == "row"
    assert len(found.studies) == len(data)
    np.testing.assert_allclose(found.studies["elpd"], alone.pointwise)
    with pytest.raises(lsm.FitError, match="no scale term 'hospital'"):
        fit.diagnose(cluster="hospital", progress=False)


def test_figures_and_words():
    fit = model_of("berkey1998").fit_bayes(engine="collapsed", seed=1)
    found = fit.diagnose(progress=False)
    assert "Leave-one-trial-out" in str(found)
    assert "in that trial" in str(found)
    assert found.studies.loc["2", "refitted"] == (found.studies.loc["2", "pareto_k"] > 0.7)
    assert len(replicated(found.check)) == len(found.check.observed)
    assert "LOO-PIT" in loo_pit(found.loo).get_xlabel()
    assert "without the trial" in shifts(found).get_xlabel()
    labels = [label.get_text() for label in shifts(found).get_yticklabels()]
    assert labels[0] == "location[outcomeAL]"
    assert len(labels) == 5


@pytest.mark.slow
def test_engines_agree_on_schools():
    fit = model_of("konstantopoulos2011").fit_bayes(engine="collapsed", seed=1)
    found = fit.diagnose(engines=True, progress=False)
    assert found.engines.index.equals(fit.summary().index)
    assert found.engines["in_mcse"].abs().max() < 4
    chains = replace(fit.draws, importance=None)
    again = as_fit(checked(fit.design, fit.priors, chains, 3)).diagnose(
        engines=True, progress=False
    )
    assert again.engines["in_mcse"].abs().max() < 4
