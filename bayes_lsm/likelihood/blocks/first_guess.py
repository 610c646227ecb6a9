"""What every variance of a design depends on, and a first guess of it from the residuals."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import block_diag

from bayes_lsm.arrays import Array
from bayes_lsm.design.design import Design


def derivatives_of_variances(design: Design) -> Array:
    """∂ln τ²/∂α of every effect of every group, and for κ as much as from so many groups (m, q)."""
    blocks = []
    for term in design.terms:
        blocks.append(term.table)
        blocks.append(math.sqrt(2.0 * len(term.groups)) * np.eye(term.n_correlations))
    return np.asarray(block_diag(*blocks))


def guess_variances(design: Design) -> Array:
    """ln τ² of every effect: the residual variance in equal shares; 0 for κ (m,)."""
    residuals = design.y - design.X @ np.linalg.lstsq(design.X, design.y, rcond=None)[0]
    total = float(np.mean(residuals**2))
    share = max(total - float(np.mean(design.v)), 0.05 * total) / len(design.terms)
    values = []
    for term in design.terms:
        size = np.maximum(np.mean(term.slopes**2, axis=0), 1e-300)
        values.append(np.tile(np.log(share / size), len(term.groups)))
        values.append(np.zeros(term.n_correlations))
    return np.concatenate(values)
