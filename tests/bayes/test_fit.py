"""Bayesian fits: against integration on a grid, and what they carry."""

import arviz as az
import numpy as np
import pandas as pd
import pymc as pm
import pytest
from pymc.stats import compute_log_prior
from scipy.special import logsumexp
from scipy.stats import norm

import bayes_lsm as lsm
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.diagnostics import convergence, find_problems
from bayes_lsm.priors import Normal

from .levels import MODELS, bayes_of


def _weighted_quantile(grid, weight, q):
    """Of a density on an even grid."""
    cumulative = np.concatenate([[0.0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    return np.interp(q, cumulative / cumulative[-1], grid)


@pytest.mark.parametrize("engine", ["collapsed", pytest.param("nuts", marks=pytest.mark.slow)])
def test_two_parameters_agree_with_integration_on_a_grid(engine):
    model = lsm.LocationScaleModel(
        "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"), priors="slides"
    )
    fit = model.fit_bayes(engine=engine, draws=20_000, seed=11, progress=False)
    y, v = model.design.y, model.design.v
    # Wide enough for all but 1e-6 of either marginal, fine enough that halving the step moves
    # no result by more than 1e-4.
    mu, log_tau2 = np.linspace(-4, 3, 701), np.linspace(-40, 8, 1201)
    variance = v + np.exp(log_tau2)[:, None]
    log_density = norm.logpdf(mu, 0, 100) + norm.logpdf(log_tau2, 0, 7)[:, None]
    for i in range(len(y)):
        log_density += norm.logpdf(y[i], mu, np.sqrt(variance[:, [i]]))
    density = np.exp(log_density - logsumexp(log_density))
    for part, grid, axis in (("location", mu, 0), ("scale", log_tau2, 1)):
        marginal = density.sum(axis=axis)
        mean = np.sum(grid * marginal)
        row = fit.summary().loc[part].iloc[0]
        sd = np.sqrt(np.sum((grid - mean) ** 2 * marginal))
        effective = row["ess"] if engine == "collapsed" else min(row["ess_bulk"], row["ess_tail"])
        # Four Monte Carlo standard errors, each of its own statistic.
        assert row["mean"] == pytest.approx(mean, abs=4 * sd / np.sqrt(effective))
        draws = getattr(fit.draws, f"flat_{part}")[:, 0]
        kurtosis = np.mean((draws - mean) ** 4) / sd**4
        assert row["sd"] == pytest.approx(sd, abs=4 * sd * np.sqrt((kurtosis - 1) / effective) / 2)
        for q in (0.05, 0.25, 0.5, 0.75, 0.95):
            exact = _weighted_quantile(grid, marginal, q)
            height = np.interp(exact, grid, marginal) / (grid[1] - grid[0])
            error = np.sqrt(q * (1 - q) / effective) / height
            assert np.quantile(draws, q) == pytest.approx(exact, abs=4 * error), (part, q)


@pytest.mark.slow
def test_same_seed_same_draws_and_a_drawn_seed_is_kept(continent):
    settings = {"engine": "nuts", "draws": 400, "tune": 300, "progress": False}
    with pytest.warns(lsm.ConvergenceWarning):
        first = continent.fit_bayes(seed=3, **settings)
    with pytest.warns(lsm.ConvergenceWarning):
        again = continent.fit_bayes(seed=3, **settings)
    with pytest.warns(lsm.ConvergenceWarning):
        other = continent.fit_bayes(seed=4, **settings)
    np.testing.assert_array_equal(first.draws.scale, again.draws.scale)
    assert not np.array_equal(first.draws.scale, other.draws.scale)
    assert first.seed == 3
    assert not first.converged
    assert any("effective draws" in problem for problem in first.problems)
    assert "seed 3" in str(first)
    assert "effective draws" in str(first)


def test_datatree_has_the_groups_of_pymc(continent, continent_bayes):
    short = continent_bayes.draws
    few = Draws(short.location[:, :5], short.scale[:, :5], {})
    fit = lsm.BayesFit(
        continent.design, continent_bayes.priors, few, 1, continent_bayes.convergence, ()
    )
    tree = fit.posterior
    theirs = az.from_dict(
        {"posterior": {"location": few.location, "scale": few.scale}},
        dims={"location": ["location_term"], "scale": ["scale_term"]},
    )
    model = continent.to_pymc(prior="slides")
    pm.compute_log_likelihood(theirs, model=model, progressbar=False)
    compute_log_prior(theirs, model=model, progressbar=False)
    # The same formula in double precision.
    np.testing.assert_allclose(
        tree.log_likelihood["effect"], theirs.log_likelihood["effect"], rtol=1e-10
    )
    for part in ("location", "scale"):
        np.testing.assert_allclose(tree.log_prior[part], theirs.log_prior[part], rtol=1e-10)
    np.testing.assert_array_equal(tree.observed_data["effect"], continent.design.y)
    assert {"prior", "prior_predictive", "posterior_predictive"} <= set(tree.children)


@pytest.mark.slow
def test_arviz_reads_the_datatree(continent_nuts):
    tree = continent_nuts.posterior
    assert int(tree.sample_stats["diverging"].sum()) == 0
    assert list(tree.posterior["scale"].coords["scale_term"].values)[2] == "continentOther"
    loo = az.loo(tree, pointwise=True)
    assert len(loo.pareto_k) == 37
    sensitivity = az.psense_summary(tree, var_names=["location", "scale"])
    # The diverging coefficient hangs on its prior, the slope of gestational age does not.
    assert sensitivity.loc["scale[continentOther]", "prior"] > 0.05
    assert sensitivity.loc["location[I(weeks - 40)]", "prior"] < 0.05
    ours, theirs = (
        continent_nuts.summary(),
        az.summary(
            tree,
            var_names=["location", "scale"],
            kind="all",
            ci_prob=0.95,
            ci_kind="eti",
            round_to="none",
        ),
    )
    for column, name in {
        "mean": "mean",
        "sd": "sd",
        "ess_bulk": "ess_bulk",
        "r_hat": "r_hat",
        "ci_lb": "eti95_lb",
        "ci_ub": "eti95_ub",
    }.items():
        np.testing.assert_allclose(ours[column], theirs[name].astype(float), rtol=1e-6)
    tails = az.ess(tree, method="tail", prob=(0.05, 0.95), var_names=["location", "scale"])
    np.testing.assert_allclose(ours.loc["scale", "ess_tail"], tails["scale"], rtol=1e-6)


def test_posterior_is_saved_and_read_back(continent_bayes, tmp_path):
    path = continent_bayes.to_netcdf(tmp_path / "fit.nc")
    back = az.from_netcdf(path)
    np.testing.assert_array_equal(back.posterior["scale"], continent_bayes.draws.scale)


def test_tau2_of_each_study_is_the_posterior_median(continent_bayes):
    design, draws = continent_bayes.design, continent_bayes.draws.flat_scale
    exact = np.median(np.exp(draws @ design.Z.T), axis=0)
    # exp() of the median and the median of exp() differ only where it averages two draws.
    np.testing.assert_allclose(continent_bayes.tau2, exact, rtol=1e-3)


def test_highest_density_interval_is_shorter_where_the_posterior_is_skewed(continent_bayes):
    eti = continent_bayes.summary(level=0.8)
    hdi = continent_bayes.summary(level=0.8, interval="hdi")
    widths = (eti["ci_ub"] - eti["ci_lb"], hdi["ci_ub"] - hdi["ci_lb"])
    assert (widths[1] <= widths[0]).all()
    draws = continent_bayes.draws.flat_scale[:, 2]
    lower, upper = hdi.loc[("scale", "continentOther"), ["ci_lb", "ci_ub"]]
    assert np.mean((draws >= lower) & (draws <= upper)) == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "gibbs"}, "engine must be 'auto', 'collapsed' or 'nuts'"),
        ({"draws": 10}, "draws must be a whole number of at least 100, got 10"),
        ({"chains": 0}, "chains must be"),
        ({"draws": 1000.5}, "draws must be"),
        ({"target_accept": 1.0}, "target_accept must be"),
    ],
)
def test_wrong_settings_are_refused(continent, settings, message):
    with pytest.raises(lsm.FitError, match=message):
        continent.fit_bayes(progress=False, **settings)


def test_prior_for_an_unknown_term_is_refused_before_anything_is_compiled(continent):
    prior = lsm.priors.preset("slides").with_terms(scale={"week": Normal(0, 1)})
    with pytest.raises(lsm.PriorError, match=r"scale prior is given for 'week'"):
        continent.fit_bayes(prior=prior, progress=False)


def test_wrong_interval_settings_are_refused(continent_bayes):
    with pytest.raises(lsm.FitError, match="level must be between 0 and 1"):
        continent_bayes.summary(level=95)
    with pytest.raises(lsm.FitError, match="interval must be"):
        continent_bayes.summary(interval="bci")


def test_problems_name_the_parameter_and_the_remedy(continent):
    rng = np.random.default_rng(2)
    shift = np.array([0.0, 0.0, 0.0, 3.0])[:, None, None]  # one chain sits elsewhere
    draws = Draws(
        rng.normal(size=(4, 500, 4)) + shift,
        rng.normal(size=(4, 500, 4)),
        {
            "diverging": np.eye(4, 500, dtype=bool),
            "energy": np.cumsum(rng.normal(size=(4, 500)), 1),
        },
    )
    problems = find_problems(draws, convergence(continent.design, draws))
    assert any(text.startswith("location[intrcpt]: R-hat") for text in problems)
    assert not any(text.startswith("scale") for text in problems)
    assert any("4 divergent transitions" in text for text in problems)
    assert any("E-BFMI" in text for text in problems)


@pytest.mark.parametrize("name", MODELS)
def test_views_of_the_coefficients(name):
    fit = bayes_of(name)
    summary = fit.summary()
    pd.testing.assert_frame_equal(fit.location, summary.loc["location"], check_names=False)
    several = len(fit.terms) > 1
    assert list(fit.scale.index.names) == ["grouping", "term"] if several else ["term"]
    for grouping, each in fit.terms.items():
        medians = np.median(each.alpha, axis=0)
        table = fit.scale.loc[grouping] if several else fit.scale
        np.testing.assert_allclose(table["median"], medians)
        expected = np.median(np.exp(np.tensordot(each.term.Z, each.alpha.T, 1)), axis=2)
        # exp of a median of two draws in the middle is not the median of their exp.
        np.testing.assert_allclose(each.tau2, expected, rtol=1e-3)
