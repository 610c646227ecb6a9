"""One fit for every kind of model: its verbs are functions too, and its facts are named alike."""

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

import bayes_lsm as lsm
from bayes_lsm import bayes
from bayes_lsm.bayes.cross_validation.loo import psis_loo
from bayes_lsm.bayes.evidence.marginal_likelihood import evidence
from bayes_lsm.bayes.prediction.study_weights import study_weights
from bayes_lsm.errors import FitError, PriorError

from .levels import bayes_of, model_of

VERBS = ("predict", "predict_tau", "blup", "group_effects", "heterogeneity", "probability")


@pytest.fixture(scope="module")
def fit():
    return bayes_of("konstantopoulos2011")


@pytest.fixture(scope="module")
def plain():
    return lsm.LocationScaleModel.from_file("bcg").fit_bayes(seed=1)


@pytest.mark.parametrize(
    "name", ["predict", "predict_tau", "blup", "group_effects", "heterogeneity", "probability"]
)
def test_a_verb_is_the_method_of_its_name(fit, plain, name):
    options = (0.1,) if name == "probability" else ()
    for one in (fit, plain):
        by_verb = getattr(bayes, name)(one, *options).to_dataframe()
        assert_frame_equal(by_verb, getattr(one, name)(*options).to_dataframe())


def test_its_own_options_are_passed_on(fit):
    ours = bayes.predict(fit, terms=["district"], level=0.8).to_dataframe()
    assert_frame_equal(ours, fit.predict(terms=["district"], level=0.8).to_dataframe())
    drawn = bayes.true_effects(fit, terms=["district"], seed=3)
    np.testing.assert_array_equal(drawn, fit.true_effects(terms=["district"], seed=3))
    drawn = bayes.new_effects(fit, seed=3)
    np.testing.assert_array_equal(drawn, fit.new_effects(seed=3))
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        bayes.predict(fit, colour="red")  # type: ignore[call-arg]


def test_what_is_no_method_is_one_too():
    fit = model_of("konstantopoulos2011").fit_bayes(engine="collapsed", seed=3)
    assert evidence(fit) == fit.evidence
    ours = psis_loo(fit, cluster="district/school", progress=False)
    assert ours.elpd == fit.psis_loo(cluster="district/school", progress=False).elpd


def test_independent_effects_take_the_same_options(plain):
    """Terms, known groups and clusters go down the road of dependent effects, to one answer."""
    (name,) = plain.terms
    ours, theirs = plain.predict(terms=[name]).table, plain.predict().table
    # One way draws of an equal distribution are summed, the other way solved: rounding.
    for column in ("estimate", "pi_lb", "pi_ub", "tau"):
        np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-6)
    with pytest.warns(lsm.ConvergenceWarning, match="Pareto k"):
        one, other = plain.psis_loo(cluster=name), plain.psis_loo()
    np.testing.assert_allclose(one.pointwise, other.pointwise, atol=1e-8)
    with pytest.warns(lsm.ConvergenceWarning, match="Pareto k"):  # two trials at a time
        assert len(plain.psis_loo(cluster=np.arange(13) // 2).pointwise) == 7


def test_what_cannot_be_is_said(fit):
    for asked in (fit.study_weights, lambda: study_weights(fit)):
        with pytest.raises(FitError, match="only effects with the tails of a t are discounted"):
            asked()
    for asked in (
        lambda: bayes.build_latent_pymc_model(fit.design),
        lambda: bayes.fit_bayes(fit.design, true_effects="latent"),
    ):
        with pytest.raises(FitError, match="leave it out: true effects are integrated out"):
            asked()
    with pytest.raises(PriorError, match="the study effects are normal; leave df out"):
        bayes.fit_bayes(fit.design, prior=lsm.priors.Priors(df=4.0))


def test_tau2_is_the_variance_of_each_row(fit, plain):
    """Of one term that of its groups; of several the sum, draw by draw; with slopes a'Da."""
    np.testing.assert_allclose(plain.tau2, plain.terms["residual"].tau2[:, 0], rtol=1e-12)
    terms = fit.terms.values()
    by_term = [np.exp(each.log_tau2(slice(None)))[each.term.index] for each in terms]
    np.testing.assert_allclose(fit.tau2, np.median(sum(by_term), axis=1), rtol=1e-3)
    rng = np.random.default_rng(1)
    slopes = lsm.LocationScaleModel(
        "yi ~ x",
        {"1 + x | lab": "~ 1", "residual": "~ 1"},
        variance="vi",
        data=_labs(rng),
    ).fit_bayes(engine="collapsed", draws=4000, seed=1)
    both, own = slopes.terms.values()
    sd = np.exp(0.5 * both.alpha)
    D = sd[:, :, None] * both.correlation * sd[:, None]
    found = np.einsum("ia,sab,ib->is", both.term.slopes, D, both.term.slopes)
    found += np.exp(own.alpha[:, 0])
    # A median of two draws in the middle, of τ² or of ln τ².
    np.testing.assert_allclose(slopes.tau2, np.median(found, axis=1), rtol=1e-3)


def _labs(rng):
    import pandas as pd

    lab = np.repeat(np.arange(8), 5)
    x = rng.normal(size=40)
    y = (0.4 + 0.5 * rng.normal(size=8)[lab]) + (0.3 + 0.4 * rng.normal(size=8)[lab]) * x
    vi = rng.uniform(0.02, 0.1, 40)
    y += rng.normal(0, np.sqrt(0.05 + vi))
    return pd.DataFrame({"yi": y, "vi": vi, "lab": lab, "x": x})


def test_draws_are_taken_from_every_variable():
    fit = model_of("berkey1998").fit_bayes(engine="collapsed", draws=4000, seed=1)
    few = fit.draws.take(np.array([5, 3, 3999]))
    for name in ("location", "scale", "kappa"):
        flat = getattr(fit.draws, name).reshape(4000, -1)
        np.testing.assert_array_equal(getattr(few, name)[0], flat[[5, 3, 3999]])
    assert few.chains == 1
    assert few.scale_sd is None
    assert few.in_chains(3).location.shape == (3, 1, 2)
    assert few.in_chains(2) is few
