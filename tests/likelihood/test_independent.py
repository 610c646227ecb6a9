"""The likelihood, against dense matrices, finite differences and an identity for REML."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import null_space
from scipy.stats import multivariate_normal

from bayes_lsm.likelihood.rows.closed_form import (
    estimate_location,
    evaluate,
    log_likelihood,
    tau2,
)

METHODS = pytest.mark.parametrize("method", ["REML", "ML"])


@st.composite
def problems(draw):
    """y, v, X, Z, α and a mask of studies without τ², of any small size."""
    n = draw(st.integers(4, 12))
    p = draw(st.integers(1, 3))
    q = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    X = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
    Z = np.column_stack([np.ones(n), rng.normal(size=(n, q - 1))])
    y = 2.0 * rng.normal(size=n)
    v = np.exp(draw(st.sampled_from([0.0, 1.0])) * rng.normal(size=n))
    zero = rng.random(n) < draw(st.sampled_from([0.0, 0.4]))
    return y, v, X, Z, rng.normal(size=q), zero


def dense(y, variance, X, method):
    """The same number from n × n matrices: y itself for ML, its error contrasts K'y for REML.

    With K an orthonormal basis of the complement of X, the density of K'y does not depend on β, and
    its normalisation is that of metafor, ln|X'X| included (Harville 1974, doi:10.2307/2334370).
    """
    V = np.diag(variance)
    if method == "REML":
        K = null_space(X.T)
        return multivariate_normal.logpdf(K.T @ y, cov=K.T @ V @ K)
    W = np.linalg.inv(V)
    beta = np.linalg.solve(X.T @ W @ X, X.T @ W @ y)
    return multivariate_normal.logpdf(y, mean=X @ beta, cov=V)


def differences(function, alpha, step):
    """Central differences of a function of α, its values stacked by coefficient."""
    units = step * np.eye(len(alpha))
    return np.array([(function(alpha + e) - function(alpha - e)) / (2 * step) for e in units])


@METHODS
@given(problem=problems())
@settings(max_examples=60, deadline=None)
def test_the_value_is_that_of_dense_matrices(method, problem):
    y, v, X, Z, alpha, zero = problem
    here = evaluate(alpha, y, v, X, Z, method=method, zero=zero)
    t = np.where(zero, 0.0, np.exp(Z @ alpha))
    # Both are sums of a dozen terms of size 1 to 100: rounding only.
    assert here.value == pytest.approx(dense(y, v + t, X, method), rel=1e-10, abs=1e-10)
    assert here.value == log_likelihood(y, v, X, t, method=method)
    np.testing.assert_array_equal(tau2(alpha, Z, zero), t)


@METHODS
@given(problem=problems())
@settings(max_examples=60, deadline=None)
def test_score_and_hessian_are_the_derivatives(method, problem):
    y, v, X, Z, alpha, zero = problem

    def at(a):
        return evaluate(a, y, v, X, Z, method=method, zero=zero)

    here = at(alpha)
    size = 1.0 + np.abs(here.hessian).max()
    # Central differences with step h err by about h² of a third derivative and by ε/h.
    score = differences(lambda a: at(a).value, alpha, 1e-5)
    np.testing.assert_allclose(here.score, score, atol=1e-6 * size)
    hessian = differences(lambda a: at(a).score, alpha, 1e-5)
    np.testing.assert_allclose(here.hessian, hessian, atol=1e-6 * size)
    np.testing.assert_allclose(here.hessian, here.hessian.T, atol=1e-10 * size)


@METHODS
def test_no_scale_coefficients_leave_a_value(method):
    rng = np.random.default_rng(5)
    y, v, X = rng.normal(size=6), rng.uniform(1, 2, 6), np.ones((6, 1))
    here = evaluate(np.zeros(0), y, v, X, np.zeros((6, 0)), method=method, zero=np.ones(6, bool))
    assert here.value == pytest.approx(dense(y, v, X, method), rel=1e-12)
    assert here.score.shape == (0,)
    assert here.hessian.shape == (0, 0)


def test_location_is_weighted_least_squares():
    rng = np.random.default_rng(6)
    y, X = rng.normal(size=20), np.column_stack([np.ones(20), rng.normal(size=20)])
    variance = rng.uniform(0.1, 10, 20)
    found = estimate_location(y, variance, X)
    information = X.T @ np.diag(1 / variance) @ X
    np.testing.assert_allclose(found.covariance, np.linalg.inv(information), rtol=1e-12)
    np.testing.assert_allclose(information @ found.beta, X.T @ (y / variance), rtol=1e-12)
    np.testing.assert_allclose(found.residuals, y - X @ found.beta, rtol=1e-12)
    assert found.log_det == pytest.approx(np.linalg.slogdet(information)[1], rel=1e-12)


@METHODS
def test_enormous_coefficients_give_finite_numbers(method):
    rng = np.random.default_rng(7)
    y, v, X = rng.normal(size=9), rng.uniform(0.1, 1, 9), np.ones((9, 1))
    Z = np.column_stack([np.ones(9), np.linspace(-1, 1, 9)])
    for alpha in ([1e4, 0.0], [-1e4, 0.0], [0.0, 1e4]):
        here = evaluate(np.array(alpha), y, v, X, Z, method=method)
        assert np.isfinite(here.value)
        assert np.isfinite(here.score).all()
        assert np.isfinite(here.hessian).all()


@METHODS
def test_cost_is_linear_in_studies(method):
    # An n × n array would need 320 GB.
    n = 200_000
    rng = np.random.default_rng(8)
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    y, v = rng.normal(size=n), rng.uniform(0.5, 1, n)
    here = evaluate(np.array([-1.0, 0.2]), y, v, X, X, method=method)
    assert np.isfinite(here.value)
    assert here.hessian.shape == (2, 2)
