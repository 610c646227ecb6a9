"""Prior sensitivity against closed forms, grids, ArviZ, and data whose answer is known."""

import math

import arviz as az
import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import beta as beta_distribution
from scipy.stats import cauchy, halfnorm, norm

import bayes_lsm as lsm
from bayes_lsm.bayes import sensitivity
from bayes_lsm.bayes.sensitivity.refits import overlap
from bayes_lsm.bayes.sensitivity.verdicts import judge, tipping_point
from bayes_lsm.design.design import build_design
from bayes_lsm.priors import Cauchy, Flat, HalfNormal, Normal, Priors
from bayes_lsm.specification import Specification

from .fits import grid_of
from .levels import as_dependent

FEW = {"factors": (0.5, 2), "presets": (), "progress": False}
LOG_TAU2 = math.log(0.1)


def _pinned(mean, sd):
    """A random-effects model of the BCG trials whose τ² is all but known, so that μ is normal.

    The fit, and the precision and mean that the data alone give μ.
    """
    prior = Priors(
        location={"intrcpt": Normal(mean, sd)}, scale={"intrcpt": Normal(LOG_TAU2, 1e-3)}
    )
    model = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"))
    weight = 1 / (model.design.v + 0.1)
    fit = model.fit_bayes(prior=prior, draws=1000, seed=1)
    return fit, weight.sum(), weight @ model.design.y / weight.sum()


@pytest.fixture(scope="module")
def slides(continent):
    return sensitivity(continent.fit_bayes(prior="slides", seed=1), **FEW)


@pytest.fixture(scope="module")
def weak(continent):
    return sensitivity(continent.fit_bayes(prior="weakly_informative", seed=1), **FEW)


def test_share_and_contraction_of_a_normal_posterior_are_in_closed_form():
    fit, information, _ = _pinned(0.0, 0.2)
    found = sensitivity(fit, draws=40_000, **FEW).table.loc["location", "intrcpt"]
    sd = {f: (1 / (0.2 * f) ** 2 + information) ** -0.5 for f in (0.5, 1, 2)}
    # 40,000 draws: a quantile's error is 1.3% of the SD, an interval's 0.5% of its length.
    assert found["share"] == pytest.approx(math.log(sd[2] / sd[0.5]) / math.log(4), abs=0.02)
    assert found["contraction"] == pytest.approx(1 - (sd[1] / 0.2) ** 2, abs=0.03)


def test_tipping_point_of_a_normal_posterior_is_in_closed_form():
    fit, information, effect = _pinned(0.0, 0.3)

    def upper(log_factor, z):
        precision = math.exp(-2 * log_factor) / 0.09 + information
        return effect * information / precision + z / math.sqrt(precision)

    found = sensitivity(fit, draws=40_000, presets=(), progress=False)
    tip = found.tipping.loc["location", "intrcpt"]
    assert tip["conclusion"] == "< 0"
    for column, probability in (("narrower", 0.975), ("p_narrower", 0.95)):
        exact = math.exp(brentq(upper, math.log(1e-3), 0.0, args=(ndtri(probability),)))
        # A straight line between factors that differ by 2.
        assert tip[column] == pytest.approx(exact, rel=0.1)
    assert math.isnan(tip["wider"])
    assert f"narrower by a factor of {1 / tip['narrower']:.2g}" in str(found).replace("\n  ", " ")


def test_tipping_points_of_curves_made_by_hand():
    factors = np.array([0.25, 0.5, 1.0, 2.0, 4.0])
    interval = ndtri(0.975)

    def find(scores):
        return tipping_point(factors, norm.cdf(scores), level=0.95, draws=8000)

    scores = interval + np.array([0.3, 0.2, 0.1, -0.1, -0.5])
    tip = find(scores)
    assert tip["conclusion"] == "> 0"
    assert math.isnan(tip["narrower"])
    assert tip["wider"] == pytest.approx(math.sqrt(2))
    # 0.95 is crossed on the way from 1.86 to 1.46, of which 0.215 has to be gone: at 2 · 2^(…).
    part = (interval - 0.1 - ndtri(0.95)) / 0.4
    assert tip["p_wider"] == pytest.approx(2 * 2**part)
    mirrored = find(-scores)
    assert mirrored["conclusion"] == "< 0"
    assert mirrored["wider"] == pytest.approx(math.sqrt(2))
    undecided = find(interval + np.array([0.2, 0.1, -0.1, -0.3, -0.4]))
    assert undecided["conclusion"] == "open"
    assert undecided["narrower"] == pytest.approx(2**-0.5)
    # One Monte Carlo error (0.04 of the score) is no change: a few draws more or less.
    noisy = find(interval + np.array([0.05, 0.05, 0.03, -0.04, 0.02]))
    assert math.isnan(noisy["wider"])


def test_overlap_of_two_normals_is_in_closed_form():
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=40_000), rng.normal(1.0, 1.0, 40_000)
    # 2 Φ(−½); bins of a sixtieth leave 0.002 out, counting errors are of that size too.
    assert overlap(first, second) == pytest.approx(2 * norm.cdf(-0.5), abs=0.01)
    assert overlap(first, first) == pytest.approx(1.0)
    assert overlap(first, first + 20) == pytest.approx(0.0, abs=1e-9)


def test_power_scaling_is_that_of_arviz(continent):
    fit = continent.fit_bayes(draws=4000, seed=1)
    found = sensitivity(fit, draws=4000, **FEW).table
    tree = fit.posterior
    for column, group in (("prior_sens", "prior"), ("lik_sens", "likelihood")):
        theirs = az.psense(tree, group=group)
        values = np.r_[theirs["location"].to_numpy(), theirs["scale"].to_numpy()]
        assert found[column].to_numpy() == pytest.approx(values, rel=1e-6)


def _distance(first, second):
    """Square root of the relative cumulative Jensen-Shannon distance of two rows of shares."""
    a, b = np.cumsum(first), np.cumsum(second)
    inside = (a > 1e-12) & (b > 1e-12)
    a, b = a[inside], b[inside]
    middle = np.log2((a + b) / 2)
    parts = [np.sum(c * (np.log2(c) - middle)) for c in (a, b)]
    return math.sqrt(sum(parts) / (a.sum() + b.sum()))


def test_power_scaling_of_a_half_flat_posterior_is_that_of_a_grid():
    """Studies that agree: the likelihood of ln τ² is flat below."""
    data = pd.DataFrame({"yi": [0.1, 0.2, -0.1, 0.0, 0.15], "vi": [0.1, 0.2, 0.1, 0.05, 0.1]})
    prior = lsm.priors.independent_normal(location=1, scale=4)
    model = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data, priors=prior)
    fit = model.fit_bayes(draws=20_000, seed=5)
    grid = grid_of(tuple(data["yi"]), tuple(data["vi"]), prior_sd=(1, 4))
    # The distance is relative to an integral over the range of the draws.
    drawn = fit.draws.flat_scale
    inside = (grid.log_tau2[0] > drawn.min()) & (grid.log_tau2[0] < drawn.max())
    own = grid.weight.sum(axis=0)[inside]
    log_prior = norm.logpdf(grid.mu, 0, 1) + norm.logpdf(grid.log_tau2, 0, 4)
    exact = []
    for power in (0.99, 1.01):
        weight = grid.weight * np.exp((power - 1) * log_prior)
        scaled = weight.sum(axis=0)[inside] / weight.sum()
        either_side = max(_distance(own, scaled), _distance(own[::-1], scaled[::-1]))
        exact.append(either_side / abs(math.log2(power)))
    found = sensitivity(fit, draws=20_000, **FEW).table.loc[("scale", "intrcpt"), "prior_sens"]
    # 20,000 draws, worth some 10,000, know the distance to a few per cent.
    assert found == pytest.approx(np.mean(exact), rel=0.1)


def test_the_divergent_coefficient_is_the_priors_and_weeks_is_not(slides, weak):
    for found in (slides, weak):
        assert found.verdicts["scale", "continentOther"] == "prior-dominated"
        assert found.verdicts["location", "I(weeks - 40)"] == "data-driven"
        assert found.verdicts["scale", "I(weeks - 40)"] == "prior-informed"
        assert (found.verdicts.loc["location"] == "data-driven").all()
    # A contraction of 0.6 looks as if something had been learned.
    assert slides.table.loc[("scale", "continentOther"), "contraction"] > 0.5
    assert slides.table.loc[("scale", "continentOther"), "share"] > 0.8


def test_many_studies_are_stronger_than_any_prior():
    rng = np.random.default_rng(8)
    data = pd.DataFrame({"vi": rng.uniform(0.01, 0.05, 400), "x": rng.normal(size=400)})
    tau2 = np.exp(-2 + 0.5 * data["x"])
    data["yi"] = rng.normal(0.3 + 0.1 * data["x"], np.sqrt(data["vi"] + tau2))
    model = lsm.LocationScaleModel("yi ~ x", scale="~ x", variance="vi", data=data)
    found = sensitivity(model.fit_bayes(seed=1), **FEW)
    assert (found.verdicts == "data-driven").all(), found.table


def test_a_coefficient_without_information_is_the_priors():
    """So imprecise are the studies of the second group that nothing is known of their τ."""
    rng = np.random.default_rng(5)
    second = np.arange(300) % 4 == 0
    data = pd.DataFrame({"b": 1.0 * second, "vi": np.where(second, 1e4, 0.02)})
    data["yi"] = rng.normal(0.3, np.sqrt(data["vi"] + 0.1))
    model = lsm.LocationScaleModel("yi ~ 1", scale="~ b", variance="vi", data=data)
    prior = lsm.priors.independent_normal(location=2, scale=2)
    found = sensitivity(model.fit_bayes(prior=prior, seed=1), **FEW)
    row = found.table.loc["scale", "b"]
    assert row["verdict"] == "prior-dominated"
    # Nothing is learned, so everything passes through; errors as of quantiles of 8000 draws.
    assert row["share"] == pytest.approx(1.0, abs=0.06)
    assert row["contraction"] == pytest.approx(0.0, abs=0.06)
    assert row["overlap"] > 0.95
    assert found.verdicts["location", "intrcpt"] == "data-driven"
    assert found.verdicts["scale", "intrcpt"] == "data-driven"


def test_each_threshold_decides():
    clear = {"share": 0.05, "together": 0.1, "moved": 0.1, "prior_sens": 0.01}
    assert judge(clear) == "data-driven"
    for name, value in (("share", 0.1), ("together", -0.25), ("moved", 0.5), ("prior_sens", 0.05)):
        assert judge(clear | {name: value}) == "prior-informed"
        assert judge(clear | {name: math.nan}) == "prior-informed"
    assert judge(clear | {"share": 0.5}) == "prior-dominated"


def test_curves_and_presets_are_fits_under_those_priors(continent):
    options = {"draws": 1000, "seed": 4}
    fit = continent.fit_bayes(prior="slides", **options)
    found = sensitivity(
        fit,
        presets=("weakly_informative", "robma", "blsmeta"),
        factors=(4,),
        progress=False,
        **options,
    )
    columns = ["median", "ci_lb", "ci_ub"]
    for name in ("weakly_informative", "blsmeta"):
        own = continent.fit_bayes(prior=name, **options).summary()[columns]
        pd.testing.assert_frame_equal(found.presets.loc[name, columns], own)
    assert "needs the effect measure" in found.skipped["robma"]
    assert "preset 'robma' left out" in str(found)
    wider = fit.priors.with_terms(scale={"continentOther": Normal(0, 28)})
    own = continent.fit_bayes(prior=wider, **options).summary()
    curve = found.widths.loc[("own", "scale", "continentOther", 4.0)]
    assert curve[columns].tolist() == pytest.approx(
        own.loc[("scale", "continentOther"), columns].tolist()
    )
    all_wider = lsm.priors.independent_normal(location=400, scale=28)
    own = continent.fit_bayes(prior=all_wider, **options).summary()
    curve = found.widths.xs("together").xs(4.0, level="factor")
    pd.testing.assert_frame_equal(curve[columns], own[columns])


def test_priors_of_tau_are_those_of_prior_predictions(continent):
    fit = continent.fit_bayes(prior="weakly_informative", draws=1000, seed=4)
    found = sensitivity(fit, factors=(), presets=("blsmeta",), draws=1000, progress=False).tau
    said = continent.prior_predictive(prior="blsmeta", draws=40_000, seed=9).tau
    ours = np.log(found.loc["blsmeta", ["prior_median", "prior_ci_lb", "prior_ci_ub"]])
    theirs = np.log(said[["50%", "2.5%", "97.5%"]])
    # ln τ has an SD of 1 to 5; the ends of 20,000 and 40,000 draws differ by 2% of it.
    assert np.abs(ours.to_numpy() - theirs.to_numpy()).max() < 0.4
    after = np.log(found.loc["as fitted", "median"].to_numpy()) * 2
    assert after == pytest.approx(np.log(fit.tau2), abs=1e-6)


def test_another_family_of_the_location_prior_by_weights_is_that_of_quadrature():
    fit, information, effect = _pinned(0.0, 0.5)
    found = sensitivity(fit, draws=40_000, **FEW)
    family = Cauchy(0, 0.5 * ndtri(0.75))

    def density(mu):
        return cauchy.pdf(mu, scale=family.scale) * norm.pdf(mu, effect, information**-0.5)

    total, _ = quad(density, -3, 2)
    mean = quad(lambda mu: mu * density(mu), -3, 2)[0] / total
    row = found.families.loc[("location: Cauchy", "location", "intrcpt")]
    # The posterior is all but symmetric: its median is its mean to 1% of its SD.
    assert row["median"] == pytest.approx(mean, abs=0.04 * information**-0.5)
    assert row["trusted"]


def test_a_fit_with_student_t_effects():
    model = lsm.LocationScaleModel(
        "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"), study_effects="student_t"
    )
    fit = model.fit_bayes(draws=1000, seed=1)
    found = sensitivity(fit, draws=1000, **FEW)
    assert found.verdicts["location", "intrcpt"] != "prior-dominated"
    assert found.table.loc[("location", "intrcpt"), "median"] == pytest.approx(
        fit.location.loc["intrcpt", "median"]
    )
    cauchy_row = found.families.loc[("location: Cauchy", "location", "intrcpt")]
    assert cauchy_row["trusted"]  # refitted: here every family can be


def test_studies_of_one_name_keep_their_rows():
    data = lsm.load_dataset("bcg")  # two authors have two trials each
    model = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data, study="author")
    assert len(sensitivity(model.fit_bayes(draws=1000, seed=1), draws=1000, **FEW).tau) == len(data)


def test_the_same_seed_gives_the_same_result_in_silence(weak, continent, capsys):
    again = continent.fit_bayes(prior="weakly_informative", seed=1).sensitivity(**FEW)
    pd.testing.assert_frame_equal(again.table, weak.table)
    assert capsys.readouterr().err == ""


def test_the_printed_table_says_the_verdicts_and_their_thresholds(slides):
    text = " ".join(str(slides).split())
    assert "scale[continentOther] is prior-dominated: its 95% interval" in text
    assert "share ≥ 0.5" in text
    assert "times as wide: " not in text  # every refit was good
    assert "prior-dominated" in slides.to_html()
    assert slides.to_dataframe().shape == (8, 12)


def test_wrong_questions_are_refused(continent):
    fit, _, _ = _pinned(0.0, 1.0)
    for options, words in (
        ({"factors": (0.0, 2)}, "factors must be finite and > 0"),
        ({"draws": 10}, "draws must be a whole number of at least 100"),
        ({"level": 1.0}, "level must be between 0 and 1"),
    ):
        with pytest.raises(lsm.FitError, match=words):
            sensitivity(fit, progress=False, **options)
    flat = Priors(location={"intrcpt": Flat()})
    other = lsm.BayesFit(continent.design, flat, fit.draws, 1, fit.convergence, ())
    with pytest.raises(lsm.FitError, match="got a flat location prior"):
        sensitivity(other, progress=False)


@pytest.fixture(scope="module")
def both():
    """One model by the solver of independent effects and by that of groups."""
    data = lsm.load_dataset("preterm_iq")
    one = lsm.LocationScaleModel("yi ~ weeks", "~ weeks", variance="vi", data=data)
    words = Specification("yi ~ weeks", "vi", scale={"study": "~ weeks"})
    design = as_dependent(build_design(words, data))
    options = {"draws": 8000, "seed": 1}
    return one.fit_bayes(**options), lsm.bayes.fit_bayes(design, **options)


@pytest.mark.slow
def test_both_solvers_give_the_same_numbers(both):
    one, several = (fit.sensitivity(draws=20_000, **FEW) for fit in both)
    table = several.table
    assert list(one.table.index) == list(table.index)
    assert (table["verdict"] == one.table["verdict"]).all()
    # 20,000 draws, worth half as many independent ones: the ends of an interval have an error of
    # 0.03 SD, its length one of 1%, and a rate over a factor of 4 one of 0.01.
    for column, error in (
        ("share", 0.04), ("together", 0.04), ("contraction", 0.02), ("overlap", 0.03),
        ("prior_sens", 0.02), ("lik_sens", 0.03), ("moved", 0.06),
    ):  # fmt: skip
        difference = table[column].to_numpy() - one.table[column].to_numpy()
        assert np.abs(difference).max() < error, column
    sd = (one.table["ci_ub"] - one.table["ci_lb"]).to_numpy() / 3.92
    for column, error in (("median", 0.05), ("ci_lb", 0.15), ("ci_ub", 0.15)):
        difference = (table[column].to_numpy() - one.table[column].to_numpy()) / sd
        assert np.abs(difference).max() < error, column
    assert list(several.families.index.unique("prior")) == list(one.families.index.unique("prior"))
    assert several.tau.index.names[1] == "variance"
    assert one.tau.index.names[1] == "study"


@pytest.mark.slow
def test_a_correlation_without_data_is_the_priors():
    """Two outcomes that no trial has both of."""
    rng = np.random.default_rng(3)
    n = 16
    data = pd.DataFrame({"trial": np.arange(n), "outcome": np.where(np.arange(n) % 2, "a", "b")})
    data["vi"] = 0.02
    data["yi"] = rng.normal(0, np.sqrt(0.02 + 0.1), n)
    model = lsm.LocationScaleModel(
        "yi ~ 0 + outcome", {"outcome | trial": "~ 0 + outcome"}, variance="vi", data=data
    )
    found = model.fit_bayes(seed=1, prior=Priors(lkj=2.0)).sensitivity(**FEW)
    row = found.table.loc[("correlation", "a, b")]
    # Nothing is learned; lengths of intervals of 8000 draws have an error of 2%, squares of 4%.
    assert row["share"] == pytest.approx(1.0, abs=0.06)
    assert row["contraction"] == pytest.approx(0.0, abs=0.1)
    assert row["verdict"] == "prior-dominated"
    # LKJ(2) of two effects: r = 2 Beta(2, 2) − 1.
    ends = 2 * beta_distribution(2, 2).ppf([0.5, 0.025, 0.975]) - 1
    assert row[["median", "ci_lb", "ci_ub"]].to_numpy(dtype=float) == pytest.approx(ends, abs=0.04)
    assert (found.table["verdict"].drop(row.name) != "prior-dominated").all()


def share_of_half_normal(fit, factor=1.1):
    """How fast the interval of ln ω² grows with its half-normal(1) prior, by weights."""
    log_omega2 = 2 * np.log(fit.terms["study"].random[0].sd)
    median = 2 * np.log(halfnorm.median())

    def log_length(width):
        back = median + (log_omega2 - median) / width
        ln_prior = (x / 2 - np.exp(x) / 2 for x in (back, log_omega2))
        weights = np.exp(next(ln_prior) - next(ln_prior))
        order = np.argsort(log_omega2)
        below = np.cumsum(weights[order]) - weights[order] / 2
        ends = np.interp([0.025, 0.975], below / weights.sum(), log_omega2[order])
        return np.log(ends[1] - ends[0])

    return (log_length(factor) - log_length(1 / factor)) / (2 * np.log(factor))


@pytest.mark.slow
def test_random_intercepts_are_judged_from_draws():
    """A scale with (1 | country): only NUTS can fit it, so its draws are reweighted."""
    rng = np.random.default_rng(6)
    country = np.repeat(np.arange(12), 8)
    u = rng.normal(0, 1.0, 12)
    data = pd.DataFrame({"study": np.arange(96), "country": country, "vi": 0.02})
    data["yi"] = rng.normal(0.2, np.sqrt(0.02 + np.exp(-2 + u[country])))
    model = lsm.LocationScaleModel(
        "yi ~ 1", {"study": "~ 1 + (1 | country)"}, variance="vi", data=data
    )
    fit = model.fit_bayes(seed=2, draws=4000, progress=False)
    found = fit.sensitivity(progress=False)
    assert found.reweighted
    assert "not refitted but reweighted, 4000 draws of NUTS" in " ".join(str(found).split())
    assert "only NUTS can refit" in found.skipped["slides"]
    name = ("scale_sd", "country")
    row = found.table.loc[name]
    assert row["median"] == pytest.approx(fit.summary().loc[name, "median"], rel=0.01)
    narrow, wide = (
        model.fit_bayes(seed=2, prior=Priors(scale_sd=HalfNormal(sd)), progress=False).summary()
        for sd in (0.5, 2.0)
    )
    # Of a half-normal prior a factor on ω is a shift of ln ω², not a stretching.
    length = [np.log(each.loc[name, "ci_ub"] / each.loc[name, "ci_lb"]) for each in (narrow, wide)]
    assert abs(np.log(length[1] / length[0]) / np.log(4)) < 0.35
    # With the formula of the prior, stretched by hand, on the same draws. Weights are not smoothed
    # here and quantiles interpolated: of 4000 draws that moves an end by a draw or two. The share
    # itself has a Monte Carlo error of about 0.1: 32,000 draws give 0.53 to 0.62.
    assert row["share"] == pytest.approx(share_of_half_normal(fit), abs=0.05)
    assert found.table.loc[("location", "intrcpt"), "verdict"] == "data-driven"
    asked = fit.sensitivity(presets=("slides",), progress=False)
    assert set(asked.presets.index.unique("prior")) == {"as fitted", "slides"}
