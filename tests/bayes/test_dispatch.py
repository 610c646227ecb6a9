"""Every verb takes fits of several scale terms, or says that it does not."""

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

from bayes_lsm import bayes
from bayes_lsm.bayes import BayesFit, ClusteredBayesFit
from bayes_lsm.bayes.cross_validation.loo import psis_loo
from bayes_lsm.bayes.prediction.study_weights import study_weights
from bayes_lsm.errors import FitError

from .levels import bayes_of, model_of


@pytest.fixture(scope="module")
def fit():
    return bayes_of("konstantopoulos2011")


def test_a_fit_of_several_scale_terms_has_all_that_a_fit_of_one_has():
    public = {name for name in dir(BayesFit) if not name.startswith("_")}
    assert not public - set(dir(ClusteredBayesFit)) - set(ClusteredBayesFit.__dataclass_fields__)


@pytest.mark.parametrize("name", ["predict", "blup", "heterogeneity", "probability"])
def test_a_verb_is_the_method_of_its_name(fit, name):
    options = (0.1,) if name == "probability" else ()
    by_verb = getattr(bayes, name)(fit, *options).to_dataframe()
    assert_frame_equal(by_verb, getattr(fit, name)(*options).to_dataframe())


def test_its_own_options_are_passed_on(fit):
    ours = bayes.predict(fit, terms=["district"], level=0.8).to_dataframe()
    assert_frame_equal(ours, fit.predict(terms=["district"], level=0.8).to_dataframe())
    drawn = bayes.true_effects(fit, terms=["district"], seed=3)
    np.testing.assert_array_equal(drawn, fit.true_effects(terms=["district"], seed=3))
    drawn = bayes.new_effects(fit, seed=3)
    np.testing.assert_array_equal(drawn, fit.new_effects(seed=3))
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        bayes.predict(fit, colour="red")


def test_what_is_no_method_is_one_too():
    fit = model_of("konstantopoulos2011").fit_bayes(engine="collapsed", seed=3)
    assert bayes.evidence.evidence(fit) == fit.evidence
    ours = psis_loo(fit, cluster="district/school", progress=False)
    assert ours.elpd == fit.psis_loo(cluster="district/school", progress=False).elpd


def test_what_cannot_be_is_said(fit):
    with pytest.raises(FitError, match="predict_tau takes a fit with one scale term"):
        bayes.predict_tau(fit)
    for asked in (fit.study_weights, lambda: study_weights(fit)):
        with pytest.raises(FitError, match="study_weights is of Student-t study effects"):
            asked()
    for name in (
        "fit_bayes",
        "build_pymc_model",
        "build_latent_pymc_model",
    ):
        with pytest.raises(FitError, match="one scale term and independent effects, got a Multi"):
            getattr(bayes, name)(fit.design)
