r"""The model builder: a design and priors become a `pm.Model`.

Study effects are integrated out, so a model has as many unknowns as coefficients:

    location, scale ~ priors,    effect_i ~ Normal( x_i'location, v_i + exp(z_i'scale) )

``location`` and ``scale`` are always there, on the user's scale. Where every prior is stated on its
raw coefficient they are the free variables. Otherwise the free variables are what the priors are
stated on, one vector for each family (``location_theta``, ``scale_theta``, ``scale_tau``), and the
coefficients follow from them. To teach the builder another family, add it to `families`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bayes_lsm.bayes import families
from bayes_lsm.bayes.student import df_prior, observe_student
from bayes_lsm.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.links import LARGEST_EXPONENT
from bayes_lsm.priors import Normal, PriorBlock, Priors, ResolvedPriors, resolve

if TYPE_CHECKING:
    import pymc as pm

Array = npt.NDArray[np.float64]


def resolve_priors(design: Design, priors: Priors) -> ResolvedPriors:
    """The priors of a design's coefficients."""
    return resolve(
        priors,
        y=design.y,
        v=design.v,
        X=design.X,
        Z=design.Z,
        location_names=design.location.names,
        scale_names=design.scale.names,
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
    >>> from bayes_lsm.design import build_design
    >>> from bayes_lsm.specification import Specification
    >>> spec = Specification("yi ~ weeks", "vi", scale="~ weeks")
    >>> model = build_pymc_model(build_design(spec, load_dataset("preterm_iq")))
    >>> sorted(variable.name for variable in model.free_RVs)
    ['location_theta', 'scale_tau', 'scale_theta']
    """
    import pymc as pm
    import pytensor.tensor as pt

    require_log_link(design)
    priors = priors or design.specification.priors
    resolved = resolve_priors(design, priors)
    coords = {
        "study": design.labels,
        "location_term": design.location.names,
        "scale_term": design.scale.names,
    }
    with pm.Model(coords=coords) as model:
        y = pm.Data("y", design.y, dims="study")
        v = pm.Data("v", design.v, dims="study")
        X = pm.Data("X", design.X, dims=("study", "location_term"))
        Z = pm.Data("Z", design.Z, dims=("study", "scale_term"))
        beta = _coefficients("location", design.location.names, resolved.location, design.X)
        alpha = _coefficients("scale", design.scale.names, resolved.scale, design.Z)
        df = df_prior(design, priors)
        if df is not None:
            observe_student(X @ beta, v, Z @ alpha, df, y)
        else:
            tau2 = pt.exp(pt.minimum(Z @ alpha, LARGEST_EXPONENT))
            pm.Normal("effect", X @ beta, pt.sqrt(v + tau2), observed=y, dims="study")
    return model


def _coefficients(part: str, names: Sequence[str], block: PriorBlock, columns: Array) -> Any:
    """The coefficients of one part, on the user's scale, under the name of the part."""
    import pymc as pm

    dims = f"{part}_term"
    if families.is_raw_normal(block):
        normals = [prior for prior in block.priors if isinstance(prior, Normal)]
        return families.variable(part, normals, dims, transform=_decorrelation(columns))
    inverse = np.linalg.inv(block.contrasts)
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
