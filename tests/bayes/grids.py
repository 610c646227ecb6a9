"""A posterior of few coefficients by quadrature on a grid: nothing is searched or drawn.

The trapezoidal rule on x = c + w sinh t, which takes far tails in few steps.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline


class Axis(NamedTuple):
    """Nodes from `lower` to `upper`, densest around `centre` over a `width`."""

    centre: float
    width: float
    lower: float
    upper: float
    nodes: int

    def steps(self):
        ends = np.arcsinh((np.array([self.lower, self.upper]) - self.centre) / self.width)
        return np.linspace(*ends, self.nodes)


@dataclass(frozen=True, eq=False)
class Quadrature:
    """The log evidence; mean, sd and fourth central moment; and weights of the nodes."""

    axes: tuple
    weights: np.ndarray
    log_evidence: float
    mean: np.ndarray
    sd: np.ndarray
    fourth: np.ndarray

    def probability(self, j, x):
        """P(coefficient j ≤ x), by the integral of a spline through its density in t."""
        axis = self.axes[j]
        others = tuple(i for i in range(len(self.axes)) if i != j)
        t, density = axis.steps(), self.weights.sum(axis=others)
        total = CubicSpline(t, density).antiderivative()
        return total(np.arcsinh((x - axis.centre) / axis.width)) / total(t[-1])


def quadrature(target, axes, turn):
    """Of a collapsed target, over u with θ = turn u."""
    steps = [axis.steps() for axis in axes]
    values = [a.centre + a.width * np.sinh(t) for a, t in zip(axes, steps, strict=True)]
    slopes = [np.log(a.width * np.cosh(t)) for a, t in zip(axes, steps, strict=True)]
    u = np.stack(np.meshgrid(*values, indexing="ij"), axis=-1).reshape(-1, len(axes))
    # φ is linear in θ; the density of u needs the determinant of both steps.
    back = np.linalg.inv(target.coordinates.theta(np.eye(len(axes))).T) @ turn
    parts = np.array_split(u @ back.T, max(1, len(u) // 20_000))
    log_density = np.concatenate([target(part) for part in parts]).reshape(
        [len(t) for t in steps]
    ) + sum(np.ix_(*slopes))
    top = log_density.max()
    weights = np.exp(log_density - top)
    cell = np.prod([t[1] - t[0] for t in steps]) * abs(np.linalg.det(back))
    log_evidence = top + np.log(weights.sum() * cell)
    weights /= weights.sum()
    flat = weights.ravel()
    mean = flat @ u
    away = u - mean
    return Quadrature(
        tuple(axes), weights, log_evidence, mean, np.sqrt(flat @ away**2), flat @ away**4
    )
