"""What priors imply: quantiles known in closed form."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import bayes_lsm as lsm
from bayes_lsm.bayes import prior_predictive
from bayes_lsm.priors import Flat, HalfNormal, Normal, Priors, from_fold, preset

from .levels import as_dependent, model_of
from .test_calibration import countries, outcomes


@pytest.fixture(scope="module")
def model():
    return lsm.LocationScaleModel(
        "yi ~ continent + weeks",
        scale="~ weeks",
        variance="vi",
        data=lsm.load_dataset("preterm_iq"),
        priors=Priors(tau=HalfNormal(5), scale={"weeks": from_fold(3)}),
    )


PROBABILITIES = np.array([0.025, 0.25, 0.5, 0.75, 0.975])
DRAWS = 20_000


def _close(found, distribution, draws=DRAWS):
    """The levels of quantiles, to four standard errors."""
    levels = distribution.cdf(np.asarray(found, dtype=float))
    error = 4 * np.sqrt(PROBABILITIES * (1 - PROBABILITIES) / draws)
    assert (np.abs(levels - PROBABILITIES) < error).all()


def test_the_table_has_the_quantiles_of_the_priors(model):
    table = model.prior_predictive(draws=20_000, seed=3).table
    _close(table.loc["tau", "average study"], stats.halfnorm(scale=5))
    slope = from_fold(3)
    _close(np.log(table.loc["tau_ratio", "weeks, per SD"]), stats.norm(0, slope.sd))
    y, v = model.design.y, model.design.v
    unit = max(y.std(ddof=1), np.sqrt(v.mean()))
    _close(table.loc["effect", "mean of average studies"], stats.norm(y.mean(), 2.5 * unit))


def test_effects_add_heterogeneity_and_sampling_error():
    data = lsm.load_dataset("preterm_iq").assign(vi=9.0)
    model = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data)
    tau = Normal(4, 1e-9)  # τ is e² = 7.39
    priors = Priors(location={"intrcpt": Normal(1, 2)}, scale={"intrcpt": tau})
    table = model.prior_predictive(prior=priors, draws=20_000, seed=1).table
    _close(table.loc["effect", "true, of any study"], stats.norm(1, np.hypot(2, np.exp(2))))
    spread = np.sqrt(4 + np.exp(4) + 9)
    _close(table.loc["effect", "observed, of any study"], stats.norm(1, spread))


def test_tau_of_each_study(model):
    said = model.prior_predictive(draws=2000, seed=1)
    assert said.tau.shape == (37, 5)
    draws = np.exp(said.draws.flat_scale @ model.design.Z[4] / 2)
    np.testing.assert_allclose(said.tau.iloc[4], np.quantile(draws, PROBABILITIES), rtol=1e-2)
    assert said.tau.index.name == "study"


def test_levels_are_compared_with_the_first():
    model = lsm.LocationScaleModel(
        "yi ~ 1", scale="~ 0 + continent", variance="vi", data=lsm.load_dataset("preterm_iq")
    )
    table = model.prior_predictive(prior=Priors(tau=HalfNormal(2)), draws=20_000, seed=1).table
    # The ratio of two half-normals is half-Cauchy.
    _close(table.loc["tau_ratio", "continentOther / continentEurope"], stats.halfcauchy())


def test_it_prints_and_is_reproducible(model):
    said = model.prior_predictive(prior=preset("slides"), seed=5)
    assert said.to_string() == model.prior_predictive(prior="slides", seed=5).to_string()
    text = str(said)
    for part in ("Ratio of τ", "weeks, per SD", "97.5%", "preset 'slides'", "e+"):
        assert part in text
    assert "weeks, per SD" in said.to_html()
    assert "weeks, per SD" in said.to_latex()
    one = said.to_string(digits=1)
    assert len(one) < len(said.to_string(digits=5))


def test_a_preset_by_name_takes_the_measure_of_the_model():
    model = lsm.LocationScaleModel(
        "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"), priors=Priors(measure="RR")
    )
    said = model.prior_predictive(prior="robma", seed=1)
    _close(said.table.loc["tau", "average study"], stats.halfnorm(scale=0.5), draws=10_000)
    bare = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"))
    with pytest.raises(lsm.PriorError, match="needs the effect measure"):
        bare.prior_predictive(prior="robma")


def test_what_cannot_be_shown_is_refused(model):
    with pytest.raises(lsm.PriorError, match="a flat location prior says nothing"):
        model.prior_predictive(prior=Priors(location={"weeks": Flat()}))
    with pytest.raises(lsm.FitError, match="draws must be a whole number of at least 100"):
        model.prior_predictive(draws=5)


def test_no_pymc_is_loaded():
    code = (
        "import sys, bayes_lsm as lsm\n"
        "m = lsm.LocationScaleModel.from_file('bcg')\n"
        "str(m.prior_predictive(seed=1))\n"
        "sys.exit('pymc' in sys.modules or 'arviz' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Several scale terms

PRIORS = Priors(location={"*": Normal(0, 1)}, scale={"*": Normal(-2, 1)})


def said_of(model, prior=PRIORS):
    return model.prior_predictive(prior=prior, draws=DRAWS, seed=3)


def test_each_term_has_the_quantiles_of_its_priors():
    table = said_of(model_of("konstantopoulos2011")).table
    _close(2 * np.log(table.loc[("tau", "district, average group")]), stats.norm(-2, 1))
    term = model_of("konstantopoulos2011").design.terms[1]
    year = term.Z[:, 0, 1]
    level = stats.norm(-2 - 2 * year.mean(), np.hypot(1, year.mean()))
    _close(2 * np.log(table.loc[("tau", "district/school, average group")]), level)
    slope = stats.norm(-2 * year.std(ddof=1), year.std(ddof=1))
    ratio = table.loc[("tau_ratio", "district/school, I((year - 1990) / 10), per SD")]
    _close(2 * np.log(ratio), slope)
    _close(table.loc[("effect", "mean of average rows")], stats.norm(0, 1))


def test_levels_add_up_in_true_and_observed_effects():
    """With τ known: a variance of each level, and that of the sampling error."""
    data = lsm.load_dataset("konstantopoulos2011").assign(vi=0.5)
    model = lsm.LocationScaleModel(
        "yi ~ 1", {"district": "~ 1", "district/school": "~ 1"}, variance="vi", data=data
    )
    known = {"district: intrcpt": np.log(2), "district/school: intrcpt": np.log(0.3)}
    priors = Priors(
        location={"intrcpt": Normal(1, 1)},
        scale={name: Normal(value, 1e-9) for name, value in known.items()},
    )
    table = said_of(model, priors).table
    _close(table.loc[("effect", "true, of any row")], stats.norm(1, np.sqrt(3.3)))
    _close(table.loc[("effect", "observed, of any row")], stats.norm(1, np.sqrt(3.8)))
    total = table.loc[("tau", "total, any row")]
    np.testing.assert_allclose(total, np.sqrt(2.3), rtol=1e-6)


def test_correlations_are_those_of_lkj():
    """Each of the three is 2 Beta(η + ½, η + ½) − 1."""
    table = said_of(outcomes(10, "abc"), PRIORS.model_copy(update={"lkj": 2.0})).table
    marginal = stats.beta(2.5, 2.5, loc=-1, scale=2)
    for pair in ("a, b", "a, c", "b, c"):
        _close(table.loc[("correlation", pair)], marginal)
    _close(2 * np.log(table.loc[("tau", "outcomec")]), stats.norm(-2, 1))
    ratio = table.loc[("tau_ratio", "outcomeb / outcomea")]
    _close(2 * np.log(ratio), stats.norm(0, np.sqrt(2)))


def test_a_row_has_the_variance_of_its_own_effect():
    """τ² of the other outcomes may be of any size."""
    priors = {"outcomea": -2.0, "outcomeb": 0.0, "outcomec": 2.0}
    scale = {name: Normal(value, 1e-9) for name, value in priors.items()}
    said = said_of(outcomes(10, "abc"), Priors(location={"*": Normal(0, 1e-9)}, scale=scale))
    total = said.table.loc[("tau", "total, any row")].to_numpy()
    np.testing.assert_allclose(total, np.exp([-1, -1, 0, 1, 1]), rtol=1e-6)


def test_random_intercepts_spread_tau():
    prior = PRIORS.model_copy(update={"scale_sd": HalfNormal(0.5)})
    said = said_of(countries(), prior)
    _close(said.table.loc[("scale_sd", "country")], stats.halfnorm(scale=0.5))
    average = said.table.loc[("tau", "average group")]
    _close(2 * np.log(average), stats.norm(-2, 1))
    spread = np.log(said.table.loc[("tau", "any group"), "97.5%"])
    # SDs of ln τ of 0.56 and 0.50 say 0.12, with heavier tails more; the error is about 0.015.
    assert spread > np.log(average["97.5%"]) + 0.06
    assert said.tau.shape == (32, 5)
    # Studies of a country have the same τ.
    np.testing.assert_array_equal(said.tau.iloc[0], said.tau.iloc[3])
    assert not np.allclose(said.tau.iloc[0], said.tau.iloc[4])


def test_tau_of_each_group_is_that_of_its_coefficients():
    said = said_of(model_of("konstantopoulos2011"))
    term = said.drawn.terms["district/school"]
    draws = np.exp(term.alpha @ term.term.Z[5, 0] / 2)
    own = said.tau.loc["district/school"].iloc[5]
    np.testing.assert_allclose(own, np.quantile(draws, PROBABILITIES), rtol=1e-3)
    assert said.tau.index.names == ["grouping", "group", "effect"]


def test_scores_of_individuals_vary_within_studies():
    """The residual is in what is observed, and in no true effect."""
    table = said_of(model_of("preterm_one_stage"), Priors("weakly_informative")).table
    true = table.loc[("effect", "true, of any row")]
    observed = table.loc[("effect", "observed, of any row")]
    assert np.ptp(observed) > np.ptp(true)
    assert ("tau", "total, any row") not in table.index


@pytest.mark.parametrize("name", ["konstantopoulos2011", "berkey1998"])
def test_observed_effects_are_those_that_pymc_draws(name):
    import pymc as pm

    model = model_of(name)
    said = said_of(model)
    with lsm.LocationScaleModel.from_file(name).to_pymc(prior=PRIORS):
        drawn = pm.sample_prior_predictive(4000, random_seed=1)["prior_predictive"]["effect"]
    # One row of each draw, as in the table; five standard errors of the smaller sample.
    rows = np.random.default_rng(1).integers(drawn.shape[2], size=4000)
    theirs = drawn.to_numpy()[0][np.arange(4000), rows]
    ours = said.table.loc[("effect", "observed, of any row")].to_numpy()
    error = 5 * np.sqrt(PROBABILITIES * (1 - PROBABILITIES) / 4000)
    assert (np.abs([np.mean(theirs <= q) for q in ours] - PROBABILITIES) < error).all()


def test_correlations_print_and_are_reproducible():
    said = said_of(model_of("berkey1998"))
    assert said.to_string() == said_of(model_of("berkey1998")).to_string()
    for part in ("Correlation", "Ratio of τ", "97.5%", "20000 draws from the priors, seed 3"):
        assert part in str(said)
    assert "AL, PD" in said.to_html()


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (Priors(location={"*": Flat()}, scale={"*": Normal(0, 1)}), "a flat location prior says"),
        (Priors(scale={"weeks": Normal(0, 1)}), "a scale prior is given for 'weeks'"),
        (Priors(lkj=2), "the model has no correlated effects; leave lkj out"),
    ],
)
def test_what_several_terms_cannot_show_is_refused(prior, message):
    with pytest.raises(lsm.PriorError, match=message):
        model_of("konstantopoulos2011").prior_predictive(prior=prior)


def test_one_road_says_what_the_other_says():
    """Dependent effects that are none: the same quantiles under the names of groups and rows."""
    design = lsm.LocationScaleModel(
        "yi ~ ablat", "~ ablat", variance="vi", data=lsm.load_dataset("bcg")
    ).design
    one = prior_predictive(design, prior=PRIORS, draws=500, seed=1)
    other = prior_predictive(as_dependent(design), prior=PRIORS, draws=500, seed=1)
    # The same draws: only the order of sums may differ.
    np.testing.assert_allclose(one.table, other.table, rtol=1e-12)
    np.testing.assert_allclose(one.tau, other.tau, rtol=1e-12)
    assert list(one.table.index.get_level_values("of"))[:2] == ["average study", "any study"]
    assert list(other.table.index.get_level_values("of"))[:2] == ["average group", "any group"]
