"""Parametric bootstrap: its refits are global maxima, its test is calibrated."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, kstest

from bayes_lsm.datasets import load_dataset
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.reml import fit_reml, likelihood_ratio_test
from bayes_lsm.reml.search.rows_search import Search
from bayes_lsm.reml.tests.bootstrap_test import Refitter, bootstrap_test, log_tau2_of, simulate

from .designs import example, homogeneous_group, make_design

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
    refits = Refitter(design.v, design.X, design.Z, method).refit(Y, log_tau2_of(fit))
    below = []
    for y, value in zip(Y, refits.value, strict=True):
        search = Search(y, design.v, design.X, design.Z, method)
        best = max(search.best.value, search.rival.value if search.rival else -np.inf)
        below.append(best - value)
    below = np.array(below)
    # Never above the supremum, but for rounding of a limit; and short of it by less than matters
    # to a p-value in nearly all sets.
    assert below.min() > -1e-7
    assert np.mean(below > 1e-3) <= 0.05
    assert refits.converged.all()


def test_simulated_effects_have_the_moments_of_the_fit():
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
