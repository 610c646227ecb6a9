"""Leaving clusters out: against dense matrices, a grid, refits one by one, and one term's own."""

import math
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

import bayes_lsm as lsm
from bayes_lsm.bayes import fit_bayes
from bayes_lsm.bayes.cross_validation.loo import densities
from bayes_lsm.bayes.cross_validation.units import read_units
from bayes_lsm.bayes.engines.direct import sample_directly
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.term_draws import flat_coefficients
from bayes_lsm.design.design import build_design
from bayes_lsm.priors import Normal, Priors
from bayes_lsm.specification import Specification

from .levels import as_dependent, with_draws

# The variances are all but known: given them, everything is normal and in closed form.
PINNED = Priors(
    location={"*": Normal(0.2, 1.5)},
    scale={
        "district: intrcpt": Normal(math.log(0.06), 1e-3),
        "district/school: intrcpt": Normal(math.log(0.03), 1e-3),
    },
)


def schools(data=None, **options):
    data = lsm.load_dataset("konstantopoulos2011") if data is None else data
    scale = {"district": "~ 1", "district/school": "~ 1"}
    return lsm.LocationScaleModel("yi ~ 1", scale, variance="vi", data=data, **options)


def berkey(**options):
    return lsm.LocationScaleModel(
        "yi ~ 0 + outcome",
        {"outcome | trial": "~ 0 + outcome"},
        variance="vi",
        sampling_covariance=lsm.SamplingCovariance("trial", columns=["v1i", "v2i"]),
        data=lsm.load_dataset("berkey1998"),
        **options,
    )


@pytest.fixture(scope="module")
def fit():
    return schools().fit_bayes(draws=8000, seed=1)


@pytest.fixture(scope="module")
def pinned():
    return schools(priors=PINNED).fit_bayes(seed=1)


def dense(design, tau2, prior_sd=1.5):
    """The covariance of all rows, β integrated out, with these variances of the two levels."""
    covariance = np.diag(design.v) + prior_sd**2
    for term, value in zip(design.terms, tau2, strict=True):
        covariance += value * np.equal.outer(term.index, term.index)
    return covariance


def conditional(mean, covariance, y, out, left=None):
    left = np.setdiff1d(np.arange(len(y)), out) if left is None else left
    gain = np.linalg.solve(covariance[np.ix_(left, left)], covariance[np.ix_(left, out)]).T
    centre = mean + gain @ (y[left] - mean)
    return centre, covariance[np.ix_(out, out)] - gain @ covariance[np.ix_(left, out)]


@pytest.mark.parametrize(
    "cluster",
    [None, *(pytest.param(each, marks=pytest.mark.slow) for each in ("district/school", "pairs"))],
)
def test_pinned_loo_is_in_closed_form(pinned, cluster):
    """Of districts, which are independent, of schools, which are not, and of schools in pairs."""
    y = pinned.design.y
    given = np.arange(len(y)) // 2 if cluster == "pairs" else cluster
    found = pinned.loo(cluster=given)
    covariance = dense(pinned.design, (0.06, 0.03))
    for value, rows in zip(found.pointwise, found.studies.rows, strict=True):
        centre, spread = conditional(0.2, covariance, y, rows)
        # ln τ² are spread by 1e-3, which moves a log density by as much times its slope, about 1.
        exact = multivariate_normal(centre, spread).logpdf(y[rows])
        assert value == pytest.approx(exact, abs=3e-4)
        cdf = norm.cdf(y[rows], centre, np.sqrt(np.diag(spread)))
        np.testing.assert_allclose(found.pit[rows], cdf, atol=1e-4)
    assert found.elpd == pytest.approx(found.pointwise.sum())


def test_pinned_kfold_is_in_closed_form(pinned):
    found, y = pinned.kfold(4, seed=5), pinned.design.y
    covariance = dense(pinned.design, (0.06, 0.03))
    for fold in np.array_split(np.random.default_rng(5).permutation(11), 4):
        out = np.concatenate([found.studies.rows[u] for u in fold])
        left = np.setdiff1d(np.arange(len(y)), out)
        for u in fold:
            rows = found.studies.rows[u]
            centre, spread = conditional(0.2, covariance, y, rows, left)
            exact = multivariate_normal(centre, spread).logpdf(y[rows])
            assert found.pointwise[u] == pytest.approx(exact, abs=3e-4)


@pytest.mark.slow
def test_a_tiny_model_is_that_of_a_grid():
    """Four districts of the data, priors as they are: every density by quadrature."""
    data = lsm.load_dataset("konstantopoulos2011").query("district in [11, 12, 18, 71]")
    priors = Priors(location={"*": Normal(0, 1)}, scale={"*": Normal(-2, 1)})
    model = schools(data.reset_index(drop=True), priors=priors)
    found, design = model.fit_bayes(seed=3).loo(), model.design
    grid = np.linspace(-8, 4, 70)
    prior = norm.logpdf(grid, -2, 1)
    every = np.arange(len(design.y))

    def evidence(rows):
        part = np.ix_(rows, rows)
        values = [
            multivariate_normal.logpdf(design.y[rows], cov=dense(design, np.exp([a, b]), 1.0)[part])
            + prior[i]
            + prior[j]
            for i, a in enumerate(grid)
            for j, b in enumerate(grid)
        ]
        return logsumexp(values)  # of an even grid; its step cancels

    whole = evidence(every)
    for value, mcse, rows in zip(
        found.pointwise, found.columns["mcse"], found.studies.rows, strict=True
    ):
        exact = whole - evidence(np.setdiff1d(every, rows))
        assert value == pytest.approx(exact, abs=4 * mcse)
        assert mcse < 0.02


@pytest.mark.parametrize("make", [pytest.param(schools, marks=pytest.mark.slow), berkey])
def test_loo_is_that_of_refits_one_by_one(make):
    fit = make().fit_bayes(seed=1)
    found, design = fit.loo(), fit.design
    priors = resolve_priors(design, fit.priors)
    full = sample_directly(design, priors, draws=20_000, seed=8).importance
    for u in (0, 3, 4):
        kept = np.ones(len(design.y), dtype=bool)
        kept[found.studies.rows[u]] = False
        left = sample_directly(design.keep(kept), priors, draws=20_000, seed=9).importance
        exact = full.log_evidence - left.log_evidence
        error = [found.columns["mcse"][u], full.log_evidence_se, left.log_evidence_se]
        assert found.pointwise[u] == pytest.approx(exact, abs=4 * np.linalg.norm(error))


@pytest.mark.slow
def test_folds_of_one_cluster_are_loo(fit):
    one, other = fit.loo(seed=2), fit.kfold(11, seed=3)
    error = np.hypot(one.columns["mcse"], other.columns["mcse"])
    assert (np.abs(one.pointwise - other.pointwise) < 4 * error).all()
    assert one.elpd == pytest.approx(other.elpd, abs=4 * math.hypot(one.mcse, other.mcse))
    np.testing.assert_array_equal(one.pointwise, fit.loo(seed=2).pointwise)
    assert one.problems == ()


@pytest.mark.slow
def test_uneven_folds_are_refitted(fit, monkeypatch):
    plain = fit.loo()
    monkeypatch.setattr(
        "bayes_lsm.bayes.cross_validation.refits._LEAST_EFFICIENCY", 2.0
    )  # none is even enough
    refitted = fit.loo()
    error = np.hypot(plain.columns["mcse"], refitted.columns["mcse"])
    assert (np.abs(plain.pointwise - refitted.pointwise) < 4 * error).all()
    assert not np.array_equal(plain.pointwise, refitted.pointwise)
    np.testing.assert_allclose(plain.pit, refitted.pit, atol=0.02)


@pytest.mark.parametrize("scale", ["~ 1", "~ ablat"])
def test_one_term_written_with_its_rows_is_the_ordinary_model(scale):
    data = lsm.load_dataset("bcg")
    words = Specification("yi ~ ablat", "vi", scale={"residual": scale})
    clustered = fit_bayes(as_dependent(build_design(words, data)), draws=20_000, seed=1)
    ordinary = lsm.LocationScaleModel(
        "yi ~ ablat", scale=scale, variance="vi", data=data
    ).fit_bayes(draws=20_000, seed=2)
    one, other = clustered.loo(), ordinary.loo()
    error = np.hypot(one.columns["mcse"], other.columns["mcse"])
    assert (np.abs(one.pointwise - other.pointwise) < 4 * error).all()
    np.testing.assert_allclose(one.pit, other.pit, atol=0.01)
    assert one.p == pytest.approx(other.p, abs=4 * math.hypot(one.mcse, other.mcse))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lsm.ConvergenceWarning)
        # 20,000 draws of each: a log density has an SD of about 1, its variance of about 1.4.
        assert clustered.waic().elpd == pytest.approx(ordinary.waic().elpd, abs=0.1)
        one, other = clustered.psis_loo(), ordinary.psis_loo()
    good = one.columns["pareto_k"] < 0.5
    np.testing.assert_allclose(one.pointwise[good], other.pointwise[good], atol=0.03)
    assert one.studies.unit == "study"


@pytest.mark.slow
def test_psis_is_near_the_exact_loo(fit):
    exact = fit.loo()
    psis = fit.psis_loo()
    good = psis.columns["pareto_k"] < 0.5
    assert good.sum() > 5
    # With k below ½ the errors are those of importance sampling.
    np.testing.assert_allclose(psis.pointwise[good], exact.pointwise[good], atol=0.05)
    np.testing.assert_array_equal(psis.pointwise, exact.columns["psis"])
    few = lsm.load_dataset("konstantopoulos2011").query("district < 28").reset_index(drop=True)
    fit = schools(few).fit_bayes(seed=1)
    exact, psis = (way(cluster="district/school") for way in (fit.loo, fit.psis_loo))
    np.testing.assert_allclose(psis.pit, exact.pit, atol=0.02)
    np.testing.assert_allclose(psis.pointwise, exact.pointwise, atol=0.05)


@pytest.mark.parametrize("cluster", ["district", "district/school"])
def test_densities_are_those_of_dense_matrices(fit, cluster):
    design = fit.design
    studies = read_units(design, cluster)
    few = replace(fit, draws=fit.draws.take(np.arange(5)))
    alphas = flat_coefficients(few.terms)
    for u, density, _, below in densities(few, studies):
        rows = studies.rows[u]
        for k in range(5):
            covariance = dense(design, np.exp(alphas[k]), 0.0)
            centre, spread = conditional(few.draws.flat_location[k, 0], covariance, design.y, rows)
            exact = multivariate_normal(centre, spread).logpdf(design.y[rows])
            assert density[k] == pytest.approx(exact, abs=1e-9)
            cdf = norm.cdf(design.y[rows], centre, np.sqrt(np.diag(spread)))
            np.testing.assert_allclose(below[k], cdf, atol=1e-9)


def test_random_intercepts_are_conditioned_on():
    data = lsm.load_dataset("preterm_iq")
    data["country"] = np.resize(["a", "b", "c"], len(data))
    words = Specification("yi ~ 1", "vi", scale={"study": "~ weeks + (1 | country)"})
    design = build_design(words, data)
    rng = np.random.default_rng(1)
    alpha, effect = rng.normal(0, 0.02, (4, 2)), rng.normal(size=(4, 3))
    beta = rng.normal(5, 1, (4, 1))
    fit = with_draws(design, beta, [alpha], random=[(np.ones(4), effect)])
    level = pd.factorize(data["country"])[0]
    eta = alpha @ np.column_stack([np.ones(len(data)), data["weeks"]]).T + effect[:, level]
    exact = norm.logpdf(
        data["yi"], fit.draws.flat_location, np.sqrt(data["vi"].to_numpy() + np.exp(eta))
    )
    for u, _, density, _ in densities(fit, read_units(design)):
        np.testing.assert_allclose(density, exact[:, u], atol=1e-9)


def test_clusters_that_are_not_named_are_found():
    """Correlated errors across the groups: the independent sets of rows are left out."""
    data = lsm.load_dataset("berkey1998")
    model = lsm.LocationScaleModel(
        "yi ~ outcome",
        variance="vi",
        sampling_covariance=lsm.SamplingCovariance("trial", columns=["v1i", "v2i"]),
        data=data,
    )
    fit = model.fit_bayes(seed=1)
    found = fit.loo()
    assert [len(rows) for rows in found.studies.rows] == [2] * 5
    assert found.studies.names[0] == "row 0 and 1 with it"
    np.testing.assert_allclose(found.pointwise, fit.loo(cluster=data["trial"]).pointwise, atol=1e-9)
    with pytest.raises(lsm.FitError, match="WAIC is a sum over clusters that are independent"):
        fit.waic(cluster="residual")


@pytest.mark.slow
def test_rows_are_left_out_beside_whole_clusters(fit):
    """As clusters of one row each, which is what they are."""
    rows = len(fit.design.y)
    for verb in (fit.loo, fit.psis_loo, partial(fit.kfold, 5, seed=1)):
        found, other = verb(unit="row"), verb(cluster=np.arange(rows))
        np.testing.assert_array_equal(found.pointwise, other.pointwise)
        assert found.studies.unit == "row"
        assert found.studies.names == fit.design.labels
    # Given the other schools of its district a row is predicted better than without them.
    assert fit.loo(unit="row").elpd > fit.loo(cluster="district").elpd
    with pytest.raises(lsm.FitError, match="got unit='row'; leave one of them out"):
        fit.loo(unit="row", cluster="district")


def test_what_cannot_be_left_out_is_refused(fit):
    data = lsm.load_dataset("konstantopoulos2011")
    with pytest.raises(lsm.FitError, match=r"at least 3 of them, got 2 \(11, 12\)"):
        schools(data.query("district < 13").reset_index(drop=True)).fit_bayes(seed=1).loo()
    alone = lsm.LocationScaleModel(
        "yi ~ alone",
        {"district": "~ 1", "district/school": "~ 1"},
        variance="vi",
        data=data.assign(alone=(data["district"] == 71).astype(float)),
    ).fit_bayes(seed=1)
    flat = replace(alone, priors=Priors(location={"*": lsm.priors.Flat()}))
    with pytest.raises(lsm.FitError, match="without district 71 the rest cannot tell all loc"):
        flat.psis_loo()
    with pytest.raises(lsm.FitError, match="'district', 'district/school'"):
        fit.loo(cluster="town")
    with pytest.raises(lsm.FitError, match="k must be a whole number of folds from 2 to 11"):
        fit.kfold(12)
    wide = replace(fit, priors=Priors(location={"*": lsm.priors.StudentT(3, 0, 1)}))
    with pytest.raises(lsm.FitError, match="needs normal priors on all location"):
        wide.loo()


@pytest.mark.slow
def test_clusters_are_compared_and_printed(fit):
    other = schools(priors=PINNED).fit_bayes(seed=1)
    text = str(lsm.compare_elpd({"free": fit.loo(), "pinned": other.loo()}))
    assert "free" in text
    assert "Leave-one-district-out by exact refits" in str(fit.loo())
    assert "each fold of 2 or 3 clusters is predicted" in str(fit.kfold(4))
    with pytest.raises(lsm.FitError, match="predict different effects"):
        lsm.compare_elpd({"a": fit.loo(), "b": berkey().fit_bayes(seed=1).loo()})
