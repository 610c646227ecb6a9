"""Correlation matrices: what they must be, and their derivatives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_lsm.design.scale_terms import correlation_count
from bayes_lsm.likelihood.blocks.correlation_matrices import (
    correlation_factors,
    correlation_matrices,
    kappas_of,
)
from bayes_lsm.likelihood.blocks.correlations import COMPOUND, UNSTRUCTURED, correlate


def correlations(kind, kappa, s):
    pairs, h = s * (s - 1) // 2, len(kappa)
    out = np.empty(pairs), np.empty((pairs, h)), np.empty((pairs, h, h)), np.empty((s, s))
    correlate(kind, np.asarray(kappa, dtype=float), *out)
    return out


def matrix(rho, s):
    R = np.eye(s)
    R[np.tril_indices(s, -1)] = rho
    return R + np.tril(R, -1).T


@given(
    kind=st.sampled_from([COMPOUND, UNSTRUCTURED]), s=st.integers(2, 5), seed=st.integers(0, 9999)
)
@settings(max_examples=50, deadline=None)
def test_any_numbers_give_a_correlation_matrix_and_its_derivatives(kind, s, seed):
    h = 1 if kind == COMPOUND else s * (s - 1) // 2
    kappa = np.random.default_rng(seed).normal(size=h)
    rho, first, second, L = correlations(kind, kappa, s)
    R = matrix(rho, s)
    assert np.linalg.eigvalsh(R).min() > 0
    np.testing.assert_allclose(L @ L.T, R, atol=1e-14)
    step = 1e-5
    for j, e in enumerate(step * np.eye(h)):
        up, down = correlations(kind, kappa + e, s), correlations(kind, kappa - e, s)
        # Central differences: step² of a third derivative of size 1 to 10, and rounding / step.
        np.testing.assert_allclose(first[:, j], (up[0] - down[0]) / (2 * step), atol=1e-8)
        np.testing.assert_allclose(second[..., j], (up[1] - down[1]) / (2 * step), atol=1e-8)


def test_two_effects_have_fishers_z_in_either_form():
    for kind in (COMPOUND, UNSTRUCTURED):
        assert correlations(kind, [0.7], 2)[0] == pytest.approx([np.tanh(0.7)], rel=1e-14)


def test_compound_symmetry_spans_all_that_is_positive_definite():
    assert correlations(COMPOUND, [0.0], 4)[0] == pytest.approx(np.zeros(6))
    assert correlations(COMPOUND, [-15.0], 4)[0] == pytest.approx(np.full(6, -1 / 3), abs=1e-6)
    assert correlations(COMPOUND, [15.0], 4)[0] == pytest.approx(np.ones(6), abs=1e-6)


@pytest.mark.parametrize("kind", [COMPOUND, UNSTRUCTURED])
def test_enormous_numbers_stay_finite(kind):
    rho, first, second, _ = correlations(kind, [1e6], 2)
    assert np.isfinite([*rho, *first.ravel(), *second.ravel()]).all()


@pytest.mark.parametrize("kind", ["unstructured", "compound_symmetric"])
@pytest.mark.parametrize("s", [2, 3, 5])
def test_factors_have_the_correlations_even_where_rounding_makes_them_one(kind, s):
    h = correlation_count(s, kind)
    kappa = np.vstack([np.random.default_rng(s).normal(0, 1, (20, h)), np.full((2, h), 25.0)])
    kappa[-1] *= -1
    L, R = correlation_factors(kappa, s, kind), correlation_matrices(kappa, s, kind)
    # A pivot of s terms of size 1, each rounded to 1e-16, and its root near 0.
    np.testing.assert_allclose(L @ np.swapaxes(L, 1, 2), R, atol=1e-14)
    assert (np.tril(L) == L).all()
    np.testing.assert_allclose(L[:20], np.linalg.cholesky(R[:20]), atol=1e-12)


@pytest.mark.parametrize("kind", ["unstructured", "compound_symmetric"])
def test_correlations_that_rounding_makes_one_are_read(kind):
    """κ beyond 19 gives ρ = 1 to the last digit: a singular matrix, whose κ is as large as any."""
    kappa = np.array([[0.4], [25.0], [-25.0]])
    found = kappas_of(correlation_matrices(kappa, 2, kind), kind)
    assert found[0] == pytest.approx(0.4, rel=1e-12)
    assert found[1] > 18
    assert found[2] < -18
    three = kappas_of(np.ones((1, 3, 3)), "unstructured")
    assert np.isfinite(three).all()
    np.testing.assert_allclose(correlation_matrices(three, 3, "unstructured"), 1.0, atol=1e-12)
