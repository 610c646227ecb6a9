"""The PyMC twins of the priors: what a block of priors says, as variables of a model.

The free variables are what the priors are stated on, one vector for each family
(``location_theta``, ``scale_theta``, ``scale_tau``, ``scale_student_t``, …), so that each of them
is a distribution that its name says (`Family.twin`). θ follows from them as `Family.power` and
`Family.on_variance` say. Under a shrinkage prior the free variables are its hyperparameters and
standard normals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bayes_lsm.priors import R2D2, Family, Horseshoe, Normal, PriorBlock, Shrinkage


def is_raw_normal(block: PriorBlock) -> bool:
    """Whether the coefficients themselves can be one vector of normals."""
    normals = [prior for prior in block.priors if isinstance(prior, Normal)]
    return (
        block.is_raw
        and len(normals) == len(block.priors)
        and all(prior.power == 1 for prior in normals)
    )


def variable(name: str, priors: Sequence[Family], dims: str, **options: Any) -> Any:
    """One vector whose elements have priors of one family, on what those are stated on.

    The priors' numbers are data: a model with others has the same graph, and is not compiled anew.
    """
    import pymc as pm

    twin = priors[0].twin
    values = {
        theirs: pm.Data(
            f"{name}_{theirs}", [float(getattr(prior, ours)) for prior in priors], dims=dims
        )
        for theirs, ours in twin.parameters.items()
    }
    return getattr(pm, twin.distribution)(name, **values, dims=dims, **options)


def theta(part: str, names: Sequence[str], block: PriorBlock) -> Any:
    """What the priors of a part are distributions of, as one vector of the current model.

    That is ``block.contrasts @ coefficients`` (p,), of coefficients with these names.
    """
    import pymc as pm
    import pytensor.tensor as pt

    found: list[Any] = [None] * len(names)
    families = [prior for prior in block.priors if isinstance(prior, Family)]
    for family in dict.fromkeys(type(prior) for prior in families):
        members = [j for j, prior in enumerate(block.priors) if type(prior) is family]
        priors = [prior for prior in families if type(prior) is family]
        name = f"{part}_{family.twin.suffix or family.model_fields['family'].default}"
        pm.modelcontext(None).add_coord(f"{name}_term", [names[j] for j in members])
        drawn = variable(name, priors, f"{name}_term")
        for position, (j, prior) in enumerate(zip(members, priors, strict=True)):
            value = drawn[position]
            found[j] = prior.power * (pt.log(value) if prior.on_variance else value)
    if block.shrinkage is not None:
        slopes = _shrunk(part, [names[j] for j in block.shrunk], block.shrinkage)
        for position, j in enumerate(block.shrunk):
            found[j] = slopes[position]
    return pt.stack(found)


def _shrunk(part: str, names: Sequence[str], shrinkage: Shrinkage) -> Any:
    import pymc as pm

    dims = f"{part}_shrunk_term"
    pm.modelcontext(None).add_coord(dims, names)
    sd = _SHRUNK_SD[type(shrinkage)](part, shrinkage, dims)
    return sd * pm.Normal(f"{part}_shrunk", 0.0, 1.0, dims=dims)


def _horseshoe_sd(part: str, prior: Horseshoe, dims: str) -> Any:
    import pymc as pm
    import pytensor.tensor as pt

    common = pm.HalfCauchy(f"{part}_global", prior.global_scale)
    local = common * pm.HalfCauchy(f"{part}_local", 1.0, dims=dims)
    return local / pt.sqrt(1.0 + (local / prior.slab_scale) ** 2)


def _r2d2_sd(part: str, prior: R2D2, dims: str) -> Any:
    import pymc as pm
    import pytensor.tensor as pt

    xi = pm.Gamma(f"{part}_global", prior.b, 1.0)
    gamma = pm.Gamma(f"{part}_local", prior.concentration, 1.0, dims=dims)
    return prior.scale * pt.sqrt(gamma / xi)


_SHRUNK_SD: dict[type[Shrinkage], Callable[..., Any]] = {
    Horseshoe: _horseshoe_sd,
    R2D2: _r2d2_sd,
}
