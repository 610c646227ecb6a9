"""Shrinkage priors: the joint density by brute force, and the draws."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.datasets import load_dataset
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import PriorError
from bayes_lsm.priors import R2D2, Horseshoe, Normal, Priors
from bayes_lsm.specification import Specification

BOTH = [Horseshoe(0.5, 2.0), Horseshoe(0.05, 1.0), R2D2(), R2D2(0.3, 1.0, 2.0), R2D2(1.0, 2.0)]
each_prior = pytest.mark.parametrize("prior", BOTH, ids=str)


def _log_kernel(prior, theta, g):
    """ln f(θ | g) by adaptive quadrature over the local scale, in its logarithm."""

    def integrand(log_local):
        local = math.exp(log_local)
        if isinstance(prior, Horseshoe):
            sd = g * local / math.hypot(1, g * local / prior.slab_scale)
            weight = 2 / math.pi * local / (1 + local**2)
        else:
            sd = prior.scale * math.sqrt(local / g)
            weight = stats.gamma(prior.concentration).pdf(local) * local
        return stats.norm(0, sd).pdf(theta) * weight

    middle = math.log(abs(theta) / g) if isinstance(prior, Horseshoe) else 0.0
    edges = sorted({-30.0, min(middle, 0.0), max(middle, 0.0), 30.0})
    return math.log(
        sum(integrate.quad(integrand, a, b, limit=200)[0] for a, b in itertools.pairwise(edges))
    )


@each_prior
@pytest.mark.parametrize("theta", [1e-4, 0.03, 0.5, 3.0])
@pytest.mark.parametrize("g", [0.02, 1.0])
def test_the_conditional_density_is_the_integral_over_the_local_scale(prior, theta, g):
    found = prior._log_conditional(np.log([theta]), np.log([g]))[0, 0]
    assert found == pytest.approx(_log_kernel(prior, theta, g), abs=1e-5)  # quad's own 1e-8 of f


@each_prior
def test_one_slope_has_a_density_that_integrates_to_one(prior):
    # In ln |θ|, both signs; below e^-25 nothing is left (a density of at most |θ|^-½ there).
    log_size = np.linspace(math.log(1e-12), 25, 4000)
    density = 2 * np.exp(prior.logpdf(np.exp(log_size)) + log_size)
    below = 1 - np.trapezoid(density, log_size)
    # R2D2 has the share of |θ| < 1e-12: about (1e-12)^(2a), and a tail of θ^-2b beyond e^25.
    assert below == pytest.approx(0, abs=2e-5)


@each_prior
def test_draws_of_one_slope_follow_its_density(prior):
    draws = np.abs(prior.sample(5000, np.random.default_rng(4)))
    log_size = np.linspace(math.log(1e-12), 25, 4000)
    density = 2 * np.exp(prior.logpdf(np.exp(log_size)) + log_size)
    cdf = integrate.cumulative_trapezoid(density, log_size, initial=0)
    levels = np.interp(np.log(draws), log_size, cdf)
    assert stats.kstest(levels, "uniform").pvalue > 1e-3


@each_prior
def test_the_joint_density_is_that_of_the_draws(prior):
    # P(|θ₁| < a, |θ₂| < b) by the density and by counting: four standard errors of 40,000 draws.
    a, b = 0.2, 0.6
    draws = np.abs(prior.joint_sample(40_000, 2, np.random.default_rng(6)))
    share = np.mean((draws[:, 0] < a) & (draws[:, 1] < b))
    size = [np.linspace(-27, math.log(edge), 200) for edge in (a, b)]
    grid = np.stack(np.meshgrid(*size, indexing="ij"), axis=-1)
    density = 4 * np.exp(prior.joint_logpdf(np.exp(grid)) + grid.sum(axis=-1))
    inside = np.trapezoid(np.trapezoid(density, size[1], axis=1), size[0])
    assert inside == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 40_000))


def test_slopes_share_what_they_learn():
    prior = Horseshoe(0.1)
    apart = prior.logpdf(np.array([0.01, 0.01])).sum()
    together = prior.joint_logpdf(np.array([0.01, 0.01]))
    assert together > apart + 0.1  # two small slopes make each other likely


def test_the_share_that_the_moderators_explain_is_beta():
    prior = R2D2(0.5, 1.5, 2.0)
    rng = np.random.default_rng(9)
    gamma, xi = rng.standard_gamma(0.5, (4000, 6)), rng.standard_gamma(1.5, (4000, 1))
    variance = prior.scale**2 * (gamma / xi).sum(axis=1)
    share = variance / (variance + prior.scale**2)
    assert stats.kstest(share, stats.beta(0.5 * 6, 1.5).cdf).pvalue > 1e-3


def _block(priors, formula="~ continent + weeks"):
    design = build_design(
        Specification(f"yi {formula}", "vi", scale=formula), load_dataset("preterm_iq")
    )
    return resolve_priors(design, priors).scale


def test_a_block_has_the_joint_density_in_equal_parts():
    prior = Horseshoe(0.3)
    block = _block(Priors("slides", scale_shrinkage=prior, scale={"weeks": Normal(0, 1)}))
    assert block.shrunk == [1, 2]
    assert block.priors[0] == Normal(0, 7)  # of the preset, on the raw intercept
    rng = np.random.default_rng(3)
    coefficients = rng.normal(size=(3, 5, 4))
    values = block.logpdf(coefficients)
    theta = coefficients @ block.contrasts.T
    np.testing.assert_allclose(
        values[..., 1] + values[..., 2], prior.joint_logpdf(theta[..., [1, 2]]), rtol=1e-5
    )
    np.testing.assert_allclose(values[..., 1], values[..., 2])
    np.testing.assert_allclose(values[..., 3], Normal(0, 1).logpdf(coefficients[..., 3]))


def test_shrunk_slopes_are_per_sd_whatever_the_preset():
    weeks = load_dataset("preterm_iq")["weeks"]
    block = _block(Priors("slides", scale_shrinkage=R2D2()), "~ weeks")
    assert block.contrasts[1, 1] == pytest.approx(weeks.std())
    draws = block.sample(4000, np.random.default_rng(2))[:, 1] * weeks.std()
    others = R2D2().sample(4000, np.random.default_rng(5))
    assert stats.ks_2samp(draws, others).pvalue > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Horseshoe(-1), "global_scale: .*greater than 0"),
        (lambda: Priors(scale_shrinkage={"family": "lasso"}), "scale_shrinkage: family must be"),
        (
            lambda: Priors(scale_shrinkage=R2D2(), scale={"*": Normal()}),
            r"scale_shrinkage: .*scale\['\*'\] too; give one of them",
        ),
    ],
)
def test_a_faulty_shrinkage_prior_is_refused(make, message):
    with pytest.raises(PriorError, match=message):
        make()
