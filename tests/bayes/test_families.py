"""The PyMC twin of every prior is the same distribution, by another route."""

from typing import get_args

import numpy as np
import pymc as pm
import pytest
from scipy import stats

import bayes_lsm as lsm
from bayes_lsm.bayes.pymc_model import families
from bayes_lsm.priors import (
    R2D2,
    Cauchy,
    Flat,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    Horseshoe,
    InverseGamma,
    Laplace,
    Logistic,
    LogNormal,
    Normal,
    Prior,
    PriorBlock,
    StudentT,
    Uniform,
)

# Several of a family in one block, stated on different things.
PRIORS = (
    Normal(1, 2),
    Normal(-2, 1, on="log_tau"),
    StudentT(5, -3.44, 2.59),
    StudentT(3, 0, 1, on="log_tau"),
    Cauchy(0, 0.7),
    Laplace(0.5, 2),
    Logistic(0.5, 1),
    Uniform(-9, 9),
    Uniform(0, 9, on="tau"),
    Uniform(0, 90, on="tau2"),
    Flat(),
    HalfNormal(2),
    HalfNormal(3, on="tau2"),
    HalfStudentT(3, 0.5),
    HalfCauchy(0.3),
    LogNormal(-2.56, 1.74, on="tau2"),
    LogNormal(-1, 1),
    InverseGamma(1, 0.15),
    InverseGamma(2, 1, on="tau"),
)
NAMES = [f"x{j}" for j in range(len(PRIORS))]


def test_every_family_has_a_twin_and_is_tested():
    kinds = {type(prior) for prior in PRIORS}
    assert kinds == set(get_args(Prior))
    assert all(hasattr(pm, kind.twin.distribution) for kind in kinds)


def test_the_twins_have_the_density_of_the_priors_in_the_coordinates_of_theta():
    """log p(value variables) = log p(θ) + log |dθ / d value|, up to one constant for all values."""
    with pm.Model() as model:
        theta = families.theta("scale", NAMES, PriorBlock(np.eye(len(PRIORS)), PRIORS))
        pm.Deterministic("theta", theta)
    block = PriorBlock(np.eye(len(PRIORS)), PRIORS)
    logp = model.compile_logp()
    to_theta = model.compile_fn(
        model.replace_rvs_by_values([model["theta"]]), inputs=model.value_vars, point_fn=True
    )
    start = model.initial_point()
    rng = np.random.default_rng(7)
    gaps = []
    for _ in range(6):
        point = {name: rng.normal(0, 0.7, size=value.shape) for name, value in start.items()}

        def theta_at(flat, point=point):
            parts = np.split(flat, np.cumsum([v.size for v in point.values()])[:-1])
            return to_theta(dict(zip(point, parts, strict=True)))[0]

        flat = np.concatenate(list(point.values()))
        h = 1e-5
        jacobian = np.array(
            [(theta_at(flat + h * e) - theta_at(flat - h * e)) / (2 * h) for e in np.eye(len(flat))]
        )
        ours = block.logpdf(theta_at(flat)).sum() + np.linalg.slogdet(jacobian)[1]
        gaps.append(float(logp(point)) - ours)
    # The central differences are good to 1e-9 each. All densities are normalised: no constant.
    np.testing.assert_allclose(gaps, 0, atol=1e-6)


@pytest.mark.parametrize("prior", [Horseshoe(0.3, 2.0), R2D2(0.5, 1.0, 1.5)], ids=str)
def test_a_shrinkage_prior_draws_the_same_slopes(prior):
    priors = (HalfNormal(1), prior, prior, prior)
    block = PriorBlock(np.eye(4), priors)
    with pm.Model() as model:
        theta = families.theta("scale", list("abcd"), block)
        drawn = pm.draw(theta, draws=3000, random_seed=1)
    ours = block.sample(3000, np.random.default_rng(2))
    for j in (0, 1, 3):
        assert stats.ks_2samp(drawn[:, j], ours[:, j]).pvalue > 1e-3
    # What slopes share: their sizes go together.
    pairs = [stats.spearmanr(np.abs(each[:, 1]), np.abs(each[:, 2]))[0] for each in (drawn, ours)]
    assert pairs[0] == pytest.approx(pairs[1], abs=4 * np.sqrt(2 / 3000))
    assert pairs[0] > 0.1
    assert {"scale_global", "scale_local", "scale_shrunk"} <= set(model.named_vars)


def _model(**options):
    return lsm.LocationScaleModel(
        "yi ~ ablat", scale="~ ablat + year", variance="vi", data=lsm.load_dataset("bcg"), **options
    )


def test_shrinkage_and_heavy_tails_are_for_nuts():
    model = _model()
    for priors in (
        lsm.priors.Priors(scale_shrinkage=Horseshoe()),
        lsm.priors.Priors(location={"ablat": StudentT(3)}),
        lsm.priors.Priors(location={"ablat": Flat()}),
    ):
        with pytest.raises(lsm.FitError, match=r"needs normal priors .* engine='nuts'"):
            model.fit_bayes(prior=priors, engine="collapsed")
        pm_model = model.to_pymc(prior=priors)
        assert np.isfinite(pm_model.compile_logp()(pm_model.initial_point()))


def test_any_prior_of_the_scale_part_is_for_the_collapsed_engine():
    priors = lsm.priors.Priors(
        tau=InverseGamma(1, 0.15), scale={"ablat": StudentT(4), "year": Uniform(-1, 1)}
    )
    fit = _model().fit_bayes(prior=priors, engine="collapsed", seed=1, draws=1000)
    assert fit.draws.importance.pareto_k < 0.7
    assert np.abs(fit.draws.flat_scale[:, 2]).max() <= 1
    assert "Uniform(-1, 1)" in str(fit)
    assert np.isfinite(fit.posterior["log_prior"]["scale"].to_numpy()).all()


@pytest.mark.slow
def test_nuts_under_a_horseshoe_and_a_flat_prior():
    priors = lsm.priors.Priors(
        location={"ablat": Flat()}, scale_shrinkage=Horseshoe(0.3), tau=HalfNormal(1)
    )
    fit = _model().fit_bayes(prior=priors, seed=1, draws=2000, target_accept=0.99, progress=False)
    assert fit.draws.importance is None
    tree = fit.posterior
    assert "prior" not in tree.children
    assert np.isfinite(tree["log_prior"]["scale"].to_numpy()).all()
    # With one location slope flat it is about that of REML.
    reml = _model().fit_reml()
    gap = fit.location.loc["ablat", "median"] - reml.location.loc["ablat", "estimate"]
    assert abs(gap) < reml.location.loc["ablat", "se"]
