r"""A map from standard-normal-like z to skewed θ, fitted to draws of θ.

    y_j = m_j + a_j z_j + b_j √(s_j² + (z_j − c_j)²),    |b_j| < a_j
    θ   = centre + axes y

Each y_j is one branch of a hyperbola: straight in both tails, with the slopes a_j ± b_j, and bent
over a width s_j about c_j; its inverse is closed. The axes are those along which the draws' tails
differ most (invariant coordinates: D. E. Tyler, F. Critchley, L. Dümbgen and H. Oja, 2009,
*Journal of the Royal Statistical Society B* 71, 549–592), from the covariance and the scatter of a
multivariate t. Bends are fitted by maximum likelihood to the draws nearest to their middle, so that
a far region of little mass does not flatten the map where nearly all the mass is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import minimize

from bayes_lsm.arrays import Array

_DF = 3.0  # of the multivariate t
_NEAR = 0.97  # share of the draws that are bent to
_STEEPEST = 0.7  # of |b| / a: slopes in the tails differ by a factor of 5.7 at most
_SHARPEST = 0.7  # of s, so that a bend stays smooth on the scale of a step


@dataclass(frozen=True)
class Bends:
    """The map's numbers: `centre` (q,), `axes` (q, q) and, of each axis, m, a, b, s, c (q,)."""

    centre: Array
    axes: Array
    m: Array
    a: Array
    b: Array
    s: Array
    c: Array

    def unbend(self, theta: Array) -> tuple[Array, Array]:
        """z of θ, both (draws, q), and ln |dθ/dz|, (draws,)."""
        y = np.linalg.solve(self.axes, (theta - self.centre).T).T
        z, slope = _unbend(y, self.m, self.a, self.b, self.s, self.c)
        return z, np.log(slope).sum(axis=1) + np.linalg.slogdet(self.axes)[1]


def fit_bends(theta: Array) -> Bends:
    """The map that makes draws (draws, q) nearly standard normal."""
    centre, scatter = t_scatter(theta)
    away = np.einsum("ij,ij->i", (theta - centre) @ np.linalg.inv(scatter), theta - centre)
    near = theta[away <= np.quantile(away, _NEAR)]
    centre, scatter = t_scatter(near)
    _, contrasts = eigh(scatter, np.cov(near.T).reshape(scatter.shape))
    contrasts /= np.sqrt(np.diag(contrasts.T @ scatter @ contrasts))
    y = (near - centre) @ contrasts
    parameters = np.transpose([_fit_axis(each) for each in y.T])
    return Bends(centre, np.linalg.inv(contrasts.T), *parameters)


def t_scatter(x: Array) -> tuple[Array, Array]:
    """Location (q,) and scatter (q, q) of a multivariate t with 3 degrees of freedom, by EM."""
    q = x.shape[1]
    centre, scatter = np.median(x, axis=0), np.cov(x.T).reshape(q, q)
    for _ in range(200):
        away = np.einsum("ij,ij->i", (x - centre) @ np.linalg.inv(scatter), x - centre)
        weight = (_DF + q) / (_DF + away)
        centre = weight @ x / weight.sum()
        before, scatter = scatter, (weight[:, None] * (x - centre)).T @ (x - centre) / len(x)
        if np.allclose(scatter, before, rtol=1e-6, atol=0):
            break
    return centre, scatter


def _unbend(y: Array, m: Array, a: Array, b: Array, s: Array, c: Array) -> tuple[Array, Array]:
    """z of y, and the slope dy/dz there: u = z − c solves a quadratic."""
    away = y - m - a * c
    squares = a**2 - b**2
    u = (a * away - b * np.sqrt(away**2 + squares * s**2)) / squares
    return u + c, a + b * u / np.sqrt(s**2 + u**2)


def _fit_axis(y: Array) -> Array:
    """m, a, b, s, c of greatest likelihood, from a start that bends up and one that bends down."""
    starts = [[y.mean() - bend / 2, np.log(y.std()), bend, -0.5, 0.0] for bend in (-0.5, 0.5)]
    fits = [minimize(_loss, start, args=(y,), method="BFGS") for start in starts]
    return _natural(min(fits, key=lambda fit: float(fit.fun)).x)


def _natural(p: Array) -> Array:
    a = np.exp(p[1])
    return np.array([p[0], a, _STEEPEST * a * np.tanh(p[2]), _SHARPEST + np.exp(p[3]), p[4]])


def _loss(p: Array, y: Array) -> float:
    """−ln of the mean likelihood of y; a slight pull keeps what a straight axis leaves open."""
    z, slope = _unbend(y, *_natural(p))
    return float(np.mean(z**2 / 2 + np.log(slope)) + 1e-3 * np.sum(p[2:] ** 2))
