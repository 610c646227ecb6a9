"""Diagnosis of several scale terms: dense algebra, closed forms, refits, and one term's own."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

import bayes_lsm as lsm
from bayes_lsm.bayes import fit_bayes
from bayes_lsm.bayes.diagnostics.findings import coefficient_columns
from bayes_lsm.bayes.fitting import as_fit
from bayes_lsm.bayes.posterior_sampling import checked
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.design.design import build_design
from bayes_lsm.plots import loo_pit, replicated, shifts
from bayes_lsm.priors import Normal, Priors
from bayes_lsm.specification import Specification

from .levels import DESIGNS, as_dependent, chosen_draws, dense_model, model_of, with_draws
from .test_leave_out_clusters import PINNED, conditional, dense, schools
from .test_scale_random_intercepts import SMALL
from .test_scale_random_intercepts import model_of as mixed_model

FIXED = Priors(location={"*": Normal(0, 1)}, scale={"*": Normal(-3, 1.5)})


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
    assert "by importance sampling: those of random intercepts" in found.remarks[1]
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
    assert "no cluster was left out: leaving clusters out needs at least 3" in found.remarks[0]


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
def test_engines_agree():
    fit = model_of("konstantopoulos2011").fit_bayes(engine="collapsed", seed=1)
    found = fit.diagnose(engines=True, progress=False)
    assert found.engines.index.equals(fit.summary().index)
    assert found.engines["in_mcse"].abs().max() < 4
    chains = replace(fit.draws, importance=None)
    again = as_fit(checked(fit.design, fit.priors, chains, 3)).diagnose(
        engines=True, progress=False
    )
    assert again.engines["in_mcse"].abs().max() < 4
