"""Cluster-robust covariance of several scale terms: its scores, one term, and simulated truth."""

import numpy as np
import pytest
from bayes_lsm.reml.diagnostics.clustered_sandwich import cluster_scores

import bayes_lsm as lsm
from bayes_lsm.design.clusters import read_clusters
from bayes_lsm.design.design import build_design
from bayes_lsm.reml import fit_reml, robust
from bayes_lsm.reml.search.maximum import estimate
from bayes_lsm.specification import Specification

from .nested import nested_data, nested_model
from .peers import gums


def nested_sigma(alpha, data):
    """Σ of schools with a slope on x in districts, written out (n, n)."""
    district, school = data["district"].to_numpy(), data["school"].to_numpy()
    within = np.exp(alpha[1] + alpha[2] * data["x"].to_numpy())
    same = np.equal.outer(school, school) * within[:, None]
    return np.diag(data["vi"]) + np.exp(alpha[0]) * np.equal.outer(district, district) + same


def gums_sigma(alpha, V, trial, outcome):
    """Σ of two correlated outcomes of each trial (n, n)."""
    tau = np.exp(0.5 * alpha[:2])[outcome]
    rho = np.where(np.equal.outer(outcome, outcome), 1.0, np.tanh(alpha[2]))
    return V + np.equal.outer(trial, trial) * rho * np.outer(tau, tau)


def scores_by_differences(sigma, at, y, X, code, method):
    """∂ℓ_c(α, β̂(α))/∂α, and for REML the cluster's part of −½ ∂ln|X'Σ⁻¹X|/∂α."""

    def parts(alpha):
        S = sigma(alpha)
        W = np.linalg.inv(S)
        beta = np.linalg.solve(X.T @ W @ X, X.T @ W @ y)
        found = []
        for c in range(code.max() + 1):
            rows = code == c
            here, e = S[np.ix_(rows, rows)], (y - X @ beta)[rows]
            inside = X[rows].T @ np.linalg.solve(here, X[rows])
            value = -0.5 * (np.linalg.slogdet(here)[1] + e @ np.linalg.solve(here, e))
            found.append((value, inside))
        return found

    W = np.linalg.inv(sigma(at))
    M = np.linalg.inv(X.T @ W @ X)
    h = 1e-5
    table = np.empty((code.max() + 1, len(at)))
    for j, step in enumerate(h * np.eye(len(at))):
        for c, (up, down) in enumerate(zip(parts(at + step), parts(at - step), strict=True)):
            table[c, j] = (up[0] - down[0]) / (2 * h)
            if method == "REML":
                table[c, j] -= 0.5 * np.trace(M @ (up[1] - down[1])) / (2 * h)
    return table


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_scores_of_clusters_by_differences(method):
    data = nested_data(3, districts=8, slopes=(0.0, 0.8), effect=0.3)
    fit = nested_model(data, location="yi ~ z", school="~ x").fit_reml(method=method)
    clusters = read_clusters(fit.design, None)
    found = cluster_scores(fit, clusters)
    expected = scores_by_differences(
        lambda alpha: nested_sigma(alpha, data),
        fit.alpha,
        fit.design.y,
        fit.design.X,
        clusters.code,
        method,
    )
    # A central difference errs by h² = 1e-10, and by rounding 1e-16/h of the log-likelihood.
    np.testing.assert_allclose(found, expected, atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=0), 0.0, atol=1e-5)
    bread = fit.vcov_terms
    np.testing.assert_allclose(
        robust(fit, kind="CR0").vcov_scale, bread @ expected.T @ expected @ bread, rtol=1e-5
    )


def test_scores_of_correlated_outcomes_by_differences():
    fit = gums("unstructured").fit_reml()
    design = fit.design
    V = np.diag(design.v)
    for block in design.blocks:
        V[np.ix_(block.rows, block.rows)] = block.covariance
    (term,) = design.terms
    outcome = np.argmax(term.slopes, axis=1)
    clusters = read_clusters(design, None)
    expected = scores_by_differences(
        lambda alpha: gums_sigma(alpha, V, term.index, outcome),
        fit.stop,
        design.y,
        design.X,
        clusters.code,
        "REML",
    )
    np.testing.assert_allclose(cluster_scores(fit, clusters), expected, atol=1e-7)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_rows_of_one_term_are_the_ordinary_sandwich(method):
    data = lsm.load_dataset("bangertdrowns2004")
    words = Specification("yi ~ I(ni / 100)", "vi", scale={"residual": "~ I(ni / 100)"})
    design = build_design(words, data)
    model = lsm.LocationScaleModel.from_specification(words, data)
    one = robust(fit_reml(model.design, method=method), data["author"], kind="CR1")
    several = robust(estimate(design, method), data["author"].tolist(), kind="CR1")
    # Both stop within 1e-13 of the likelihood: √ of that in the coefficients.
    np.testing.assert_allclose(several.vcov_scale, one.vcov_scale, rtol=1e-4)
    np.testing.assert_allclose(several.vcov_location, one.vcov_location, rtol=1e-4)
    np.testing.assert_allclose(several.scale["pval"], one.scale["pval"], rtol=1e-4)
    assert several.df_scale[0] == one.df_scale[0]


def test_a_robust_fit_is_printed_with_both_parts():
    fit = nested_model(nested_data(3, slopes=(0.0, 0.8)), school="~ x").fit_reml()
    found = robust(fit)
    assert "Scale (ln τ²): school" in str(found)
    assert found.scale.loc[("school", "x"), "df"] == 19
    plain = robust(fit, small_sample=False)
    assert "zval" in plain.scale
    assert (plain.scale["se"] == found.scale["se"]).all()


@pytest.mark.slow
def test_heavy_tails_widen_the_robust_standard_errors_as_they_should():
    """Effects of districts with heavy tails: the sandwich knows, the curvature does not."""
    rng = np.random.default_rng(1)
    data = nested_data(1, districts=60, schools=2, rows=1)
    district = data["district"].to_numpy()
    estimates, sandwich, curvature = [], [], []
    for _ in range(300):
        effect = rng.standard_t(6, size=60) / np.sqrt(1.5) * np.sqrt(0.5)
        school = rng.normal(size=len(data)) * np.sqrt(0.1)
        y = effect[district] + school + rng.normal(size=len(data)) * np.sqrt(data["vi"])
        fit = estimate(nested_model(data.assign(yi=y)).design, "REML", turns=0)
        if fit.divergent:
            continue
        estimates.append(fit.alpha[0])
        sandwich.append(robust(fit, kind="CR1").vcov_scale[0, 0])
        curvature.append(fit.vcov_terms[0, 0])
    true = np.var(estimates, ddof=1)
    # The variance of 300 estimates is known to about 10%; the sandwich has a bias of about 1/G.
    assert np.mean(sandwich) == pytest.approx(true, rel=0.25)
    assert np.mean(curvature) < 0.75 * true
