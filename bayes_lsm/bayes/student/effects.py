"""Student-t study effects: what takes the place of the normal likelihood.

The study effects are integrated out by quadrature (`likelihood.student`), so a model has the same
unknowns as with normal effects, and the degrees of freedom ``df`` where they are not fixed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.resolved_priors.resolve import df_prior, scale_sd_prior
from bayes_lsm.design.design import Design
from bayes_lsm.priors import Priors
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom
from bayes_lsm.priors.excess import Degrees, Excess

# A λ below this counts as this: τ²/λ must not overflow.
_SMALLEST_WEIGHT = 1e-100


def integrated_out(design: Design) -> str:
    """What the engines that need no chains integrate out."""
    return "β" if design.specification.study_effects == "normal" else "study effects"


def describe(df: DegreesOfFreedom | float) -> str:
    """In a line, for the notes below a table: the study effects, and what τ is."""
    return (
        f"Student-t study effects, {describe_df(df)}; τ is their scale, their SD is τ √(ν/(ν − 2))"
    )


def describe_df(df: DegreesOfFreedom | float) -> str:
    """What is believed of ν."""
    return f"ν ~ {df}" if isinstance(df, DegreesOfFreedom) else f"ν = {df:g}, fixed"


def said_before(design: Design, priors: Priors) -> tuple[str, ...]:
    """For the notes below a table: the priors, and study effects that are not normal."""
    df = df_prior(design, priors)
    effects = () if df is None else (describe(df),)
    if any(term.random for term in design.terms):
        priors = priors.model_copy(update={"scale_sd": scale_sd_prior(priors)})
    return (f"priors: {priors.describe()}", *effects)


def observe_student(
    mean: Any, v: Any, log_tau2: Any, prior: DegreesOfFreedom | float, observed: Any
) -> None:
    """Add ``df`` and the observed ``effect`` to the PyMC model at hand.

    ``df`` is a free variable, or a Deterministic where it is fixed.
    """
    import pymc as pm

    from bayes_lsm.bayes.student.pymc_op import log_density, new_effect

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


def student_log_likelihood(design: Design, location: Array, scale: Array, df: Array) -> Array:
    """Log density of each effect, (..., k), given β (..., p), α (..., q) and ν, of a shape that
    stretches to (...)."""
    from bayes_lsm.likelihood.student.kernels import LOG_DENSITY, batched

    leading = location.shape[:-1]
    rows = batched(
        LOG_DENSITY,
        np.ascontiguousarray(location.reshape(-1, location.shape[-1])),
        np.ascontiguousarray(scale.reshape(-1, scale.shape[-1])),
        np.broadcast_to(df, leading).reshape(-1).astype(float),
        *arrays(design),
    )
    return np.asarray(rows).reshape(*leading, -1)


def arrays(design: Design) -> tuple[Array, Array, Array, Array]:
    """y, v, X and Z as the compiled code wants them."""
    y, v, X, Z = (
        np.ascontiguousarray(each, dtype=float) for each in (design.y, design.v, design.X, design.Z)
    )
    return y, v, X, Z


def new_weights(df: Array) -> Array:
    """λ ~ Gamma(ν/2, ν/2) of a new study, one for each draw of ν (S,).

    Given λ its true effect is normal with variance τ²/λ. The λ have evenly spaced probabilities in
    a fixed random order, so that they add less noise than the draws have.
    """
    size = len(df)
    probability = (np.random.default_rng(1).permutation(size) + 0.5) / size
    return np.asarray(np.maximum(gammaincinv(df / 2, probability) / (df / 2), _SMALLEST_WEIGHT))


def draw_weights(
    design: Design,
    draws: Draws,
    studies: npt.NDArray[np.intp],
    rng: np.random.Generator | None = None,
) -> Array:
    """λ | y of some studies, one for each draw, (m, S); evenly spread over its distribution."""
    from bayes_lsm.likelihood.student import kernels

    df, data = draws.flat_df.astype(float), [each[studies] for each in arrays(design)]
    spaced = np.tile((np.arange(len(df)) + 0.5) / len(df), (len(data[0]), 1))
    uniform = (np.random.default_rng(0) if rng is None else rng).permuted(spaced, axis=1)
    found = kernels.draw_weights(uniform, draws.flat_location, draws.flat_scale, df, *data)
    return np.asarray(found)


def log_sd_ratio(df: Array) -> Array:
    """ln of the SD of a t over its scale, √(ν/(ν − 2)), elementwise; infinite where ν ≤ 2."""
    with np.errstate(divide="ignore"):
        return np.where(df > 2, 0.5 * np.log(df / np.maximum(df - 2, 0.0)), np.inf)


def sample_df(prior: Degrees, size: int, rng: np.random.Generator) -> Array:
    """Draws of ν, shape (size,), or (1,) where it is fixed."""
    if isinstance(prior, Excess):
        return prior.to_df(prior.prior.sample(size, rng))
    return prior.sample(size, rng) if isinstance(prior, DegreesOfFreedom) else np.full(1, prior)


def sample_effects(
    mean: Array, v: Array, tau2: Array, df: Array, rng: np.random.Generator
) -> Array:
    """New effects of studies with given means and τ², each (..., k), and ν, which stretches to
    (...)."""
    study = np.sqrt(tau2) * rng.standard_t(df[..., None], mean.shape)
    return np.asarray(rng.normal(mean + study, np.sqrt(v)))
