r"""A map that brings a far region of little mass near, fitted to draws that are normal but for it.

A half-flat posterior can have a region with half a per cent of its mass that is hundreds of
standard deviations away and as wide: no heterogeneity anywhere, where the prior alone holds the
coefficients. With an axis w that leads there, and others across it,

    x_0 = z_0 + Σ_j c_j h ln(1 + exp((z_0 − κ_j) / h)),    c_j ≥ 0
    x_j = z_j (1 + (r_j − 1) s(z_0)),                      s(z_0) = 1 / (1 + exp((κ − z_0) / h))

x_0 has the draws' quantiles at those of a standard normal, as nearly as a convex curve of sharpness
h can, and the spread across grows from 1 to that of the far region, r. With no such region the map
is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.special import expit, ndtri

from bayes_lsm.arrays import Array

KNOTS = np.arange(0.5, 3.6, 0.25)  # κ_j
SHARPNESS = 0.15  # h: with less of it the sampler has to go by shorter steps
_FAR = 12.0  # standard deviations from the middle; a skewed body's draws are within 10
_FEWEST = 10  # far draws that a map can be fitted to
_AHEAD = 2  # of h: by so much does the spread across begin to grow before the far region does


@dataclass(frozen=True)
class Reach:
    """The map's numbers: `axes` (q, q), w first; `hinges` c (J,), `spread` r (q − 1,), κ."""

    axes: Array
    hinges: Array
    spread: Array
    start: Array

    def stretch(self, z: Array) -> Array:
        """x of z, both (draws, q)."""
        z_0 = z[:, :1]
        past = (z_0 - KNOTS) / SHARPNESS
        along = z_0 + SHARPNESS * np.logaddexp(0, past) @ self.hinges[:, None]
        across = z[:, 1:] * (1 + (self.spread - 1) * expit((z_0 - self.start) / SHARPNESS))
        return np.hstack([along, across]) @ self.axes.T


def fit_reach(x: Array) -> Reach:
    """The map after which draws x (draws, q), standard normal but for a far region, are normal."""
    q = x.shape[1]
    far = np.linalg.norm(x, axis=1) > _FAR
    if far.sum() < _FEWEST:
        return Reach(np.eye(q), np.zeros(len(KNOTS)), np.ones(q - 1), np.zeros(()))
    axes = _axes(x[far])
    spread = np.sqrt(np.mean((x[far] @ axes[:, 1:]) ** 2, axis=0))
    start = np.asarray(ndtri(1 - far.mean()) - _AHEAD * SHARPNESS)
    return Reach(axes, _hinges(x @ axes[:, 0]), spread, start)


def _axes(far: Array) -> Array:
    """Towards the mean of the far draws first, then those along which they are uncorrelated."""
    w = far.mean(axis=0)
    axes = np.linalg.qr(np.column_stack([w, np.eye(len(w))]))[0]
    axes[:, 0] *= np.sign(axes[:, 0] @ w)
    across = far @ axes[:, 1:]
    axes[:, 1:] = axes[:, 1:] @ np.linalg.eigh(across.T @ across)[1]
    return axes


def _hinges(along: Array) -> Array:
    """c ≥ 0 by least squares of relative errors of the quantiles above the median."""
    z = ndtri((np.arange(len(along)) + 0.5) / len(along))
    at = np.linspace(0, z[-3], 200)  # the two outermost draws say little of their quantiles
    excess = np.interp(at, z, np.sort(along)) - at
    curves = SHARPNESS * np.logaddexp(0, (at[:, None] - KNOTS) / SHARPNESS)
    relative = 1 / (1 + np.abs(excess))
    c: Array = nnls(curves * relative[:, None], excess * relative)[0]
    return c
