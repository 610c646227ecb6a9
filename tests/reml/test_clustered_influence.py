"""Deletion of clusters, residuals and robust covariances, against rma.mv and by hand."""

import numpy as np
import pytest

import bayes_lsm as lsm
from bayes_lsm import plots
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.blocks.covariance import blocks, loadings
from bayes_lsm.reml import fitted_values, hat_values, leave_one_out, weights
from bayes_lsm.reml.diagnostics import residuals, robust
from bayes_lsm.reml.prediction.group_effects import covariance_of_effects
from bayes_lsm.reml.search.maximum import estimate

from .nested import nested_data, nested_model
from .peers import PEERS, crimes, gums, schools

VERBS = PEERS["metafor_verbs"]
CASES = {
    "schools_year": (schools(year=True), "district"),
    "crimes": (crimes(), "study"),
    "gums": (gums("unstructured"), "outcome | trial"),
}
# rma.mv's variances are good to about 1e-5 of themselves (see multilevel.R), its refits too.
RTOL = 2e-4


@pytest.fixture(scope="module")
def fits():
    return {name: model.fit_reml() for name, (model, _) in CASES.items()}


@pytest.fixture(scope="module")
def deletions(fits):
    return {
        name: fits[name].influence(CASES[name][1], progress=False)
        for name in ("schools_year", "crimes")
    }


def order(found, peer):
    """metafor sorts its clusters as text or as numbers."""
    return [found.labels.index(str(name)) for name in peer["cluster"]]


@pytest.mark.parametrize("case", ["schools_year", "crimes"])
def test_deletion_of_clusters_as_metafor(deletions, case):
    found, peer = deletions[case], VERBS[case]
    at = order(found, peer)
    np.testing.assert_allclose(found.cook[at], peer["cook"], rtol=5e-3, atol=1e-6)
    dfbetas = np.array(peer["dfbetas"], dtype=float).reshape(len(at), -1)
    np.testing.assert_allclose(found.dfbetas_location[at], dfbetas, rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(found.chi2[at], peer["X2"], rtol=1e-3)
    np.testing.assert_allclose(found.deleted_residual, peer["resid"], rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(found.deleted_residual_se, peer["se"], rtol=1e-3)


@pytest.mark.parametrize("case", list(CASES))
def test_residuals_and_hat_values_as_metafor(fits, case):
    peer = VERBS[case]
    found = residuals(fits[case], "standardized")
    np.testing.assert_allclose(found.raw, peer["standard"]["resid"], rtol=RTOL, atol=1e-6)
    np.testing.assert_allclose(found.se, peer["standard"]["se"], rtol=RTOL)
    np.testing.assert_allclose(hat_values(fits[case]), peer["hat"], rtol=RTOL, atol=1e-7)
    assert hat_values(fits[case]).sum() == pytest.approx(len(fits[case].beta))


@pytest.mark.parametrize("kind", ["CR1", "CR2"])
@pytest.mark.parametrize("case", list(CASES))
def test_robust_as_metafor_and_clubsandwich(fits, case, kind):
    peer = VERBS[case][kind]
    found = robust(fits[case], CASES[case][1], kind=kind)
    vcov = np.reshape(np.array(peer["vcov"], dtype=float), found.vcov_location.shape)
    np.testing.assert_allclose(found.vcov_location, vcov, rtol=2e-3)
    np.testing.assert_allclose(found.df_location, np.broadcast_to(peer["df"], len(vcov)), rtol=2e-3)
    np.testing.assert_allclose(found.location["pval"], peer["pval"], rtol=1e-2, atol=1e-12)
    assert "cluster-robust" in str(found)


def test_a_cluster_of_its_own_is_the_row(fits):
    """Clusters may be anything, such as single rows whose neighbours stay behind."""
    fit = fits["schools_year"]
    rows = np.arange(len(fit.design.y))
    found = fit.influence(list(rows), progress=False)
    np.testing.assert_allclose(
        found.chi2, (found.deleted_residual / found.deleted_residual_se) ** 2, rtol=1e-9
    )


def test_scale_coefficients_are_estimated_again():
    data = nested_data(3, districts=10, slopes=(0.0, 0.8))
    fit = nested_model(data, school="~ x").fit_reml()
    found = fit.influence(progress=False)
    alone = nested_model(data[data["district"] != 4], school="~ x")
    refit = estimate(alone.design, "REML")
    np.testing.assert_allclose(found.alpha[4], refit.alpha, rtol=1e-6)
    expected = (fit.alpha - refit.alpha) / np.sqrt(np.diag(refit.vcov_scale))
    np.testing.assert_allclose(found.dfbetas_scale[4], expected, rtol=1e-6)
    assert found.loglik[4] == pytest.approx(refit.loglik)
    table = leave_one_out(fit, progress=False).table
    assert table["scale", "school: x", "estimate"].iloc[4] == pytest.approx(refit.alpha[2])
    shown = plots.influence(found)
    assert [ax.get_title(loc="left") for ax in shown][-1] == "χ² of deleted residuals"
    assert shown[0].get_xlabel().startswith("district")


def test_clusters_that_the_model_needs_are_told():
    data = nested_data(3, districts=4).assign(g=lambda d: (d["district"] == 2) * 1.0)
    fit = estimate(nested_model(data, location="yi ~ g").design, "REML")
    found = fit.influence(progress=False)
    assert list(found.unfittable) == ["2"]
    assert np.isnan(found.cook[2])
    assert np.isfinite(np.delete(found.cook, 2)).all()
    assert "without 2:" in str(found)


def test_standardised_residuals_are_those_of_the_dense_matrix(fits):
    fit = fits["crimes"]
    design = fit.design
    sigma = np.zeros((len(design.y), len(design.y)))
    for block in blocks(design, loadings(design), covariance_of_effects(fit)):
        sigma[np.ix_(block.rows, block.rows)] = block.sigma
    hat = design.X @ fit.vcov_location @ design.X.T @ np.linalg.inv(sigma)
    rest = np.eye(len(sigma)) - hat
    se = np.sqrt(np.diag(rest @ sigma @ rest.T))
    np.testing.assert_allclose(residuals(fit, "standardized").se, se, rtol=1e-9)
    np.testing.assert_allclose(residuals(fit, "pearson").se, np.sqrt(np.diag(sigma)))
    np.testing.assert_allclose(residuals(fit).values, design.y - fitted_values(fit), atol=1e-12)


@pytest.mark.parametrize("kind", ["pearson", "standardized", "studentized_deleted"])
def test_residuals_are_drawn(fits, kind):
    found = residuals(fits["schools_year"], kind)
    assert plots.funnel(found).get_ylabel() == "standard error"
    assert plots.qq(found).get_xlabel() == "normal quantile"


def test_robust_of_clusters_that_depend_on_each_other(fits):
    with pytest.raises(FitError, match="the groups of 'district' lie in several clusters"):
        robust(fits["schools_year"], "district/school")
    with pytest.raises(FitError, match="kind must be 'CR0', 'CR1' or 'CR2'"):
        robust(fits["schools_year"], kind="HC3")
    with pytest.raises(FitError, match="weights is for fits with one scale term"):
        weights(fits["schools_year"])
    few = nested_model(nested_data(1, districts=2), location="yi ~ x")
    with pytest.raises(FitError, match="2 clusters are too few for 2"):
        robust(estimate(few.design, "REML"))


def test_cr2_of_independent_rows_is_the_ordinary_one():
    """One scale term of rows, its clusters of several: the matrices are diagonal."""
    from bayes_lsm.design.design import build_design
    from bayes_lsm.specification import Specification

    data = lsm.load_dataset("bangertdrowns2004")
    words = Specification("yi ~ I(ni / 100)", "vi", scale={"residual": "~ 1"})
    clustered = estimate(build_design(words, data), "REML")
    single = lsm.LocationScaleModel("yi ~ I(ni / 100)", variance="vi", data=data).fit_reml()
    for kind in ("CR0", "CR1", "CR2"):
        ours, theirs = (robust(fit, list(data["author"]), kind=kind) for fit in (clustered, single))
        np.testing.assert_allclose(ours.vcov_location, theirs.vcov_location, rtol=1e-5)
        np.testing.assert_allclose(ours.df_location, theirs.df_location, rtol=1e-5)
