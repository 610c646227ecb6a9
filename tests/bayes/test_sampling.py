"""NUTS: its coordinates leave the posterior alone, and it samples well."""

import warnings

import numpy as np
import pytensor
import pytest
from scipy.stats import norm

import bayes_lsm as lsm
from bayes_lsm.bayes.graph import build_latent_pymc_model, build_pymc_model
from bayes_lsm.bayes.sampler_coordinates import build_sampling_model, pilot_data
from bayes_lsm.priors import Flat, HalfNormal, Priors
from bayes_lsm.specification import find_specification

# With one scale term; models of several have their own tests.
ONE_TERM = [name for name in lsm.list_models() if not find_specification(name).scale_terms]

BUILDERS = {"integrated": build_pymc_model, "latent": build_latent_pymc_model}
QUICK = {"engine": "nuts", "draws": 400, "tune": 300, "progress": False}


PRIORS = {
    "standardised": Priors("weakly_informative"),
    "raw": Priors("slides"),
    "raw half-normal": Priors("slides", scale={"intrcpt": HalfNormal(3)}),
    "flat slope": Priors(scale={"weeks": Flat()}),
}


@pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS.keys())
@pytest.mark.parametrize("priors", PRIORS.values(), ids=PRIORS.keys())
def test_density_of_the_coordinates_is_the_model_s_times_the_jacobian(builder, priors):
    """The coefficients' density, against that of z by a Jacobian from differences."""
    spec = lsm.Specification("yi ~ weeks", "vi", scale="~ weeks")
    design = lsm.build_design(spec, lsm.load_dataset("raudenbush1985"))
    model = builder(design, priors)
    moved = build_sampling_model(model, pilot_data(design, priors, seed=1))
    inputs = moved.value_vars
    names = [name for name in ("location", "scale", "true_effect") if name in moved.named_vars]
    outputs = moved.replace_rvs_by_values([moved[name] for name in names])
    mode = "FAST_COMPILE"
    of_z = pytensor.function(inputs, [moved.logp(), *outputs], mode=mode)
    sizes = [len(design.labels) if each.name == "z_study" else 2 for each in inputs]
    y, v, X, Z = design.y, design.v, design.X, design.Z
    resolved = lsm.bayes.graph.resolve_priors(design, priors)

    def evaluate(z):
        density, *parts = of_z(*np.split(z, np.cumsum(sizes)[:-1]))
        return float(density), np.concatenate(parts)

    def log_posterior(values):
        location, scale = values[:2], values[2:4]
        total = resolved.location.logpdf(location).sum() + resolved.scale.logpdf(scale).sum()
        mean, tau = X @ location, np.exp(Z @ scale / 2)
        if builder is build_pymc_model:
            return total + norm.logpdf(y, mean, np.hypot(np.sqrt(v), tau)).sum()
        true = values[4:]
        return total + norm.logpdf(true, mean, tau).sum() + norm.logpdf(y, true, np.sqrt(v)).sum()

    excess = []
    # Not so far out that τ, and with it the density of a true effect, is zero in double precision.
    for z in np.random.default_rng(3).normal(0, 0.15, size=(4, sum(sizes))):
        density, values = evaluate(z)
        steps = 1e-5 * np.eye(len(z))
        jacobian = [(evaluate(z + h)[1] - evaluate(z - h)[1]) / 2e-5 for h in steps]
        excess.append(density - log_posterior(values) - np.linalg.slogdet(jacobian)[1])
    # Equal up to one constant; differences leave errors of 1e-9 or so in each of the entries.
    np.testing.assert_allclose(excess, excess[0], atol=1e-4)


def test_everything_that_is_shared_is_replaced(continent):
    model = build_latent_pymc_model(continent.design)
    numbers = pilot_data(continent.design, Priors(), seed=1)
    moved = build_sampling_model(model, numbers)
    outputs = moved.replace_rvs_by_values(moved.deterministics)
    shared = {
        leaf.name
        for leaf in pytensor.graph.traversal.ancestors([moved.logp(), *outputs])
        if isinstance(leaf, pytensor.compile.sharedvalue.SharedVariable)
    }
    # The lengths of the dimensions are shared too; where they matter they are in the key.
    replaced = {each.name for each in model.data_vars} | numbers.keys()
    assert shared <= replaced | model.coords.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_TERM)
def test_every_model_file_is_sampled_efficiently(name):
    """No divergence, and one effective draw in two.

    Of the half-flat one nothing can be promised: what is too little has to be said.
    """
    model = lsm.LocationScaleModel.from_file(name)
    for seed in (1, 2, 3):
        with warnings.catch_warnings():
            # One seed in three steps into the far region, which holds 0.6% of the mass.
            warnings.simplefilter("ignore", lsm.ConvergenceWarning)
            fit = model.fit_bayes(engine="nuts", draws=8000, seed=seed, progress=False)
        assert int(fit.draws.stats["diverging"].sum()) == 0
        fewest = fit.summary()["ess_bulk"].min()
        assert fewest >= 400 or fit.problems
        if name != "preterm_continent":
            assert fit.converged
            assert fewest >= 0.5 * 8000
        assert np.isfinite(fit.summary().to_numpy()).all()
