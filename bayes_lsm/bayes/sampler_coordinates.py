r"""Coordinates in which the sampler moves easily; the model and its posterior stay what they are.

    scale     θ = T(z), which takes standard normals to a mixture near the posterior (`transport`)
    location  β = m(α) + L(α)⁻ᵀ z, given α and normal priors exactly standard normal
    effects   u_i = τ_i r_i / (v_i + τ_i²) + √(v_i / (v_i + τ_i²)) z_i, exactly so too, with
              r = y − Xβ, where the true effects are τ_i u_i away from their means

The map is bent by what a short run of the collapsed engine says. That can only cost efficiency,
never correctness: the density of z is that of the model at the mapped point times the Jacobian.
Import this module inside the functions that need it: it loads PyMC.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.model.transform.conditioning import remove_value_transforms
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.graph.replace import graph_replace
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_default_op_cache_key

from bayes_lsm.bayes.collapsed import normal_prior, sample_collapsed
from bayes_lsm.bayes.graph import resolve_priors
from bayes_lsm.bayes.transport import fit_normal_mixture, transport
from bayes_lsm.design import Design
from bayes_lsm.links import LARGEST_EXPONENT
from bayes_lsm.priors import HalfNormal, Normal, PriorBlock, Priors, ResolvedPriors

_PILOT_DRAWS = 20_000
_COMPONENTS = 8
_LARGEST_FORCE = 5.0

# What the last word of a free variable's name says its prior is stated on, from θ.
_STATED_ON: dict[str, Callable[[Any], Any]] = {
    "theta": lambda theta: theta,
    "tau": lambda theta: pt.exp(theta / 2),
}


def pilot_data(design: Design, priors: Priors, seed: int) -> dict[str, Any]:
    """The numbers that bend the coordinates for one design and its priors."""
    resolved = resolve_priors(design, priors)
    near = ResolvedPriors(_near_normal(resolved.location, seed), resolved.scale)
    pilot = sample_collapsed(design, near, draws=_PILOT_DRAWS, seed=seed)
    theta = pilot.flat_scale @ resolved.scale.contrasts.T
    # The heaviest tails first, so that all others can follow them.
    standard = (theta - theta.mean(axis=0)) / theta.std(axis=0)
    order = np.argsort(-np.mean(standard**4, axis=0))
    mixture = fit_normal_mixture(theta[:, order], _COMPONENTS, np.random.default_rng(seed))
    mean, precision = normal_prior(near.location)
    return {
        "z_order": np.argsort(order),
        "z_log_weights": mixture.log_weights,
        "z_means": mixture.means,
        "z_factors": mixture.factors,
        "z_scale_inverse": np.linalg.inv(resolved.scale.contrasts),
        "z_location_contrasts": resolved.location.contrasts,
        "z_location_mean": mean,
        "z_location_precision": precision,
    }


def _near_normal(block: PriorBlock, seed: int) -> PriorBlock:
    """The same block with normal priors of the same middle and width."""
    rng = np.random.default_rng(seed)
    normals = []
    for prior in block.priors:
        if not isinstance(prior, Normal):
            low, middle, high = np.quantile(prior.sample(4000, rng), [0.16, 0.5, 0.84])
            prior = Normal(float(middle), float(high - low) / 2)
        normals.append(prior)
    return PriorBlock(block.contrasts, tuple(normals))


def can_map(model: pm.Model, priors: ResolvedPriors) -> bool:
    """Whether it is known what each free variable's prior is stated on, from θ."""
    families = [*priors.location.priors, *priors.scale.priors]
    plain = all(
        isinstance(prior, Normal | HalfNormal) and prior.power == (2 if prior.on_variance else 1)
        for prior in families
    )
    return plain and all(
        name in ("location", "scale", "study_effect") or name.rpartition("_")[2] in _STATED_ON
        for name in (variable.name for variable in model.free_RVs)
    )


def build_sampling_model(model: pm.Model, numbers: dict[str, Any]) -> pm.Model:
    """The same posterior, with standard-normal-like ``z_…`` as free variables.

    Parameters
    ----------
    model : pymc.Model
        Of `build_pymc_model` or `build_latent_pymc_model`.
    numbers : mapping
        Of `pilot_data`; they become `pm.Data`.

    Returns
    -------
    pymc.Model
        With ``location``, ``scale`` and, of a latent model, ``true_effect`` as deterministics.
    """
    plain = remove_value_transforms(model)
    kept = [name for name in ("location", "scale", "true_effect") if name in plain.named_vars]
    dims = {name: plain.named_vars_to_dims[name] for name in kept}
    axes = {axis for each in dims.values() for axis in each}
    coords = {name: values for name, values in plain.coords.items() if name in axes}
    with pm.Model(coords=coords) as sampling:
        data = {name: pm.Data(name, value) for name, value in numbers.items()}
        values, log_det = _map(plain, data)
        here = {plain.rvs_to_values[plain[name]]: value for name, value in values.items()}
        outputs = plain.replace_rvs_by_values([plain[name] for name in kept])
        density, *outputs = graph_replace([plain.logp(), *outputs], here, strict=False)
        for name, output in zip(kept, outputs, strict=True):
            pm.Deterministic(name, output, dims=dims[name])
        pm.Potential("density", density + log_det)
    return sampling


def _map(plain: pm.Model, data: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The free variables' values by name, and the log Jacobian, as functions of new z's."""
    y, v, X, Z = (plain[name] for name in ("y", "v", "X", "Z"))
    z = pm.Flat("z_scale", dims="scale_term")
    ordered, log_det, _, _ = Transport()(
        z, data["z_log_weights"], data["z_means"], data["z_factors"]
    )
    theta = ordered[data["z_order"]]
    alpha = data["z_scale_inverse"] @ theta
    tau2 = pt.exp(pt.minimum(Z @ alpha, LARGEST_EXPONENT))
    noise = pm.Flat("z_location", dims="location_term")
    beta, part = _location(noise, y, v + tau2, X, data)
    log_det = log_det + part
    theta_by_part = {
        "location": (beta, data["z_location_contrasts"] @ beta),
        "scale": (alpha, theta),
    }
    values: dict[str, Any] = {}
    for variable in plain.free_RVs:
        if variable.name == "study_effect":
            total = v + tau2
            z_study = pm.Flat("z_study", dims="study")
            values[variable.name] = pt.sqrt(tau2) * (y - X @ beta) / total + z_study * pt.sqrt(
                v / total
            )
            log_det = log_det + 0.5 * pt.sum(pt.log(v / total))
            continue
        part_name, _, suffix = variable.name.partition("_")
        raw, theta_of_part = theta_by_part[part_name]
        if not suffix:
            values[variable.name] = raw
            continue
        members = _members(plain, variable.name, f"{part_name}_term")
        stated = theta_of_part[members]
        values[variable.name] = _STATED_ON[suffix.rpartition("_")[2]](stated)
        slope = pt.grad(pt.sum(values[variable.name]), stated)
        log_det = log_det + pt.sum(pt.log(slope))
    return values, log_det


def _members(plain: pm.Model, name: str, terms: str) -> list[int]:
    """Which coefficients the priors of a free variable belong to."""
    (dim,) = plain.named_vars_to_dims[name]
    return [list(plain.coords[terms]).index(term) for term in plain.coords[dim]]


def _location(noise: Any, y: Any, variance: Any, X: Any, data: dict[str, Any]) -> tuple[Any, Any]:
    """β of standard normals given the total variances, and its log Jacobian."""
    weighted = X / variance[:, None]
    prior_mean = data["z_location_mean"]
    residual = y - X @ prior_mean
    L = pt.linalg.cholesky(X.T @ weighted + data["z_location_precision"])
    centre = pt.linalg.solve_triangular(L, weighted.T @ residual, lower=True)
    beta = prior_mean + pt.linalg.solve_triangular(L.T, centre + noise, lower=False)
    return beta, -pt.sum(pt.log(pt.diagonal(L)))


class Transport(Op):  # type: ignore[misc]
    """`transport` in a PyTensor graph, with a bounded force in place of the gradient.

    Where the mixture reaches past the edge of the posterior, the density of z falls off a cliff,
    and one step of the sampler there would end far outside. Draws are accepted by their density,
    and a trajectory can be run backwards whatever the force is that drives it, as long as it
    depends on the position alone; so the part of the gradient by which z is not standard normal may
    be bounded, and the sampler stays exact.
    """

    __props__ = ()

    def make_node(self, *inputs: Any) -> Apply:
        inputs = tuple(pt.as_tensor(each) for each in inputs)
        outputs = [pt.dvector(), pt.dscalar(), pt.dvector(), pt.dmatrix()]
        return Apply(self, inputs, outputs)

    def perform(self, node: Any, inputs: Sequence[Any], output_storage: Any) -> None:
        for cell, value in zip(output_storage, transport(*inputs), strict=True):
            cell[0] = np.asarray(value)

    def infer_shape(self, node: Any, shapes: Sequence[Any]) -> list[tuple[Any, ...]]:
        (q,) = shapes[0]
        return [(q,), (), (q,), (q, q)]

    def connection_pattern(self, node: Any) -> list[list[bool]]:
        return [[True] * 4, *([[False] * 4] * 3)]

    def pullback(
        self, inputs: Sequence[Any], outputs: Sequence[Any], cotangents: Sequence[Any]
    ) -> list[Any]:
        _, _, slope, jacobian = outputs
        of_theta, of_log_det = cotangents[:2]
        if isinstance(of_theta.type, DisconnectedType):
            of_theta = pt.zeros_like(inputs[0])
        if isinstance(of_log_det.type, DisconnectedType):
            of_log_det = pt.as_tensor(0.0)
        normal = -of_log_det * inputs[0]
        other = jacobian.T @ of_theta + of_log_det * slope - normal
        bounded = pt.clip(other, -1.0 * _LARGEST_FORCE, _LARGEST_FORCE)
        return [normal + bounded, *(DisconnectedType()() for _ in inputs[1:])]


@register_funcify_default_op_cache_key(Transport)  # type: ignore[untyped-decorator]
def _transport_in_numba(op: Transport, node: Any, **options: Any) -> Any:
    @numba_njit  # type: ignore[untyped-decorator]
    def run(z: Any, log_weights: Any, means: Any, factors: Any) -> Any:
        theta, log_det, slope, jacobian = transport(z, log_weights, means, factors)
        return theta, np.asarray(log_det), slope, jacobian

    return run
