"""Flat scale priors with several scale terms: what holds them, and the posterior by quadrature."""

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.bayes import fit_bayes
from bayes_lsm.bayes.engines.clustered import resolve_terms
from bayes_lsm.bayes.resolved_priors.clustered_propriety import term_effects
from bayes_lsm.priors import Flat, HalfNormal, HalfStudentT, Normal, Priors

from .levels import as_dependent
from .test_propriety import A, V, Y, assert_drawn_from, flat, log_marginal


def schools(n_groups=6, rows=3, *, alone=(), scale, location="yi ~ 1", **options):
    """Groups of rows; c is 1 in the last group and −1 in the others, as is the dummy 1 and 0."""
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(n_groups), [1 if i in alone else rows for i in range(n_groups)])
    last = g == n_groups - 1
    data = pd.DataFrame(
        {
            "yi": rng.normal(0, 0.6, len(g)),
            "vi": 0.1,
            "g": g,
            "c": np.where(last, 1.0, -1.0),
            "dummy": np.where(last, 1.0, 0.0),
            "x": rng.normal(size=len(g)),
        }
    )
    options.setdefault("variance", "vi")
    return lsm.LocationScaleModel(location, scale=scale, data=data, **options)


def refusal(model, prior):
    with pytest.raises(lsm.PriorError) as caught:
        model.fit_bayes(prior=prior)
    return str(caught.value)


def accepts(model, prior):
    return resolve_terms(model.design, prior) is not None


def test_a_flat_coefficient_is_that_of_quadrature():
    """The model of independent studies by the engine of dependent ones."""
    data = pd.DataFrame({"yi": Y, "a": A})
    model = lsm.LocationScaleModel("yi ~ 1", scale="~ 0 + a", variance=np.diag(V), data=data)
    design = as_dependent(model.design)
    fit = fit_bayes(design, prior=flat("a"), engine="collapsed", draws=20_000, seed=1)
    grid = np.linspace(-60, 40, 20_001)
    (term,) = fit.terms.values()
    exact = log_marginal(grid[:, None] * A)
    assert_drawn_from(term.alpha[:, 0], fit.importance.ess, grid, exact)
    with pytest.raises(lsm.FitError, match="integrate to 1, got a flat scale prior"):
        _ = fit.log_evidence


def test_a_level_is_refused_by_its_term():
    model = schools(scale={"g": "~ 1", "residual": "~ 1"})
    text = refusal(model, Priors(scale={"g: intrcpt": Flat()}))
    assert "as 'g: intrcpt' goes to −∞" in text
    assert "τ² goes to 0 in 6 of 24 effects of groups" in text


def test_groups_that_a_flat_dummy_takes_over_bound_nothing():
    flat_dummy = {"location": {"*": Flat()}, "scale": {"g: c": Flat()}}
    outer = {"g": "~ 0 + c", "residual": "~ 1"}
    text = refusal(schools(scale=outer, location="yi ~ dummy"), Priors(**flat_dummy))
    assert "as 'g: c' goes to +∞" in text
    assert "to infinity in 1 that location coefficients with flat priors fit in any case" in text
    assert accepts(schools(scale=outer), Priors(**flat_dummy))
    proper = {**flat_dummy, "location": {"*": Normal(0, 1)}}
    assert accepts(schools(scale=outer, location="yi ~ dummy"), Priors(**proper))
    # The dummy fits the mean of its three rows, and not each of them.
    inner = {"g": "~ 1", "residual": "~ 0 + c"}
    rows = {**flat_dummy, "scale": {"residual: c": Flat()}}
    assert accepts(schools(scale=inner, location="yi ~ dummy"), Priors(**rows))
    single = schools(scale=inner, location="yi ~ dummy", alone=(5,))
    assert "has no finite mass" in refusal(single, Priors(**rows))


def test_what_is_taken_over_is_what_the_columns_span():
    """By the rank of the flat columns of X with and without each group's column."""
    model = schools(scale={"0 + x | g": "~ 1", "residual": "~ 1"}, location="yi ~ x:dummy + dummy")
    design = model.design
    priors = Priors(location={"*": Flat()})
    effects = term_effects(design, resolve_terms(design, priors).location, priors)
    columns = []
    for term in design.terms:
        for group in range(len(term.groups)):
            columns.append(np.where(term.index == group, term.slopes[:, 0], 0.0))
    rank = np.linalg.matrix_rank
    spanned = [rank(np.column_stack([design.X, a])) == rank(design.X) for a in columns]
    assert sum(spanned) == 1
    assert (effects.felt == ~np.array(spanned)).all()


def test_correlated_effects_bound_where_the_rows_tell_them_apart():
    """Intercept and slope of one row can cancel: with a correlation of −1 nothing is left of both.

    So a group of one row is not relied on, and if it alone is there, that is said.
    """
    prior = Priors(scale={"*": Flat()}, location={"*": Normal(0, 1)})
    scale = {"1 + x | g": "~ 0 + c"}
    assert accepts(schools(scale=scale), prior)
    text = refusal(schools(scale=scale, alone=(5,)), prior)
    assert "cannot be shown" in text
    assert "correlated effects that the rows of their groups cannot tell apart" in text


def test_random_intercepts_of_the_scale_need_thin_tails():
    model = schools(scale={"residual": "~ 0 + c + (1 | g)"})
    prior = Priors(scale={"c": Flat()}, location={"*": Normal(0, 1)})
    assert accepts(model, prior)
    assert accepts(model, prior.model_copy(update={"scale_sd": HalfNormal(2)}))
    text = refusal(model, prior.model_copy(update={"scale_sd": HalfStudentT(3, 1)}))
    assert "because of random intercepts of ln τ², unless their SDs have normal priors" in text


def test_individual_data_are_refused():
    model = schools(scale={"g": "~ 1", "residual": "~ 0 + c"}, variance=None)
    assert "needs sampling variances > 0" in refusal(model, Priors(scale={"residual: c": Flat()}))


def test_a_cluster_that_alone_holds_a_flat_coefficient_cannot_be_left_out():
    model = schools(scale={"g": "~ 0 + c", "residual": "~ 1"})
    prior = Priors(scale={"g: c": Flat()}, location={"*": Normal(0, 1)})
    fit = model.fit_bayes(prior=prior, engine="collapsed", draws=1000, seed=1)
    for ask in (fit.loo, fit.psis_loo, fit.kfold):
        with pytest.raises(lsm.FitError, match="without g 5 the posterior has no finite mass"):
            ask(**({"k": 6} if ask == fit.kfold else {}))
