r"""Marginal likelihoods by bridge sampling: from any draws of a posterior, whatever made them.

With g a normal distribution fitted to one half of the draws, and the other half θ_i worth N₁
independent ones, and N₂ draws θ̃_j of g,

    p̂(y) = mean_j[ h(θ̃_j) p(y, θ̃_j) ] / mean_i[ h(θ_i) g(θ_i) ],
    h = 1 / ( s₁ p(y, θ) + s₂ p̂(y) g(θ) ),   s_k = N_k / (N₁ + N₂)

found by iteration (Meng & Wong 1996, Statistica Sinica 6, 831-860). The error is that of
Frühwirth-Schnatter (2004), doi:10.1111/j.1368-423X.2004.00125.x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit, logsumexp

from bayes_lsm.arrays import Array

MOST_ITERATIONS = 1000
_SAME = 1e-10


@dataclass(frozen=True)
class Bridge:
    """ln p(y) found by bridging, or where that was cut off, and its Monte Carlo error."""

    log: float
    se: float
    settled: bool


def bridge(
    log_joint: Callable[[Array], Array], draws: Array, *, worth: float, rng: np.random.Generator
) -> Bridge:
    """The log marginal likelihood and its standard error.

    `log_joint` is ln p(y, θ) (m,) of points (m, d) in coordinates without bounds, Jacobian
    included. The draws (S, d) of the posterior, those of one chain after those of the other, are
    worth so many independent ones.

    Examples
    --------
    A normal density times 7:

    >>> draws = np.random.default_rng(1).normal(2.0, 3.0, (4000, 1))
    >>> found = bridge(
    ...     lambda x: np.log(7) - 0.5 * ((x[:, 0] - 2) / 3) ** 2 - np.log(3 * np.sqrt(2 * np.pi)),
    ...     draws, worth=4000, rng=np.random.default_rng(2))
    >>> bool(abs(found.log - np.log(7)) < 4 * found.se), found.se < 0.01, found.settled
    (True, True, True)
    """
    # Every second draw, so that both halves know all chains.
    fitted, kept = draws[::2], draws[1::2]
    mean = fitted.mean(axis=0)
    factor = np.linalg.cholesky(np.atleast_2d(np.cov(fitted.T)))
    constant = float(np.log(np.diag(factor)).sum()) + 0.5 * len(mean) * math.log(2 * math.pi)

    def log_g(points: Array) -> Array:
        z = np.linalg.solve(factor, (points - mean).T)
        return np.asarray(-0.5 * np.sum(z**2, axis=0) - constant)

    proposed = mean + rng.standard_normal(kept.shape) @ factor.T
    # ln p(y, θ) − ln g(θ) of the posterior's draws, and of the proposal's.
    ours = log_joint(kept) - log_g(kept)
    theirs = np.nan_to_num(log_joint(proposed) - log_g(proposed), nan=-np.inf)
    return _iterate(ours, theirs, worth / 2)


def _iterate(ours: Array, theirs: Array, worth: float) -> Bridge:
    share = math.log(worth) - math.log(len(theirs))  # ln s₁ / s₂
    # From here on less the median, so that a step is not lost in the digits of a large ln p(y).
    middle, log = float(np.median(ours)), 0.0
    ours, theirs, settled = ours - middle, theirs - middle, False
    for _ in range(MOST_ITERATIONS):
        # h p ∝ expit(share + l − log), h g ∝ expit(−share − l + log) / (p̂ s₂ / s₁).
        above = logsumexp(log_expit(share + theirs - log)) - math.log(len(theirs))
        below = logsumexp(log_expit(-share - ours + log)) - math.log(len(ours))
        step = float(above - below) - share
        log += step
        settled = abs(step) < _SAME
        if settled:
            break
    f1, f2 = expit(share + theirs - log), expit(-share - ours + log)
    error = np.var(f1) / np.mean(f1) ** 2 / len(theirs) + np.var(f2) / np.mean(f2) ** 2 / worth
    return Bridge(middle + log, float(math.sqrt(error)), settled)
