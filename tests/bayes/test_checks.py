"""Posterior predictive checks: their quantities by other routes, their p-values under a truth.

Where effects are shared: dense algebra, a model of independent effects' own checks, a known misfit.
"""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import skew

import bayes_lsm as lsm
from bayes_lsm.bayes.diagnostics.checks import replicate
from bayes_lsm.bayes.diagnostics.discrepancies import quantities_of
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.design.design import build_design
from bayes_lsm.formulas.random_intercepts import RandomIntercept
from bayes_lsm.links import tau2_from_log
from bayes_lsm.specification import Specification

from .levels import (
    DESIGNS,
    as_dependent,
    at_reml,
    bayes_of,
    chosen_draws,
    dense_model,
    reml_of,
    with_draws,
    with_random_intercepts,
)


@pytest.fixture(scope="module")
def check(continent_bayes):
    return continent_bayes.posterior_predictive_check(quantities={"range": np.ptp}, seed=1)


def test_quantities_of_the_observed_effects(check, continent, continent_reml):
    y, v = continent.design.y, continent.design.v
    observed = {name: values[0] for name, values in check.observed.items()}
    # metafor's QE, to its printed digits and more: two routes to a sum of 37 squares.
    assert observed["Q"] == pytest.approx(continent_reml.qe.statistic, rel=1e-10)
    assert observed["share significant"] == np.mean(np.abs(y / np.sqrt(v)) > 1.96)
    assert observed["smallest effect"] == y.min()
    assert observed["range"] == np.ptp(y)


def test_quantities_that_hang_on_the_coefficients(continent_bayes):
    design, draws = continent_bayes.design, continent_bayes.draws
    check = continent_bayes.posterior_predictive_check(draws=200, seed=2)
    chosen = np.random.default_rng(2).choice(40_000, size=200, replace=False)
    beta, alpha = draws.flat_location[chosen[7]], draws.flat_scale[chosen[7]]
    z = (design.y - design.X @ beta) / np.sqrt(design.v + tau2_from_log(design.Z @ alpha))
    assert check.observed["largest |z|"][7] == pytest.approx(np.abs(z).max())
    assert check.observed["skewness of z"][7] == pytest.approx(skew(z))
    weeks = np.corrcoef(np.abs(z), design.Z[:, 3])[0, 1]
    assert check.observed["cor(|z|, I(weeks - 40))"][7] == pytest.approx(weeks)
    se = np.corrcoef(z, np.sqrt(design.v))[0, 1]
    assert check.observed["cor(z, standard error)"][7] == pytest.approx(se)


def test_p_values_count_ties_by_half(check):
    table = check.to_dataframe().loc["Quantity"]
    replicated, observed = check.replicated["Q"], check.observed["Q"]
    assert table.loc["Q", "ppp"] == pytest.approx(np.mean(replicated > observed))
    ties = check.replicated["share significant"] == check.observed["share significant"]
    assert ties.any()
    higher = np.mean(check.replicated["share significant"] > check.observed["share significant"])
    assert table.loc["share significant", "ppp"] == pytest.approx(higher + ties.mean() / 2)


def test_heterogeneity_that_the_scale_part_misses_is_found():
    rng = np.random.default_rng(4)
    k = 120
    data = pd.DataFrame({"x": rng.uniform(-1, 1, k), "vi": rng.uniform(0.02, 0.06, k)})
    data["yi"] = rng.normal(0.3, np.sqrt(data["vi"] + np.exp(-2 + 3 * data["x"])))
    p = {}
    for scale in ("~ 1", "~ x"):
        model = lsm.LocationScaleModel("yi ~ x", scale=scale, variance="vi", data=data)
        check = model.fit_bayes(seed=1).posterior_predictive_check(seed=1)
        p[scale] = check.to_dataframe().loc[("Quantity", "cor(|z|, x)"), "ppp"]
        assert ("does not account for" in str(check)) == (p[scale] < 0.025), str(check)
    # A slope of 3 in ln τ² is seen; the model that has it passes.
    assert p["~ 1"] < 0.01
    assert 0.1 < p["~ x"] < 0.9


@pytest.mark.slow
def test_p_values_crowd_around_one_half_under_a_right_model():
    """Both effects of using the data twice: centred, and not spread out as uniform ones are."""
    rng = np.random.default_rng(5)
    found = []
    for seed in range(40):
        vi = rng.uniform(0.02, 0.2, 12)
        data = pd.DataFrame({"vi": vi, "yi": rng.normal(0.2, np.sqrt(vi + 0.1))})
        model = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data)
        fit = model.fit_bayes(engine="collapsed", draws=1000, seed=seed)
        table = fit.posterior_predictive_check(draws=500).to_dataframe()
        found.append(table.loc[("Quantity", "Q"), "ppp"])
    # Uniform p-values would have SD 0.289, and the mean of 40 an error of 0.046.
    assert np.mean(found) == pytest.approx(0.5, abs=4 * 0.046)
    assert np.std(found) < 0.289


def test_same_seed_same_check(continent_bayes, check):
    again = continent_bayes.posterior_predictive_check(quantities={"range": np.ptp}, seed=1)
    pd.testing.assert_frame_equal(check.to_dataframe(), again.to_dataframe())
    assert len(check.replicated["Q"]) == 2000


def test_equal_variances_and_few_studies():
    data = pd.DataFrame({"yi": [0.1, 0.3, 0.2, -0.1, 0.4], "vi": [0.1] * 5})
    fit = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data).fit_bayes(seed=1)
    table = fit.posterior_predictive_check().to_dataframe()
    assert np.isfinite(table.to_numpy()).all()
    assert ("Quantity", "cor(z, standard error)") not in table.index


def tables(fit, **options):
    return fit.posterior_predictive_check(**options).to_dataframe().loc["Quantity"]


@pytest.mark.parametrize("name", DESIGNS)
def test_replicates_have_the_covariance_of_dense_algebra(name):
    fit = chosen_draws(DESIGNS[name]())
    n = len(fit.design.y)
    for draw in (0, 5):
        effects = ConditionalEffects(fit.design, fit.draws.take(np.full(n, draw)))
        A, D, V = dense_model(fit, draw)
        C = effects.unfold(np.eye(n)).T
        np.testing.assert_allclose(C @ C.T, V + A @ D @ A.T, atol=1e-10)
        np.testing.assert_allclose(effects.standardise(C.T), np.eye(n), atol=1e-8)


def test_random_intercepts_of_the_scale_keep_their_levels():
    design = DESIGNS["crossed"]()
    term = design.terms[0]
    of = RandomIntercept("half", ("a", "b"), (np.arange(len(term.groups)) % 2)[:, None])
    fit = with_draws(
        with_random_intercepts(design, term.name, of),
        np.zeros((3, 2)),
        [np.zeros((3, len(t.names))) for t in design.terms],
        random=[(np.ones(3), np.array([[0.5, -2.0]] * 3))],
    )
    A, D, V = dense_model(fit, 1)
    effects = ConditionalEffects(fit.design, fit.draws.take(np.full(30, 1)))
    C = effects.unfold(np.eye(30)).T
    np.testing.assert_allclose(C @ C.T, V + A @ D @ A.T, atol=1e-10)


def test_one_term_of_single_studies_is_checked_as_by_its_own_checks():
    data = lsm.load_dataset("preterm_iq")
    spec = Specification("yi ~ weeks", "vi", scale={"study": "~ weeks"}, study="study")
    model = lsm.LocationScaleModel("yi ~ weeks", "~ weeks", variance="vi", study="study", data=data)
    fit = model.fit_bayes(engine="collapsed", seed=1)
    alike = with_draws(
        as_dependent(build_design(spec, data)), fit.draws.flat_location, [fit.draws.flat_scale]
    )
    one, several = (f.posterior_predictive_check(draws=2000, seed=4) for f in (fit, alike))
    assert list(one.observed) == list(several.observed)
    for name, values in one.observed.items():
        np.testing.assert_allclose(several.observed[name], values, rtol=1e-9, atol=1e-9)
        mean, error = one.replicated[name].mean(), one.replicated[name].std() / np.sqrt(2000)
        # Two independent sets of 2000 replicates: 4 standard errors of their difference.
        assert several.replicated[name].mean() == pytest.approx(mean, abs=4 * 2**0.5 * error)


def test_quantities_of_schools_in_districts():
    fit, data = bayes_of("konstantopoulos2011"), lsm.load_dataset("konstantopoulos2011")
    some = fit.draws.take(np.arange(5))
    seen, drawn = replicate(fit.design, some, np.random.default_rng(1))
    found = {name: of(seen) for name, of in quantities_of(fit.design).items()}
    # metafor's rma.mv has QE(df = 55) = 578.8640 for the same effects without moderators.
    X = fit.design.X
    assert found["Q"][0] == pytest.approx(578.8640, abs=1e-4)
    residual = pd.Series(fit.design.y - X @ fit.draws.flat_location[3])
    by_district = residual.groupby(data["district"].to_numpy()).mean()
    assert found["SD of means (district)"][3] == pytest.approx(by_district.std())
    A, D, V = dense_model(fit, 3)
    values, vectors = np.linalg.eigh(V + A @ D @ A.T)
    # Any other root of Σ gives z with the same sum of squares.
    z = (vectors / np.sqrt(values)).T @ residual
    assert np.sum(seen.z[3] ** 2) == pytest.approx(np.sum(z**2))
    assert found["largest |z|"][3] == np.abs(seen.z[3]).max()
    assert found["skewness of z"][3] == pytest.approx(skew(seen.z[3]))
    np.testing.assert_allclose(
        drawn.y - drawn.residual, fit.draws.flat_location[:5] @ X.T, atol=1e-12
    )


def test_quantities_of_outcomes_with_correlated_errors():
    fit = bayes_of("berkey1998")
    some = fit.draws.take(np.arange(4))
    seen, _ = replicate(fit.design, some, np.random.default_rng(1))
    found = {name: of(seen) for name, of in quantities_of(fit.design).items()}
    V = dense_model(fit, 0)[2]
    W, X, y = np.linalg.inv(V), fit.design.X, fit.design.y
    e = y - X @ np.linalg.solve(X.T @ W @ X, X.T @ W @ y)
    assert found["Q"][2] == pytest.approx(e @ W @ e)
    residual = y - X @ fit.draws.flat_location[2]
    slopes = fit.design.terms[0].slopes
    apart = [residual[slopes[:, k] == 1] for k in range(2)]
    for k, effect in enumerate(fit.design.terms[0].effects):
        sd = found[f"SD of means (outcome | trial: {effect})"][2]
        assert sd == pytest.approx(np.std(apart[k], ddof=1))
    together = np.corrcoef(*apart)[0, 1]
    assert found["cor of effects (outcome | trial: AL, PD)"][2] == pytest.approx(together)


def test_a_level_without_its_heterogeneity_is_found():
    fit = at_reml(reml_of("konstantopoulos2011"))
    draws = [np.tile(each.alpha[:1], (200, 1)) for each in fit.terms.values()]
    right = with_draws(fit.design, np.tile(fit.draws.flat_location.mean(axis=0), (200, 1)), draws)
    wrong = with_draws(
        fit.design, right.draws.flat_location, [np.full_like(draws[0], -12.0), draws[1]]
    )
    p = [tables(each, draws=200).loc["SD of means (district)", "ppp"] for each in (right, wrong)]
    assert 0.1 < p[0] < 0.9
    assert p[1] < 0.01


def test_individuals_have_no_q_and_slopes_have_an_sd():
    fit = chosen_draws(DESIGNS["random slopes"](), size=100)
    found = fit.posterior_predictive_check(draws=100, quantities={"range": np.ptp})
    assert not {"Q", "share significant"} & set(found.observed)
    assert "SD of slopes (1 + atterm | study: atterm)" in found.observed
    # The residual's own moderator is the same column, which is asked once.
    assert [name for name in found.observed if name.startswith("cor(|z|")] == ["cor(|z|, atterm)"]
    assert found.observed["range"][0] == np.ptp(fit.design.y)
    assert "new groups" in str(found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 10}, "draws must be a whole number of at least 100, got 10"),
        ({"quantities": {"Q": np.ptp}}, "the quantity 'Q' is there already"),
        ({"quantities": {"nan": lambda y: np.nan}}, "'nan' must give one finite number"),
        ({"quantities": {"x": lambda y: y}}, "'x' must give one finite number"),
    ],
)
def test_wrong_settings_are_refused(continent_bayes, settings, message):
    for fit in (continent_bayes, bayes_of("konstantopoulos2011")):
        with pytest.raises(lsm.FitError, match=message):
            fit.posterior_predictive_check(**settings)
