"""The compiled loops compute what `independent` says, for any p and q."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from bayes_lsm.likelihood.rows import ascent, kernels
from bayes_lsm.likelihood.rows.closed_form import evaluate, log_likelihood

NO_OFFSET, NO_ZERO = np.empty(0), np.empty(0, dtype=bool)


def _data(seed, n, p, q, spread=1.0):
    rng = np.random.default_rng(seed)
    X = np.c_[np.ones(n), rng.normal(size=(n, p - 1))]
    Z = np.c_[np.ones(n), rng.normal(size=(n, q - 1))]
    v = np.exp(spread * rng.normal(size=n))
    y = rng.normal(X @ rng.normal(size=p), np.sqrt(v + np.exp(0.3 * Z @ np.ones(q))))
    return y, v, X, Z, rng.normal(scale=0.5, size=q)


def _problem(y, v, X, Z, *, reml, offset=NO_OFFSET, zero=NO_ZERO, identity=False):
    X, Z = np.ascontiguousarray(X.T), np.ascontiguousarray(Z.T)
    return kernels.Problem(y, v, X, Z, offset, zero, identity, reml)


def _kernel(alpha, y, v, X, Z, **settings):
    n, p, q = len(y), X.shape[1], Z.shape[1]
    problem, work = _problem(y, v, X, Z, **settings), kernels.workspace(n, p, q)
    score, hessian = np.empty(q), np.empty((q, q))
    beta, covariance = np.empty(p), np.empty((p, p))
    value = kernels.evaluate(alpha, problem, work, score, hessian)
    only = kernels.evaluate_value(alpha, problem, work)
    assert only == value or np.isnan([only, value]).all()
    if np.isfinite(value):
        kernels.locate(alpha, problem, work, beta, covariance)
    return value, score, hessian, beta, covariance


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    p=st.integers(1, 4),
    q=st.integers(1, 4),
    method=st.sampled_from(["REML", "ML"]),
    masked=st.booleans(),
)
def test_kernel_equals_the_readable_formulas(seed, p, q, method, masked):
    y, v, X, Z, alpha = _data(seed, 25, p, q, spread=2.0)
    zero = np.random.default_rng(seed).uniform(size=25) < 0.3 if masked else NO_ZERO
    value, score, hessian, beta, covariance = _kernel(
        alpha, y, v, X, Z, reml=method == "REML", zero=zero
    )
    mask = zero if masked else None
    theirs = evaluate(alpha, y, v, X, Z, method=method, zero=mask)
    other = evaluate(0.5 * alpha, y, v, X, Z, method=method, zero=mask)
    # Values differ by constants; all else is the same sum in another order.
    half = _kernel(0.5 * alpha, y, v, X, Z, reml=method == "REML", zero=zero)[0]
    assert value - half == pytest.approx(theirs.value - other.value, abs=1e-9)
    for ours, exact in (
        (score, theirs.score),
        (hessian, theirs.hessian),
        (beta, theirs.beta),
        (covariance, theirs.covariance),
    ):
        np.testing.assert_allclose(ours, exact, rtol=1e-8, atol=1e-9 * (1 + np.abs(exact).max()))


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("identity", [True, False])
def test_score_and_hessian_are_derivatives_of_the_value(reml, identity):
    y, v, X, Z, alpha = _data(3, 30, 3, 3)
    offset = np.full(30, 0.3)
    if identity:
        alpha, offset = 0.05 * alpha, np.full(30, 1.0)  # τ² stays positive
    given = {"reml": reml, "identity": identity, "offset": offset}
    _, score, hessian, *_ = _kernel(alpha, y, v, X, Z, **given)
    h = 1e-5
    for j in range(3):
        step = h * np.eye(3)[j]
        up, down = (_kernel(alpha + s * step, y, v, X, Z, **given) for s in (1, -1))
        # Central differences are good to h² = 1e-10 times a third derivative, and to rounding / h.
        assert score[j] == pytest.approx((up[0] - down[0]) / (2 * h), rel=1e-6, abs=1e-7)
        np.testing.assert_allclose(hessian[j], (up[1] - down[1]) / (2 * h), rtol=1e-6, atol=1e-7)


def test_identity_link_value_is_that_of_the_dense_normal():
    y, v, X, Z, _ = _data(4, 12, 2, 2)
    alpha = np.array([0.8, 0.1])
    value, _, _, beta, _ = _kernel(alpha, y, v, X, Z, reml=False, identity=True)
    dense = multivariate_normal(X @ beta, np.diag(v + Z @ alpha)).logpdf(y)
    assert value == pytest.approx(dense + 6 * np.log(2 * np.pi), abs=1e-10)


def test_offset_is_a_fixed_column():
    y, v, X, Z, alpha = _data(5, 20, 2, 3)
    whole = _kernel(alpha, y, v, X, Z, reml=True)
    part = _kernel(
        alpha[:2], y, v, X, np.ascontiguousarray(Z[:, :2]), reml=True, offset=alpha[2] * Z[:, 2]
    )
    assert whole[0] == pytest.approx(part[0], abs=1e-12)
    np.testing.assert_allclose(whole[1][:2], part[1], rtol=1e-10)


def test_digits_survive_sampling_variances_of_all_sizes():
    """The normal equations would have a condition number of 1e16 here, and lose everything."""
    y, v, X, Z, alpha = _data(6, 40, 3, 2)
    v = np.logspace(-12, 4, 40)
    alpha = np.array([-40.0, 0.0])
    value, *_ = _kernel(alpha, y, v, X, Z, reml=True)
    exact = log_likelihood(y, v, X, np.exp(Z @ alpha), method="REML")
    other = _kernel(alpha + 0.1, y, v, X, Z, reml=True)[0]
    exact_other = log_likelihood(y, v, X, np.exp(Z @ (alpha + 0.1)), method="REML")
    assert value - other == pytest.approx(exact - exact_other, rel=1e-7, abs=1e-7)


def _ascend(start, y, v, X, Z, *, tolerance=1e-15):
    """One ascent by itself."""
    found, _ = ascent.climb(
        start[None],
        _problem(y, v, X, Z, reml=True),
        tolerance,
        1e-10,
        ascent.allocate(0, X.shape[1], Z.shape[1]),
        False,
    )
    return found


def test_exponentials_are_those_of_numpy():
    x = np.r_[np.random.default_rng(1).uniform(-700, 300, size=1000), 0.0, -1e-300, 300.0]
    out = np.empty_like(x)
    kernels.exponentials(x, out)
    # Two units in the last place.
    np.testing.assert_allclose(out, np.exp(x), rtol=4.5e-16)
    ends = np.array([-np.inf, np.inf, np.nan])
    out = np.empty(3)
    kernels.exponentials(ends, out)
    assert out[0] < 1e-300
    assert out[1] == pytest.approx(np.exp(300.0))
    assert np.isnan(out[2])


@pytest.mark.parametrize("n", [255, 256, 257, 700])
def test_blocks_of_studies_add_up(n):
    y, v, X, Z, alpha = _data(11, n, 2, 2)
    value, score, hessian, *_ = _kernel(alpha, y, v, X, Z, reml=True)
    theirs = evaluate(alpha, y, v, X, Z, method="REML")
    half = _kernel(0.5 * alpha, y, v, X, Z, reml=True)[0]
    other = evaluate(0.5 * alpha, y, v, X, Z, method="REML")
    assert value - half == pytest.approx(theirs.value - other.value, abs=1e-8)
    np.testing.assert_allclose(score, theirs.score, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(hessian, theirs.hessian, rtol=1e-8, atol=1e-8)


def test_ascent_ends_where_the_score_vanishes():
    y, v, X, Z, _ = _data(7, 60, 2, 3)
    starts = np.zeros((5, 3))
    starts[:, 0] = np.linspace(-3, 3, 5)
    problem = _problem(y, v, X, Z, reml=True)
    found = ascent.climb_parallel(starts, problem, 1e-15, 1e-10)
    assert found.converged.all()
    np.testing.assert_allclose(found.value, found.value[0], atol=1e-10)
    _, score, hessian, beta, covariance = _kernel(found.alpha[0], y, v, X, Z, reml=True)
    np.testing.assert_allclose(score, 0, atol=1e-6)
    assert np.linalg.eigvalsh(hessian).max() < 0
    np.testing.assert_allclose(found.beta[0], beta)
    np.testing.assert_allclose(found.covariance[0], covariance)


@pytest.mark.parametrize("seed", range(20))
def test_cut_climbs_lead_to_the_summits_of_whole_ones(seed):
    rng = np.random.default_rng(seed)
    y, v, X, Z, _ = _data(seed, 12, 1, 2, spread=2.0)
    y[rng.integers(12)] += 20.0  # an outlier makes several summits
    starts = rng.normal(scale=4.0, size=(30, 2))
    problem = _problem(y, v, X, Z, reml=True)
    whole = ascent.climb_parallel(starts, problem, 1e-15, 1e-10)
    known, first = ascent.climb(starts[:10], problem, 1e-15, 1e-10, ascent.allocate(0, 1, 2), True)
    cut, then = ascent.climb(starts[10:], problem, 1e-15, 1e-10, known, True)
    assert len(cut.value) < len(starts)
    for i, known_value in enumerate(known.value):
        assert cut.value[i] == known_value
    leads_to = np.r_[first, then]
    np.testing.assert_allclose(cut.value[leads_to], whole.value, atol=1e-9)


def test_batches_equal_single_ascents():
    y, v, X, Z, _ = _data(8, 30, 2, 2)
    rng = np.random.default_rng(9)
    start = np.zeros(2)
    orders = np.array([rng.permutation(30) for _ in range(40)])
    Y = rng.normal(size=(40, 30)) + y
    problem, none = _problem(y, v, X, Z, reml=True), np.empty((0, 30), dtype=np.intp)
    shuffled = ascent.climb_sets(start[None], y[None], problem, none, orders, 1e-12)
    moved = ascent.climb_sets(start[None], y[None], problem, orders, none, 1e-12)
    simulated = ascent.climb_sets(np.tile(start, (40, 1)), Y, problem, none, none, 1e-12)
    for i in (0, 1, 17, 39):
        cases = (
            (shuffled, y, X, Z[orders[i]]),
            (moved, y, X[orders[i]], Z),
            (simulated, Y[i], X, Z),
        )
        for batch, y_i, X_i, Z_i in cases:
            single = _ascend(start, y_i, v, X_i, Z_i, tolerance=1e-12)
            assert batch.value[i] == pytest.approx(single.value[0], abs=1e-10)
            np.testing.assert_allclose(batch.alpha[i], single.alpha[0], atol=1e-6)


def test_collinear_columns_give_nan_not_a_crash():
    y, v, X, Z, alpha = _data(10, 10, 2, 2)
    X = np.c_[X, np.zeros(10)]
    assert np.isnan(_kernel(alpha, y, v, X, Z, reml=True)[0])
