"""What priors imply: quantiles known in closed form."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import bayes_lsm as lsm
from bayes_lsm.priors import Flat, HalfNormal, Normal, Priors, from_fold, preset


@pytest.fixture(scope="module")
def model():
    return lsm.LocationScaleModel(
        "yi ~ continent + weeks",
        scale="~ weeks",
        variance="vi",
        data=lsm.load_dataset("preterm_iq"),
        priors=Priors(tau=HalfNormal(5), scale={"weeks": from_fold(3)}),
    )


PROBABILITIES = [0.025, 0.25, 0.5, 0.75, 0.975]


def _close(found, distribution, draws=20_000):
    """The levels of quantiles, to four standard errors."""
    levels = distribution.cdf(np.asarray(found, dtype=float))
    error = 4 * np.sqrt(np.multiply(PROBABILITIES, np.subtract(1, PROBABILITIES)) / draws)
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
    draws = np.exp(said.scale @ model.design.Z[4] / 2)
    np.testing.assert_allclose(said.tau.iloc[4], np.quantile(draws, PROBABILITIES), rtol=1e-2)


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
