"""Sums over sets of rows: against dense matrices, for all rows and for some."""

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import multivariate_normal

from bayes_lsm.likelihood.blocks.blocks import BlockTerm
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.likelihood.blocks.sums import no_rows, sum_rows

PRECISION = np.array([[0.5, 0.1, 0.0], [0.1, 0.4, 0.0], [0.0, 0.0, 2.0]])


@pytest.fixture(params=["variances", "covariance"])
def world(request):
    """Two correlated effects a group, a residual with a moderator, and V with or without blocks."""
    rng = np.random.default_rng(1)
    n, group = 14, np.repeat(np.arange(4), [5, 4, 3, 2])
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    slopes = np.column_stack([np.ones(n), rng.integers(2, size=n)])
    Z = np.zeros((4, 2, 2))
    Z[:, 0, 0] = Z[:, 1, 1] = 1.0
    moderators = np.column_stack([np.ones(n), rng.normal(size=n)])
    terms = (
        BlockTerm(group, Z, slopes, "unstructured"),
        BlockTerm(np.arange(n), moderators),
    )
    V = np.diag(rng.uniform(0.1, 0.5, n))
    if request.param == "covariance":
        for g in range(4):
            V[np.ix_(group == g, group == g)] += 0.05
    y = rng.normal(size=n)
    alphas = rng.normal(0, 0.5, (6, 5))
    sigmas = []
    for alpha in alphas:
        tau = np.exp(0.5 * alpha[:2])
        R = correlation_matrices(alpha[None, 2:3], 2, "unstructured")[0]
        D = np.kron(np.eye(4), tau[:, None] * R * tau)
        A = np.zeros((n, 8))
        for i in range(n):
            A[i, 2 * group[i] : 2 * group[i] + 2] = slopes[i]
        sigmas.append(V + A @ D @ A.T + np.diag(np.exp(moderators @ alpha[3:])))
    return y, X, terms, V, alphas, np.array(sigmas), group


def sums(world, rows):
    y, X, terms, V, alphas, _, _ = world
    own = [BlockTerm(t.groups[rows], t.Z, _some(t.slopes, rows), t.correlation) for t in terms]
    part = V[np.ix_(rows, rows)]
    diagonal = not (part - np.diag(np.diag(part))).any()
    variance = np.diag(part).copy() if diagonal else sparse.csr_array(part)
    return sum_rows(alphas, y[rows], X[rows], tuple(own), variance=variance)


def _some(slopes, rows):
    return None if slopes is None else slopes[rows]


def test_sums_are_those_of_dense_matrices(world):
    y, X, _, _, _, sigmas, group = world
    away = np.random.default_rng(2).normal(size=(6, 3))
    for rows in (np.arange(14), np.flatnonzero(group == 1), np.array([3, 8, 9])):
        found = sums(world, rows)
        marginal, density = found.log_marginal(PRECISION), found.log_density(away)
        for k, sigma in enumerate(sigmas[:, rows][:, :, rows]):
            spread = X[rows] @ np.linalg.solve(PRECISION, X[rows].T)
            # Sums of a few dozen numbers of size 1 to 100.
            exact = multivariate_normal.logpdf(y[rows], cov=sigma + spread)
            assert marginal[k] == pytest.approx(exact, abs=1e-10)
            exact = multivariate_normal.logpdf(y[rows], X[rows] @ away[k], sigma)
            assert density[k] == pytest.approx(exact, abs=1e-10)
            A = X[rows].T @ np.linalg.solve(sigma, X[rows]) + PRECISION
            mean, covariance = found.location(PRECISION)
            np.testing.assert_allclose(covariance[k], np.linalg.inv(A), atol=1e-11)
            b = X[rows].T @ np.linalg.solve(sigma, y[rows])
            np.testing.assert_allclose(mean[k], np.linalg.solve(A, b), atol=1e-11)


def test_independent_clusters_add_up_and_are_taken_away(world):
    group = world[-1]
    whole, part = sums(world, np.arange(14)), sums(world, np.flatnonzero(group == 2))
    rest = sums(world, np.flatnonzero(group != 2))
    for found, exact in ((whole - part, rest), (rest + part, whole), (part + no_rows(6, 3), part)):
        for name in "Abc":
            np.testing.assert_allclose(getattr(found, name), getattr(exact, name), atol=1e-11)


def test_no_variance_at_all_is_no_number():
    term = BlockTerm(np.zeros(3, dtype=int), np.ones((1, 1)))
    found = sum_rows(np.zeros((1, 1)), np.zeros(3), np.ones((3, 1)), (term,), variance=np.zeros(3))
    assert np.isnan(found.log_marginal(np.eye(1))).all()
