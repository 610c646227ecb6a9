"""Student-t study effects: predictions of studies left out, checks and averages of such fits.

Against integration on grids, refits one by one, fits with normal effects where ν is large, and
simulated truth.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import gamma, kstest, norm, t

import bayes_lsm as lsm
from bayes_lsm.bayes.diagnostics.checks import replicate
from bayes_lsm.bayes.diagnostics.findings import coefficient_columns
from bayes_lsm.bayes.diagnostics.study_influence import MAD_TO_SD
from bayes_lsm.bayes.engines.direct import sample_directly
from bayes_lsm.bayes.pointwise_likelihood import log_likelihood, normal_scores
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.priors import DegreesOfFreedom, Flat, Normal, Priors
from bayes_lsm.priors.excess import LogExcess

DF = 3.0
# τ is all but known, and so is ν: μ alone is left.
PINNED = Priors(
    location={"*": Normal(-0.5, 1.0)}, scale={"intrcpt": Normal(math.log(0.1), 1e-3)}, df=DF
)


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


@pytest.fixture(scope="module")
def pinned(outlier):
    """A fit in which studies of one paper are one, and what sums over a grid say of it."""
    data = outlier.assign(paper=list("aabbcdeeefghi"))
    fit = _model(data, priors=PINNED, study="paper").fit_bayes(seed=1)
    return fit, OnAGrid(fit.design.y, fit.design.v)


@pytest.fixture(scope="module")
def robust_loo(robust):
    return robust.loo()


@pytest.fixture(scope="module")
def twins(outlier):
    """One set of draws, read as of normal effects and as of t ones with 1e9 degrees of freedom."""
    normal = lsm.LocationScaleModel("yi ~ ablat", scale="~ ablat", variance="vi", data=outlier)
    fit = normal.fit_bayes(draws=2000, seed=1)
    robust = _model(outlier, "yi ~ ablat", "~ ablat", priors=Priors(df=1e9))
    draws = replace(fit.draws, df=np.full((1, 1), 1e9))
    return fit, replace(fit, design=robust.design, priors=Priors(df=1e9), draws=draws)


class OnAGrid:
    """The pinned model by sums over μ; densities and probabilities by Gauss–Legendre over u."""

    def __init__(self, y, v):
        self.mu = np.linspace(-2.5, 2.5, 101)
        tau = math.sqrt(0.1)
        far = tau * np.r_[0.5, 1, 2, 40, 100, 1e3, 1e4]
        # Pieces of half a unit: the errors have SDs from 0.1 up.
        edges = np.unique(np.r_[-far, np.linspace(-7, 10, 35), far])
        node, weight = np.polynomial.legendre.leggauss(16)
        half = np.diff(edges)[:, None] / 2
        u, weight = (edges[:-1, None] + half * (1 + node)).ravel(), (half * weight).ravel()
        weight = weight * t.pdf(u / tau, DF) / tau
        # A t with 3 degrees of freedom has 1e-12 of its mass beyond.
        z = (np.asarray(y)[:, None, None] - self.mu[:, None] - u) / np.sqrt(v)[:, None, None]
        self.density = np.log((norm.pdf(z) / np.sqrt(v)[:, None, None]) @ weight)
        self.below = norm.cdf(z) @ weight

    def given_others(self, rows, out=None):
        """ln p(rows | all but `out`), and P(new ≤ y) of each row."""
        out = rows if out is None else out
        rest = np.setdiff1d(np.arange(len(self.density)), out)
        log_weight = norm.logpdf(self.mu, -0.5, 1.0) + self.density[rest].sum(axis=0)
        log_weight -= logsumexp(log_weight)
        inside = logsumexp(log_weight + self.density[rows].sum(axis=0))
        return inside, self.below[rows] @ np.exp(log_weight)


def test_pinned_loo_kfold_and_psis_are_sums_over_a_grid(pinned):
    fit, grid = pinned
    exact, psis, folded = fit.loo(), fit.psis_loo(), fit.kfold(3, seed=5)
    folds = np.array_split(np.random.default_rng(5).permutation(9), 3)
    rows = exact.studies.rows
    for u, own in enumerate(rows):
        elpd, pit = grid.given_others(own)
        # Four Monte Carlo errors; ln τ² is spread by 1e-3, which adds some 1e-5.
        assert exact.pointwise[u] == pytest.approx(elpd, abs=4 * exact.columns["mcse"][u] + 1e-4)
        assert psis.pointwise[u] == pytest.approx(elpd, abs=4 * psis.columns["mcse"][u] + 1e-4)
        # A mean of probabilities over points that are worth thousands, in a posterior of width
        # 0.2 beside an SD of at least 0.35: 0.3 / √1000 at the very most.
        np.testing.assert_allclose(exact.pit[own], pit, atol=0.01)
        np.testing.assert_allclose(psis.pit[own], pit, atol=0.02)
        fold = next(each for each in folds if u in each)
        elpd, _ = grid.given_others(own, np.concatenate([rows[each] for each in fold]))
        assert folded.pointwise[u] == pytest.approx(elpd, abs=4 * folded.columns["mcse"][u] + 1e-4)
    assert exact.mcse < 0.05
    # Clusters of independent effects are what studies are.
    by_name = fit.kfold(3, seed=5, cluster=fit.design.labels)
    np.testing.assert_array_equal(by_name.pointwise, folded.pointwise)


@pytest.mark.slow
def test_loo_with_all_unknown_is_that_of_a_grid(robust, robust_loo):
    """μ, ln τ² and ν on a grid in three dimensions."""
    mu, eta = np.linspace(-2.6, 1.4, 41), np.linspace(-8, 4, 41)
    # Evenly spaced in ln(ν − 1), where the prior begins.
    excess = np.linspace(-7, 5.5, 31)
    nu = 1 + np.exp(excess)
    points = np.stack(np.meshgrid(mu, eta, nu, indexing="ij"), axis=-1).reshape(-1, 3)
    location, scale, df = points[:, :1], points[:, 1:2], points[:, 2]
    each = log_likelihood(robust.design, location, scale, df)
    priors = resolve_priors(robust.design, robust.priors)
    log_prior = priors.location.logpdf(location)[:, 0] + priors.scale.logpdf(scale)[:, 0]
    log_prior += DegreesOfFreedom().logpdf(df) + np.log(df - 1)
    whole = each.sum(axis=1) + log_prior
    found = robust_loo
    evidence = logsumexp(whole)
    design = robust.design
    z = normal_scores(design.y - location, design.v, scale + np.zeros(len(design.v)), df)
    for i in range(len(design.y)):
        without = whole - each[:, i]
        elpd = evidence - logsumexp(without)
        # Four Monte Carlo errors, and what a grid three times as fine changes.
        assert found.pointwise[i] == pytest.approx(elpd, abs=4 * found.columns["mcse"][i] + 2e-3)
        weights = np.exp(without - logsumexp(without))
        assert found.pit[i] == pytest.approx(weights @ norm.cdf(z[:, i]), abs=0.01)
        again = logsumexp(whole + each[:, i]) - evidence
        assert found.pointwise[i] + found.penalty[i] == pytest.approx(again, abs=0.02)
    assert not found.problems
    assert "study effects integrated out" in str(found)
    assert "ν ~ Gamma(2, 0.1) from 1 up" in str(found)


def test_loo_is_that_of_refits_one_by_one():
    fit = _model(lsm.load_dataset("bcg"), "yi ~ ablat", priors=Priors(df=4)).fit_bayes(seed=2)
    found, design = fit.loo(), fit.design
    priors = resolve_priors(design, fit.priors)
    full = fit.draws.importance
    for i in (6, 11):
        left = design.keep(np.setdiff1d(np.arange(13), i))
        refit = sample_directly(left, priors, draws=4000, seed=9)
        exact = full.log_evidence - refit.importance.log_evidence
        # Four Monte Carlo errors of both routes.
        error = np.sqrt(
            found.columns["mcse"][i] ** 2
            + full.log_evidence_se**2
            + refit.importance.log_evidence_se**2
        )
        assert found.pointwise[i] == pytest.approx(exact, abs=4 * error)
        # By simulation of new effects.
        tau = np.exp(refit.flat_scale @ design.Z[i] / 2)
        rng = np.random.default_rng(1)
        new = refit.flat_location @ design.X[i] + tau * rng.standard_t(refit.flat_df)
        below = np.mean(new + rng.normal(0, math.sqrt(design.v[i]), len(new)) <= design.y[i])
        error = math.sqrt(max(below * (1 - below), 1e-3) / refit.importance.ess)
        assert found.pit[i] == pytest.approx(below, abs=4 * error)
    psis = fit.psis_loo()
    # Far enough below ½ that the error of k, about 0.1, does not matter.
    good = psis.columns["pareto_k"] < 0.3
    assert good.sum() > 6
    error = np.hypot(found.columns["mcse"], psis.columns["mcse"])
    assert (np.abs(found.pointwise - psis.pointwise) < 4 * error)[good].all()


@pytest.mark.slow
def test_with_many_degrees_of_freedom_it_is_the_normal_answer(twins, outlier):
    normal, robust = twins
    with pytest.warns(lsm.ConvergenceWarning):
        pairs = [(normal.psis_loo(), robust.psis_loo()), (normal.waic(), robust.waic())]
    for theirs, ours in pairs:
        # The density differs by the factor 1 + O(z⁴ / 4ν), and |z| is below 20.
        np.testing.assert_allclose(ours.pointwise, theirs.pointwise, atol=1e-4)
    np.testing.assert_allclose(pairs[0][1].pit, pairs[0][0].pit, atol=1e-6)
    ours = _model(outlier, "yi ~ ablat").fit_bayes(prior=Priors(df=1e9), seed=1)
    theirs = lsm.LocationScaleModel("yi ~ ablat", variance="vi", data=outlier).fit_bayes(seed=1)
    one, two = ours.loo(), theirs.loo()
    error = np.hypot(one.columns["mcse"], two.columns["mcse"])
    assert (np.abs(one.pointwise - two.pointwise) < 4 * error).all()
    np.testing.assert_allclose(one.pit, two.pit, atol=0.01)


@pytest.mark.slow
def test_heavy_tails_are_preferred_where_they_are_and_their_pit_is_uniform():
    rng = np.random.default_rng(3)
    k = 120
    data = pd.DataFrame({"vi": rng.uniform(0.01, 0.05, k)})
    data["yi"] = 0.2 + 0.4 * rng.standard_t(2.5, k) + rng.normal(0, np.sqrt(data["vi"]))
    normal = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data)
    with pytest.warns(lsm.ConvergenceWarning, match="Pareto k is above"):
        robust, normal = (
            each.fit_bayes(draws=2000, seed=1).psis_loo() for each in (_model(data), normal)
        )
    compared = lsm.compare_elpd({"normal": normal, "t": robust}).table.loc["Model"]
    assert compared.index[0] == "t"
    assert compared.loc["normal", "elpd_diff"] < -10
    # The truth, known: no draws. The elpd of a sum of k terms has that standard error beside it.
    u = np.linspace(-60, 60, 24_001)
    y, sd = data["yi"].to_numpy()[:, None], np.sqrt(data["vi"].to_numpy())[:, None]
    density = np.trapezoid(t.pdf(u / 0.4, 2.5) / 0.4 * norm.pdf(y, 0.2 + u, sd), u, axis=1)
    # Three unknowns cost about 1.5 nats, give or take as much.
    assert np.log(density).sum() - robust.elpd == pytest.approx(1.5, abs=3)
    assert kstest(robust.pit, "uniform").pvalue > 0.01
    assert kstest(normal.pit, "uniform").pvalue < 0.01


def test_with_flat_priors_studies_are_left_out_by_weights_only(robust):
    flat = replace(robust, priors=Priors(location={"*": Flat()}))
    with pytest.warns(lsm.ConvergenceWarning, match=r"above 0\.7 for 4, .*use loo\(\)"):
        assert flat.psis_loo().elpd == robust.psis_loo().elpd
    with pytest.raises(lsm.FitError, match=r"needs proper priors .*use psis_loo\(\)"):
        flat.loo()


def test_replicated_scores_are_standard_normal_and_observed_ones_those_of_an_integral(robust):
    draws, design = robust.draws, robust.design
    chosen = slice(0, 3)
    seen, drawn = replicate(design, draws, np.random.default_rng(4))
    # 52,000 of them, independent given the coefficients, whatever those are.
    assert kstest(drawn.z.ravel(), "norm").pvalue > 1e-3
    for s in range(3):
        mu, tau = draws.flat_location[s, 0], math.exp(draws.flat_scale[s, 0] / 2)
        for i in (0, 3, 7):
            sd = math.sqrt(design.v[i])

            def below(e, s=s, i=i, mu=mu, tau=tau, sd=sd):
                return norm.pdf(e, 0, sd) * t.cdf((design.y[i] - mu - e) / tau, draws.flat_df[s])

            p = quad(below, -9 * sd, 9 * sd, epsabs=1e-12, epsrel=1e-9, limit=200)[0]
            assert seen.z[chosen][s, i] == pytest.approx(norm.ppf(p), abs=1e-6)


def test_an_outlier_is_less_of_a_surprise_to_heavy_tails(twins, robust, outlier):
    normal, many = (fit.posterior_predictive_check(seed=2) for fit in twins)
    for name, values in normal.observed.items():
        np.testing.assert_allclose(many.observed[name], values, atol=1e-6)
    # Replicates of their own: four errors of a difference of shares of 2000.
    ppp = [check.to_dataframe()["ppp"] for check in (normal, many)]
    np.testing.assert_allclose(*ppp, atol=4 * math.sqrt(0.5 / 2000))
    plain = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=outlier).fit_bayes(seed=1)
    p = [
        fit.posterior_predictive_check(seed=2).to_dataframe()["ppp"]["Quantity", "skewness of z"]
        for fit in (plain, robust)
    ]
    assert p[0] < 0.002 < 0.02 < p[1]


@pytest.mark.slow
def test_diagnosis_leaves_studies_out_and_counts_degrees_of_freedom(outlier, robust, robust_loo):
    found = robust.diagnose(progress=False)
    np.testing.assert_array_equal(found.loo.pointwise, robust_loo.pointwise)
    assert coefficient_columns(found.studies) == [
        "location[intrcpt]", "scale[intrcpt]", "study_effects[df]",
    ]  # fmt: skip
    shifts = found.studies[coefficient_columns(found.studies)]
    without = _model(outlier.drop(index=3), study="trial")
    # The default prior is of the size of the effects, which the outlier makes: so it is told.
    told = resolve_priors(robust.design, robust.priors)
    refit = sample_directly(without.design, told, draws=8000, seed=3)
    expected = []
    for with_it, left in zip(
        robust.parts().values(), refit.parts(without.design).values(), strict=True
    ):
        here, there = with_it[1], left[1]
        if with_it[0] == ("df",):
            here, there = np.log(here), np.log(there)
        sd = MAD_TO_SD * np.median(np.abs(here - np.median(here)))
        expected.append((np.median(there) - np.median(here)) / sd)
    # Monte Carlo error of a median is 1.25/√2000 of its SD, of either, four times.
    assert shifts.loc["4"].to_numpy() == pytest.approx(expected, abs=0.16)
    assert expected[2] > 2  # without the outlier, tails like a normal's
    assert "study_weights() shows which studies" in str(found)
    checks = found.to_dataframe().droplevel("part")
    assert checks.loc["effective number of parameters", "limit"] == "at most 3"
    assert checks.loc["skewness of z", "status"] == "good"


@pytest.fixture(scope="module")
def average(outlier):
    return _model(outlier, "yi ~ ablat", "~ ablat", priors=Priors(df=4)).average(seed=1)


def test_averages_are_of_the_models_one_by_one(average, outlier):
    for model, evidence in zip(average.models, average.evidences, strict=True):
        formulas = ["~ " + ("ablat" if "ablat" in terms else "1") for terms in (
            model.location_terms, model.scale_terms)]  # fmt: skip
        alone = _model(outlier, f"yi {formulas[0]}", formulas[1], priors=Priors(df=4))
        theirs = alone.fit_bayes(seed=7).evidence
        error = math.hypot(evidence.se, theirs.se)
        assert evidence.log == pytest.approx(theirs.log, abs=4 * error)
    assert average.draws.df.tolist() == [[4.0]]
    assert list(average.to_dataframe().index.unique("part")) == ["location", "scale"]
    row = average.predict().table.iloc[0]
    x, z = average.design.X[0], average.design.Z[0]
    mean = average.draws.flat_location @ x
    tau = np.exp(average.draws.flat_scale @ z / 2)
    for bound, p in (("pi_lb", 0.025), ("pi_ub", 0.975)):
        share = t.cdf((row[bound] - mean) / tau, 4).mean()
        assert share == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 4000))
    assert "ν = 4, fixed" in str(average)


def test_averages_carry_the_degrees_of_freedom(outlier):
    found = _model(outlier, "yi ~ ablat").average(draws=1000, seed=1)
    table = found.to_dataframe()
    assert table.index[-1] == ("study_effects", "df")
    assert table.loc[("study_effects", "df"), "incl"] == 1
    assert table.loc[("study_effects", "df"), "ci_lb"] > 1
    assert ("location", "ablat") in found.inclusion.index
    # The draws of ν are those of the two models, mixed by their probabilities.
    has = found.draws.flat_location[:, 1] != 0
    assert has.mean() == pytest.approx(found.inclusion["posterior"].item(), abs=2e-3)


def test_with_many_degrees_of_freedom_averages_are_the_normal_ones(outlier):
    normal = lsm.LocationScaleModel("yi ~ ablat", variance="vi", data=outlier)
    robust = _model(outlier, "yi ~ ablat", priors=Priors(df=1e9))
    one, two = (each.average(seed=1) for each in (normal, robust))
    error = np.hypot(one.probability_se, two.probability_se)
    assert (np.abs(one.probability - two.probability) < 4 * error).all()


def test_density_ratio_of_the_pinned_model_is_that_of_a_grid(pinned):
    fit, grid = pinned
    log_posterior = norm.logpdf(grid.mu, -0.5, 1.0) + grid.density.sum(axis=0)
    log_posterior -= logsumexp(log_posterior) + math.log(grid.mu[1] - grid.mu[0])
    place = 30
    found = fit.savage_dickey("intrcpt", grid.mu[place], part="location")
    exact = log_posterior[place] - norm.logpdf(grid.mu[place], -0.5, 1.0)
    # μ alone is unknown, so the draws add nothing but the spread of ln τ², 1e-3.
    assert found.log_bf == pytest.approx(exact, abs=2e-3)
    assert found.restricted is None


@pytest.mark.slow
def test_density_ratio_is_the_ratio_of_marginal_likelihoods():
    data = lsm.load_dataset("bcg")
    slope = _model(data, "yi ~ ablat", priors=Priors(df=4)).fit_bayes(seed=3)
    fit = _model(data, scale="~ alloc").fit_bayes(seed=3)
    for each, part, term in ((slope, "location", "ablat"), (fit, "scale", "alloc")):
        found = each.savage_dickey(term, part=part)
        # Two independent routes to one number; four of their Monte Carlo errors.
        assert math.hypot(found.se, found.restricted.se) < 0.2
        assert abs(found.agreement) < 4, found
    assert "ν ~ Gamma(2, 0.1) from 1 up" in str(found)
    with pytest.raises(lsm.FitError, match="several scale coefficients can be tested for 0 only"):
        fit.savage_dickey("alloc", 0.5)


def test_density_ratio_with_many_degrees_of_freedom_is_the_normal_one(twins):
    for part in ("location", "scale"):
        one, two = (fit.savage_dickey("ablat", part=part) for fit in twins)
        assert abs(one.log_bf - two.log_bf) < 4 * math.hypot(one.se, two.se)
        assert two.log_prior == pytest.approx(one.log_prior, abs=1e-9)


def test_evidence_of_chains_is_found_without_them(robust):
    chains = replace(robust, draws=replace(robust.draws, importance=None))
    error = math.hypot(chains.evidence.se, robust.evidence.se)
    assert chains.log_evidence == pytest.approx(robust.log_evidence, abs=4 * error)
    flat = replace(chains, priors=Priors(location={"*": Flat()}))
    for ask in (lambda: flat.evidence, lambda: flat.savage_dickey("intrcpt", part="location")):
        with pytest.raises(lsm.FitError, match="integrate to 1, got a flat location prior"):
            ask()


def test_prior_of_the_excess_is_that_of_the_degrees_of_freedom():
    prior = LogExcess(DegreesOfFreedom(2, 0.1, lower=2))
    grid = np.linspace(-25, 7, 40_001)
    density = np.exp(prior.logpdf(grid))
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-8)
    mass = np.cumsum(density) * (grid[1] - grid[0])
    np.testing.assert_allclose(prior.cdf(grid), mass, atol=1e-3)
    np.testing.assert_allclose(prior.cdf(prior.quantile([0.01, 0.5, 0.99])), [0.01, 0.5, 0.99])
    drawn = 2 + np.exp(prior.sample(20_000, np.random.default_rng(1)))
    whole = gamma(2, scale=10)
    assert kstest(drawn, lambda x: (whole.cdf(x) - whole.cdf(2)) / whole.sf(2)).pvalue > 1e-3


@pytest.mark.slow
def test_sensitivity_widens_the_prior_of_the_degrees_of_freedom(robust):
    found = robust.sensitivity(factors=(), presets=("slides",), draws=2000, progress=False)
    name = ("study_effects", "df")
    nu, whole = robust.draws.flat_df, gamma(2, scale=10)
    median = whole.isf(whole.sf(1) / 2)

    def log_prior(x):
        return whole.logpdf(1 + np.exp(x)) + x  # of ln(ν − 1), up to a constant

    x, m = np.log(nu - 1), math.log(median - 1)
    curve = found.curve(*name)
    for factor in (0.5, 2.0):
        # The draws of the fit, with weights for the other prior.
        weights = np.exp(log_prior(m + (x - m) / factor) - log_prior(x))
        weights /= weights.sum()
        order = np.argsort(nu)
        below = np.interp(curve.loc[factor, "median"], nu[order], weights[order].cumsum())
        # Both medians' errors, as of shares of so many effective draws.
        ess = 1 / np.sum(weights**2) * robust.draws.importance.ess / len(nu)
        assert below == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / ess + 0.25 / 1000))
    own = found.table.loc[name]
    assert own["median"] == pytest.approx(np.median(nu), rel=0.15)
    assert own["ci_lb"] > 1
    assert 0.2 < own["share"] < 1
    assert name not in found.tipping.index
    assert "ν: Gamma(1, 0.0344828) from 1 up" in found.families.index.get_level_values("prior")
    # A preset does not speak of ν.
    assert found.presets.loc[("slides", *name), "trusted"]
    fixed = replace(robust, priors=Priors(df=4), draws=replace(robust.draws, df=np.array([[4.0]])))
    few = fixed.sensitivity(factors=(), presets=(), draws=500, progress=False)
    assert list(few.table.index) == [("location", "intrcpt"), ("scale", "intrcpt")]
    assert "ν = 4, fixed" in str(few)
