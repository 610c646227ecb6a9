"""Limits of several scale terms in which groups lose some of their correlated effects."""

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.errors import DivergentScaleWarning
from bayes_lsm.likelihood.blocks.arrange import arrange_design
from bayes_lsm.likelihood.blocks.blocks import evaluate
from bayes_lsm.likelihood.blocks.correlation_matrices import kappa_of


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_a_compound_symmetric_correlation_keeps_its_range_when_an_effect_is_lost(method):
    """Two outcomes pull ρ to −0.9 and the third has no variance: ρ of three stays above −1/2."""
    rng = np.random.default_rng(3)
    k = 40
    pair = rng.multivariate_normal([0, 0], [[1, -0.9], [-0.9, 1]], size=k)
    u = np.column_stack([pair, np.zeros(k)])
    # The third varies by less than its sampling errors do.
    noise = rng.normal(size=(k, 3)) * np.sqrt(0.1) * np.array([1.0, 1.0, 0.5])
    data = pd.DataFrame(
        {
            "yi": (u + noise).ravel(),
            "vi": 0.1,
            "trial": np.repeat(np.arange(k), 3),
            "outcome": np.tile(list("abc"), k),
        }
    )
    name = "outcome | trial"
    model = lsm.LocationScaleModel(
        "yi ~ 0 + outcome",
        {name: "~ 0 + outcome"},
        correlation={name: "compound_symmetric"},
        variance="vi",
        data=data,
    )
    with pytest.warns(DivergentScaleWarning):
        fit = model.fit_reml(method=method)
    each = fit.terms[name]
    assert each.alpha[2] == -np.inf
    assert each.correlation[0, 1] == pytest.approx(-0.5, abs=1e-9)
    assert fit.correlations[["ci_lb", "ci_ub"]].isna().all(axis=None)
    assert np.isfinite(np.diag(each.vcov)[:2]).all()
    assert any("border" in note for note in fit.notes)
    # It is the supremum: the whole model comes as near to it from below as one likes.
    whole = arrange_design(model.design)
    near = [
        evaluate(
            np.r_[each.alpha[:2], log_tau2, kappa_of(rho, 3, "compound_symmetric")],
            whole,
            method=method,
        ).value
        for log_tau2, rho in ((-15.0, -0.49), (-25.0, -0.49999), (-30.0, -0.4999999))
    ]
    assert near[0] < near[1] < near[2] < fit.loglik
    assert near[2] == pytest.approx(fit.loglik, abs=1e-4)
