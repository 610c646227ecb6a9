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


def _outcomes(data):
    name = "outcome | trial"
    return lsm.LocationScaleModel(
        "yi ~ 0 + outcome",
        {name: "~ 0 + outcome"},
        correlation={name: "unstructured"},
        variance="vi",
        data=data,
    )


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_what_is_held_stays_where_another_effect_is_lost(method):
    """An outcome without variance is independent of the two others: they are a model by themselves.

    The third varies by less than its sampling errors do, and with no correlation that could keep it
    alive.
    """
    rng, k, held = np.random.default_rng(5), 30, {"outcomea": -1.2}
    pair = rng.multivariate_normal([0, 0], [[0.6, 0.2], [0.2, 0.5]], k)
    alone = rng.normal(scale=0.15, size=k)
    both = np.column_stack([np.ones(k), pair])
    alone -= both @ np.linalg.lstsq(both, alone)[0]
    trial, outcome = np.repeat(np.arange(k), 3), np.tile(list("abc"), k)
    y = np.column_stack([pair, alone]).ravel()
    data = pd.DataFrame({"yi": y, "vi": 0.1, "trial": trial, "outcome": outcome})
    with pytest.warns(DivergentScaleWarning, match="scale coefficient outcomec to -inf"):
        fit = _outcomes(data).fit_reml(method=method, fixed=held)
    two = _outcomes(data.query("outcome != 'c'").reset_index(drop=True))
    theirs = two.fit_reml(method=method, fixed=held)
    assert fit.alpha[0] == held["outcomea"]
    assert fit.alpha[2] == -np.inf
    # Both climbs end within 3e-7 standard errors of the maximum.
    assert fit.alpha[1] == pytest.approx(theirs.alpha[1], abs=1e-6)
    assert fit.correlations.loc["a, b", "estimate"] == pytest.approx(
        theirs.correlations.loc["a, b", "estimate"], abs=1e-6
    )
    np.testing.assert_allclose(fit.beta[:2], theirs.beta, atol=1e-7)
    np.testing.assert_allclose(fit.vcov_location[:2, :2], theirs.vcov_location, atol=1e-7)
    # What asks for Σ, or for refits, at the limit finds there what is held.
    robust, other = (each.robust(kind="CR0").location["se"] for each in (fit, theirs))
    np.testing.assert_allclose(robust[:2], other, rtol=1e-6)
    kept = outcome != "c"
    np.testing.assert_allclose(
        fit.blup().table["estimate"][kept], theirs.blup().table["estimate"], atol=1e-6
    )
