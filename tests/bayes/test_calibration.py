"""Calibration: the bands by other routes, engines that are right, and engines that are wrong."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, kstest

import bayes_lsm as lsm
from bayes_lsm.bayes.calibration.calibration import calibrate
from bayes_lsm.bayes.calibration.coverage import coverage
from bayes_lsm.bayes.calibration.replications import observed_effects, unknowns
from bayes_lsm.bayes.calibration.uniformity import rank_ecdf, simultaneous_band, uniformity_pvalue
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.direct import sample_directly
from bayes_lsm.bayes.prior_draws import draw_priors
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.term_draws import join_terms, split_terms
from bayes_lsm.priors import DegreesOfFreedom, HalfNormal, Normal, Priors

from .levels import model_of

# What a meta-analyst might believe: τ within a factor of about e² of 1, slopes that double it.
MODERATE = Priors(location={"*": Normal(0, 2)}, scale={"*": Normal(0, 1)})
# The same of standardised mean differences.
MEDIUM = Priors(location={"*": Normal(0, 1)}, scale={"*": Normal(-2, 1)})


def _model(k, scale):
    """Few studies, three groups of them, and a moderator."""
    rng = np.random.default_rng(k)
    data = pd.DataFrame(
        {
            "yi": rng.normal(size=k),
            "vi": rng.uniform(0.05, 1.0, k),
            "g": np.resize(list("abc"), k),
            "x": rng.normal(size=k),
        }
    )
    return lsm.LocationScaleModel("yi ~ x", scale=scale, variance="vi", data=data)


@pytest.fixture(scope="module")
def small():
    return _model(12, "~ x").design


def test_band_holds_uniform_ranks_as_often_as_it_says():
    rng = np.random.default_rng(1)
    size, largest, sets = 200, 50, 2000
    lower, upper = simultaneous_band(size, largest, level=0.9)
    ranks = rng.integers(0, largest + 1, (sets, size))
    ecdfs = np.array([rank_ecdf(each, largest) for each in ranks])
    inside = ((ecdfs >= lower) & (ecdfs <= upper)).all(axis=1).mean()
    # Four binomial errors of 2000 sets and of the 20,000 that the band itself is made from.
    assert inside == pytest.approx(0.9, abs=4 * np.sqrt(0.09 * (1 / sets + 1 / 20_000)))
    pvalues = [uniformity_pvalue(each, largest) for each in ranks[:500]]
    assert kstest(pvalues, "uniform").pvalue > 0.001
    # Inside the band of level 1 − p, outside of a narrower one: the p-value is that of the band.
    crossed = ((ecdfs[:500] < lower) | (ecdfs[:500] > upper)).any(axis=1)
    assert (crossed == (np.array(pvalues) < 0.1)).mean() > 0.995


def test_band_is_wider_than_the_pointwise_and_narrower_than_bonferroni():
    size, largest = 500, 60
    lower, upper = simultaneous_band(size, largest)
    share = (np.arange(largest) + 1) / (largest + 1)
    pointwise = binom.ppf([[0.025], [0.975]], size, share) / size
    bonferroni = binom.ppf([[0.025 / largest], [1 - 0.025 / largest]], size, share) / size
    assert (lower <= pointwise[0]).all()
    assert (upper >= pointwise[1]).all()
    assert (lower >= bonferroni[0]).all()
    assert (upper <= bonferroni[1]).all()


def test_right_engine_stays_inside(small):
    checked = calibrate(small, MODERATE, simulations=100, draws=400, seed=1, progress=False)
    assert checked.calibrated
    table = checked.to_dataframe()
    assert set(table["ranks"]) == {"uniform"}
    # Four binomial errors at 100 simulations.
    for level in (50, 80, 95):
        share = level / 100
        error = 4 * np.sqrt(share * (1 - share) / 100)
        assert table[f"cover{level}"].dropna().between(share - error, share + error).all()
    bias = table["bias"].dropna()
    assert (np.abs(bias) < 4 * table["bias_se"].dropna()).all()
    assert "calibrated" in str(checked)


def test_same_seed_same_ranks(small):
    first, again = (
        calibrate(small, MODERATE, simulations=20, draws=100, seed=1, progress=False)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.refits.ranks, again.refits.ranks)


def _altered(design, change):
    """The collapsed engine, with its draws changed before they are handed over."""
    resolved = resolve_priors(design, MODERATE)

    def engine(simulated, seed):
        drawn = sample_directly(simulated, resolved, draws=400, seed=seed)
        return replace(drawn, scale=change(drawn.scale))

    return engine


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        (lambda a: a.mean(axis=(0, 1)) + 0.5 * (a - a.mean(axis=(0, 1))), "too narrow"),
        (lambda a: a.mean(axis=(0, 1)) + 1.8 * (a - a.mean(axis=(0, 1))), "too wide"),
        (lambda a: a + 0.7 * a.std(axis=(0, 1)), "too high"),
    ],
)
def test_wrong_engine_falls_out(small, change, shape):
    engine = _altered(small, change)
    checked = calibrate(small, MODERATE, simulations=100, engine=engine, seed=2, progress=False)
    assert not checked.calibrated
    assert (checked.to_dataframe().loc["scale", "ranks"] == shape).any()
    assert (checked.to_dataframe().loc["location", "ranks"] == "uniform").all()
    difference = checked.ecdf_difference()
    band = difference["band"]
    of_scale = difference["scale"]
    outside = of_scale.lt(band["lower"], axis=0) | of_scale.gt(band["upper"], axis=0)
    assert outside.to_numpy().any()
    assert "NOT calibrated" in str(checked)


def test_engine_that_ignores_the_data_is_seen_by_the_likelihood_alone(small):
    resolved = resolve_priors(small, MODERATE)

    def prior_only(_, seed):
        rng = np.random.default_rng(seed)
        parts = (part.sample(400, rng) for part in (resolved.location, resolved.scale))
        return Draws(*(part.reshape(4, 100, -1) for part in parts))

    with_problems = calibrate(
        small, MODERATE, simulations=100, engine=prior_only, seed=3, progress=False
    )
    pvalues = with_problems.pvalues
    assert pvalues["Joint"].item() < 1e-3
    assert pvalues.drop("Joint", level="part").min() > 1e-3


def test_fits_that_warn_are_counted(small, monkeypatch):
    monkeypatch.setattr("bayes_lsm.bayes.engines.diagnostics.SMALLEST_ESS", 1e9)
    checked = calibrate(small, MODERATE, simulations=20, draws=100, seed=1, progress=False)
    assert checked.refits.failed == 20
    assert any("20 of 20 fits warned" in note for note in checked.notes)


def test_priors_that_follow_the_effects_are_resolved_once(small):
    """Their scale must not move with the simulated effects, or no engine could be calibrated."""
    checked = calibrate(small, simulations=60, draws=200, seed=4, progress=False)
    unit = resolve_priors(small, Priors()).location.priors[0].sd
    level = checked.refits.truth[:, :2] @ resolve_priors(small, Priors()).location.contrasts[0]
    assert level.std() == pytest.approx(unit, rel=0.5)
    assert checked.pvalues.min() > 1e-3


def test_coverage_at_a_known_truth(small):
    truth = {"intrcpt": 0.3, "x": 0.2}, {"intrcpt": -1.0, "x": 0.5}
    found = coverage(
        small,
        MODERATE,
        location=truth[0],
        scale=truth[1],
        simulations=100,
        draws=400,
        seed=5,
        progress=False,
    )
    table = found.to_dataframe()
    np.testing.assert_array_equal(table["truth"], [0.3, 0.2, -1.0, 0.5])
    # The truth is in the middle of the priors: intervals hold it at least as often as they say.
    assert (table["cover95"] > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 100)).all()
    # Definitions: mean squared error = variance + bias².
    n = 100
    variance = table["bias_se"] ** 2 * n * (n - 1) / n
    np.testing.assert_allclose(table["rmse"] ** 2, variance + table["bias"] ** 2, rtol=1e-10)
    assert "k = 12" in found.title


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"simulations": 5}, "simulations must be a whole number of at least 20, got 5"),
        ({"draws": 10}, "draws must be a whole number of at least 100, got 10"),
        ({"ranked": 1}, "ranked must be"),
        ({"engine": "gibbs"}, "engine must be 'collapsed', 'nuts' or a function"),
    ],
)
def test_wrong_settings_are_refused(small, settings, message):
    with pytest.raises(lsm.FitError, match=message):
        calibrate(small, MODERATE, progress=False, **settings)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"intrcpt": 0.0}, "must be given for 'intrcpt', 'x'; got 'intrcpt'"),
        ({"intrcpt": 0.0, "x": np.inf}, "must be finite"),
    ],
)
def test_wrong_truth_is_refused(small, scale, message):
    with pytest.raises(lsm.FitError, match=message):
        coverage(small, location={"intrcpt": 0, "x": 0}, scale=scale, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "scale"), [(15, "~ g"), (40, "~ g + x")])
def test_collapsed_engine_is_calibrated(k, scale):
    """A thousand simulations; groups of five studies and of thirteen."""
    checked = calibrate(_model(k, scale).design, MODERATE, simulations=1000, seed=6, progress=False)
    assert checked.calibrated, str(checked)
    assert checked.refits.failed == 0


@pytest.mark.slow
def test_nuts_is_calibrated():
    """Two hundred simulations, compiled once."""
    checked = calibrate(
        _model(15, "~ g").design,
        MODERATE,
        simulations=200,
        engine="nuts",
        draws=2000,
        seed=7,
        progress=False,
    )
    assert checked.calibrated, str(checked)


ROBUST = MODERATE.model_copy(update={"df": DegreesOfFreedom(2, 0.2)})


@pytest.fixture(scope="module")
def robust():
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"vi": rng.uniform(0.05, 0.5, 15), "x": rng.normal(size=15)})
    data["yi"] = rng.normal(size=15)
    return lsm.LocationScaleModel(
        "yi ~ 1", scale="~ x", variance="vi", data=data, study_effects="student_t"
    ).design


@pytest.mark.slow
def test_degrees_of_freedom_are_covered_or_fixed(robust):
    settings = {"simulations": 20, "draws": 200, "seed": 1, "progress": False}
    known = {"location": {"intrcpt": 0.1}, "scale": {"intrcpt": -2, "x": 0.3}}
    table = coverage(robust, ROBUST, **known, df=3, **settings).to_dataframe()
    assert table.loc[("study_effects", "df"), "truth"] == 3
    assert table.loc[("study_effects", "df"), "bias"] > 0  # the prior's mean is above 10
    fixed = calibrate(robust, ROBUST.model_copy(update={"df": 3.0}), **settings)
    assert list(fixed.quantities.unique("part")) == ["location", "scale", "Joint"]
    assert "ν = 3, fixed" in str(fixed)
    assert fixed.calibrated, str(fixed)


@pytest.mark.slow
def test_collapsed_engine_is_calibrated_with_student_t_effects(robust):
    """The quadrature, the prior of ν and the draws of all unknowns together."""
    checked = calibrate(robust, ROBUST, simulations=400, seed=6, progress=False)
    assert checked.calibrated, str(checked)
    assert checked.quantities[-2] == ("study_effects", "df")
    assert (checked.refits.truth[:, -1] > 1).all()

    def blind(design, seed):
        """Draws as if the tails were those of a normal."""
        fixed = replace(resolve_priors(design, ROBUST), df=1e6)
        drawn = sample_directly(design, fixed, draws=1000, seed=seed)
        nu = ROBUST.df.sample(1000, np.random.default_rng(seed))
        return replace(drawn, df=nu.reshape(drawn.location.shape[:2]))

    wrong = calibrate(robust, ROBUST, simulations=200, engine=blind, seed=6, progress=False)
    assert not wrong.calibrated


def outcomes(trials, levels):
    """Correlated outcomes of some trials, with little sampling error."""
    rng = np.random.default_rng(trials)
    n = trials * len(levels)
    data = pd.DataFrame(
        {
            "trial": np.repeat(np.arange(trials), len(levels)),
            "outcome": list(levels) * trials,
            "yi": rng.normal(size=n),
            "vi": rng.uniform(0.02, 0.2, n),
        }
    )
    return lsm.LocationScaleModel(
        "yi ~ 0 + outcome", {"outcome | trial": "~ 0 + outcome"}, variance="vi", data=data
    )


def countries():
    """Studies of countries that differ in their heterogeneity."""
    rng = np.random.default_rng(3)
    k = 32
    data = pd.DataFrame(
        {
            "study": np.arange(k),
            "country": np.repeat(list("abcdefgh"), 4),
            "yi": rng.normal(size=k),
            "vi": rng.uniform(0.05, 0.2, k),
        }
    )
    return lsm.LocationScaleModel(
        "yi ~ 1", {"study": "~ 1 + (1 | country)"}, variance="vi", data=data
    )


@pytest.fixture(scope="module")
def pairs():
    return outcomes(8, "ab").design


@pytest.mark.slow
def test_right_engine_for_correlated_effects_stays_inside(pairs):
    checked = lsm.calibrate(pairs, MEDIUM, simulations=60, draws=400, seed=1, progress=False)
    assert checked.calibrated, str(checked)
    assert checked.quantities.to_list() == [
        ("location", "outcomea"),
        ("location", "outcomeb"),
        ("scale", "outcomea"),
        ("scale", "outcomeb"),
        ("correlation", "a, b"),
        ("Joint", "log-likelihood"),
    ]
    assert checked.ecdf_difference().shape == (100, 8)
    assert "\nCorrelation\n" in str(checked)


def altered(design, change):
    """The collapsed engine, with its draws of correlations changed before they are handed over."""
    resolved = resolve_priors(design, MEDIUM)

    def engine(simulated, seed):
        drawn = sample_directly(simulated, resolved, draws=400, seed=seed)
        terms = {
            name: replace(each, **change(each))
            for name, each in split_terms(simulated, drawn).items()
        }
        return join_terms(drawn.flat_location, terms, drawn.importance)

    return engine


def of_other_sign(each):
    return {"kappa": -each.kappa}


def too_narrow(each):
    centre = each.alpha.mean(axis=0)
    return {"alpha": centre + 0.5 * (each.alpha - centre)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "part"),
    [
        (of_other_sign, "correlation"),
        (too_narrow, "scale"),
    ],
)
def test_wrong_engine_for_correlated_effects_falls_out(pairs, change, part):
    engine = altered(pairs, change)
    checked = lsm.calibrate(pairs, MEDIUM, simulations=100, engine=engine, seed=2, progress=False)
    assert not checked.calibrated
    assert checked.pvalues[part].min() < 1e-3
    assert checked.pvalues["location"].min() > 1e-3


def test_new_effects_have_the_covariance_of_the_model():
    """By a matrix of all rows: y of nested groups, at one truth over and over."""
    design = model_of("konstantopoulos2011").design
    resolved = resolve_priors(design, MEDIUM)
    one = draw_priors(design, MEDIUM, resolved, 1, np.random.default_rng(5))
    size = 20_000
    many = one.take(np.zeros(size, dtype=int))
    y = observed_effects(design, many, np.random.default_rng(6))[:, :12]
    covariance = np.diag(design.v)
    for each in split_terms(design, one).values():
        tau2 = np.exp(each.term.table @ each.alpha[0])
        shared = each.term.index[:, None] == each.term.index
        covariance = covariance + shared * tau2[each.term.index]
    covariance = covariance[:12, :12]
    sd = np.sqrt(np.diag(covariance))
    # Five standard errors for some hundred numbers.
    assert (
        np.abs(y.mean(axis=0) - design.X[:12] @ one.flat_location[0]) < 5 * sd / np.sqrt(size)
    ).all()
    error = np.abs(np.cov(y.T) - covariance)
    assert (error < 5 * np.sqrt(2 / size) * np.outer(sd, sd)).all()


def test_truths_of_random_intercepts_are_of_their_prior():
    design = countries().design
    prior = MEDIUM.model_copy(update={"scale_sd": HalfNormal(0.7)})
    rng = np.random.default_rng(1)
    true = draw_priors(design, prior, resolve_priors(design, prior), 20_000, rng)
    random = split_terms(design, true)["study"].random[0]
    # E ω = 0.7 √(2/π) and E ω² = 0.49, to four standard errors: 1.2% of the second.
    assert random.sd.mean() == pytest.approx(
        0.7 * np.sqrt(2 / np.pi), abs=4 * 0.42 / np.sqrt(20_000)
    )
    assert np.mean(random.effect**2) == pytest.approx(0.49, rel=0.05)
    assert unknowns(design, true).shape == (20_000, 1 + 1 + 1 + 8)


@pytest.mark.slow
def test_same_seed_same_ranks_of_correlated_effects(pairs):
    first, again = (
        lsm.calibrate(pairs, MEDIUM, simulations=20, draws=100, seed=1, progress=False)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.refits.ranks, again.refits.ranks)


@pytest.mark.slow
def test_coverage_at_known_correlations(pairs):
    found = lsm.coverage(
        pairs,
        MEDIUM,
        location={"outcomea": 0.3, "outcomeb": -0.2},
        scale={"outcomea": -2, "outcomeb": -1.5},
        correlation={"a, b": 0.2},
        simulations=60,
        draws=400,
        seed=5,
        progress=False,
    )
    table = found.to_dataframe()
    # A correlation goes through Fisher's z and back.
    np.testing.assert_allclose(table["truth"], [0.3, -0.2, -2, -1.5, 0.2], rtol=1e-14)
    # The truth is in the middle of the priors: intervals hold it at least as often as they say.
    assert (table["cover95"] > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 60)).all()
    assert "n = 16" in found.title


KNOWN = {
    "location": {"outcomea": 0, "outcomeb": 0},
    "scale": {"outcomea": 0, "outcomeb": 0},
    "correlation": {"a, b": 0},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": {"outcomea": 0}}, "scale coefficients must be given for 'outcomea', 'outcomeb'"),
        ({"correlation": None}, "correlations must be given for 'a, b'; got none"),
        ({"correlation": {"a, b": 1}}, "not those of a positive definite matrix"),
        ({"df": 4}, "is left out with normal ones; got 4 with study_effects='normal'"),
        ({"engine": "gibbs"}, "engine must be 'collapsed', 'nuts' or a function"),
        ({"draws": 5}, "draws must be a whole number of at least 100"),
    ],
)
def test_wrong_truth_of_correlated_effects_is_refused(pairs, change, message):
    with pytest.raises(lsm.FitError, match=message):
        lsm.coverage(pairs, MEDIUM, **(KNOWN | change), progress=False)


def test_correlations_that_a_model_does_not_have_are_refused():
    design = model_of("konstantopoulos2011").design
    scale = {"district: intrcpt": -3, "district/school: intrcpt": -3}
    scale["district/school: I((year - 1990) / 10)"] = 0
    given = {"location": {"intrcpt": 0}, "scale": scale, "correlation": {"district: a": 0.1}}
    with pytest.raises(lsm.FitError, match="correlations have no place; got 'district: a'"):
        lsm.coverage(design, MEDIUM, **given, progress=False)


def test_random_intercepts_are_said_to_need_nuts():
    design = countries().design
    with pytest.raises(lsm.FitError, match="does not take random intercepts of ln τ²"):
        lsm.calibrate(design, MEDIUM, progress=False)
    known = {"location": {"intrcpt": 0}, "scale": {"intrcpt": -2}}
    with pytest.raises(lsm.FitError, match=r"coverage does not take random intercepts of ln τ²"):
        lsm.coverage(design, MEDIUM, **known, engine=lambda design, seed: None, progress=False)


@pytest.mark.slow
def test_collapsed_engine_is_calibrated_for_nested_groups():
    """A thousand simulations."""
    checked = lsm.calibrate(
        model_of("konstantopoulos2011").design,
        MEDIUM,
        simulations=1000,
        seed=1,
        progress=False,
    )
    assert checked.calibrated, str(checked)
    assert checked.refits.failed == 0


@pytest.mark.slow
def test_collapsed_engine_is_calibrated_for_three_correlated_outcomes():
    """LKJ(2): three correlations, which partial ones make."""
    prior = MEDIUM.model_copy(update={"lkj": 2.0})
    checked = lsm.calibrate(
        outcomes(10, "abc").design, prior, simulations=200, seed=1, progress=False
    )
    assert checked.calibrated, str(checked)


@pytest.mark.slow
def test_nuts_is_calibrated_for_random_intercepts_of_the_scale_part():
    """Two hundred simulations, compiled once."""
    prior = MEDIUM.model_copy(update={"scale_sd": HalfNormal(0.7)})
    checked = lsm.calibrate(
        countries().design,
        prior,
        simulations=200,
        engine="nuts",
        draws=2000,
        seed=7,
        progress=False,
    )
    assert checked.calibrated, str(checked)
