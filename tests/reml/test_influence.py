"""Influence: metafor's numbers, and refits by hand, of studies and of clusters of rows."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm import plots
from bayes_lsm.datasets import load_dataset
from bayes_lsm.design.design import Design
from bayes_lsm.errors import BayesLsmWarning, DivergentScaleWarning, FitError
from bayes_lsm.reml import fit_reml
from bayes_lsm.reml.diagnostics.influence import influence
from bayes_lsm.reml.diagnostics.leave_one_out import leave_one_out
from bayes_lsm.reml.search.estimate import estimate
from bayes_lsm.reml.wald import cochran_q

from .designs import example, homogeneous_group, make_design
from .nested import nested_data, nested_model
from .peers import PEERS, crimes, schools

# The package exports a function of the module's name.
engine = sys.modules["bayes_lsm.reml.diagnostics.deletion"]

CASES = json.loads(
    (Path(__file__).parents[1] / "reference" / "frequentist.json").read_text(encoding="utf-8")
)["influence"]

# metafor refits by Fisher scoring, which ends at about 1e-8 of τ² here; what is a difference of two
# fits (Cook, DFBETAS) keeps that relative to the largest study. Measured: at most 2e-7.
METAFOR = 2e-6


def near(ours, theirs, tolerance=METAFOR):
    theirs = np.array(theirs, dtype=float)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())


def fitted(case, **options):
    design = make_design(load_dataset(case["dataset"]), case["location"])
    return fit_reml(design, method=case["method"], **options)


@pytest.mark.parametrize("test", ["z", "knha"])
@pytest.mark.parametrize("name", CASES)
def test_one_tau2_as_metafor(name, test):
    case = CASES[name]
    theirs = case["influence" if test == "z" else "influence_knha"]
    found = influence(fitted(case, test=test), progress=False)
    assert found.leave_one_out.searched.all()
    near(found.deleted_residual, theirs["resid"])
    near(found.deleted_residual_se, theirs["se"])
    near(found.rstudent, theirs["z"])
    near(found.dffits, theirs["dffits"])
    near(found.cook, theirs["cook"])
    near(found.cov_ratio, theirs["cov_ratio"])
    near(found.hat, case["hat"])
    near(found.weight, case["weights_percent"])
    if test == "z":
        near(found.tau2, theirs["tau2_deleted"])
        near(found.Q, theirs["QE_deleted"])
    assert list(theirs["dfbetas"]) == [
        name.replace("ni / 100", "ni/100") for name in found.fit.design.location.names
    ]
    for j, values in enumerate(theirs["dfbetas"].values()):
        near(found.dfbetas_location[:, j], values)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c["location"] == "~ 1"])
def test_leave_one_out_as_metafor(name):
    case = CASES[name]
    table = leave_one_out(fitted(case), progress=False).to_dataframe()
    theirs = case["leave1out"]
    location, model = table["location"]["intrcpt"], table["model"][""]
    for ours, name in (("estimate", "estimate"), ("se", "se"), ("zval", "zval"), ("pval", "pval")):
        near(location[ours], theirs[name])
    near(location["ci_lb"], theirs["ci_lb"])
    near(location["ci_ub"], theirs["ci_ub"])
    for name in ("Q", "Qp", "tau2", "I2", "H2"):
        near(model[name], theirs[name])


@pytest.mark.usefixtures("solver")
@pytest.mark.parametrize("method", ["REML", "ML"])
def test_refits_by_hand(method):
    data = example(k=25, seed=3)
    fit = fit_reml(make_design(data, "~ x", "~ x"), method=method)
    found = influence(fit, progress=False)
    X, Z, y, v = fit.design.X, fit.design.terms[0].Z[:, 0], fit.design.y, fit.design.v
    for i in (0, 7, 24):
        rest = fit_reml(make_design(data.drop(index=i), "~ x", "~ x"), method=method)
        left = found.leave_one_out
        # The same climb of the same data: equal up to the rounding of another order of sums.
        same = {"rtol": 1e-6, "atol": 1e-8}
        np.testing.assert_allclose(left.beta[i], rest.beta, **same)
        np.testing.assert_allclose(left.alpha[i], rest.alpha, **same)
        np.testing.assert_allclose(left.se_alpha[i], rest.scale["se"], **same)
        assert left.loglik[i] == pytest.approx(rest.loglik, abs=1e-9)
        tau2 = np.exp(Z @ rest.alpha)
        W = np.diag(1 / (v + tau2))
        assert found.own_tau2[i] == pytest.approx(tau2[i], rel=1e-6)
        others = np.arange(len(y)) != i
        assert found.tau2[i] == pytest.approx(tau2[others].mean(), rel=1e-6)
        change = fit.tau2[others].mean() - tau2[others].mean()
        assert found.tau2_change[i] == pytest.approx(change, rel=1e-5, abs=1e-8)
        variance = v[i] + tau2[i] + X[i] @ rest.vcov_location @ X[i]
        assert found.rstudent[i] == pytest.approx((y[i] - X[i] @ rest.beta) / variance**0.5, 1e-6)
        shift = fit.beta - rest.beta
        cook = shift @ np.linalg.inv(fit.vcov_location) @ shift
        assert found.cook[i] == pytest.approx(cook, rel=1e-5)
        ratio = np.linalg.det(rest.vcov_location) / np.linalg.det(fit.vcov_location)
        assert found.cov_ratio[i] == pytest.approx(ratio, rel=1e-6)
        all_of_them = np.linalg.inv(X.T @ W @ X)
        np.testing.assert_allclose(
            found.dfbetas_location[i], shift / np.sqrt(np.diag(all_of_them)), rtol=1e-5
        )
        np.testing.assert_allclose(
            found.dfbetas_scale[i], (fit.alpha - rest.alpha) / rest.scale["se"], rtol=1e-5
        )
        spread = found.hat[i] * (v[i] + tau2[i])
        assert found.dffits[i] == pytest.approx(X[i] @ shift / spread**0.5, rel=1e-5)


@pytest.mark.usefixtures("solver")
def test_a_study_that_alone_is_heterogeneous():
    # All of group b but row 1 agree: without it they have no τ².
    data = homogeneous_group("b").assign(study=[f"s{i}" for i in range(40)])
    data.loc[1, "yi"] = 9.0
    fit = fit_reml(make_design(data, "~ g", "~ g", study="study"))
    assert fit.divergence is None
    found = influence(fit, progress=False)
    assert found.leave_one_out.diverging == ("s1",)
    assert found.leave_one_out.alpha[1, 1] == -np.inf
    assert np.isnan(found.leave_one_out.se_alpha[1, 1])
    # α of gb is finite with the study, and −∞ without it.
    assert found.dfbetas_scale[1, 1] == np.inf
    assert np.isfinite(found.dfbetas_scale[1, 0])
    assert found.own_tau2[1] == 0
    # Without it group b has fixed weights 1/v.
    se = np.sqrt(data["vi"][1] + 1 / np.sum(1 / data["vi"][3::2]))
    assert found.deleted_residual_se[1] == pytest.approx(se, rel=1e-9)
    assert found.influential[1]
    assert found.influential_scale[1]
    assert "no finite estimate without s1" in str(found)
    assert np.isfinite(found.rstudent).all()


def test_a_divergent_fit():
    data = homogeneous_group("b")
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(data, "~ g", "~ g"))
    found = influence(fit, progress=False)
    assert len(found.leave_one_out.diverging) == 40
    # −∞ both ways is no change that could be measured.
    assert np.isnan(found.dfbetas_scale[:, 1]).all()
    assert np.isfinite(found.dfbetas_scale[:, 0]).all()
    np.testing.assert_array_equal(found.own_tau2[1::2], 0.0)
    group_a = found.leave_one_out.alpha[::2, 0]
    np.testing.assert_allclose(found.own_tau2[::2], np.exp(group_a), rtol=1e-6)
    # Without heterogeneity the residual of a study of b has its v, and the weighted mean's.
    w = 1 / data["vi"][1::2].to_numpy()
    expected = np.sqrt(1 / w + 1 / (w.sum() - w))
    np.testing.assert_allclose(found.deleted_residual_se[1::2], expected, rtol=1e-9)


def test_a_study_that_alone_makes_a_fit_diverge():
    # Slides' data: continentOther runs to −∞, but not without some of its studies.
    data = load_dataset("preterm_iq")
    formula = "~ continent + I(weeks - 40)"
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(data, formula, formula))
    found = influence(fit, progress=False)
    rest = fit_reml(make_design(data.drop(index=data.index[2]), formula, formula))
    assert rest.divergence is None
    assert found.dfbetas_scale[2, 2] == -np.inf
    np.testing.assert_allclose(found.leave_one_out.alpha[2], rest.alpha, rtol=1e-5)
    assert found.fit.design.labels[2] not in found.leave_one_out.diverging
    text = " ".join(str(found).split())
    assert "every scale coefficient has a finite estimate without row 2, row 4" in text


def test_tau2_that_the_other_studies_leave_open():
    # τ² is 0 for all x but the largest: at a still larger x it would be infinite.
    data = pd.DataFrame(
        {
            "yi": [0.01, -0.01, 0.02, 0.0, -0.02, 0.01, 0.0, -0.01, 5.0, -5.0, 0.3],
            "vi": 1.0,
            "x": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5.0],
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayesLsmWarning)
        fit = fit_reml(make_design(data, "~ 1", "~ x"))
        found = influence(fit, progress=False)
    assert found.leave_one_out.alpha[10, 1] == np.inf
    assert found.own_tau2[10] == np.inf
    assert np.isnan(found.rstudent[10])
    assert np.isnan(found.dffits[10])
    assert np.isfinite(found.deleted_residual[10])
    assert "do not tell the τ² of row 10" in str(found)


@pytest.mark.usefixtures("solver")
def test_a_study_that_is_a_level_of_its_own():
    data = example(k=11).assign(g=["c", *"ababababab"], study=list("abcdefghijk"))
    fit = fit_reml(make_design(data, "~ g", study="study"))
    found = influence(fit, progress=False)
    (unfittable,) = found.leave_one_out.unfittable
    assert unfittable.name == "a"
    assert "'gc' is zero in every study" in unfittable.reason
    assert "without a: the location moderator 'gc'" in str(found)
    table = found.to_dataframe()
    assert table.loc["a"].drop(["rows", "hat", "weight"]).isna().all()
    assert np.isfinite(table.drop(index="a")).all(axis=None)
    assert np.isnan(found.leave_one_out.loglik[0])


def test_too_few_studies_to_spare_one():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayesLsmWarning)
        enough = fit_reml(make_design(example(k=5, seed=8), "~ x", "~ x"), method="ML")
        fit = fit_reml(make_design(example(k=4, seed=8), "~ x", "~ x"), method="ML")
    assert not leave_one_out(enough, progress=False).unfittable
    found = leave_one_out(fit, progress=False)
    assert len(found.unfittable) == 4
    assert "3 studies cannot carry 2 location and 2 scale" in str(found)


@pytest.mark.usefixtures("solver")
def test_climbs_of_many_studies_end_where_searches_do(monkeypatch):
    fit = fit_reml(make_design(example(k=30, seed=4), "~ x", "~ x"))
    searched = influence(fit, progress=False)
    monkeypatch.setattr(engine, "_MANY", 10)
    monkeypatch.setattr(engine, "_SEARCHED", 5)
    climbed = influence(fit, progress=False)
    assert climbed.leave_one_out.searched.sum() == 5
    # Two climbs to one maximum, each within about 1e-7 of a standard error of it.
    np.testing.assert_allclose(
        climbed.leave_one_out.alpha, searched.leave_one_out.alpha, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(climbed.to_dataframe(), searched.to_dataframe(), atol=1e-5)
    np.testing.assert_allclose(climbed.dfbetas, searched.dfbetas, atol=1e-5)


@pytest.mark.usefixtures("solver")
def test_climbs_towards_a_limit_are_searched(monkeypatch):
    data = homogeneous_group("b")
    data.loc[1, "yi"] = 9.0
    fit = fit_reml(make_design(data, "~ g", "~ g"))
    monkeypatch.setattr(engine, "_MANY", 10)
    monkeypatch.setattr(engine, "_SEARCHED", 0)
    found = leave_one_out(fit, progress=False)
    assert found.searched[1]
    assert found.alpha[1, 1] == -np.inf
    assert not found.searched[0]


@pytest.mark.usefixtures("solver")
def test_fixed_coefficients_stay_fixed():
    data = example(k=15)
    fit = fit_reml(make_design(data, "~ 1", "~ x"), fixed={"x": 0.5})
    found = leave_one_out(fit, progress=False)
    np.testing.assert_array_equal(found.alpha[:, 1], 0.5)
    rest = fit_reml(make_design(data.drop(index=3), "~ 1", "~ x"), fixed={"x": 0.5})
    np.testing.assert_allclose(found.alpha[3], rest.alpha, rtol=1e-6)


def test_an_outlier_is_seen_and_marked():
    data = example(k=20, seed=6)
    data.loc[4, ["yi", "x"]] = [14.0, 4.0]
    found = influence(fit_reml(make_design(data, "~ x")), progress=False)
    assert int(np.argmax(found.cook)) == 4
    assert found.influential[4]
    assert found.influential.sum() < 5
    line = str(found).splitlines()[3 + 4]
    assert line.strip().startswith(found.fit.design.labels[4])
    assert line.rstrip().endswith(("*", "*s"))
    assert "<table" in found._repr_html_()
    assert list(found.dfbetas.columns) == [
        ("location", "intrcpt"),
        ("location", "x"),
        ("scale", "intrcpt"),
    ]


def test_the_progress_bar_stays_off_standard_output(capsys):
    fit = fit_reml(make_design(example(k=60)))
    leave_one_out(fit)
    leave_one_out(fit, progress=False)
    assert capsys.readouterr().out == ""


MODELS = {"schools_year": (schools(year=True), "district"), "crimes": (crimes(), "study")}


@pytest.fixture(scope="module", params=list(MODELS))
def by_cluster(request):
    """What rma.mv says without each cluster, and what we do."""
    model, cluster = MODELS[request.param]
    return PEERS["metafor_verbs"][request.param], model.fit_reml().influence(
        cluster=cluster, progress=False
    )


def test_clusters_as_metafor(by_cluster):
    peer, found = by_cluster
    # metafor sorts its clusters as text or as numbers. rma.mv's variances are good to about 1e-5 of
    # themselves (see multilevel.R), its refits too, and these are differences of refits.
    at = [found.labels.index(str(name)) for name in peer["cluster"]]
    np.testing.assert_allclose(found.cook[at], peer["cook"], rtol=5e-3, atol=1e-6)
    dfbetas = np.array(peer["dfbetas"], dtype=float).reshape(len(at), -1)
    np.testing.assert_allclose(found.dfbetas_location[at], dfbetas, rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(found.chi2[at], peer["X2"], rtol=1e-3)
    np.testing.assert_allclose(found.deleted_residual, peer["resid"], rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(found.deleted_residual_se, peer["se"], rtol=1e-3)


def test_the_table_of_clusters_has_all_columns(by_cluster):
    _, found = by_cluster
    table = found.to_dataframe()
    assert table["rows"].sum() == len(found.fit.design.y)
    assert table["hat"].sum() == pytest.approx(len(found.fit.beta))
    assert table["weight"].sum() == pytest.approx(100)
    several = table["rows"] > 1
    assert several.any()
    for column in ("rstudent", "dffits"):
        np.testing.assert_array_equal(table[column].isna(), several)
    always = table.drop(columns=["rstudent", "dffits"])
    assert np.isfinite(always).all(axis=None)
    assert found.measures == tuple(table.columns[table.notna().any()])


@pytest.mark.usefixtures("solver")
def test_clusters_of_independent_effects():
    """Two refits by hand: whole clusters go, and their χ² is that of the rows' joint errors."""
    data = example(k=24, seed=5)
    code = np.repeat(np.arange(8), 3)
    fit = fit_reml(make_design(data, "~ x", "~ x"))
    found = influence(fit, cluster=code, progress=False)
    X, y, v = fit.design.X, fit.design.y, fit.design.v
    for c in (0, 7):
        rest = fit_reml(make_design(data[code != c], "~ x", "~ x"))
        rows = code == c
        tau2 = np.exp(X @ rest.alpha)
        omega = np.diag((v + tau2)[rows]) + X[rows] @ rest.vcov_location @ X[rows].T
        e = (y - X @ rest.beta)[rows]
        # The same search of the same data: equal up to the rounding of another order of sums.
        np.testing.assert_allclose(found.leave_one_out.alpha[c], rest.alpha, rtol=1e-6)
        np.testing.assert_allclose(found.deleted_residual[rows], e, rtol=1e-6)
        np.testing.assert_allclose(found.deleted_residual_se[rows], np.diag(omega) ** 0.5, 1e-6)
        assert found.chi2[c] == pytest.approx(e @ np.linalg.solve(omega, e), rel=1e-6)
        others = fit.tau2[~rows].mean() - tau2[~rows].mean()
        assert found.tau2_change[c] == pytest.approx(others, rel=1e-4)
    assert found.unit == "cluster"
    assert np.isnan(found.dffits).all()


def test_solver_says_the_same(monkeypatch):
    data = load_dataset("bcg")

    def ask():
        fit = fit_reml(make_design(data, "~ ablat", "~ ablat", study="trial"))
        return influence(fit, progress=False)

    rows = ask()
    monkeypatch.setattr(Design, "is_independent", False)
    blocks = ask()
    assert blocks.unit == rows.unit == "study"
    # Two climbs to one maximum, each within about 1e-7 of a standard error of it.
    pd.testing.assert_frame_equal(blocks.to_dataframe(), rows.to_dataframe(), rtol=1e-4)
    pd.testing.assert_frame_equal(blocks.dfbetas, rows.dfbetas, rtol=1e-4, atol=1e-5)
    ours, theirs = (found.leave_one_out.to_dataframe() for found in (blocks, rows))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_cluster_of_its_own_is_the_row():
    """Clusters may be anything, such as single rows whose neighbours stay behind."""
    fit = schools(year=True).fit_reml()
    found = fit.influence(cluster=list(range(len(fit.design.y))), progress=False)
    z = found.deleted_residual / found.deleted_residual_se
    np.testing.assert_allclose(found.chi2, z**2, rtol=1e-9)
    table = found.to_dataframe()
    np.testing.assert_allclose(table["rstudent"], z)
    assert np.isfinite(table).all(axis=None)
    # DFFITS is the shift of x'β̂ in standard errors, by the total variance without the row.
    i = 7
    alone = fit_of(fit, np.arange(len(z)) != i)
    sigma = fit.covariance.matrix.toarray()
    own = sigma[i, i] - fit.design.v[i]
    x = fit.design.X[i]
    variance = x @ fit.vcov_location @ x * (found.leave_one_out.spread[i] / (own + fit.design.v[i]))
    assert found.dffits[i] == pytest.approx(x @ (fit.beta - alone.beta) / variance**0.5, rel=1e-6)


def fit_of(fit, kept):
    return estimate(fit.design.keep(kept), fit.method)


def test_knapp_and_hartung_with_clusters():
    """All errors of a refit are those of its own model times its own factor."""
    data = nested_data(3, districts=10)
    plain, scaled = (
        fit_reml(nested_model(data, location="yi ~ z").design, test=test) for test in ("z", "knha")
    )
    ours, theirs = (influence(fit, progress=False) for fit in (scaled, plain))
    c = 4
    rest = fit_of(plain, ours.leave_one_out.clusters.code != c)
    factor = rest.knapp_hartung
    assert factor != pytest.approx(1.0, rel=1e-3)
    assert ours.chi2[c] == pytest.approx(theirs.chi2[c] / factor, rel=1e-6)
    np.testing.assert_allclose(
        ours.dfbetas_location[c], theirs.dfbetas_location[c] / factor**0.5, rtol=1e-6
    )
    np.testing.assert_allclose(ours.leave_one_out.beta, theirs.leave_one_out.beta)
    columns = ours.leave_one_out.to_dataframe()["location"]["z"]
    assert "tval" in columns


def test_scale_coefficients_of_several_terms_are_estimated_again():
    data = nested_data(3, districts=10, slopes=(0.0, 0.8))
    fit = nested_model(data, school="~ x").fit_reml()
    found = fit.influence(progress=False)
    refit = estimate(nested_model(data[data["district"] != 4], school="~ x").design, "REML")
    left = found.leave_one_out
    np.testing.assert_allclose(left.alpha[4], refit.alpha, rtol=1e-6)
    expected = (fit.alpha - refit.alpha) / np.sqrt(np.diag(refit.vcov_scale))
    np.testing.assert_allclose(found.dfbetas_scale[4], expected, rtol=1e-6)
    assert left.loglik[4] == pytest.approx(refit.loglik)
    table = leave_one_out(fit, progress=False).to_dataframe()
    assert table["scale", "school: x", "estimate"].iloc[4] == pytest.approx(refit.alpha[2])
    others = fit.tau2[data["district"] != 4].mean() - refit.tau2.mean()
    assert found.tau2_change[4] == pytest.approx(others, rel=1e-5)
    assert found.Q[4] == pytest.approx(cochran_q(refit.design).statistic)
    shown = plots.influence(found)
    titles = [ax.get_title(loc="left") for ax in shown]
    assert "χ² of deleted residuals" in titles
    assert "studentised deleted residual" not in titles
    assert shown[0].get_xlabel().startswith("district")
    assert "scale school: x" in str(left)
    assert "<table" in left._repr_html_()


def test_clusters_that_the_model_needs_are_told():
    data = nested_data(3, districts=4).assign(g=lambda d: (d["district"] == 2) * 1.0)
    fit = estimate(nested_model(data, location="yi ~ g").design, "REML")
    found = influence(fit, progress=False)
    assert [each.name for each in found.leave_one_out.unfittable] == ["2"]
    assert np.isnan(found.cook[2])
    assert np.isfinite(np.delete(found.cook, 2)).all()
    assert "without 2:" in str(found)


def test_individual_data_have_no_cochrans_q():
    data = nested_data(2, districts=8, rows=4).drop(columns="vi")
    model = lsm.LocationScaleModel("yi ~ 1", {"district": "~ 1", "residual": "~ 1"}, data=data)
    found = model.fit_reml().influence(progress=False)
    table = found.to_dataframe()
    assert table["QE.del"].isna().all()
    assert "QE.del" not in found.measures
    assert np.isfinite(table["cook.d"]).all()
    assert found.leave_one_out.to_dataframe()["model"][""]["I2"].isna().all()


def test_fixed_coefficients_at_a_limit():
    """τ² of a new study, where the intercept of ln τ² runs to −∞ beside a fixed slope, is 0."""
    data = example(k=12).assign(yi=lambda d: 0.1 * d["x"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayesLsmWarning)
        fit = fit_reml(make_design(data, "~ 1", "~ x"), fixed={"x": 0.5})
        found = influence(fit, progress=False)
    assert fit.divergence is not None
    np.testing.assert_array_equal(found.own_tau2, 0.0)
    assert np.isfinite(found.rstudent).all()


def test_a_cluster_that_is_none():
    fit = schools().fit_reml()
    with pytest.raises(FitError, match="there is no scale term 'town'"):
        influence(fit, cluster="town")
