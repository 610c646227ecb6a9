"""More climbs of several scale terms, and where an ordinary optimiser would stop."""

import numpy as np
import pytest

import bayes_lsm as lsm
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.blocks.arrange import arrange_design
from bayes_lsm.likelihood.blocks.blocks import evaluate
from bayes_lsm.reml.diagnostics.check import check
from bayes_lsm.reml.search.maximum import estimate
from bayes_lsm.specification import Specification

from .nasty_nested import simulate
from .peers import gums, schools
from .test_clustered_contrasts import fit_limit


def test_a_good_optimum():
    for model in (schools(), gums("unstructured")):
        fit = model.fit_reml()
        found = fit.check()
        assert found.ok
        assert found.maxima == pytest.approx([0.0], abs=1e-6)
        assert check(fit).reached == found.reached


def test_the_condition_is_that_of_one_term():
    data = lsm.load_dataset("bangertdrowns2004")
    words = Specification("yi ~ 1", "vi", scale={"residual": "~ I(ni / 100)"})
    several = estimate(build_design(words, data), "REML").check()
    one = lsm.LocationScaleModel("yi ~ 1", "~ I(ni / 100)", variance="vi", data=data).fit_reml()
    assert several.condition == pytest.approx(one.check().condition, rel=1e-4)
    with pytest.raises(FitError, match="starts must be at least 1"):
        estimate(build_design(words, data), "REML").check(starts=0)


def test_a_limit_is_not_interior():
    found = fit_limit("~ g").check(starts=10)
    assert not found.interior
    assert not found.ok
    assert "interior:         no" in repr(found)


def test_two_maxima_are_told():
    """A set of the sweep whose likelihood has another maximum, higher by 0.03."""
    fit = estimate(simulate(269), "ML")
    found = fit.check()
    assert fit.rival is not None
    assert not found.unique
    assert found.maxima.max() == pytest.approx(fit.rival_loglik - fit.loglik, abs=1e-5)


def test_at_stop_is_the_fit_unless_a_coefficient_diverges():
    fit = schools().fit_reml()
    assert fit.at_stop.equals(fit.to_dataframe())
    assert evaluate(fit.stop, arrange_design(fit.design), method="REML").value == pytest.approx(
        fit.loglik, abs=1e-10
    )


def test_at_stop_is_what_an_ordinary_optimiser_prints():
    fit = fit_limit("~ g")
    table = fit.at_stop
    alpha = table.loc["scale (d)", "estimate"]
    assert np.isfinite(alpha).all()
    # τ² of kind a is next to nothing there, that of b is right.
    assert alpha["intrcpt"] < -10
    assert np.exp(alpha.sum()) == pytest.approx(fit.terms["d"].tau2.max(), rel=1e-3)
    text = str(lsm.compare(fit, at_stop=True))
    assert "at stop" in text
