"""Cluster-robust covariances of scale coefficients: numerical sandwiches, limits, simulation."""

import warnings

import numpy as np
import pytest

from bayes_lsm.design.clusters import read_clusters
from bayes_lsm.design.design import Design
from bayes_lsm.errors import BayesLsmWarning
from bayes_lsm.reml import fit_reml, robust
from bayes_lsm.reml.search.estimate import estimate

from .designs import example, homogeneous_group, make_design
from .nested import nested_data, nested_model
from .peers import gums

METHODS = pytest.mark.parametrize("method", ["REML", "ML"])
CLUSTERS = np.repeat(np.arange(8), 3)


def quietly(design, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayesLsmWarning)
        return fit_reml(design, **options)


@METHODS
@pytest.mark.parametrize("model", ["rows", "nested", "correlated"])
def test_it_is_the_sandwich_of_the_scores(model, method):
    """What the scores are is in tests/likelihood/test_scores.py."""
    design = {
        "rows": lambda: make_design(example(k=24, seed=5), "~ x", "~ x"),
        "nested": lambda: (
            nested_model(
                nested_data(3, districts=8, slopes=(0.0, 0.8), effect=0.3),
                location="yi ~ z",
                school="~ x",
            ).design
        ),
        "correlated": lambda: gums("unstructured").design,
    }[model]()
    fit = fit_reml(design, method=method)
    code = read_clusters(design, None).code
    scores = fit.likelihood.scores(fit.summit, method, code)
    np.testing.assert_allclose(scores.sum(axis=0), 0.0, atol=1e-5)
    bread = np.linalg.inv(-fit.likelihood.evaluate(fit.summit, method).hessian)
    q = len(fit.alpha)
    expected = (bread @ scores.T @ scores @ bread)[:q, :q]
    found = robust(fit, kind="CR0").vcov_scale
    # The covariance of a fit is the same inverse, in other coordinates.
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.usefixtures("solver")
def test_under_ml_it_is_the_joint_sandwich_of_both_parts():
    fit = fit_reml(make_design(example(k=24, seed=5), "~ x", "~ x"), method="ML")
    y, v, X, Z = fit.design.y, fit.design.v, fit.design.X, fit.design.terms[0].Z[:, 0]

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
    # The numerical Hessian has about 1e-9, and blocks are climbed to about 1e-7 of α.
    np.testing.assert_allclose(found.vcov_scale, joint[2:, 2:], rtol=3e-6)
    np.testing.assert_allclose(
        robust(fit, CLUSTERS, kind="CR1").vcov_scale, joint[2:, 2:] * 8 / 7, rtol=3e-6
    )


@METHODS
def test_solver_says_the_same(method, monkeypatch):
    data = example(k=24, seed=5)

    def ask():
        fit = fit_reml(make_design(data, "~ x", "~ x"), method=method)
        return {kind: robust(fit, CLUSTERS, kind=kind) for kind in ("CR0", "CR1", "CR2")}

    rows = ask()
    monkeypatch.setattr(Design, "is_independent", False)
    blocks = ask()
    for kind, ours in rows.items():
        theirs = blocks[kind]
        # Both stop within 1e-13 of the likelihood: √ of that in the coefficients.
        np.testing.assert_allclose(theirs.vcov_scale, ours.vcov_scale, rtol=1e-4)
        np.testing.assert_allclose(theirs.vcov_location, ours.vcov_location, rtol=1e-4)
        np.testing.assert_allclose(theirs.df_location, ours.df_location, rtol=1e-4)
        np.testing.assert_allclose(theirs.scale["pval"], ours.scale["pval"], rtol=1e-4)


@METHODS
@pytest.mark.usefixtures("solver")
def test_at_a_limit(method):
    data = homogeneous_group("b")
    clusters = np.repeat(np.arange(20), 2)
    found = robust(quietly(make_design(data, "~ g", "~ g"), method=method), clusters)
    assert np.isnan(found.vcov_scale[1]).all()
    assert np.isnan(found.scale.loc["gb", ["se", "pval", "ci_lb", "ci_ub"]].to_numpy(float)).all()
    # Group a alone has the same α, scores and Hessian; b's τ² is 0 and its mean its own.
    alone = data[data["g"] == "a"]
    same = robust(fit_reml(make_design(alone), method=method), clusters[::2])
    assert same.n_clusters == found.n_clusters
    assert found.vcov_scale[0, 0] == pytest.approx(same.vcov_scale[0, 0], rel=1e-5)
    assert "no finite maximum" in str(found)


@pytest.mark.usefixtures("solver")
def test_a_limit_that_takes_a_moderator_with_it():
    """ln τ² = α + x γ has a value in two studies alone: a saturated limit, of which γ is a part."""
    data = homogeneous_group("b")
    fit = quietly(make_design(data, "~ g", "~ 0 + g:x + g"))
    assert fit.divergence is not None
    found, finite = robust(fit, np.arange(40) // 2), np.isfinite(fit.scale["se"])
    assert finite.sum() == 2
    np.testing.assert_array_equal(np.isfinite(found.scale["se"]), finite)
    alone = data[data["g"] == "a"]
    same = robust(fit_reml(make_design(alone, "~ 1", "~ x")), np.arange(20))
    np.testing.assert_allclose(
        np.sort(found.scale["se"].dropna()), np.sort(same.scale["se"]), rtol=1e-4
    )


@pytest.mark.usefixtures("solver")
def test_no_heterogeneity_at_all():
    data = example(k=12)
    fit = quietly(make_design(data.assign(yi=0.1 * data["x"]), "~ 1", "~ x"))
    found = robust(fit, np.arange(12))
    assert np.isnan(found.vcov_scale).all()
    assert np.isfinite(found.location).all(axis=None)
    assert str(found)


@pytest.mark.usefixtures("solver")
def test_a_fixed_coefficient_has_no_variance():
    data = example(k=24, seed=5)
    fit = fit_reml(make_design(data, "~ x", "~ x"), fixed={"x": 0.6})
    found = robust(fit, CLUSTERS, kind="CR0")
    assert np.isnan(found.vcov_scale[1]).all()
    s = fit.likelihood.scores(fit.summit, "REML", CLUSTERS)[:, 0]
    assert found.vcov_scale[0, 0] == pytest.approx(
        np.sum(s**2) * fit.vcov_scale[0, 0] ** 2, rel=1e-6
    )


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
        if fit.divergence is not None:
            continue
        estimates.append(fit.alpha[0])
        sandwich.append(robust(fit, kind="CR1").vcov_scale[0, 0])
        curvature.append(fit.vcov_terms[0, 0])
    true = np.var(estimates, ddof=1)
    # The variance of 300 estimates is known to about 10%; the sandwich has a bias of about 1/G.
    assert np.mean(sandwich) == pytest.approx(true, rel=0.25)
    assert np.mean(curvature) < 0.75 * true
