"""Fits of several scale terms: against that of one, a dense likelihood, and at limits."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

import bayes_lsm as lsm
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.reml import fit_reml
from bayes_lsm.specification import Specification


def simulate(seed=1, *, districts=12, schools=4, tau2=(0.3, 0.1)):
    """Two effects in each of some schools of some districts."""
    rng = np.random.default_rng(seed)
    district = np.repeat(np.arange(districts), 2 * schools)
    school = np.repeat(np.arange(districts * schools), 2)
    v = rng.uniform(0.02, 0.1, len(district))
    size = rng.normal(size=districts * schools)[school]
    y = (
        0.5
        + rng.normal(0, np.sqrt(tau2[0]), districts)[district]
        + rng.normal(0, np.sqrt(tau2[1] * np.exp(size)))[...] * 0
        + (rng.normal(size=districts * schools)[school] * np.sqrt(tau2[1] * np.exp(size)))
        + rng.normal(0, np.sqrt(v))
    )
    return pd.DataFrame({"yi": y, "vi": v, "district": district, "school": school, "size": size})


def model(data, scale, **options):
    return lsm.LocationScaleModel("yi ~ 1", scale, variance="vi", data=data, **options)


def test_one_term_of_rows_is_the_ordinary_fit():
    data = lsm.load_dataset("bangertdrowns2004")
    words = Specification("yi ~ I(ni / 100)", "vi", scale={"residual": "~ I(ni / 100)"})
    ordinary = lsm.LocationScaleModel(
        "yi ~ I(ni / 100)", scale="~ I(ni / 100)", variance="vi", data=data
    ).fit_reml()
    several = fit_reml(build_design(words, data))
    assert several.loglik == pytest.approx(ordinary.loglik, abs=1e-9)
    # Both stop where a step gains less than 1e-13 of the likelihood: √ of that in the coefficients.
    np.testing.assert_allclose(several.terms["residual"].alpha, ordinary.alpha, rtol=1e-5)
    np.testing.assert_allclose(several.beta, ordinary.beta, rtol=1e-6)
    np.testing.assert_allclose(several.terms["residual"].vcov, ordinary.vcov_scale, rtol=1e-4)


def dense(parameters, data):
    """The ML log-likelihood of the simulated model, from its full covariance matrix."""
    beta, district, level, slope = parameters
    same_district = np.equal.outer(data["district"].to_numpy(), data["district"].to_numpy())
    same_school = np.equal.outer(data["school"].to_numpy(), data["school"].to_numpy())
    school = np.exp(level + slope * data["size"].to_numpy())
    V = np.diag(data["vi"]) + np.exp(district) * same_district + school[:, None] * same_school
    return multivariate_normal.logpdf(data["yi"], np.full(len(data), beta), V)


def test_the_maximum_is_that_of_the_dense_likelihood():
    data = simulate()
    fit = model(data, {"district": "~ 1", "school": "~ size"}).fit_reml(method="ML")
    at = [fit.beta[0], *fit.terms["district"].alpha, *fit.terms["school"].alpha]
    assert dense(at, data) == pytest.approx(fit.loglik, abs=1e-8)
    found = minimize(lambda x: -dense(x, data), at, method="Nelder-Mead")
    assert -found.fun == pytest.approx(fit.loglik, abs=1e-5)


def test_the_standard_errors_are_those_of_the_curvature():
    data = simulate()
    fit = model(data, {"district": "~ 1", "school": "~ size"}).fit_reml(method="ML")
    at = np.array([fit.beta[0], *fit.terms["district"].alpha, *fit.terms["school"].alpha])
    h, steps = 1e-3, np.eye(4) * 1e-3
    hessian = np.array(
        [
            [
                (
                    dense(at + a + b, data)
                    - dense(at + a - b, data)
                    - dense(at - a + b, data)
                    + dense(at - a - b, data)
                )
                / (4 * h * h)
                for b in steps
            ]
            for a in steps
        ]
    )
    # α's covariance profiles β out: the block of the whole inverse. Differences are good to h².
    expected = np.linalg.inv(-hessian)[2:, 2:]
    np.testing.assert_allclose(fit.terms["school"].vcov, expected, rtol=1e-3)


def test_a_term_without_variance_is_reported_and_the_rest_is_the_smaller_model():
    rng = np.random.default_rng(5)
    data = simulate().assign(coin=rng.integers(0, 8, 96))
    # What is left of the districts has the same mean under every coin.
    within = data["yi"] - data.groupby("district")["yi"].transform("mean")
    for _ in range(50):
        data["yi"] -= within.groupby(data["coin"]).transform("mean")
        within = data["yi"] - data.groupby("district")["yi"].transform("mean")
    words = {"district": "~ 1", "coin": "~ 1"}
    with pytest.warns(DivergentScaleWarning, match="coin"):
        fit = model(data, words).fit_reml()
    assert fit.terms["coin"].alpha[0] == -np.inf
    assert np.isnan(fit.terms["coin"].vcov).all()
    without = model(data, {"district": "~ 1"}).fit_reml()
    assert fit.loglik == pytest.approx(without.loglik, abs=1e-9)
    np.testing.assert_allclose(fit.terms["district"].alpha, without.terms["district"].alpha, 1e-5)


def test_the_likelihood_ratio_of_nested_scale_terms():
    data = simulate()
    full = model(data, {"district": "~ 1", "school": "~ size"}).fit_reml()
    reduced = model(data, {"district": "~ 1", "school": "~ 1"}).fit_reml()
    test = lsm.likelihood_ratio_test(full, reduced)
    assert test.df == 1
    assert test.statistic == pytest.approx(2 * (full.loglik - reduced.loglik))
    with pytest.raises(FitError, match="special case"):
        lsm.likelihood_ratio_test(reduced, full)
    other = model(data, {"district": "~ 1", "residual": "~ 1"}).fit_reml()
    with pytest.raises(FitError, match="special case"):
        lsm.likelihood_ratio_test(full, other)


def test_a_multilevel_fit_is_compared_with_another():
    data = simulate()
    multilevel = model(data, {"district": "~ 1", "school": "~ size"})
    text = str(lsm.compare(multilevel.fit_reml(), multilevel.fit_reml(method="ML")))
    assert "Scale (ln τ²): district" in text
    assert "alpha2  size" in text
    assert text.startswith("Multilevel Location-Scale Model (n = 96)")


def test_a_coefficient_may_go_without_its_grouping_where_no_other_has_its_name():
    multilevel = model(simulate(), {"district": "~ 1", "school": "~ size"})
    short, whole = (multilevel.fit_reml(fixed={name: 0.2}) for name in ("size", "school: size"))
    assert short.fixed == whole.fixed == {"school: size": 0.2}
    assert short.loglik == whole.loglik
    with pytest.raises(FitError, match="several scale terms have 'intrcpt'"):
        multilevel.fit_reml(fixed={"intrcpt": 0.0})


def test_latent_effects_of_several_terms_are_refused():
    multilevel = model(simulate(), {"district": "~ 1", "school": "~ size"})
    with pytest.raises(FitError, match="several scale terms"):
        multilevel.fit_bayes(true_effects="latent")


def test_a_fixed_coefficient_is_part_of_the_variances():
    """ln τ² of a group has all coefficients, those that were given among them."""
    data = lsm.load_dataset("konstantopoulos2011").assign(late=lambda d: (d["year"] > 1990) * 1.0)
    words = {"district": "~ 1", "residual": "~ late"}
    free = lsm.LocationScaleModel("yi ~ 1", words, variance="vi", data=data).fit_reml()
    late = free.scale.loc[("residual", "late"), "estimate"]
    model = lsm.LocationScaleModel("yi ~ 1", words, variance="vi", data=data)
    held = model.fit_reml(fixed={"residual: late": late})
    # Both climbs end within 1e-6 of a standard error, which is below 1.
    np.testing.assert_allclose(held.tau2, free.tau2, rtol=1e-5)
