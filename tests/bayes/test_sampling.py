"""NUTS: its coordinates leave the posterior alone, and it samples well."""

import numpy as np
import pytensor
import pytest
from scipy.stats import norm

import bayes_lsm as lsm
from bayes_lsm.bayes.engines.nuts_coordinates import build_sampling_model, pilot_data
from bayes_lsm.bayes.pymc_model.graph import build_latent_pymc_model, build_pymc_model
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.priors import Flat, HalfNormal, Priors
from bayes_lsm.specification import find_specification

# With one scale term; models of several have their own tests.
ONE_TERM = [name for name in lsm.list_models() if isinstance(find_specification(name).scale, str)]

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
    unknowns = 4 + (19 if builder is build_latent_pymc_model else 0)
    # Not so far out that τ, and with it the density of a true effect, is zero in double precision.
    z = np.random.default_rng(3).normal(0, 0.15, size=(4, unknowns))
    excess = _excess(builder, design, priors, z)
    # Equal up to one constant; differences leave errors of 1e-9 or so in each of the entries.
    np.testing.assert_allclose(excess, excess[0], atol=1e-4)


def test_density_of_the_coordinates_holds_on_the_way_to_the_far_region(continent):
    """Along the first coordinate, where the map turns from the body to the far region."""
    priors = Priors("slides")
    z = np.random.default_rng(4).normal(0, 0.3, size=(5, 8))
    first = [each.name for each in _moved(build_pymc_model, continent.design, priors).value_vars]
    z[:, 4 * first.index("z_scale")] = [0, 2, 2.3, 2.5, 2.8]
    excess = _excess(build_pymc_model, continent.design, priors, z)
    # Differences of θ, which moves by hundreds there, leave errors of 1e-7 in the last row.
    np.testing.assert_allclose(excess, excess[0], atol=1e-4)


def _moved(builder, design, priors):
    return build_sampling_model(builder(design, priors), pilot_data(design, priors, seed=1))


def _excess(builder, design, priors, zs):
    """ln of the density of z, less that of what it is mapped to and of the Jacobian."""
    moved = _moved(builder, design, priors)
    inputs = moved.value_vars
    names = [name for name in ("location", "scale", "true_effect") if name in moved.named_vars]
    outputs = moved.replace_rvs_by_values([moved[name] for name in names])
    of_z = pytensor.function(inputs, [moved.logp(), *outputs], mode="FAST_COMPILE")
    y, v, X, Z = design.y, design.v, design.X, design.Z
    p, q = X.shape[1], Z.shape[1]
    length = {"z_location": p, "z_scale": q, "z_study": len(y)}
    sizes = [length[each.name] for each in inputs]
    resolved = resolve_priors(design, priors)

    def evaluate(z):
        density, *parts = of_z(*np.split(z, np.cumsum(sizes)[:-1]))
        return float(density), np.concatenate(parts)

    def log_posterior(values):
        location, scale = values[:p], values[p : p + q]
        total = resolved.location.logpdf(location).sum() + resolved.scale.logpdf(scale).sum()
        mean, tau = X @ location, np.exp(Z @ scale / 2)
        if builder is build_pymc_model:
            return total + norm.logpdf(y, mean, np.hypot(np.sqrt(v), tau)).sum()
        true = values[p + q :]
        return total + norm.logpdf(true, mean, tau).sum() + norm.logpdf(y, true, np.sqrt(v)).sum()

    excess = []
    for z in zs:
        density, values = evaluate(z)
        steps = 1e-5 * np.eye(len(z))
        jacobian = [(evaluate(z + h)[1] - evaluate(z - h)[1]) / 2e-5 for h in steps]
        excess.append(density - log_posterior(values) - np.linalg.slogdet(jacobian)[1])
    return excess


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
    """No divergence, and one effective draw in two, of the middle of the posterior.

    Of its tails one in four: twelve chains of `bcg`, whose posterior is plain, had 0.36 to 0.55
    at acceptances of 0.8 to 0.99, and those that do not visit a far region have under 0.1.
    """
    model = lsm.LocationScaleModel.from_file(name)
    for seed in (1, 2, 3):
        fit = model.fit_bayes(engine="nuts", draws=8000, seed=seed, progress=False)
        assert fit.converged
        assert int(fit.draws.stats["diverging"].sum()) == 0
        table = fit.summary()
        assert table["ess_bulk"].min() >= 0.5 * 8000
        assert table["ess_tail"].min() >= 0.25 * 8000
        assert np.isfinite(table.to_numpy()).all()
