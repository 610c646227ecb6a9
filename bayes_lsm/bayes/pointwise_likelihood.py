"""The log density of independent effects given the coefficients, point by point."""

from __future__ import annotations

import math

import numpy as np

from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.student.effects import student_log_likelihood
from bayes_lsm.design.subsets import Numbers
from bayes_lsm.links import tau2_from_log


def log_likelihood(
    design: Numbers, location: Array, scale: Array, df: Array | None = None
) -> Array:
    """Log density of each of independent effects given the coefficients.

    Parameters
    ----------
    location : ndarray, shape (..., p)
    scale : ndarray, shape (..., q)
    df : ndarray, optional
        ν of Student-t study effects, of a shape that stretches to (...).

    Returns
    -------
    ndarray, shape (..., k)
    """
    if df is not None:
        return student_log_likelihood(design, location, scale, df)
    variance = design.v + tau2_from_log(scale @ design.Z.T)
    residual = design.y - location @ design.X.T
    return -0.5 * (np.log(variance) + residual**2 / variance + math.log(2 * math.pi))
