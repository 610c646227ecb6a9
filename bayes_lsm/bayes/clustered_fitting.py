"""Fitting models with several scale terms: which engine, and what it drew, as a fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bayes_lsm.bayes.clustered_draws import RandomInterceptDraws, TermDraws
from bayes_lsm.bayes.clustered_fit import ClusteredBayesFit
from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.engines.clustered import sample_clustered
from bayes_lsm.bayes.engines.clustered_nuts import (
    ClusteredDraws,
    compile_clustered,
    sample_clustered_nuts,
)
from bayes_lsm.bayes.engines.collapsed import can_collapse
from bayes_lsm.bayes.engines.diagnostics import find_problems
from bayes_lsm.bayes.posterior import check_settings
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import correlation_count
from bayes_lsm.errors import ConvergenceWarning, warn
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.priors import Priors, ResolvedPriors
from bayes_lsm.specification import Engine


def fit_clustered_bayes(
    design: Design,
    *,
    prior: Priors | None = None,
    engine: Engine = "auto",
    draws: int = 4000,
    seed: int | None = None,
    chains: int = 4,
    tune: int = 1000,
    target_accept: float = 0.95,
    progress: bool = True,
) -> ClusteredBayesFit:
    """Draw from the posterior of a model with several scale terms.

    Parameters
    ----------
    design : Design
    prior : Priors, optional
        Default: those of the design's specification. Each scale term has them anew; a prior of one
        term is named ``"district: year"``.
    engine : {"auto", "collapsed", "nuts"}, default "auto"
        ``"collapsed"`` integrates β out and draws the coefficients of ln τ² and the correlations by
        adaptive importance sampling. ``"nuts"`` is the no-U-turn sampler, through PyMC. ``"auto"``
        takes the first where the model and its priors allow it and its weights can be trusted, else
        the second; random intercepts of ln τ² and shrinkage priors need the second.
    draws : int, default 4000
        With NUTS of all chains together, rounded up to a multiple of `chains`.
    seed : int, optional
        The same seed gives the same draws. Without one, a seed is drawn and kept in the fit.
    chains, tune, target_accept, progress
        Of NUTS; see `fit_bayes`.

    Returns
    -------
    ClusteredBayesFit

    Raises
    ------
    PriorError
        When a prior names a term that the model does not have.
    FitError
        When the collapsed engine cannot fit the model, or a setting is out of range.

    Warns
    -----
    ConvergenceWarning
        When the draws cannot be trusted; kept in `ClusteredBayesFit.problems`.

    Examples
    --------
    >>> from bayes_lsm.design.clustered_design import build_design
    >>> from bayes_lsm.datasets import load_dataset
    >>> from bayes_lsm.specification import Specification
    >>> spec = Specification(
    ...     "yi ~ 1", "vi", scale={"district": "~ 1", "district/school": "~ 1"})
    >>> design = build_design(spec, load_dataset("konstantopoulos2011"))
    >>> fit = fit_clustered_bayes(design, seed=1)
    >>> fit.summary()["median"].round().to_list()
    [0.0, -3.0, -3.0]
    """
    check_settings(engine, draws=draws, chains=chains, tune=tune, target_accept=target_accept)
    prior = prior or design.specification.priors
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    fit = None
    if engine == "collapsed" or (engine == "auto" and _can_collapse(design, prior)):
        resolved = resolve_priors(design, prior)
        fit = fit_collapsed(design, prior, resolved, draws=draws, seed=seed)
    if fit is None or (engine == "auto" and fit.problems):
        drawn = sample_clustered_nuts(
            lambda: compile_clustered(design, prior),
            draws=-(-draws // chains),
            tune=tune,
            chains=chains,
            seed=seed,
            target_accept=target_accept,
            progress=progress,
        )
        fit = sampled_fit(design, prior, drawn, seed)
    if fit.problems:
        warn("; ".join(fit.problems), ConvergenceWarning)
    return fit


def _can_collapse(design: Design, prior: Priors) -> bool:
    plain = not any(term.random for term in design.terms)
    return plain and can_collapse(resolve_priors(design, prior))


def fit_collapsed(
    design: Design, prior: Priors, resolved: ResolvedPriors, *, draws: int, seed: int
) -> ClusteredBayesFit:
    """A fit of independent draws, with priors resolved on these data or, of a refit, on all."""
    beta, alphas, importance = sample_clustered(design, resolved, draws=draws, seed=seed)
    terms = terms_of(design, alphas)
    return _checked(ClusteredBayesFit(design, prior, beta, terms, importance, seed, ()))


def terms_of(design: Design, alphas: Array) -> dict[str, TermDraws]:
    """The draws of each term, from those (draws, Q) of α and κ of all terms together."""
    terms, first = {}, 0
    for term in design.terms:
        q, s = len(term.names), len(term.effects)
        kappas = correlation_count(s, term.correlation)
        alpha, kappa = alphas[:, first : first + q], alphas[:, first + q : first + q + kappas]
        terms[term.name] = TermDraws(term, alpha, correlation_matrices(kappa, s, term.correlation))
        first += q + kappas
    return terms


def sampled_fit(
    design: Design, prior: Priors, drawn: ClusteredDraws, seed: int
) -> ClusteredBayesFit:
    """A fit of the chains of NUTS."""
    chains, draws = drawn.values["location"].shape[:2]
    flat = {name: each.reshape(chains * draws, -1) for name, each in drawn.values.items()}
    empty = np.empty((chains * draws, 0))
    rest = {
        name: flat.get(name, empty) for name in ("scale", "correlation", "scale_sd", "scale_effect")
    }

    def take(name: str, size: int) -> Array:
        taken, rest[name] = np.split(rest[name], [size], axis=1)
        return np.asarray(taken)

    terms = {}
    for term in design.terms:
        s = len(term.effects)
        alpha = take("scale", len(term.names))
        pairs = s * (s - 1) // 2 if correlation_count(s, term.correlation) else 0
        correlation = _matrices(take("correlation", pairs), s)
        random = tuple(
            RandomInterceptDraws(
                each, take("scale_sd", 1)[:, 0], take("scale_effect", len(each.levels))
            )
            for each in term.random
        )
        terms[term.name] = TermDraws(term, alpha, correlation, random)
    fit = ClusteredBayesFit(
        design, prior, flat["location"], terms, None, seed, (), chains, drawn.stats
    )
    return _checked(fit)


def _matrices(pairs: Array, s: int) -> Array:
    """Correlation matrices (draws, s, s) from the correlations below the diagonal, row by row."""
    R = np.tile(np.eye(s), (len(pairs), 1, 1))
    if pairs.shape[1]:
        i, j = np.tril_indices(s, -1)
        R[:, i, j] = R[:, j, i] = pairs
    return R


def _checked(fit: ClusteredBayesFit) -> ClusteredBayesFit:
    """The same fit, with what is wrong with it."""
    return replace(fit, problems=tuple(find_problems(fit, fit.convergence)))
