"""Parts of a design: some of its rows, some of its columns, and which rows are one study.

What densities of independent effects need of a design are four arrays, so some rows of one are
those arrays and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bayes_lsm.arrays import Array
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.priors import PriorBlock

Indices = npt.NDArray[np.intp]


class Numbers(Protocol):
    """The arrays of a `Design` of independent effects, or of a part of one."""

    @property
    def is_independent(self) -> bool:
        """Whether the effects are independent, each with a τ² of its own."""

    @property
    def y(self) -> Array:
        """Effects, shape (n,)."""

    @property
    def v(self) -> Array:
        """Sampling variances, shape (n,)."""

    @property
    def X(self) -> Array:
        """Location matrix, shape (n, p)."""

    @property
    def Z(self) -> Array:
        """Scale matrix, shape (n, q)."""


@dataclass(frozen=True, eq=False)
class Subset:
    """Some rows of a design of independent effects."""

    y: Array
    v: Array
    X: Array
    Z: Array

    @property
    def is_independent(self) -> bool:
        """They are."""
        return True


def take_rows(numbers: Numbers, rows: Indices) -> Subset:
    """The given rows, in the given order."""
    return Subset(numbers.y[rows], numbers.v[rows], numbers.X[rows], numbers.Z[rows])


def take_columns(design: Design, location: Sequence[int], scale: Sequence[int]) -> Design:
    """The same rows with these coefficients, in the given order.

    Parameters
    ----------
    design : Design
    location : sequence of int
        Columns of X.
    scale : sequence of int
        Coefficients of ln τ², and κ, counted through all terms: two effects are correlated only
        where their κ is among them.
    """
    terms, first = [], 0
    for term in design.terms:
        q = len(term.names)
        own = [j - first for j in scale if first <= j < first + q]
        names = tuple(term.names[j] for j in own)
        kept = replace(term, names=names, Z=np.ascontiguousarray(term.Z[:, :, own]))
        uncorrelated = len(term.effects) == 2 and first + q not in scale
        terms.append(replace(kept, correlation="none") if uncorrelated else kept)
        first += term.size
    part = design.location
    fewer = replace(
        part,
        names=tuple(part.names[j] for j in location),
        matrix=np.ascontiguousarray(part.matrix[:, list(location)]),
    )
    return replace(design, location=fewer, terms=tuple(terms))


def restrict(block: PriorBlock, kept: Sequence[int]) -> PriorBlock:
    """The prior of some coefficients given that the others are zero.

    It is what the same preset says of the smaller model: of the average study, per SD of each
    moderator that is left. So it is the same statement in a model and in its sub-models.
    """
    kept = list(kept)
    dropped = [j for j in range(len(block.priors)) if j not in kept]
    if np.any(block.contrasts[np.ix_(dropped, kept)]):
        raise FitError(
            "a coefficient that carries the level of a model (its intercept, the means of a "
            "factor without one) cannot be left out; keep it"
        )
    priors = tuple(block.priors[j] for j in kept)
    return replace(block, contrasts=block.contrasts[np.ix_(kept, kept)], priors=priors)


@dataclass(frozen=True, eq=False)
class Studies:
    """The rows of each study, where studies are what is left out.

    Attributes
    ----------
    names : tuple of str, length U
    rows : tuple of ndarray of int, length U
    unit : str, default "study"
        What each of them is.
    """

    names: tuple[str, ...]
    rows: tuple[Indices, ...]
    unit: str = "study"

    @property
    def plural(self) -> str:
        """What they are."""
        return {"study": "studies", "row": "rows"}.get(self.unit, "clusters")


def each_row(design: Design) -> Studies:
    """Every row by itself, whatever it shares with others."""
    return Studies(design.labels, tuple(np.arange(len(design.y))[:, None]), "row")


def group_studies(design: Design) -> Studies:
    """Rows of one name are one study where a column of names was given; else each row is one."""
    if design.specification.study is None:
        return Studies(design.labels, tuple(np.arange(design.n_studies)[:, None]))
    _, first, which = np.unique(np.array(design.labels), return_index=True, return_inverse=True)
    order = np.argsort(first)
    starts = np.argsort(which, kind="stable")
    members = np.split(starts, np.cumsum(np.bincount(which))[:-1])
    return Studies(tuple(design.labels[first[u]] for u in order), tuple(members[u] for u in order))
