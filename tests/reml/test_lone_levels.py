"""Levels of the scale part that one study has: where the restricted likelihood sees nothing."""

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.likelihood import likelihood_of

BCG = lsm.load_dataset("bcg").assign(first=[1] + [0] * 12, kind=["z", *"ab" * 6])
SCHOOLS = lsm.load_dataset("konstantopoulos2011").assign(
    own=lambda d: (d["district"] == 11).astype(float)
)


def studies(location="yi ~ 1", scale="~ first"):
    return lsm.LocationScaleModel(location, scale=scale, variance="vi", data=BCG)


def districts(location="yi ~ 1"):
    scale = {"district": "~ own", "district/school": "~ 1"}
    return lsm.LocationScaleModel(location, scale, variance="vi", data=SCHOOLS)


# A model, the location formula that has a coefficient for the study, and the scale coefficient.
ABSORBED = {
    "a number": (studies("yi ~ first"), "first"),
    "a number, opposite": (studies("yi ~ 0 + I(1 - first) + first"), "first"),
    "levels": (studies("yi ~ kind", "~ kind"), "kindz"),
    "levels, by their means": (studies("yi ~ 0 + kind", "~ 0 + kind"), "kindz"),
    "a level among others": (studies("yi ~ kind + ablat", "~ kind"), "kindz"),
    "only one of both": (studies("yi ~ kind", "~ first"), "first"),
    "a district": (districts("yi ~ own"), "own"),
}
SEEN = {
    "a number": (studies(), "first"),
    "levels": (studies(scale="~ kind"), "kindz"),
    "with another moderator": (studies("yi ~ ablat"), "first"),
    "a district": (districts(), "own"),
}
# One residual is small as often as not, and ln τ² then goes to −∞.
pytestmark = pytest.mark.filterwarnings("ignore::bayes_lsm.errors.DivergentScaleWarning")
SOLVERS = pytest.mark.parametrize("solver", ["its own", "blocks"])


def choose(solver, monkeypatch):
    """The solver of grouped effects takes every model."""
    if solver == "blocks":
        monkeypatch.setattr(Design, "is_independent", False)


def place_of(design, name):
    names = [each for term in design.terms for each in term.names]
    return names.index(name)


def values_along(design, name, method):
    """The log-likelihood where ln τ² of the level is anything and the others stay."""
    start = np.full(sum(term.size for term in design.terms), -2.0)
    alphas = np.tile(start, (4, 1))
    alphas[:, place_of(design, name)] = [-5.0, -1.0, 0.5, 3.0]
    return likelihood_of(design).values(alphas, method)


@SOLVERS
@pytest.mark.parametrize("case", ABSORBED)
def test_what_the_location_part_absorbs_is_refused_by_reml(case, solver, monkeypatch):
    choose(solver, monkeypatch)
    model, name = ABSORBED[case]
    design = model.design
    restricted = values_along(design, name, "REML")
    # A constant, but for the rounding of terms of this size.
    np.testing.assert_allclose(restricted, restricted[0], rtol=1e-10)
    with pytest.raises(lsm.FitError, match="the data do not inform its heterogeneity") as caught:
        model.fit_reml()
    assert "use fit_bayes(), where the prior gives it" in str(caught.value)
    assert np.ptp(values_along(design, name, "ML")) > 0.1


@SOLVERS
@pytest.mark.parametrize("case", SEEN)
def test_what_it_does_not_absorb_is_fitted(case, solver, monkeypatch):
    choose(solver, monkeypatch)
    model, name = SEEN[case]
    assert np.ptp(values_along(model.design, name, "REML")) > 0.1
    fit = model.fit_reml()
    assert sum("its heterogeneity is weakly known" in note for note in fit.notes) == 1
    assert fit.uninformed == ()


@pytest.mark.parametrize("case", ABSORBED)
def test_a_proper_prior_gives_what_the_data_do_not(case):
    model, _ = ABSORBED[case]
    fit = model.fit_bayes(engine="collapsed", draws=1000, seed=1)
    said = [note for note in fit.notes if "the posterior of its τ² is the prior" in note]
    assert len(said) == 1
    assert np.isfinite(fit.summary()[["mean", "sd"]].to_numpy()).all()


def test_a_study_with_several_rows_is_none():
    """Two rows of one level: their difference tells of τ², whatever the location part has."""
    data = pd.concat([BCG, BCG.iloc[:1].assign(yi=0.3)], ignore_index=True)
    model = lsm.LocationScaleModel("yi ~ first", scale="~ first", variance="vi", data=data)
    assert model.design.lone_levels == ()
    assert np.ptp(values_along(model.design, "first", "REML")) > 0.1
    assert not [note for note in model.fit_reml().notes if "weakly known" in note]
