"""The density of one coefficient given all other unknowns of a draw, by quadrature.

What the other unknowns are hangs on what is integrated out: see `collapsed_unknowns` and
`joint_unknowns`. They need not be the other coefficients themselves. With d_j = 1, a coefficient
θ_j and the θ_i − d_i θ_j are as good a set of unknowns as the θ, with the same density; and of a
slope and an intercept far from the data the conditional density is so much wider when the line is
turned about the data's middle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from bayes_lsm.arrays import Array, Index
from bayes_lsm.bayes.engines.collapsed import normal_prior
from bayes_lsm.bayes.student.effects import arrays
from bayes_lsm.bayes.term_draws import are_random
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.likelihood.protocol import NormalPrior
from bayes_lsm.priors import ResolvedPriors

# Nodes of the quadrature: to find where the density is, and then as many as it takes until every
# second one gives the same integral.
_COARSE, _FINE = 50, (65, 257, 1025, 4097)
_SAME = 1e-4
_NEGLIGIBLE = 11.0  # below the highest log density
# Densities of single effects in one quadrature; one of a Student-t study effect is dearer.
_WORK, _STUDENT_WORK = 1.5e7, 2.5e6


@dataclass(frozen=True, eq=False)
class Unknowns:
    """What a posterior density is of, where one of its coordinates is to be moved.

    `log_density` (m,) of points (m, d), up to a constant; `place` has the coordinates of the
    coefficients of each part, and the quadrature can afford `most` points. So many coordinates from
    the first are `turned` together: the d of each are the regression coefficients, over the draws,
    on the one that is moved.
    """

    log_density: Callable[[Array], Array]
    place: Mapping[str, Sequence[int] | Index]
    most: float
    turned: int = 0

    def direction(self, points: Array, j: int) -> Array:
        """d (d,), of points (m, d)."""
        found = np.zeros(points.shape[1])
        if j < self.turned:
            together = np.cov(points[:, : self.turned].T).reshape(self.turned, self.turned)
            found[: self.turned] = together[j] / together[j, j]
        found[j] = 1.0
        return found


def collapsed_unknowns(design: Design, priors: ResolvedPriors) -> Unknowns:
    """α, κ and effects of random intercepts of ln τ², with β integrated out."""
    likelihood = likelihood_of(design.given_levels())
    location = NormalPrior(*normal_prior(priors.location))
    moved = np.flatnonzero(~are_random(design))

    def log_density(points: Array) -> Array:
        found = likelihood.values(np.ascontiguousarray(points), location)
        return np.asarray(found + priors.scale.logpdf(points[:, moved]).sum(axis=1))

    most = _WORK / (likelihood.cost * (_COARSE + _FINE[0]))
    return Unknowns(log_density, {"scale": moved}, most)


def joint_unknowns(numbers: Design, priors: ResolvedPriors) -> Unknowns:
    """β, α and ν of a model with Student-t study effects."""
    from bayes_lsm.likelihood.student.kernels import log_likelihood

    data, p = arrays(numbers), numbers.X.shape[1]

    def log_density(points: Array) -> Array:
        location, scale, df = (
            np.ascontiguousarray(each) for each in (points[:, :p], points[:, p:-1], points[:, -1])
        )
        found = log_likelihood(location, scale, df, *data)
        # The prior of ν, which does not move, would be a constant.
        for block, values in ((priors.location, location), (priors.scale, scale)):
            found = found + block.logpdf(values).sum(axis=1)
        return np.asarray(found)

    most = _STUDENT_WORK / (len(numbers.y) * (_COARSE + _FINE[0]))
    place = {"location": range(p), "scale": range(p, p + numbers.Z.shape[1])}
    return Unknowns(log_density, place, most, turned=p)


def conditional_density(unknowns: Unknowns, points: Array, j: int, value: float) -> Array:
    """Log density (m,) of coordinate j at the value, given the other unknowns of each point (m, d).

    The trapezoidal rule, on nodes that a first, coarse look finds to hold all but e^−11: of a
    smooth density that vanishes at both ends its error falls faster than any power of the step.
    """

    direction = unknowns.direction(points, j)

    def log_density(rows: Index, nodes: Array) -> Array:
        moved = np.repeat(points[rows], nodes.shape[1], axis=0)
        moved += (nodes.ravel() - moved[:, j])[:, None] * direction
        values = unknowns.log_density(moved)
        return np.asarray(np.nan_to_num(values, nan=-np.inf).reshape(nodes.shape))

    rows = np.arange(len(points))
    lower, upper = _bracket(log_density, points[:, j])
    total = np.empty(len(rows))
    here = log_density(rows, np.full((len(rows), 1), value))[:, 0]
    for size in _FINE:
        width = (upper - lower)[rows, None]
        nodes = lower[rows, None] + width * np.linspace(0, 1, size)
        found = log_density(rows, nodes)
        total[rows] = logsumexp(found, axis=1) + np.log(width[:, 0] / (size - 1))
        half = logsumexp(found[:, ::2], axis=1) + np.log(2 * width[:, 0] / (size - 1))
        rows = rows[np.abs(total[rows] - half) > _SAME]
        if not len(rows):
            break
    return here - total


def _bracket(log_density: Callable[[Index, Array], Array], own: Array) -> tuple[Array, Array]:
    """Where the conditional densities of the coefficient are, whose draws are `own` (m,)."""
    spread = np.ptp(own)
    away = spread * np.array([1.0, 1 / 3])
    common = np.r_[
        own.min() - away, np.quantile(own, np.linspace(0, 1, _COARSE - 4)), own.max() + away
    ]
    rows = np.arange(len(own))
    nodes = np.sort(np.c_[np.broadcast_to(common, (len(own), len(common))), own], axis=1)
    found = log_density(rows, nodes)
    inside = found > found.max(axis=1, keepdims=True) - _NEGLIGIBLE
    last = nodes.shape[1] - 1
    low = np.maximum(np.argmax(inside, axis=1) - 1, 0)
    high = np.minimum(last - np.argmax(inside[:, ::-1], axis=1) + 1, last)
    return nodes[rows, low], nodes[rows, high]
