"""Draws of the scale terms, one by one and as the likelihood reads them together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bayes_lsm.bayes.draws import Array, row_blocks
from bayes_lsm.design.scale_terms import ScaleTerm, correlation_count
from bayes_lsm.formulas.random_intercepts import RandomIntercept
from bayes_lsm.likelihood.blocks.correlation_matrices import kappas_of
from bayes_lsm.links import tau2_from_log

if TYPE_CHECKING:
    from bayes_lsm.bayes.clustered_fit import ClusteredBayesFit


@dataclass(frozen=True, eq=False)
class RandomInterceptDraws:
    """Posterior draws of random intercepts of ln τ².

    Attributes
    ----------
    of : RandomIntercept
    sd : ndarray, shape (draws,)
    effect : ndarray, shape (draws, L)
        Of each level of the column.
    """

    of: RandomIntercept
    sd: Array
    effect: Array


@dataclass(frozen=True, eq=False)
class TermDraws:
    """Posterior draws of one scale term.

    Attributes
    ----------
    term : ScaleTerm
    alpha : ndarray, shape (draws, q)
        Coefficients of ln τ².
    correlation : ndarray, shape (draws, s, s)
        Of the effects of a group.
    random : tuple of RandomInterceptDraws
    """

    term: ScaleTerm
    alpha: Array
    correlation: Array
    random: tuple[RandomInterceptDraws, ...] = ()

    def log_tau2(self, units: slice | npt.NDArray[np.intp], draws: slice = slice(None)) -> Array:
        """Draws of ln τ² of some rows of `ScaleTerm.table`, shape (units, draws)."""
        eta = self.term.table[units] @ self.alpha[draws].T
        for each in self.random:
            eta += each.effect[draws].T[each.of.index.ravel()[units]]
        return np.asarray(eta)

    @property
    def tau2(self) -> Array:
        """Posterior median of τ² of each effect of each group, shape (G, s)."""
        groups, s = self.term.Z.shape[:2]
        medians = [
            np.median(self.log_tau2(units), axis=1)
            for units in row_blocks(groups * s, len(self.alpha))
        ]
        return tau2_from_log(np.concatenate(medians)).reshape(groups, s)

    @property
    def pairs(self) -> tuple[tuple[str, ...], Array]:
        """The correlations by the names of their pairs, and their draws (draws, pairs)."""
        effects = self.term.effects
        if not correlation_count(len(effects), self.term.correlation):
            return (), np.empty((len(self.alpha), 0))
        below = [(i, j) for i in range(len(effects)) for j in range(i)]
        names = tuple(f"{effects[j]}, {effects[i]}" for i, j in below)
        return names, np.column_stack([self.correlation[:, i, j] for i, j in below])


def flat_coefficients(fit: ClusteredBayesFit) -> Array:
    """α, the effects of random intercepts and κ, term by term, shape (draws, Q).

    In the order of `likelihood.terms.likelihood_terms`.
    """
    columns: list[Array] = []
    for each in fit.terms.values():
        kind = each.term.correlation if len(each.term.effects) > 1 else "none"
        columns += [each.alpha, *(random.effect for random in each.random)]
        columns.append(kappas_of(each.correlation, kind))
    return np.ascontiguousarray(np.hstack(columns))


def take_draws(fit: ClusteredBayesFit, chosen: npt.NDArray[np.intp]) -> ClusteredBayesFit:
    """The fit with some of its draws, in the given order, as one chain."""
    terms = {
        name: replace(
            each,
            alpha=each.alpha[chosen],
            correlation=each.correlation[chosen],
            random=tuple(
                replace(random, sd=random.sd[chosen], effect=random.effect[chosen])
                for random in each.random
            ),
        )
        for name, each in fit.terms.items()
    }
    return replace(fit, beta=fit.beta[chosen], terms=terms, chains=1, stats={})


def are_random(fit: ClusteredBayesFit) -> npt.NDArray[np.bool_]:
    """Which of the columns of `flat_coefficients` are effects of random intercepts."""
    found: list[npt.NDArray[np.bool_]] = []
    for each in fit.terms.values():
        term = each.term
        levels = sum(random.effect.shape[1] for random in each.random)
        sizes = (len(term.names), levels, term.n_correlations)
        found.append(np.repeat([False, True, False], sizes))
    return np.concatenate(found)
