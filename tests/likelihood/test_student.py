"""The density of Student-t study effects, against integrals over the effects themselves."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import psi
from scipy.stats import gamma, norm
from scipy.stats import t as student

from bayes_lsm.likelihood.student import kernels as ours
from bayes_lsm.likelihood.student.kernels import digamma, terms

DF = (0.5, 1.0, 1.5, 2.0, 4.0, 7.0, 10.0, 30.0, 200.0, 1000.0)
RATIOS = (1e-6, 1e-2, 1.0, 100.0, 1e6)  # τ² / v
DISTANCES = (0.0, 1.0, 5.0, 20.0)  # of y from μ, in SDs √(v + τ²)


def _integral(r, v, tau, df, function=np.ones_like):
    """∫ function(u) t_ν(u; 0, τ) N(r − u; 0, v) du: no mixture of normals, no λ.

    Gauss–Legendre with 80 nodes a piece, between edges that step away from both peaks; beyond 40
    of its SDs the normal has no mass.
    """
    sd = np.sqrt(v)
    widths = np.array([0, 0.3, 1, 2, 4, 8, 16, 40, 100, 300, 1e3, 3e3, 1e4, 1e5])
    widths = np.r_[-widths, widths]
    edges = np.unique(np.clip(np.r_[widths * tau, r + widths * sd], r - 40 * sd, r + 40 * sd))
    nodes, weights = np.polynomial.legendre.leggauss(80)
    half = np.diff(edges)[:, None] / 2
    u = edges[:-1, None] + half * (1 + nodes)
    log_density = student.logpdf(u, df, scale=tau) + norm.logpdf(r - u, scale=sd)
    return np.sum(half * weights * function(u) * np.exp(log_density))


def _one(r, v, tau2, df):
    return terms(np.array([r]), np.array([v]), np.array([np.log(tau2)]), df)[:, 0]


@pytest.mark.parametrize("df", DF)
def test_density_is_the_convolution_of_t_and_normal(df):
    for ratio in RATIOS:
        for distance in DISTANCES:
            v = 0.09
            tau2 = ratio * v
            r = distance * np.sqrt(v + tau2)
            exact = np.log(_integral(r, v, np.sqrt(tau2), df))
            # The trapezoidal rule is good to 1e-10 (see the module); the pieces to less.
            assert _one(r, v, tau2, df)[ours.LOG_DENSITY] == pytest.approx(exact, abs=1e-9), (
                ratio,
                distance,
            )


@pytest.mark.parametrize("df", [1.0, 4.0, 30.0])
def test_weight_and_true_effect_are_posterior_means(df):
    v, tau2 = 0.04, 0.09
    for r in (0.1, 1.0, 4.0):
        found = _one(r, v, tau2, df)

        def mixture(lam, r=r):
            return norm.pdf(r, scale=np.sqrt(v + tau2 / lam)) * gamma.pdf(lam, df / 2, scale=2 / df)

        top, bottom = (
            quad(f, 0, np.inf, epsabs=1e-14, epsrel=1e-10, limit=500)[0]
            for f in (lambda lam: lam * mixture(lam), mixture)
        )
        assert found[ours.WEIGHT] == pytest.approx(top / bottom, rel=1e-7)
        mean = _integral(r, v, 0.3, df, lambda u: u) / _integral(r, v, 0.3, df)
        # Tweedie's formula.
        assert r + v * found[ours.BY_RESIDUAL] == pytest.approx(mean, rel=1e-8)


def test_derivatives_are_those_of_the_density():
    rng = np.random.default_rng(1)
    for _ in range(200):
        df = float(np.exp(rng.uniform(0, 6)))
        v = np.exp(rng.uniform(-5, 1, 3))
        log_tau2 = rng.uniform(-12, 4, 3)
        r = rng.normal(0, 3, 3) * np.sqrt(v + np.exp(log_tau2))
        h = 1e-4
        found = terms(r, v, log_tau2, df)
        up_down = {
            ours.BY_RESIDUAL: [terms(r + s, v, log_tau2, df)[0] for s in (h, -h)],
            ours.BY_LOG_TAU2: [terms(r, v, log_tau2 + s, df)[0] for s in (h, -h)],
            ours.BY_DF: [terms(r, v, log_tau2, df * (1 + s))[0] / df for s in (h, -h)],
        }
        for row, (up, down) in up_down.items():
            # Central differences: the values are good to 4e-11, which 2h divides; h² f''' is less
            # but for large residuals over small variances.
            np.testing.assert_allclose(found[row], (up - down) / (2 * h), rtol=2e-5, atol=2e-6)


def test_many_degrees_of_freedom_are_the_normal():
    rng = np.random.default_rng(2)
    v, log_tau2 = rng.uniform(0.01, 1, 50), rng.uniform(-4, 1, 50)
    sd = np.sqrt(v + np.exp(log_tau2))
    z = rng.uniform(-3, 3, 50)
    # The density differs by the factor 1 + O(z⁴ / 4ν), here 2e-7 at most.
    np.testing.assert_allclose(
        terms(z * sd, v, log_tau2, 1e8)[0], norm.logpdf(z * sd, scale=sd), atol=3e-7
    )


def test_nothing_overflows_at_the_extremes():
    for df in (0.05, 1.0, 50.0, 1e7):
        for log_tau2 in (-1000.0, -40.0, 40.0, 1000.0):
            for r in (0.0, 1e-8, 1e4):
                found = terms(np.array([r]), np.array([1e-3]), np.array([log_tau2]), df)
                assert np.isfinite(found).all(), (df, log_tau2, r)


def test_digamma_is_that_of_scipy():
    x = np.logspace(-3, 8, 200)
    np.testing.assert_allclose([digamma(each) for each in x], psi(x), rtol=1e-12, atol=1e-13)


def _mass_beyond(r, v, tau, df):
    """P(t_ν(0, τ) + N(0, v) > r) = ∫ P(t > r − e) N(e; 0, v) de, by Gauss–Legendre pieces."""
    sd = np.sqrt(v)
    widths = np.r_[0, np.logspace(-3, 5, 60)] * tau
    edges = np.r_[np.linspace(-12, 12, 49) * sd, r + widths, r - widths]
    edges = np.unique(np.clip(edges, -12 * sd, 12 * sd))
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = np.diff(edges)[:, None] / 2
    e = edges[:-1, None] + half * (1 + nodes)
    return np.sum(half * weights * norm.pdf(e, scale=sd) * student.sf((r - e) / tau, df))


@pytest.mark.parametrize("df", [0.5, 1.0, 2.0, 4.0, 30.0, 1000.0])
def test_tails_are_those_of_the_convolution(df):
    v = 0.09
    for ratio in RATIOS:
        tau2 = ratio * v
        r = np.array([[0.0, 0.3, 1.0, 3.0, 5.0]]) * np.sqrt(v + tau2)
        found = ours.tails(-r, np.full(5, v), np.full((1, 5), np.log(tau2)), np.array([df]))
        exact = [_mass_beyond(each, v, np.sqrt(tau2), df) for each in r[0]]
        # The trapezoidal rule is good to 1e-10 of the total, which is at most ½, and beyond 12
        # SDs the normal has 4e-33.
        np.testing.assert_allclose(found[0], exact, rtol=1e-7, atol=1e-10)


def test_tails_end_at_the_extremes_and_are_symmetric():
    r = np.array([[0.0, 1e-8, 1.0, 50.0, 1e4, 1e8]])
    for df in (0.05, 1.0, 50.0, 1e9):
        for log_tau2 in (-1000.0, -40.0, 0.0, 40.0, 1000.0):
            arguments = np.full(6, 1e-3), np.full((1, 6), log_tau2), np.array([df])
            found = ours.tails(r, *arguments)[0]
            assert np.isfinite(found).all()
            # With ν = 0.05 there is mass even where λ underflows: e^(−690 ν/2).
            assert found[0] == pytest.approx(0.5, abs=1e-7)
            assert (np.diff(found) <= 1e-12).all()
            np.testing.assert_array_equal(ours.tails(-r, *arguments)[0], found)
