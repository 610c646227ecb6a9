"""τ², I², H², R² and Cochran's Q, against dense matrices and closed forms."""

import numpy as np
import pytest
from scipy.stats import chi2

from bayes_lsm.errors import DivergentScaleWarning
from bayes_lsm.reml import fit_reml
from bayes_lsm.reml.heterogeneity import (
    cochran_q,
    standard_error_tau2,
    typical_sampling_variance,
)

from .designs import example, make_design


def projection(variance, X):
    W = np.diag(1 / variance)
    return W - W @ X @ np.linalg.inv(X.T @ W @ X) @ X.T @ W


@pytest.fixture
def design():
    return make_design(example(), "~ x")


def test_q_and_typical_variance(design):
    P = projection(design.v, design.X)
    q = cochran_q(design.y, design.v, design.X)
    assert q.statistic == pytest.approx(design.y @ P @ design.y)
    assert q.df == 28
    assert q.pval == pytest.approx(chi2.sf(q.statistic, 28))
    assert typical_sampling_variance(design.v, design.X) == pytest.approx(28 / np.trace(P))
    # With equal variances it is that variance.
    assert typical_sampling_variance(np.full(30, 0.3), design.X) == pytest.approx(0.3)


def test_standard_error(design):
    P, W = projection(design.v + 0.7, design.X), np.diag(1 / (design.v + 0.7))
    expected = {"REML": np.sqrt(2 / np.trace(P @ P)), "ML": np.sqrt(2 / np.trace(W @ W))}
    for method, value in expected.items():
        found = standard_error_tau2(design.v, design.X, 0.7, method=method)
        assert found == pytest.approx(value)


def test_i2_and_h2_are_one_ratio(design):
    found = fit_reml(design).heterogeneity()
    assert pytest.approx(100 * (1 - 1 / found.H2)) == found.I2
    assert pytest.approx(found.tau2 / found.typical_variance + 1) == found.H2
    assert found.tau == pytest.approx(np.sqrt(found.tau2))
    assert found.constant


def test_r2(design):
    found = fit_reml(design).heterogeneity()
    without = fit_reml(make_design(example())).heterogeneity()
    assert np.isnan(without.R2)
    assert pytest.approx(100 * max(0, 1 - found.tau2 / without.tau2), abs=1e-6) == found.R2
    # A moderator that explains nothing is not given less than nothing.
    noise = example().assign(x=np.tile([0.0, 1.0, 0.0], 10))
    assert fit_reml(make_design(noise, "~ x")).heterogeneity().R2 >= 0
    # Without an intercept there is no model to compare with, as in metafor.
    assert np.isnan(fit_reml(make_design(example(), "~ 0 + x")).heterogeneity().R2)


def test_of_a_scale_model_it_is_of_the_average_study():
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    found = fit.heterogeneity()
    assert found.tau2 == pytest.approx(fit.tau2.mean())
    assert np.isnan(found.se_tau2)
    assert np.isnan(found.R2)
    assert "of the average study" in str(found)


def test_none():
    with pytest.warns(DivergentScaleWarning):
        found = fit_reml(make_design(example().assign(yi=1.0))).heterogeneity()
    assert (found.tau2, found.I2, found.H2) == (0, 0, 1)
    assert found.Q.statistic == pytest.approx(0, abs=1e-20)


def test_printed(design):
    found = fit_reml(design).heterogeneity()
    assert found.Q.pval < 1e-4
    text = str(found)
    assert "p < .0001" in text
    assert f"{found.tau2:.4f} (SE = {found.se_tau2:.4f})" in text
    assert f"{found.R2:.2f}%" in text
    statistic, df, pval = found.Q
    assert (statistic, df, pval) == (found.Q.statistic, found.Q.df, found.Q.pval)
