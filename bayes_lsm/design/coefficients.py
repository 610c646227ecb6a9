"""The scale coefficients and correlations of a design by name.

With several scale terms a coefficient is called ``"school: size"``, a correlation
``"outcome | trial: AL, PD"``, by the grouping of its term; where no other term has one of that
name, ``"size"`` is enough. With one term that is what it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError


@dataclass(frozen=True)
class Coefficient:
    """A scale coefficient: number `j` of term number `t`, and its whole name."""

    t: int
    j: int
    grouping: str
    name: str
    label: str


@dataclass(frozen=True)
class Pair:
    """The correlation of two effects, `a` before `b`, of a group of term number `t`."""

    t: int
    a: int
    b: int
    grouping: str
    name: str
    label: str

    @property
    def is_first(self) -> bool:
        """Whether it is that of the first two effects."""
        return (self.a, self.b) == (0, 1)


def coefficients(design: Design) -> list[Coefficient]:
    """All scale coefficients, term by term."""
    return [
        Coefficient(t, j, term.name, name, _label(design, t, name))
        for t, term in enumerate(design.terms)
        for j, name in enumerate(term.names)
    ]


def pairs(design: Design) -> list[Pair]:
    """All pairs of correlated effects, term by term."""
    return [
        Pair(t, a, b, term.name, name, _label(design, t, name))
        for t, term in enumerate(design.terms)
        if term.n_correlations
        for b in range(len(term.effects))
        for a in range(b)
        for name in (f"{term.effects[a]}, {term.effects[b]}",)
    ]


def _label(design: Design, t: int, name: str) -> str:
    return name if len(design.terms) == 1 else f"{design.terms[t].name}: {name}"


def scale_places(design: Design) -> npt.NDArray[np.intp]:
    """Where the scale coefficients stand among all of a model's, κ of the terms included."""
    each = zip(design.places, design.terms, strict=True)
    return np.concatenate([at.start + np.arange(len(term.names)) for at, term in each])


class Named(Protocol):
    """What can be found by its name."""

    @property
    def grouping(self) -> str:
        """Of its scale term."""

    @property
    def name(self) -> str:
        """Among those of the same scale term."""

    @property
    def label(self) -> str:
        """Its whole name."""


def find[T: Named](wanted: str, known: Sequence[T], what: str) -> T:
    """The one that is called so; a FitError when there is none, or several scale terms have one."""
    for each in known:
        if wanted in (each.label, f"{each.grouping}: {each.name}"):
            return each
    found = [each for each in known if each.name == wanted]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(repr(each.label) for each in found or known)
    if found:
        raise FitError(f"several scale terms have {wanted!r}; write one of {listed}")
    raise FitError(f"there is no {what} {wanted!r}; there are {listed or 'none'}")


def term_columns(
    part: str, names: Sequence[str], terms: str | Sequence[str] | None = None
) -> list[int]:
    """Columns of some terms of a part; of all its moderators (or the intercept) by default.

    A FitError refuses an unknown term, one that several scale terms have, and one given twice.
    """
    if terms is None:
        return [j for j, name in enumerate(names) if name.split(": ")[-1] != "intrcpt"] or [0]
    given = [terms] if isinstance(terms, str) else list(terms)
    if not given:
        raise FitError(f"no terms are given; the {part} terms are {', '.join(names)}")
    wanted = [_whole_name(part, names, term) for term in given]
    if len(set(wanted)) < len(wanted):
        raise FitError(f"each term can be given once, got {', '.join(wanted)}")
    return [list(names).index(term) for term in wanted]


def _whole_name(part: str, names: Sequence[str], term: str) -> str:
    """The term as it is called; of several scale terms, with the grouping that it may leave out."""
    if term in names:
        return term
    found = [name for name in names if name.endswith(f": {term}")]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(map(repr, found))
        raise FitError(f"several scale terms have {term!r}; write one of {listed}")
    raise FitError(f"there is no {part} term {term!r}; the {part} terms are {', '.join(names)}")
