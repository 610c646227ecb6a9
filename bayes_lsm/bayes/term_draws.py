"""Draws by scale term: each with its own coefficients, correlations and random intercepts.

`Draws` has the coefficients of all terms beside each other. `split_terms` shows them term by term,
`join_terms` goes the other way. `flat_coefficients` are α and κ as the likelihood wants them, and
`terms_of` reads those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import Draws, Importance, row_blocks
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.formulas.random_intercepts import RandomIntercept
from bayes_lsm.likelihood.blocks.correlation_matrices import (
    correlation_matrices,
    pair_correlations,
)
from bayes_lsm.links import tau2_from_log


@dataclass(frozen=True, eq=False)
class RandomInterceptDraws:
    """Draws of random intercepts of ln τ²: SDs (draws,), and effects of levels (draws, L)."""

    of: RandomIntercept
    sd: Array
    effect: Array


@dataclass(frozen=True, eq=False)
class TermDraws:
    """Draws of one scale term: α (draws, q), κ of correlations (draws, c), random intercepts."""

    term: ScaleTerm
    alpha: Array
    kappa: Array
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

    @cached_property
    def correlation(self) -> Array:
        """Correlation matrices (draws, s, s) of the effects of a group."""
        return correlation_matrices(self.kappa, len(self.term.effects), self.term.correlation)

    @property
    def pairs(self) -> tuple[tuple[str, ...], Array]:
        """The correlations by the names of their pairs, and their draws (draws, pairs)."""
        each = pair_correlations(self.kappa, len(self.term.effects), self.term.correlation)
        return self.term.pairs, each


def split_terms(design: Design, draws: Draws) -> dict[str, TermDraws]:
    """The draws of each scale term, by its grouping; all chains as one."""
    empty = np.empty((draws.size, 0))
    named = {
        "scale": draws.scale,
        "kappa": draws.kappa,
        "scale_sd": draws.scale_sd,
        "scale_effect": draws.scale_effect,
    }
    rest = {
        name: empty if values is None else values.reshape(draws.size, -1)
        for name, values in named.items()
    }

    def take(name: str, columns: int) -> Array:
        taken, rest[name] = np.split(rest[name], [columns], axis=1)
        return np.asarray(taken)

    return {
        term.name: TermDraws(
            term,
            take("scale", len(term.names)),
            take("kappa", term.n_correlations),
            tuple(
                RandomInterceptDraws(
                    each, take("scale_sd", 1)[:, 0], take("scale_effect", len(each.levels))
                )
                for each in term.random
            ),
        )
        for term in design.terms
    }


def join_terms(
    location: Array, terms: Mapping[str, TermDraws], importance: Importance | None = None
) -> Draws:
    """Draws of β (S, p) and of all scale terms as one chain."""
    random = [each for term in terms.values() for each in term.random]
    found: dict[str, list[Array]] = {
        "scale": [each.alpha for each in terms.values()],
        "kappa": [each.kappa for each in terms.values() if each.term.n_correlations],
        "scale_sd": [each.sd[:, None] for each in random],
        "scale_effect": [each.effect for each in random],
    }
    values: dict[str, Any] = {
        name: np.concatenate(parts, axis=1)[None] for name, parts in found.items() if parts
    }
    return Draws(location[None], **values, importance=importance)


def terms_of(design: Design, coefficients: Array) -> dict[str, TermDraws]:
    """The draws of each term from α and κ of all terms (S, Q), without random intercepts."""
    terms = {}
    for term, at in zip(design.terms, design.places, strict=True):
        alpha, kappa = np.split(coefficients[:, at], [len(term.names)], axis=1)
        terms[term.name] = TermDraws(term, alpha, kappa)
    return terms


def flat_coefficients(terms: Mapping[str, TermDraws]) -> Array:
    """α, the effects of random intercepts and κ, term by term, shape (draws, Q).

    In the order of `likelihood.blocks.arrange.likelihood_terms`.
    """
    columns: list[Array] = []
    for each in terms.values():
        columns += [each.alpha, *(random.effect for random in each.random), each.kappa]
    return np.ascontiguousarray(np.hstack(columns))


def are_random(design: Design) -> npt.NDArray[np.bool_]:
    """Which of the columns of `flat_coefficients` are effects of random intercepts."""
    found = [
        np.repeat(
            [False, True, False],
            (len(term.names), sum(len(each.levels) for each in term.random), term.n_correlations),
        )
        for term in design.terms
    ]
    return np.concatenate(found)
