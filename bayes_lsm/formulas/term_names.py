"""Names of coefficients, as metafor and R print them rather than as the formula library does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from formulaic import ModelSpec

from bayes_lsm.formulas.grammar import FactorUse

# What a column of the data holds.
Kind = Literal["numbers", "truth values", "text", "categories"]


def term_names(
    spec: ModelSpec, factors: Mapping[str, FactorUse], kinds: Mapping[str, Kind]
) -> tuple[str, ...]:
    """The names of a matrix's columns, in their order.

    ``Intercept`` → ``intrcpt``, ``continent[T.America]`` → ``continentAmerica``, but
    ``C(continent, Sum)[S.America]`` stays. Where two names would be the same all stay in full.
    """
    full: list[str] = []
    short: list[str] = []
    for structure in spec.structure:
        full += structure.columns
        short += [
            _short_name(name, structure.scoped_terms, factors, kinds) for name in structure.columns
        ]
    if len(set(short)) < len(short):
        short = ["intrcpt" if name == "Intercept" else name for name in full]
    return tuple(short)


def _short_name(
    name: str,
    scoped_terms: Sequence[Any],
    factors: Mapping[str, FactorUse],
    kinds: Mapping[str, Kind],
) -> str:
    if name == "Intercept":
        return "intrcpt"
    for scoped in scoped_terms:
        pieces = (re.escape(part.factor.expr) + r"((?:\[.*\])?)" for part in scoped.factors)
        found = re.fullmatch(":".join(pieces), name, re.DOTALL)
        if found is None:
            continue
        short = []
        for part, level in zip(scoped.factors, found.groups(), strict=True):
            use = factors[part.factor.expr]
            level = level[1:-1]
            if part.reduced and level[:2] in {"S.", "H.", "D."}:
                # Not a level's difference from the reference: what it is has to be seen.
                short.append(f"{part.factor.expr}[{level}]")
                continue
            level = level.removeprefix("T.") if part.reduced else level
            if kinds.get(use.categories or "") == "numbers":
                level = level.removesuffix(".0")
            short.append(use.label + level)
        return ":".join(short)
    return name
