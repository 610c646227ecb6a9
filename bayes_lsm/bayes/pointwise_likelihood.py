r"""Independent effects given the coefficients, point by point: log densities and normal scores.

A score is where an effect lies in its distribution,

    z = Φ⁻¹( P(new effect ≤ y) )

With normal study effects that is the standardised residual (y − x'β) / √(v + τ²). With Student-t
ones it is what Dunn & Smyth (1996, doi:10.1080/10618600.1996.10474708) call a quantile residual: a
number far out in the tails of a t is no surprise. Under a right model z is standard normal.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import Draws, row_blocks
from bayes_lsm.bayes.student.effects import student_log_likelihood
from bayes_lsm.bayes.term_draws import flat_coefficients, split_terms
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.links import tau2_from_log

# Of a probability, so that a score is finite: |z| is below 37.6.
_SMALLEST_TAIL = np.finfo(float).tiny


def joint_log_likelihood(design: Design, draws: Draws) -> Array:
    """ln p(y | all unknowns) of each draw (draws,), with the effects integrated out.

    Random intercepts of ln τ² are among the unknowns.
    """
    if draws.df is not None:
        beta, alpha, df = draws.flat_location, draws.flat_scale, draws.flat_df
        blocks = row_blocks(draws.size, len(design.y))
        found = [log_likelihood(design, beta[k], alpha[k], df[k]).sum(axis=1) for k in blocks]
        return np.concatenate(found)
    alphas = flat_coefficients(split_terms(design, draws))
    return likelihood_of(design.given_levels()).densities(draws.flat_location, alphas)


def log_likelihood(design: Design, location: Array, scale: Array, df: Array | None = None) -> Array:
    """Log density (..., k) of independent effects given β (..., p) and α (..., q).

    `df` is ν of Student-t study effects, of a shape that stretches to (...).
    """
    if df is not None:
        return student_log_likelihood(design, location, scale, df)
    variance = design.v + tau2_from_log(scale @ design.Z.T)
    residual = design.y - location @ design.X.T
    return -0.5 * (np.log(variance) + residual**2 / variance + math.log(2 * math.pi))


def normal_scores(residuals: Array, v: Array, log_tau2: Array, df: Array | None = None) -> Array:
    """Normal scores (..., k) of residuals y − x'β (..., k), with v (k,) and ln τ² (..., k).

    `df` is ν of Student-t study effects, of a shape that stretches to (...); without it they are
    normal.
    """
    if df is None:
        return np.asarray(residuals / np.sqrt(v + tau2_from_log(log_tau2)))
    from bayes_lsm.likelihood.student.kernels import tails

    leading, k = residuals.shape[:-1], residuals.shape[-1]
    outside = tails(
        np.ascontiguousarray(residuals.reshape(-1, k), dtype=float),
        np.ascontiguousarray(v, dtype=float),
        np.ascontiguousarray(log_tau2.reshape(-1, k), dtype=float),
        np.broadcast_to(df, leading).reshape(-1).astype(float),
    )
    scores = -ndtri(np.maximum(outside, _SMALLEST_TAIL)).reshape(*leading, k)
    return np.asarray(np.copysign(scores, residuals))
