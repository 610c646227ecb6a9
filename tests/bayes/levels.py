"""Fits of several scale terms, and the same with chosen draws, for tests of their verbs."""

from dataclasses import replace
from functools import cache

import numpy as np

import bayes_lsm as lsm
from bayes_lsm.bayes.clustered_draws import TermDraws
from bayes_lsm.bayes.clustered_fit import ClusteredBayesFit
from bayes_lsm.bayes.draws import Importance

MODELS = ("konstantopoulos2011", "berkey1998", "assink2016")


@cache
def model_of(name):
    return lsm.LocationScaleModel.from_file(name)


@cache
def bayes_of(name):
    """A few of the posterior's draws."""
    fit = model_of(name).fit_bayes(engine="collapsed", draws=4000, seed=1)
    terms = fit.terms.values()
    alphas, matrices = [t.alpha[::20] for t in terms], [t.correlation[::20] for t in terms]
    return with_draws(fit.design, fit.beta[::20], alphas, matrices)


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
    return replace(reml, beta=fit.beta[draw], terms=terms)


def with_draws(design, beta, alphas, correlations=None):
    """A fit with given draws of β (S, p), and of each term's α (S, q) and R (S, s, s)."""
    terms = {}
    for i, term in enumerate(design.terms):
        R = np.tile(np.eye(len(term.effects)), (len(beta), 1, 1))
        if correlations is not None:
            R = correlations[i]
        terms[term.name] = TermDraws(term, alphas[i], R)
    size = len(beta)
    good = Importance(0.1, 1 / size, size, 0.0, 0.0, size)
    return ClusteredBayesFit(design, design.specification.priors, beta, terms, good, 1, ())


def at_reml(reml):
    """Draws whose α are all the REML estimate, and whose β have its mean and covariance exactly."""
    p = len(reml.beta)
    axes = np.sqrt(p) * np.linalg.cholesky(reml.vcov_location)
    beta = reml.beta + np.concatenate([axes.T, -axes.T])
    alphas = [np.tile(each.alpha, (2 * p, 1)) for each in reml.terms.values()]
    matrices = [np.tile(each.correlation, (2 * p, 1, 1)) for each in reml.terms.values()]
    return with_draws(reml.design, beta, alphas, matrices)
