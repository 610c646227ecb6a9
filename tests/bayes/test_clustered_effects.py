"""The effects of groups given the draws: REML's BLUPs, dense algebra, and simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import bayes_lsm as lsm
from bayes_lsm.bayes.prediction.clustered_effects import row_effects
from bayes_lsm.bayes.prediction.group_effects import GroupEffects
from bayes_lsm.errors import FitError
from bayes_lsm.formulas.random_intercepts import RandomIntercept
from bayes_lsm.likelihood.blocks.arrange import error_covariance

from .levels import (
    MODELS,
    alphas_and_matrices,
    at_reml,
    bayes_of,
    reml_of,
    with_draws,
    with_random_intercepts,
)


def individuals():
    data = lsm.load_dataset("preterm_iq_ipd").query("study <= 8")
    return data.groupby(["study", "atterm"]).head(6).reset_index(drop=True)


def crossed_data():
    rng = np.random.default_rng(2)
    lab, year = rng.integers(0, 5, 30), rng.integers(0, 4, 30)
    return pd.DataFrame(
        {
            "yi": rng.normal(size=30),
            "vi": rng.uniform(0.05, 0.3, 30),
            "x": rng.normal(size=30),
            "lab": lab,
            "year": year,
        }
    )


def chosen_draws(design, seed=3, size=6):
    """A fit with random draws, whose correlations are anything."""
    rng = np.random.default_rng(seed)
    alphas = [rng.normal(-1.0, 0.7, (size, len(term.names))) for term in design.terms]
    matrices = []
    for term in design.terms:
        L = rng.normal(size=(size, len(term.effects), len(term.effects) + 1))
        R = L @ np.swapaxes(L, 1, 2)
        sd = np.sqrt(np.einsum("aii->ai", R))
        matrices.append(R / sd[:, :, None] / sd[:, None, :])
    return with_draws(design, rng.normal(size=(size, design.X.shape[1])), alphas, matrices)


def slopes_model():
    return lsm.LocationScaleModel(
        "iq ~ atterm",
        {"1 + atterm | study": "~ 1", "residual": "~ C(atterm)"},
        data=individuals(),
    )


def crossed_model():
    scale = {"lab": "~ 1", "year": "~ 1", "residual": "~ x"}
    return lsm.LocationScaleModel("yi ~ x", scale, variance="vi", data=crossed_data())


DESIGNS = {
    "random slopes": lambda: slopes_model().design,
    "crossed": lambda: crossed_model().design,
    "correlated errors": lambda: reml_of("assink2016").design,
    "outcomes": lambda: reml_of("berkey1998").design,
}


def dense_model(fit, draw):
    """A (n, effects), D and V of one draw, entry by entry."""
    design = fit.design
    A, D = [], []
    for each in fit.terms.values():
        term = each.term
        for g in range(len(term.groups)):
            A.append(np.where((term.index == g)[:, None], term.slopes, 0.0))
            eta = term.Z[g] @ each.alpha[draw]
            for random in each.random:
                eta = eta + random.effect[draw][random.of.index[g]]
            tau = np.exp(eta / 2)
            D.append(sparse.coo_array(tau[:, None] * each.correlation[draw] * tau))
    V = error_covariance(design)
    V = np.diag(V) if isinstance(V, np.ndarray) else V.toarray()
    return np.hstack(A), sparse.block_diag(D).toarray(), V


def dense_posterior(fit, draw):
    """Mean and covariance of all effects given one draw: D A'Σ⁻¹r, D − D A'Σ⁻¹A D."""
    A, D, V = dense_model(fit, draw)
    gain = np.linalg.solve(V + A @ D @ A.T, A @ D).T
    return gain @ (fit.design.y - fit.design.X @ fit.draws.flat_location[draw]), D - gain @ A @ D


@pytest.mark.parametrize("name", DESIGNS)
def test_combinations_are_those_of_dense_algebra(name):
    fit = chosen_draws(DESIGNS[name]())
    effects = GroupEffects(fit.design, fit.draws)
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


@pytest.mark.parametrize("name", MODELS)
def test_with_the_variances_of_reml_the_effects_are_its_blups(name):
    reml = reml_of(name)
    fit = at_reml(reml)
    for ours, theirs in (
        (fit.blup().table, reml.group_effects().table),
        (row_effects(fit), reml.blup().table),
    ):
        short = [each for each in ours.index.names if each != "grouping"]
        names = ours.index if len(reml.terms) > 1 or len(short) < 2 else ours.index.droplevel(0)
        assert names.equals(theirs.index)
        np.testing.assert_allclose(ours["estimate"], theirs["estimate"], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(ours["sd"], theirs["se"], rtol=1e-9)


@pytest.mark.parametrize("model", [slopes_model, crossed_model])
def test_other_models_with_the_variances_of_reml(model):
    reml = model().fit_reml()
    assert reml.divergence is None
    ours, theirs = at_reml(reml).blup().table, reml.group_effects().table
    np.testing.assert_allclose(ours["estimate"], theirs["estimate"], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours["sd"], theirs["se"], rtol=1e-7)


def test_intervals_are_those_of_the_mixture():
    fit = bayes_of("konstantopoulos2011")
    found = fit.blup(level=0.9).table.loc["district"]
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
    shorter = fit.blup(level=0.9, interval="hdi").table.loc["district"]
    widths = [table["pi_ub"] - table["pi_lb"] for table in (shorter, found)]
    assert widths[0].mean() < widths[1].mean()


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
    fit = with_draws(
        with_random_intercepts(plain.design, name, of),
        plain.draws.flat_location,
        *alphas_and_matrices(plain),
        random=[(np.ones(6), effect)],
    )
    each, effects = fit.terms[name], GroupEffects(fit.design, fit.draws)
    size = effects.starts[-1]
    mean, variance = effects.combine(sparse.eye_array(size).tocsr())
    for draw in range(6):
        u, covariance = dense_posterior(fit, draw)
        np.testing.assert_allclose(mean[:, draw], u, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(variance[:, draw], np.diag(covariance), rtol=1e-8, atol=1e-9)
    plain = fit.heterogeneity().tau2[name]
    eta = each.alpha[:, 0, None] + effect[:, of.index[each.term.index, 0]]
    np.testing.assert_allclose(plain, np.exp(eta).mean(axis=1))


def test_blocks_of_draws_do_not_change_anything(monkeypatch):
    fit = bayes_of("konstantopoulos2011")
    table, drawn = fit.blup().table, fit.true_effects(seed=1)
    monkeypatch.setattr("bayes_lsm.bayes.draws._BLOCK", 300)
    pd.testing.assert_frame_equal(fit.blup().table, table, rtol=1e-12)
    assert fit.true_effects(seed=1).shape == drawn.shape


def test_unseen_outcomes_of_a_group_are_left_out():
    data = lsm.load_dataset("berkey1998").iloc[:-1]
    model = lsm.LocationScaleModel(
        "yi ~ 0 + outcome", {"outcome | trial": "~ 0 + outcome"}, variance="vi", data=data
    )
    fit = model.fit_bayes(engine="collapsed", draws=2000, seed=1)
    assert len(fit.blup().table) == 9


def test_bad_input():
    fit = bayes_of("konstantopoulos2011")
    with pytest.raises(FitError, match="level must be between 0 and 1, got 2"):
        fit.blup(level=2)
    with pytest.raises(FitError, match="interval must be"):
        fit.blup(interval="wald")
    with pytest.raises(FitError, match="no scale term 'school'; there are 'district', 'district/"):
        fit.true_effects(terms=["school"])
    with pytest.raises(FitError, match=r"terms must be a list .* write \['district'\]"):
        fit.true_effects(terms="district")
