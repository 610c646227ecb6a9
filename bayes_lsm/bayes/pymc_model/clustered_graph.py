r"""The model builder for several scale terms: a `Design` and priors become a `pm.Model`.

    y ~ Normal( Xβ,  V + Σ_l A_l T_l T_l' A_l' ),   ln τ² = Z_l α_l + Σ_g ω_lg u_lg

with T_l the SDs τ of a group's effects times the factor of their correlations. The effects of the
groups are integrated out, in blocks (`effect_blocks`). The random intercepts ω u of ln τ², where a
scale formula has them, cannot be: their u are standard normal unknowns.

The variables have the names of `graph`; ``scale`` has the coefficients of all scale terms. A
correlation r is drawn as (1 + r)/2 ~ Beta(b, b), partial correlation by partial correlation, which
for the b of `clustered.PartialCorrelation` is the LKJ distribution. (PyMC's own `LKJCorr` came back
from the compiled sampler as its Cholesky factor.)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import block_diag

from bayes_lsm.bayes.engines.clustered import PartialCorrelation, resolve_terms
from bayes_lsm.bayes.pymc_model import families
from bayes_lsm.bayes.pymc_model.effect_blocks import EffectBlocks, find_blocks
from bayes_lsm.bayes.pymc_model.graph import add_coefficients
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.links import LARGEST_EXPONENT
from bayes_lsm.priors import HalfNormal, PriorBlock, Priors

if TYPE_CHECKING:
    import pymc as pm

DEFAULT_SCALE_SD = HalfNormal(1.0)


def scale_names(design: Design) -> list[str]:
    """The coefficients of all scale terms: ``"district: intrcpt"``."""
    return [f"{term.name}: {name}" for term in design.terms for name in term.names]


def pair_names(design: Design) -> list[str]:
    """The correlations of all scale terms: ``"outcome | trial: AL, PD"``."""
    return [
        f"{term.name}: {term.effects[j]}, {term.effects[i]}"
        for term in design.terms
        if term.n_correlations
        for i in range(len(term.effects))
        for j in range(i)
    ]


def random_names(design: Design) -> list[str]:
    """The random intercepts of ln τ² of all scale terms: ``"study: country"``."""
    return [f"{term.name}: {each.column}" for term in design.terms for each in term.random]


def level_names(design: Design) -> list[str]:
    """The levels of all of them: ``"study: country[Norway]"``."""
    return [
        f"{term.name}: {each.column}[{level}]"
        for term in design.terms
        for each in term.random
        for level in each.levels
    ]


def build_clustered_pymc_model(design: Design, priors: Priors | None = None) -> pm.Model:
    """The PyMC model of a design with several scale terms: sample it, or extend it.

    Parameters
    ----------
    design : Design
    priors : Priors, optional
        Default: those of the design's specification.

    Returns
    -------
    pymc.Model
        With ``location`` (dim ``location_term``), ``scale`` (dim ``scale_term``: the coefficients
        of ln τ² of all scale terms), where there are correlations ``correlation`` (dim ``pair``),
        where ln τ² has random intercepts their ``scale_sd`` (dim ``scale_random``) and
        ``scale_effect`` (dim ``scale_level``), and the observed ``effect`` (dim ``row``).

    Raises
    ------
    PriorError
        When a prior names a term that the model does not have.

    Examples
    --------
    >>> from bayes_lsm.design.clustered_design import build_design
    >>> from bayes_lsm.datasets import load_dataset
    >>> from bayes_lsm.specification import Specification
    >>> spec = Specification("yi ~ 1", "vi", scale={"district": "~ 1", "district/school": "~ 1"})
    >>> design = build_design(spec, load_dataset("konstantopoulos2011"))
    >>> model = build_clustered_pymc_model(design)
    >>> sorted(variable.name for variable in model.free_RVs)
    ['location', 'scale_tau']
    """
    import pymc as pm
    import pytensor.tensor as pt

    priors = priors or design.specification.priors
    location, scale = _prior_blocks(design, priors)
    coords = {
        "row": design.labels,
        "location_term": design.location.names,
        "scale_term": scale_names(design),
    }
    with pm.Model(coords=coords) as model:
        pm.Data("y", design.y, dims="row")
        pm.Data("X", design.X, dims=("row", "location_term"))
        add_coefficients("location", design.location.names, location, design.X)
        used = block_diag(*(term.Z[term.used] for term in design.terms))
        add_coefficients("scale", coords["scale_term"], scale, used)
        factors = _correlations(design, priors)
        log_tau2 = pt.concatenate(_log_variances(design, priors, model["scale"]))
        tau2 = pt.exp(pt.minimum(log_tau2, LARGEST_EXPONENT))
        _observe(design, model["X"] @ model["location"], tau2, factors, model["y"])
    return model


def _prior_blocks(design: Design, priors: Priors) -> tuple[PriorBlock, PriorBlock]:
    """The priors of the location and of the scale coefficients, without those of correlations."""
    resolved = resolve_terms(design, priors)
    q = [len(term.names) for term in design.terms]
    kappas = [term.n_correlations for term in design.terms]
    coefficient = np.concatenate(
        [np.repeat([True, False], pair) for pair in zip(q, kappas, strict=True)]
    )
    chosen = tuple(
        prior for prior, keep in zip(resolved.scale.priors, coefficient, strict=True) if keep
    )
    contrasts = resolved.scale.contrasts[np.ix_(coefficient, coefficient)]
    return resolved.location, PriorBlock(contrasts, chosen)


def _correlations(design: Design, priors: Priors) -> Any:
    """(0, 1, C_1, C_2, …), flat: the factors of the correlations of all terms that have them."""
    import pymc as pm
    import pytensor.tensor as pt

    start = pt.as_tensor(np.array([0.0, 1.0]))
    concentrations, pieces = _concentrations(design, priors), []
    if not concentrations:
        return start
    pm.modelcontext(None).add_coord("pair", pair_names(design))
    b = np.array(concentrations)
    share = pm.Beta("correlation_share", b, b, shape=len(b))
    found, first = [], 0
    for term in design.terms:
        s, kappas = len(term.effects), term.n_correlations
        if not kappas:
            continue
        C = _factor(_partial(term, share[first : first + kappas]), s)
        R = pt.dot(C, C.T)
        found += [R[i, j] for i in range(s) for j in range(i)]
        pieces.append(C.ravel())
        first += kappas
    pm.Deterministic("correlation", pt.stack(found), dims="pair")
    return pt.concatenate([start, *pieces])


def _concentrations(design: Design, priors: Priors) -> list[float]:
    """b of each κ; a compound-symmetric correlation is uniform where it may be."""
    resolved, first, found = resolve_terms(design, priors).scale.priors, 0, []
    for term in design.terms:
        first += len(term.names)
        for _ in range(term.n_correlations):
            prior = resolved[first]
            found.append(prior.b if isinstance(prior, PartialCorrelation) else 1.0)
            first += 1
    return found


def _partial(term: ScaleTerm, share: Any) -> list[list[Any]]:
    """The partial correlation of effects i and j < i given those before j, from (0, 1)."""
    s = len(term.effects)
    if term.correlation == "compound_symmetric":
        least = -1.0 / (s - 1)
        rho = least + (1.0 - least) * share[0]
        return [[rho / (1.0 + j * rho) for j in range(i)] for i in range(s)]
    r = 2.0 * share - 1.0
    return [[r[i * (i - 1) // 2 + j] for j in range(i)] for i in range(s)]


def _factor(partial: list[list[Any]], s: int) -> Any:
    """C (s, s), lower triangular, with CC' the correlations that have these partial ones."""
    import pytensor.tensor as pt

    rows = []
    for i in range(s):
        rest, row = pt.constant(1.0), []
        for r in partial[i]:
            row.append(r * rest)
            rest = rest * pt.sqrt(1.0 - r**2)
        rows.append(pt.stack([*row, rest, *[pt.constant(0.0)] * (s - 1 - i)]))
    return pt.stack(rows)


def _log_variances(design: Design, priors: Priors, scale: Any) -> list[Any]:
    """ln τ² of every effect of every group of each term, shape (G·s,)."""
    import pymc as pm
    import pytensor.tensor as pt

    names = random_names(design)
    if names:
        context = pm.modelcontext(None)
        context.add_coord("scale_random", names)
        context.add_coord("scale_level", level_names(design))
        prior = priors.scale_sd or DEFAULT_SCALE_SD
        sd = families.variable("scale_sd", [prior] * len(names), "scale_random")
        sizes = [len(each.levels) for term in design.terms for each in term.random]
        standard = pm.Normal("scale_effect_standard", 0.0, 1.0, dims="scale_level")
        own_sd = sd[np.repeat(np.arange(len(sizes)), sizes)]
        effect = pm.Deterministic("scale_effect", own_sd * standard, dims="scale_level")
    found, first, level = [], 0, 0
    for term in design.terms:
        eta = pt.dot(term.table, scale[first : first + len(term.names)])
        first += len(term.names)
        for each in term.random:
            eta = eta + effect[level + each.index.ravel()]
            level += len(each.levels)
        found.append(eta)
    return found


def _observe(design: Design, mean: Any, tau2: Any, factors: Any, observed: Any) -> None:
    """Add the observed ``effect`` to the model at hand."""
    import pymc as pm

    blocks = find_blocks(design)

    def logp(value: Any, mean: Any, tau2: Any, factors: Any) -> Any:
        return log_density(value - mean, tau2, factors, design.v, blocks)

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
        mean,
        tau2,
        factors,
        logp=logp,
        random=random,
        signature="(n),(m),(c)->(n)",
        observed=observed,
        dims="row",
    )


def log_density(r: Any, tau2: Any, factors: Any, v: Any, blocks: EffectBlocks) -> Any:
    """ln p(y) of residuals r (n,), the effects of the groups integrated out.

    Parameters
    ----------
    r, tau2, factors : tensor
        Residuals, τ² of every effect, and (0, 1, C_1, C_2, …).
    v : ndarray, shape (n,)
    blocks : EffectBlocks
    """
    import pytensor.tensor as pt

    A = pt.as_tensor(blocks.multipliers)
    in_block = r[blocks.rows]
    if blocks.precision is None:
        N = pt.as_tensor(v)
        for effect, square in blocks.single:
            N = N + square * tau2[effect]
        value = -0.5 * pt.sum(pt.log(2 * math.pi * N) + r**2 / N)
        weighted = A / N[blocks.rows][:, :, None]
    else:
        Q = pt.as_tensor(blocks.precision)
        # Rows that fill a block up to the size of the largest have no precision.
        square = pt.sum(in_block[:, :, None] * Q * in_block[:, None, :])
        value = -0.5 * (len(v) * math.log(2 * math.pi) + blocks.log_det + square)
        weighted = pt.as_tensor(blocks.precision @ blocks.multipliers)
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
