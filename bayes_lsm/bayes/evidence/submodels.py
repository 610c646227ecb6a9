"""Models without some of the terms of another: which there are, and their priors.

A term is kept or left out as a whole, all columns of a factor together, and never while a term
that contains it (``a`` in ``a:b``) is kept. Then the columns of the smaller model are columns of
the larger, and its prior is the larger one's given that the others are zero: see
`PriorBlock.restricted`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from bayes_lsm.design.coefficients import scale_places
from bayes_lsm.design.design import Design
from bayes_lsm.design.part import Part
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import FitError
from bayes_lsm.priors import ResolvedPriors

CORRELATIONS = "correlations"
_SPANNED = 1e-8  # of the length of the constant


@dataclass(frozen=True)
class Term:
    """A term of a formula, ``continent`` or ``I(weeks - 40)``; the intercept is ``intrcpt``.

    `columns` are those of X, or its coefficients among the α and κ of all scale terms; `optional`
    are terms that the model can do without: not the intercept, nor a factor that stands in for it.
    `factors` are those of an interaction. Where there are several scale terms its `label` is
    ``district: continent``, with the `grouping` of its scale term.
    """

    name: str
    columns: tuple[int, ...]
    optional: bool
    factors: frozenset[str]
    label: str
    grouping: str = ""


@dataclass(frozen=True)
class SubModel:
    """Which terms, by their labels, and which columns of either part a model keeps."""

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
        name = "intrcpt" if intercept else str(structure.term)
        optional = not intercept and not _carries_level(part, columns)
        found.append(Term(name, columns, optional, frozenset() if intercept else names, name))
    return tuple(found)


def terms_of_parts(design: Design) -> dict[str, tuple[Term, ...]]:
    """The terms of the location formula, and those of all scale formulas with the correlations."""
    found: list[Term] = []
    alone = len(design.terms) == 1
    for term, at in zip(design.terms, design.places, strict=True):
        q, kappas = len(term.names), term.n_correlations
        own = list(_of_effects(term))
        if kappas:
            places = tuple(range(q, q + kappas))
            own.append(Term(CORRELATIONS, places, False, frozenset(), CORRELATIONS))
        for each in own:
            label = each.name if alone else f"{term.name}: {each.name}"
            columns = tuple(at.start + j for j in each.columns)
            found.append(replace(each, columns=columns, grouping=term.name, label=label))
    return {"location": find_terms(design.location), "scale": tuple(found)}


def _of_effects(term: ScaleTerm) -> Iterator[Term]:
    """The terms of its formula; of each effect by itself where they differ in coefficients."""
    terms, size = find_terms(term.part), len(term.part.names)
    if term.slope_part is None or len(term.effects) == 1:
        yield from terms
        return
    for k, effect in enumerate(term.effects):
        for each in terms:
            columns = tuple(k * size + j for j in each.columns)
            factors = frozenset(f"{effect}: {factor}" for factor in each.factors)
            yield replace(each, name=f"{effect}: {each.name}", columns=columns, factors=factors)


def in_words(terms: Sequence[Term]) -> str:
    """A formula's right-hand side: ``1``, ``continent + weeks``, ``0 + continent``.

    Of several scale terms ``district: 1, school: year``.
    """
    words: dict[str, list[str]] = {}
    for term in terms:
        start = term.label.removesuffix(term.name)
        words.setdefault(start, []).extend([term.name] if term.name != CORRELATIONS else [])
    return ", ".join(start + _right_hand_side(names) for start, names in words.items())


def _right_hand_side(names: Sequence[str]) -> str:
    rest = [name for name in names if name != "intrcpt"]
    if len(rest) < len(names):
        return " + ".join(rest) or "1"
    return " + ".join(["0", *rest])


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
    fixed = [not term.optional or term.label in kept for term in terms]
    choices = product(*[(True,) if always else (False, True) for always in fixed])
    subsets = [
        tuple(term for term, keep in zip(terms, choice, strict=True) if keep) for choice in choices
    ]
    whole = _formulas(terms)
    subsets = [
        subset
        for subset in subsets
        if _formulas(subset) == whole and _respects_marginality(subset, terms)
    ]
    return sorted(subsets, key=len)


def _formulas(terms: Sequence[Term]) -> set[tuple[str, str]]:
    """Which formulas are not empty, by the groupings and effects of their scale terms."""
    return {
        (term.grouping, term.name.rpartition(": ")[0])
        for term in terms
        if term.name != CORRELATIONS
    }


def _respects_marginality(subset: Sequence[Term], terms: Sequence[Term]) -> bool:
    return all(
        lower in subset
        for higher in subset
        for lower in terms
        if lower.grouping == higher.grouping and lower.factors and lower.factors < higher.factors
    )


def combine(location: Sequence[Term], scale: Sequence[Term]) -> SubModel:
    """A model with these terms."""
    return SubModel(
        tuple(term.label for term in location),
        tuple(term.label for term in scale),
        tuple(j for term in location for j in term.columns),
        tuple(j for term in scale for j in term.columns),
    )


def take_submodel(
    design: Design, priors: ResolvedPriors, location: Sequence[int], scale: Sequence[int]
) -> tuple[Design, ResolvedPriors]:
    """The model of these coefficients, with all others at zero, and its priors.

    Of the scale part they are counted among the α and κ of all terms.
    """
    own = replace(
        priors, location=priors.location.restricted(location), scale=priors.scale.restricted(scale)
    )
    left_out = [j for j, place in enumerate(scale_places(design)) if place not in scale]
    fewer = design.without([j for j in range(design.X.shape[1]) if j not in location], left_out)
    terms = [
        replace(term, correlation="none")
        if len(term.effects) == 2 and at.stop - 1 not in scale
        else term
        for term, at in zip(fewer.terms, design.places, strict=True)
    ]
    return replace(fewer, terms=tuple(terms)), own


def require_terms(part: str, names: Sequence[str], terms: Sequence[Term]) -> None:
    """Refuse a name that is not one of the terms, by a FitError."""
    known = [term.label for term in terms]
    for name in names:
        if name not in known:
            raise FitError(
                f"there is no {part} term {name!r}; the {part} terms are "
                f"{', '.join(map(repr, known))}"
            )
