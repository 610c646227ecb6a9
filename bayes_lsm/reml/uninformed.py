"""What the data say nothing of: scale coefficients in which the likelihood is flat.

The restricted likelihood is that of the contrasts that X leaves. An effect with the loadings
a = Xb (as of a study with a location coefficient of its own) is in none of them, so nothing is said
of its τ². It is part of the covariance of β̂, V + τ² bb', and so of the standard error of every x'β̂
with x'b ≠ 0. Where the data know two variances by their sum alone, none of this is so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayes_lsm.arrays import Array, Mask

# Relative size below which a number is the rounding of 0.
_ZERO = 1e-9


def say(names: Sequence[str]) -> str:
    """That these scale coefficients are not informed by the data, as a note."""
    several = len(names) > 1
    return (
        f"not informed by the data: scale coefficient{'s' if several else ''} {', '.join(names)}; "
        f"the likelihood is flat there, and what depends on {'them' if several else 'it'} is "
        "missing"
    )


def mean_of_known(values: Array) -> float:
    """The mean of those that are not nan; nan where all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def location_directions(X: Array, loadings: Array) -> Array:
    """The b (p, m) with Xb = a, for those of the `loadings` (n, k) that X has."""
    if not loadings.shape[1]:
        return np.zeros((X.shape[1], 0))
    b = np.linalg.lstsq(X, loadings, rcond=None)[0]
    rest = np.linalg.norm(loadings - X @ b, axis=0)
    size = np.linalg.norm(loadings, axis=0)
    return np.asarray(b[:, (rest <= _ZERO * size) & (size > 0)])


def depends(rows: Array, directions: Array) -> Mask:
    """Which x'β̂ (m,) of `rows` (m, p) have a standard error that nobody knows."""
    sizes = np.linalg.norm(rows, axis=1, keepdims=True) * np.linalg.norm(directions, axis=0)
    return np.asarray((np.abs(rows @ directions) > _ZERO * sizes).any(axis=1))


def without_unknown(covariance: Array, directions: Array) -> Array:
    """The covariance of β̂, nan for the coefficients whose standard error nobody knows."""
    unknown = depends(np.eye(len(covariance)), directions)
    if unknown.any():
        covariance = covariance.copy()
        covariance[unknown, :] = covariance[:, unknown] = np.nan
    return covariance
