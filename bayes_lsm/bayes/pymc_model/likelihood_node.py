"""Which node of a PyMC model the observed effects are: the one place that chooses.

Independent effects are one vector of normals with variances v + τ²; with Student-t study effects
`student` has their density. The effects of groups, and correlated sampling errors, are in blocks
(`effect_blocks`), whose density is that of one multivariate normal a block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.pymc_model.effect_blocks import EffectBlocks, find_blocks
from bayes_lsm.bayes.student.effects import observe_student
from bayes_lsm.design.design import Design
from bayes_lsm.links import LARGEST_EXPONENT
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom


@dataclass(frozen=True, eq=False)
class Moments:
    """What the coefficients say of the effects, in tensors.

    Their mean (n,), ln τ² (m,) of every effect of every group of each scale term, the factors
    (0, 1, C_1, C_2, …) of `add_correlations`, and what is believed of ν.
    """

    mean: Any
    log_tau2: Any
    factors: Any
    df: DegreesOfFreedom | float | None

    @property
    def tau2(self) -> Any:
        """τ² of every effect."""
        import pytensor.tensor as pt

        return pt.exp(pt.minimum(self.log_tau2, LARGEST_EXPONENT))


def observe(
    design: Design,
    moments: Moments,
    observed: Any,
    switches: Mapping[str, Any] | None = None,
) -> None:
    """Add the observed ``effect``, the random effects integrated out, to the model at hand.

    With Student-t study effects ``df``, too. `switches` are the tensors of `rows_on`, of blocks
    whose rows can be switched off.
    """
    if moments.df is not None:
        v = add_variances(design)
        observe_student(moments.mean, v, moments.log_tau2, moments.df, observed)
    elif design.is_independent:
        _observe_independent(design, moments, observed)
    else:
        _observe_blocks(design, moments, observed, switches or {})


def rows_on(design: Design, kept: npt.NDArray[np.bool_]) -> dict[str, Array]:
    """The data of a switchable model in which only the rows `kept` (n,) are observed."""
    blocks = find_blocks(design, kept)
    if blocks.precision is None:
        return {"observed": kept.astype(float)}
    return {"precision": blocks.precision}


def add_variances(design: Design) -> Any:
    """The data ``v`` of independent effects."""
    import pymc as pm

    return pm.Data("v", design.v, dims=design.unit)


def _observe_independent(design: Design, moments: Moments, observed: Any) -> None:
    import pymc as pm
    import pytensor.tensor as pt

    sd = pt.sqrt(add_variances(design) + moments.tau2)
    pm.Normal("effect", moments.mean, sd, observed=observed, dims=design.unit)


def _observe_blocks(
    design: Design, moments: Moments, observed: Any, switches: Mapping[str, Any]
) -> None:
    import pymc as pm

    blocks = find_blocks(design)

    def logp(value: Any, mean: Any, tau2: Any, factors: Any) -> Any:
        return log_density(value - mean, tau2, factors, design.v, blocks, **switches)

    def random(
        mean: Any, tau2: Any, factors: Any, rng: np.random.Generator, size: Any = None
    ) -> Any:
        shape = () if size is None else tuple(np.atleast_1d(size))
        made = [
            _new_effects(design, blocks, mean, tau2, factors, rng)
            for _ in range(math.prod(shape) if shape else 1)
        ]
        return np.reshape(made, (*shape, len(mean)))

    pm.CustomDist(
        "effect",
        moments.mean,
        moments.tau2,
        moments.factors,
        logp=logp,
        random=random,
        signature="(n),(m),(c)->(n)",
        observed=observed,
        dims=design.unit,
    )


def log_density(
    r: Any,
    tau2: Any,
    factors: Any,
    v: Any,
    blocks: EffectBlocks,
    *,
    observed: Any = None,
    precision: Any = None,
) -> Any:
    """ln p(y) of residuals r (n,), the effects of the groups integrated out.

    With τ² of every effect and the factors (0, 1, C_1, C_2, …). Of rows that can be switched off
    `observed` (n,) is 1 or 0 where V is diagonal, and else `precision` that of the rows that are
    observed; constants are left as they are.
    """
    import pytensor.tensor as pt

    A = pt.as_tensor(blocks.multipliers)
    in_block = r[blocks.rows]
    if blocks.precision is None:
        N = pt.as_tensor(v)
        for effect, square in blocks.single:
            N = N + square * tau2[effect]
        each = pt.log(2 * math.pi * N) + r**2 / N
        weighted = A / N[blocks.rows][:, :, None]
        if observed is not None:
            each, weighted = observed * each, observed[blocks.rows][:, :, None] * weighted
        value = -0.5 * pt.sum(each)
    else:
        Q = pt.as_tensor(blocks.precision if precision is None else precision)
        # Rows that fill a block up to the size of the largest have no precision.
        square = pt.sum(in_block[:, :, None] * Q * in_block[:, None, :])
        value = -0.5 * (len(v) * math.log(2 * math.pi) + blocks.log_det + square)
        weighted = pt.as_tensor(blocks.precision @ blocks.multipliers)
        if precision is not None:
            weighted = precision @ A
    if not blocks.effects.size:
        return value
    T = pt.sqrt(tau2)[blocks.effects][:, :, None] * factors[blocks.factor]
    transposed = pt.swapaxes(T, -1, -2)
    S = transposed @ (pt.swapaxes(A, -1, -2) @ weighted) @ T + np.eye(T.type.shape[-1])
    b = transposed @ pt.sum(weighted * in_block[:, :, None], axis=1)[:, :, None]
    L = pt.linalg.cholesky(S)
    half = pt.linalg.solve_triangular(L, b, lower=True, b_ndim=2)
    log_det = 2.0 * pt.sum(pt.log(pt.diagonal(L, axis1=-2, axis2=-1)))
    return value + 0.5 * (pt.sum(half**2) - log_det)


def _new_effects(
    design: Design,
    blocks: EffectBlocks,
    mean: Any,
    tau2: Any,
    factors: Any,
    rng: np.random.Generator,
) -> Any:
    """y of new effects in the same groups, shape (n,)."""
    y = mean + np.sqrt(design.v) * rng.standard_normal(len(mean))
    for block in design.blocks:
        y[block.rows] = mean[block.rows] + np.linalg.cholesky(
            block.covariance
        ) @ rng.standard_normal(len(block.rows))
    for effect, square in blocks.single:
        y = y + np.sqrt(square * tau2[effect]) * rng.standard_normal(len(y))
    T = np.sqrt(tau2)[blocks.effects][:, :, None] * factors[blocks.factor]
    added = blocks.multipliers @ T @ rng.standard_normal((*T.shape[:2], 1))
    np.add.at(y, blocks.rows, added[:, :, 0])
    return y
