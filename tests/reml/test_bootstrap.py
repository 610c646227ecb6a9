"""Parametric bootstrap: its refits are global maxima, its test is calibrated."""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, kstest

import bayes_lsm as lsm
from bayes_lsm.datasets import load_dataset
from bayes_lsm.design.design import Design
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.reml import bootstrap_test, fit_reml, likelihood_ratio_test
from bayes_lsm.reml.resampling import log_tau2_of, simulate
from bayes_lsm.reml.search.refitter import refitter_of
from bayes_lsm.reml.search.rows_surface import RowsSurface
from bayes_lsm.reml.search.search import Search

from .designs import example, homogeneous_group, make_design
from .nested import nested_data, nested_model

METHODS = pytest.mark.parametrize("method", ["REML", "ML"])


def quiet(design, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        return fit_reml(design, **settings)


@METHODS
@pytest.mark.parametrize("scale", ["~ 1", "~ x", "~ g"])
def test_refits_are_the_highest_points(method, scale):
    data = example(k=24, g=np.tile(["a", "b"], 12))
    design = make_design(data, "~ x", scale)
    fit = quiet(design, method=method)
    Y = simulate(fit, 60, np.random.default_rng(2))
    refits = refitter_of(fit).effects(Y, [log_tau2_of(fit)])
    below = []
    for y, value in zip(Y, refits.value, strict=True):
        search = Search(RowsSurface(y, design.v, design.X, design.Z, method))
        best = max(search.best.value, search.rival.value if search.rival else -np.inf)
        below.append(best - value)
    below = np.array(below)
    # Never above the supremum, but for rounding of a limit; and short of it by less than matters
    # to a p-value in nearly all sets.
    assert below.min() > -1e-7
    assert np.mean(below > 1e-3) <= 0.05
    assert refits.converged.all()


def test_simulated_effects_have_the_moments_of_the_fit(solver):
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    Y = simulate(fit, 20_000, np.random.default_rng(1))
    variance = fit.design.v + fit.tau2
    # 4.5 standard errors, over 30 studies.
    assert (np.abs(Y.mean(axis=0) - fit.design.X @ fit.beta) < 4.5 * np.sqrt(variance / 2e4)).all()
    np.testing.assert_allclose(Y.var(axis=0), variance, rtol=4.5 * np.sqrt(2 / 2e4))


def test_at_many_studies_it_is_chi2():
    rng = np.random.default_rng(3)
    k = 300
    v = rng.uniform(0.05, 0.2, size=k)
    x = rng.normal(size=k)
    data = pd.DataFrame({"yi": rng.normal(size=k) * np.sqrt(v + 0.5), "vi": v, "x": x})
    full, reduced = fit_reml(make_design(data, scale="~ x")), fit_reml(make_design(data))
    found = bootstrap_test(full, reduced, seed=1, progress=False)
    assert found.failed == 0
    # Kolmogorov: a true null is rejected once in a thousand seeds.
    assert kstest(found.null, chi2(1).cdf).pvalue > 1e-3
    assert abs(found.pval - found.pval_chi2) < 4 * found.mc_se + 0.01


def test_both_solvers_give_the_same_statistics(monkeypatch):
    """Of the same effects: their searches find the same maxima."""
    reduced = fit_reml(make_design(example(), "~ x"))
    Y = simulate(reduced, 12, np.random.default_rng(5))
    monkeypatch.setattr("bayes_lsm.reml.tests.bootstrap_test.simulate", lambda *_: Y)

    def null():
        full, reduced = (fit_reml(make_design(example(), "~ x", scale)) for scale in ("~ x", "~ 1"))
        return bootstrap_test(full, reduced, iterations=12, seed=5, progress=False).null

    rows = null()
    monkeypatch.setattr(Design, "is_independent", False)
    np.testing.assert_allclose(null(), rows, atol=1e-6)


def test_pval_counts_the_data_and_ties():
    full = fit_reml(make_design(example(), "~ x", "~ x"))
    reduced = fit_reml(make_design(example(), "~ x"))
    found = bootstrap_test(full, reduced, iterations=200, seed=1)
    assert found.statistic == likelihood_ratio_test(full, reduced).statistic
    assert found.pval == (1 + np.sum(found.null >= found.statistic)) / 201
    assert (found.null >= 0).all()
    same = bootstrap_test(full, reduced, iterations=200, seed=1)
    np.testing.assert_array_equal(found.null, same.null)
    assert "200 sets of effects from the reduced model (seed 1)" in str(found)
    assert "LRT" in found._repr_html_()
    assert bootstrap_test(full, reduced, iterations=5).seed is not None


def test_fits_on_the_border_have_a_test():
    data = homogeneous_group("b")
    full = quiet(make_design(data, "~ g", "~ g"))
    assert full.divergence is not None
    found = bootstrap_test(full, fit_reml(make_design(data, "~ g")), iterations=300, seed=1)
    assert found.pval <= 2 / 301
    flat = data.assign(yi=0.01 * data["yi"])
    full, reduced = quiet(make_design(flat, scale="~ g")), quiet(make_design(flat))
    assert (reduced.tau2 == 0).all()
    nothing = bootstrap_test(full, reduced, iterations=300, seed=1)
    assert nothing.statistic == pytest.approx(0, abs=1e-8)
    assert nothing.pval == 1


@pytest.mark.parametrize("size", [0.1, 0.5])
def test_a_fixed_value_is_a_null_hypothesis(size, solver):
    full = fit_reml(make_design(example(), "~ x", "~ x"))
    reduced = fit_reml(full.design, fixed={"x": size})
    found = bootstrap_test(full, reduced, iterations=8, seed=1, progress=False)
    Y = simulate(reduced, 8, np.random.default_rng(1))
    expected = []
    for y in Y:
        design = dataclasses.replace(full.design, y=y)
        fits = quiet(design), quiet(design, fixed={"x": size})
        expected.append(2 * (fits[0].highest - fits[1].highest))
    # Both search the highest point; an ascent ends within 1e-7 of it.
    np.testing.assert_allclose(found.null, expected, atol=1e-5)


def test_other_coding_of_the_location():
    data = example().assign(z=lambda d: 3 - 2 * d["x"])
    full = fit_reml(make_design(data, "~ x", "~ x"))
    one = bootstrap_test(full, fit_reml(make_design(data, "~ x")), iterations=50, seed=1)
    other = bootstrap_test(full, fit_reml(make_design(data, "~ z")), iterations=50, seed=1)
    np.testing.assert_allclose(one.null, other.null, atol=1e-6)


def test_locations_by_ml():
    data = example()
    fits = [fit_reml(make_design(data, x, "~ x"), method="ML") for x in ("~ x", "~ 1")]
    assert 0 < bootstrap_test(*fits, iterations=200, seed=1).pval < 0.5


@pytest.mark.slow
def test_size_with_few_studies():
    rng = np.random.default_rng(5)
    bcg = load_dataset("bcg")
    pvals = []
    for _ in range(300):
        data = bcg.assign(yi=rng.normal(size=13) * np.sqrt(bcg["vi"] + 0.1))
        full, reduced = (quiet(make_design(data, scale=scale)) for scale in ("~ ablat", "~ 1"))
        pvals.append(bootstrap_test(full, reduced, iterations=99, seed=1, progress=False).pval)
    # Monte Carlo standard error 1.7%; the null is not quite pivotal.
    assert abs(np.mean(np.array(pvals) <= 0.1) - 0.1) < 0.06


def test_bad_input():
    full = fit_reml(make_design(example(), "~ x", "~ x"))
    reduced = fit_reml(make_design(example(), "~ x"))
    with pytest.raises(FitError, match=r"order \(full, reduced\)"):
        bootstrap_test(reduced, full)
    with pytest.raises(FitError, match="at least 2, got 0"):
        bootstrap_test(full, reduced, iterations=0)
    identity = fit_reml(make_design(example(), "~ x", "~ x", link="identity"))
    with pytest.raises(FitError, match="link='log'"):
        bootstrap_test(identity, reduced)
    bounded = fit_reml(full.design, bounds={"x": (-0.1, 0.1)})
    with pytest.raises(FitError, match="got x at a bound"):
        bootstrap_test(bounded, reduced)


@pytest.mark.slow
def test_of_several_terms_it_is_seeded_and_near_chi2_away_from_the_border():
    data = nested_data(7, districts=30)
    full, reduced = nested_model(data, school="~ x").fit_reml(), nested_model(data).fit_reml()
    test = bootstrap_test(full, reduced, iterations=40, seed=1, progress=False)
    again = bootstrap_test(full, reduced, iterations=40, seed=1, progress=False)
    np.testing.assert_array_equal(test.null, again.null)
    assert test.failed == 0
    # 40 draws of χ²(1): their mean is 1 with a standard error of 0.22.
    assert test.null.mean() == pytest.approx(1.0, abs=0.75)
    assert test.pval_chi2 == pytest.approx(chi2.sf(test.statistic, 1))


def test_that_of_a_variance_knows_its_border():
    """Without districts half of the statistics are 0; the reduced model is one of a single term."""
    data = nested_data(8, districts=15, rows=1, tau2=(0.05, 0.1))
    words = {"district": "~ 1", "residual": "~ 1"}
    full = lsm.LocationScaleModel("yi ~ 1", words, variance="vi", data=data).fit_reml()
    reduced = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data).fit_reml()
    test = bootstrap_test(full, reduced, iterations=100, seed=2, progress=False)
    assert 0.3 < np.mean(test.null < 1e-6) < 0.75
    assert test.pval < test.pval_chi2
