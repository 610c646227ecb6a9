"""Cluster-robust covariances: metafor, clubSandwich and dense matrices."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.datasets import load_dataset
from bayes_lsm.errors import FitError
from bayes_lsm.reml import fit_reml
from bayes_lsm.reml.diagnostics.robust import robust
from bayes_lsm.reml.search.estimate import estimate

from .designs import example, make_design
from .nested import nested_data, nested_model
from .peers import PEERS, crimes, gums, schools

FOLDER = Path(__file__).parents[1] / "reference"
METAFOR = json.loads((FOLDER / "frequentist.json").read_text(encoding="utf-8"))["robust"]
CLUBSANDWICH = json.loads((FOLDER / "robust.json").read_text(encoding="utf-8"))["cases"]
# R's τ² ends within about 1e-8 of the maximum, and everything here inherits that: measured 7e-9.
PEER = 1e-7
METHODS = pytest.mark.parametrize("method", ["REML", "ML"])


def near(ours, theirs, tolerance=PEER):
    theirs = np.array(theirs, dtype=float)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())


def fitted(case):
    data = load_dataset(case["dataset"])
    return data, fit_reml(make_design(data, case["location"]), method=case["method"])


@pytest.mark.parametrize("kind", ["CR0", "CR1"])
@pytest.mark.parametrize("name", METAFOR)
def test_as_metafor(name, kind):
    case = METAFOR[name]
    data, fit = fitted(case)
    columns = [key for key in case if key in data]
    assert columns
    for column in columns:
        theirs = case[column][kind]
        found = robust(fit, data[column], kind=kind)
        assert found.n_clusters == theirs["clusters"]
        near(found.vcov_location, theirs["vcov_location"])
        table = theirs["location"]
        for ours, key in (("se", "se"), ("tval", "statistic"), ("pval", "pval"), ("df", "df")):
            near(found.location[ours], table[key])
        near(found.location["ci_lb"], table["ci_lb"])
        near(found.location["ci_ub"], table["ci_ub"])
        near(list(found.qm), [theirs["QM"][key] for key in ("statistic", "df1", "df2", "pval")])


@pytest.mark.parametrize("name", CLUBSANDWICH)
def test_cr2_as_clubsandwich(name):
    case = CLUBSANDWICH[name]
    data, fit = fitted(case)
    for column, group in case["clusters"].items():
        theirs = group["CR2"]
        found = robust(fit, data[column], kind="CR2")
        near(found.vcov_location, theirs["vcov"])
        for ours, key in (("se", "se"), ("tval", "statistic"), ("df", "df"), ("pval", "pval")):
            near(found.location[ours], theirs[key])
        near(found.location["ci_lb"], theirs["ci_lb"])
        near(found.location["ci_ub"], theirs["ci_ub"])


MODELS = {
    "schools_year": (schools(year=True), "district"),
    "crimes": (crimes(), "study"),
    "gums": (gums("unstructured"), "outcome | trial"),
}


@pytest.mark.parametrize("kind", ["CR1", "CR2"])
@pytest.mark.parametrize("name", list(MODELS))
def test_several_terms_as_metafor_and_clubsandwich(name, kind):
    model, cluster = MODELS[name]
    peer, fit = PEERS["metafor_verbs"][name][kind], model.fit_reml()
    found = robust(fit, cluster, kind=kind)
    # rma.mv's variances are good to about 1e-5 of themselves (see multilevel.R).
    vcov = np.reshape(np.array(peer["vcov"], dtype=float), found.vcov_location.shape)
    np.testing.assert_allclose(found.vcov_location, vcov, rtol=2e-3)
    np.testing.assert_allclose(found.df_location, np.broadcast_to(peer["df"], len(vcov)), rtol=2e-3)
    np.testing.assert_allclose(found.location["pval"], peer["pval"], rtol=1e-2, atol=1e-12)
    assert "cluster-robust" in str(found)
    assert robust(fit, kind=kind).n_clusters == found.n_clusters


@pytest.fixture(scope="module")
def fit():
    return fit_reml(make_design(example(k=24, seed=5), "~ x", "~ x"))


CLUSTERS = np.repeat(np.arange(8), 3)


def test_every_row_its_own_cluster_is_heteroscedasticity_consistent(fit):
    X, k = fit.design.X, fit.design.n_studies
    W = np.diag(1 / (fit.design.v + fit.tau2))
    M = np.linalg.inv(X.T @ W @ X)
    e = fit.design.y - X @ fit.beta
    h = np.diag(X @ M @ X.T @ W)
    rows = [f"row {i}" for i in range(k)]

    def sandwich(squares):
        return M @ X.T @ W @ np.diag(squares) @ W @ X @ M

    same = {"rtol": 1e-10, "atol": 1e-14}
    np.testing.assert_allclose(robust(fit, rows, kind="CR0").vcov_location, sandwich(e**2), **same)
    hc1 = sandwich(e**2) * k / (k - 2)
    np.testing.assert_allclose(robust(fit, rows, kind="CR1").vcov_location, hc1, **same)
    hc2 = sandwich(e**2 / (1 - h))
    np.testing.assert_allclose(robust(fit, rows, kind="CR2").vcov_location, hc2, **same)


def test_cr2_and_its_df_from_dense_matrices(fit):
    from scipy.linalg import sqrtm

    X, e = fit.design.X, fit.design.y - fit.design.X @ fit.beta
    Phi = np.diag(fit.design.v + fit.tau2)
    W = np.linalg.inv(Phi)
    M = np.linalg.inv(X.T @ W @ X)
    rest = np.eye(len(e)) - X @ M @ X.T @ W
    pulls, meat = [], np.zeros((2, 2))
    for c in range(8):
        rows = np.flatnonzero(c == CLUSTERS)
        D = np.sqrt(Phi[np.ix_(rows, rows)])
        B = D @ (rest @ Phi @ rest.T)[np.ix_(rows, rows)] @ D
        A = D @ np.linalg.inv(sqrtm(B)) @ D
        pull = A @ W[np.ix_(rows, rows)] @ X[rows] @ M
        meat += np.outer(pull.T @ e[rows], pull.T @ e[rows])
        pulls.append(rest[rows].T @ pull)
    found = robust(fit, CLUSTERS, kind="CR2")
    np.testing.assert_allclose(found.vcov_location, meat, rtol=1e-9)
    for j in range(2):
        G = np.column_stack([pull[:, j] for pull in pulls])
        P = G.T @ Phi @ G
        df = np.trace(P) ** 2 / np.sum(P * P)
        assert found.df_location[j] == pytest.approx(df, rel=1e-9)


def test_cr2_is_unbiased_if_the_model_is_right(fit):
    # E ee' = (I − H)Φ(I − H)' given the variances; a sum over clusters of quadratic forms.
    rng = np.random.default_rng(2)
    X, variance = fit.design.X, fit.design.v + fit.tau2
    total = np.zeros((2, 2))
    for _ in range(400):
        y = rng.normal(size=24) * np.sqrt(variance)
        design = dataclasses.replace(fit.design, y=y)
        M = fit.vcov_location
        again = dataclasses.replace(fit, design=design, beta=M @ X.T @ (y / variance))
        total += robust(again, CLUSTERS, kind="CR2").vcov_location / 400
    # 400 draws of a variance with about 6 degrees of freedom: 3% standard error; four of those.
    np.testing.assert_allclose(np.diag(total), np.diag(fit.vcov_location), rtol=0.12)


@METHODS
def test_many_independent_studies_need_no_sandwich(method):
    fit = fit_reml(make_design(example(k=20_000), "~ x", "~ x"), method=method)
    found = robust(fit, np.arange(20_000))
    # A variance from 20,000 terms: a relative standard error of about 1.5%; four of those.
    for ours, model in ((found.location, fit.location), (found.scale, fit.scale)):
        np.testing.assert_allclose(ours["se"], model["se"], rtol=0.06)


def test_twins_double_the_variance():
    # Each row twice, as one cluster: the estimates' robust variance is that of half as many rows.
    data = example(k=30, seed=9)
    twice = data.loc[np.repeat(np.arange(30), 2)].reset_index(drop=True)
    once = fit_reml(make_design(data, "~ x", "~ x"), method="ML")
    both = fit_reml(make_design(twice, "~ x", "~ x"), method="ML")
    np.testing.assert_allclose(both.alpha, once.alpha, rtol=1e-6)
    single = robust(once, np.arange(30), kind="CR0")
    paired = robust(both, np.repeat(np.arange(30), 2), kind="CR0")
    np.testing.assert_allclose(paired.vcov_scale, single.vcov_scale, rtol=1e-5)
    np.testing.assert_allclose(paired.vcov_location, single.vcov_location, rtol=1e-5)


def test_units_and_origins_of_moderators_change_nothing(fit):
    data = example(k=24, seed=5)
    other = fit_reml(make_design(data.assign(x=2000 + 0.1 * data["x"]), "~ x", "~ x"))
    ours, theirs = robust(fit, CLUSTERS), robust(other, CLUSTERS)
    # Two climbs to one maximum from other coordinates: about 1e-7 of a standard error.
    assert 0.1 * theirs.scale["se"]["x"] == pytest.approx(ours.scale["se"]["x"], rel=1e-5)
    assert theirs.location["tval"]["x"] == pytest.approx(ours.location["tval"]["x"], rel=1e-5)


def test_a_robust_fit_of_several_terms_is_printed_with_all_parts():
    fit = nested_model(nested_data(3, slopes=(0.0, 0.8)), school="~ x").fit_reml()
    found = robust(fit)
    assert "Scale (ln τ²): school" in str(found)
    assert found.scale.loc[("school", "x"), "df"] == 19
    plain = robust(fit, small_sample=False)
    assert "zval" in plain.scale
    assert (plain.scale["se"] == found.scale["se"]).all()
    # The square of the only t is F.
    one = nested_model(nested_data(3, effect=0.4), location="yi ~ z").fit_reml().robust()
    assert one.qm.statistic == pytest.approx(one.location.loc["z", "tval"] ** 2)
    assert one.qm.df2 == 18


def test_clusters_that_depend_on_each_other():
    with pytest.raises(FitError, match="the groups of 'district' lie in several clusters"):
        robust(schools(year=True).fit_reml(), "district/school")
    few = nested_model(nested_data(1, districts=2), location="yi ~ x")
    with pytest.raises(FitError, match="2 clusters are too few for 2"):
        robust(estimate(few.design, "REML"))


def test_without_clusters_every_study_is_its_own(fit):
    found = robust(fit)
    assert found.n_clusters == 24
    np.testing.assert_array_equal(found.vcov_location, robust(fit, np.arange(24)).vcov_location)


@pytest.mark.usefixtures("solver")
def test_clusters_of_many_sizes():
    """Clusters of one size are worked on together: in any order it is the same covariance."""
    data, rng = example(k=24, seed=5), np.random.default_rng(3)
    code = rng.integers(0, 7, size=24)
    assert len(np.unique(np.bincount(code))) > 2
    order = rng.permutation(24)
    ours = robust(fit_reml(make_design(data, "~ x", "~ x")), code, kind="CR2")
    shuffled = data.iloc[order].reset_index(drop=True)
    theirs = robust(fit_reml(make_design(shuffled, "~ x", "~ x")), code[order], kind="CR2")
    # Two climbs to one maximum: about 1e-7 of a standard error.
    np.testing.assert_allclose(ours.vcov_location, theirs.vcov_location, rtol=1e-5)
    np.testing.assert_allclose(ours.df_location, theirs.df_location, rtol=1e-5)


def test_normal_tests_without_the_small_sample_correction(fit):
    found = robust(fit, CLUSTERS, small_sample=False)
    assert "zval" in found.location
    table = robust(fit, CLUSTERS).location
    np.testing.assert_allclose(found.location["zval"], table["tval"])
    assert (found.location["pval"] < table["pval"]).all()
    np.testing.assert_allclose(
        found.location["ci_ub"] - fit.beta, 1.959964 * found.location["se"], rtol=1e-6
    )


def test_what_is_printed(fit):
    text = str(robust(fit, CLUSTERS, kind="CR2"))
    assert "CR2 in 8 clusters" in text
    assert "cluster-robust" in text
    assert "the scale part has CR1" in text
    assert np.isnan(robust(fit, CLUSTERS, kind="CR2").qm.statistic)


def test_refusals(fit):
    with pytest.raises(FitError, match="kind must be 'CR0', 'CR1' or 'CR2', got 'CR3'"):
        robust(fit, CLUSTERS, kind="CR3")
    with pytest.raises(FitError, match=r"one entry for each of the 24 rows .* got 23"):
        robust(fit, CLUSTERS[1:])
    with pytest.raises(FitError, match="missing in row 2"):
        robust(fit, [0.0, 1.0, np.nan, *range(21)])
    with pytest.raises(FitError, match="2 clusters are too few for 2 location"):
        robust(fit, np.arange(24) % 2)
    with pytest.raises(FitError, match=r"no scale term 'author'; .* pass a column of the data"):
        robust(fit, "author")
    identity = fit_reml(make_design(example(k=24, seed=5), "~ x", link="identity"))
    with pytest.raises(FitError, match="robust does not take link='identity'"):
        robust(identity, CLUSTERS)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("kind", ["CR1", "CR2"])
def test_extreme_units_keep_their_digits(kind, several):
    """A moderator with an SD of 1e-3 around 2000, and the same one with an SD of 1 around 0."""
    rng = np.random.default_rng(2)
    k = 60
    cluster = np.repeat(np.arange(20), 3)
    far = 2000 + 1e-3 * rng.normal(size=k)
    near_0 = (far - 2000) / 1e-3  # exact: the difference of two neighbours is
    y = 0.3 * near_0 + 0.5 * rng.normal(size=20)[cluster] + rng.normal(size=k)
    found = []
    for x in (near_0, far):
        data = pd.DataFrame({"yi": y, "vi": 0.1, "x": x, "cluster": cluster})
        scale = {"cluster": "~ 1", "residual": "~ 1"} if several else "~ 1"
        fit = lsm.LocationScaleModel("yi ~ x", scale, variance="vi", data=data).fit_reml()
        found.append(robust(fit, cluster, kind=kind))
    ours, theirs = found[1], found[0]
    # 2e6 times the rounding of a double is 4e-10; its square, without orthogonal columns, 1e-3.
    # With several terms the two climbs end 2e-6 of ln τ² apart, by their tolerance.
    tolerance = {"rel": 1e-6 if several else 1e-8}
    assert ours.location.loc["x", "se"] == pytest.approx(
        1e3 * theirs.location.loc["x", "se"], **tolerance
    )
    assert ours.location.loc["x", "df"] == pytest.approx(
        theirs.location.loc["x", "df"], **tolerance
    )
    assert ours.location.loc["intrcpt", "se"] == pytest.approx(
        np.sqrt(_at_zero(theirs.vcov_location)), **tolerance
    )
    np.testing.assert_allclose(ours.vcov_scale, theirs.vcov_scale, rtol=1e-5 if several else 1e-7)


def _at_zero(V):
    """Var of the mean at x = 0, by the covariance of those whose x is (x − 2000) / 1e-3."""
    at = np.array([1.0, -2000 / 1e-3])
    return at @ V @ at
