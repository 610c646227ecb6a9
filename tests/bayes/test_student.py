"""Student-t study effects: engines against integration on a grid, NUTS, and a latent model."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from scipy.special import logsumexp
from scipy.stats import gamma as gamma_distribution
from scipy.stats import kstest, norm, t

import bayes_lsm as lsm
from bayes_lsm.bayes.engines.diagnostics import convergence
from bayes_lsm.bayes.pointwise_likelihood import log_likelihood
from bayes_lsm.bayes.pymc_model.graph import build_pymc_model
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.likelihood.student.kernels import log_likelihood as summed
from bayes_lsm.likelihood.typical_variance import typical_variance
from bayes_lsm.priors import DegreesOfFreedom, Flat, Horseshoe, Normal, Priors


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
    with pytest.raises(lsm.FitError, match="fit_reml does not take study_effects='student_t'"):
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


def test_a_new_study_has_the_mixture_of_t_distributions(robust):
    """scipy's t in each draw; its sum with a normal error by Gauss–Hermite quadrature."""
    draws = robust.draws
    mean, tau, df = draws.flat_location[:, 0], np.exp(draws.flat_scale[:, 0] / 2), draws.flat_df
    v = 0.1
    node, share = np.polynomial.hermite_e.hermegauss(60)

    def below(x, name):
        if name == "pi":
            return t.cdf((x - mean) / tau, df)
        errors = np.sqrt(v) * node[:, None]
        return share @ t.cdf((x - mean - errors) / tau, df) / share.sum()

    eti = robust.predict(variance=v, level=0.9).table.iloc[0]
    hdi = robust.predict(variance=v, level=0.9, interval="hdi").table.iloc[0]
    for name in ("pi", "obs"):
        for bound, p in (("lb", 0.05), ("ub", 0.95)):
            # What one λ a draw adds at most: the error of counting draws.
            error = 4 * math.sqrt(p * (1 - p) / len(mean))
            assert below(eti[f"{name}_{bound}"], name).mean() == pytest.approx(p, abs=error)
        lower, upper = (below(hdi[f"{name}_{bound}"], name).mean() for bound in ("lb", "ub"))
        # A shortest interval is chosen among many, so its content is a little optimistic.
        assert upper - lower == pytest.approx(0.9, abs=0.03)
    found = robust.probability(-1.0).table.iloc[0]
    # The same draws on both sides.
    assert found["new_effect"] == pytest.approx(1 - below(-1.0, "pi").mean(), abs=1e-10)
    opposite = robust.probability(-1.0, direction="below").table.iloc[0]
    assert found["new_effect"] + opposite["new_effect"] == pytest.approx(1, abs=1e-12)


def test_drawn_new_effects_are_those_of_the_model(robust):
    tau, df = np.exp(robust.draws.flat_scale[:, :1] / 2), robust.draws.flat_df[:, None]
    for variance, sampling in ((None, 0.0), (0.1, 0.1)):
        drawn = robust.new_effects(pd.DataFrame(index=range(3)), variance=variance, seed=5)
        assert drawn.shape == (4, 1000, 3)
        # Brute force: study and error apart, each effect's probability integral among them.
        rng = np.random.default_rng(6)
        shape = (len(tau), 50)
        brute = robust.draws.flat_location + tau * rng.standard_t(np.repeat(df, 50, axis=1))
        brute += np.sqrt(sampling) * rng.standard_normal(shape)
        for p in (0.025, 0.25, 0.5, 0.75, 0.975):
            inside = np.mean(drawn < np.quantile(brute, p))
            # Twelve thousand draws, and the error of the brute force's own quantile.
            assert inside == pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / 12_000))


def test_true_effects_agree_with_a_grid(robust):
    """p(θ_i | y, draw) ∝ N(y_i; θ_i, v_i) t_ν((θ_i − μ)/τ), summed over θ_i: no λ, no formula."""
    table = robust.blup(level=0.9).table
    above = robust.probability(-0.8).table["true_effect"]
    draws, design = robust.draws, robust.design
    mean = draws.flat_location
    tau, df = np.exp(draws.flat_scale / 2), draws.flat_df[:, None]
    for i in (0, 3, 11):
        y, sd = design.y[i], math.sqrt(design.v[i])
        theta = np.linspace(y - 8 * sd, y + 8 * sd, 801)
        log_density = norm.logpdf(y, theta, sd) + t.logpdf((theta - mean) / tau, df)
        density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
        posterior = (density / density.sum(axis=1, keepdims=True)).mean(axis=0)
        exact = posterior @ theta
        exact_sd = math.sqrt(posterior @ (theta - exact) ** 2)
        row = table.iloc[i]
        # The draws are the same; only the λ are drawn, one a draw.
        error = 4 * exact_sd / math.sqrt(len(mean))
        assert row["estimate"] == pytest.approx(exact, abs=error)
        assert row["sd"] == pytest.approx(exact_sd, abs=error)
        below = posterior.cumsum() - posterior / 2
        for bound, p in (("pi_lb", 0.05), ("pi_ub", 0.95)):
            count = 4 * math.sqrt(p * (1 - p) / len(mean))
            assert np.interp(row[bound], theta, below) == pytest.approx(p, abs=count)
        over = 1 - np.interp(-0.8, theta, below, left=0, right=1)
        count = 4 * math.sqrt(over * (1 - over) / len(mean))
        assert above.iloc[i] == pytest.approx(over, abs=count + 1e-6)
    # And Tweedie's formula, which knows nothing of λ either.
    tweedie = robust.study_weights().true_effect
    assert (np.abs(table["estimate"] - tweedie) < 4 * table["sd"] / math.sqrt(len(mean))).all()
    drawn = robust.true_effects(seed=8).reshape(-1, design.n_studies)
    error = table["sd"] / math.sqrt(len(mean))
    assert (np.abs(drawn.mean(axis=0) - table["estimate"]) < 4 * error).all()
    # Of the SD of a SD, generous for the heavier tails of studies 4 and 12.
    np.testing.assert_allclose(drawn.std(axis=0), table["sd"], rtol=0.06)
    np.testing.assert_array_equal(drawn.reshape(4, 1000, -1), robust.true_effects(seed=8))
    assert not np.array_equal(drawn.reshape(4, 1000, -1), robust.true_effects(seed=9))


def test_with_many_degrees_of_freedom_every_verb_answers_as_with_normal_effects(outlier):
    normal = lsm.LocationScaleModel("yi ~ ablat", scale="~ ablat", variance="vi", data=outlier)
    fit = normal.fit_bayes(draws=1000, seed=1)
    robust = _model(outlier, "yi ~ ablat", "~ ablat", priors=Priors(df=1e9))
    draws = replace(fit.draws, df=np.full((1, 1), 1e9))
    same = replace(fit, design=robust.design, priors=Priors(df=1e9), draws=draws)
    # λ is within 2e-4 of 1.
    close = {"rtol": 1e-3, "atol": 1e-3}
    for interval in ("eti", "hdi"):
        for verb in ("blup", "predict"):
            ours, theirs = (getattr(each, verb)(interval=interval).table for each in (same, fit))
            np.testing.assert_allclose(ours, theirs, **close)
    np.testing.assert_allclose(same.probability(0).table, fit.probability(0).table, **close)
    ours, theirs = same.heterogeneity().by_measure, fit.heterogeneity().by_measure
    np.testing.assert_allclose(ours.drop("sd"), theirs, rtol=1e-6)
    np.testing.assert_allclose(ours.loc["sd"], theirs.loc["tau"], rtol=1e-6)
    np.testing.assert_array_equal(same.tau2, fit.tau2)


def test_heterogeneity_is_of_the_variance_where_there_is_one(outlier, robust):
    model = _model(outlier, priors=Priors(df=4))
    fit = model.fit_bayes(engine="collapsed", draws=1000, seed=1)
    tau2 = np.exp(fit.draws.flat_scale[:, 0])
    found = fit.heterogeneity()
    typical = typical_variance(model.design)
    # The variance of a t with 4 degrees of freedom is twice its squared scale.
    expected = {
        "tau2": tau2,
        "tau": np.sqrt(tau2),
        "sd": np.sqrt(2 * tau2),
        "I2": 200 * tau2 / (2 * tau2 + typical),
        "H2": 1 + 2 * tau2 / typical,
    }
    assert list(found.by_measure.index) == list(expected)
    for name, values in expected.items():
        exact = np.quantile(values, [0.5, 0.025, 0.975])
        np.testing.assert_allclose(found.by_measure.loc[name], exact, rtol=1e-10)
        # Of each study: the quantile is taken of ln τ², so a step between draws differs.
        np.testing.assert_allclose(found.by_study[name].iloc[0], exact[0], rtol=1e-2)
    assert found.sd == found.by_measure.loc["sd", "estimate"]
    assert "P(ν ≤ 2) = 0.00" in str(found)
    half = robust.heterogeneity()
    share = np.mean(robust.draws.flat_df <= 2)
    assert 0.05 < share < 0.5
    ends = half.by_measure["ci_ub"]
    assert ends["sd"] == ends["H2"] == np.inf
    assert ends["I2"] == 100
    assert np.isfinite(half.by_measure["estimate"]).all()
    assert f"P(ν ≤ 2) = {share:.2f}" in str(half)
    infinite = _model(outlier).fit_bayes(prior=Priors(df=1.5), draws=1000, seed=1)
    for interval in ("eti", "hdi"):
        table = infinite.heterogeneity(interval=interval).by_measure
        assert (table.loc[["sd", "H2"]] == np.inf).all(axis=None)
        assert (table.loc["I2"] == 100).all()
        assert np.isfinite(table.loc[["tau2", "tau"]]).all(axis=None)


def test_prior_predictions_are_of_t_effects(outlier):
    known = {"intrcpt": Normal(0.0, 1e-6)}
    model = _model(outlier, priors=Priors(location=known, scale=known, df=2))
    said = model.prior_predictive(draws=40_000, seed=1)
    share = t.cdf(said.table.loc[("effect", "true, of any study")], 2)
    expected = np.array([0.025, 0.25, 0.5, 0.75, 0.975])
    assert (np.abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 40_000)).all()
    assert "ν = 2, fixed" in str(said)


def test_what_has_no_student_t_form_is_refused(outlier):
    model = _model(outlier)
    settings = {"location": {"intrcpt": 0.0}, "scale": {"intrcpt": 0.0}, "simulations": 100}
    for df in (None, -1.0, math.inf):
        with pytest.raises(lsm.FitError, match="df, the true ν, must be a finite number > 0"):
            lsm.bayes.coverage(model.design, **settings, df=df, progress=False)
    with pytest.raises(lsm.FitError, match="'latent' does not take study_effects='student_t'"):
        model.fit_bayes(engine="nuts", true_effects="latent", progress=False)
    with pytest.raises(lsm.SpecificationError, match="need one scale formula"):
        _model(outlier, scale={"alloc": "~ 1", "trial": "~ 1"})
    assert _model(outlier, scale={"trial": "~ 1"}).design.kind.endswith("Student-t Study Effects")
    flat = Priors(location={"intrcpt": Flat()})
    shrunken = Priors(scale_shrinkage=Horseshoe())
    with pytest.raises(lsm.FitError, match="with Student-t study effects the collapsed engine"):
        model.fit_bayes(engine="collapsed", prior=flat)
    with pytest.raises(lsm.FitError, match="no shrinkage prior"):
        _model(outlier, scale="~ ablat").fit_bayes(engine="collapsed", prior=shrunken)


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
    draws = lsm.bayes.draws.Draws(  # type: ignore[misc]
        *(np.asarray(latent.posterior[name]) for name in ("location", "scale")),
        df=np.asarray(latent.posterior["df"]),
    )
    fast = model.fit_bayes(engine="collapsed", draws=10_000, seed=2)
    theirs = lsm.BayesFit(design, fast.priors, draws, 1, convergence(design, draws), ())
    _agree(fast.summary(), theirs.summary())
    # And the true effects, by Tweedie's formula here.
    deviations = np.asarray(latent.posterior["deviation"])
    tau = np.exp(np.asarray(latent.posterior["scale"]) / 2)
    true = (np.asarray(latent.posterior["location"]) + tau * deviations).reshape(-1, 13)
    # Four Monte Carlo errors at 1600 effective draws, fewer than either has.
    off = fast.study_weights().true_effect - true.mean(axis=0)
    assert (np.abs(off) < 4 * true.std(axis=0) / 40).all()
    table = fast.blup().table
    for name, p in (("pi_lb", 0.025), ("pi_ub", 0.975)):
        below = np.mean(true < table[name].to_numpy(), axis=0)
        assert (np.abs(below - p) < 4 * math.sqrt(p * (1 - p) / 1600)).all()
