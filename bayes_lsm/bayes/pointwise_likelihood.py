"""The log density of independent effects given the coefficients, point by point."""

from __future__ import annotations

import math

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import Draws, row_blocks
from bayes_lsm.bayes.student.effects import student_log_likelihood
from bayes_lsm.bayes.term_draws import flat_coefficients, split_terms
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.links import tau2_from_log


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
