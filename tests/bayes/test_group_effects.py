"""The effects of groups, and the rows' own: REML's BLUPs, and mixtures of dense posteriors."""

import numpy as np
import pytest

import bayes_lsm as lsm
from bayes_lsm.errors import FitError

from .levels import (
    MODELS,
    at_reml,
    bayes_of,
    crossed_model,
    dense_posterior,
    reml_of,
    slopes_model,
)


@pytest.mark.parametrize("name", MODELS)
def test_with_the_variances_of_reml_the_effects_are_its_blups(name):
    reml = reml_of(name)
    fit = at_reml(reml)
    for ours, theirs in (
        (fit.group_effects().table, reml.group_effects().table),
        (fit.blup().table, reml.blup().table),
    ):
        assert ours.index.equals(theirs.index)
        assert ours.index.names == theirs.index.names
        np.testing.assert_allclose(ours["estimate"], theirs["estimate"], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(ours["sd"], theirs["se"], rtol=1e-9)


@pytest.mark.parametrize("model", [slopes_model, crossed_model])
def test_other_models_with_the_variances_of_reml(model):
    reml = model().fit_reml()
    assert reml.divergence is None
    ours, theirs = at_reml(reml).group_effects().table, reml.group_effects().table
    np.testing.assert_allclose(ours["estimate"], theirs["estimate"], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours["sd"], theirs["se"], rtol=1e-7)


def test_intervals_are_those_of_the_mixture():
    fit = bayes_of("konstantopoulos2011")
    found = fit.group_effects(level=0.9).table.loc["district"]
    posteriors = [dense_posterior(fit, draw) for draw in range(len(fit.draws.flat_location))]
    rng = np.random.default_rng(5)
    for group in range(3):
        mean = np.array([u[group] for u, _ in posteriors])
        sd = np.sqrt([covariance[group, group] for _, covariance in posteriors])
        drawn = rng.normal(mean, sd, (2000, len(mean))).ravel()
        for end, p in (("pi_lb", 0.05), ("pi_ub", 0.95)):
            below = np.mean(drawn < found[end].iloc[group])
            # Four binomial errors of 400,000 draws.
            assert below == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / drawn.size))
    shorter = fit.group_effects(level=0.9, interval="hdi").table.loc["district"]
    widths = [table["pi_ub"] - table["pi_lb"] for table in (shorter, found)]
    assert widths[0].mean() < widths[1].mean()


def test_unseen_outcomes_of_a_group_are_left_out():
    data = lsm.load_dataset("berkey1998").iloc[:-1]
    model = lsm.LocationScaleModel(
        "yi ~ 0 + outcome", {"outcome | trial": "~ 0 + outcome"}, variance="vi", data=data
    )
    fit = model.fit_bayes(engine="collapsed", draws=2000, seed=1)
    assert len(fit.group_effects().table) == 9


def test_bad_input():
    fit = bayes_of("konstantopoulos2011")
    with pytest.raises(FitError, match=r"level must be between 0 and 1, such as 0\.95, got 2"):
        fit.group_effects(level=2)
    with pytest.raises(FitError, match="interval must be"):
        fit.group_effects(interval="wald")
    with pytest.raises(FitError, match="no scale term 'school'; there are 'district', 'district/"):
        fit.true_effects(terms=["school"])
    with pytest.raises(FitError, match=r"terms must be a list .* write \['district'\]"):
        fit.true_effects(terms="district")
