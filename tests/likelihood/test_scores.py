"""What each cluster adds to the score, climbs, and Σ as a matrix: by either solver."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import bayes_lsm as lsm
from bayes_lsm.design.clusters import read_clusters
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.likelihood import likelihood_of

from ..reml.designs import example, make_design
from ..reml.nested import nested_data, nested_model
from ..reml.peers import gums, schools

METHODS = pytest.mark.parametrize("method", ["REML", "ML"])


@pytest.fixture(params=["rows", "blocks"])
def solver(request, monkeypatch):
    if request.param == "blocks":
        monkeypatch.setattr(Design, "is_independent", False)


def row_sigma(alpha, design):
    """Σ of independent effects (n, n)."""
    return np.diag(design.v + np.exp(design.terms[0].Z[:, 0] @ alpha))


def nested_sigma(alpha, data):
    """Σ of schools with a slope on x in districts, written out (n, n)."""
    district, school = data["district"].to_numpy(), data["school"].to_numpy()
    within = np.exp(alpha[1] + alpha[2] * data["x"].to_numpy())
    same = np.equal.outer(school, school) * within[:, None]
    return np.diag(data["vi"]) + np.exp(alpha[0]) * np.equal.outer(district, district) + same


def sampling_errors(design):
    """V (n, n)."""
    V = np.diag(design.v)
    for block in design.blocks:
        V[np.ix_(block.rows, block.rows)] = block.covariance
    return V


def gums_sigma(alpha, V, trial, outcome):
    """Σ of two correlated outcomes of each trial (n, n)."""
    tau = np.exp(0.5 * alpha[:2])[outcome]
    rho = np.where(np.equal.outer(outcome, outcome), 1.0, np.tanh(alpha[2]))
    return V + np.equal.outer(trial, trial) * rho * np.outer(tau, tau)


def scores_by_differences(sigma, at, design, code, method):
    """∂ℓ_c(α, β̂(α))/∂α, and for REML the cluster's part of −½ ∂ln|X'Σ⁻¹X|/∂α."""
    y, X = design.y, design.X

    def parts(alpha):
        S = sigma(alpha)
        W = np.linalg.inv(S)
        beta = np.linalg.solve(X.T @ W @ X, X.T @ W @ y)
        found = []
        for c in range(code.max() + 1):
            rows = code == c
            here, e = S[np.ix_(rows, rows)], (y - X @ beta)[rows]
            inside = X[rows].T @ np.linalg.solve(here, X[rows])
            value = -0.5 * (np.linalg.slogdet(here)[1] + e @ np.linalg.solve(here, e))
            found.append((value, inside))
        return found

    W = np.linalg.inv(sigma(at))
    M = np.linalg.inv(X.T @ W @ X)
    h = 1e-5
    table = np.empty((code.max() + 1, len(at)))
    for j, step in enumerate(h * np.eye(len(at))):
        for c, (up, down) in enumerate(zip(parts(at + step), parts(at - step), strict=True)):
            table[c, j] = (up[0] - down[0]) / (2 * h)
            if method == "REML":
                table[c, j] -= 0.5 * np.trace(M @ (up[1] - down[1])) / (2 * h)
    return table


def assert_scores(design, sigma, at, code, method):
    likelihood = likelihood_of(design)
    found = likelihood.scores(at, method, code)
    expected = scores_by_differences(sigma, at, design, code, method)
    # A central difference errs by h² = 1e-10, and by rounding 1e-16/h of the log-likelihood.
    np.testing.assert_allclose(found, expected, atol=1e-7)
    # Two ways to the same sum, in double precision.
    whole = likelihood.evaluate(at, method).score
    np.testing.assert_allclose(found.sum(axis=0), whole, atol=1e-9 * max(1.0, np.abs(whole).max()))


@METHODS
@pytest.mark.usefixtures("solver")
def test_scores_of_rows_and_of_clusters_of_rows(method):
    design = make_design(example(k=15, seed=7), "~ x", "~ x")
    at = np.array([-0.4, 0.3])
    for code in (np.arange(15), np.arange(15) % 4):
        assert_scores(design, lambda alpha: row_sigma(alpha, design), at, code, method)


@METHODS
def test_scores_of_nested_groups(method):
    data = nested_data(3, districts=8, slopes=(0.0, 0.8), effect=0.3)
    design = nested_model(data, location="yi ~ z", school="~ x").design
    at = np.array([-1.2, -2.0, 0.5])
    code = read_clusters(design, None).code
    assert_scores(design, lambda alpha: nested_sigma(alpha, data), at, code, method)


def test_scores_of_correlated_outcomes():
    design = gums("unstructured").design
    V = sampling_errors(design)
    (term,) = design.terms
    outcome, code = np.argmax(term.slopes, axis=1), read_clusters(design, None).code
    at = np.array([-4.0, -3.5, 0.4])
    assert_scores(design, lambda alpha: gums_sigma(alpha, V, term.index, outcome), at, code, "REML")


@pytest.mark.usefixtures("solver")
def test_scores_where_some_have_no_variance():
    """They are those of the same Σ, and rows without τ² add to them through β̂ alone."""
    design = make_design(example(k=15, seed=7), "~ x", "~ x")
    gone, at = np.arange(15)[:, None] % 3 == 0, np.array([-0.4, 0.3])
    limit = likelihood_of(design).at([gone])
    found = limit.scores(at, "REML", np.arange(15))

    def sigma(alpha):
        return np.where(np.diag(gone[:, 0]), np.diag(design.v), row_sigma(alpha, design))

    expected = scores_by_differences(sigma, at, design, np.arange(15), "REML")
    np.testing.assert_allclose(found, expected, atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=0), limit.evaluate(at, "REML").score, atol=1e-9)


def test_held_effects_beside_those_without_variance():
    """What is held of an effect goes with it where the other one has no variance."""
    design = gums("unstructured").design
    V = sampling_errors(design)
    (term,) = design.terms
    gone = np.zeros(term.Z.shape[:2], dtype=bool)
    gone[:, 0] = True
    limit = likelihood_of(design.hold({1: -3.5})).at([gone])
    # The intercept of the effect that is gone is still counted, and moves nothing.
    found = limit.evaluate(np.array([0.3]), "ML")
    Sigma = V + np.diag(np.where(term.slopes[:, 1] == 1, np.exp(-3.5), 0.0))
    residuals = design.y - design.X @ found.beta
    assert found.value == pytest.approx(multivariate_normal.logpdf(residuals, cov=Sigma), abs=1e-9)
    np.testing.assert_allclose(design.X.T @ np.linalg.solve(Sigma, residuals), 0.0, atol=1e-7)


@METHODS
@pytest.mark.parametrize("held", [None, np.array([False, True])])
def test_climbs_of_solver_end_at_one_place(method, held, monkeypatch):
    design = make_design(example(k=30, seed=2), "~ x", "~ x")
    starts = np.array([[-0.5, 0.4], [-1.5, 0.4], [0.5, 0.4]])
    rows = likelihood_of(design).climb(starts, method, held=held)
    monkeypatch.setattr(Design, "is_independent", False)
    again = replace(design)  # which has not said yet that it is independent
    assert type(likelihood_of(again)) is not type(likelihood_of(design))
    blocks = likelihood_of(again).climb(starts, method, held=held)
    assert rows.converged.all()
    assert blocks.converged.all()
    np.testing.assert_allclose(rows.value, blocks.value, rtol=1e-12)
    # Climbs end within a gain of 1e-13: √ of that in α.
    np.testing.assert_allclose(rows.alpha, blocks.alpha, atol=1e-5)
    np.testing.assert_allclose(rows.beta, blocks.beta, atol=1e-6)
    np.testing.assert_allclose(rows.covariance, blocks.covariance, atol=1e-6)
    np.testing.assert_allclose(rows.hessian, blocks.hessian, atol=1e-4)
    if held is not None:
        np.testing.assert_array_equal(rows.alpha[:, 1], 0.4)
        np.testing.assert_array_equal(rows.hessian[:, 1], [[0.0, -1.0]] * 3)
    there = likelihood_of(design).evaluate(rows.alpha[0], method)
    assert there.value == pytest.approx(rows.value[0])


@pytest.mark.parametrize("model", ["independent", "schools", "gums"])
def test_sigma_as_a_matrix(model):
    fit = {
        "independent": lambda: lsm.LocationScaleModel.from_file("bcg"),
        "schools": schools,
        "gums": lambda: gums("unstructured"),
    }[model]().fit_reml()
    covariance, B = fit.covariance, np.random.default_rng(1).normal(size=(len(fit.design.y), 2))
    sigma = covariance.matrix.toarray()
    # Factors and back, in double precision: the condition of Σ is below 1e4.
    np.testing.assert_allclose(sigma @ covariance.solve(B), B, atol=1e-10)
    np.testing.assert_allclose(covariance.unwhiten(covariance.whiten(B)), B, atol=1e-10)
    np.testing.assert_allclose(covariance.whiten(sigma).T @ covariance.whiten(B), B, atol=1e-10)
    np.testing.assert_array_equal(np.diag(sigma), covariance.variances)
