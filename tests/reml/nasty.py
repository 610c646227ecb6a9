"""Nasty datasets, and a search by brute force to hold the estimator to."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from bayes_lsm.likelihood.rows.closed_form import evaluate

LOCATIONS = ["~ 1", "~ x", "~ g", "~ g + x", "~ 0 + g", "~ g * x", "~ u"]
SCALES = ["~ 1", "~ x", "~ g", "~ g + x", "~ 0 + g", "~ x + u", "~ 0 + x", "~ x + I(x ** 2)"]


def nasty_data(rng):
    """A data frame (yi, vi, x, u, g) with homogeneous groups, outliers, ties and wild variances."""
    k = int(rng.choice([6, 8, 10, 15, 25, 40]))
    x = [
        rng.normal(size=k),
        rng.standard_t(1, size=k),
        rng.integers(0, 3, size=k).astype(float),
        2000.0 + rng.integers(0, 20, size=k),
        rng.exponential(size=k) * 1e3,
        rng.permutation(k) / k,
    ][rng.integers(6)]
    levels = np.array(list("abcd"))[: rng.integers(2, 5)]
    g = rng.permutation(np.resize(np.repeat(levels, 2), k))
    spread = rng.choice([0.0, 0.3, 1.0, 3.0])
    v = np.exp(spread * rng.normal(size=k)) * 10.0 ** rng.choice([-4, -1, 0, 2])
    if rng.random() < 0.1:
        v = 10.0 ** rng.uniform(-8, 4, size=k)
    z = (x - x.mean()) / (x.std() + 1e-9)
    log_tau2 = np.log(np.median(v)) + rng.choice([-8.0, 0.0, 2.0]) + rng.choice([0, 1, 3]) * z
    tau2 = np.exp(np.minimum(log_tau2, 30.0))
    tau2 = np.where(np.isin(g, levels[rng.random(len(levels)) < 0.4]), 0.0, tau2)
    y = rng.normal(size=k) * np.sqrt(v * rng.choice([0.1, 1.0]) + tau2)
    kind = rng.random()
    if kind < 0.1:
        y[rng.integers(k)] += 30 * np.sqrt(v.max())
    elif kind < 0.15:
        y[:] = 1.0
    elif kind < 0.2:
        y = np.round(y / np.sqrt(np.median(v)))
    elif kind < 0.25:
        y[g == levels[0]] = y[0]
    u = rng.normal(size=k) + rng.choice([0.0, 2.0]) * z
    return pd.DataFrame({"yi": y, "vi": v, "x": x, "u": u, "g": g})


def brute_force(design, method, rng, *, starts=12):
    """The highest log-likelihood that BFGS finds from random starts."""
    y, v, X, Z = design.y, design.v, design.X, design.Z
    back = np.linalg.inv(np.linalg.qr(Z, mode="r") / np.sqrt(len(Z)))
    rotated = Z @ back
    centre = np.linalg.lstsq(rotated, np.log(v + np.var(y)), rcond=None)[0]

    def deviance(alpha):
        here = evaluate(alpha, y, v, X, rotated, method=method)
        return -here.value, -here.score

    best = -np.inf
    for _ in range(starts):
        start = centre + rng.normal(size=len(centre)) * rng.choice([0.5, 3.0, 8.0])
        with np.errstate(all="ignore"):
            found = minimize(deviance, start, jac=True, method="BFGS", options={"maxiter": 300})
        best = max(best, -float(found.fun)) if np.isfinite(found.fun) else best
    return best
