"""The effects of groups given the draws: dense algebra, and simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.formulas.random_intercepts import RandomIntercept

from .levels import (
    DESIGNS,
    alphas_and_matrices,
    bayes_of,
    chosen_draws,
    crossed_model,
    dense_model,
    dense_posterior,
    individuals,
    slopes_model,
    with_draws,
    with_random_intercepts,
)


@pytest.mark.parametrize("name", DESIGNS)
def test_combinations_are_those_of_dense_algebra(name):
    fit = chosen_draws(DESIGNS[name]())
    effects = ConditionalEffects(fit.design, fit.draws)
    rng = np.random.default_rng(4)
    size = effects.starts[-1]
    few = sparse.random_array((40, size), density=3 / size, rng=rng).toarray()
    wanted = np.concatenate([np.eye(size), few, rng.normal(size=(2, size))])
    mean, variance = effects.combine(sparse.csr_array(wanted))
    for draw in range(6):
        u, covariance = dense_posterior(fit, draw)
        # Rounding grows with the condition of Σ, some 1e4 here.
        np.testing.assert_allclose(mean[:, draw], wanted @ u, rtol=1e-8, atol=1e-9)
        expected = np.einsum("ij,jk,ik->i", wanted, covariance, wanted)
        np.testing.assert_allclose(variance[:, draw], expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["random slopes", "crossed", "outcomes"])
def test_draws_of_the_rows_are_joint(name):
    """One draw of the coefficients, over and over: mean and covariance of the rows' effects."""
    size = 20_000
    one = chosen_draws(DESIGNS[name](), size=1)
    matrices = [np.repeat(each.correlation, size, axis=0) for each in one.terms.values()]
    alphas = [np.repeat(each.alpha, size, axis=0) for each in one.terms.values()]
    fit = with_draws(one.design, np.repeat(one.draws.flat_location, size, axis=0), alphas, matrices)
    u, covariance = dense_posterior(one, 0)
    A = dense_model(one, 0)[0]
    for terms in (list(one.terms), list(one.terms)[:1]):
        kept = np.concatenate(
            [
                np.full(len(each.term.groups) * len(each.term.effects), name in terms)
                for name, each in one.terms.items()
            ]
        )
        loads = (A * kept)[:12]
        drawn = fit.true_effects(terms=terms, seed=6)[0][:, :12]
        mean = one.design.X[:12] @ one.draws.flat_location[0] + loads @ u
        expected = loads @ covariance @ loads.T
        sd = np.sqrt(np.maximum(np.diag(expected), 0))
        # Five standard errors, of a mean and of a covariance, for some 100 numbers.
        # With the residual of individuals nothing is left to draw: rounding alone.
        error = np.abs(drawn.mean(axis=0) - mean)
        assert (error < 1e-7 + 5 * sd / np.sqrt(size)).all()
        error = np.abs(np.cov(drawn.T) - expected)
        assert (error < 1e-12 + 5 * np.sqrt(2 / size) * np.outer(sd, sd)).all()


def test_individuals_have_no_residual_in_their_true_effects():
    fit = chosen_draws(slopes_model().design, size=100)
    study = fit.true_effects(seed=1)
    np.testing.assert_array_equal(study, fit.true_effects(terms=["1 + atterm | study"], seed=1))
    same = individuals().groupby(["study", "atterm"]).ngroup().to_numpy()
    np.testing.assert_allclose(study[..., same == 3].std(axis=-1), 0, atol=1e-9)
    # With the residual an individual's value is known: it was seen without error.
    whole = fit.true_effects(terms=list(fit.terms), seed=1)
    np.testing.assert_allclose(whole, np.broadcast_to(fit.design.y, whole.shape), rtol=1e-9)


def test_random_intercepts_of_the_variances_are_in_it():
    plain = chosen_draws(crossed_model().design)
    name, rng = "lab", np.random.default_rng(7)
    of = RandomIntercept("half", ("a", "b"), np.array([[0], [1], [0], [1], [1]]))
    effect = rng.normal(size=(6, 2))
    fit = with_draws(  # type: ignore[misc]
        with_random_intercepts(plain.design, name, of),
        plain.draws.flat_location,
        *alphas_and_matrices(plain),
        random=[(np.ones(6), effect)],
    )
    each, effects = fit.terms[name], ConditionalEffects(fit.design, fit.draws)
    size = effects.starts[-1]
    mean, variance = effects.combine(sparse.eye_array(size).tocsr())
    for draw in range(6):
        u, covariance = dense_posterior(fit, draw)
        np.testing.assert_allclose(mean[:, draw], u, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(variance[:, draw], np.diag(covariance), rtol=1e-8, atol=1e-9)
    plain = fit.heterogeneity().tau2_draws[name]
    eta = each.alpha[:, 0, None] + effect[:, of.index[each.term.index, 0]]
    np.testing.assert_allclose(plain, np.exp(eta).mean(axis=1))


def test_blocks_of_draws_do_not_change_anything(monkeypatch):
    fit = bayes_of("konstantopoulos2011")
    verbs = (fit.group_effects, fit.blup)
    tables, drawn = [verb().table for verb in verbs], fit.true_effects(seed=1)
    monkeypatch.setattr("bayes_lsm.bayes.draws._BLOCK", 300)
    for verb, table in zip(verbs, tables, strict=True):
        pd.testing.assert_frame_equal(verb().table, table, rtol=1e-12)
    assert fit.true_effects(seed=1).shape == drawn.shape
