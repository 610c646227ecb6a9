"""Nasty datasets for several scale terms: few groups, no variance, correlations near 1."""

import numpy as np
import pandas as pd

from bayes_lsm.design.design import build_design
from bayes_lsm.errors import BayesLsmError
from bayes_lsm.specification import SamplingCovariance, Specification


def nested(rng):
    """Schools in districts: (data, scale, correlation, sampling covariance)."""
    districts, schools, rows = (
        int(rng.integers(3, 12)),
        int(rng.integers(1, 5)),
        int(rng.integers(1, 4)),
    )
    school = np.repeat(np.arange(districts * schools), rows)
    district = school // schools
    lost = rng.random(len(school)) < rng.choice([0.0, 0.4])
    z, x = moderator(rng, districts), moderator(rng, districts * schools)
    g = rng.permutation(np.resize(np.arange(3), districts))
    level = 10.0 ** rng.choice([-3.0, 0.0, 2.0])
    v = level * np.exp(rng.choice([0.0, 1.0, 3.0]) * rng.normal(size=len(school)))
    tau2 = [level * rng.choice([0.0, 0.0, 0.3, 3.0]) for _ in range(2)]
    between = np.sqrt(tau2[0] * np.exp(rng.choice([0.0, 1.5]) * standard(z)))
    between[g == 0] *= rng.choice([0.0, 1.0])
    within = np.sqrt(tau2[1] * np.exp(rng.choice([0.0, 1.5]) * standard(x)))
    y = (between * rng.normal(size=districts))[district]
    y = y + (within * rng.normal(size=len(x)))[school] + rng.normal(size=len(v)) * np.sqrt(v)
    frame = {"yi": y, "vi": v, "district": district, "school": school, "z": z[district]}
    data = pd.DataFrame({**frame, "x": x[school], "g": np.array(list("abc"))[g[district]]})
    formulas = ["~ 1", "~ 1", "~ z", "~ g", "~ 0 + g", "~ z + g"]
    scale = {"district": str(rng.choice(formulas))}
    if schools > 1 and rng.random() < 0.8:
        scale["school"] = str(rng.choice([*formulas, "~ x", "~ x"]))
    if rng.random() < 0.4:
        scale["residual"] = str(rng.choice(["~ 1", "~ x", "~ g"]))
    errors = SamplingCovariance("district", rho=0.7) if rng.random() < 0.2 else None
    return disturb(rng, data.loc[~lost], "district"), scale, {}, errors


def crossed(rng):
    """Two groupings that cross."""
    n = int(rng.integers(12, 50))
    a, b = rng.integers(0, 5, n), rng.integers(0, 6, n)
    v = np.exp(rng.normal(size=n)) * 0.1
    tau = rng.choice([0.0, 0.5, 2.0], size=2)
    y = (
        tau[0] * rng.normal(size=5)[a]
        + tau[1] * rng.normal(size=6)[b]
        + rng.normal(size=n) * np.sqrt(v)
    )
    data = pd.DataFrame({"yi": y, "vi": v, "a": a, "b": b, "x": rng.normal(size=n)})
    scale = {"a": "~ 1", "b": "~ 1"}
    if rng.random() < 0.5:
        scale["residual"] = str(rng.choice(["~ 1", "~ x"]))
    return disturb(rng, data, "a"), scale, {}, None


def outcomes(rng):
    """Correlated outcomes, some missing, with a correlation that may be ±1."""
    trials, s = int(rng.integers(4, 25)), int(rng.integers(2, 4))
    rho = float(rng.choice([-0.4, 0.0, 0.6, 0.999]))
    R = np.full((s, s), rho) + (1 - rho) * np.eye(s)
    tau = np.sqrt(rng.choice([0.0, 0.02, 0.5], size=s))
    root = np.linalg.cholesky(R + 1e-12 * np.eye(s))
    u = rng.normal(size=(trials, s)) @ root.T * tau
    trial, outcome = np.divmod(np.arange(trials * s), s)
    v = np.exp(0.5 * rng.normal(size=trials * s)) * rng.choice([1e-3, 0.1])
    y = u.ravel() + rng.normal(size=trials * s) * np.sqrt(v)
    data = pd.DataFrame(
        {"yi": y, "vi": v, "trial": trial, "outcome": np.array(list("abc"))[outcome]}
    )
    data["x"] = rng.normal(size=trials)[trial]
    data = data.loc[rng.random(len(data)) > rng.choice([0.0, 0.3])]
    name = "outcome | trial"
    scale = {name: str(rng.choice(["~ 0 + outcome", "~ 0 + outcome", "~ 1", "~ x", "~ outcome"]))}
    kind = str(rng.choice(["unstructured", "compound_symmetric", "none"]))
    errors = SamplingCovariance("trial", rho=0.5) if rng.random() < 0.4 else None
    return disturb(rng, data, "trial"), scale, {name: kind}, errors


def slopes(rng):
    """A random intercept and slope; sometimes of individual data."""
    studies, rows = int(rng.integers(4, 15)), int(rng.integers(3, 8))
    study = np.repeat(np.arange(studies), rows)
    x = rng.normal(size=len(study)) * rng.choice([0.1, 1.0, 100.0])
    known = rng.random() < 0.5
    v = np.full(len(study), rng.choice([1e-3, 1.0]))
    tau = rng.choice([0.0, 0.0, 0.5, 2.0], size=2)
    y = tau[0] * rng.normal(size=studies)[study] + tau[1] * rng.normal(size=studies)[study] * x
    y = y + rng.normal(size=len(v)) * np.sqrt(v)
    data = pd.DataFrame({"yi": y, "study": study, "x": x, "w": rng.normal(size=studies)[study]})
    data = data.assign(vi=v) if known else data
    name = str(rng.choice(["1 + x | study", "0 + x | study"]))
    scale = {name: str(rng.choice(["~ 1", "~ 1", "~ w"]))}
    if not known or rng.random() < 0.3:
        scale["residual"] = str(rng.choice(["~ 1", "~ w"]))
    correlation = {name: str(rng.choice(["unstructured", "none"]))} if name[0] == "1" else {}
    return disturb(rng, data, "study"), scale, correlation, None


def moderator(rng, k):
    """Tame, with one value far out, of few values, or far from 0."""
    x = rng.normal(size=k)
    kind = rng.integers(4)
    if kind == 1:
        x[rng.integers(k)] += 10.0 ** rng.uniform(0, 2)
    elif kind == 2:
        x = rng.integers(0, 2, size=k).astype(float)
    elif kind == 3:
        x = 2000.0 + rng.integers(0, 20, size=k)
    return x


def standard(x):
    """With a mean of 0 and, if it varies, an SD of 1; at most 3."""
    return np.minimum((x - x.mean()) / (x.std() + 1e-9), 3.0)


def disturb(rng, data, group):
    """One group that dominates, one row far out, effects that are all the same, or nothing."""
    data = data.reset_index(drop=True)
    if len(data) < 3:
        return data
    y, kind = data["yi"].to_numpy(copy=True), rng.random()
    if kind < 0.12:
        y[data[group] == data[group].iloc[0]] += 20 * (np.std(y) + 0.1)
    elif kind < 0.2:
        y[rng.integers(len(y))] += 30 * (np.std(y) + 0.1)
    elif kind < 0.25:
        y = np.round(y)
    elif kind < 0.28 and "vi" in data:
        y[:] = 1.0
    return data.assign(yi=y)


def simulate(seed):
    """A design, or None where the door refuses it."""
    rng = np.random.default_rng(seed)
    kind = (nested, nested, crossed, outcomes, outcomes, slopes)[rng.integers(6)]
    data, scale, correlation, errors = kind(rng)
    location = str(rng.choice(["~ 1", "~ 1", "~ x"]))
    words = Specification(
        f"yi {location}",
        "vi" if "vi" in data else None,
        scale=scale,
        correlation=correlation,
        sampling_covariance=errors,
    )
    try:
        return build_design(words, data)
    except BayesLsmError:
        return None
