r"""Where an effect lies in its distribution given the coefficients, as a normal score.

    z = Φ⁻¹( P(new effect ≤ y) )

With normal study effects that is the standardised residual (y − x'β) / √(v + τ²). With Student-t
ones it is what Dunn & Smyth (1996, doi:10.1080/10618600.1996.10474708) call a quantile residual: a
number far out in the tails of a t is no surprise. Under a right model z is standard normal.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from bayes_lsm.bayes.draws import Array
from bayes_lsm.links import tau2_from_log

# Of a probability, so that a score is finite: |z| is below 37.6.
_SMALLEST_TAIL = np.finfo(float).tiny


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
