"""The likelihood of several scale terms against rma.mv, nlme's lme, glmmTMB and the slides.

The numbers, and how far each is good, are in tests/reference/multilevel.R.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bayes_lsm.datasets import load_dataset
from bayes_lsm.likelihood.blocks.blocks import BlockTerm, arrange, ascend, evaluate
from bayes_lsm.likelihood.rows import closed_form

REFERENCE = Path(__file__).parents[1] / "reference"
THERE = json.loads((REFERENCE / "multilevel.json").read_text())
SLIDE = json.loads((REFERENCE / "slides.json").read_text())["one_stage_multilevel"]


def intercept(labels):
    """A term with one variance, of the groups that labels tell apart."""
    groups = pd.factorize(labels)[0]
    return BlockTerm(groups, np.ones((groups.max() + 1, 1)))


def schools(X, terms):
    d = load_dataset("konstantopoulos2011")
    decade = (d["year"].to_numpy() - 1990) / 10
    X = np.column_stack([np.ones(56), decade][:X])
    return d["yi"].to_numpy(), X, tuple(intercept(d[each]) for each in terms), d["vi"].to_numpy()


def crimes(*, moderators=False, rho=0.0):
    d = load_dataset("assink2016")
    X = np.ones((100, 1))
    if moderators:
        kinds = [d["deltype"] == kind for kind in ("overt", "covert")]
        X = np.column_stack([X, d["year"], *kinds]).astype(float)
    v, study = d["vi"].to_numpy(), d["study"].to_numpy()
    V = v
    if rho:
        V = np.where(study[:, None] == study, rho * np.sqrt(np.outer(v, v)), 0.0)
        np.fill_diagonal(V, v)
    return d["yi"].to_numpy(), X, (intercept(study), intercept(d["id"])), V


def gums(correlation, common=False, year=False):
    """Rows PD, AL of each trial; effects and columns of X in metafor's order AL, PD."""
    d = load_dataset("berkey1998")
    outcome = np.column_stack([d["outcome"] == "AL", d["outcome"] == "PD"]).astype(float)
    trial = d["trial"].to_numpy() - 1
    Z = np.tile(np.ones((2, 1)) if common else np.eye(2), (5, 1, 1))
    V = np.zeros((10, 10))
    for t in range(5):
        V[2 * t : 2 * t + 2, 2 * t : 2 * t + 2] = d.loc[trial == t, ["v1i", "v2i"]]
    X = outcome
    if year:
        X = np.column_stack([outcome, outcome * (d["year"].to_numpy()[:, None] - 1983)])
    return d["yi"].to_numpy(), X, (BlockTerm(trial, Z, outcome, correlation),), V


CASES = {
    "schools": schools(1, ["district", "study"]),
    "schools_year": schools(2, ["district", "study"]),
    "crimes": crimes(),
    "crimes_moderators": crimes(moderators=True),
    "crimes_correlated": crimes(rho=0.6),
    "gums_UN": gums("unstructured"),
    "gums_UN_year": gums("unstructured", year=True),
    "gums_DIAG": gums("none"),
    "gums_CS": gums("compound_symmetric", common=True),
    "gums_HCS": gums("compound_symmetric"),
}


def test_every_pinned_model_is_compared():
    assert {*CASES, "schools_crossed"} == set(THERE["metafor"])


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("name", list(CASES))
def test_metafor(name, method):
    y, X, terms, V = CASES[name]
    there = THERE["metafor"][name][method]
    data = arrange(y, X, terms, variance=V)
    found = ascend(np.full(data.q, -2.0), data, method=method, tolerance=1e-14)
    assert found.converged
    # metafor's optimisers stop within 1e-10 of the maximum or a little below, never above.
    assert found.at.value == pytest.approx(there["logLik"], abs=1e-8)
    np.testing.assert_allclose(found.at.beta, there["estimate"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.sqrt(np.diag(found.at.covariance)), there["se"], rtol=1e-4)
    assert data.q + data.p == there["parms"]

    # Variances, where the likelihood is flat to second order: about √(1e-10) of themselves.
    starts, q = data.starts[0], terms[0].table.shape[2]
    if len(terms) > 1:
        np.testing.assert_allclose(np.exp(found.alpha), there["sigma2"], rtol=2e-4)
    else:
        np.testing.assert_allclose(np.exp(found.alpha[starts : starts + q]), there["tau2"], 2e-4)
        if terms[0].correlations:  # Fisher's z
            np.testing.assert_allclose(np.tanh(found.alpha[q:]), there["rho"], rtol=2e-3)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_metafor_crossed_groups_with_a_variance_of_zero(method):
    y, X, terms, V = schools(1, ["district", "year", "study"])
    there = THERE["metafor"]["schools_crossed"][method]
    data = arrange(y, X, terms, variance=V)
    assert len(data.blocks) < 11  # years tie districts together
    found = ascend(np.full(3, -2.0), data, method=method)
    # There is no maximum, only a supremum at ln σ² = −∞, which metafor has as σ² = 0.
    assert found.at.value == pytest.approx(there["logLik"], abs=1e-7)
    np.testing.assert_allclose(np.exp(found.alpha), there["sigma2"], rtol=1e-3, atol=1e-6)


# Individual scores


@pytest.fixture(scope="module")
def scores():
    d = load_dataset("preterm_iq_ipd")
    study, arm = d["study"].to_numpy() - 1, d["atterm"].to_numpy()
    return d["iq"].to_numpy(), study, arm, np.column_stack([np.eye(37)[study], arm])


def residual(Z):
    return BlockTerm(np.arange(len(Z)), Z)


def slopes(study, arm):
    return BlockTerm(study, np.ones((37, 1)), slopes=arm)


def climb(data, method="REML"):
    start = np.full(data.q, 5.0)  # ln 150: residual variances
    start[0] = 2.5
    found = ascend(start, data, method=method, tolerance=1e-14)
    assert found.converged
    return found


def criteria(data, found, method, *, fixed=True):
    """logLik, df, AIC and BIC as nlme has them (glmmTMB's BIC counts all n rows)."""
    reml = method == "REML"
    value = found.at.value - (0.5 * data.log_det_XX if reml else 0.0)
    df = data.p + data.q
    rows = data.n - data.p if reml and fixed else data.n
    return value, df, 2 * df - 2 * value, df * np.log(rows) - 2 * value


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("name", ["common", "by_arm"])
def test_nlme(scores, name, method):
    y, study, arm, X = scores
    there = THERE["nlme"][name][method]
    Z = np.ones((len(y), 1)) if name == "common" else np.eye(2)[1 - arm]
    data = arrange(y, X, (slopes(study, arm), residual(Z)))
    found = climb(data, method)
    ours = criteria(data, found, method)
    theirs = [there[key] for key in ("logLik", "df", "AIC", "BIC")]
    # lme stops within 1e-7 of the maximum.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.at.beta, there["estimate"], rtol=1e-6)
    sd = np.exp(0.5 * found.alpha)
    np.testing.assert_allclose(sd[0], there["sd_random"][0], rtol=1e-4)
    np.testing.assert_allclose(sd[1], there["sd_residual"], rtol=1e-6)
    if name == "by_arm":
        np.testing.assert_allclose(sd[1:] / sd[1], there["ratios"], rtol=1e-5)
    # lme divides the residual sum of squares by n − p for standard errors with ML, too.
    inflated = 1.0 if method == "REML" else np.sqrt(data.n / (data.n - data.p))
    np.testing.assert_allclose(
        inflated * np.sqrt(np.diag(found.at.covariance)), there["se"], rtol=1e-4
    )


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_glmmTMB(scores, method):
    y, study, arm, X = scores
    Z = np.column_stack([np.ones(len(y)), arm])
    both = np.column_stack([np.ones(len(y)), arm])
    Z_both = np.tile(np.eye(2), (37, 1, 1))
    cases = {
        "by_arm": (X, slopes(study, arm)),
        "correlated": (both, BlockTerm(study, Z_both, both, "unstructured")),
    }
    assert set(cases) == set(THERE["glmmTMB"])
    for name, (X_here, term) in cases.items():
        there = THERE["glmmTMB"][name][method]
        data = arrange(y, X_here, (term, residual(Z)))
        start = np.r_[np.full(data.q - 2, 2.0), 5.0, 0.0]
        start[2 : data.q - 2] = 0.0  # Fisher's z
        found = ascend(start, data, method=method, tolerance=1e-14)
        assert found.converged
        ours = criteria(data, found, method, fixed=False)
        theirs = [there[key] for key in ("logLik", "df", "AIC", "BIC")]
        # glmmTMB, which climbs in β too, stops within 1e-6 of the maximum; AIC has that twice.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
        assert ours[0] > theirs[0] - 1e-8
        # A deficit δ of the log-likelihood bounds each |Δβ| by √(2δ) standard errors.
        deficit = max(ours[0] - theirs[0], 1e-9)
        off = np.abs(found.at.beta - there["estimate"]) / np.sqrt(np.diag(found.at.covariance))
        assert off.max() < 1.01 * np.sqrt(2 * deficit)
        np.testing.assert_allclose(found.alpha[-2:], there["dispersion"], rtol=1e-4)
        sd = np.exp(0.5 * found.alpha[: len(there["sd_random"])])
        np.testing.assert_allclose(sd, there["sd_random"], rtol=1e-4)
        if name == "correlated":
            rho = np.array(there["correlation"])[0, 1]
            assert np.tanh(found.alpha[2]) == pytest.approx(rho, rel=1e-4)


def one_stage(scores):
    """A residual variance for each study and arm: strata 2 · study + (0 at term, 1 preterm)."""
    y, study, arm, X = scores
    Z = np.eye(74)[2 * study + 1 - arm]
    return arrange(y, X, (slopes(study, arm), residual(Z)))


def test_one_stage_model_of_the_slides(scores):
    data = one_stage(scores)
    assert len(data.layout.y) == 74  # 7,044 scores
    found = climb(data)
    log_likelihood, df, aic, bic = criteria(data, found, "REML")
    assert df == 113
    assert round(log_likelihood, 2) == SLIDE["logLik"]
    assert round(aic, 2) == SLIDE["AIC"]
    assert round(bic, 2) == SLIDE["BIC"]
    # The summaries that the scores were made from are rounded to one decimal.
    assert np.exp(0.5 * found.alpha[0]) == pytest.approx(SLIDE["sd_atterm"], abs=5e-4)
    assert found.at.beta[37] == pytest.approx(SLIDE["coef"]["atterm"]["estimate"], abs=5e-4)
    se = np.sqrt(np.diag(found.at.covariance))
    assert se[37] == pytest.approx(SLIDE["coef"]["atterm"]["se"], abs=1e-4)

    there = THERE["one_stage"]["REML"]
    # lme stops 1e-6 below the maximum, so that its variances are good to some 1e-4.
    assert -1e-8 < log_likelihood - there["logLik"] < 1e-5
    np.testing.assert_allclose(found.at.beta, there["estimate"], rtol=1e-5)
    np.testing.assert_allclose(se, there["se"], rtol=1e-3)
    assert np.exp(0.5 * found.alpha[0]) == pytest.approx(there["sd_random"][0], rel=1e-4)
    assert np.exp(0.5 * found.alpha[1]) == pytest.approx(there["sd_residual"], rel=1e-3)
    names = [f"{s}*{arm}" for s in range(1, 38) for arm in ("Atterm", "Preterm")]
    order = [there["strata"].index(name) for name in names]
    ratios = np.exp(0.5 * (found.alpha[1:] - found.alpha[1]))
    np.testing.assert_allclose(ratios, np.array(there["ratios"])[order], rtol=1e-3)


def test_one_stage_with_known_arm_variances_is_the_two_stage_model(scores):
    """Slide 7: with the arms' variances held at their estimates both give identical results."""
    data = one_stage(scores)
    d = load_dataset("preterm_iq")
    arms = np.log(np.column_stack([d["sd1"], d["sd2"]]) ** 2).ravel()
    y, v, ones = d["yi"].to_numpy(), d["vi"].to_numpy(), np.ones((37, 1))
    # Everything that depends on τ² is the same function of it, up to a constant: values differ by
    # as much everywhere, scores not at all.
    constants = []
    for log_tau2 in (-1.0, 1.0, 2.5, 4.0):
        whole = evaluate(np.r_[log_tau2, arms], data, method="REML")
        two = closed_form.evaluate(np.array([log_tau2]), y, v, ones, ones, method="REML")
        constants.append(whole.value - two.value)
        assert whole.score[0] == pytest.approx(two.score[0], abs=1e-8)
        assert whole.hessian[0, 0] == pytest.approx(two.hessian[0, 0], abs=1e-8)
        assert whole.beta[37] == pytest.approx(two.beta[0], rel=1e-9)
        assert whole.covariance[37, 37] == pytest.approx(two.covariance[0, 0], rel=1e-9)
    # Of 30,000, summed in another order.
    np.testing.assert_allclose(constants, constants[0], rtol=1e-12)
