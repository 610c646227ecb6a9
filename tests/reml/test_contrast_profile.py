"""Profile intervals of linear functions of α: against refits with fixed coefficients."""

from functools import cache

import numpy as np
import pytest
from bayes_lsm.reml.intervals.contrast_profile import profile_interval
from scipy.optimize import minimize_scalar
from scipy.stats import chi2

from bayes_lsm.likelihood.rows.closed_form import log_likelihood
from bayes_lsm.reml import fit_reml

from .designs import example, make_design


@cache
def grouped():
    data = example(k=60, seed=4)
    data["g"] = np.random.default_rng(4).choice(["low", "mid", "top"], size=60)
    return fit_reml(make_design(data, "~ g", "~ g + x"))


def profile_by_refit(fit, term, value):
    return fit_reml(fit.design, method=fit.method, fixed={term: value}).loglik


@pytest.mark.parametrize("term", ["gmid", "gtop", "x"])
def test_profile_of_a_coefficient(term):
    fit = grouped()
    lower, upper, ratio = profile_interval(fit, (np.array(fit.design.scale.names) == term) * 1.0)
    assert lower < fit.scale.loc[term, "estimate"] < upper
    for bound in (lower, upper):
        drop = 2 * (fit.loglik - profile_by_refit(fit, term, bound))
        # The bound is found to 1e-9, the two maxima to about 1e-10.
        assert drop == pytest.approx(chi2.ppf(0.95, 1), abs=1e-6)
    assert ratio == pytest.approx(2 * (fit.loglik - profile_by_refit(fit, term, 0.0)), abs=1e-7)


def test_profile_of_a_single_tau2():
    fit = fit_reml(make_design(example(), "~ x"))
    design = fit.design

    def deviance(log_tau2):
        tau2 = np.full(30, np.exp(log_tau2))
        height = log_likelihood(design.y, design.v, design.X, tau2, method="REML")
        return 2 * (fit.loglik - height)

    lower, upper, _ = profile_interval(fit, np.ones(1), level=0.9)
    for bound in (lower, upper):
        assert deviance(bound) == pytest.approx(chi2.ppf(0.9, 1), abs=1e-7)
    assert minimize_scalar(deviance, (lower, upper)).x == pytest.approx(fit.alpha[0], abs=1e-4)


def test_profile_with_a_fixed_coefficient():
    design = grouped().design
    fit = fit_reml(design, fixed={"x": 0.4})
    lower, _, _ = profile_interval(fit, np.array([1.0, 0.0, 0.0, 2.0]))
    drop = fit.loglik - fit_reml(design, fixed={"x": 0.4, "intrcpt": lower - 0.8}).loglik
    assert 2 * drop == pytest.approx(chi2.ppf(0.95, 1), abs=1e-6)
    # What is fixed alone has no uncertainty.
    assert profile_interval(fit, np.array([0, 0, 0, 2.0]))[:2] == pytest.approx((0.8, 0.8))
