"""Profiles: metafor's, roots and grids from many starts, one moderator by hand, and verdicts."""

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from bayes_lsm.datasets import load_dataset
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.likelihood.rows.closed_form import log_likelihood
from bayes_lsm.reml import fit_reml
from bayes_lsm.reml.intervals.profile import profile
from bayes_lsm.reml.search.rows_search import Search

from .designs import example, homogeneous_group, make_design

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "frequentist.json").read_text(encoding="utf-8")
)["profile"]
CASES = [
    (name, method, i)
    for name, case in REFERENCE.items()
    for method in ("REML", "ML")
    if method in case
    for i in range(len(case[method]["alpha"]))
]


@cache
def fitted(name, method):
    case = REFERENCE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        design = make_design(load_dataset(case["dataset"]), case["location"], case["scale"])
        return fit_reml(design, method=method)


@pytest.mark.parametrize(("name", "method", "i"), CASES)
def test_metafor(name, method, i):
    theirs = REFERENCE[name][method]["alpha"][i]
    fit = fitted(name, method)
    values = theirs["profile"]["alpha"]
    found = profile(fit, fit.design.scale.names[i], points=values)
    # Never below the best of many starts, and for a finite maximum equal to it: both have their
    # maxima to rounding. Where the model diverges their grid reaches to a coefficient of -2000,
    # where theirs gives up: there ours may be higher.
    checked = np.array(theirs["profile"]["logLik_checked"], dtype=float)
    order = np.argsort(values)
    difference = found.loglik - checked[order]
    assert np.nanmin(difference) > -1e-9
    if not REFERENCE[name][method]["diverging"]:
        assert np.nanmax(difference) < 1e-9
        metafor = np.array(theirs["profile"]["logLik"], dtype=float)[order]
        # metafor's heights are the best of three optimisers, whose grids differ in the 8th digit.
        assert (found.loglik > metafor - 3e-7)[~np.isnan(metafor)].all()
    for ours, side in ((found.lower, "lb"), (found.upper, "ub")):
        # Roots of the deviance: "checked" to 1e-12 of the coefficient, ours to 1e-10, times a
        # slope that can be small.
        root = theirs[f"checked_{side}"]
        if root is not None:
            assert ours == pytest.approx(root, rel=1e-7, abs=1e-7)
        elif theirs[f"{side}_sign"] or theirs[f"deviance_{side}"] < 3.84:
            assert np.isinf(ours)
        # metafor's own bound, where its refits did not break down on the way.
        if theirs[f"deviance_{side}"] == pytest.approx(chi2.ppf(0.95, 1), abs=1e-6):
            assert ours == pytest.approx(theirs[f"ci_{side}"], rel=1e-4, abs=1e-4)


def test_the_talks_picture():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        fit = fitted("preterm_continent", "REML")
    found = profile(fit, "continentOther")
    assert found.verdict == "flat towards -inf"
    assert found.estimate == found.lower == -np.inf
    assert 1.4 < found.upper < 1.5
    # It rises all the way to the left, and ends at the supremum.
    assert (np.diff(found.loglik) < 1e-9).all()
    assert found.maximum - found.loglik[0] < 0.01
    assert np.isinf(found.peaks).all()


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_one_coefficient_by_hand(method):
    design = make_design(example())
    fit = fit_reml(design, method=method)
    found = profile(fit, "intrcpt", level=0.9)
    for value, height in zip(found.values, found.loglik, strict=True):
        tau2 = np.full(30, np.exp(value))
        here = log_likelihood(design.y, design.v, design.X, tau2, method=method)
        assert height == pytest.approx(here, abs=1e-10)
    for bound in (found.lower, found.upper):
        tau2 = np.full(30, np.exp(bound))
        drop = fit.loglik - log_likelihood(design.y, design.v, design.X, tau2, method=method)
        assert 2 * drop == pytest.approx(chi2.ppf(0.9, 1), abs=1e-7)
    assert found.maximum == fit.loglik
    assert found.verdict == "peaked"
    assert found.peaks == pytest.approx(fit.alpha)


def test_grid_and_units():
    data = example()
    fit = fit_reml(make_design(data, "~ x", "~ x"))
    found = profile(fit, "x", points=25)
    assert len(found.values) == 25
    assert found.values[0] < found.lower < fit.alpha[1] < found.upper < found.values[-1]
    np.testing.assert_allclose(np.diff(found.values), np.ptp(found.values) / 24)
    shifted = data.assign(x=2000 + 1e-3 * data["x"])
    other = profile(fit_reml(make_design(shifted, "~ x", "~ x")), "x", points=25)
    assert 1e-3 * other.lower == pytest.approx(found.lower, rel=1e-6)
    assert 1e-3 * other.upper == pytest.approx(found.upper, rel=1e-6)
    chosen = profile(fit, "x", points=[1.0, -1.0, 0.5])
    np.testing.assert_array_equal(chosen.values, [-1, 0.5, 1])
    assert (chosen.lower, chosen.upper) == pytest.approx((found.lower, found.upper), abs=1e-8)
    frame = chosen.to_dataframe()
    assert list(frame) == ["value", "loglik", "drop"]
    assert (frame["drop"] > 0).all()


@pytest.mark.parametrize(
    ("group", "scale", "term", "end"),
    [
        ("b", "~ g", "gb", -1),
        ("a", "~ g", "gb", 1),
        ("a", "~ g", "intrcpt", -1),
        ("b", "~ 0 + g + x", "gb", -1),
    ],
)
def test_a_divergent_coefficient_has_one_finite_bound(group, scale, term, end):
    data = homogeneous_group(group)
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(data, "~ g", scale))
    found = profile(fit, term)
    assert found.estimate == end * np.inf
    side = "-inf" if end < 0 else "+inf"
    assert found.verdict == f"flat towards {side}"
    infinite, finite = (found.lower, found.upper)[::-end]
    assert infinite == end * np.inf
    design = fit.design
    j = design.scale.names.index(term)
    rest = np.delete(design.Z, j, axis=1)
    search = Search(design.y, design.v, design.X, rest, "REML", offset=finite * design.Z[:, j])
    best = max(search.best.value, search.rival.value if search.rival else -np.inf)
    assert 2 * (fit.loglik - best) == pytest.approx(chi2.ppf(0.95, 1), abs=1e-6)
    assert "." in str(found)
    assert "nan" not in str(found)


def test_a_divergent_continuous_moderator():
    rng = np.random.default_rng(9)
    x = np.repeat(np.arange(5.0), 8)
    y = np.where(x == 4, 6.0, 0.2) * rng.normal(size=40)
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(pd.DataFrame({"yi": y, "vi": 1.0, "x": x}), scale="~ x"))
    found = profile(fit, "x")
    assert found.estimate == found.upper == np.inf
    assert np.isfinite(found.lower)
    assert found.lower > 0


def test_several_peaks():
    # A steep rise of τ² through an outlier at one end, against another at the other end.
    fit = fitted("preterm_continent", "REML")
    found = profile(fit, "intrcpt")
    assert found.verdict == "several peaks"
    assert len(found.peaks) == 2
    between = profile(fit, "intrcpt", points=np.linspace(*found.peaks, 30)).loglik
    assert min(between[0], between[-1]) - between.min() > 0.05


def test_bad_input():
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    with pytest.raises(FitError, match="no scale term 'w'; the scale terms are intrcpt, x"):
        profile(fit, "w")
    with pytest.raises(FitError, match="name of a scale term"):
        profile(fit, 1)
    for level in (0, 1, 95):
        with pytest.raises(FitError, match="level must be between 0 and 1"):
            profile(fit, "x", level=level)
    for points in (2, 1e9, "many", [np.nan], []):
        with pytest.raises(FitError, match="points must be"):
            profile(fit, "x", points=points)
    with pytest.raises(FitError, match="holds x"):
        profile(fit_reml(fit.design, fixed={"x": 0.1}), "intrcpt")


TAU2 = json.loads(
    (Path(__file__).parents[1] / "reference" / "frequentist.json").read_text(encoding="utf-8")
)["tau2_intervals"]


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("name", TAU2)
def test_one_tau2_for_all_studies(name, method):
    case = TAU2[name]
    theirs = case[method]["PL"]["tau2"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        fit = fit_reml(make_design(load_dataset(case["dataset"]), case["location"]), method=method)
    found = profile(fit, "intrcpt")
    # metafor's bounds are roots in τ², from 0 on; its maximum is Fisher scoring's.
    assert np.exp(found.lower) == pytest.approx(theirs["ci_lb"], rel=1e-6, abs=1e-9)
    assert np.exp(found.upper) == pytest.approx(theirs["ci_ub"], rel=1e-6)
