"""Many refits at once are what single fits are, at limits and with coefficients held as well."""

import dataclasses
import warnings

import numpy as np
import pytest

from bayes_lsm.design.design import Design
from bayes_lsm.design.exchangeable import exchangeable
from bayes_lsm.errors import DivergentScaleWarning
from bayes_lsm.reml import fit_reml
from bayes_lsm.reml.resampling import simulate
from bayes_lsm.reml.search.estimate import estimate
from bayes_lsm.reml.search.refitter import refitter_of
from bayes_lsm.reml.search.search import Search

from .designs import example, homogeneous_group, make_design
from .nested import nested_data, nested_model
from .peers import gums


def quiet(design, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        return fit_reml(design, **options)


def assert_same(refits, i, fit, places):
    """Refit i against a fit of its own; ascents end within 1e-6 of a standard error."""
    assert refits.converged[i]
    assert refits.value[i] == pytest.approx(fit.highest, abs=1e-7)
    np.testing.assert_allclose(refits.beta[i], fit.beta, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(refits.vcov_location[i], fit.vcov_location, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(refits.alpha[i], fit.alpha[places], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.exp(refits.log_tau2[i]), fit.tau2, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("fixed", [{}, {"x": 0.5}])
def test_of_other_effects(fixed, solver):
    design = make_design(example(k=16), "~ x", "~ x")
    fit = quiet(design, fixed=fixed)
    Y = simulate(fit, 6, np.random.default_rng(1))
    refits = refitter_of(fit).effects(Y)
    for i, y in enumerate(Y):
        again = estimate(dataclasses.replace(design, y=y), "REML", fixed=fixed)
        assert_same(refits, i, again, [0, 1][: 2 - len(fixed)])


def test_what_diverges_does_so_in_a_refit(solver):
    fit = quiet(make_design(homogeneous_group("b"), "~ g", "~ g + x"))
    refits = refitter_of(fit).effects(fit.design.y[None])
    assert refits.diverged[0]
    assert np.isneginf(refits.alpha[0, 1])
    np.testing.assert_allclose(refits.alpha[0, [0, 2]], fit.alpha[[0, 2]], rtol=1e-4)
    z, joint = refits.statistics("scale", [1, 2])
    np.testing.assert_allclose(z[0], np.nan_to_num(fit.scale["zval"]), rtol=1e-3, atol=1e-6)
    # What is left to be tested is x.
    assert joint[0] == pytest.approx(fit.scale["zval"]["x"] ** 2, rel=1e-3)


def test_of_correlated_effects():
    fit = gums("compound_symmetric").fit_reml(method="ML")
    Y = simulate(fit, 3, np.random.default_rng(1))
    refits = refitter_of(fit).effects(Y)
    for y, value, beta, rho in zip(Y, refits.value, refits.beta, refits.correlations, strict=True):
        again = estimate(dataclasses.replace(fit.design, y=y), "ML")
        assert value == pytest.approx(again.highest, abs=1e-7)
        np.testing.assert_allclose(beta, again.beta, rtol=1e-4, atol=1e-5)
        (term,) = again.terms.values()
        np.testing.assert_allclose(rho, term.correlation[0, 1], atol=1e-4)


@pytest.mark.parametrize("part", ["location", "scale"])
def test_of_shifted_permutations(part, solver):
    """c times a column stays where it is: the refit of a model that has it twice."""
    data = example(k=14)
    fit = quiet(make_design(data, "~ x", "~ x"))
    order = np.random.default_rng(1).permutation(14)
    refits = refitter_of(fit).orders(exchangeable(fit.design, part), order[None], shift=(1, 0.2))
    moved = data.assign(w=data["x"].to_numpy()[order])
    if part == "location":
        moved["yi"] = moved["yi"] - 0.2 * moved["x"]
        again = estimate(make_design(moved, "~ w", "~ x"), "REML")
        assert_same(refits, 0, again, [0, 1])
        return
    again = estimate(make_design(moved, "~ x", "~ w + x"), "REML", fixed={"x": 0.2})
    np.testing.assert_allclose(refits.beta[0], again.beta, rtol=1e-4)
    z, _ = refits.statistics("scale", [1])
    assert z[0, 1] == pytest.approx(again.scale["zval"]["w"], abs=1e-4)


def test_of_shifted_permutations_of_one_term_among_several():
    data = nested_data(4, districts=8, slopes=(0.5, 0.0))
    fit = quiet(nested_model(data, district="~ z", school="~ z").design)
    order = np.random.default_rng(1).permutation(8)
    what = exchangeable(fit.design, "scale")
    refits = refitter_of(fit).orders(what, order[None], shift=(3, 0.3))
    z = data.groupby("district")["z"].first().to_numpy()
    moved = data.assign(w=z[order][data["district"]])
    model = nested_model(moved, district="~ w", school="~ w + z")
    again = estimate(model.design, "REML", fixed={"school: z": 0.3})
    assert again.divergence is None
    found, _ = refits.statistics("scale", [1, 3])
    # One climb, and a search: each ends within 1e-6 of a standard error.
    np.testing.assert_allclose(found[0], again.scale["zval"].to_numpy()[:4], atol=1e-4)


def test_a_set_without_a_likelihood_has_failed(monkeypatch):
    fit = nested_model(nested_data(2, districts=6)).fit_reml()
    Y = np.vstack([fit.design.y, np.zeros(len(fit.design.y))])

    def search(surface, given):
        found = Search(surface, given)
        if not found.best.beta.any():  # of the set of zeros
            found.best = dataclasses.replace(found.best, value=-np.inf)
        return found

    monkeypatch.setattr("bayes_lsm.reml.search.blocks_refits.Search", search)
    refits = refitter_of(fit).effects(Y)
    assert refits.failed.tolist() == [False, True]
    z, joint = refits.statistics("scale", [0])
    assert np.isinf(z[1]).all()
    assert np.isinf(joint[1])
    assert np.isfinite(z[0]).all()


def test_the_one_place_that_chooses(monkeypatch):
    fit = fit_reml(make_design(example(), "~ x"))
    assert type(refitter_of(fit)).__name__ == "RowsRefitter"
    monkeypatch.setattr(Design, "is_independent", False)
    again = fit_reml(make_design(example(), "~ x"))
    assert type(refitter_of(again)).__name__ == "BlocksRefitter"
