"""Calibration of the engines for several scale terms, and coverage at a known truth."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.bayes.calibration.clustered_replications import Clusters, observed_effects
from bayes_lsm.bayes.engines.collapsed import sample_collapsed
from bayes_lsm.bayes.prior_draws import draw_priors
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.term_draws import join_terms, split_terms
from bayes_lsm.priors import HalfNormal, Normal, Priors

from .levels import model_of

# What a meta-analyst might believe of standardised mean differences.
MODERATE = Priors(location={"*": Normal(0, 1)}, scale={"*": Normal(-2, 1)})


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
def small():
    return outcomes(8, "ab").design


def test_right_engine_stays_inside(small):
    checked = lsm.calibrate(small, MODERATE, simulations=60, draws=400, seed=1, progress=False)
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
    resolved = resolve_priors(design, MODERATE)

    def engine(simulated, seed):
        drawn = sample_collapsed(simulated, resolved, draws=400, seed=seed)
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


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (of_other_sign, "correlation"),
        (too_narrow, "scale"),
    ],
)
def test_wrong_engine_falls_out(small, change, part):
    engine = altered(small, change)
    checked = lsm.calibrate(small, MODERATE, simulations=100, engine=engine, seed=2, progress=False)
    assert not checked.calibrated
    assert checked.pvalues[part].min() < 1e-3
    assert checked.pvalues["location"].min() > 1e-3


def test_new_effects_have_the_covariance_of_the_model():
    """By a matrix of all rows: y of nested groups, at one truth over and over."""
    design = model_of("konstantopoulos2011").design
    resolved = resolve_priors(design, MODERATE)
    one = draw_priors(design, MODERATE, resolved, 1, np.random.default_rng(5))
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
    prior = MODERATE.model_copy(update={"scale_sd": HalfNormal(0.7)})
    rng = np.random.default_rng(1)
    true = draw_priors(design, prior, resolve_priors(design, prior), 20_000, rng)
    random = split_terms(design, true)["study"].random[0]
    # E ω = 0.7 √(2/π) and E ω² = 0.49, to four standard errors: 1.2% of the second.
    assert random.sd.mean() == pytest.approx(
        0.7 * np.sqrt(2 / np.pi), abs=4 * 0.42 / np.sqrt(20_000)
    )
    assert np.mean(random.effect**2) == pytest.approx(0.49, rel=0.05)
    world = Clusters(design, true, None)
    assert world.truth.shape == (20_000, len(world.names)) == (20_000, 1 + 1 + 1 + 8)


def test_same_seed_same_ranks(small):
    first, again = (
        lsm.calibrate(small, MODERATE, simulations=20, draws=100, seed=1, progress=False)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.refits.ranks, again.refits.ranks)


def test_coverage_at_a_known_truth(small):
    found = lsm.coverage(
        small,
        MODERATE,
        location={"outcomea": 0.3, "outcomeb": -0.2},
        scale={"outcomea": -2, "outcomeb": -1.5},
        correlation={"a, b": 0.2},
        simulations=60,
        draws=400,
        seed=5,
        progress=False,
    )
    table = found.to_dataframe()
    np.testing.assert_array_equal(table["truth"], [0.3, -0.2, -2, -1.5, 0.2])
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
        ({"df": 4}, "df is of Student-t study effects, which a Multivariate .* does not have"),
        ({"engine": "gibbs"}, "engine must be 'collapsed', 'nuts' or a function"),
        ({"draws": 5}, "draws must be a whole number of at least 100"),
    ],
)
def test_wrong_truth_is_refused(small, change, message):
    with pytest.raises(lsm.FitError, match=message):
        lsm.coverage(small, MODERATE, **(KNOWN | change), progress=False)


def test_correlations_that_a_model_does_not_have_are_refused():
    design = model_of("konstantopoulos2011").design
    scale = {"district: intrcpt": -3, "district/school: intrcpt": -3}
    scale["district/school: I((year - 1990) / 10)"] = 0
    given = {"location": {"intrcpt": 0}, "scale": scale, "correlation": {"district: a": 0.1}}
    with pytest.raises(lsm.FitError, match="correlations have no place; got 'district: a'"):
        lsm.coverage(design, MODERATE, **given, progress=False)


def test_random_intercepts_are_said_to_need_nuts():
    design = countries().design
    with pytest.raises(lsm.FitError, match=r"random intercepts of ln τ² need engine='nuts'"):
        lsm.calibrate(design, MODERATE, progress=False)
    known = {"location": {"intrcpt": 0}, "scale": {"intrcpt": -2}}
    with pytest.raises(lsm.FitError, match=r"coverage does not take random intercepts of ln τ²"):
        lsm.coverage(design, MODERATE, **known, engine=lambda design, seed: None, progress=False)


@pytest.mark.slow
def test_collapsed_engine_is_calibrated_for_nested_groups():
    """A thousand simulations."""
    checked = lsm.calibrate(
        model_of("konstantopoulos2011").design, MODERATE, simulations=1000, seed=1, progress=False
    )
    assert checked.calibrated, str(checked)
    assert checked.refits.failed == 0


@pytest.mark.slow
def test_collapsed_engine_is_calibrated_for_three_correlated_outcomes():
    """LKJ(2): three correlations, which partial ones make."""
    prior = MODERATE.model_copy(update={"lkj": 2.0})
    checked = lsm.calibrate(
        outcomes(10, "abc").design, prior, simulations=200, seed=1, progress=False
    )
    assert checked.calibrated, str(checked)


@pytest.mark.slow
def test_nuts_is_calibrated_for_random_intercepts_of_the_scale_part():
    """Two hundred simulations, compiled once."""
    prior = MODERATE.model_copy(update={"scale_sd": HalfNormal(0.7)})
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
