"""Which scale terms' effects are in a true effect."""

from __future__ import annotations

from collections.abc import Sequence

from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError


def chosen_terms(design: Design, terms: Sequence[str] | None) -> list[str]:
    """The scale terms that are asked for; by default all but the residual of individual data.

    A FitError refuses an unknown one, and names that are not in a list.
    """
    if terms is None:
        individual = not (design.v > 0).any()
        names = [term.name for term in design.terms]
        return [name for name in names if not (individual and name == "residual")]
    return known_terms(design, terms, "terms")


def known_terms(design: Design, names: Sequence[str], what: str) -> list[str]:
    """Names of scale terms, checked; `what` is the option that they were given by."""
    if isinstance(names, str):
        raise FitError(f"{what} must be a list of scale terms, got {names!r}; write [{names!r}]")
    known = [term.name for term in design.terms]
    for name in names:
        if name not in known:
            there = ", ".join(map(repr, known))
            raise FitError(f"there is no scale term {name!r}; there are {there}")
    return list(names)
