"""What the coefficients of ln τ² are called: alone where there is one scale term, else with it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm


def full_name(design: Design, term: ScaleTerm, name: str) -> str:
    """The name of something that a scale term has: ``"year"``, or ``"district: year"``."""
    return name if len(design.terms) == 1 else f"{term.name}: {name}"


def scale_names(design: Design) -> list[str]:
    """The coefficients of all scale terms: ``"intrcpt"``, or ``"district: intrcpt"``.

    Examples
    --------
    >>> from bayes_lsm.datasets import load_dataset
    >>> from bayes_lsm.design.design import build_design
    >>> from bayes_lsm.specification import Specification
    >>> schools = load_dataset("konstantopoulos2011")
    >>> for scale in ("~ year", {"district": "~ 1", "district/school": "~ year"}):
    ...     scale_names(build_design(Specification("yi ~ 1", "vi", scale=scale), schools))
    ['intrcpt', 'year']
    ['district: intrcpt', 'district/school: intrcpt', 'district/school: year']
    """
    return [full_name(design, term, name) for term in design.terms for name in term.names]


def pair_names(design: Design) -> list[str]:
    """The correlations of all scale terms: ``"AL, PD"``, or ``"outcome | trial: AL, PD"``."""
    return [
        full_name(design, term, pair) for term in design.terms for pair in pairs_of_effects(term)
    ]


def random_names(design: Design) -> list[str]:
    """The random intercepts of ln τ² of all scale terms: ``"country"``, or ``"study: country"``."""
    return [full_name(design, term, each.column) for term in design.terms for each in term.random]


def level_names(design: Design) -> list[str]:
    """The levels of all of them: ``"country[Norway]"``, or ``"study: country[Norway]"``."""
    return [
        full_name(design, term, f"{each.column}[{level}]")
        for term in design.terms
        for each in term.random
        for level in each.levels
    ]


def pairs_of_effects(term: ScaleTerm) -> list[str]:
    """The effects of a group that are correlated, two by two: ``"AL, PD"``."""
    if not term.n_correlations:
        return []
    return [
        f"{term.effects[j]}, {term.effects[i]}" for i in range(len(term.effects)) for j in range(i)
    ]


def are_correlations(design: Design) -> npt.NDArray[np.bool_]:
    """Which coefficients are κ: each term has those of ln τ² first, then its κ."""
    sizes = [size for term in design.terms for size in (len(term.names), term.n_correlations)]
    return np.repeat(np.tile([False, True], len(design.terms)), sizes)
