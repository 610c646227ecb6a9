"""Permutation tests: metafor's, brute-force refits, enumeration, clusters, and divergence."""

import itertools
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

import bayes_lsm as lsm
from bayes_lsm.datasets import load_dataset
from bayes_lsm.design.design import Design
from bayes_lsm.design.exchangeable import exchangeable
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.reml import fit_reml, permutation_test, wald_test
from bayes_lsm.reml.search.estimate import estimate
from bayes_lsm.reml.search.refitter import refitter_of
from bayes_lsm.reml.search.rows_surface import RowsSurface
from bayes_lsm.reml.search.search import Search
from bayes_lsm.reml.tests.permutations import arrangements, count_arrangements

from .designs import example, homogeneous_group, make_design
from .nested import nested_data, nested_model
from .peers import gums

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "frequentist.json").read_text(encoding="utf-8")
)["permutation"]
PARTS = pytest.mark.parametrize("part", ["location", "scale"])


def fitted(case):
    data = load_dataset(case["dataset"])
    if "rows" in case:
        data = data.iloc[np.array(case["rows"]) - 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        return fit_reml(make_design(data, case["location"], case["scale"]))


@PARTS
@pytest.mark.parametrize("name", REFERENCE["approximate"])
def test_metafor(name, part):
    case = REFERENCE["approximate"][name]
    theirs = case[f"{part}_test"]
    found = permutation_test(fitted(case), part=part, iterations=20_000, seed=1, progress=False)
    # Theirs has 2000 permutations, ours ten times as many: 4 standard errors of the difference,
    # and some room for those that they drew again because a refit failed.
    # In raudenbush a quarter of the permutations have two maxima, and one start (another one than
    # metafor's) does not always lead to the same: there p-values differ by a few per cent.
    more = 0.05 if name == "raudenbush" else 0.003
    for ours, there, se in zip(found.table["pval"], theirs["pval"], theirs["mc_se"], strict=True):
        assert abs(ours - there) < 4 * 1.05 * se + more
    joint_se = math.sqrt(theirs["joint_pval"] * (1 - theirs["joint_pval"]) / 2000)
    assert abs(found.pval - theirs["joint_pval"]) < 4 * 1.05 * joint_se + more
    assert found.same_maximum
    assert found.statistic == pytest.approx(theirs["joint_statistic"], rel=1e-3)


@pytest.mark.parametrize("name", REFERENCE["exact"])
def test_metafor_exact(name):
    case = REFERENCE["exact"][name]
    fit = fitted(case)
    for part in ("location", "scale"):
        theirs = case.get(f"{part}_test")
        if theirs is None or getattr(fit.design, part).names == ("intrcpt",):
            continue
        found = permutation_test(fit, part=part)
        assert found.exact
        assert found.iterations == theirs["permutations"]
        assert found.seed is None
        # The same permutations, so the same p-values, four of them with a divergence included.
        np.testing.assert_allclose(found.table["pval"], theirs["pval"], rtol=1e-12)
        assert found.pval == pytest.approx(theirs["joint_pval"], rel=1e-12)


def brute_z(fit, part, order):
    design = fit.design
    X, Z = design.X, design.Z
    if part == "location":
        X = X[order]
    else:
        Z = Z[order]
    surface = RowsSurface(design.y, design.v, X, Z, fit.method)
    (point,) = surface.climb(np.zeros((1, Z.shape[1])))
    if part == "location":
        return point.beta / np.sqrt(np.diag(point.vcov_location))
    return point.alpha / np.sqrt(np.diag(point.covariance))


@PARTS
def test_every_permutation_is_a_refit(part):
    data = example(k=24, g=np.tile(["a", "b"], 12))
    fit = fit_reml(make_design(data, "~ x + g", "~ x + g"))
    found = permutation_test(fit, part=part, iterations=40, seed=3)
    orders = np.random.default_rng(3).permuted(np.tile(np.arange(24), (39, 1)), axis=1)
    z = np.array([brute_z(fit, part, order) for order in orders])
    inside = ~np.isnan(z).any(axis=1) & (found.null.iloc[1:] != 0).all(axis=1).to_numpy()
    assert inside.sum() > 20
    # Other starts and coordinates lead to one maximum, within 1e-6 of a standard error.
    np.testing.assert_allclose(found.null.iloc[1:][inside], z[inside], atol=1e-4)
    np.testing.assert_allclose(found.null.iloc[0], found.table["zval"])
    pval = np.mean(found.null["x"].abs() >= abs(found.table["zval"]["x"]) - 1e-6)
    assert found.table["pval"]["x"] == pval


def test_the_joint_statistic_is_qs():
    data = example(k=24, g=np.tile(["a", "b"], 12))
    fit = fit_reml(make_design(data, "~ x", "~ x + g"))
    found = permutation_test(fit, iterations=30, seed=3)
    assert found.statistic == pytest.approx(fit.qs.statistic)
    assert found.df == 2
    orders = np.random.default_rng(3).permuted(np.tile(np.arange(24), (29, 1)), axis=1)
    design = fit.design
    compared = 0
    for i, order in enumerate(orders):
        surface = RowsSurface(design.y, design.v, design.X, design.Z[order], "REML")
        (point,) = surface.climb(np.zeros((1, 3)))
        if np.isnan(point.covariance).any():
            continue
        a, V = point.alpha[1:], point.covariance[1:, 1:]
        assert found.null_joint[i + 1] == pytest.approx(
            a @ np.linalg.solve(V, a), rel=1e-4, abs=1e-6
        )
        compared += 1
    assert compared > 15


def test_several_starts_find_what_a_search_finds():
    data = load_dataset("raudenbush1985")
    fit = fit_reml(make_design(data, "~ weeks", "~ weeks"))
    orders = np.random.default_rng(1).permuted(np.tile(np.arange(19), (79, 1)), axis=1)
    design = fit.design
    surfaces = [
        RowsSurface(design.y, design.v, design.X[order], design.Z, "REML") for order in orders
    ]
    points = [Search(surface).best for surface in surfaces]
    z = np.array([point.beta / np.sqrt(np.diag(point.vcov_location)) for point in points])
    settings = {"part": "location", "iterations": 80, "seed": 1}
    short = {
        starts: np.abs(permutation_test(fit, starts=starts, **settings).null[1:] - z).max(axis=1)
        > 1e-3
        for starts in ("one", "several")
    }
    assert short["one"].mean() > 0.1
    assert short["several"].mean() < 0.05


def test_arrangements_are_all_and_different():
    for rows in ([0, 1, 2, 3], [0, 0, 1, 1, 1], [5, 5, 5], [2, 1, 2, 1, 0]):
        matrix = np.array(rows, dtype=float)[:, None]
        found = [tuple(matrix[order, 0]) for order in arrangements(matrix)]
        assert sorted(found) == sorted(set(itertools.permutations(map(float, rows))))
        assert len(found) == count_arrangements(matrix)
    two = np.array([[0, 1], [0, 2], [0, 1]], dtype=float)
    assert count_arrangements(two) == 3
    assert count_arrangements(np.arange(500.0)[:, None]) > 1e6


@PARTS
def test_both_solvers_permute_alike(part, monkeypatch):
    """Where one start and a search find the same maximum, all numbers are the same."""
    data = example(k=24)
    options = {"part": part, "iterations": 40, "seed": 3, "progress": False}
    rows = permutation_test(fit_reml(make_design(data, "~ x", "~ x")), **options)
    monkeypatch.setattr(Design, "is_independent", False)
    blocks = permutation_test(fit_reml(make_design(data, "~ x", "~ x")), **options)
    assert rows.same_maximum
    assert blocks.same_maximum
    assert (rows.table.index == blocks.table.index).all()
    same = np.abs(rows.null_joint - blocks.null_joint) < 1e-4
    # In a permutation with several maxima a search may find a higher one than a single ascent.
    assert same.mean() > 0.9
    # Ascents end within 1e-6 of a standard error.
    np.testing.assert_allclose(rows.null[same], blocks.null[same], atol=1e-4)
    assert rows.diverged == blocks.diverged


@pytest.mark.parametrize("test", ["z", "t", "knha"])
def test_the_data_as_they_are_give_the_statistic_of_the_fit(test, solver):
    """Knapp and Hartung's standard errors, too, are those of each permutation."""
    data = example(k=12)
    fit = fit_reml(make_design(data, "~ x", "~ 1"), test=test)
    order = np.arange(12)[None]
    found = refitter_of(fit).orders(exchangeable(fit.design, "location"), order)
    z, _ = found.statistics("location", [1])
    np.testing.assert_allclose(z[0], fit.beta / np.sqrt(np.diag(fit.vcov_location)), rtol=1e-5)


def test_exact_is_the_limit_of_approximate():
    data = example(k=12, seed=5, g=np.repeat(["a", "b"], [3, 9]))
    data["yi"] *= np.where(data["g"] == "a", 3.0, 1.5)
    fit = fit_reml(make_design(data, "~ x", "~ g"))
    exact = permutation_test(fit)
    assert exact.exact
    assert exact.iterations == math.comb(12, 3)
    assert exact.mc_se == 0
    random = permutation_test(fit, iterations=20_000, exact=False, seed=2, progress=False)
    assert not random.exact
    # 4 Monte Carlo standard errors.
    assert abs(exact.pval - random.pval) < 4 * random.mc_se + 1e-4
    # The data as they are, are one of them.
    assert exact.pval >= 1 / exact.iterations
    forced = permutation_test(fit, iterations=100, exact=True)
    assert forced.pval == exact.pval


def test_mirrored_permutations_are_ties():
    # Two groups of equal size: each arrangement has its mirror image, with z of the other sign.
    data = example(k=10, g=np.tile(["a", "b"], 5))
    data["yi"] = [-2.0, 1, 3, -4, 0.5, 5, 2.5, -3, -1, 2]
    fit = fit_reml(make_design(data, scale="~ g"))
    found = permutation_test(fit)
    assert found.iterations == 252
    assert round(found.pval * 252) % 2 == 0
    assert found.pval >= 2 / 252


def test_size():
    # Under the null, with exchangeable studies, P(p <= 0.1) = 0.1, divergence and all.
    rng = np.random.default_rng(8)
    data = example(k=9)
    rejected = []
    for _ in range(100):
        data["yi"] = rng.normal(size=9) * np.sqrt(0.2 + 0.3)
        data["vi"] = 0.2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergentScaleWarning)
            fit = fit_reml(make_design(data, scale="~ x"))
        if fit.divergence is None:
            found = permutation_test(fit, iterations=100, seed=int(rng.integers(1 << 31)))
            rejected.append(found.pval <= 0.1)
        else:
            rejected.append(False)
    # Monte Carlo standard error 3%.
    assert np.mean(rejected) < 0.1 + 3 * 0.03


def test_same_seed_same_result(solver):
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    one, same, other = (permutation_test(fit, iterations=20, seed=seed) for seed in (1, 1, 2))
    assert one.null.equals(same.null)
    assert not one.null.equals(other.null)
    seeds = [permutation_test(fit, iterations=2, exact=False).seed for _ in range(2)]
    assert seeds[0] != seeds[1]


def test_divergence_is_counted_and_said():
    data = homogeneous_group("b")
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(data, "~ g", "~ g + x"))
    found = permutation_test(fit, seed=1)
    assert np.isnan(found.table["pval"]["gb"])
    assert np.isnan(found.pval)
    assert 0 < found.table["pval"]["x"] <= 1
    assert "diverges and has no Wald statistic" in str(found)
    assert "nan" not in str(found)
    location = permutation_test(fit, part="location", seed=1)
    assert 0 < location.pval <= 1


def test_a_diverging_permutation_has_the_limit_of_its_statistics(solver):
    # In a group whose effects are all alike τ² is 0; in permutations that bring it together.
    data = example(k=10, seed=7, g=list("abbbabbbab"))
    data["yi"] *= 3
    data.loc[:2, "yi"] = 0.5
    fit = fit_reml(make_design(data, scale="~ g"))
    found = permutation_test(fit)
    assert found.exact
    assert found.diverged > 0
    gone = (found.null["gb"] == 0).to_numpy()
    assert gone.sum() == found.diverged
    np.testing.assert_allclose(found.null_joint[gone], 0, atol=1e-6)
    assert f"in {found.diverged} permutations" in str(found)


def test_prints():
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    text = str(permutation_test(fit, seed=1))
    assert text.startswith("Approximate permutation test (scale; 1000 permutations, seed 1)")
    assert "QS(df = 1)" in text
    assert "QM(df = 1)" in str(permutation_test(fit, seed=1, part="location"))
    assert "zval" in permutation_test(fit, seed=1)._repr_html_()


def test_bad_input():
    fit = fit_reml(make_design(example(), "~ x"))
    with pytest.raises(FitError, match="nothing to permute: the scale part has no moderators"):
        permutation_test(fit)
    with pytest.raises(FitError, match="location part has no moderators"):
        permutation_test(fit_reml(make_design(example(), "~ 1", "~ x")), part="location")
    full = fit_reml(make_design(example(), "~ x", "~ x"))
    with pytest.raises(FitError, match=r"2\.65e\+32 permutations.*exact=False"):
        permutation_test(full, exact=True)
    with pytest.raises(FitError, match="at least 2"):
        permutation_test(full, iterations=1)
    with pytest.raises(FitError, match="whole number"):
        permutation_test(full, iterations=10.5)
    with pytest.raises(FitError, match="exact must be"):
        permutation_test(full, exact="yes")
    with pytest.raises(FitError, match="starts must be"):
        permutation_test(full, starts="many")
    with pytest.raises(FitError, match="'location' or 'scale'"):
        permutation_test(full, part="both")
    with pytest.raises(FitError, match="got x at a bound"):
        permutation_test(fit_reml(full.design, bounds={"x": (-0.1, 0.1)}))
    identity = fit_reml(make_design(example(), "~ x", "~ x", link="identity"))
    with pytest.raises(FitError, match="link='log'"):
        permutation_test(identity)


# Clusters ----------------------------------------------------------------------------------------


def by_hand(data, order, moved, read):
    """A statistic of the model in which cluster g has the moderator of cluster order[g]."""
    values = data.groupby("district")[moved].first().to_numpy()
    return read(data.assign(**{moved: values[list(order)][data["district"]]}))


def test_the_exact_test_goes_through_every_order_of_the_clusters():
    data = nested_data(2, districts=4, schools=4, effect=0.3)
    fit = nested_model(data, location="yi ~ z").fit_reml()
    test = permutation_test(fit, part="location", iterations=24, progress=False)
    assert test.exact
    assert test.iterations == 24

    def read(moved):
        found = estimate(nested_model(moved, location="yi ~ z").design, "REML")
        return found.location.loc["z", "zval"]

    expected = [by_hand(data, order, "z", read) for order in itertools.permutations(range(4))]
    np.testing.assert_allclose(np.sort(test.null["z"]), np.sort(expected), atol=1e-6)
    observed = abs(fit.location.loc["z", "zval"])
    share = np.mean(np.abs(expected) >= observed - 1e-6)
    assert test.table.loc["z", "pval"] == pytest.approx(share)
    assert test.pval == pytest.approx(share)


def test_clusters_of_independent_effects_move_as_one(solver):
    data = nested_data(2, districts=4, schools=3, rows=1)
    fit = fit_reml(make_design(data, "~ z", "~ 1"))
    test = permutation_test(fit, part="location", cluster=data["district"].tolist())
    assert test.exact
    assert test.iterations == 24

    def read(moved):
        return estimate(make_design(moved, "~ z", "~ 1"), "REML").location.loc["z", "zval"]

    expected = [by_hand(data, order, "z", read) for order in itertools.permutations(range(4))]
    np.testing.assert_allclose(np.sort(test.null["z"]), np.sort(expected), atol=1e-5)
    other = fit_reml(make_design(data.assign(x=np.arange(12.0)), "~ x", "~ 1"))
    with pytest.raises(FitError, match="x of 'location' differs within groups of 'cluster'"):
        permutation_test(other, part="location", cluster=data["district"].tolist())


def test_scale_moderators_of_several_terms_move_together():
    data = nested_data(4, districts=16, slopes=(1.5, 0.0))
    fit = nested_model(data, district="~ z", school="~ z").fit_reml()
    test = permutation_test(fit, iterations=20, seed=1, progress=False)
    again = permutation_test(fit, iterations=20, seed=1, progress=False)
    np.testing.assert_array_equal(test.null_joint, again.null_joint)
    assert list(test.table.index) == list(fit.scale_names)
    assert test.df == 2
    assert test.statistic == pytest.approx(wald_test(fit).statistic)
    assert test.null_joint[0] == pytest.approx(test.statistic)
    assert test.failed == 0
    assert "permutation" in str(test)


def test_correlations_are_estimated_in_every_order():
    """They have no column of their own."""
    model = gums("compound_symmetric")
    words = model.specification.model_copy(
        update={"scale": {"outcome | trial": "~ I(year - 1990)"}}
    )
    model = lsm.LocationScaleModel.from_specification(words, lsm.load_dataset("berkey1998"))
    fit = model.fit_reml()
    test = permutation_test(fit, iterations=4, seed=1, exact=False, progress=False)
    assert list(test.null.columns) == list(fit.scale_names)
    assert test.statistic == pytest.approx(wald_test(fit).statistic ** 2)
    # The order that changes nothing leads to the fit.
    what = exchangeable(fit.design, "scale")
    found = refitter_of(fit).orders(what, np.arange(len(what))[None])
    z, joint = found.statistics("scale", [1])
    np.testing.assert_allclose(z[0], fit.scale["zval"], rtol=1e-4)
    assert joint[0] == pytest.approx(test.statistic, rel=1e-4)


def test_several_starts_search_as_long_as_for_the_data():
    data = nested_data(4, districts=6)
    fit = nested_model(data, location="yi ~ z").fit_reml()
    options = {"part": "location", "iterations": 4, "seed": 1, "exact": False, "progress": False}
    one, several = (
        permutation_test(fit, starts=starts, **options) for starts in ("one", "several")
    )
    # Of one and the same highest point.
    np.testing.assert_allclose(one.null, several.null, atol=1e-5)
    assert one.iterations == 4


def test_what_is_held_stays_where_it_is(solver):
    """0.5 w of ln τ² is that of each study, whatever the order of z."""
    data = example(k=10, w=np.arange(10.0) % 3, z=np.arange(10.0) % 4)
    fit = fit_reml(make_design(data, "~ 1", "~ w + z"), fixed={"w": 0.5})
    options = {"iterations": 12, "seed": 1, "progress": False, "exact": False}
    test = permutation_test(fit, **options)
    assert list(test.table.index) == ["intrcpt", "z"]
    assert test.df == 1
    assert test.null_joint[0] == pytest.approx(fit.alpha[2] ** 2 / fit.vcov_scale[2, 2])
    orders = np.random.default_rng(1).permuted(np.tile(np.arange(10), (11, 1)), axis=1)
    for order, z in zip(orders, test.null["z"][1:], strict=True):
        moved = data.assign(z=data["z"].to_numpy()[order])
        refit = estimate(make_design(moved, "~ 1", "~ w + z"), "REML", fixed={"w": 0.5})
        if refit.divergence is None and z != 0:
            assert z == pytest.approx(refit.alpha[2] / np.sqrt(refit.vcov_scale[2, 2]), abs=1e-4)
    location = fit_reml(make_design(data, "~ z", "~ w"), fixed={"w": 0.5, "intrcpt": -1.0})
    assert 0 < permutation_test(location, part="location", **options).pval <= 1


def test_what_cannot_be_permuted_says_why():
    data = nested_data(4, districts=6)
    with pytest.raises(FitError, match="x of 'school' differs within groups of 'district'"):
        permutation_test(nested_model(data, school="~ x").fit_reml())
    with pytest.raises(FitError, match="nothing to permute"):
        permutation_test(nested_model(data, school="~ x").fit_reml(), part="location")
    fit = nested_model(data, location="yi ~ z").fit_reml()
    with pytest.raises(FitError, match="the groups of 'district' lie in several clusters"):
        permutation_test(fit, part="location", cluster="school")
    with pytest.raises(FitError, match="no scale term 'county'"):
        permutation_test(fit, part="location", cluster="county")
    with pytest.raises(FitError, match="one entry for each of the 36 rows"):
        permutation_test(fit, part="location", cluster=[1, 2])
    with pytest.raises(FitError, match="outcomeAL"):
        permutation_test(gums("none").fit_reml(), part="location")


def test_groups_that_cross_ask_for_clusters():
    data = nested_data(4, districts=6).assign(year=lambda d: d["school"] % 4)
    model = lsm.LocationScaleModel(
        "yi ~ z", {"district": "~ 1", "year": "~ 1"}, variance="vi", data=data
    )
    fit = estimate(model.design, "REML")
    with pytest.raises(FitError, match="rows that all depend on each other, as those of crossed"):
        permutation_test(fit, part="location")


@pytest.mark.slow
def test_the_size_of_the_test_of_clusters():
    """Under the null every order is as likely: 10% are rejected, up to Monte Carlo error."""
    pvals = []
    for seed in range(60):
        data = nested_data(seed + 50, districts=8, schools=2)
        fit = estimate(nested_model(data, location="yi ~ z").design, "REML")
        test = permutation_test(fit, part="location", iterations=20, seed=seed, progress=False)
        pvals.append(test.pval)
    # p is a multiple of 1/20.
    assert abs(np.mean(np.array(pvals) <= 0.1) - 0.1) < 3 * np.sqrt(0.1 * 0.9 / 60)
