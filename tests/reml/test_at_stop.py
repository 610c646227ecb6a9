"""What an ordinary optimiser prints where it stops."""

import numpy as np
import pytest

import bayes_lsm as lsm

from .peers import schools
from .test_clustered_contrasts import fit_limit


def test_it_is_the_fit_unless_a_coefficient_diverges():
    fit = schools().fit_reml()
    assert fit.at_stop.equals(fit.to_dataframe())
    there = fit.likelihood.evaluate(fit.stop, "REML").value
    assert there == pytest.approx(fit.loglik, abs=1e-10)


def test_it_is_finite_where_a_coefficient_diverges():
    fit = fit_limit("~ g")
    table = fit.at_stop
    alpha = table.loc["scale", "estimate"]
    assert np.isfinite(alpha).all()
    # τ² of kind a is next to nothing there, that of b is right.
    assert alpha["intrcpt"] < -10
    assert np.exp(alpha.sum()) == pytest.approx(fit.terms["d"].tau2.max(), rel=1e-3)
    text = str(lsm.compare(fit, at_stop=True))
    assert "at stop" in text
