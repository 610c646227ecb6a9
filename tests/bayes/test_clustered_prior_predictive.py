"""What priors of several scale terms imply: closed forms, and draws of the PyMC model."""

import numpy as np
import pytest
from scipy import stats

import bayes_lsm as lsm
from bayes_lsm.priors import Flat, HalfNormal, Normal, Priors

from .levels import model_of
from .test_clustered_calibration import countries, outcomes

DRAWS = 20_000
PROBABILITIES = np.array([0.025, 0.25, 0.5, 0.75, 0.975])
PRIORS = Priors(location={"*": Normal(0, 1)}, scale={"*": Normal(-2, 1)})


def close(found, distribution):
    """The levels of quantiles, to four standard errors."""
    levels = distribution.cdf(np.asarray(found, dtype=float))
    error = 4 * np.sqrt(PROBABILITIES * (1 - PROBABILITIES) / DRAWS)
    assert (np.abs(levels - PROBABILITIES) < error).all()


def said_of(model, prior=PRIORS):
    return model.prior_predictive(prior=prior, draws=DRAWS, seed=3)


def test_the_table_has_the_quantiles_of_the_priors():
    table = said_of(model_of("konstantopoulos2011")).table
    close(2 * np.log(table.loc[("tau", "district, average group")]), stats.norm(-2, 1))
    term = model_of("konstantopoulos2011").design.terms[1]
    year = term.Z[:, 0, 1]
    level = stats.norm(-2 - 2 * year.mean(), np.hypot(1, year.mean()))
    close(2 * np.log(table.loc[("tau", "district/school, average group")]), level)
    slope = stats.norm(-2 * year.std(ddof=1), year.std(ddof=1))
    ratio = table.loc[("tau_ratio", "district/school, I((year - 1990) / 10), per SD")]
    close(2 * np.log(ratio), slope)
    close(table.loc[("effect", "mean of average rows")], stats.norm(0, 1))


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
    close(table.loc[("effect", "true, of any row")], stats.norm(1, np.sqrt(3.3)))
    close(table.loc[("effect", "observed, of any row")], stats.norm(1, np.sqrt(3.8)))
    total = table.loc[("tau", "total, any row")]
    np.testing.assert_allclose(total, np.sqrt(2.3), rtol=1e-6)


def test_correlations_are_those_of_lkj():
    """Each of the three is 2 Beta(η + ½, η + ½) − 1."""
    table = said_of(outcomes(10, "abc"), PRIORS.model_copy(update={"lkj": 2.0})).table
    marginal = stats.beta(2.5, 2.5, loc=-1, scale=2)
    for pair in ("a, b", "a, c", "b, c"):
        close(table.loc[("correlation", f"outcome | trial: {pair}")], marginal)
    close(2 * np.log(table.loc[("tau", "outcome | trial, outcomec")]), stats.norm(-2, 1))
    ratio = table.loc[("tau_ratio", "outcome | trial, outcomeb / outcomea")]
    close(2 * np.log(ratio), stats.norm(0, np.sqrt(2)))


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
    close(said.table.loc[("scale_sd", "study: country")], stats.halfnorm(scale=0.5))
    average = said.table.loc[("tau", "study, average group")]
    close(2 * np.log(average), stats.norm(-2, 1))
    spread = np.log(said.table.loc[("tau", "study, any group"), "97.5%"])
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


def test_it_prints_and_is_reproducible():
    said = said_of(model_of("berkey1998"))
    assert said.to_string() == said_of(model_of("berkey1998")).to_string()
    for part in ("Correlation", "Ratio of τ", "97.5%", "20000 draws from the priors, seed 3"):
        assert part in str(said)
    assert "outcome | trial: AL, PD" in said.to_html()


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (Priors(location={"*": Flat()}, scale={"*": Normal(0, 1)}), "a flat location prior says"),
        (Priors(scale={"weeks": Normal(0, 1)}), "a scale prior is given for 'weeks'"),
        (Priors(lkj=2), "the model has no correlated effects; leave lkj out"),
    ],
)
def test_what_says_nothing_is_refused(prior, message):
    with pytest.raises(lsm.PriorError, match=message):
        model_of("konstantopoulos2011").prior_predictive(prior=prior)
