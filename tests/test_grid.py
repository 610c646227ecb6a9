"""Every verb on every kind of model gives an answer, or is a line of the table of what cannot be.

The kinds are in `grid.kinds`; what is asked, and what the answers must be, in `grid`. Verbs are
found in the classes, so that a new one must be asked here; a line of the table that no model meets
is a failure too. By NUTS, which compiles for minutes, the grid is slow.
"""

import dataclasses
import inspect

import arviz as az
import numpy as np
import pytest

import bayes_lsm as lsm
from bayes_lsm import bayes, plots, reml, report
from bayes_lsm.capabilities import LIMITS

from .grid.asking import Question, answer_of, fit_of, model_of, quiet, refusal
from .grid.bayes_verbs import OF_BAYES
from .grid.kinds import DRAWS, KINDS
from .grid.other_verbs import (
    COMPARED,
    OF_DESIGN,
    OF_MODEL,
    PAGES,
    PLOTS_OF_BAYES,
    PLOTS_OF_REML,
)
from .grid.reml_verbs import OF_REML

# Where only NUTS can draw, the fast grid asks draws that are made by hand.
BY_HAND = "by hand"
LINES_OF_FIT = {
    "REML": ("fit_reml",),
    "ML": ("fit_reml",),
    "collapsed": ("fit_bayes", "engine='collapsed'"),
    "nuts": ("fit_bayes",),
}
ASKED = {
    "REML": {**OF_REML, **COMPARED},
    "ML": {**OF_REML, **COMPARED},
    "collapsed": {**OF_BAYES, **COMPARED, **PAGES},
    BY_HAND: {**OF_BAYES, **COMPARED, **PAGES},
    "nuts": {**OF_BAYES, **COMPARED, **PAGES},
}
FIGURES = {"REML": PLOTS_OF_REML, "collapsed": PLOTS_OF_BAYES, BY_HAND: PLOTS_OF_BAYES}
OF_ANY = {**OF_MODEL, **OF_DESIGN}
# Verbs that refit, or draw many figures: in the fast grid of one kind of model, and wherever they
# are refused. By ML they take the same road as by REML.
REFITTING = {
    *("average", "calibrate", "coverage", "report", "diagnosis_page", "sensitivity_page"),
    *("bayes_factor", "diagnose", "kfold", "loo", "savage_dickey", "sensitivity"),
    *("loo_pit", "shifts", "under_priors"),
    *("bootstrap_test", "influence", "leave_one_out", "permutation_test", "profile"),
}
QUICK = {"location-scale"}
GROUPS = ("log_likelihood", "log_prior", "observed_data", "posterior", "posterior_predictive")


def is_fitted(kind, how):
    """Whether such a fit exists; that it does not is itself a cell."""
    if how == BY_HAND:
        return not is_fitted(kind, "collapsed") and is_fitted(kind, "nuts")
    return refusal(model_of(kind).design, *LINES_OF_FIT[how]) is None


def marks_of(kind, how, name, verb):
    """Slow where a cell takes seconds."""
    refused = refusal(model_of(kind).design, *(verb.lines or (name,)))
    refits = name in REFITTING and not refused and (kind not in QUICK or how == "ML")
    return [pytest.mark.slow] if refits and how != "nuts" else []


def cells(table, hows):
    return [
        pytest.param(
            kind, how, name, verb, id=f"{name}-{kind}-{how}", marks=marks_of(kind, how, name, verb)
        )
        for how in hows
        for kind in KINDS
        if is_fitted(kind, how)
        for name, verb in table[how].items()
    ]


def ask(kind, how, verb, line):
    """The answer is right, or the refusal is that of the table."""
    question = Question(kind, how)
    said = refusal(question.design, *(verb.lines or (line,)))
    if said is None:
        with quiet():
            verb.check(answer_of(question, verb), question)
        return
    with pytest.raises(lsm.FitError) as caught:
        answer_of(question, verb)
    assert str(caught.value) == said


@pytest.mark.parametrize(("kind", "how", "name", "verb"), cells(ASKED, ["REML", "ML"]))
def test_of_reml(kind, how, name, verb):
    ask(kind, how, verb, name)


@pytest.mark.parametrize(("kind", "how", "name", "verb"), cells(ASKED, ["collapsed", BY_HAND]))
def test_of_bayes(kind, how, name, verb):
    ask(kind, how, verb, name)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "how", "name", "verb"), cells(ASKED, ["nuts"]))
def test_of_nuts(kind, how, name, verb):
    ask(kind, how, verb, name)


@pytest.mark.parametrize(("kind", "how", "name", "verb"), cells(FIGURES, FIGURES))
def test_of_figures(kind, how, name, verb):
    ask(kind, how, verb, name)


def of_models():
    for kind in KINDS:
        for name in OF_ANY:
            refused = refusal(model_of(kind).design, *(OF_ANY[name].lines or (name,)))
            compiles = name == "fit_bayes" and is_fitted(kind, BY_HAND)
            pages = name == "report" and not refused  # asked of both in tests/report, too
            slow = compiles or pages or (name in REFITTING and kind not in QUICK and not refused)
            marks = [pytest.mark.slow] if slow else []
            yield pytest.param(kind, name, marks=marks, id=f"{name}-{kind}")


@pytest.mark.parametrize(("kind", "name"), list(of_models()))
def test_of_models(kind, name):
    ask(kind, "REML", OF_ANY[name], name)


# That the grid is whole ---------------------------------------------------------------------------


def public(owner):
    """What a user can ask of it, but for the fields that it is made of."""
    fields = dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ()
    return {name for name in dir(owner) if not name.startswith("_")} - {e.name for e in fields}


def functions_of(room, argument):
    """The public functions whose first argument has this name."""
    found = {name: getattr(room, name) for name in room.__all__}
    return {
        name
        for name, each in found.items()
        if inspect.isfunction(each)
        and next(iter(inspect.signature(each).parameters), "") == argument
    }


def test_every_verb_is_asked():
    assert {"permutation_test", "qe", "predict"} <= public(lsm.RemlFit) == set(OF_REML)
    assert {"loo", "sensitivity", "posterior"} <= public(lsm.BayesFit) == set(OF_BAYES)
    assert {"average", "to_pymc"} <= public(lsm.LocationScaleModel) == set(OF_MODEL)
    assert len(plots.__all__) > 10
    assert set(PLOTS_OF_REML) | set(PLOTS_OF_BAYES) == set(plots.__all__)


def test_every_function_is_a_verb_that_is_asked():
    methods = set(OF_REML) | set(OF_BAYES)
    for room in (reml, bayes):
        assert len(functions_of(room, "fit")) > 10
        assert functions_of(room, "fit") - {"q_profile_interval"} <= methods
    doors = {"average_models": "average", "build_pymc_model": "to_pymc"}
    doors["build_latent_pymc_model"] = "true_effects='latent'"
    of_design = functions_of(reml, "design") | functions_of(bayes, "design")
    assert {doors.get(name, name) for name in of_design} <= set(OF_ANY)
    assert functions_of(report, "found") <= {*PAGES, "analysis_page"}


def test_every_line_of_the_table_is_met():
    tables = (*ASKED.values(), *FIGURES.values(), OF_ANY)
    verbs = [(name, verb) for table in tables for name, verb in table.items()]
    asked = {line for name, verb in verbs for line in verb.lines or (name,)}
    designs = [model_of(kind).design for kind in KINDS]
    for limit in LIMITS:
        for verb in limit.verbs:
            assert verb in asked, f"nobody asks {verb}"
            said = {refusal(design, verb) for design in designs}
            assert any(each and limit.reason in each for each in said), (verb, limit.kind.words)


# What ArviZ says of the posteriors ----------------------------------------------------------------

POSTERIORS = [
    pytest.param(kind, how, id=f"{kind}-{how}")
    for how in ("collapsed", BY_HAND)
    for kind in KINDS
    if is_fitted(kind, how)
]


@pytest.mark.parametrize(("kind", "how"), POSTERIORS)
def test_arviz_reads_every_posterior(kind, how):
    fit = fit_of(kind, how)
    tree = fit.posterior
    assert set(tree.children) >= set(GROUPS)
    with quiet():
        loo = az.loo(tree, pointwise=True)
    assert np.isfinite([loo.elpd, loo.se, loo.p]).all()
    sensitivity = az.psense_summary(tree)
    coefficients = sum(
        len(names) for part, (names, _) in fit.parts().items() if "effect" not in part
    )
    assert len(sensitivity) >= coefficients
    assert np.isfinite(sensitivity[["prior", "likelihood"]].to_numpy(dtype=float)).all()


@pytest.mark.parametrize(("kind", "how"), POSTERIORS)
def test_arviz_draws_every_posterior(kind, how):
    tree = fit_of(kind, how).posterior
    figure = az.plot_ppc_dist(tree, backend="matplotlib", num_samples=10)
    assert figure.viz
    prior = az.plot_ppc_dist(tree, group="prior_predictive", backend="matplotlib", num_samples=10)
    assert prior.viz


@pytest.mark.parametrize(("kind", "how"), POSTERIORS)
def test_arviz_compares_every_posterior(kind, how):
    one, other = (fit_of(kind, how, reduced=reduced).posterior for reduced in (False, True))
    with quiet():
        table = az.compare(
            {"model": az.loo(one, pointwise=True), "other": az.loo(other, pointwise=True)}
        )
    assert set(table.index) == {"model", "other"}
    assert np.isfinite(table["elpd"].to_numpy(dtype=float)).all()


def test_draws_by_hand_are_as_many_as_asked():
    (kind,) = (kind for kind in KINDS if is_fitted(kind, BY_HAND))
    assert fit_of(kind, BY_HAND).draws.size == DRAWS
