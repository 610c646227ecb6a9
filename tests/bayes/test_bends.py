"""The map from normal to skewed coordinates that NUTS moves in."""

import numpy as np
import pytest
from scipy import stats

from bayes_lsm.bayes.engines.skewness_map import Bends, fit_bends, t_scatter


def _bend(bends: Bends, z):
    """θ of one z (q,), by the formula."""
    y = bends.m + bends.a * z + bends.b * np.sqrt(bends.s**2 + (z - bends.c) ** 2)
    return bends.centre + bends.axes @ y


def _draws(seed):
    """A long lower tail as of ln τ², correlated with a normal coefficient."""
    rng = np.random.default_rng(seed)
    first = np.log(rng.exponential(size=4000))
    return np.column_stack([first, 0.6 * first + rng.normal(size=4000)])


@pytest.fixture(scope="module")
def skewed():
    return _draws(1)


def test_the_inverse_and_the_jacobian_are_the_map_s(skewed):
    bends = fit_bends(skewed)
    for z in np.random.default_rng(2).normal(scale=3, size=(20, 2)):
        back, log_det = bends.unbend(_bend(bends, z)[None])
        np.testing.assert_allclose(back[0], z, atol=1e-9)
        # A central difference with step h is off by h² of the third derivative: 1e-10 here.
        h = 1e-5
        steps = [(_bend(bends, z + e) - _bend(bends, z - e)) / (2 * h) for e in h * np.eye(2)]
        assert log_det[0] == pytest.approx(np.log(abs(np.linalg.det(steps))), abs=1e-7)


def _log_density(bends: Bends, theta):
    z, log_det = bends.unbend(theta)
    return stats.norm.logpdf(z).sum(axis=1) - log_det


def test_new_draws_are_likelier_under_the_map_than_under_the_best_normal(skewed):
    """The nearest 97%, to which the map is fitted; differences of means are known to 0.01."""
    new = _draws(3)
    new = new[new[:, 0] > np.quantile(new[:, 0], 0.03)]
    normal = stats.multivariate_normal(new.mean(axis=0), np.cov(new.T)).logpdf(new)
    assert np.mean(_log_density(fit_bends(skewed), new) - normal) > 0.03


def test_a_far_region_of_little_mass_leaves_the_map_as_it_is(skewed):
    """0.5% of the draws, 60 standard deviations away; a normal fit would lose 4 nats a draw."""
    far = skewed.copy()
    far[:20] += 100
    moved, plain = (_log_density(fit_bends(draws), skewed[20:]) for draws in (far, skewed))
    assert np.mean(moved - plain) == pytest.approx(0, abs=0.1)


def test_t_scatter_solves_the_likelihood_s_equations():
    """At the maximum of the t likelihood the weighted residuals and their squares balance."""
    x = stats.multivariate_t([1, -2], [[2, 0.5], [0.5, 1]], df=3, seed=5).rvs(2000)
    centre, scatter = t_scatter(x)
    ours = stats.multivariate_t(centre, scatter, df=3).logpdf(x).sum()
    for j in range(2):
        for step in (-0.05, 0.05):
            moved = centre.copy()
            moved[j] += step
            assert stats.multivariate_t(moved, scatter, df=3).logpdf(x).sum() < ours
    for factor in (0.95, 1.05):
        assert stats.multivariate_t(centre, factor * scatter, df=3).logpdf(x).sum() < ours
