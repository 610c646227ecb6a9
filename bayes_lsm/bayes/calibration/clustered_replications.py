"""What `replications` asks of a model with several scale terms: its truths, new effects, a fit.

Truths are held as a fit holds draws, so that one piece of code reads coefficients, correlations and
random intercepts of ln τ² off either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bayes_lsm.bayes.calibration.replications import (
    CHAINS,
    TUNE,
    Names,
    Refit,
    Sampler,
    check_whole,
    spread_out,
    unknown_engine,
)
from bayes_lsm.bayes.cross_validation.clustered_deletion import RowSums
from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.engines.collapsed import sample_collapsed
from bayes_lsm.bayes.engines.diagnostics import convergence, find_problems
from bayes_lsm.bayes.engines.nuts import compile_for, read_chains, run_nuts
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.bayes.pymc_model.graph import build_pymc_model
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.term_draws import TermDraws, flat_coefficients, join_terms, split_terms
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.blocks.correlation_matrices import kappas_of
from bayes_lsm.priors import Priors


@dataclass(frozen=True, eq=False)
class Clusters:
    """The world of a model with several scale terms.

    The unknowns are all that `Draws.parts` lists: random intercepts of ln τ² and their SDs, too.

    Attributes
    ----------
    design : Design
    true : Draws
        Each draw is a truth.
    sample : function of a design and a seed
    """

    design: Design
    true: Draws
    sample: Sampler

    @property
    def names(self) -> Names:
        """Part and term of the unknowns."""
        return tuple(
            (part, term)
            for part, (terms, _) in self.true.parts(self.design).items()
            for term in terms
        )

    @cached_property
    def truth(self) -> Array:
        """Their true values, shape (m, P)."""
        return _unknowns(self.design, self.true)

    def refit(self, number: int, ranked: int, rng: np.random.Generator) -> Refit:
        """Simulate effects of new groups under one of the truths, and fit them."""
        true = self.true.take(np.array([number]))
        simulated = replace(self.design, y=observed_effects(self.design, true, rng)[0])
        draws = self.sample(simulated, int(rng.integers(2**31)))
        few = draws.take(spread_out(draws.size, ranked))
        return Refit(
            _unknowns(simulated, draws),
            _log_likelihood(simulated, few),
            float(_log_likelihood(simulated, true)[0]),
            find_problems(draws, convergence(simulated, draws)),
        )


def make_clustered_sampler(
    design: Design, prior: Priors, *, engine: str | Sampler, draws: int
) -> Sampler:
    """The function that fits one set of effects.

    Raises
    ------
    FitError
        For an unknown engine, or too few draws.
    """
    check_whole("draws", draws, least=100)
    if callable(engine):
        return engine
    if engine == "collapsed":
        if any(term.random for term in design.terms):
            raise FitError("random intercepts of ln τ² need engine='nuts', got 'collapsed'")
        resolved = resolve_priors(design, prior)
        return lambda simulated, seed: sample_collapsed(simulated, resolved, draws=draws, seed=seed)
    if engine == "nuts":
        return _compiled_nuts(design, prior, draws=draws)
    raise unknown_engine(engine)


def _compiled_nuts(design: Design, prior: Priors, *, draws: int) -> Sampler:
    """NUTS on a model that is compiled once and given each set of effects."""
    compiled, _ = compile_for(build_pymc_model(design, prior), design, prior, seed=0)

    def sample(simulated: Design, seed: int) -> Draws:
        posterior, stats = run_nuts(
            lambda: (compiled.with_data(y=simulated.y), False),
            draws=-(-draws // CHAINS),
            tune=TUNE,
            chains=CHAINS,
            seed=seed,
            target_accept=0.95,
            progress=False,
        )
        return read_chains(posterior, stats, None)

    return sample


def repeat_truth(
    design: Design,
    *,
    location: Array,
    scale: Array,
    correlation: Array,
    size: int,
) -> Draws:
    """One truth over and over: β (p,), α (q,) of all terms, correlations by `pair_names`.

    Raises
    ------
    FitError
        With random intercepts of ln τ², and for correlations that no effects can have.
    """
    if any(term.random for term in design.terms):
        raise FitError(
            "coverage does not take random intercepts of ln τ², whose levels are drawn anew; "
            "calibrate does"
        )
    terms, rest, pairs = {}, scale, correlation
    for term in design.terms:
        alpha, rest = np.split(rest, [len(term.names)])
        R = np.eye(len(term.effects))
        if term.correlation != "none" and len(R) > 1:
            i, j = np.tril_indices(len(R), -1)
            own, pairs = np.split(pairs, [len(i)])
            R[i, j] = R[j, i] = own
            _check_correlations(term, R, own)
        kappa = kappas_of(R[None], term.correlation)
        terms[term.name] = TermDraws(term, np.tile(alpha, (size, 1)), np.tile(kappa, (size, 1)))
    return join_terms(np.tile(location, (size, 1)), terms)


def _check_correlations(term: ScaleTerm, R: Array, own: Array) -> None:
    if term.correlation == "compound_symmetric" and np.ptp(own) > 0:
        raise FitError(
            f"the correlations of {term.name!r} are all alike (compound_symmetric); got "
            f"{', '.join(f'{each:g}' for each in own)}"
        )
    smallest = float(np.linalg.eigvalsh(R)[0])
    if not smallest > 0:
        raise FitError(
            f"the true correlations of {term.name!r} are not those of a positive definite matrix "
            f"(its smallest eigenvalue is {smallest:.3g})"
        )


def observed_effects(design: Design, draws: Draws, rng: np.random.Generator) -> Array:
    """New effects y (draws, n) of new groups as large as the observed, one set for each draw."""
    mean = draws.flat_location @ design.X.T
    return mean + ConditionalEffects(design, draws).unfold(rng.standard_normal(mean.shape))


def _unknowns(design: Design, draws: Draws) -> Array:
    return np.hstack(
        [values.reshape(-1, len(names)) for names, values in draws.parts(design).values()]
    )


def _log_likelihood(design: Design, draws: Draws) -> Array:
    """ln p(y | β, α, R) of each draw, the effects of the groups integrated out."""
    location = draws.flat_location
    sums = RowSums(design, location.mean(axis=0))
    given = sums.of(np.arange(len(design.y)), flat_coefficients(split_terms(design, draws)))
    return np.asarray(given.log_density(location - sums.mean))
