"""Models without some of the terms of another: which there are, and their priors.

A term is kept or left out as a whole, all columns of a factor together, and never while a term
that contains it (``a`` in ``a:b``) is kept. Then the columns of the smaller model are columns of
the larger, and its prior is the larger one's given that the others are zero (`subsets.restrict`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.direct import sample_directly
from bayes_lsm.design.design import Design
from bayes_lsm.design.part import Part
from bayes_lsm.design.subsets import restrict, take_columns
from bayes_lsm.errors import FitError
from bayes_lsm.priors import ResolvedPriors
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom

_SPANNED = 1e-8  # of the length of the constant


@dataclass(frozen=True)
class Term:
    """A term of a formula.

    Attributes
    ----------
    name : str
        As in the formula: ``continent``, ``I(weeks - 40)``; the intercept is ``intrcpt``.
    columns : tuple of int
        Its columns in the part's matrix.
    optional : bool
        Whether the model can do without it. Not the intercept, nor a factor that stands in for it.
    factors : frozenset of str
        The factors of an interaction.
    """

    name: str
    columns: tuple[int, ...]
    optional: bool
    factors: frozenset[str]


@dataclass(frozen=True)
class SubModel:
    """Which terms, by name, and which columns of either part a model keeps."""

    location_terms: tuple[str, ...]
    scale_terms: tuple[str, ...]
    location: tuple[int, ...]
    scale: tuple[int, ...]


def find_terms(part: Part) -> tuple[Term, ...]:
    """The terms of a part, in the order of its formula."""
    found: list[Term] = []
    first = 0
    for structure in part.spec.structure:
        columns = tuple(range(first, first + len(structure.columns)))
        first += len(columns)
        intercept = structure.columns == ["Intercept"]
        names = frozenset(factor.expr for factor in structure.term.factors)
        found.append(
            Term(
                "intrcpt" if intercept else str(structure.term),
                columns,
                not intercept and not _carries_level(part, columns),
                frozenset() if intercept else names,
            )
        )
    return tuple(found)


def _carries_level(part: Part, columns: Sequence[int]) -> bool:
    """Whether a constant can be had with these columns and cannot without them."""
    rest = np.delete(part.matrix, columns, axis=1)
    return _spans_constant(part.matrix) and not _spans_constant(rest)


def _spans_constant(matrix: np.ndarray) -> bool:
    if not matrix.shape[1]:
        return False
    ones = np.ones(len(matrix))
    fitted = matrix @ np.linalg.lstsq(matrix, ones, rcond=None)[0]
    return float(np.abs(fitted - 1.0).max()) < _SPANNED


def find_subsets(terms: Sequence[Term], kept: Sequence[str] = ()) -> list[tuple[Term, ...]]:
    """All ways to leave terms out, but for those named in `kept`; the smallest first."""
    fixed = [not term.optional or term.name in kept for term in terms]
    choices = product(*[(True,) if always else (False, True) for always in fixed])
    subsets = [
        tuple(term for term, keep in zip(terms, choice, strict=True) if keep) for choice in choices
    ]
    subsets = [subset for subset in subsets if subset and _respects_marginality(subset, terms)]
    return sorted(subsets, key=len)


def _respects_marginality(subset: Sequence[Term], terms: Sequence[Term]) -> bool:
    return all(
        lower in subset
        for higher in subset
        for lower in terms
        if lower.factors and lower.factors < higher.factors
    )


def combine(location: Sequence[Term], scale: Sequence[Term]) -> SubModel:
    """A model with these terms."""
    return SubModel(
        tuple(term.name for term in location),
        tuple(term.name for term in scale),
        tuple(j for term in location for j in term.columns),
        tuple(j for term in scale for j in term.columns),
    )


def sample_submodel(
    design: Design,
    priors: ResolvedPriors,
    df: DegreesOfFreedom | float | None,
    location: Sequence[int],
    scale: Sequence[int],
    *,
    draws: int,
    seed: int,
) -> Draws:
    """Draws of the coefficients of these columns, with all others at zero."""
    smaller = ResolvedPriors(restrict(priors.location, location), restrict(priors.scale, scale))
    numbers = take_columns(design, location, scale)
    return sample_directly(numbers, smaller, df, draws=draws, seed=seed)


def require_terms(part: str, names: Sequence[str], terms: Sequence[Term]) -> None:
    """Refuse a name that is not one of the terms.

    Raises
    ------
    FitError
    """
    known = [term.name for term in terms]
    for name in names:
        if name not in known:
            raise FitError(
                f"there is no {part} term {name!r}; the {part} terms are "
                f"{', '.join(map(repr, known))}"
            )
