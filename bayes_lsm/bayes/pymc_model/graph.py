r"""The model builder: a design and priors become a `pm.Model`.

    effect ~ Normal( Xβ,  V + Σ_l A_l T_l T_l' A_l' ),    ln τ² = Z_l α_l + Σ_g ω_lg u_lg

with T_l the SDs τ of a group's effects times the factor of their correlations. The effects of the
groups (in the classical model of the studies: one scale term, whose groups are the rows) are
integrated out, so a model has as many unknowns as coefficients, and correlations. The random
intercepts ω u of ln τ², where a scale formula has them, cannot be: their u are standard normal
unknowns.

``location`` (β) and ``scale`` (the α of all scale terms) are always there, on the user's scale.
Where every prior is stated on its raw coefficient they are the free variables. Otherwise the free
variables are what the priors are stated on, one vector for each family (``location_theta``,
``scale_theta``, ``scale_tau``), and the coefficients follow from them. To teach the builder another
family, add it to `families`; to teach it another likelihood, add it to `likelihood_node`.

`build_latent_pymc_model` keeps the effects of studies as unknowns, so that each study's true effect
has a posterior:

    true_effect_i = x_i'location + τ_i u_i,    u_i ~ Normal(0, 1),
    effect_i ~ Normal( true_effect_i, v_i )
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import block_diag

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.coordinates import are_correlations, coordinates, scale_names
from bayes_lsm.bayes.pymc_model import families
from bayes_lsm.bayes.pymc_model.correlations import add_correlations
from bayes_lsm.bayes.pymc_model.likelihood_node import Moments, add_variances, observe, rows_on
from bayes_lsm.bayes.resolved_priors.resolve import df_prior, resolve_priors, scale_sd_prior
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_choice
from bayes_lsm.design.design import Design
from bayes_lsm.priors import Normal, PriorBlock, Priors
from bayes_lsm.specification import TrueEffects

if TYPE_CHECKING:
    import pymc as pm


def build_pymc_model(design: Design, priors: Priors | None = None) -> pm.Model:
    """The PyMC model of a design: sample it, extend it, or draw from its priors.

    Parameters
    ----------
    design : Design
        n effects, p location and q scale coefficients.
    priors : Priors, optional
        Default: those of the design's specification.

    Returns
    -------
    pymc.Model
        With ``location`` (dim ``location_term``, length p), ``scale`` (dim ``scale_term``, length
        q; coefficients of ln τ² of all scale terms), with Student-t study effects ``df``, where
        there are correlations ``correlation`` (dim ``pair``), where ln τ² has random intercepts
        their ``scale_sd`` (dim ``scale_random``) and ``scale_effect`` (dim ``scale_level``), and
        the observed ``effect`` (dim ``study``, or ``row`` where effects are not independent). Where
        there are several scale terms, theirs are named ``"district: intrcpt"``. The data ``y``,
        ``X``, ``Z`` (``Z_1``, ``Z_2``, … of several terms) and, of independent effects, ``v`` can
        be replaced by ``pm.set_data``.

    Raises
    ------
    PriorError
        When a prior names a term that the model does not have.
    FitError
        For a link other than the logarithm.

    Examples
    --------
    >>> from bayes_lsm.datasets import load_dataset
    >>> from bayes_lsm.design.design import build_design
    >>> from bayes_lsm.specification import Specification
    >>> spec = Specification("yi ~ weeks", "vi", scale="~ weeks")
    >>> model = build_pymc_model(build_design(spec, load_dataset("preterm_iq")))
    >>> sorted(variable.name for variable in model.free_RVs)
    ['location_theta', 'scale_tau', 'scale_theta']

    Several scale terms:

    >>> spec = Specification("yi ~ 1", "vi", scale={"district": "~ 1", "district/school": "~ 1"})
    >>> model = build_pymc_model(build_design(spec, load_dataset("konstantopoulos2011")))
    >>> model.coords["scale_term"]
    ('district: intrcpt', 'district/school: intrcpt')
    """
    priors = priors or design.specification.priors
    with _coefficient_model(design, priors) as (model, moments):
        observe(design, moments, model["y"])
    return model


def build_switchable_pymc_model(design: Design, priors: Priors) -> pm.Model:
    """The model of groups' effects, in which rows can be switched off by data: see `rows_on`."""
    import pymc as pm

    with _coefficient_model(design, priors) as (model, moments):
        every = rows_on(design, np.ones(len(design.y), dtype=bool))
        switches = {name: pm.Data(name, values) for name, values in every.items()}
        observe(design, moments, model["y"], switches)
    return model


def build_latent_pymc_model(design: Design, priors: Priors | None = None) -> pm.Model:
    """The PyMC model of a design with the true effect of each study as an unknown.

    The posterior of the coefficients is that of `build_pymc_model`, which has the study effects
    integrated out.

    Parameters
    ----------
    design, priors
        As in `build_pymc_model`.

    Returns
    -------
    pymc.Model
        As `build_pymc_model`, and with ``study_effect``, in units of τ_i, and ``true_effect``
        (both of dim ``study``, length k).

    Raises
    ------
    FitError
        Where effects are not independent, or study effects are not normal.

    Examples
    --------
    >>> from bayes_lsm.datasets import load_dataset
    >>> from bayes_lsm.design.design import build_design
    >>> from bayes_lsm.specification import Specification
    >>> design = build_design(Specification("yi ~ 1", "vi"), load_dataset("bcg"))
    >>> build_latent_pymc_model(design)["true_effect"].eval().shape
    (13,)
    """
    import pymc as pm
    import pytensor.tensor as pt

    check_true_effects(design, "latent")
    with _coefficient_model(design, priors or design.specification.priors) as (model, moments):
        # In units of τ, for where τ is all but zero a true effect and its mean are the same number.
        u = pm.Normal("study_effect", dims="study")
        true = moments.mean + pt.sqrt(moments.tau2) * u
        true = pm.Deterministic("true_effect", true, dims="study")
        pm.Normal("effect", true, pt.sqrt(add_variances(design)), observed=model["y"], dims="study")
    return model


BUILDERS: dict[TrueEffects, Callable[[Design, Priors | None], pm.Model]] = {
    "integrated": build_pymc_model,
    "latent": build_latent_pymc_model,
}


def check_true_effects(design: Design, true_effects: str) -> None:
    """Refuse true effects that a model cannot have as unknowns, by a FitError."""
    require_choice("true_effects", true_effects, TrueEffects)
    if true_effects == "latent":
        require_capable("true_effects='latent'", design)


@contextmanager
def _coefficient_model(design: Design, priors: Priors) -> Iterator[tuple[pm.Model, Moments]]:
    """What all models share: the data, the coefficients with their priors, and what they say."""
    import pymc as pm

    require_capable("to_pymc", design)
    resolved = resolve_priors(design, priors)
    with pm.Model(coords=coordinates(design)) as model:
        pm.Data("y", design.y, dims=design.unit)
        X = pm.Data("X", design.X, dims=(design.unit, "location_term"))
        beta = _add_coefficients("location", design.location.names, resolved.location, design.X)
        used = block_diag(*(term.Z[term.used] for term in design.terms))
        alpha = _add_coefficients(
            "scale", scale_names(design), _of_alpha(design, resolved.scale), used
        )
        factors = add_correlations(design, resolved.scale)
        log_tau2 = _log_variances(design, priors, alpha)
        yield model, Moments(X @ beta, log_tau2, factors, df_prior(design, priors))


def _of_alpha(design: Design, scale: PriorBlock) -> PriorBlock:
    """The priors of the scale coefficients, without those of correlations."""
    kept = np.flatnonzero(~are_correlations(design))
    priors = tuple(scale.priors[j] for j in kept)
    return PriorBlock(scale.contrasts[np.ix_(kept, kept)], priors)


def _log_variances(design: Design, priors: Priors, alpha: Any) -> Any:
    """ln τ² of every effect of every group of each term, shape (m,)."""
    import pymc as pm
    import pytensor.tensor as pt

    effect = _random_intercepts(design, priors)
    found, first, level = [], 0, 0
    for number, term in enumerate(design.terms, start=1):
        alone = len(design.terms) == 1
        dims = (design.unit, "scale_term") if design.is_independent else None
        Z = pm.Data("Z" if alone else f"Z_{number}", term.table, dims=dims)
        eta = Z @ (alpha if alone else alpha[first : first + len(term.names)])
        first += len(term.names)
        for each in term.random:
            eta = eta + effect[level + each.index.ravel()]
            level += len(each.levels)
        found.append(eta)
    return found[0] if len(found) == 1 else pt.concatenate(found)


def _random_intercepts(design: Design, priors: Priors) -> Any:
    """Add ``scale_effect`` and its SDs to the model at hand; None where there are none."""
    import pymc as pm

    sizes = [len(each.levels) for term in design.terms for each in term.random]
    if not sizes:
        return None
    sd = families.variable("scale_sd", [scale_sd_prior(priors)] * len(sizes), "scale_random")
    standard = pm.Normal("scale_effect_standard", 0.0, 1.0, dims="scale_level")
    own_sd = sd[np.repeat(np.arange(len(sizes)), sizes)]
    return pm.Deterministic("scale_effect", own_sd * standard, dims="scale_level")


def _add_coefficients(part: str, names: Sequence[str], block: PriorBlock, columns: Array) -> Any:
    """The coefficients of one part, on the user's scale, under the name of the part."""
    import pymc as pm

    dims = f"{part}_term"
    if families.is_raw_normal(block):
        normals = [prior for prior in block.priors if isinstance(prior, Normal)]
        return families.variable(part, normals, dims, transform=_decorrelation(columns))
    # As data, like the priors' numbers: a model of other data has the same graph.
    inverse = pm.Data(f"{part}_inverse", np.linalg.inv(block.contrasts))
    theta = families.theta(part, names, block)
    return pm.Deterministic(part, pm.math.dot(inverse, theta), dims=dims)


def _decorrelation(columns: Array) -> Any:
    """Lets the sampler move in the coordinates R·coefficients, with columns = QR.

    Raw coefficients of moderators that are far from zero (weeks of gestation) are all but
    collinear. The prior is not touched, nor the variable: only the sampler's coordinates.
    """
    import pytensor.tensor as pt
    from pymc.logprob.transforms import Transform

    R = np.linalg.qr(columns, mode="r")
    inverse = np.linalg.inv(R)
    log_det = float(np.sum(np.log(np.abs(np.diag(inverse)))))

    class Decorrelation(Transform):  # type: ignore[misc]
        name = "decorrelated"
        ndim_supp = 1

        def forward(self, value: Any, *inputs: Any) -> Any:
            return pt.dot(R, value)

        def backward(self, value: Any, *inputs: Any) -> Any:
            return pt.dot(inverse, value)

        def log_jac_det(self, value: Any, *inputs: Any) -> Any:
            return pt.as_tensor(log_det)

    return Decorrelation()
