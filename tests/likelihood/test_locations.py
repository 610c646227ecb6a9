"""β̂ at many α, and how it moves with them: by either solver, against the definitions."""

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.likelihood.typical_variance import typical_variance

from ..reml.designs import example, make_design
from ..reml.nested import nested_data, nested_model
from ..reml.peers import gums


def children():
    """Individuals, alike in all but their score: the likelihood collapses them into cells."""
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"study": np.repeat(np.arange(9), 8), "arm": [0.0, 1.0] * 36})
    data["y"] = data["arm"] * np.repeat(rng.normal(1, 1, 9), 8) + rng.normal(size=72)
    scale = {"1 + arm | study": "~ 1", "residual": "~ arm"}
    return lsm.LocationScaleModel("y ~ arm", scale, data=data).design


DESIGNS = {
    "independent": lambda: make_design(example(), "~ x", "~ x"),
    "levels": lambda: nested_model(nested_data(3, districts=7), location="yi ~ x").design,
    "outcomes": lambda: gums("unstructured").design,
    "individuals": children,
}


def sigma_of(alpha, design):
    """Σ (n, n), effect by effect."""
    found, first = np.diag(design.v), 0
    for block in design.blocks:
        found[np.ix_(block.rows, block.rows)] = block.covariance
    for term in design.terms:
        own, q = alpha[first : first + term.size], len(term.names)
        tau = np.exp(0.5 * (term.Z @ own[:q]))[term.index] * term.slopes
        kind = term.correlation if term.n_correlations else "none"
        R = correlation_matrices(own[None, q:], len(term.effects), kind)[0]
        found = found + (tau @ R @ tau.T) * np.equal.outer(term.index, term.index)
        first += term.size
    return found


def located(alpha, design):
    W, X = np.linalg.inv(sigma_of(alpha, design)), design.X
    covariance = np.linalg.inv(X.T @ W @ X)
    beta = covariance @ X.T @ W @ design.y
    e = design.y - X @ beta
    return beta, covariance, e @ W @ e


def some_alphas(design, m=3):
    size = sum(term.size for term in design.terms)
    return -1.0 + 0.7 * np.random.default_rng(8).normal(size=(m, size))


@pytest.fixture(params=[*DESIGNS, "independent, in blocks"])
def design(request, monkeypatch):
    name, _, blocks = request.param.partition(", ")
    if blocks:
        monkeypatch.setattr(Design, "is_independent", False)
    return DESIGNS[name]()


def test_generalised_least_squares(design):
    alphas = some_alphas(design)
    found = likelihood_of(design).locations(alphas)
    for i, alpha in enumerate(alphas):
        beta, covariance, squares = located(alpha, design)
        # Rounding grows with the condition of Σ, some 1e3 here.
        np.testing.assert_allclose(found.beta[i], beta, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(found.covariance[i], covariance, rtol=1e-9, atol=1e-12)
        assert found.squares[i] == pytest.approx(squares, rel=1e-9)


def test_slopes_are_differences(design):
    likelihood = likelihood_of(design)
    for alpha in some_alphas(design, 2):
        steps = 1e-4 * np.eye(len(alpha))
        ends = [likelihood.locations(np.array([alpha + h, alpha - h])).beta for h in steps]
        expected = np.transpose([(ahead - behind) / 2e-4 for ahead, behind in ends])
        # The error of central differences is the square of the step.
        np.testing.assert_allclose(
            likelihood.location_slopes(alpha), expected, rtol=1e-6, atol=1e-8
        )


def without_lost(alpha, design, gone):
    """Σ (n, n) where some effects of the first term have no variance."""
    term = design.terms[0]
    own, q = alpha[: term.size], len(term.names)
    tau = np.exp(0.5 * (term.Z @ own[:q]))[term.index] * term.slopes
    kind = term.correlation if term.n_correlations else "none"
    R = correlation_matrices(own[None, q:], len(term.effects), kind)[0]
    left, same = tau * ~gone[term.index], np.equal.outer(term.index, term.index)
    return sigma_of(alpha, design) + (left @ R @ left.T - tau @ R @ tau.T) * same


def test_variances_of_groups_that_are_gone(design):
    gone = [np.zeros(term.Z.shape[:2], dtype=bool) for term in design.terms]
    gone[0][::2] = True
    alphas, there = some_alphas(design, 2), likelihood_of(design).at(gone)
    found, slopes = there.locations(alphas), there.location_slopes(alphas[0])
    for i, alpha in enumerate(alphas):
        W, X = np.linalg.inv(without_lost(alpha, design, gone[0])), design.X
        beta = np.linalg.solve(X.T @ W @ X, X.T @ W @ design.y)
        np.testing.assert_allclose(found.beta[i], beta, rtol=1e-8, atol=1e-10)
    ends = [there.locations(alphas[:1] + h).beta[0] for h in (1e-4, -1e-4)]
    along = (ends[0] - ends[1]) / 2e-4
    np.testing.assert_allclose(slopes.sum(axis=1), along, rtol=1e-6, atol=1e-8)


def test_an_effect_that_no_group_has_takes_its_correlation_along():
    design = DESIGNS["outcomes"]()
    gone = np.zeros(design.terms[0].Z.shape[:2], dtype=bool)
    gone[:, 0] = True
    alpha = np.array([-1.0, -2.0])
    found = likelihood_of(design).at([gone]).locations(alpha[None])
    W, X = np.linalg.inv(without_lost(np.r_[alpha, 0.0], design, gone)), design.X
    beta = np.linalg.solve(X.T @ W @ X, X.T @ W @ design.y)
    np.testing.assert_allclose(found.beta[0], beta, rtol=1e-10)


def test_the_identity_link_is_of_tau2_itself():
    design = make_design(example(), "~ x", "~ 1", link="identity")
    found = likelihood_of(design).locations(np.array([[0.5], [-1.0]]))
    for i, tau2 in enumerate((0.5, 0.0)):
        w = 1 / (design.v + tau2)
        X = design.X
        beta = np.linalg.solve((X.T * w) @ X, (X.T * w) @ design.y)
        np.testing.assert_allclose(found.beta[i], beta, rtol=1e-10)
    ends = likelihood_of(design).locations(np.array([[0.5001], [0.4999]])).beta
    slope = likelihood_of(design).location_slopes(np.array([0.5]))[:, 0]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-4, rtol=1e-6)


def test_the_typical_sampling_variance(design):
    if not (design.v > 0).all():
        assert typical_variance(design) == 0
        return
    V = np.diag(design.v)
    for block in design.blocks:
        V[np.ix_(block.rows, block.rows)] = block.covariance
    W, X = np.linalg.inv(V), design.X
    P = W - W @ X @ np.linalg.solve(X.T @ W @ X, X.T @ W)
    n, p = X.shape
    assert typical_variance(design) == pytest.approx((n - p) / np.trace(P), rel=1e-12)
