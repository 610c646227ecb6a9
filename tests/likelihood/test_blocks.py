"""Several scale terms, against dense matrices, finite differences and the independent case."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.linalg import null_space
from scipy.stats import multivariate_normal

from bayes_lsm.likelihood.blocks.blocks import (
    BlockTerm,
    NormalPrior,
    arrange,
    ascend,
    draw_location,
    evaluate,
    log_likelihoods,
)
from bayes_lsm.likelihood.blocks.correlations import COMPOUND, UNSTRUCTURED, correlate
from bayes_lsm.likelihood.rows import closed_form

METHODS = pytest.mark.parametrize("method", ["REML", "ML"])


def covariance(alpha, terms, V):
    """Σ itself, n × n, term by term and group by group."""
    S, at = V.copy(), 0
    for term in terms:
        _, s, q = term.table.shape
        h = term.correlations
        R = np.eye(s)
        if h:
            kind = COMPOUND if term.correlation == "compound_symmetric" else UNSTRUCTURED
            pairs = s * (s - 1) // 2
            rho = np.empty(pairs)
            rest = np.empty((pairs, h)), np.empty((pairs, h, h)), np.empty((s, s))
            correlate(kind, alpha[at + q : at + q + h], rho, *rest)
            R[np.tril_indices(s, -1)] = rho
            R = R + np.tril(R, -1).T
        sd = np.exp(0.5 * term.table @ alpha[at : at + q])
        for g, D in enumerate(sd):
            A = term.multipliers * (term.groups == g)[:, None]
            S += A @ (np.outer(D, D) * R) @ A.T
        at += q + h
    return S


def dense(y, X, S, method):
    """ML as a density of y; REML as that of error contrasts; with a prior, β integrated out."""
    if isinstance(method, NormalPrior):
        whole = S + X @ np.linalg.solve(method.precision, X.T)
        return multivariate_normal.logpdf(y, X @ method.mean, whole)
    if method == "REML":
        K = null_space(X.T)
        return multivariate_normal.logpdf(K.T @ y, cov=K.T @ S @ K)
    W = np.linalg.inv(S)
    beta = np.linalg.solve(X.T @ W @ X, X.T @ W @ y)
    return multivariate_normal.logpdf(y, X @ beta, S)


@st.composite
def problems(draw):
    """y, X, V, terms and α: nested or crossed groups, slopes, correlated effects, V of each kind.

    Few distinct moderators, so that some rows are collapsed; some rows without a group.
    """
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n = draw(st.integers(6, 16))
    few = rng.integers(0, 2, n).astype(float)
    other = draw(st.sampled_from([few, rng.normal(size=n)]))
    X = np.c_[np.ones(n), other][:, : draw(st.integers(1, 2))]
    y = 2.0 * rng.normal(size=n)
    outer = np.sort(rng.integers(0, 4, n))
    inner = 2 * outer + rng.integers(0, 2, n)
    q = draw(st.integers(1, 2))
    Z = np.c_[np.ones(n), np.round(rng.normal(size=n), 0)][:, :q]
    rows = BlockTerm(np.arange(n), Z)
    slope = np.round(rng.normal(size=n), 0)
    choices = {
        "nested": (BlockTerm(outer, Z[:4]), BlockTerm(inner, Z[:8] if n > 7 else np.ones((8, 1)))),
        "crossed": (BlockTerm(outer, Z[:4]), BlockTerm(rng.integers(0, 3, n), np.ones((3, 1)))),
        "slope": (BlockTerm(outer, Z[:4], slopes=slope),),
        "some": (BlockTerm(np.where(few > 0, outer, -1), Z[:4]),),
        "correlated": (
            BlockTerm(outer, rng.normal(size=(4, 2, q)), np.c_[np.ones(n), slope], "unstructured"),
        ),
        "outcomes": (
            BlockTerm(
                outer, rng.normal(size=(4, 3, q)), np.eye(3)[np.arange(n) % 3], "compound_symmetric"
            ),
        ),
    }
    terms = choices[draw(st.sampled_from(list(choices)))]
    if draw(st.booleans()):
        terms = (*terms, rows)
    v = np.round(np.exp(rng.normal(size=n)), 1) + 0.1
    kind = draw(st.sampled_from(["diagonal", "equal", "blocks", "full", "none"]))
    if kind == "none":
        terms = terms if terms[-1] is rows else (*terms, rows)
        v = np.zeros(n)
    V = np.diag(np.full(n, 0.5) if kind == "equal" else v)
    root = np.sqrt(np.diag(V))
    if kind == "blocks":
        V = np.where(outer[:, None] == outer, 0.4, 0.0) * np.outer(root, root) + 0.6 * V
    if kind == "full":
        V = 0.3 * np.outer(root, root) + 0.7 * V
    variance = np.diag(V).copy() if kind in ("diagonal", "equal", "none") else V
    alpha = 0.7 * rng.normal(size=sum(term.size for term in terms))
    return y, X, V, variance, terms, alpha


def criterion(name, X):
    if name != "prior":
        return name
    p = X.shape[1]
    return NormalPrior(np.linspace(-0.3, 0.4, p), np.eye(p) / 3 + 0.1)


@pytest.mark.parametrize("name", ["REML", "ML", "prior"])
@given(problem=problems())
@settings(max_examples=80, deadline=None)
def test_value_score_and_hessian_are_those_of_dense_matrices(name, problem):
    y, X, V, variance, terms, alpha = problem
    if np.linalg.matrix_rank(X) < X.shape[1]:
        X = X[:, :1]
    method = criterion(name, X)
    data = arrange(y, X, terms, variance=variance)
    here = evaluate(alpha, data, method=method)
    S = covariance(alpha, terms, V)
    # Sums of a dozen terms of size 1 to 100; Σ has a condition number of 1e4 at most.
    assert here.value == pytest.approx(dense(y, X, S, method), rel=1e-10, abs=1e-10)
    step = 1e-5
    size = 1.0 + np.abs(here.hessian).max()
    for j, e in enumerate(step * np.eye(len(alpha))):
        up, down = (evaluate(alpha + s * e, data, method=method) for s in (1, -1))
        # Central differences err by step² of a third derivative and by ε / step.
        assert here.score[j] == pytest.approx((up.value - down.value) / (2 * step), abs=1e-6 * size)
        np.testing.assert_allclose(
            here.hessian[j], (up.score - down.score) / (2 * step), atol=1e-6 * size
        )
    np.testing.assert_allclose(here.hessian, here.hessian.T, atol=1e-10 * size)
    values = log_likelihoods(np.stack([alpha, 0.5 * alpha]), data, method=method)
    assert values[0] == pytest.approx(here.value, abs=1e-11)

    W = np.linalg.inv(S)
    A, b = X.T @ W @ X, X.T @ W @ y
    if name == "prior":
        A, b = A + method.precision, b + method.precision @ method.mean
    np.testing.assert_allclose(here.beta, np.linalg.solve(A, b), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(here.covariance, np.linalg.inv(A), rtol=1e-8)


def simulate(seed=0, n=40, p=2, q=2):
    rng = np.random.default_rng(seed)
    X = np.c_[np.ones(n), rng.normal(size=(n, p - 1))]
    Z = np.c_[np.ones(n), rng.normal(size=(n, q - 1))]
    v = rng.uniform(0.1, 1.0, n)
    return rng.normal(size=n), v, X, Z, 0.5 * rng.normal(size=q)


@METHODS
@pytest.mark.parametrize("form", ["vector", "matrix", "blocks"])
def test_groups_of_one_row_are_the_independent_case(method, form):
    y, v, X, Z, alpha = simulate()
    # A covariance of 1e-300 makes the pair a block, and changes nothing else.
    pair = np.zeros((len(v), len(v)))
    pair[3, 9] = pair[9, 3] = 1e-300
    variance = {"vector": v, "matrix": np.diag(v), "blocks": np.diag(v) + pair}[form]
    data = arrange(y, X, (BlockTerm(np.arange(len(y)), Z),), variance=variance)
    assert data.layout.dense.any() == (form == "blocks")
    here = evaluate(alpha, data, method=method)
    there = closed_form.evaluate(alpha, y, v, X, Z, method=method)
    assert here.value == pytest.approx(there.value, abs=1e-9)
    for ours, theirs in (
        (here.score, there.score),
        (here.hessian, there.hessian),
        (here.beta, there.beta),
        (here.covariance, there.covariance),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_integrated_criterion_and_draws_are_those_of_the_independent_case():
    from bayes_lsm.likelihood.rows import integrated

    y, v, X, Z, alpha = simulate(1)
    prior = NormalPrior(np.array([0.2, -0.1]), np.array([[2.0, 0.3], [0.3, 1.0]]))
    data = arrange(y, X, (BlockTerm(np.arange(len(y)), Z),), variance=v)
    alphas = np.stack([alpha, -alpha, 0 * alpha])
    ours = log_likelihoods(alphas, data, method=prior)
    theirs = integrated.Integrated(y, v, X, Z, prior.mean, prior.precision).log_marginal(alphas)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)

    noise = np.random.default_rng(2).normal(size=(20_000, 2))
    drawn = draw_location(np.tile(alpha, (20_000, 1)), noise, data, prior=prior)
    there = evaluate(alpha, data, method=prior)
    # Moments of a linear map of the noise: exactly those of the noise, mapped.
    centred = np.linalg.solve(np.linalg.cholesky(there.covariance), (drawn - there.beta).T)
    np.testing.assert_allclose(centred @ centred.T / 20_000, np.eye(2), atol=0.05)
    still = draw_location(alphas[:1], np.zeros((1, 2)), data, prior=prior)
    np.testing.assert_allclose(still[0], there.beta, rtol=1e-10)


@METHODS
def test_rows_alike_in_all_but_y_are_collapsed_exactly(method):
    rng = np.random.default_rng(3)
    study, arm = np.repeat(np.arange(6), 20), np.tile(np.repeat([0, 1], 10), 6)
    y, X = rng.normal(size=120) + study, np.c_[np.eye(6)[study], arm]
    residual = BlockTerm(np.arange(120), np.eye(2)[arm])
    slopes = BlockTerm(study, np.ones((6, 1)), slopes=arm)
    data = arrange(y, X, (slopes, residual))
    assert len(data.layout.y) == 12
    assert data.n == 120
    # A variance of 1e-300 for every other row keeps the rows apart, but for pairs of cells.
    whole = arrange(y, X, (slopes, residual), variance=1e-300 * np.arange(120))
    assert len(whole.layout.y) == 120
    alpha = np.array([-0.5, 0.3, -0.2])
    a, b = evaluate(alpha, data, method=method), evaluate(alpha, whole, method=method)
    assert a.value == pytest.approx(b.value, abs=1e-10)
    np.testing.assert_allclose(a.score, b.score, atol=1e-10)
    np.testing.assert_allclose(a.hessian, b.hessian, atol=1e-10)
    # Every row is found in the cell that it went into.
    np.testing.assert_allclose(data.layout.X[data.cell, :6] > 0, X[:, :6] > 0)


def test_blocks_are_what_shares_a_group_or_a_covariance():
    y, X = np.arange(8.0), np.ones((8, 1))
    pairs = BlockTerm(np.array([0, 0, 1, 1, 2, 2, -1, -1]), np.ones((3, 1)))
    rows = BlockTerm(np.arange(8), np.ones((8, 1)))
    v = np.arange(1.0, 9.0)
    assert sorted(arrange(y, X, (pairs, rows), variance=v).blocks) == [2, 2, 2, 2]
    V = np.diag(v)
    V[1, 2] = V[2, 1] = 0.5
    data = arrange(y, X, (pairs, rows), variance=V)
    assert sorted(data.blocks) == [2, 2, 4]
    assert list(data.blocks[data.layout.dense]) == [4]
    # A slope of 0 ties a row to nothing.
    slopes = BlockTerm(np.zeros(8, int), np.ones((1, 1)), slopes=np.array([0, 1.0] * 4))
    assert sorted(arrange(y, X, (slopes,), variance=v).blocks) == [4, 4]


def test_a_sparse_covariance_is_the_same_as_a_full_one():
    y, _, X, Z, alpha = simulate(4, n=12)
    blocks = [sparse.coo_array(np.full((3, 3), 0.2) + np.eye(3) * k) for k in (1, 2, 3, 4)]
    V = sparse.block_diag(blocks)
    terms = (BlockTerm(np.arange(12), Z),)
    ours = [
        evaluate(alpha, arrange(y, X, terms, variance=each), method="REML").value
        for each in (sparse.csr_array(V), V.toarray())
    ]
    assert ours[0] == ours[1]


@METHODS
def test_digits_survive_variances_of_all_sizes(method):
    """τ²/v is 1e12 here: Woodbury's formula, with its cancellation, would keep four digits."""
    rng = np.random.default_rng(5)
    study, v = np.repeat(np.arange(5), 4), 1e-12 * np.arange(1, 21)
    y = rng.normal(size=5)[study] + np.sqrt(v) * rng.normal(size=20)
    data = arrange(y, np.ones((20, 1)), (BlockTerm(study, np.ones((5, 1))),), variance=v)
    here = evaluate(np.array([0.5]), data, method=method)
    # The same by hand: studies' weighted means have the variance τ² + 1/Σ(1/v).
    y, w = y.reshape(5, 4), 1 / v.reshape(5, 4)
    means = (w * y).sum(1) / w.sum(1)
    total = np.exp(0.5) + 1 / w.sum(1)
    beta = (means / total).sum() / (1 / total).sum()
    within = np.log(w).sum() - np.log(w.sum(1)).sum() - (w * (y - means[:, None]) ** 2).sum()
    between = -np.log(total).sum() - ((means - beta) ** 2 / total).sum()
    value = 0.5 * (within + between) - 10 * np.log(2 * np.pi)
    score = 0.5 * np.exp(0.5) * ((means - beta) ** 2 / total**2 - 1 / total).sum()
    if method == "REML":
        value += 0.5 * (np.log(2 * np.pi) - np.log((1 / total).sum()) + np.log(20))
        score += 0.5 * np.exp(0.5) * (1 / total**2).sum() / (1 / total).sum()
    # ε √(τ²/v), 2e-10, is what orthogonalisation may lose.
    assert here.beta[0] == pytest.approx(beta, rel=1e-9)
    assert here.covariance[0, 0] == pytest.approx(1 / (1 / total).sum(), rel=1e-9)
    assert here.value == pytest.approx(value, rel=1e-9)
    assert here.score[0] == pytest.approx(score, rel=1e-8)


@METHODS
def test_enormous_coefficients_give_finite_numbers(method):
    y, v, X, *_ = simulate(6, n=12)
    study = np.repeat(np.arange(3), 4)
    terms = BlockTerm(study, np.ones((3, 1))), BlockTerm(np.arange(12), np.ones((12, 1)))
    data = arrange(y, X, terms, variance=v)
    for alpha in ([-1e4, -1e4], [-1e4, 0.0], [0.0, -1e4], [40.0, 0.0]):
        here = evaluate(np.array(alpha), data, method=method)
        assert np.isfinite([here.value, *here.score, *here.hessian.ravel()]).all()


def test_what_is_singular_is_nan_not_a_crash():
    y, X = np.arange(6.0), np.ones((6, 1))
    alone = arrange(y, X, (BlockTerm(np.repeat([0, 1], 3), np.ones((2, 1))),))  # no residual
    assert np.isnan(evaluate(np.zeros(1), alone, method="REML").value)
    found = ascend(np.zeros(1), alone, method="REML")
    assert not found.converged


@METHODS
def test_no_terms_leave_a_value(method):
    y, v, X, *_ = simulate(7, n=9)
    data = arrange(y, X, (), variance=v)
    found = ascend(np.zeros(0), data, method=method)
    assert found.converged
    assert found.at.value == pytest.approx(dense(y, X, np.diag(v), method), rel=1e-12)


def test_one_study_and_one_row():
    data = arrange(
        np.array([0.3]),
        np.ones((1, 1)),
        (BlockTerm(np.zeros(1, int), np.ones((1, 1))),),
        variance=np.array([0.1]),
    )
    here = evaluate(np.array([0.0]), data, method="ML")
    assert here.value == pytest.approx(-0.5 * np.log(2 * np.pi * 1.1))


@METHODS
def test_ascent_ends_where_the_score_vanishes(method):
    rng = np.random.default_rng(8)
    outer, inner = np.repeat(np.arange(30), 6), np.repeat(np.arange(90), 2)
    X = np.c_[np.ones(180), rng.normal(size=180)]
    v = rng.uniform(0.02, 0.1, 180)
    y = rng.normal(size=30)[outer] + 0.5 * rng.normal(size=90)[inner]
    y += rng.normal(size=180) * np.sqrt(v + 0.2)
    terms = (
        BlockTerm(outer, np.c_[np.ones(30), rng.normal(size=30)]),
        BlockTerm(inner, np.ones((90, 1))),
        BlockTerm(np.arange(180), np.ones((180, 1))),
    )
    data = arrange(y, X, terms, variance=v)
    ends = [
        ascend(np.array(start, dtype=float), data, method=method, tolerance=1e-14)
        for start in ([0, 0, 0, 0], [-4, 0, -1, 2], [3, 0.5, -5, -5])
    ]
    for end in ends:
        assert end.converged
        np.testing.assert_allclose(end.at.score, 0, atol=1e-4)
        assert np.linalg.eigvalsh(end.at.hessian).max() < 0
        assert end.at.value == pytest.approx(ends[0].at.value, abs=1e-8)


def test_memory_is_linear_in_blocks():
    # 60,000 rows in 15,000 studies: an n × n array would need 29 GB.
    rng = np.random.default_rng(9)
    n, k = 60_000, 15_000
    study = np.repeat(np.arange(k), 4)
    X = np.c_[np.ones(n), rng.normal(size=n)]
    v = rng.uniform(0.1, 0.5, n)
    y = rng.normal(size=k)[study] + rng.normal(size=n) * np.sqrt(v + 0.5)
    terms = BlockTerm(study, np.ones((k, 1))), BlockTerm(np.arange(n), X)
    data = arrange(y, X, terms, variance=v)
    assert len(data.blocks) == k
    found = ascend(np.array([0.0, 0.0, 0.0]), data, method="REML")
    assert found.converged
    # True values; standard errors are about √(2/15,000) and √(2/60,000), each twice over.
    np.testing.assert_allclose(found.alpha, [0.0, np.log(0.5), 0.0], atol=0.06)
