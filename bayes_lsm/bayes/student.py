"""Student-t study effects in PyMC: what takes the place of the normal likelihood.

The study effects are integrated out by quadrature (`likelihood.student`), so the model has the same
unknowns as with normal effects, and the degrees of freedom ``df`` where they are not fixed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bayes_lsm.bayes.draws import Array
from bayes_lsm.degrees_of_freedom import DegreesOfFreedom
from bayes_lsm.design import Design
from bayes_lsm.errors import PriorError
from bayes_lsm.priors import Priors


def df_prior(design: Design, priors: Priors) -> DegreesOfFreedom | float | None:
    """The prior of ν, or its fixed value; None where the study effects are normal.

    Raises
    ------
    PriorError
        When ν has a prior but the study effects are normal.
    """
    if design.specification.study_effects == "student_t":
        return DegreesOfFreedom() if priors.df is None else priors.df
    if priors.df is not None:
        raise PriorError(
            "the priors have degrees of freedom (df), but the study effects are normal; leave df "
            "out, or make the model with study_effects='student_t'"
        )
    return None


def observe_student(
    mean: Any, v: Any, log_tau2: Any, prior: DegreesOfFreedom | float, observed: Any
) -> None:
    """Add ``df`` and the observed ``effect`` to the PyMC model at hand.

    ``df`` is a free variable, or a Deterministic where it is fixed.
    """
    import pymc as pm

    from bayes_lsm.bayes.student_op import log_density, new_effect

    if isinstance(prior, DegreesOfFreedom):
        whole = pm.Gamma.dist(alpha=prior.shape, beta=prior.rate)
        df = pm.Truncated("df", whole, lower=prior.lower)
    else:
        df = pm.Deterministic("df", pm.math.constant(prior))
    pm.CustomDist(
        "effect",
        mean,
        v,
        log_tau2,
        df,
        dist=new_effect,
        logp=log_density,
        observed=observed,
        dims="study",
    )


def sample_effects(
    mean: Array, v: Array, tau2: Array, df: Array, rng: np.random.Generator
) -> Array:
    """New effects of studies with given means and τ², each (..., k), and ν (...,)."""
    study = np.sqrt(tau2) * rng.standard_t(df[..., None], mean.shape)
    return np.asarray(rng.normal(mean + study, np.sqrt(v)))
