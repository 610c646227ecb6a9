"""Confidence intervals: each against the test or the refits that it stands for."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t

import bayes_lsm as lsm
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.reml import fit_reml
from bayes_lsm.reml.intervals.intervals import confidence_intervals
from bayes_lsm.reml.intervals.profile import profile
from bayes_lsm.reml.resampling import simulate
from bayes_lsm.reml.tests.permutation_test import permutation_test

from .designs import example, homogeneous_group, make_design
from .nested import nested_data, nested_model
from .peers import gums, schools

EITHER_SOLVER = pytest.mark.usefixtures("solver")
QUIET = {"progress": False}


@pytest.fixture
def fit():
    return fit_reml(make_design(example(), "~ x", "~ x"))


@EITHER_SOLVER
def test_wald(fit):
    found = confidence_intervals(fit, level=0.9)
    half = norm.ppf(0.95) * fit.scale["se"]
    np.testing.assert_allclose(found["ci_ub"], fit.scale["estimate"] + half)
    np.testing.assert_allclose(found["ci_lb"], fit.scale["estimate"] - half)
    assert list(found) == ["estimate", "ci_lb", "ci_ub"]
    location = confidence_intervals(fit, part="location")
    np.testing.assert_allclose(location, fit.location[["estimate", "ci_lb", "ci_ub"]])


def test_wald_by_t(fit):
    with_t = confidence_intervals(fit_reml(fit.design, test="t"), level=0.9)
    np.testing.assert_allclose(
        with_t["ci_ub"] - with_t["estimate"], t.ppf(0.95, 28) * fit.scale["se"]
    )


@EITHER_SOLVER
def test_profile(fit):
    found = confidence_intervals(fit, method="profile", level=0.8)
    for term in ("intrcpt", "x"):
        one = profile(fit, term, level=0.8)
        assert tuple(found.loc[term]) == (one.estimate, one.lower, one.upper)


@pytest.mark.parametrize("part", ["location", "scale"])
def test_permutation_contains_zero_just_when_the_test_does_not_reject(part):
    rng = np.random.default_rng(3)
    checked = 0
    for seed in range(12):
        k = 20
        x = rng.normal(size=k)
        y = 0.6 * x * (part == "location") + rng.normal(size=k) * np.exp(0.5 * x)
        data = pd.DataFrame({"yi": y, "vi": 0.1, "x": x})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergentScaleWarning)
            fit = fit_reml(make_design(data, "~ x", "~ x"))
        if fit.divergence is not None:
            continue
        found = confidence_intervals(
            fit, part=part, method="permutation", iterations=200, seed=seed
        )
        pval = permutation_test(fit, part=part, iterations=200, seed=seed).table["pval"]["x"]
        row = found.loc["x"]
        assert row["ci_lb"] < row["estimate"] < row["ci_ub"]
        if abs(pval - 0.05) > 0.02:  # else within the resolution of 200 permutations
            assert (row["ci_lb"] <= 0 <= row["ci_ub"]) == (pval > 0.05)
            checked += 1
    assert checked >= 6


def test_permutation_interval_moves_with_the_offset(fit):
    # ln τ² = Zα and y are moved: the same data with x counted into y moves the location interval.
    data = example()
    moved = fit_reml(make_design(data.assign(yi=data["yi"] + 2 * data["x"]), "~ x", "~ x"))
    one, other = (
        confidence_intervals(each, part="location", method="permutation", iterations=100, seed=1)
        for each in (fit, moved)
    )
    np.testing.assert_allclose(other.loc["x"] - one.loc["x"], 2, atol=1e-4)
    # No permutation changes the column of the intercept.
    assert one.loc["intrcpt", ["ci_lb", "ci_ub"]].isna().all()


def test_permutation_is_near_wald_at_many_studies():
    rng = np.random.default_rng(5)
    k = 150
    x = rng.normal(size=k)
    y = rng.normal(size=k) * np.sqrt(0.05 + np.exp(-0.5 + 0.4 * x))
    fit = fit_reml(make_design(pd.DataFrame({"yi": y, "vi": 0.05, "x": x}), "~ 1", "~ x"))
    found = confidence_intervals(fit, method="permutation", iterations=400, seed=1).loc["x"]
    wald = confidence_intervals(fit).loc["x"]
    half = (wald["ci_ub"] - wald["ci_lb"]) / 2
    # Monte Carlo error of a 95% point from 400 permutations: 0.1 of a half-width, and k is finite.
    assert abs(found["ci_lb"] - wald["ci_lb"]) < 0.4 * half
    assert abs(found["ci_ub"] - wald["ci_ub"]) < 0.4 * half


def test_bootstrap_is_percentiles_of_refits(fit):
    found = confidence_intervals(fit, method="bootstrap", iterations=150, seed=4)
    Y = simulate(fit, 150, np.random.default_rng(4))
    alphas = []
    for y in Y:
        data = example().assign(yi=y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergentScaleWarning)
            refit = fit_reml(make_design(data, "~ x", "~ x"))
        alphas.append(refit.alpha)
    low = np.where(np.isnan(alphas), -np.inf, alphas)
    high = np.where(np.isnan(alphas), np.inf, alphas)
    lower = np.quantile(low, 0.025, axis=0, method="inverted_cdf")
    upper = np.quantile(high, 0.975, axis=0, method="inverted_cdf")
    # Another maximum in a set or two (told as a rival) would move a percentile by one place.
    np.testing.assert_allclose(found["ci_lb"], lower, atol=0.1)
    np.testing.assert_allclose(found["ci_ub"], upper, atol=0.1)


def test_bootstrap_of_the_location_is_near_wald(fit):
    found = confidence_intervals(fit, part="location", method="bootstrap", iterations=4000, seed=1)
    wald = confidence_intervals(fit, part="location")
    half = (wald["ci_ub"] - wald["ci_lb"]) / 2
    # 30 studies; Monte Carlo error of a percentile 0.04 of a half-width.
    assert ((found - wald)[["ci_lb", "ci_ub"]].abs().max(axis=1) < 0.2 * half).all()


@EITHER_SOLVER
def test_divergence_is_honest():
    data = homogeneous_group("b")
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(data, "~ g", "~ g"))
    assert confidence_intervals(fit).loc["gb", ["ci_lb", "ci_ub"]].isna().all()
    by_profile = confidence_intervals(fit, method="profile").loc["gb"]
    assert by_profile["ci_lb"] == -np.inf
    assert np.isfinite(by_profile["ci_ub"])
    by_bootstrap = confidence_intervals(fit, method="bootstrap", iterations=200, seed=1).loc["gb"]
    assert by_bootstrap["ci_lb"] == -np.inf
    by_permutation = confidence_intervals(fit, method="permutation", iterations=20, seed=1)
    assert by_permutation.loc["gb", ["ci_lb", "ci_ub"]].isna().all()


@EITHER_SOLVER
def test_nothing_to_find_leaves_everything_open():
    data = pd.DataFrame(
        {"yi": 0.01 * np.sin(np.arange(20.0)), "vi": 1.0, "x": np.cos(np.arange(20.0))}
    )
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(data, scale="~ x"))
    found = confidence_intervals(fit, method="bootstrap", iterations=100, seed=1)
    assert (found.loc["x", ["ci_lb", "ci_ub"]] == [-np.inf, np.inf]).all()
    assert found.loc["intrcpt", "ci_lb"] == -np.inf


@pytest.mark.parametrize("method", ["permutation", "bootstrap"])
def test_same_seed_same_interval(fit, method):
    one, same, other = (
        confidence_intervals(fit, method=method, iterations=60, seed=seed) for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "exact"}, "method must be"),
        ({"part": "both"}, "part must be 'scale', 'location' or 'correlation'"),
        ({"part": "correlation"}, "no correlated effects; ask for part='location'"),
        ({"level": 95}, "level must be between 0 and 1"),
        ({"part": "location", "method": "profile"}, "profile intervals are of the scale part"),
        ({"method": "bootstrap", "cluster": "study"}, "cluster is for method='permutation'"),
        ({"method": "bootstrap", "iterations": 1}, "at least 2"),
    ],
)
def test_bad_input(fit, arguments, message):
    with pytest.raises(FitError, match=message):
        confidence_intervals(fit, **arguments)


def test_what_is_refused():
    plain = fit_reml(make_design(example(), "~ x"))
    with pytest.raises(FitError, match="nothing to permute"):
        confidence_intervals(plain, method="permutation")
    identity = fit_reml(make_design(example(), "~ x", "~ x", link="identity"))
    assert np.isfinite(confidence_intervals(identity)["estimate"]).all()
    for method in ("profile", "bootstrap", "permutation"):
        with pytest.raises(FitError, match=f"{method}.* does not take link='identity'"):
            confidence_intervals(identity, method=method)
    bounded = fit_reml(plain.design, bounds={"intrcpt": (plain.alpha[0] + 0.5, np.inf)})
    with pytest.raises(FitError, match="no bound holds, got intrcpt"):
        confidence_intervals(bounded, method="bootstrap")
    with pytest.raises(FitError, match="no permutation of clusters"):
        gums("unstructured").fit_reml().confidence_intervals(
            part="correlation", method="permutation"
        )


@pytest.fixture(scope="module")
def one_term():
    """The same fit by either solver, whose refits are then its own."""
    data = lsm.load_dataset("bangertdrowns2004").assign(size=lambda d: d["ni"] / 100)
    model = lsm.LocationScaleModel("yi ~ size", scale="~ size", variance="vi", data=data)
    blocks = replace(model.design)
    vars(blocks)["is_independent"] = False
    return fit_reml(blocks), model.fit_reml()


def test_bootstrap_is_percentiles_of_the_other_solvers_refits(one_term):
    blocks, rows = one_term
    rng = np.random.default_rng(3)
    Y = np.vstack([simulate(blocks, 20, rng) for _ in range(3)])  # its batches
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        refits = [fit_reml(replace(rows.design, y=y)) for y in Y]
    for part in ("location", "scale"):
        found = blocks.confidence_intervals(
            part=part, method="bootstrap", level=0.8, iterations=60, seed=3, **QUIET
        )
        values = np.array([each.beta if part == "location" else each.alpha for each in refits])
        for end, at, open_end in (("ci_lb", 0.1, -np.inf), ("ci_ub", 0.9, np.inf)):
            known = np.where(np.isnan(values), open_end, values)
            expected = np.quantile(known, at, axis=0, method="inverted_cdf")
            # Either solver stops within 1e-13 of its maximum: the root of that, in the estimates.
            np.testing.assert_allclose(found[end], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["location", "scale"])
def test_permutation_by_either_solver(one_term, part):
    blocks, rows = one_term
    options = {"part": part, "method": "permutation", "iterations": 100, "seed": 5, **QUIET}
    found, expected = blocks.confidence_intervals(**options), rows.confidence_intervals(**options)
    half = (expected["ci_ub"] - expected["ci_lb"])["size"] / 2
    # The same permutations. Bisections end within 2^-12 of some half-widths, and another maximum in
    # one permutation of 100 moves an end by about 1/20 of one.
    np.testing.assert_allclose(found.loc["size"], expected.loc["size"], atol=0.1 * half)
    assert found.loc["intrcpt", ["ci_lb", "ci_ub"]].isna().all()


@EITHER_SOLVER
def test_what_is_fixed_has_no_interval_and_stays(fit):
    """Where x is fixed the others are as without it, of effects with a known offset of ln τ²."""
    fixed = fit_reml(make_design(example(), "~ x", "~ x"), fixed={"x": 0.6})
    for method in ("profile", "bootstrap"):
        found = confidence_intervals(fixed, method=method, iterations=200, seed=1, **QUIET)
        assert found.loc["x", ["ci_lb", "ci_ub"]].isna().all()
        lower, upper = found.loc["intrcpt", ["ci_lb", "ci_ub"]]
        assert lower < fixed.alpha[0] < upper
        # Of 30 studies with one τ² to estimate, all ways are near to each other.
        wald = confidence_intervals(fixed).loc["intrcpt"]
        half = (wald["ci_ub"] - wald["ci_lb"]) / 2
        assert abs(upper - wald["ci_ub"]) < 0.5 * half
    location = confidence_intervals(
        fixed, part="location", method="permutation", iterations=100, seed=1, **QUIET
    )
    assert np.isfinite(location.loc["x"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["location", "scale"])
def test_permutation_of_clusters_contains_zero_just_when_the_test_does_not_reject(part):
    checked = 0
    for seed in range(3):
        data = nested_data(seed, districts=8, schools=2, slopes=(0.0, 1.0), effect=0.3)
        words = {"location": "yi ~ z"} if part == "location" else {"school": "~ z"}
        fit = nested_model(data, **words).fit_reml()
        options = {"part": part, "iterations": 40, "seed": seed, **QUIET}
        test = permutation_test(fit, **options)
        name = "z" if part == "location" else "school: z"
        table = fit.confidence_intervals(method="permutation", level=0.8, **options)
        lower, upper = table[["ci_lb", "ci_ub"]].to_numpy()[-1]
        assert lower < table["estimate"].iloc[-1] < upper
        if abs(test.table["pval"][name] - 0.2) > 0.06:  # else within reach of 40 permutations
            assert (lower <= 0 <= upper) == (test.table["pval"][name] > 0.2)
            checked += 1
    assert checked >= 2


def test_what_is_open_is_open():
    """A variance that is 0 in many sets has no lower end; correlations end within their range."""
    fit = gums("unstructured").fit_reml()
    found = fit.confidence_intervals(
        part="correlation", method="bootstrap", iterations=60, seed=1, **QUIET
    )
    assert (found["ci_lb"] >= -1).all()
    assert (found["ci_ub"] <= 1).all()
    assert (found["ci_lb"] < found["estimate"]).all()
    small = nested_data(3, districts=5, schools=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        few = nested_model(small).fit_reml()
    ends = few.confidence_intervals(method="bootstrap", iterations=60, seed=1, **QUIET)
    assert (ends["ci_lb"] == -np.inf).any()
    again = few.confidence_intervals(method="bootstrap", iterations=60, seed=1, **QUIET)
    assert ends.equals(again)


def test_tables_are_indexed_as_the_coefficients():
    several, single = schools().fit_reml(), gums("unstructured").fit_reml()
    for method in ("wald", "profile"):
        table = several.confidence_intervals(method=method)
        assert table.index.equals(several.scale.index)
        table = single.confidence_intervals(part="correlation", method=method)
        assert table.index.equals(single.correlations.index)
