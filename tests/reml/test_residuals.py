"""Residuals, hat values and weights: metafor's numbers, dense matrices, studies without."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm import plots
from bayes_lsm.datasets import load_dataset
from bayes_lsm.errors import FitError
from bayes_lsm.reml import fit_reml
from bayes_lsm.reml.diagnostics.influence import influence
from bayes_lsm.reml.diagnostics.residuals import fitted_values, hat_values, residuals, weights

from .designs import example, make_design
from .peers import PEERS, crimes, gums, schools

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "frequentist.json").read_text(encoding="utf-8")
)
CONSTANT = REFERENCE["influence"]
LOCATION_SCALE = REFERENCE["after_location_scale"]["models"]

# metafor finds τ² by Fisher scoring, and its location-scale optimum by optimisers that stop within
# about 1e-8 of α; residuals and weights inherit that, relative to the largest. Measured 4e-9
# with one τ², and 4e-8 for location-scale models.
METAFOR = 1e-6


def near(ours, theirs):
    theirs = np.array(theirs, dtype=float)
    np.testing.assert_allclose(ours, theirs, rtol=METAFOR, atol=METAFOR * np.abs(theirs).max())


def fitted(case):
    design = make_design(load_dataset(case["dataset"]), case["location"], case.get("scale", "~ 1"))
    return fit_reml(design, method=case["method"])


@pytest.mark.parametrize("name", CONSTANT)
def test_one_tau2_as_metafor(name):
    case = CONSTANT[name]
    fit = fitted(case)
    near(fitted_values(fit), case["fitted"])
    near(hat_values(fit), case["hat"])
    near(weights(fit), case["weights_percent"])
    standard = residuals(fit, "standardized").to_dataframe()
    for column in ("resid", "se", "z"):
        near(standard[column], case["rstandard"][column])


@pytest.mark.usefixtures("solver")
@pytest.mark.parametrize("name", LOCATION_SCALE)
def test_location_scale_models_as_metafor(name):
    case = LOCATION_SCALE[name]
    fit = fitted(case)
    near(fitted_values(fit), case["fitted_location"])
    near(hat_values(fit), case["hat"])
    near(weights(fit), case["weights_percent"])
    near(residuals(fit).values, case["residuals"]["response"])
    near(residuals(fit, "pearson").values, case["residuals"]["pearson"])
    near(residuals(fit, "standardized").values, case["rstandard"]["z"])


def independent():
    return fit_reml(make_design(example(), "~ x", "~ x"))


def dense():
    """All sampling errors correlated."""
    data = example(k=12)
    sd, place = np.sqrt(data["vi"].to_numpy()), np.arange(12)
    V = np.exp(-np.abs(place[:, None] - place) / 2) * np.outer(sd, sd)
    return lsm.LocationScaleModel("yi ~ x", "~ x", variance=V, data=data).fit_reml()


@pytest.mark.parametrize(
    "ask", [independent, dense, lambda: crimes().fit_reml(), lambda: schools().fit_reml()]
)
def test_dense_matrices(ask):
    fit = ask()
    X, M = fit.design.X, fit.covariance.matrix.toarray()
    W = np.linalg.inv(M)
    H = X @ np.linalg.inv(X.T @ W @ X) @ X.T @ W
    rest = np.eye(len(X)) - H
    # Two routes to the same sums in double precision.
    np.testing.assert_allclose(hat_values(fit), np.diag(H), rtol=1e-10)
    np.testing.assert_allclose(residuals(fit).values, rest @ fit.design.y, rtol=1e-8)
    standard = rest @ fit.design.y / np.sqrt(np.diag(rest @ M @ rest.T))
    np.testing.assert_allclose(residuals(fit, "standardized").values, standard, rtol=1e-8)
    np.testing.assert_allclose(residuals(fit, "pearson").se, np.sqrt(np.diag(M)))
    np.testing.assert_allclose(weights(fit), 100 * np.diag(W) / np.trace(W), rtol=1e-9)


@pytest.mark.parametrize("name", ["schools_year", "crimes", "gums"])
def test_several_terms_as_metafor(name):
    model = {"schools_year": schools(year=True), "crimes": crimes(), "gums": gums("unstructured")}
    fit, peer = model[name].fit_reml(), PEERS["metafor_verbs"][name]
    found = residuals(fit, "standardized")
    # rma.mv's variances are good to about 1e-5 of themselves (see multilevel.R).
    several = {"rtol": 2e-4, "atol": 1e-6}
    np.testing.assert_allclose(found.raw, peer["standard"]["resid"], **several)
    np.testing.assert_allclose(found.se, peer["standard"]["se"], **several)
    np.testing.assert_allclose(hat_values(fit), peer["hat"], **several)
    assert hat_values(fit).sum() == pytest.approx(len(fit.beta))


@pytest.mark.usefixtures("solver")
def test_weights_of_rows_are_what_they_count_for_in_the_mean():
    independent = fit_reml(make_design(example()))
    np.testing.assert_allclose(weights(independent, kind="rowsum"), weights(independent))
    fit = schools().fit_reml()
    found = weights(fit, kind="rowsum")
    assert found @ fit.design.y / 100 == pytest.approx(fit.beta[0], rel=1e-9)
    assert not np.allclose(found, weights(fit), rtol=0.01)


def test_weights_that_are_of_no_coefficient():
    fit = fit_reml(make_design(example(), "~ x"))
    with pytest.raises(FitError, match="location moderators; use kind='diagonal'"):
        weights(fit, kind="rowsum")
    with pytest.raises(FitError, match="kind must be 'diagonal' or 'rowsum'"):
        weights(fit, kind="column")


def test_deleted_residuals_are_those_of_influence():
    fit = fit_reml(make_design(example(k=12), "~ x"))
    found = residuals(fit, "studentized_deleted")
    there = influence(fit, progress=False)
    np.testing.assert_array_equal(found.raw, there.deleted_residual)
    np.testing.assert_array_equal(found.values, there.rstudent)


@pytest.mark.usefixtures("solver")
def test_a_study_that_decides_its_own_fitted_value_has_no_standardized_residual():
    data = example(k=11).assign(g=["c", *"ababababab"])
    fit = fit_reml(make_design(data, "~ g"))
    assert hat_values(fit)[0] == pytest.approx(1.0, abs=1e-12)
    found = residuals(fit, "standardized")
    assert np.isnan(found.values[0])
    assert np.isfinite(found.values[1:]).all()
    assert residuals(fit).values[0] == pytest.approx(0.0, abs=1e-12)


def test_tables_have_the_studies_as_rows():
    data = example(k=8).assign(study=list("stuvwxyz"))
    fit = fit_reml(make_design(data, study="study"))
    table = residuals(fit, "pearson").to_dataframe()
    assert list(table.index) == list("stuvwxyz")
    assert list(table.columns) == ["resid", "se", "z"]
    assert list(residuals(fit).to_dataframe().columns) == ["resid"]
    pd.testing.assert_series_equal(table["z"], table["resid"] / table["se"], check_names=False)
    assert "z" in str(residuals(fit, "pearson"))
    assert "<table" in residuals(fit)._repr_html_()


def test_clusters_are_for_what_leaves_them_out():
    fit = fit_reml(make_design(example(k=12), "~ x"))
    code = np.arange(12) // 2
    found = residuals(fit, "studentized_deleted", cluster=code)
    there = influence(fit, cluster=code, progress=False)
    np.testing.assert_array_equal(found.raw, there.deleted_residual)
    with pytest.raises(FitError, match="'raw' residuals leave nothing out"):
        residuals(fit, cluster=code)


@pytest.mark.parametrize("kind", ["pearson", "standardized", "studentized_deleted"])
def test_those_of_several_terms_are_drawn(kind):
    found = residuals(schools().fit_reml(), kind)
    assert plots.funnel(found).get_ylabel() == "standard error"
    assert plots.qq(found).get_xlabel() == "normal quantile"


@pytest.mark.slow
def test_a_hundred_thousand_studies_need_no_square_array():
    """A hat matrix of theirs would need 80 GB; each of these is some passes over arrays."""
    fit = fit_reml(make_design(example(k=100_000), "~ x", "~ x"))
    residuals(fit, "standardized")
    hat_values(fit)
    weights(fit)
    fit.robust(kind="CR2")
    fit.check(starts=3)


def test_an_unknown_kind_is_refused():
    fit = fit_reml(make_design(example(k=8)))
    with pytest.raises(FitError, match=r"'raw', 'pearson', .* got 'deviance'"):
        residuals(fit, "deviance")
