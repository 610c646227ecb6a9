"""What the priors of a model with several scale terms say, level by level, before the data do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.bayes.draws import Array, row_blocks
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prediction.clustered_effects import chosen_terms
from bayes_lsm.bayes.prior_predictive import (
    PROBABILITIES,
    PriorQuantiles,
    exp,
    per_what,
    quantile_names,
)
from bayes_lsm.bayes.resolved_priors.clustered_prior import draw_from_prior
from bayes_lsm.bayes.resolved_priors.resolve import DEFAULT_SCALE_SD, pieces
from bayes_lsm.bayes.term_draws import TermDraws
from bayes_lsm.design.design import Design
from bayes_lsm.priors import Priors, contrasts

Index = npt.NDArray[np.intp]
Found = Iterator[tuple[tuple[str, str], Array]]


@dataclass(frozen=True, eq=False)
class LevelPriorPredictive(PriorQuantiles):
    """Quantiles of what the priors of a model with several scale terms imply.

    Attributes
    ----------
    design : Design
    priors : Priors
    drawn : BayesFit
        Draws from the priors, held as a fit holds those of the posterior: its `predict`,
        `heterogeneity` and the like say what the priors imply (the notes below their tables are
        those of a posterior).
    seed : int
        What to pass to `prior_predictive` for the same draws again.
    """

    design: Design
    priors: Priors
    drawn: Posterior
    seed: int

    @cached_property
    def tau(self) -> pd.DataFrame:
        """Quantiles of the τ of each effect of each group, indexed by grouping, group and effect.

        Effects that have no rows in a group are left out.
        """
        return pd.concat([_tau_of_groups(each) for each in self.drawn.terms.values()])

    @cached_property
    def table(self) -> pd.DataFrame:
        """The quantiles that are printed, indexed by what they are of, and where.

        For each scale term ``tau`` of a group with average moderators (or of each level in
        ``0 + outcome``) and, where groups differ, of one picked at random; ``tau_ratio`` as with
        one scale term; ``scale_sd`` of random intercepts of ln τ²; ``correlation`` of effects.
        ``tau`` in total: the SD of the true effect of a row picked at random, all levels together.
        ``effect``: the mean of average rows, the true and the observed effect of such a row.
        """
        rng = np.random.default_rng([self.seed, 1])
        found = dict(pair for each in self.drawn.terms.values() for pair in _of_term(each, rng))
        found |= self._effects(rng)
        order = ["tau", "tau_ratio", "scale_sd", "correlation", "effect"]
        keys = sorted(found, key=lambda key: order.index(key[0]))
        quantiles = [np.quantile(found[key], PROBABILITIES) for key in keys]
        index = pd.MultiIndex.from_tuples(keys, names=["part", "of"])
        return pd.DataFrame(quantiles, index, quantile_names())

    def _effects(self, rng: np.random.Generator) -> dict[tuple[str, str], Array]:
        design, beta = self.design, self.drawn.draws.flat_location
        row = rng.integers(len(design.y), size=len(beta))
        variance = {name: _variance(each, row) for name, each in self.drawn.terms.items()}
        kept = chosen_terms(self.drawn, None)
        between = np.sum([variance[name] for name in kept], axis=0) if kept else np.zeros(len(beta))
        total = np.sum(list(variance.values()), axis=0) + design.v[row]
        rows, levels = contrasts(design.X, "standardised")
        names = design.location.names
        found: dict[tuple[str, str], Array] = {}
        if len(kept) > 1 or any(len(self.drawn.terms[name].term.effects) > 1 for name in kept):
            found["tau", "total, any row"] = np.sqrt(between)
        for j in levels:
            what = "average rows" if len(levels) == 1 else names[j]
            found["effect", f"mean of {what}"] = beta @ rows[j]
        mean = np.einsum("ij,ij->i", beta, design.X[row])
        z = rng.standard_normal((2, len(beta)))
        true = mean + np.sqrt(between) * z[0]
        found["effect", "true, of any row"] = true
        found["effect", "observed, of any row"] = true + np.sqrt(total - between) * z[1]
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """How it was made."""
        priors = self.priors
        if priors.scale_sd is None and any(term.random for term in self.design.terms):
            priors = priors.model_copy(update={"scale_sd": DEFAULT_SCALE_SD})
        made = f"{self.drawn.draws.size} draws from the priors, seed {self.seed}"
        return (f"{made}; priors: {priors.describe()}", *self.design.notes)


def level_prior_predictive(
    design: Design, prior: Priors, *, draws: int, seed: int
) -> LevelPriorPredictive:
    """What the priors imply for τ of each level, correlations, and effects.

    Parameters
    ----------
    design : Design
    prior : Priors
    draws : int
    seed : int

    Raises
    ------
    PriorError
        When a prior is flat, or names a term that the model does not have.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel.from_file("konstantopoulos2011")
    >>> said = model.prior_predictive(seed=1)
    >>> said.table.loc[("tau", "total, any row")].round(1).to_list()
    [0.1, 0.2, 0.4, 0.6, 2.2]
    """
    rng = np.random.default_rng(seed)
    drawn = draw_from_prior(design, prior, size=draws, seed=seed, rng=rng)
    return LevelPriorPredictive(design, prior, drawn, seed)


def _of_term(each: TermDraws, rng: np.random.Generator) -> Found:
    """What the priors of one scale term imply."""
    term, first = each.term, 0
    of_pieces = list(pieces(term))
    for piece, _ in of_pieces:
        where = term.name if len(of_pieces) == 1 else f"{term.name}: {piece.effects[0]}"
        alpha = each.alpha[:, first : first + len(piece.names)]
        first += len(piece.names)
        yield from _of_formula(where, piece.names, piece.Z[piece.used], alpha)
    group, effect = np.nonzero(term.used)
    chosen = rng.integers(len(group), size=len(each.alpha))
    if each.random or np.ptp(term.table[term.used.ravel()], axis=0).any():
        tau = _tau(each, group[chosen])[np.arange(len(chosen)), effect[chosen]]
        yield ("tau", f"{term.name}, any group"), tau
    for random in each.random:
        yield ("scale_sd", f"{term.name}: {random.of.column}"), random.sd
    names, values = each.pairs
    for name, correlation in zip(names, values.T, strict=True):
        yield ("correlation", f"{term.name}: {name}"), correlation


def _of_formula(where: str, names: tuple[str, ...], Z: Array, alpha: Array) -> Found:
    """τ at average moderators, and by what moderators multiply it."""
    rows, levels = contrasts(Z, "standardised")
    log_tau = 0.5 * alpha @ rows.T
    for j in levels:
        label = f"{where}, average group" if len(levels) == 1 else f"{where}, {names[j]}"
        yield ("tau", label), exp(log_tau[:, j])
    for j in levels[1:]:
        ratio = log_tau[:, j] - log_tau[:, levels[0]]
        yield ("tau_ratio", f"{where}, {names[j]} / {names[levels[0]]}"), exp(ratio)
    for j in sorted(set(range(len(names))) - set(levels)):
        yield ("tau_ratio", f"{where}, {per_what(names[j], Z[:, j])}"), exp(log_tau[:, j])


def _tau(each: TermDraws, group: Index) -> Array:
    """τ (S, s) of the effects of one group for each draw."""
    draw = np.arange(len(group))[:, None]
    eta: Array = np.einsum("ask,ak->as", each.term.Z[group], each.alpha)
    for random in each.random:
        eta += random.effect[draw, random.of.index[group]]
    return exp(0.5 * eta)


def _variance(each: TermDraws, row: Index) -> Array:
    """The variance (S,) that a term gives one row for each draw."""
    slopes = each.term.slopes[row]
    # An effect that the row does not have may have a τ of any size.
    loads = slopes * np.where(slopes == 0, 0.0, _tau(each, each.term.index[row]))
    total: Array = np.einsum("as,ast,at->a", loads, each.correlation, loads)
    return np.maximum(total, 0.0)


def _tau_of_groups(each: TermDraws) -> pd.DataFrame:
    term = each.term
    group, effect = np.nonzero(term.used)
    unit = group * len(term.effects) + effect
    # exp() goes up only, so the quantiles of τ are those of ln τ², taken to τ.
    parts = [
        np.quantile(each.log_tau2(unit[block]), PROBABILITIES, axis=1).T
        for block in row_blocks(len(unit), len(each.alpha))
    ]
    keys = [
        (term.name, term.groups[g], term.effects[k]) for g, k in zip(group, effect, strict=True)
    ]
    index = pd.MultiIndex.from_tuples(keys, names=["grouping", "group", "effect"])
    return pd.DataFrame(exp(0.5 * np.concatenate(parts)), index, quantile_names())
