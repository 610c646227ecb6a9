"""Fits of several scale terms, and the same with chosen draws, for tests of their verbs."""

from dataclasses import replace
from functools import cache

import numpy as np

import bayes_lsm as lsm
from bayes_lsm.bayes import BayesFit
from bayes_lsm.bayes.draws import Importance
from bayes_lsm.bayes.engines.diagnostics import convergence
from bayes_lsm.bayes.term_draws import RandomInterceptDraws, TermDraws, join_terms

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
        R = np.tile(np.eye(len(term.effects)), (len(beta), 1, 1))
        if correlations is not None:
            R = correlations[i]
        own = tuple(RandomInterceptDraws(of, *rest.pop(0)) for of in term.random)
        terms[term.name] = TermDraws(term, alphas[i], R, own)
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
