"""Fits of several scale terms, and the same with chosen draws, for tests of their verbs."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
from scipy import sparse

import bayes_lsm as lsm
from bayes_lsm.bayes import BayesFit
from bayes_lsm.bayes.draws import Importance
from bayes_lsm.bayes.engines.diagnostics import convergence
from bayes_lsm.bayes.term_draws import RandomInterceptDraws, TermDraws, join_terms
from bayes_lsm.likelihood.blocks.arrange import error_covariance
from bayes_lsm.likelihood.blocks.correlation_matrices import kappas_of

MODELS = ("konstantopoulos2011", "berkey1998", "assink2016")


@cache
def model_of(name):
    return lsm.LocationScaleModel.from_file(name)


@cache
def bayes_of(name):
    """A few of the posterior's draws."""
    fit = model_of(name).fit_bayes(engine="collapsed", draws=4000, seed=1)
    few = replace(fit, draws=fit.draws.take(np.arange(0, 4000, 20)))
    return with_draws(few.design, few.draws.flat_location, *alphas_and_matrices(few))


@cache
def reml_of(name):
    return model_of(name).fit_reml()


def reml_at(reml, fit, draw):
    """The REML fit, as if its estimates were one draw of a Bayesian fit."""
    terms = {
        name: replace(
            each,
            alpha=fit.terms[name].alpha[draw],
            limit_alpha=fit.terms[name].alpha[draw],
            tau2=np.exp(each.term.Z @ fit.terms[name].alpha[draw]),
            correlation=fit.terms[name].correlation[draw],
            divergence=None,
        )
        for name, each in reml.terms.items()
    }
    return replace(reml, beta=fit.draws.flat_location[draw], terms=terms)


def alphas_and_matrices(fit):
    """Draws of each term's α and R, as `with_draws` takes them."""
    terms = fit.terms.values()
    return [each.alpha for each in terms], [each.correlation for each in terms]


def with_draws(design, beta, alphas, correlations=None, random=()):
    """A fit with given draws of β (S, p), and of each term's α (S, q) and R (S, s, s).

    `random` are the SDs (S,) and effects (S, L) of the random intercepts of ln τ² of all terms.
    """
    terms, rest = {}, list(random)
    for i, term in enumerate(design.terms):
        R = np.eye(len(term.effects))[None] if correlations is None else correlations[i]
        kappa = np.broadcast_to(kappas_of(R, term.correlation), (len(beta), term.n_correlations))
        own = tuple(RandomInterceptDraws(of, *rest.pop(0)) for of in term.random)
        terms[term.name] = TermDraws(term, alphas[i], kappa, own)
    size = len(beta)
    draws = join_terms(beta, terms, Importance(0.1, 1 / size, size, 0.0, 0.0, size))
    priors = design.specification.priors
    return BayesFit(design, priors, draws, 1, convergence(design, draws), ())


def with_random_intercepts(design, name, of):
    """The design whose scale term of that name has random intercepts."""
    terms = [replace(term, random=(of,)) if term.name == name else term for term in design.terms]
    return replace(design, terms=tuple(terms))


def as_dependent(design):
    """The same design, sent down the road of dependent effects: the solver of `blocks`."""
    again = replace(design)
    vars(again)["is_independent"] = False
    return again


def at_reml(reml):
    """Draws whose α are all the REML estimate, and whose β have its mean and covariance exactly."""
    p = len(reml.beta)
    axes = np.sqrt(p) * np.linalg.cholesky(reml.vcov_location)
    beta = reml.beta + np.concatenate([axes.T, -axes.T])
    alphas = [np.tile(each.alpha, (2 * p, 1)) for each in reml.terms.values()]
    matrices = [np.tile(each.correlation, (2 * p, 1, 1)) for each in reml.terms.values()]
    return with_draws(reml.design, beta, alphas, matrices)


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
