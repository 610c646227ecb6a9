"""Levels of the scale part that one study has: their posterior, and what is said of it."""

import numpy as np
import pytest
from scipy.stats import norm

import bayes_lsm as lsm
from bayes_lsm.bayes.resolved_priors.notes import prior_notes
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.priors import Flat, Normal, Priors

from .test_propriety import schools

PROBABILITIES = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
# So wide that it holds back no effect that a τ of the scale prior could make.
WIDE = Priors(location={"*": Normal(0, 1e4)}, scale={"*": Normal(-1, 2)})


def studies(location="yi ~ first"):
    data = lsm.load_dataset("bcg").assign(first=[1] + [0] * 12)
    return lsm.LocationScaleModel(location, scale="~ first", variance="vi", data=data)


def districts(location="yi ~ dummy"):
    return schools(scale={"g": "~ dummy", "residual": "~ 1"}, location=location)


def draws_of(fit, part, term):
    names, values = fit.parts()[part]
    return values[:, names.index(term)]


@pytest.mark.parametrize(
    ("model", "part", "term"),
    [(studies, "scale", "first"), (districts, "scale (g)", "dummy")],
)
@pytest.mark.parametrize("engine", ["collapsed", pytest.param("nuts", marks=pytest.mark.slow)])
def test_what_the_location_part_absorbs_keeps_its_prior(model, part, term, engine):
    fit = model().fit_bayes(prior=WIDE, engine=engine, draws=20_000, seed=1, progress=False)
    assert fit.problems == ()
    assert sum("the posterior of its τ² is the prior" in note for note in fit.notes) == 1
    below = norm(-1, 2).cdf(np.quantile(draws_of(fit, part, term), PROBABILITIES))
    ess = min(fit.summary().filter(like="ess").min())
    error = np.sqrt(PROBABILITIES * (1 - PROBABILITIES) / ess)
    assert (np.abs(below - PROBABILITIES) < 4 * error).all()
    # What is known of the others is no prior: their ln τ² has an SD of about 0.5.
    level = "scale" if part == "scale" else "scale (residual)"
    assert draws_of(fit, level, "intrcpt").std() < 1


@pytest.mark.parametrize("model", [studies, districts])
def test_what_is_not_absorbed_is_known_a_little(model):
    """One residual says that τ² is not as large as the prior would have it."""
    (level,) = model("yi ~ 1").design.lone_levels
    assert not level.is_absorbed
    wide = Priors(location={"*": Normal(0, 10)}, scale={"*": Normal(0, 10)})
    fit = model("yi ~ 1").fit_bayes(prior=wide, engine="collapsed", draws=4000, seed=2)
    assert [note for note in fit.notes if "leans on the prior" in note] == list(
        prior_notes(fit.design)
    )
    part, term = ("scale", "first") if model is studies else ("scale (g)", "dummy")
    assert np.quantile(draws_of(fit, part, term), 0.95) < norm(0, 10).ppf(0.85)


@pytest.mark.parametrize(("model", "key"), [(studies, "first"), (districts, "g: dummy")])
def test_a_flat_prior_on_one_is_refused_where_nothing_holds_it(model, key):
    flat = {key: Flat()}
    absorbed = Priors(location={"*": Flat()}, scale=flat)
    with pytest.raises(lsm.PriorError, match=f"'{key}' goes to .*use a proper prior") as caught:
        resolve_priors(model().design, absorbed)
    assert "that location coefficients with flat priors fit in any case" in str(caught.value)
    alone = model("yi ~ 1").design
    with pytest.raises(lsm.PriorError, match=f"'{key}' goes to −∞"):
        resolve_priors(alone, Priors("slides", scale=flat))
    # With a prior of the average study's level either way some τ² goes to infinity.
    resolve_priors(alone, Priors(scale=flat))


def test_it_is_said_of_each():
    assert prior_notes(schools(scale={"g": "~ 1", "residual": "~ 1"}).design) == ()
    (note,) = prior_notes(districts().design)
    assert "is 1 in one group of 'g' (5)" in note
    assert note.endswith("where that has a wide prior, the posterior of its τ² is the prior")
    (note,) = prior_notes(districts("yi ~ 1").design)
    assert note.endswith("one residual says little of its τ², whose posterior leans on the prior")
