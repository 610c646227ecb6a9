r"""Coordinates in which the sampler moves easily; the model and its posterior stay what they are.

    scale     θ = bends(m + C reach(z)), which are nearly standard normal z for skewed θ (`bends`)
              with a far region (`reach`)
    location  β = m(α) + L(α)⁻ᵀ z, given α and normal priors exactly standard normal
    effects   u_i = τ_i r_i / (v_i + τ_i²) + √(v_i / (v_i + τ_i²)) z_i, exactly so too, with
              r = y − Xβ, where the true effects are τ_i u_i away from their means

The bends, m, C and the reach come from a short run of the collapsed engine. They can only cost
efficiency, never correctness: the density of z is that of the model at the mapped point times the
Jacobian. Import this module inside the functions that need it: it loads PyMC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.model.transform.conditioning import remove_value_transforms
from pytensor.graph.replace import graph_replace

from bayes_lsm.bayes.engines.collapsed import normal_prior
from bayes_lsm.bayes.engines.direct import sample_directly
from bayes_lsm.bayes.engines.far_region_map import KNOTS, SHARPNESS, fit_reach
from bayes_lsm.bayes.engines.skewness_map import fit_bends, t_scatter
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.design.design import Design
from bayes_lsm.links import LARGEST_EXPONENT
from bayes_lsm.priors import Flat, HalfNormal, Normal, PriorBlock, Priors, ResolvedPriors

_PILOT_DRAWS = 20000

# What the last word of a free variable's name says its prior is stated on, from θ.
_STATED_ON: dict[str, Callable[[Any], Any]] = {
    "theta": lambda theta: theta,
    "flat": lambda theta: theta,
    "tau": lambda theta: pt.exp(theta / 2),
}


def pilot_data(design: Design, priors: Priors, seed: int) -> dict[str, Any]:
    """The numbers that bend the coordinates for one design and its priors."""
    resolved = resolve_priors(design, priors)
    near = ResolvedPriors(_near_normal(resolved.location, seed), resolved.scale)
    pilot = sample_directly(design, near, draws=_PILOT_DRAWS, seed=seed)
    theta = pilot.flat_scale @ resolved.scale.contrasts.T
    mean, precision = normal_prior(near.location)
    bends = fit_bends(theta)
    unbent, _ = bends.unbend(theta)
    straight, scatter = t_scatter(unbent)
    factor = np.linalg.cholesky(scatter)
    reach = fit_reach(np.linalg.solve(factor, (unbent - straight).T).T)
    log_det = np.linalg.slogdet(bends.axes)[1] + np.linalg.slogdet(scatter)[1] / 2
    return {
        "z_scale_mean": straight,
        "z_scale_factor": factor,
        "z_scale_log_det": np.asarray(log_det),
        **{f"z_reach_{each.name}": getattr(reach, each.name) for each in fields(reach)},
        **{f"z_bend_{each.name}": getattr(bends, each.name) for each in fields(bends)},
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


def can_map(model: pm.Model, design: Design, priors: ResolvedPriors) -> bool:
    """Whether effects are independent, and what each free variable is, from θ, is known."""
    if not design.is_independent:
        return False
    families = [
        *priors.location.priors,
        *(prior for prior in priors.scale.priors if not isinstance(prior, Flat)),
    ]
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

    ``location``, ``scale`` and, of a latent model, ``true_effect`` are deterministics, and the
    numbers of `pilot_data` data.
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
    near, log_reach = _reach(z, data)
    theta, log_det = _bend(data["z_scale_mean"] + data["z_scale_factor"] @ near, data)
    log_det = log_det + log_reach
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


def _bend(straight: Any, data: dict[str, Any]) -> tuple[Any, Any]:
    """θ of the coordinates in which it is nearly normal, and the log Jacobian of all of θ(z)."""
    a, b = data["z_bend_a"], data["z_bend_b"]
    u = straight - data["z_bend_c"]
    root = pt.sqrt(data["z_bend_s"] ** 2 + u**2)
    bent = data["z_bend_m"] + a * straight + b * root
    theta = data["z_bend_centre"] + data["z_bend_axes"] @ bent
    return theta, data["z_scale_log_det"] + pt.sum(pt.log(a + b * u / root))


def _reach(z: Any, data: dict[str, Any]) -> tuple[Any, Any]:
    """x of z, as `Reach.stretch` has it, and the log Jacobian."""
    c, r = data["z_reach_hinges"], data["z_reach_spread"]
    past = (z[0] - KNOTS) / SHARPNESS
    along = z[0] + SHARPNESS * pt.sum(c * pt.softplus(past))
    stretch = 1 + (r - 1) * pt.sigmoid((z[0] - data["z_reach_start"]) / SHARPNESS)
    x = pt.concatenate([along[None], stretch * z[1:]])
    log_det = pt.log1p(pt.sum(c * pt.sigmoid(past))) + pt.sum(pt.log(stretch))
    return data["z_reach_axes"] @ x, log_det


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
