"""More climbs from random starts: what they say of an optimum, whatever the model."""

import numpy as np
import pytest

import bayes_lsm as lsm
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.reml import check, fit_reml
from bayes_lsm.reml.search.estimate import estimate

from .designs import example, make_design
from .nasty_nested import simulate
from .peers import gums, schools
from .test_contrasts import fit_limit


def test_a_good_optimum():
    for model in (schools(), gums("unstructured")):
        fit = model.fit_reml()
        found = fit.check()
        assert found.ok
        assert found.maxima == pytest.approx([0.0], abs=1e-6)
        assert check(fit).reached == found.reached


def test_solver_says_the_same(monkeypatch):
    data = lsm.load_dataset("bangertdrowns2004")

    def ask():
        return fit_reml(make_design(data, "~ 1", "~ I(ni / 100)"))

    rows = ask().check()
    monkeypatch.setattr(Design, "is_independent", False)
    assert "Multilevel" in ask().title
    blocks = ask().check()
    # A condition is a ratio of curvatures, each known to the √1e-13 at which climbs end.
    assert blocks.condition == pytest.approx(rows.condition, rel=1e-4)
    assert rows.ok
    assert blocks.ok
    assert max(rows.gradient, blocks.gradient) < 1e-4


@pytest.mark.usefixtures("solver")
def test_fixed_coefficients_stay_fixed():
    """With the slope of ln τ² at 0 it is the model without that moderator."""
    data = example(k=25)
    with_it = fit_reml(make_design(data, "~ x", "~ x"), fixed={"x": 0.0}).check()
    without = fit_reml(make_design(data, "~ x")).check()
    assert with_it.ok
    assert with_it.reached == with_it.starts == 50
    assert with_it.condition == pytest.approx(without.condition)
    other = fit_reml(make_design(data, "~ x", "~ x"), fixed={"x": 0.6}).check()
    assert other.maxima == pytest.approx([0.0], abs=1e-6)


@pytest.mark.usefixtures("solver")
def test_with_every_coefficient_fixed_there_is_nothing_to_climb():
    fit = fit_reml(make_design(example(k=12)), fixed={"intrcpt": -1.0})
    found = fit.check(starts=3)
    assert found.reached == 3
    assert found.maxima == pytest.approx([0.0], abs=1e-9)


def test_a_limit_is_not_interior():
    found = fit_limit("~ g").check(starts=10)
    assert not found.interior
    assert not found.ok
    assert "interior:         no" in repr(found)
    assert "well conditioned: not asked" in str(found)


def test_a_fit_on_a_bound_is_not_interior():
    fit = fit_reml(make_design(example(k=25), "~ x", "~ x"), bounds={"x": (1.0, 2.0)})
    assert fit.at_bound
    assert not fit.check(starts=5).interior


def test_two_maxima_are_told():
    """A set of the sweep whose likelihood has another maximum, higher by 0.03."""
    fit = estimate(simulate(269), "ML")
    found = check(fit)
    assert fit.rival is not None
    assert not found.unique
    assert found.maxima.max() == pytest.approx(fit.rival_loglik - fit.loglik, abs=1e-5)


def test_what_is_wrong_is_said(continent_reml):
    weeks = lsm.LocationScaleModel.from_file("preterm_weeks").fit_reml().check()
    assert weeks.ok
    assert weeks.reached == weeks.starts
    assert abs(weeks.gradient) < 1e-5
    divergent = continent_reml.check()
    assert not divergent.interior
    assert not divergent.unique  # the talk's maximum has a rival
    assert divergent.maxima.max() == pytest.approx(0.0076, abs=1e-3)
    assert "interior:         no" in str(divergent)
    assert "well conditioned: not asked" in str(divergent)


def test_the_same_seed_climbs_from_the_same_starts():
    fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_reml()
    ours, theirs = (check(fit, starts=9, seed=seed) for seed in (3, 3))
    np.testing.assert_array_equal(ours.maxima, theirs.maxima)
    assert ours.starts == 9


def test_refusals():
    fit = fit_reml(make_design(example(k=25), "~ x"))
    with pytest.raises(FitError, match="starts must be at least 1, got 0"):
        check(fit, starts=0)
    identity = fit_reml(make_design(example(k=25), "~ x", link="identity"))
    with pytest.raises(FitError, match="check does not take link='identity'"):
        check(identity)
