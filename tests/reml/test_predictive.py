"""Prediction intervals with the uncertainty of α: by simulation and by another quadrature."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t

from bayes_lsm.datasets import load_dataset
from bayes_lsm.design.design import build_design
from bayes_lsm.likelihood.rows.closed_form import estimate_location
from bayes_lsm.reml import fit_reml
from bayes_lsm.reml.prediction import predictive
from bayes_lsm.reml.prediction.prediction import predict, predict_tau
from bayes_lsm.specification import Specification

from .designs import example, make_design

MODELS = {
    "bangertdrowns": ("bangertdrowns2004", "~ I(ni / 100)", "~ I(ni / 100)"),
    "bangertdrowns_two_moderators": (
        "bangertdrowns2004",
        "~ I(ni / 100)",
        "~ I(ni / 100) + I(year - 1990)",
    ),
    "bcg": ("bcg", "~ I(ablat - 33)", "~ I(ablat - 33)"),
    "bcg_factor": ("bcg", "~ alloc + I(ablat - 33)", "~ I(ablat - 33)"),
    "bcg_alloc": ("bcg", "~ alloc", "~ alloc"),
    "preterm_weeks": ("preterm_iq", "~ I(weeks - 40)", "~ I(weeks - 40)"),
}
NEW = {
    "bangertdrowns": {"ni": [20, 100, 500]},
    "bangertdrowns_two_moderators": {"ni": [20, 100, 500], "year": [1985, 1990, 1996]},
    "bcg": {"ablat": [13, 33, 53]},
    "bcg_factor": {"alloc": ["random", "systematic", "alternate"], "ablat": [13, 33, 53]},
    "bcg_alloc": {"alloc": ["alternate", "random", "systematic"]},
    "preterm_weeks": {"weeks": [26, 30, 34]},
}


@cache
def fitted(name, test="z"):
    dataset, location, scale = MODELS[name]
    specification = Specification(location, "vi", "yi", scale)
    return fit_reml(build_design(specification, load_dataset(dataset)), test=test)


def simulated(fit, x, z, *, draws=400_000, seed=1):
    """True effects of new studies, by drawing α, then β given α, then the effect."""
    design, rng = fit.design, np.random.default_rng(seed)
    distinct = 4000
    alphas = rng.multivariate_normal(fit.alpha, fit.vcov_scale, size=distinct)
    means, variances = np.empty(distinct), np.empty(distinct)
    for i, alpha in enumerate(alphas):
        there = estimate_location(design.y, design.v + np.exp(design.Z @ alpha), design.X)
        means[i] = x @ there.beta
        variances[i] = x @ there.covariance @ x
    which = rng.integers(distinct, size=draws)
    sd = np.sqrt(variances + np.exp(alphas @ z))[which]
    return means[which] + sd * rng.normal(size=draws)


@pytest.mark.parametrize(
    ("name", "row"),
    [("bangertdrowns", 1), ("bangertdrowns", 2), ("preterm_weeks", 0), ("bcg_factor", 2)],
)
def test_propagated_interval_is_that_of_simulated_studies(name, row):
    fit = fitted(name)
    new = pd.DataFrame(NEW[name]).iloc[[row]]
    found = predict(fit, new).table.iloc[0]
    there = fit.design.for_new_data(new)
    effects = simulated(fit, there.X[0], there.Z[0])
    wide = found["pi_ub"] - found["pi_lb"]
    for end, probability in (("pi_lb", 0.025), ("pi_ub", 0.975)):
        # Measured up to 2 % of the width, where the SE of ln τ² is 2; 4000 different α alone leave
        # 1 %. With β̂ held at α̂ it would be 12 %.
        assert abs(np.quantile(effects, probability) - found[end]) < 0.03 * wide
    plug_in = predict(fit, new, scale_uncertainty="plug-in").table.iloc[0]
    assert wide > 1.02 * (plug_in["pi_ub"] - plug_in["pi_lb"])


def mass_below(fit, x, z, ends):
    """P(θ_new < end), by Gauss-Hermite and least squares at each α, slopes by differences."""
    design, V = fit.design, fit.vcov_scale
    s = np.sqrt(z @ V @ z)
    along = V @ z / s

    def located(alpha):
        return estimate_location(design.y, design.v + np.exp(design.Z @ alpha), design.X)

    steps = 1e-5 * np.eye(len(z))
    slopes = [x @ (located(fit.alpha + h).beta - located(fit.alpha - h).beta) / 2e-5 for h in steps]
    across = slopes @ (V - np.outer(along, along)) @ slopes
    distribution = norm if fit.test == "z" else t(design.n_studies - len(x))
    nodes, weights = np.polynomial.hermite_e.hermegauss(180)
    total = 0.0
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        alpha = fit.alpha + along * node
        there = located(alpha)
        covariance = there.covariance
        if fit.test == "knha":
            w = 1 / (design.v + np.exp(design.Z @ alpha))
            covariance = covariance * np.sum(w * there.residuals**2) / distribution.args[0]  # type: ignore[misc]
        sd = np.sqrt(x @ covariance @ x + across + np.exp(z @ alpha))
        total = total + weight * distribution.cdf((ends - x @ there.beta) / sd)
    return total


@pytest.mark.parametrize("test", ["z", "t", "knha"])
@pytest.mark.parametrize("name", ["bcg", "bcg_alloc", "bangertdrowns_two_moderators"])
def test_propagated_interval_holds_its_level_by_quadrature(name, test):
    fit = fitted(name, test)
    new = pd.DataFrame(NEW[name])
    there, found = fit.design.for_new_data(new), predict(fit, new, level=0.9).table
    for i in range(len(new)):
        ends = found[["pi_lb", "pi_ub"]].iloc[i].to_numpy()
        # 180 points of Gauss-Hermite are good to 1e-6 with SEs of ln τ² up to 2.5.
        below = mass_below(fit, there.X[i], there.Z[i], ends)
        np.testing.assert_allclose(below, [0.05, 0.95], atol=2e-6)


def test_propagated_interval_of_many_rows_and_of_one_are_the_same(monkeypatch):
    fit = fitted("bangertdrowns")
    new = pd.DataFrame({"ni": np.linspace(20, 400, 23)})
    found = predict(fit, new).table
    # Fewer nodes serve rows with smaller SEs; both sums are exact to rounding.
    alone = pd.concat([predict(fit, new.iloc[[i]]).table for i in range(len(new))])
    np.testing.assert_allclose(found[["pi_lb", "pi_ub"]], alone[["pi_lb", "pi_ub"]], atol=1e-8)
    monkeypatch.setattr(predictive, "_LARGEST_TABLE", 100)
    np.testing.assert_allclose(predict(fit, new).table["pi_lb"], found["pi_lb"], atol=1e-12)
    # With too much work β̂ is held; here that is seen, but with a small SE of ln τ² only just.
    monkeypatch.setattr(predictive, "_MOST_WORK", 0)
    held = predict(fit, new).table
    wide = (found["pi_ub"] - found["pi_lb"]).to_numpy()
    precise = (predict_tau(fit, new).table["se"] < 0.6).to_numpy()
    difference = np.abs(held["pi_lb"] - found["pi_lb"]).to_numpy()
    assert precise.any()
    assert difference.min() > 0
    assert (difference < 0.01 * wide)[precise].all()


def test_identity_link_by_quadrature():
    # One τ² for all, so the sum over it can be written down: τ² ~ Normal, cut off at 0.
    fit = fit_reml(make_design(example(), "~ x", link="identity"))
    assert not fit.at_bound
    design = fit.design
    found = predict(fit, level=0.9).table.iloc[0]
    ends, s = found[["pi_lb", "pi_ub"]].to_numpy(), np.sqrt(fit.vcov_scale[0, 0])
    grid = np.linspace(-8, 8, 10_001)
    below = np.zeros(2)
    for node, weight in zip(grid, norm.pdf(grid) / norm.pdf(grid).sum(), strict=True):
        tau2 = max(0.0, fit.alpha[0] + s * node)
        there = estimate_location(design.y, design.v + tau2, design.X)
        x = design.X[0]
        sd = np.sqrt(x @ there.covariance @ x + tau2)
        below += weight * norm.cdf((ends - x @ there.beta) / sd)
    # The edge at τ² = 0 costs the sum in prediction some 1e-6.
    np.testing.assert_allclose(below, [0.05, 0.95], atol=1e-5)
