"""Deliberately nasty simulated datasets: nothing breaks, and nothing meaningless is printed.

The datasets have 5 to 40 studies, no heterogeneity at all or in some groups, nearly empty levels,
moderators with one study far out, sampling variances over up to twelve orders of magnitude, and
moderators that are all but collinear. Each fit is held against climbs from 20 random starts.

Measured on the 10,000 of the slow test, in two to three minutes: 8,794 pass the door; 5,099 of
their fits diverge, and say so; in 45 the likelihood is flat in some direction, and there are no
standard errors there; 22 (0.3%) say that they did not converge, most with a scale part ~ 0 + x
whose x is huge in one study; and in 5 (0.06%) a random start finds a higher point.
"""

import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest

from bayes_lsm.design.columns import check_columns
from bayes_lsm.design.design import Design
from bayes_lsm.design.part import Part
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import (
    BayesLsmError,
    BayesLsmWarning,
    ConvergenceWarning,
    DivergentScaleWarning,
    FitError,
)
from bayes_lsm.formulas.grouping import read_grouping
from bayes_lsm.reml import fit_reml
from bayes_lsm.reml.search.estimate import surface_of
from bayes_lsm.specification import Specification

SETS = 10_000
BLOCKS = 10
STARTS = 20
SIZES, SHARES = zip(
    *{5: 0.15, 6: 0.15, 7: 0.15, 8: 0.15, 10: 0.1, 12: 0.1, 15: 0.1, 20: 0.07, 40: 0.03}.items(),
    strict=True,
)
# What a climb that stops within 1e-15 of the log-likelihood, and its rounding, can make of it.
TOLERANCE = 1e-6


def moderator(rng, k):
    """One numeric moderator: tame, heavy-tailed, with huge leverage, or of few values."""
    x = rng.normal(size=k)
    kind = rng.integers(6)
    if kind == 1:
        x = rng.standard_t(1, size=k)
    elif kind == 2:
        x[rng.integers(k)] += 10.0 ** rng.uniform(1, 4)
    elif kind == 3:
        x = 2000.0 + rng.integers(0, 20, size=k)
    elif kind == 4:
        x = rng.integers(0, 3, size=k).astype(float)
    elif kind == 5:
        x = np.exp(3 * x)
    return x


def columns(rng, k):
    """Named columns: intercept, x, u (sometimes all but x), and the levels of g."""
    x = moderator(rng, k)
    u = x + 10.0 ** rng.uniform(-5, -1) * x.std() * rng.normal(size=k)
    u = u if rng.random() < 0.3 else moderator(rng, k)
    levels = int(rng.integers(2, 5))
    # Two studies of each level, if there are as many, and the others anywhere: nearly empty levels.
    g = np.resize(np.repeat(np.arange(levels), 2), k)
    g[2 * levels :] = rng.integers(0, int(rng.integers(1, levels + 1)), size=len(g[2 * levels :]))
    g = rng.permutation(g)
    named = {"intrcpt": np.ones(k), "x": x, "u": u}
    return named | {f"g{level}": (g == level).astype(float) for level in range(levels)}, g


TERMS = (
    ("intrcpt",),
    ("intrcpt", "x"),
    ("intrcpt", "g"),
    ("g",),
    ("intrcpt", "x", "u"),
    ("intrcpt", "g", "x"),
    ("x",),
)


def part(rng, named):
    """A location or scale part with some of the columns."""
    terms = TERMS[rng.integers(len(TERMS))]
    levels = [name for name in named if name[0] == "g"]
    names = []
    for term in terms:
        names += levels["intrcpt" in terms :] if term == "g" else [term]
    return Part("~", tuple(names), np.column_stack([named[name] for name in names]), None)


def simulate(seed):
    """A design, or None where the door would refuse it."""
    rng = np.random.default_rng(seed)
    k = int(rng.choice(SIZES, p=SHARES))
    named, g = columns(rng, k)
    spread = rng.choice([0.0, 0.5, 3.0])
    v = 10.0 ** rng.choice([-4.0, 0.0, 2.0]) * np.exp(spread * rng.normal(size=k))
    if rng.random() < 0.15:
        v = 10.0 ** rng.uniform(-6, 6, size=k)
    x = named["x"]
    slope = rng.choice([0.0, 1.0, 3.0]) * (x - x.mean()) / (x.std() + 1e-9)
    tau2 = np.median(v) * np.exp(np.minimum(rng.choice([-1.0, 1.0, 3.0]) + slope, 30.0))
    homogeneous = rng.random()
    if homogeneous < 0.25:
        tau2[:] = 0.0
    elif homogeneous < 0.6:
        tau2[np.isin(g, np.flatnonzero(rng.random(4) < 0.4))] = 0.0
    y = rng.normal(size=k) * np.sqrt(v * rng.choice([0.1, 1.0]) + tau2)
    kind = rng.random()
    if kind < 0.1:
        y[rng.integers(k)] += 30 * np.sqrt(v.max())
    elif kind < 0.13:
        y[:] = 1.0
    elif kind < 0.18:
        y[g == 0] = y[0]
    location, scale = part(rng, named), part(rng, named)
    p, q = location.matrix.shape[1], scale.matrix.shape[1]
    if k <= max(p, q) or k < p + q:
        return None
    try:
        check_columns("location", location.names, location.matrix)
        check_columns("scale", scale.names, scale.matrix)
    except BayesLsmError:
        return None
    labels = tuple(f"s{i}" for i in range(k))
    term = ScaleTerm(
        read_grouping("residual"),
        labels,
        ("intrcpt",),
        np.arange(k),
        np.ones((k, 1)),
        scale.names,
        scale.matrix[:, None, :],
        "none",
        scale,
    )
    return Design(Specification("~ 1", "vi", "yi"), y, v, (), location, (term,), labels)


@dataclass
class Tally:
    """What was seen."""

    fitted: int = 0
    divergent: int = 0
    flat: int = 0
    unconverged: list = field(default_factory=list)
    missed: list = field(default_factory=list)  # a random start is higher
    unsaid: list = field(default_factory=list)


def random_climbs(design, method, rng):
    """Where climbs from 20 random starts end."""
    surface = surface_of(design, method, {}, 3, of_rows=True)
    q = design.Z.shape[1]
    level = np.log(np.var(design.y) + np.median(design.v))
    centre = np.linalg.lstsq(design.Z, np.full(len(design.y), level))[0]
    steps = rng.normal(size=(STARTS, q)) * rng.choice([0.5, 3.0, 8.0], size=(STARTS, 1))
    return surface.climb(surface.forth @ centre + steps)


def check(seed, tally):
    design = simulate(seed)
    if design is None:
        return
    method = ("REML", "ML")[seed % 2]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", BayesLsmWarning)
        refusal = ""
        try:
            fit = fit_reml(design, method=method)
        except FitError as error:
            refusal = str(error)
    if refusal:  # one study has a level, and a coefficient of the location part, to itself
        assert design.lone_levels, seed
        assert "do not inform its heterogeneity" in refusal, seed
        return
    categories = {warning.category for warning in said}
    assert (DivergentScaleWarning in categories) == (fit.divergence is not None), seed
    assert fit.converged or ConvergenceWarning in categories, seed
    tally.fitted += 1
    tally.divergent += fit.divergence is not None
    assert np.isfinite(fit.loglik), seed
    tally.unconverged += [] if fit.converged else [seed]
    assert np.isfinite(fit.beta).all(), seed
    assert np.isfinite(fit.vcov_location).all(), seed
    assert (fit.tau2 >= 0).all(), seed
    check_standard_errors(fit, seed)
    tally.flat += fit.divergence is None and np.isnan(fit.vcov_scale).any()
    highest = fit.loglik if fit.rival is None else fit.rival_loglik
    slack = max(TOLERANCE, 1e-12 * abs(highest))
    climbs = random_climbs(design, method, np.random.default_rng(seed))
    if max(point.value for point in climbs) > highest + slack:
        tally.missed.append(seed)
    elif fit.divergence is None and fit.rival is None and np.isfinite(fit.vcov_scale).all():
        # An interior maximum that is one: no climb may be as high on its way to infinity.
        gone = [
            point
            for point in climbs
            if point.value > fit.loglik - 1e-9 and (point.tau2 < 1e-9 * design.v).any()
        ]
        if gone and not (fit.tau2 < 1e-6 * design.v).any():
            tally.unsaid.append(seed)
    if seed % 50 == 0 or fit.uninformed or not fit.converged:
        text = str(fit)
        assert ("no finite maximum" in text) == (fit.divergence is not None), seed
        assert ("did not converge" in text) == (not fit.converged), seed
        assert "nan" not in text, seed


def check_standard_errors(fit, seed):
    """Each is missing, or finite with less than 1e4 in ln τ²."""
    se = np.sqrt(np.diag(fit.vcov_scale))
    given = ~np.isnan(se)
    assert (se[given] > 0).all(), seed
    assert np.isfinite(se[given]).all(), seed
    assert not given[~np.isfinite(fit.alpha)].any(), seed
    if given.all():
        Z = fit.design.Z
        variance = np.einsum("ij,jk,ik->i", Z, fit.vcov_scale, Z)
        assert variance.mean() < len(se) * 1e8, seed


def run(seeds):
    tally = Tally()
    for seed in seeds:
        check(seed, tally)
    return tally


@pytest.mark.filterwarnings("ignore::bayes_lsm.errors.ConvergenceWarning")
def test_heterogeneity_of_which_nothing_is_known_is_no_number():
    fit = fit_reml(simulate(7450))
    found = fit.heterogeneity()
    assert np.isnan([found.tau2, found.I2, found.R2]).all()
    assert "τ²: not informed by the data" in " ".join(str(found).split())
    assert "R²" not in str(found)


def test_three_hundred_nasty_datasets():
    tally = run(range(300))
    assert tally.fitted > 200
    assert tally.divergent > 30
    assert not tally.missed
    assert not tally.unsaid
    assert not tally.unconverged


@pytest.mark.slow
@pytest.mark.parametrize("block", range(BLOCKS))
def test_ten_thousand_nasty_datasets(block):
    size = SETS // BLOCKS
    tally = run(range(1000 + block * size, 1000 + (block + 1) * size))
    assert tally.fitted > 0.8 * size
    assert not tally.unsaid
    # About one in a thousand has a sharp peak elsewhere that only a lucky start finds: with 880
    # fits a block, more than 4 would be seen once in 300.
    assert len(tally.missed) <= 4
    # Measured: 2.2 a block.
    assert len(tally.unconverged) <= 9
