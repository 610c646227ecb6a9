"""Leaving studies out: against refits one by one, closed forms, and ArviZ."""

import dataclasses
import math

import arviz as az
import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

import bayes_lsm as lsm
from bayes_lsm.bayes.engines.collapsed import propose
from bayes_lsm.bayes.engines.direct import sample_directly
from bayes_lsm.bayes.pointwise_likelihood import log_likelihood
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.design.clusters import group_studies
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.blocks.block_likelihood import Blocks
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.likelihood.rows.deletion import leave_out, location_moments, row_sums
from bayes_lsm.likelihood.rows.integrated import Integrated
from bayes_lsm.priors import Normal, Priors

# τ is all but known: given it, everything is normal and in closed form.
PINNED = Priors(location={"*": Normal(0.2, 1.5)}, scale={"intrcpt": Normal(math.log(0.1), 1e-3)})


def _bcg(location="yi ~ ablat", **options):
    data = lsm.load_dataset("bcg")
    return lsm.LocationScaleModel(location, variance="vi", data=data, **options)


def _dense(design, prior_sd=1.5):
    """Mean and covariance of all effects, β and α integrated out, with τ² = 0.1."""
    X = design.X
    covariance = np.diag(design.v + 0.1) + prior_sd**2 * X @ X.T
    return X @ np.full(X.shape[1], 0.2), covariance


def _conditional(mean, covariance, y, out):
    """The normal distribution of some effects given the others."""
    left = np.setdiff1d(np.arange(len(y)), out)
    gain = np.linalg.solve(covariance[np.ix_(left, left)], covariance[np.ix_(left, out)]).T
    centre = mean[out] + gain @ (y[left] - mean[left])
    return centre, covariance[np.ix_(out, out)] - gain @ covariance[np.ix_(left, out)]


@pytest.fixture(scope="module")
def paired():
    """Two effects from each of some studies."""
    data = lsm.load_dataset("bcg")
    data["paper"] = ["a", "a", "b", "b", "c", "d", "e", "e", "e", "f", "g", "h", "i"]
    model = lsm.LocationScaleModel(
        "yi ~ ablat", variance="vi", data=data, study="paper", priors=PINNED
    )
    return model.fit_bayes(seed=1)


def test_kernels_agree_with_the_plain_likelihood(continent):
    design = continent.design
    rng = np.random.default_rng(1)
    alphas = rng.normal([0, 0, 0, -0.2], 0.3, (5, 4))
    mean, precision = np.array([5.0, 0, -1, 0]), np.diag([0.1, 0.2, 0.3, 2.0])
    arrays = (design.y, design.v, design.X, design.Z)
    sums = row_sums(alphas, *arrays, mean, precision)
    out = np.array([30, 2, 17])
    rest = np.setdiff1d(np.arange(37), out)
    log_det = -np.linalg.slogdet(precision)[1]
    part = [np.ascontiguousarray(array[out]) for array in arrays]
    # Studies {30, 2} and {17}, left out together.
    found = leave_out(
        alphas, *sums, -1.0, np.array([0, 2, 3]), np.array([0, 2]), *part, mean, log_det
    )

    def marginal(rows):
        y, v, X, Z = (np.ascontiguousarray(array[rows]) for array in arrays)
        return Integrated(y, v, X, Z, mean, precision).log_marginal(alphas)

    # The same sums in another order, about 1e2 in size.
    constant = 0.5 * len(rest) * math.log(2 * math.pi)
    np.testing.assert_allclose(found[0][:, 0] - constant, marginal(rest), atol=1e-9)
    with_two = marginal(np.r_[rest, 30, 2]) - marginal(rest)
    np.testing.assert_allclose(found[1][:, 0], with_two, atol=1e-9)
    np.testing.assert_allclose(
        found[1][:, 1], marginal(np.r_[rest, 17]) - marginal(rest), atol=1e-9
    )
    for k, alpha in enumerate(alphas):
        covariance = np.diag(design.v + np.exp(design.Z @ alpha))
        covariance += design.X @ np.linalg.solve(precision, design.X.T)
        centre, spread = _conditional(design.X @ mean, covariance, design.y, out)
        z = (design.y[out] - centre) / np.sqrt(np.diag(spread))
        np.testing.assert_allclose(found[2][k], z, atol=1e-8)
    centre, covariance = location_moments(alphas, *arrays, mean, precision)
    w = 1 / (design.v + np.exp(design.Z @ alphas[2]))
    A = design.X.T @ (design.X * w[:, None]) + precision
    np.testing.assert_allclose(covariance[2], np.linalg.inv(A), rtol=1e-8)
    b = design.X.T @ (w * design.y) + precision @ mean
    np.testing.assert_allclose(centre[2], np.linalg.solve(A, b), rtol=1e-8)


def test_pinned_loo_is_in_closed_form():
    fit = _bcg(priors=PINNED).fit_bayes(seed=1)
    found, y = fit.loo(), fit.design.y
    mean, covariance = _dense(fit.design)
    for i in range(13):
        centre, spread = _conditional(mean, covariance, y, np.array([i]))
        # ln τ² is spread by 1e-3, which moves a log density by as much times its curvature.
        exact = norm(centre[0], math.sqrt(spread[0, 0]))
        assert found.pointwise[i] == pytest.approx(exact.logpdf(y[i]), abs=1e-4)
        assert found.pit[i] == pytest.approx(exact.cdf(y[i]), abs=1e-4)
    assert found.elpd == pytest.approx(found.pointwise.sum())
    assert found.se == pytest.approx(math.sqrt(13) * found.pointwise.std(ddof=1))


def test_a_study_of_several_effects_is_left_out_as_a_whole(paired):
    found, y = paired.loo(), paired.design.y
    assert found.studies.names == tuple("abcdefghi")
    mean, covariance = _dense(paired.design)
    for name, value, rows in zip("abcdefghi", found.pointwise, found.studies.rows, strict=True):
        centre, spread = _conditional(mean, covariance, y, rows)
        exact = multivariate_normal(centre, spread).logpdf(y[rows])
        assert value == pytest.approx(exact, abs=1e-4), name
        cdf = norm.cdf(y[rows], centre, np.sqrt(np.diag(spread)))
        np.testing.assert_allclose(found.pit[rows], cdf, atol=1e-4)
    assert "pit" not in found.to_dataframe()


def test_kfold_is_in_closed_form(paired):
    found, y = paired.kfold(3, seed=5), paired.design.y
    mean, covariance = _dense(paired.design)
    folds = np.array_split(np.random.default_rng(5).permutation(9), 3)
    for fold in folds:
        out = np.concatenate([found.studies.rows[u] for u in fold])
        centre, spread = _conditional(mean, covariance, y, out)
        for u in fold:
            here = np.isin(out, found.studies.rows[u])
            inside = multivariate_normal(centre[here], spread[np.ix_(here, here)])
            assert found.pointwise[u] == pytest.approx(inside.logpdf(y[out[here]]), abs=1e-4)


@pytest.mark.parametrize("name", ["bcg", "preterm_continent"])
def test_loo_is_that_of_refits_one_by_one(name):
    model = lsm.LocationScaleModel.from_file(name)
    fit = model.fit_bayes(draws=4000, seed=1)
    found, design = fit.loo(), fit.design
    priors = resolve_priors(design, fit.priors)
    # The two that PSIS misses most (with 37 studies), and three more.
    worst = np.argsort(-np.abs(found.columns["psis"] - found.pointwise))[:2]
    full = sample_directly(design, priors, draws=20_000, seed=8).importance
    for i in {*worst, 0, 5, 11}:
        left = design.keep(np.setdiff1d(np.arange(design.n_studies), i))
        refit = sample_directly(left, priors, draws=20_000, seed=9)
        exact = full.log_evidence - refit.importance.log_evidence
        # Four Monte Carlo errors of both routes.
        error = np.sqrt(
            found.columns["mcse"][i] ** 2
            + full.log_evidence_se**2
            + refit.importance.log_evidence_se**2
        )
        assert found.pointwise[i] == pytest.approx(exact, abs=4 * error)
        variance = design.v[i] + np.exp(np.minimum(refit.flat_scale @ design.Z[i], 300))
        z = (design.y[i] - refit.flat_location @ design.X[i]) / np.sqrt(variance)
        # The refit's draws are worth at least 4000.
        assert found.pit[i] == pytest.approx(norm.cdf(z).mean(), abs=4 * norm.cdf(z).std() / 63)


def test_where_psis_fails_the_exact_loo_does_not(continent_bayes):
    with pytest.warns(lsm.ConvergenceWarning, match=r"Pareto k is above 0\.7 for .*use loo\(\)"):
        psis = continent_bayes.psis_loo()
    exact = continent_bayes.loo()
    assert not exact.problems
    assert exact.mcse < 0.1
    # The draws hardly reach where the left-out study sends α.
    bad = psis.columns["pareto_k"] > 0.7
    error = np.abs(psis.pointwise[bad] - exact.pointwise[bad])
    assert error.max() > 4 * exact.mcse
    good = psis.columns["pareto_k"] < 0.5
    # With k below ½ the errors are those of importance sampling, two hundredths.
    np.testing.assert_allclose(exact.pointwise[good], psis.pointwise[good], atol=0.03)
    np.testing.assert_allclose(exact.pit[good], psis.pit[good], atol=0.02)


def test_two_seeds_agree_within_their_errors(continent_bayes):
    first, second = continent_bayes.loo(seed=1), continent_bayes.loo(seed=2)
    error = np.hypot(first.columns["mcse"], second.columns["mcse"])
    assert (np.abs(first.pointwise - second.pointwise) < 4 * error).all()
    again = continent_bayes.loo(seed=1)
    np.testing.assert_array_equal(first.pointwise, again.pointwise)


def test_psis_agrees_with_arviz():
    fit = _bcg().fit_bayes(draws=4000, seed=3)
    ours, theirs = fit.psis_loo(), az.loo(fit.posterior, pointwise=True, reff=1.0)
    # Their smoothing cuts the tail one point elsewhere: the third digit of k.
    np.testing.assert_allclose(ours.pointwise, theirs.elpd_i, atol=1e-3)
    np.testing.assert_allclose(ours.columns["pareto_k"], theirs.pareto_k, atol=0.02)
    assert ours.se == pytest.approx(theirs.se, rel=0.06)  # they divide by n, we by n − 1
    assert ours.p == pytest.approx(theirs.p, abs=5e-3)


def test_waic_is_that_of_its_definition_and_near_loo():
    fit = _bcg().fit_bayes(draws=8000, seed=3)
    with pytest.warns(lsm.ConvergenceWarning, match=r"penalty is above 0\.4 for row 6, .*loo\(\)"):
        found = fit.waic()
    density = log_likelihood(fit.design, fit.draws.flat_location, fit.draws.flat_scale)
    lpd = logsumexp(density, axis=0) - math.log(8000)
    np.testing.assert_allclose(found.pointwise, lpd - density.var(axis=0, ddof=1), rtol=1e-10)
    # They differ in higher cumulants of the log density: some hundredths a study.
    assert found.elpd == pytest.approx(fit.loo().elpd, abs=0.3)


def test_chains_of_nuts_can_be_left_out_too():
    fit = _bcg().fit_bayes(draws=4000, seed=3)
    chains = dataclasses.replace(fit, draws=dataclasses.replace(fit.draws, importance=None))
    assert chains.loo().elpd == pytest.approx(fit.loo().elpd, abs=1e-9)


def test_an_uneven_fold_is_refitted(continent, monkeypatch):
    priors = resolve_priors(continent.design, lsm.priors.preset("weakly_informative"))
    points = propose(continent.design, priors, points=1000, seed=1)
    assert points.alphas.shape == (1000, 4)
    fit = continent.fit_bayes(draws=2000, seed=1, prior="weakly_informative")
    plain = fit.loo()
    monkeypatch.setattr(
        "bayes_lsm.bayes.cross_validation.refits._LEAST_EFFICIENCY", 2.0
    )  # none is even enough
    refitted = fit.loo()
    error = np.hypot(plain.columns["mcse"], refitted.columns["mcse"])
    assert (np.abs(plain.pointwise - refitted.pointwise) < 4 * error).all()
    assert not np.array_equal(plain.pointwise, refitted.pointwise)


def test_five_studies():
    fit = lsm.LocationScaleModel(
        "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg").head(5)
    ).fit_bayes(seed=1)
    found = fit.loo()
    assert not found.problems
    assert found.p > 0
    assert len(fit.kfold(5, seed=1).pointwise) == 5


@pytest.mark.slow
def test_many_studies_are_left_out_in_batches():
    rng = np.random.default_rng(1)
    k = 3000
    data = pd.DataFrame({"vi": rng.uniform(0.01, 0.1, k), "x": rng.normal(size=k)})
    data["yi"] = rng.normal(0.1 * data["x"], np.sqrt(data["vi"] + 0.05))
    fit = lsm.LocationScaleModel("yi ~ x", variance="vi", data=data).fit_bayes(seed=1)
    exact, psis = fit.loo(progress=False), fit.psis_loo(progress=False)
    # A single study hardly moves the posterior of 3000.
    np.testing.assert_allclose(exact.pointwise, psis.pointwise, atol=0.01)
    assert exact.p == pytest.approx(3, abs=0.5)
    assert len(str(exact).splitlines()) < 40
    assert "the 20 studies that are predicted worst are shown" in str(exact)


def test_models_are_compared_study_by_study(continent_bayes):
    one = _bcg("yi ~ 1").fit_bayes(seed=1).loo()
    two = _bcg("yi ~ ablat").fit_bayes(seed=1).loo()
    table = lsm.compare_elpd({"none": one, "latitude": two}).table.loc["Model"]
    assert list(table.index) == ["latitude", "none"]
    difference = one.pointwise - two.pointwise
    assert table.loc["none", "elpd_diff"] == pytest.approx(difference.sum())
    spread = math.sqrt(13) * difference.std(ddof=1)
    assert table.loc["none", "se_diff"] == pytest.approx(spread)
    assert table.loc["latitude", "se_diff"] == 0
    with pytest.raises(lsm.FitError, match="at least two results, got 1"):
        lsm.compare_elpd({"a": one})
    with pytest.raises(lsm.FitError, match="'a' is loo and 'b' is kfold"):
        lsm.compare_elpd({"a": one, "b": _bcg("yi ~ 1").fit_bayes(seed=1).kfold(5)})
    with pytest.raises(lsm.FitError, match="predict different effects"):
        lsm.compare_elpd({"a": one, "b": continent_bayes.loo()})


@pytest.mark.parametrize("k", [1, 14, 2.5, True])
def test_wrong_numbers_of_folds_are_refused(k):
    fit = _bcg("yi ~ 1").fit_bayes(draws=2000, seed=1)
    with pytest.raises(lsm.FitError, match="k must be a whole number of folds from 2 to 13"):
        fit.kfold(k)


def test_one_study_cannot_be_left_out():
    data = lsm.load_dataset("bcg").assign(paper="all")
    model = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data, study="paper")
    assert group_studies(model.design).names == ("all",)
    with pytest.raises(lsm.FitError, match=r"at least 2 of them, got 1 \(all\)"):
        model.fit_bayes(seed=1).loo()


def test_a_comparison_of_what_is_no_result_is_refused(paired):
    for wrong, got in (({"a": paired, "b": paired}, "BayesFit"), (paired.loo(), "Elpd")):
        with pytest.raises(lsm.FitError, match=rf"by the models' names.*got {got}"):
            lsm.compare_elpd(wrong)


def test_rows_of_one_study_are_left_out_one_by_one():
    """As studies of one row each, which they are where no names say otherwise."""
    data = lsm.load_dataset("bcg").assign(name=np.repeat([*"abcdef"], [3, 2, 2, 2, 2, 2]))
    fits = [
        lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data, **names).fit_bayes(seed=1)
        for names in ({"study": "name"}, {})
    ]
    named, plain = fits
    assert len(named.loo().pointwise) == 6
    found, other = named.loo(unit="row"), plain.loo()
    np.testing.assert_array_equal(found.pointwise, other.pointwise)
    assert (found.studies.unit, found.studies.plural) == ("row", "rows")
    np.testing.assert_array_equal(named.psis_loo(unit="row").pointwise, plain.psis_loo().pointwise)
    whole = plain.loo(cluster=data["name"])
    np.testing.assert_array_equal(named.loo().pointwise, whole.pointwise)
    with pytest.raises(lsm.FitError, match="unit must be"):
        named.waic(unit="study")
    with pytest.raises(lsm.FitError, match="got unit='row'; leave one of them out"):
        named.kfold(5, unit="row", cluster="name")


@pytest.mark.filterwarnings("ignore:Pareto k is above:bayes_lsm.ConvergenceWarning")
def test_both_solvers_leave_out_the_same(monkeypatch):
    """Row 4 is all that tells of a coefficient: without it that is the prior's."""
    data = lsm.load_dataset("bcg").assign(alone=np.arange(13) == 4)
    model = lsm.LocationScaleModel("yi ~ alone", scale="~ ablat", variance="vi", data=data)
    fit, pairs = model.fit_bayes(seed=1), np.arange(13) // 2
    verbs = (
        lambda fit: fit.loo(progress=False),
        lambda fit: fit.loo(cluster=pairs, progress=False),
        lambda fit: fit.kfold(4, seed=2, progress=False),
        lambda fit: fit.psis_loo(cluster=pairs, progress=False),
    )
    by_rows = [verb(fit) for verb in verbs]
    monkeypatch.setattr(Design, "is_independent", False)
    again = dataclasses.replace(fit, design=dataclasses.replace(fit.design))
    assert isinstance(likelihood_of(again.design), Blocks)
    for verb, found in zip(verbs, by_rows, strict=True):
        other = verb(again)
        # The same sums in another order, and so the same points and weights.
        np.testing.assert_allclose(other.pointwise, found.pointwise, rtol=1e-8)
        np.testing.assert_allclose(other.pit, found.pit, rtol=1e-8)
        assert other.studies.names == found.studies.names
