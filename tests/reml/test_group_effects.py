"""True effects of rows and groups, by one matrix of all rows and effects."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

import bayes_lsm as lsm
from bayes_lsm.likelihood.blocks.covariance import loadings, stack_covariances
from bayes_lsm.reml.resampling import simulate

from .designs import example
from .nested import nested_data, nested_model
from .peers import gums


def outcomes():
    """Correlated effects, independent sampling errors: the effects alone tie the rows together."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"trial": np.repeat(np.arange(12), 2), "outcome": list("ab") * 12})
    shared = np.repeat(rng.normal(0, 0.8, 12), 2)
    data["yi"] = shared + rng.normal(0, 0.4, 24)
    data["vi"] = rng.uniform(0.02, 0.1, 24)
    scale = {"outcome | trial": "~ 0 + outcome"}
    return lsm.LocationScaleModel("yi ~ 0 + outcome", scale, variance="vi", data=data)


def individuals():
    """A slope that is 0 for half of the rows of each study."""
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"study": np.repeat(np.arange(10), 8), "arm": [0.0, 1.0] * 40})
    slope = np.repeat(rng.normal(3, 2, 10), 8)
    data["y"] = data["arm"] * slope + rng.normal(size=80)
    scale = {"0 + arm | study": "~ 1", "residual": "~ 1"}
    return lsm.LocationScaleModel("y ~ 0 + C(study) + arm", scale, data=data)


def dense(fit):
    """A, D, V and P of a fit, all rows and effects in one matrix."""
    design, terms = fit.design, fit.terms.values()
    A = loadings(design).toarray()
    D = stack_covariances([each.tau2 for each in terms], [each.correlation for each in terms])
    V = np.diag(design.v)
    for block in design.blocks:
        V[np.ix_(block.rows, block.rows)] = block.covariance
    W, X = np.linalg.inv(A @ D @ A.T + V), design.X
    return A, D.toarray(), V, W - W @ X @ np.linalg.solve(X.T @ W @ X, X.T @ W)


def one_term(**options):
    return lsm.LocationScaleModel(
        "yi ~ x", "~ x", variance="vi", study="name", data=example(name=range(30)), **options
    )


MODELS = {
    "outcomes": outcomes,
    "individuals": individuals,
    "correlated errors": lambda: gums("unstructured"),
    "levels": lambda: nested_model(nested_data(3, districts=8), district="~ z"),
    "independent": one_term,
}


@pytest.mark.parametrize("name", MODELS)
def test_effects_are_those_of_one_large_matrix(name):
    fit = MODELS[name]().fit_reml()
    A, D, V, P = dense(fit)
    found, y = fit.group_effects().table, fit.design.y
    assert found["estimate"].abs().max() > 0.2
    # Rounding grows with the condition of Σ, some 1e4 here.
    np.testing.assert_allclose(found["estimate"], D @ A.T @ P @ y, atol=1e-9)
    np.testing.assert_allclose(found["se"] ** 2, np.diag(D - D @ A.T @ P @ A @ D), atol=1e-9)
    # θ = y less the sampling error, and its deviation from the mean.
    rows, T = fit.blup().table, A @ D @ A.T
    np.testing.assert_allclose(rows["estimate"], y - V @ P @ y, atol=1e-9)
    np.testing.assert_allclose(rows["se"] ** 2, np.diag(V - V @ P @ V), atol=1e-9)
    np.testing.assert_allclose(rows["u"], T @ P @ y, atol=1e-9)
    np.testing.assert_allclose(rows["u_se"] ** 2, np.diag(T - T @ P @ T), atol=1e-9)
    np.testing.assert_allclose(rows["weight"], np.diag(T) / np.diag(T + V))
    # A row's deviation is the sum of its effects'.
    np.testing.assert_allclose(rows["u"], A @ found["estimate"], atol=1e-9)


def test_data_that_are_drawn_have_the_covariances_of_the_model():
    fit = outcomes().fit_reml()
    A, D, V, _ = dense(fit)
    sigma = A @ D @ A.T + V
    drawn = simulate(fit, 20_000, np.random.default_rng(3))
    sd = np.sqrt(np.diag(sigma))
    # Five standard errors of some hundred numbers.
    error = np.abs(np.cov(drawn.T) - sigma)
    assert (error < 5.5 * np.sqrt(2 / 20_000) * np.outer(sd, sd)).all()


def test_of_independent_effects_they_are_the_studies_deviations(solver):
    fit = one_term().fit_reml()
    assert fit.design.is_independent == (solver == "rows")
    found, rows = fit.group_effects().table, fit.blup().table
    for ours, theirs in zip(found, ["u", "u_se", "u_pi_lb", "u_pi_ub"], strict=True):
        np.testing.assert_allclose(found[ours], rows[theirs], rtol=1e-9, atol=1e-12)
    assert found.index.equals(rows.index)
    assert found.index.name == rows.index.name == "study"


def test_where_there_is_one_term_the_index_is_short():
    names = {
        "outcomes": ["group", "effect"],
        "levels": ["grouping", "group", "effect"],
        "independent": ["study"],
    }
    for name, expected in names.items():
        assert MODELS[name]().fit_reml().group_effects().table.index.names == expected
    alone = lsm.LocationScaleModel(
        "yi ~ 1", {"district": "~ 1"}, variance="vi", data=nested_data(3, districts=8)
    )
    table = alone.fit_reml().group_effects().table
    assert table.index.names == ["group"]
    assert len(table) == 8


def test_what_tests_by_t_has_intervals_by_t():
    """As metafor's blup() has, whatever the scale terms."""
    for name in ("independent", "levels"):
        fit = MODELS[name]().fit_reml(test="t")
        quantile = t(len(fit.design.y) - len(fit.beta)).ppf(0.975)
        for table in (fit.blup().table, fit.group_effects().table):
            half = (table["pi_ub"] - table["pi_lb"]) / 2
            np.testing.assert_allclose(half, quantile * table["se"], rtol=1e-9)


def test_of_individual_data_what_was_observed_is_true():
    fit = individuals().fit_reml()
    found = fit.blup()
    assert (found.table["se"] == 0).all()
    np.testing.assert_allclose(found.table["estimate"], fit.design.y, rtol=1e-12)
    assert "individual data have no sampling errors" in str(found)
