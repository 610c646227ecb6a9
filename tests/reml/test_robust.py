"""Cluster-robust covariances: metafor, clubSandwich, dense matrices and numerical sandwiches."""

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.datasets import load_dataset
from bayes_lsm.errors import BayesLsmWarning, FitError
from bayes_lsm.likelihood.rows.closed_form import score_contributions
from bayes_lsm.reml import fit_reml
from bayes_lsm.reml.diagnostics.robust import robust

from .designs import example, homogeneous_group, make_design

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
def test_scores_are_the_slopes_of_each_studys_part_of_the_profile(method):
    design = make_design(example(k=15, seed=7), "~ x", "~ x")
    y, v, X, Z = design.y, design.v, design.X, design.Z
    alpha = np.array([-0.4, 0.3])

    def parts(alpha):
        variance = v + np.exp(Z @ alpha)
        A = X.T @ (X / variance[:, None])
        beta = np.linalg.solve(A, X.T @ (y / variance))
        return -0.5 * (np.log(variance) + (y - X @ beta) ** 2 / variance), np.linalg.slogdet(A)[1]

    found = score_contributions(np.exp(Z @ alpha), y, v, X, Z, method=method)
    # Central differences of step h are exact to h² and rounding / h: 1e-10 each.
    h = 1e-5
    for j in range(2):
        step = h * np.eye(2)[j]
        up, down = parts(alpha + step), parts(alpha - step)
        slopes = (up[0] - down[0]) / (2 * h)
        if method == "ML":
            np.testing.assert_allclose(found[:, j], slopes, atol=1e-8)
        else:
            # ln|X'WX| has no parts of its own; all studies together must have its slope.
            whole = slopes.sum() - 0.5 * (up[1] - down[1]) / (2 * h)
            assert found[:, j].sum() == pytest.approx(whole, abs=1e-8)


def test_the_reml_share_of_a_study_in_the_determinant_is_its_own_tau2s():
    # d ln|X'WX| / d ln τ²_i, by moving the τ² of one study alone.
    design = make_design(example(k=10, seed=7), "~ x")
    X, v = design.X, design.v
    tau2 = np.full(10, 0.5)
    arguments = (tau2, design.y, v, X, np.eye(10))
    own = score_contributions(*arguments, method="REML") - score_contributions(
        *arguments, method="ML"
    )
    for i in range(10):

        def log_det(step, i=i):
            w = 1 / (v + tau2 * np.exp(step * (np.arange(10) == i)))
            return np.linalg.slogdet(X.T @ (w[:, None] * X))[1]

        slope = (log_det(1e-5) - log_det(-1e-5)) / 2e-5
        assert own[i, i] == pytest.approx(-0.5 * slope, abs=1e-9)


@METHODS
def test_scores_add_up_to_nothing_at_the_maximum(method):
    fit = fit_reml(make_design(example(), "~ x", "~ x"), method=method)
    design = fit.design
    found = score_contributions(fit.tau2, design.y, design.v, design.X, design.Z, method=method)
    np.testing.assert_allclose(found.sum(axis=0), 0.0, atol=1e-5)


def test_under_ml_it_is_the_joint_sandwich_of_both_parts():
    fit = fit_reml(make_design(example(k=24, seed=5), "~ x", "~ x"), method="ML")
    y, v, X, Z = fit.design.y, fit.design.v, fit.design.X, fit.design.Z

    def scores(theta):
        variance = v + np.exp(Z @ theta[2:])
        e = y - X @ theta[:2]
        location = (e / variance)[:, None] * X
        scale = (0.5 * np.exp(Z @ theta[2:]) * (e**2 / variance**2 - 1 / variance))[:, None] * Z
        return np.column_stack([location, scale])

    theta = np.concatenate([fit.beta, fit.alpha])
    H = np.column_stack(
        [
            (scores(theta + step).sum(axis=0) - scores(theta - step).sum(axis=0)) / 2e-5
            for step in 1e-5 * np.eye(4)
        ]
    )
    sums = np.array([scores(theta)[c == CLUSTERS].sum(axis=0) for c in range(8)])
    joint = np.linalg.inv(H) @ sums.T @ sums @ np.linalg.inv(H).T
    found = robust(fit, CLUSTERS, kind="CR0")
    # The numerical Hessian has about 1e-9.
    np.testing.assert_allclose(found.vcov_scale, joint[2:, 2:], rtol=1e-6)
    np.testing.assert_allclose(
        robust(fit, CLUSTERS, kind="CR1").vcov_scale, joint[2:, 2:] * 8 / 7, rtol=1e-6
    )


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


@METHODS
def test_at_a_limit(method):
    data = homogeneous_group("b")
    clusters = np.repeat(np.arange(20), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayesLsmWarning)
        fit = fit_reml(make_design(data, "~ g", "~ g"), method=method)
    found = robust(fit, clusters)
    assert np.isnan(found.vcov_scale[1]).all()
    assert np.isnan(found.scale.loc["gb", ["se", "pval", "ci_lb", "ci_ub"]].to_numpy(float)).all()
    # Group a alone has the same α, scores and Hessian; b's τ² is 0 and its mean its own.
    alone = data[data["g"] == "a"]
    only = fit_reml(make_design(alone), method=method)
    same = robust(only, clusters[::2])
    assert same.n_clusters == found.n_clusters
    assert found.vcov_scale[0, 0] == pytest.approx(same.vcov_scale[0, 0], rel=1e-6)
    assert "no finite maximum" in str(found)


def test_no_heterogeneity_at_all():
    data = example(k=12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayesLsmWarning)
        fit = fit_reml(make_design(data.assign(yi=0.1 * data["x"]), "~ 1", "~ x"))
    found = robust(fit, np.arange(12))
    assert np.isnan(found.vcov_scale).all()
    assert np.isfinite(found.location).all(axis=None)
    assert str(found)


def test_a_fixed_coefficient_has_no_variance():
    data = example(k=24, seed=5)
    fit = fit_reml(make_design(data, "~ x", "~ x"), fixed={"x": 0.6})
    found = robust(fit, CLUSTERS, kind="CR0")
    assert np.isnan(found.vcov_scale[1]).all()
    design = fit.design
    s = score_contributions(
        fit.tau2, design.y, design.v, design.X, design.Z[:, :1], method="REML"
    ).ravel()
    meat = sum(s[c == CLUSTERS].sum() ** 2 for c in range(8))
    assert found.vcov_scale[0, 0] == pytest.approx(meat * fit.vcov_scale[0, 0] ** 2, rel=1e-6)


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
    with pytest.raises(FitError, match="one value for each of 24 rows, got 23"):
        robust(fit, CLUSTERS[1:])
    with pytest.raises(FitError, match="no value for row 2"):
        robust(fit, [0.0, 1.0, np.nan, *range(21)])
    with pytest.raises(FitError, match="2 clusters are too few for 2 location"):
        robust(fit, np.arange(24) % 2)
    with pytest.raises(FitError, match=r"pass the column itself: data\['author'\]"):
        robust(fit, "author")
    identity = fit_reml(make_design(example(k=24, seed=5), "~ x", link="identity"))
    with pytest.raises(FitError, match="log link"):
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
