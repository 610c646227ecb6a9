r"""The model builder: a design and priors become a `pm.Model`.

Study effects are integrated out, so a model has as many unknowns as coefficients:

    location, scale ~ priors,    effect_i ~ Normal( x_i'location, v_i + exp(z_i'scale) )

``location`` and ``scale`` are always there, on the user's scale. Where every prior is stated on its
raw coefficient they are the free variables. Otherwise the free variables are what the priors are
stated on, one vector for each family (``location_theta``, ``scale_theta``, ``scale_tau``), and the
coefficients follow from them. To teach the builder another family, add it to `families`.

`build_latent_pymc_model` keeps the study effects as unknowns, so that each study's true effect has
a posterior:

    true_effect_i = x_i'location + τ_i u_i,    u_i ~ Normal(0, 1),
    effect_i ~ Normal( true_effect_i, v_i )
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bayes_lsm.bayes.pymc_model import families
from bayes_lsm.bayes.resolved_priors.propriety import require_proper, study_effects
from bayes_lsm.bayes.student.effects import df_prior, observe_student, require_normal_effects
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError, PriorError
from bayes_lsm.links import LARGEST_EXPONENT
from bayes_lsm.priors import Normal, PriorBlock, Priors, ResolvedPriors, resolve

if TYPE_CHECKING:
    import pymc as pm

Array = npt.NDArray[np.float64]


def resolve_priors(design: Design, priors: Priors) -> ResolvedPriors:
    """The priors of a design's coefficients.

    Raises
    ------
    FitError
        For a design of several scale terms, whose priors are those of `clustered.resolve_terms`.
    PriorError
        When a prior names a term, or something else, that the model does not have, or is flat on a
        scale coefficient that the data do not bound.
    """
    design = require_one_term(design)
    refuse_unused(priors, correlations=False, random=False)
    resolved = resolve(
        priors,
        y=design.y,
        v=design.v,
        X=design.X,
        Z=design.Z,
        location_names=design.location.names,
        scale_names=design.scale.names,
    )
    require_proper(study_effects(design, resolved.location), resolved.scale)
    return resolved


def require_one_term(design: Design) -> Design:
    """The design, if it has one τ² an effect.

    Raises
    ------
    FitError
    """
    if not design.is_independent:
        raise FitError(
            f"this takes a model with one scale term and independent effects, got a {design.kind}; "
            "with several there are fit_bayes and build_clustered_pymc_model"
        )
    return design


def refuse_unused(priors: Priors, *, correlations: bool, random: bool) -> None:
    """Refuse priors of what a model does not have.

    Raises
    ------
    PriorError
    """
    if priors.lkj is not None and not correlations:
        raise PriorError(
            f"the priors have lkj={priors.lkj:g}, but the model has no correlated effects; leave "
            "lkj out"
        )
    if priors.scale_sd is not None and not random:
        raise PriorError(
            f"the priors have scale_sd={priors.scale_sd}, but no scale formula of the model has "
            "random intercepts; leave scale_sd out, or write '~ 1 + (1 | column)'"
        )


def require_log_link(design: Design) -> None:
    """Refuse a model whose τ² is not exp(z'α).

    Raises
    ------
    FitError
    """
    if design.specification.link != "log":
        raise FitError(
            f"a Bayesian fit needs link='log', got {design.specification.link!r}; the priors are "
            "those of ln τ²"
        )


def build_pymc_model(design: Design, priors: Priors | None = None) -> pm.Model:
    """The PyMC model of a design: sample it, extend it, or draw from its priors.

    Parameters
    ----------
    design : Design
        k studies, p location and q scale coefficients.
    priors : Priors, optional
        Default: those of the design's specification.

    Returns
    -------
    pymc.Model
        With ``location`` (dim ``location_term``, length p), ``scale`` (dim ``scale_term``, length
        q; coefficients of ln τ²), with Student-t study effects ``df``, and the observed
        ``effect`` (dim ``study``, length k). The data ``y``, ``v``, ``X`` and ``Z`` can be replaced
        by ``pm.set_data``.

    Raises
    ------
    PriorError
        When a prior names a term that the model does not have.

    Examples
    --------
    >>> from bayes_lsm.datasets import load_dataset
    >>> from bayes_lsm.design.design import build_design
    >>> from bayes_lsm.specification import Specification
    >>> spec = Specification("yi ~ weeks", "vi", scale="~ weeks")
    >>> model = build_pymc_model(build_design(spec, load_dataset("preterm_iq")))
    >>> sorted(variable.name for variable in model.free_RVs)
    ['location_theta', 'scale_tau', 'scale_theta']
    """
    import pymc as pm
    import pytensor.tensor as pt

    with _coefficient_model(design, priors) as model:
        df = df_prior(design, priors or design.specification.priors)
        mean, tau2 = _moments(model)
        if df is not None:
            eta = model["Z"] @ model["scale"]
            observe_student(mean, model["v"], eta, df, model["y"])
        else:
            pm.Normal("effect", mean, pt.sqrt(model["v"] + tau2), observed=model["y"], dims="study")
    return model


def build_latent_pymc_model(design: Design, priors: Priors | None = None) -> pm.Model:
    """The PyMC model of a design with the true effect of each study as an unknown.

    The posterior of the coefficients is that of `build_pymc_model`, which has the study effects
    integrated out.

    Parameters
    ----------
    design : Design
        k studies, p location and q scale coefficients.
    priors : Priors, optional
        Default: those of the design's specification.

    Returns
    -------
    pymc.Model
        As `build_pymc_model`, and with ``study_effect``, in units of τ_i, and ``true_effect``
        (both of dim ``study``, length k).

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

    require_normal_effects(design, "a model with latent true effects")
    with _coefficient_model(design, priors) as model:
        mean, tau2 = _moments(model)
        # In units of τ, for where τ is all but zero a true effect and its mean are the same number.
        u = pm.Normal("study_effect", dims="study")
        true = pm.Deterministic("true_effect", mean + pt.sqrt(tau2) * u, dims="study")
        pm.Normal("effect", true, pt.sqrt(model["v"]), observed=model["y"], dims="study")
    return model


def _coefficient_model(design: Design, priors: Priors | None) -> pm.Model:
    """What all models share: the data, and the coefficients with their priors."""
    import pymc as pm

    require_log_link(design)
    priors = priors or design.specification.priors
    resolved = resolve_priors(design, priors)
    coords = {
        "study": design.labels,
        "location_term": design.location.names,
        "scale_term": design.scale.names,
    }
    with pm.Model(coords=coords) as model:
        pm.Data("y", design.y, dims="study")
        pm.Data("v", design.v, dims="study")
        pm.Data("X", design.X, dims=("study", "location_term"))
        pm.Data("Z", design.Z, dims=("study", "scale_term"))
        add_coefficients("location", design.location.names, resolved.location, design.X)
        add_coefficients("scale", design.scale.names, resolved.scale, design.Z)
    return model


def _moments(model: pm.Model) -> tuple[Any, Any]:
    """Mean and τ² of the true effect of each study."""
    import pytensor.tensor as pt

    tau2 = pt.exp(pt.minimum(model["Z"] @ model["scale"], LARGEST_EXPONENT))
    return model["X"] @ model["location"], tau2


def add_coefficients(part: str, names: Sequence[str], block: PriorBlock, columns: Array) -> Any:
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
