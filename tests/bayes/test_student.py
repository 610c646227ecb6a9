"""Student-t study effects: engines against integration on a grid, NUTS, and a latent model."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from scipy.special import logsumexp
from scipy.stats import gamma as gamma_distribution
from scipy.stats import kstest, norm

import bayes_lsm as lsm
from bayes_lsm.bayes.graph import build_pymc_model, resolve_priors
from bayes_lsm.bayes.tree import log_likelihood
from bayes_lsm.likelihood.student import log_likelihood as summed
from bayes_lsm.priors import DegreesOfFreedom, Priors


def _model(data, formula="yi ~ 1", scale="~ 1", **options):
    return lsm.LocationScaleModel(
        formula, scale=scale, variance="vi", data=data, study_effects="student_t", **options
    )


@pytest.fixture(scope="module")
def outlier():
    """The BCG trials, the fourth (of −1.44) moved to 6: about eleven SDs of the others away."""
    data = lsm.load_dataset("bcg").copy()
    data.loc[3, "yi"] = 6.0
    return data


@pytest.fixture(scope="module")
def robust(outlier):
    return _model(outlier, study="trial").fit_bayes(draws=4000, seed=1)


def test_prior_of_df_is_a_density_and_its_draws_follow_it():
    prior = DegreesOfFreedom(2, 0.1, lower=3)
    grid = np.linspace(3, 400, 400_001)
    density = np.exp(prior.logpdf(grid))
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-6)
    assert prior.logpdf(2.9) == -np.inf
    whole = gamma_distribution(2, scale=10)
    drawn = prior.sample(20_000, np.random.default_rng(1))
    cut = kstest(drawn, lambda x: (whole.cdf(x) - whole.cdf(3)) / whole.sf(3))
    assert drawn.min() >= 3
    assert cut.pvalue > 1e-3


@pytest.mark.parametrize("df", [DegreesOfFreedom(3, 0.2, lower=2), 4.0])
def test_pymc_density_is_prior_times_likelihood_with_a_true_gradient(df):
    data = lsm.load_dataset("preterm_iq")
    priors = Priors("slides", df=df)
    design = _model(data, "yi ~ I(weeks - 40)", "~ I(weeks - 40)").design
    model = build_pymc_model(design, priors)
    resolved = resolve_priors(design, priors)
    location, scale = np.array([2.0, -1.0]), np.array([1.0, 0.2])
    free = isinstance(df, DegreesOfFreedom)
    nu = np.array(5.0 if free else df)
    ours = log_likelihood(design, location, scale, nu).sum() + (df.logpdf(nu) if free else 0.0)
    ours += resolved.location.logpdf(location).sum() + resolved.scale.logpdf(scale).sum()
    point = {}
    for name, value in {"location": location, "scale": scale, "df": nu}.items():
        variable = model[name]
        if variable in model.free_RVs:
            transform = model.rvs_to_transforms[variable]
            value = transform.forward(value, *variable.owner.inputs).eval()
            point[model.rvs_to_values[variable].name] = value
    # Both sum some 40 terms in double precision.
    logp = model.compile_logp(jacobian=False)
    assert logp(point) == pytest.approx(float(ours), abs=1e-8)
    gradient = model.compile_dlogp(jacobian=False)(point)
    numeric = []
    for name, value in point.items():
        for j in range(value.size):
            step = np.zeros(value.size)
            step[j] = 1e-5
            moved = [
                logp({**point, name: value + sign * step.reshape(value.shape)}) for sign in (1, -1)
            ]
            numeric.append((moved[0] - moved[1]) / 2e-5)
    # Rounding of a logp near 100, over 2e-5.
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5)


def test_pymc_draws_new_effects_of_the_model():
    data = pd.DataFrame({"yi": [0.0, 1.0], "vi": [0.5, 0.5]})
    model = _model(data, priors=Priors("slides", df=3)).to_pymc()
    fixed = pm.do(model, {"location": np.array([1.0]), "scale": np.array([math.log(4.0)])})
    drawn = pm.draw(fixed["effect"], draws=20_000, random_seed=1)[:, 0]
    # The distribution function of the sum: that of the normal, averaged over the t.
    study = 2.0 * np.random.default_rng(2).standard_t(3, 4000)
    found = kstest(drawn[:2000], lambda x: norm.cdf(x[:, None], 1 + study, 0.5**0.5).mean(axis=1))
    assert found.pvalue > 1e-3


def test_a_grid_gives_the_same_posterior_and_evidence(outlier):
    model = _model(outlier, priors=Priors("slides", df=4))
    fit = model.fit_bayes(engine="collapsed", draws=8000, seed=3)
    design = model.design
    # Wide enough for all but 1e-6 of the mass, and fine enough.
    mu, eta = np.linspace(-3, 3, 241), np.linspace(-30, 8, 381)
    points = np.stack(np.meshgrid(mu, eta, indexing="ij"), axis=-1).reshape(-1, 2)
    values = summed(
        points[:, :1].copy(),
        points[:, 1:].copy(),
        np.full(len(points), 4.0),
        *map(np.ascontiguousarray, (design.y, design.v, design.X, design.Z)),
    )
    log_density = values + norm.logpdf(points[:, 0], 0, 100) + norm.logpdf(points[:, 1], 0, 7)
    cell = (mu[1] - mu[0]) * (eta[1] - eta[0])
    exact = logsumexp(log_density) + np.log(cell)
    importance = fit.draws.importance
    assert importance.log_evidence == pytest.approx(exact, abs=4 * importance.log_evidence_se)
    density = np.exp(log_density - logsumexp(log_density)).reshape(len(mu), len(eta))
    for grid, axis, part in ((mu, 1, "location"), (eta, 0, "scale")):
        marginal = density.sum(axis=axis)
        mean = marginal @ grid
        sd = np.sqrt(marginal @ (grid - mean) ** 2)
        row = fit.summary().loc[part].iloc[0]
        # Four Monte Carlo standard errors of a mean.
        assert row["mean"] == pytest.approx(mean, abs=4 * sd / np.sqrt(importance.ess))


@pytest.mark.parametrize("name", ["bcg", "bangertdrowns2004", "preterm_weeks"])
def test_many_degrees_of_freedom_are_the_normal_engine(name):
    normal = lsm.LocationScaleModel.from_file(name)
    words = normal.specification.model_copy(update={"study_effects": "student_t"})
    robust = lsm.LocationScaleModel.from_specification(words)
    fits = [
        normal.fit_bayes(engine="collapsed", draws=4000, seed=1),
        robust.fit_bayes(engine="collapsed", draws=4000, seed=2, prior=Priors(df=1e7)),
    ]
    theirs, ours = (fit.draws.importance for fit in fits)
    error = math.hypot(theirs.log_evidence_se, ours.log_evidence_se)
    assert ours.log_evidence == pytest.approx(theirs.log_evidence, abs=4 * error)
    tables = [fit.summary() for fit in fits]
    allowed = 4 * np.hypot(tables[0]["mcse_median"], tables[1]["mcse_median"])
    assert (np.abs(tables[0]["median"] - tables[1]["median"]) < allowed).all()


def test_an_outlier_is_discounted_and_the_mean_is_saved(outlier, robust):
    clean = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"))
    normal = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=outlier)
    reference = clean.fit_bayes(seed=1).location["median"].item()
    off = [
        abs(fit.location["median"].item() - reference) for fit in (normal.fit_bayes(seed=1), robust)
    ]
    assert off[1] < 0.5 * off[0]
    weights = robust.study_weights()
    table = weights.to_dataframe().loc["studies"]
    assert table["weight"].idxmin() == "4"
    assert table["weight"].min() < 0.25 < 0.8 < table["weight"].drop("4").min()
    # The outlier's own effect is believed, as its sampling error is small.
    assert table.loc["4", "true_effect"] > 5.9
    assert "Weights of the Studies (k = 13)" in str(weights)
    assert "small for an outlier" in str(weights)
    # e^2 : 1 is strong evidence for the t.
    evidence = robust.draws.importance.log_evidence
    assert evidence - normal.fit_bayes(seed=1).draws.importance.log_evidence > 2


def test_truth_is_found_in_simulated_effects():
    rng = np.random.default_rng(5)
    k, df = 150, 2.5
    data = pd.DataFrame({"vi": rng.uniform(0.01, 0.05, k), "x": rng.normal(size=k)})
    tau = np.exp(0.5 * (-2 + 0.6 * data["x"]))
    data["yi"] = 0.3 + 0.2 * data["x"] + tau * rng.standard_t(df, k)
    data["yi"] += rng.normal(0, np.sqrt(data["vi"]))
    fit = _model(data, "yi ~ x", "~ x").fit_bayes(engine="collapsed", draws=1000, seed=1)
    table = fit.summary()
    truth = np.array([0.3, 0.2, -2.0, 0.6])
    # Three posterior SDs; the seed was not chosen.
    assert (np.abs(table["mean"].iloc[:4] - truth) < 3 * table["sd"].iloc[:4]).all()
    assert table.loc[("study_effects", "df"), "ci_lb"] < df
    assert df < table.loc[("study_effects", "df"), "ci_ub"] < 10


def test_tables_and_tree_carry_the_degrees_of_freedom(robust, outlier):
    text = str(robust)
    assert "Random-Effects Model with Student-t Study Effects (k = 13; Bayes)" in text
    assert "Study effects (Student t)" in text
    assert "ν ~ Gamma(2, 0.1) from 1 up" in text
    assert robust.summary().index[-1] == ("study_effects", "df")
    tree = robust.posterior
    np.testing.assert_array_equal(tree.posterior["df"], robust.draws.df)
    np.testing.assert_allclose(
        tree.log_prior["df"], DegreesOfFreedom().logpdf(robust.draws.df), rtol=1e-12
    )
    flat = np.asarray(tree.log_likelihood["effect"]).sum(axis=-1).reshape(-1)
    draws, design = robust.draws, robust.design
    exact = summed(
        draws.flat_location.copy(), draws.flat_scale.copy(), draws.flat_df.copy(),
        *map(np.ascontiguousarray, (design.y, design.v, design.X, design.Z)),
    )  # fmt: skip
    np.testing.assert_allclose(flat, exact, rtol=1e-12)
    fixed = _model(outlier).fit_bayes(prior=Priors(df=4), draws=1000, seed=1)
    assert "ν = 4, fixed" in str(fixed)
    assert "study_effects" not in fixed.summary().index.get_level_values("part")
    assert fixed.posterior.constant_data["df"] == 4
    # SD of a t with 4 degrees of freedom and scale τ: τ √2.
    log_tau = 0.5 * np.median(fixed.draws.flat_scale)
    np.testing.assert_allclose(fixed.study_weights().sd, np.exp(log_tau) * 2**0.5, rtol=1e-12)
    compared = lsm.compare(robust, fixed, names=["estimated", "fixed"]).to_dataframe()
    assert compared.index[-1] == ("study_effects", "nu0", "df")


@pytest.mark.parametrize("k", [2, 5])
def test_few_studies(k):
    data = lsm.load_dataset("bcg").head(k)
    fit = _model(data).fit_bayes(engine="collapsed", draws=1000, seed=1)
    assert np.isfinite(fit.summary().to_numpy()).all()
    assert np.isfinite(fit.study_weights().weight).all()


def test_a_model_file_keeps_the_study_effects():
    for df in (DegreesOfFreedom(1, 0.05, lower=2), 4.0):
        words = lsm.Specification(
            "yi ~ 1", "vi", study_effects="student_t", priors=Priors("slides", df=df)
        )
        assert lsm.Specification.from_toml(words.to_toml()) == words
    text = 'location = "yi ~ 1"\nvariance = "vi"\nstudy_effects = "student_t"\n[priors]\ndf = 5\n'
    assert lsm.Specification.from_toml(text).priors.df == 5


@pytest.mark.parametrize("df", [0, -1.0, math.inf, math.nan, True, "four", [4]])
def test_impossible_degrees_of_freedom_are_refused(df):
    with pytest.raises(lsm.PriorError, match=r"df: must be a finite number > 0, which fixes ν"):
        Priors(df=df)


def test_priors_of_df_that_are_no_density_are_refused():
    with pytest.raises(lsm.PriorError, match=r"rate: input should be greater than 0, got -1"):
        DegreesOfFreedom(2, -1.0)
    with pytest.raises(lsm.PriorError, match=r"df\.rate: input should be greater than 0"):
        Priors(df={"shape": 2.0, "rate": 0.0})


def test_what_does_not_go_together_is_refused(outlier, continent):
    with pytest.raises(lsm.SpecificationError, match=r"priors\.df: is for Student-t study effects"):
        lsm.Specification("yi ~ 1", "vi", priors=Priors(df=4))
    with pytest.raises(lsm.SpecificationError, match="'student_t' needs link='log'"):
        lsm.Specification("yi ~ 1", "vi", study_effects="student_t", link="identity")
    with pytest.raises(lsm.SpecificationError, match="study_effects: input should be 'normal' or"):
        lsm.Specification("yi ~ 1", "vi", study_effects="cauchy")
    with pytest.raises(lsm.PriorError, match="the study effects are normal"):
        continent.fit_bayes(prior=Priors(df=4))
    with pytest.raises(lsm.FitError, match="REML and ML need study_effects='normal'"):
        _model(outlier).fit_reml()
    with pytest.raises(lsm.FitError, match="all weights are 1"):
        continent.fit_bayes(draws=1000, seed=1).study_weights()


def test_same_seed_same_draws(outlier):
    model = _model(outlier)
    first, again, other = (
        model.fit_bayes(engine="collapsed", draws=1000, seed=seed) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first.draws.df, again.draws.df)
    assert not np.array_equal(first.draws.df, other.draws.df)


def test_the_way_to_the_weights_loads_neither_pymc_nor_arviz():
    code = (
        "import sys, bayes_lsm as lsm\n"
        "data = lsm.load_dataset('bcg')\n"
        "model = lsm.LocationScaleModel(\n"
        "    'yi ~ 1', variance='vi', data=data, study_effects='student_t')\n"
        "print(model.fit_bayes(seed=1).study_weights())\n"
        "heavy = {m for m in sys.modules if m.split('.')[0] in\n"
        "         {'pymc', 'pytensor', 'arviz', 'arviz_stats', 'nutpie', 'matplotlib'}}\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _agree(ours, theirs):
    """Medians within four Monte Carlo errors of both."""
    allowed = 4 * np.hypot(ours["mcse_median"], theirs["mcse_median"])
    assert (np.abs(ours["median"] - theirs["median"]) < allowed).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["outlier", "bcg", "bangertdrowns2004"])
@pytest.mark.parametrize("df", [None, 4.0])
def test_engines_agree(name, df, outlier):
    if name == "outlier":
        model = _model(outlier)
    else:
        words = lsm.LocationScaleModel.from_file(name).specification
        words = words.model_copy(update={"study_effects": "student_t"})
        model = lsm.LocationScaleModel.from_specification(words)
    prior = Priors(df=df)
    fast = model.fit_bayes(engine="collapsed", draws=10_000, seed=1, prior=prior)
    nuts = model.fit_bayes(engine="nuts", draws=10_000, seed=1, prior=prior, progress=False)
    assert int(nuts.draws.stats["diverging"].sum()) == 0
    _agree(fast.summary(), nuts.summary())


@pytest.mark.slow
def test_integrating_the_study_effects_out_agrees_with_sampling_them(outlier):
    """The true effects as unknowns of their own, PyMC's StudentT and no quadrature."""
    model = _model(outlier, priors=Priors("slides", df=DegreesOfFreedom(2, 0.1)))
    design = model.design
    with pm.Model():
        location = pm.Normal("location", 0, 100, shape=1)
        scale = pm.Normal("scale", 0, 7, shape=1)
        df = pm.Truncated("df", pm.Gamma.dist(2, 0.1), lower=1)
        deviation = pm.StudentT("deviation", nu=df, mu=0, sigma=1, shape=design.n_studies)
        true_effect = location + pm.math.exp(scale / 2) * deviation
        pm.Normal("effect", true_effect, np.sqrt(design.v), observed=design.y)
        latent = pm.sample(
            4000, tune=2000, chains=4, random_seed=1, quiet=True, nuts={"target_accept": 0.98}
        )
    draws = lsm.bayes.draws.Draws(
        *(np.asarray(latent.posterior[name]) for name in ("location", "scale")),
        df=np.asarray(latent.posterior["df"]),
    )
    fast = model.fit_bayes(engine="collapsed", draws=10_000, seed=2)
    theirs = lsm.BayesFit(
        design, fast.priors, draws, 1, lsm.bayes.diagnostics.convergence(design, draws), ()
    )
    _agree(fast.summary(), theirs.summary())
    # And the true effects, by Tweedie's formula here.
    deviations = np.asarray(latent.posterior["deviation"])
    tau = np.exp(np.asarray(latent.posterior["scale"]) / 2)
    true = (np.asarray(latent.posterior["location"]) + tau * deviations).reshape(-1, 13)
    # Four Monte Carlo errors at 1600 effective draws, fewer than either has.
    off = fast.study_weights().true_effect - true.mean(axis=0)
    assert (np.abs(off) < 4 * true.std(axis=0) / 40).all()


@pytest.mark.parametrize(
    "ask",
    [
        lambda fit: fit.loo(progress=False),
        lambda fit: fit.waic(),
        lambda fit: fit.savage_dickey("intrcpt", part="location"),
        lambda fit: fit.posterior_predictive_check(),
    ],
)
def test_what_needs_normal_effects_says_so(ask):
    model = lsm.LocationScaleModel(
        "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"), study_effects="student_t"
    )
    fit = model.fit_bayes(draws=1000, seed=1)
    with pytest.raises(lsm.FitError, match="needs study_effects='normal'"):
        ask(fit)
