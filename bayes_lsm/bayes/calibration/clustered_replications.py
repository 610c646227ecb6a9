"""What `replications` asks of a model with several scale terms: its truths, new effects, a fit.

Truths are held as a fit holds draws, so that one piece of code reads coefficients, correlations and
random intercepts of ln τ² off either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bayes_lsm.bayes.calibration.replications import (
    CHAINS,
    TUNE,
    Names,
    Refit,
    check_whole,
    spread_out,
    unknown_engine,
)
from bayes_lsm.bayes.clustered_draws import (
    TermDraws,
    flat_coefficients,
    take_draws,
)
from bayes_lsm.bayes.clustered_fit import ClusteredBayesFit
from bayes_lsm.bayes.clustered_fitting import fit_collapsed, sampled_fit
from bayes_lsm.bayes.cross_validation.clustered_deletion import RowSums
from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.engines.clustered_nuts import compile_clustered, sample_clustered_nuts
from bayes_lsm.bayes.prediction.group_effects import GroupEffects
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import FitError
from bayes_lsm.priors import Priors

ClusteredSampler = Callable[[Design, int], ClusteredBayesFit]


@dataclass(frozen=True, eq=False)
class Clusters:
    """The world of a model with several scale terms.

    The unknowns are all that `ClusteredBayesFit.parts` lists: random intercepts of ln τ² and their
    SDs, too.

    Attributes
    ----------
    true : ClusteredBayesFit
        Each draw is a truth.
    sample : function of a design and a seed
    """

    true: ClusteredBayesFit
    sample: ClusteredSampler

    @property
    def names(self) -> Names:
        """Part and term of the unknowns."""
        return tuple(
            (part, term) for part, (terms, _) in self.true.parts().items() for term in terms
        )

    @cached_property
    def truth(self) -> Array:
        """Their true values, shape (m, P)."""
        return _unknowns(self.true)

    def refit(self, number: int, ranked: int, rng: np.random.Generator) -> Refit:
        """Simulate effects of new groups under one of the truths, and fit them."""
        true = take_draws(self.true, np.array([number]))
        y = observed_effects(true, rng)[0]
        simulated = replace(true.design, y=y)
        fit = self.sample(simulated, int(rng.integers(2**31)))
        values = _unknowns(fit)
        few = take_draws(fit, spread_out(len(values), ranked))
        return Refit(
            values,
            _log_likelihood(simulated, few),
            float(_log_likelihood(simulated, true)[0]),
            list(fit.problems),
        )


def make_clustered_sampler(
    design: Design, prior: Priors, *, engine: str | ClusteredSampler, draws: int
) -> ClusteredSampler:
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
        return lambda simulated, seed: fit_collapsed(
            simulated, prior, resolved, draws=draws, seed=seed
        )
    if engine == "nuts":
        return _compiled_nuts(design, prior, draws=draws)
    raise unknown_engine(engine)


def _compiled_nuts(design: Design, prior: Priors, *, draws: int) -> ClusteredSampler:
    """NUTS on a model that is compiled once and given each set of effects."""
    compiled = compile_clustered(design, prior)

    def sample(simulated: Design, seed: int) -> ClusteredBayesFit:
        drawn = sample_clustered_nuts(
            lambda: compiled.with_data(y=simulated.y),
            draws=-(-draws // CHAINS),
            tune=TUNE,
            chains=CHAINS,
            seed=seed,
            target_accept=0.95,
            progress=False,
        )
        return sampled_fit(simulated, prior, drawn, seed)

    return sample


def repeat_truth(
    design: Design,
    prior: Priors,
    *,
    location: Array,
    scale: Array,
    correlation: Array,
    size: int,
) -> ClusteredBayesFit:
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
        terms[term.name] = TermDraws(term, np.tile(alpha, (size, 1)), np.tile(R, (size, 1, 1)))
    return ClusteredBayesFit(design, prior, np.tile(location, (size, 1)), terms, None, 0, ())


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


def observed_effects(fit: ClusteredBayesFit, rng: np.random.Generator) -> Array:
    """New effects y (draws, n) of new groups as large as the observed, one set for each draw."""
    mean = fit.beta @ fit.design.X.T
    return mean + GroupEffects(fit).unfold(rng.standard_normal(mean.shape))


def _unknowns(fit: ClusteredBayesFit) -> Array:
    return np.hstack([values for _, values in fit.parts().values()])


def _log_likelihood(design: Design, fit: ClusteredBayesFit) -> Array:
    """ln p(y | β, α, R) of each draw, the effects of the groups integrated out."""
    sums = RowSums(design, fit.beta.mean(axis=0))
    rows = np.arange(len(design.y))
    given = sums.of(rows, flat_coefficients(fit))
    return np.asarray(given.log_density(fit.beta - sums.mean))
