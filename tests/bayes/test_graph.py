"""The PyMC model's density is the model's, by another route."""

import numpy as np
import pymc as pm
import pytest

import bayes_lsm as lsm
from bayes_lsm.bayes.pymc_model.datatree import log_likelihood
from bayes_lsm.bayes.pymc_model.graph import build_pymc_model, resolve_priors
from bayes_lsm.priors import HalfNormal, Normal, Priors

PRIORS = {
    "standardised": Priors("weakly_informative"),
    "raw": Priors("slides"),
    "raw with half-normal": Priors("slides", scale={"intrcpt": HalfNormal(3)}),
    "mixed": Priors(location={"weeks": Normal(1, 2)}, scale={"continentOther": Normal(-1, 3)}),
}


@pytest.fixture(scope="module")
def design():
    spec = lsm.Specification("yi ~ continent + weeks", "vi", scale="~ continent + weeks")
    return lsm.build_design(spec, lsm.load_dataset("preterm_iq"))


def _values(model, location, scale, resolved):
    """The free variables at which the coefficients are these."""
    theta = {
        "location": resolved.location.contrasts @ location,
        "scale": resolved.scale.contrasts @ scale,
    }
    point = {}
    for variable in model.free_RVs:
        part, _, kind = variable.name.partition("_")
        if not kind:
            value = location if part == "location" else scale
        else:
            family = {"theta": Normal, "tau": HalfNormal}[kind]
            block = getattr(resolved, part)
            chosen = [isinstance(prior, family) for prior in block.priors]
            value = theta[part][chosen]
            value = np.exp(value / 2) if kind == "tau" else value
        transform = model.rvs_to_transforms[variable]
        name = model.rvs_to_values[variable].name
        inputs = variable.owner.inputs
        point[name] = value if transform is None else transform.forward(value, *inputs).eval()
    return point


@pytest.mark.parametrize("priors", PRIORS.values(), ids=PRIORS.keys())
def test_density_is_prior_times_likelihood(design, priors):
    model = build_pymc_model(design, priors)
    resolved = resolve_priors(design, priors)
    logp = model.compile_logp(jacobian=False)
    rng = np.random.default_rng(5)
    for _ in range(5):
        location = rng.normal([40, 0, -3, -1], 1)
        scale = rng.normal([2, 0, 0, 0], [1, 0.5, 0.5, 0.05])
        ours = log_likelihood(design, location, scale).sum()
        ours += resolved.location.logpdf(location).sum() + resolved.scale.logpdf(scale).sum()
        # PyMC's half-normal is a density of τ, ours of ln τ²: they differ by dτ/d ln τ² = τ/2.
        for theta, prior in zip(
            resolved.scale.contrasts @ scale, resolved.scale.priors, strict=True
        ):
            if isinstance(prior, HalfNormal):
                ours -= theta / 2 - np.log(2)
        # Both sum the same 45 terms in double precision.
        assert logp(_values(model, location, scale, resolved)) == pytest.approx(ours, abs=1e-8)


def test_sampling_coordinates_have_a_constant_jacobian(design):
    model = build_pymc_model(design, PRIORS["raw"])
    with_jacobian, without = (model.compile_logp(jacobian=j) for j in (True, False))
    rng = np.random.default_rng(3)
    start = model.initial_point()
    differences = []
    for _ in range(4):
        point = {name: rng.normal(size=value.shape) for name, value in start.items()}
        differences.append(with_jacobian(point) - without(point))
    _, R = np.linalg.qr(design.X)
    _, S = np.linalg.qr(design.Z)
    log_det = -np.log(np.abs(np.linalg.det(R))) - np.log(np.abs(np.linalg.det(S)))
    # logp itself is of the order of 1e4 at such points, so 1e-8 is its rounding.
    np.testing.assert_allclose(differences, log_det, atol=1e-8)


def test_only_the_observed_effect_is_as_long_as_the_data(design):
    model = build_pymc_model(design)
    assert [variable.name for variable in model.observed_RVs] == ["effect"]
    unobserved = model.free_RVs + model.deterministics
    assert all("study" not in model.named_vars_to_dims[each.name] for each in unobserved)
    assert model.named_vars_to_dims["location"] == ("location_term",)
    assert model.named_vars_to_dims["scale"] == ("scale_term",)
    assert model.coords["scale_term"] == design.scale.names


def test_the_model_can_be_extended_and_its_data_replaced(design):
    model = build_pymc_model(design)
    with model:
        pm.Deterministic("ratio", pm.math.exp(model["scale"][1] / 2))
        pm.set_data(
            {"y": [1.0, 2.0], "v": [1.0, 1.0], "X": np.ones((2, 4)), "Z": np.zeros((2, 4))},
            coords={"study": ["a", "b"]},
        )
    drawn = pm.draw(model["effect"], draws=3, random_seed=1)
    assert drawn.shape == (3, 2)
    assert "ratio" in model.named_vars
