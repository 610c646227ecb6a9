"""Parity with metafor 3.8.1: tests/reference/metafor.json, made by metafor.R beside it.

Measured agreement over all cases: log-likelihoods to 4e-13, coefficients to 1e-6 relative and
mostly to 1e-8, QE to 5e-15. metafor is the less exact side: its optimisers see no derivatives and
stop within about 1e-8 (relative); its scale covariance comes from numerical second derivatives.
"""

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from bayes_lsm.datasets import load_dataset
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import DivergentScaleWarning
from bayes_lsm.reml import fit_reml
from bayes_lsm.specification import Specification

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "metafor.json").read_text(encoding="utf-8")
)["cases"]

# Case → terms whose coefficient has no finite estimate, and where it goes.
DIVERGING = {
    "preterm_continent": {"continentOther": -np.inf},
    "raudenbush_two_moderators": {"testerblind": -np.inf},
}
FINITE = [name for name in REFERENCE if name not in DIVERGING]
CONSTANT = [name for name, case in REFERENCE.items() if case["scale"] == "~ 1"]
METHODS = pytest.mark.parametrize("method", ["REML", "ML"])

# An optimum that metafor has to within δ gives standard errors, tests and τ² to within a few δ;
# measured 1e-6 or better, but for a coefficient that is 0 to three digits (0.0002 of it).
OPTIMUM = 1e-5


@cache
def fitted(name, method):
    case = REFERENCE[name]
    specification = Specification(
        location=case["location"], scale=case["scale"], effect="yi", variance="vi"
    )
    design = build_design(specification, load_dataset(case["dataset"]))
    with warnings.catch_warnings():
        if name in DIVERGING:
            warnings.simplefilter("ignore", DivergentScaleWarning)
        return fit_reml(design, method=method)


def column(rows, name):
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows])


def assert_same_tables(ours, theirs, names=None):
    assert [term.replace(" ", "") for term in ours.index] == [
        row["term"].replace(" ", "") for row in theirs
    ]
    wanted = np.isin(ours.index, names) if names is not None else np.ones(len(ours), bool)
    se = column(theirs, "se")[wanted]
    for name in ours.columns:
        there = column(theirs, name)[wanted]
        # A coefficient and its bounds are as exact as their standard error is large.
        unit = se if name in ("estimate", "ci_lb", "ci_ub") else 1.0
        difference = np.abs(ours[name].to_numpy()[wanted] - there) / unit
        assert (difference <= OPTIMUM * np.maximum(1.0, np.abs(there / unit))).all(), name
    estimate = column(theirs, "estimate")[wanted]
    np.testing.assert_allclose(ours["estimate"][wanted], estimate, rtol=1e-4)


def test_every_case_is_tested_and_every_test_has_a_case():
    assert set(DIVERGING) < set(REFERENCE)
    for name, case in REFERENCE.items():
        assert set(case) == {"dataset", "location", "scale", "REML", "ML"}, name
        for method in ("REML", "ML"):
            assert case[method]["flat"] == (name in DIVERGING), name
            assert ("constant" in case[method]) == (name in CONSTANT), name
    datasets = {"bangertdrowns2004", "bcg", "preterm_iq", "raudenbush1985"}
    assert {case["dataset"] for case in REFERENCE.values()} == datasets


@METHODS
@pytest.mark.parametrize("name", REFERENCE)
def test_likelihood_criteria_and_q(name, method):
    fit, theirs = fitted(name, method), REFERENCE[name][method]
    assert fit.design.n_studies == theirs["k"]
    assert fit.loglik == pytest.approx(theirs["logLik"], abs=1e-6)
    # Never below: metafor's is a point on our surface, or on its way to our limit.
    assert fit.loglik > theirs["logLik"] - 1e-11
    for ours, name_there in ((fit.aic, "AIC"), (fit.bic, "BIC"), (fit.aicc, "AICc")):
        assert ours == pytest.approx(theirs[name_there], abs=2e-6)
    # Cochran's Q has a closed form: rounding only.
    assert fit.qe.statistic == pytest.approx(theirs["QE"], rel=1e-12)
    assert fit.qe.df == theirs["QEdf"]
    assert fit.qe.pval == pytest.approx(theirs["QEp"], rel=1e-9)


@METHODS
@pytest.mark.parametrize("name", REFERENCE)
def test_location(name, method):
    fit, theirs = fitted(name, method), REFERENCE[name][method]
    assert_same_tables(fit.location, theirs["location"])
    covariance = np.array(theirs["vcov_location"])
    atol = OPTIMUM * np.abs(covariance).max()
    np.testing.assert_allclose(fit.vcov_location, covariance, rtol=OPTIMUM, atol=atol)
    assert fit.qm.statistic == pytest.approx(theirs["QM"], rel=OPTIMUM)
    assert fit.qm.df == theirs["QMdf"]
    # Relative errors of far tails are those of the statistic, times its size.
    assert fit.qm.pval == pytest.approx(theirs["QMp"], rel=1e-3, abs=1e-12)


@METHODS
@pytest.mark.parametrize("name", FINITE)
def test_scale(name, method):
    fit, theirs = fitted(name, method), REFERENCE[name][method]
    assert fit.divergence is None
    assert fit.converged
    if (name, method) == ("bcg", "REML"):
        # The slope is -0.0007 with SE 0.08: here numDeriv's step is wrong by 1e-4.
        np.testing.assert_allclose(fit.scale["se"], column(theirs["scale"], "se"), rtol=1e-3)
        np.testing.assert_allclose(fit.alpha, column(theirs["scale"], "estimate"), rtol=1e-4)
        return
    assert_same_tables(fit.scale, theirs["scale"])
    covariance = np.array(theirs["vcov_scale"])
    atol = OPTIMUM * np.abs(covariance).max()
    np.testing.assert_allclose(fit.vcov_scale, covariance, rtol=OPTIMUM, atol=atol)
    np.testing.assert_allclose(fit.tau2, theirs["tau2"], rtol=OPTIMUM)
    assert fit.qs.statistic == pytest.approx(theirs["QS"], rel=OPTIMUM)
    assert fit.qs.df == theirs["QSdf"]
    assert fit.qs.pval == pytest.approx(theirs["QSp"], rel=1e-4)


@METHODS
@pytest.mark.parametrize("name", DIVERGING)
def test_where_metafor_stops_on_its_way_to_infinity(name, method):
    fit, theirs = fitted(name, method), REFERENCE[name][method]
    assert fit.divergence.terms == DIVERGING[name]
    finite = [term for term in fit.scale.index if term not in DIVERGING[name]]
    estimate = dict(zip(fit.scale.index, column(theirs["scale"], "estimate"), strict=True))
    np.testing.assert_allclose(
        fit.scale["estimate"][finite], [estimate[term] for term in finite], rtol=1e-4
    )
    for term, infinite in DIVERGING[name].items():
        assert fit.scale.loc[term, "estimate"] == infinite
        assert fit.scale.loc[term].drop("estimate").isna().all()
        assert estimate[term] < -30
    assert np.isnan(fit.qs.statistic)
    np.testing.assert_allclose(fit.tau2, theirs["tau2"], rtol=OPTIMUM, atol=1e-12)
    # By default metafor stops early; then its Hessian can be inverted, but estimates are coarse:
    # they have the optimiser's tolerance, 1e-10 of the log-likelihood, that is 1e-4 of an SE.
    default = {row["term"]: row for row in theirs["by_default"]}
    for term in finite:
        there = default[term]
        assert fit.scale.loc[term, "estimate"] == pytest.approx(
            there["estimate"], abs=1e-3 * there["se"]
        )
        assert fit.scale.loc[term, "se"] == pytest.approx(there["se"], rel=1e-2)


@METHODS
@pytest.mark.parametrize("name", CONSTANT)
def test_constant_heterogeneity(name, method):
    theirs = REFERENCE[name][method]["constant"]
    fit = fitted(name, method)
    found = fit.heterogeneity()
    # Fisher scoring ends where τ² changes by less than 1e-14, but converges linearly: 1e-8 of it.
    for ours, name_there in (
        (found.tau2, "tau2"),
        (found.se_tau2, "se_tau2"),
        (found.I2, "I2"),
        (found.H2, "H2"),
    ):
        assert ours == pytest.approx(theirs[name_there], rel=1e-7), name_there
    assert found.typical_variance == pytest.approx(theirs["vt"], rel=1e-12)
    assert np.isnan(found.R2) == (theirs["R2"] is None)
    if theirs["R2"] is not None:
        # A difference of two τ², in per cent.
        assert abs(found.R2 - theirs["R2"]) < 1e-5
    assert fit.loglik == pytest.approx(theirs["logLik"], abs=1e-10)
    assert fit.qe.statistic == pytest.approx(theirs["QE"], rel=1e-12)
    assert_same_tables(fit.location, theirs["location"])
