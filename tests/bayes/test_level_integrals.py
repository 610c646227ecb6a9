"""Rows predicted with the effects of random intercepts of ln τ² integrated out."""

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad_vec
from scipy.special import logsumexp
from scipy.stats import halfnorm, multivariate_normal, norm

import bayes_lsm as lsm
from bayes_lsm.bayes.cross_validation.level_integrals import LevelIntegrals
from bayes_lsm.bayes.cross_validation.refits import Predictions
from bayes_lsm.bayes.cross_validation.sampled_refits import SampledRefits, weighted_draws
from bayes_lsm.bayes.cross_validation.units import read_units
from bayes_lsm.bayes.engines.pareto import smooth_weights
from bayes_lsm.bayes.pymc_model.graph import build_pymc_model, build_switchable_pymc_model
from bayes_lsm.bayes.pymc_model.likelihood_node import rows_on
from bayes_lsm.priors import HalfNormal, Normal, Priors

from .levels import with_draws

# Of a model of effects with a mean and a variance, whose logarithm has random intercepts.
PRIORS = Priors(location={"*": Normal(0, 1)}, scale={"*": Normal(-1, 1)}, scale_sd=HalfNormal(1.0))


def fit_with(model, beta, alphas, sds, effects):
    """A fit with given draws; of each term its random intercepts' SDs and effects, one by one."""
    return with_draws(model.design, beta, alphas, random=list(zip(sds, effects, strict=True)))


# Districts of two schools of two rows. The schools' variance depends on the kind of district, or on
# the year, which cuts across districts.
@cache
def schools():
    rng = np.random.default_rng(5)
    school = np.repeat(np.arange(12), 2)
    district = school // 2
    return pd.DataFrame(
        {
            "yi": rng.normal(size=24),
            "vi": rng.uniform(0.05, 0.2, 24),
            "district": district,
            "school": school,
            "kind": np.array(list("aabbbc"))[district],
            "year": np.array(["old", "new", "now"])[rng.integers(3, size=12)][school],
        }
    )


def drawn_schools(bar, draws=3):
    data = schools()
    scale = {"district": "~ 1", "district/school": f"~ 1 + (1 | {bar})"}
    model = lsm.LocationScaleModel("yi ~ 1", scale, variance="vi", data=data)
    rng = np.random.default_rng(2)
    levels = len(model.design.terms[1].random[0].levels)
    return fit_with(
        model,
        rng.normal(0, 0.3, (draws, 1)),
        [rng.normal(-2, 0.5, (draws, 1)) for _ in range(2)],
        [rng.uniform(0.3, 2.0, draws)],
        [rng.normal(size=(draws, levels))],
    )


def moments(fit, bar, level, draw, rows, u):
    """Mean and covariance of rows at a draw, with u in place of the effect of one level."""
    data, (district, school) = schools(), fit.terms.values()
    (random,) = school.random
    effect = random.effect[draw].copy()
    if level is not None:
        effect[level] = u
    number = pd.Index(random.of.levels).get_indexer(data[bar])
    tau2 = np.exp(school.alpha[draw, 0] + effect[number])
    same = [np.equal.outer(data[each].to_numpy(), data[each].to_numpy()) for each in data.columns]
    named = dict(zip(data.columns, same, strict=True))
    sigma = np.diag(data["vi"]) + np.exp(district.alpha[draw, 0]) * named["district"]
    sigma = (sigma + np.sqrt(np.outer(tau2, tau2)) * named["school"])[np.ix_(rows, rows)]
    return np.full(len(rows), fit.draws.flat_location[draw, 0]), sigma


def brute(fit, bar, level, draw, rows, u):
    """ln p(y_rows) there."""
    if not len(rows):
        return 0.0
    mean, sigma = moments(fit, bar, level, draw, rows, u)
    return multivariate_normal.logpdf(fit.design.y[rows], mean, sigma)


def integral(fit, bar, level, draw, rows):
    """ln ∫ p(y_rows | u) N(u; 0, ω²) du."""
    sd = fit.terms["district/school"].random[0].sd[draw]
    top = brute(fit, bar, level, draw, rows, 0.0)

    def density(z):
        return np.exp(brute(fit, bar, level, draw, rows, sd * z) - top) * norm.pdf(z)

    return top + np.log(quad_vec(density, -9, 9, epsrel=1e-8)[0])


KINDS = {
    "a kind's only district": ([20, 21, 22, 23], "c"),
    "one district of two": ([0, 1, 2, 3], "a"),
    "two districts of three": ([8, 9, 10, 11, 16, 17, 18, 19], "b"),
    "a row of a kind's only district": ([21], "c"),
    "a school": ([4, 5], "a"),
}


@pytest.mark.slow
@pytest.mark.parametrize("rows", KINDS)
def test_a_level_that_holds_whole_blocks(rows):
    out, level = KINDS[rows]
    fit = drawn_schools("kind")
    out, number = np.array(out), "abc".index(level)
    every = np.flatnonzero(schools()["kind"] == level)
    left = np.setdiff1d(every, out)
    units = [out[:1], out[1:]] if len(out) > 1 else [out]
    found = LevelIntegrals(fit.design, fit.draws).leave_out(out, units)
    for draw in range(2):
        given = integral(fit, "kind", number, draw, left)
        exact = integral(fit, "kind", number, draw, every) - given
        # The steps of the trapezoidal rule are made for errors of 1e-5.
        assert found.fold[draw] == pytest.approx(exact, abs=1e-5)
        for unit, density in zip(units, found.units, strict=True):
            both = integral(fit, "kind", number, draw, np.union1d(left, unit))
            assert density[draw] == pytest.approx(both - given, abs=1e-5)


def test_a_level_of_which_little_is_left_out_is_conditioned_on(monkeypatch):
    fit = drawn_schools("kind")
    out = np.array([8])  # one of the twelve rows of kind b
    found = LevelIntegrals(fit.design, fit.draws).leave_out(out, [out])
    block = np.arange(8, 12)
    for draw in range(2):
        exact = brute(fit, "kind", None, draw, block, 0) - brute(
            fit, "kind", None, draw, block[1:], 0
        )
        assert found.fold[draw] == pytest.approx(exact, abs=1e-9)
    np.testing.assert_allclose(
        found.fold, LevelIntegrals(fit.design, fit.draws).given_effects(out), atol=1e-9
    )
    monkeypatch.setattr("bayes_lsm.bayes.cross_validation.level_integrals._LEAST_SHARE", 0.05)
    every = np.flatnonzero(schools()["kind"] == "b")
    found = LevelIntegrals(fit.design, fit.draws).leave_out(out, [out])
    for draw in range(2):
        exact = integral(fit, "kind", 1, draw, every)
        exact -= integral(fit, "kind", 1, draw, np.setdiff1d(every, out))
        assert found.fold[draw] == pytest.approx(exact, abs=1e-5)


def test_levels_that_cut_across_blocks():
    """One of them is integrated out, that of which most is left out; the others are as drawn."""
    data, fit = schools(), drawn_schools("year")
    levels = fit.terms["district/school"].random[0].of.levels
    out = np.flatnonzero(data["district"] == 1)
    shares = [np.mean(np.isin(np.flatnonzero(data["year"] == each), out)) for each in levels]
    number = int(np.argmax(shares))
    assert shares[number] >= 0.2
    districts = data.loc[data["year"] == levels[number], "district"]
    every = np.flatnonzero(data["district"].isin([*districts, 1]))
    found = LevelIntegrals(fit.design, fit.draws).leave_out(out, [out])
    for draw in range(2):
        exact = integral(fit, "year", number, draw, every)
        exact -= integral(fit, "year", number, draw, np.setdiff1d(every, out))
        assert found.fold[draw] == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("out", [[21], [20, 21, 22, 23]])
def test_probabilities_are_those_of_the_mixture(out):
    """P(new ≤ y_i): that given u, over what the rows that are left say of u."""
    fit, out = drawn_schools("kind"), np.array(out)
    left = np.setdiff1d(np.flatnonzero(schools()["kind"] == "c"), out)
    found = LevelIntegrals(fit.design, fit.draws).leave_out(out, [out]).below[0][:, 0]
    y, row = fit.design.y, out[0]
    for draw in range(2):
        sd = fit.terms["district/school"].random[0].sd[draw]
        z = np.linspace(-8, 8, 801)
        log_weight, below = norm.logpdf(z), np.empty(len(z))
        for i, u in enumerate(sd * z):
            mean, sigma = moments(fit, "kind", 2, draw, np.r_[left, row], u)
            gain = np.linalg.solve(sigma[:-1, :-1], sigma[:-1, -1])
            centre = mean[-1] + gain @ (y[left] - mean[:-1])
            below[i] = norm.cdf(y[row], centre, np.sqrt(sigma[-1, -1] - gain @ sigma[:-1, -1]))
            log_weight[i] += brute(fit, "kind", 2, draw, left, u)
        weight = np.exp(log_weight - logsumexp(log_weight))
        # The steps of the trapezoidal rule are made for errors of 1e-5.
        assert found[draw] == pytest.approx(weight @ below, abs=1e-5)


# A model that is known on a grid: effects of countries, some with one study.
@cache
def countries():
    rng = np.random.default_rng(8)
    size = [1, 1, 1, 2, 3, 8]
    country = np.repeat(np.arange(6), size)
    vi = rng.uniform(0.02, 0.08, len(country))
    yi = 0.2 + rng.normal(0, 0.4, len(country))
    yi[0], yi[1], yi[4] = 2.0, -1.4, -1.2  # alone in their countries, or nearly
    return pd.DataFrame({"yi": yi, "vi": vi, "country": np.array(list("abcdef"))[country]})


def country_model():
    return lsm.LocationScaleModel(
        "yi ~ 1", "~ 1 + (1 | country)", variance="vi", data=countries(), priors=PRIORS
    )


NODE, WEIGHT = np.polynomial.hermite_e.hermegauss(41)
BETA, ALPHA = np.linspace(-1.0, 1.4, 31), np.linspace(-5, 2.5, 31)
SD = (np.arange(40) + 0.5) * 0.1


@cache
def of_country(rows):
    """ln p(y_rows | β, α, ω) of rows of one country."""
    data = countries().iloc[list(rows)]
    tau2 = np.exp(ALPHA[:, None, None] + SD[:, None] * NODE)
    found = np.zeros((len(BETA), *tau2.shape))
    for y, v in zip(data["yi"], data["vi"], strict=True):
        N = v + tau2
        found -= 0.5 * (np.log(2 * np.pi * N) + (y - BETA[:, None, None, None]) ** 2 / N)
    return logsumexp(found + np.log(WEIGHT / WEIGHT.sum()), axis=-1)


def log_joint(rows):
    """ln p(y_rows | β, α, ω) + ln of the priors, on the grid."""
    total = norm.logpdf(BETA, 0, 1)[:, None, None] + norm.logpdf(ALPHA, -1, 1)[:, None]
    total = total + halfnorm.logpdf(SD)
    for _, data in countries().iloc[list(rows)].groupby("country"):
        total = total + of_country(tuple(data.index))
    return total


def sampled(rows, *, draws, seed):
    """Draws of the posterior of some rows, from the grid: β, α, ω and the effects."""
    rng = np.random.default_rng(seed)
    log_p = log_joint(rows)
    p = np.exp(log_p - logsumexp(log_p)).ravel()
    at = np.unravel_index(rng.choice(len(p), draws, p=p), log_p.shape)
    step = [BETA[1] - BETA[0], ALPHA[1] - ALPHA[0], SD[1] - SD[0]]
    beta, alpha, sd = (
        grid[i] + h * rng.uniform(-0.5, 0.5, draws)
        for grid, i, h in zip((BETA, ALPHA, SD), at, step, strict=True)
    )
    z = np.linspace(-6, 6, 241)
    effect = np.empty((draws, 6))
    data = countries().iloc[list(rows)]
    for k, letter in enumerate("abcdef"):
        mine = data[data["country"] == letter]
        log_q = np.tile(norm.logpdf(z), (draws, 1))
        for y, v in zip(mine["yi"], mine["vi"], strict=True):
            N = v + np.exp(alpha[:, None] + sd[:, None] * z)
            log_q += norm.logpdf(y, beta[:, None], np.sqrt(N))
        q = np.cumsum(np.exp(log_q - log_q.max(axis=1, keepdims=True)), axis=1)
        chosen = (q < rng.random((draws, 1)) * q[:, -1:]).sum(axis=1)
        effect[:, k] = sd * (z[chosen] + 0.05 * rng.uniform(-0.5, 0.5, draws))
    return fit_with(country_model(), beta[:, None], [alpha[:, None]], [sd], [effect])


ALL = tuple(range(16))


@cache
def country_fit():
    return sampled(ALL, draws=4000, seed=3)


def exact_of(out):
    """ln p(y_out | y_left), by the grid."""
    left = tuple(i for i in ALL if i not in set(out))
    return logsumexp(log_joint(ALL)) - logsumexp(log_joint(left))


def test_importance_sampling_is_the_grid_where_its_weights_were_hopeless():
    fit = country_fit()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lsm.ConvergenceWarning)
        found = fit.psis_loo(progress=False)
    given = LevelIntegrals(fit.design, fit.draws)
    conditional = [
        smooth_weights(-given.given_effects(rows))[1] for rows in read_units(fit.design).rows
    ]
    k = found.columns["pareto_k"]
    assert max(conditional) > 0.9
    assert (k < 0.7).all()
    exact = np.array([exact_of([i]) for i in ALL])
    # Draws are spread over a cell of the grid, whose density is not quite that of its middle.
    error = 4 * found.columns["mcse"] + 0.01
    assert (np.abs(found.pointwise - exact) < error).all()
    assert found.elpd == pytest.approx(exact.sum(), abs=4 * found.mcse + 0.05)
    row = read_units(fit.design, unit="row")
    assert row.unit == "row"
    by_country = fit.psis_loo(cluster=countries()["country"], progress=False)
    for value, mcse, rows in zip(
        by_country.pointwise, by_country.columns["mcse"], by_country.studies.rows, strict=True
    ):
        assert value == pytest.approx(exact_of(rows), abs=4 * mcse + 0.02)


def refit_from_the_grid(self, left, *, points, seed):
    if len(left) == len(ALL):
        return self.own
    return weighted_draws(sampled(tuple(left), draws=4000, seed=seed), False)


def test_loo_is_the_grid(monkeypatch):
    monkeypatch.setattr(SampledRefits, "near", refit_from_the_grid)
    fit = country_fit()
    exact = np.array([exact_of([i]) for i in ALL])
    found = fit.loo(progress=False)
    assert (np.abs(found.pointwise - exact) < 4 * found.columns["mcse"] + 0.01).all()
    np.testing.assert_array_equal(
        found.columns["pareto_k"], fit.psis_loo(progress=False).columns["pareto_k"]
    )
    assert "(0 of 16 studies)" in found.notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("refitted", [False, True])
def test_folds_are_the_grid(refitted, monkeypatch):
    monkeypatch.setattr(SampledRefits, "near", refit_from_the_grid)
    if refitted:  # no weights are even enough
        monkeypatch.setattr(Predictions, "doubtful", property(lambda self: ~self.refitted))
    found = country_fit().kfold(5, seed=2, progress=False)
    assert ("(16 of 16 studies)" in found.notes[0]) == refitted
    for fold in np.array_split(np.random.default_rng(2).permutation(16), 5):
        left = tuple(i for i in ALL if i not in set(fold))
        given = logsumexp(log_joint(left))
        for i in fold:
            exact = logsumexp(log_joint(tuple(sorted((*left, i))))) - given
            error = 4 * found.columns["mcse"][i] + 0.015
            assert found.pointwise[i] == pytest.approx(exact, abs=error)


def log_density_at(model, point):
    values = {}
    for variable in model.free_RVs:
        value, transform = point[variable.name], model.rvs_to_transforms[variable]
        if transform is not None:
            value = transform.forward(value, *variable.owner.inputs).eval()
        values[model.rvs_to_values[variable].name] = value
    return float(model.compile_logp(mode="FAST_COMPILE")(values))


@pytest.mark.parametrize("correlated", [False, True])
def test_a_row_that_is_switched_off_says_nothing(correlated):
    """Densities of two points differ as those of the model of the other rows do."""
    import pymc as pm

    options = {"sampling_covariance": lsm.SamplingCovariance("district", rho=0.5)}
    model = lsm.LocationScaleModel(
        "yi ~ 1",
        {"district": "~ 1", "district/school": "~ 1 + (1 | kind)"},
        variance="vi",
        data=schools(),
        priors=PRIORS,
        **(options if correlated else {}),
    )
    kept = np.ones(24, dtype=bool)
    kept[[3, 4, 5, 17]] = False
    switchable = build_switchable_pymc_model(model.design, PRIORS)
    with switchable:
        pm.set_data(rows_on(model.design, kept))
    smaller = build_pymc_model(model.design.keep(kept), PRIORS)
    rng, values = np.random.default_rng(1), []
    for _ in range(2):
        point = {
            "location": rng.normal(size=1),
            "scale": rng.normal(size=2),
            "scale_sd": rng.uniform(0.3, 1, 1),
            "scale_effect_standard": rng.normal(size=3),
        }
        values.append([log_density_at(each, point) for each in (switchable, smaller)])
    ours, theirs = np.subtract(*values)
    assert ours == pytest.approx(theirs, rel=1e-10)


def hundred():
    """101 studies of 31 countries, sixteen of which have one."""
    rng = np.random.default_rng(4)
    size = [*[1] * 16, *[2] * 8, *[5] * 5, 20, 24]
    country = np.repeat(np.arange(31), size)
    effect, vi = rng.normal(0, 1.3, 31), rng.uniform(0.01, 0.06, 101)
    yi = 0.3 + rng.normal(0, np.sqrt(vi + np.exp(-2.5 + effect[country])))
    return pd.DataFrame({"yi": yi, "vi": vi, "country": country.astype(str)})


@pytest.mark.slow
def test_loo_by_draws_is_that_of_refits_by_nuts():
    data = hundred()

    def fitted(part, seed):
        model = lsm.LocationScaleModel(
            "yi ~ 1", "~ 1 + (1 | country)", variance="vi", data=part, priors=PRIORS
        )
        return model.fit_bayes(seed=seed, draws=8000, target_accept=0.99, progress=False)

    fit = fitted(data, 1)
    given = LevelIntegrals(fit.design, fit.draws)
    before = [smooth_weights(-given.given_effects(rows))[1] for rows in read_units(fit.design).rows]
    psis, exact = fit.psis_loo(progress=False), fit.loo(progress=False)
    k = psis.columns["pareto_k"]
    assert (np.array(before) > 0.7).sum() > (k > 0.7).sum()
    assert (k <= 0.7).mean() > 0.98
    assert psis.elpd == pytest.approx(exact.elpd, abs=4 * np.hypot(psis.mcse, exact.mcse))
    # The two that are predicted worst are each the only study of their country; a third is not.
    for row in (*np.argsort(exact.pointwise)[:2], 60):
        again = fitted(data.drop(index=row).reset_index(drop=True), 2)
        (term,) = again.terms.values()
        (random,) = term.random
        letter, rng = data["country"][row], np.random.default_rng(3)
        if letter in random.of.levels:
            effect = random.effect[:, [random.of.levels.index(letter)]]
        else:
            effect = random.sd[:, None] * rng.normal(size=(len(random.sd), 50))
        N = data["vi"][row] + np.exp(term.alpha + effect)
        density = norm.pdf(data["yi"][row], again.draws.flat_location, np.sqrt(N)).mean(axis=1)
        error = density.std() / density.mean() / np.sqrt(len(density))
        # Chains have fewer effective draws than draws, at least a quarter.
        allowed = 4 * np.hypot(2 * error, 2 * exact.columns["mcse"][row])
        assert exact.pointwise[row] == pytest.approx(np.log(density.mean()), abs=allowed)
