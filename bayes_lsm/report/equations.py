"""A model in words and in equations of plain characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bayes_lsm.design import Design

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def in_equations(design: Design) -> tuple[str, ...]:
    """The model's distributions, and its two linear predictors term by term.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel.from_file("preterm_weeks")
    >>> print("\\n".join(in_equations(model.design)))
    yᵢ ~ Normal(θᵢ, vᵢ)
    θᵢ ~ Normal(μᵢ, τᵢ²)
    μᵢ = β₀ + β₁ (weeks - 40)ᵢ
    ln τᵢ² = α₀ + α₁ (weeks - 40)ᵢ
    """
    robust = design.specification.study_effects == "student_t"
    return (
        "yᵢ ~ Normal(θᵢ, vᵢ)",
        "θᵢ ~ t(ν, μᵢ, τᵢ²)" if robust else "θᵢ ~ Normal(μᵢ, τᵢ²)",
        f"μᵢ = {_sum('β', design.location.names)}",
        f"ln τᵢ² = {_sum('α', design.scale.names)}",
    )


def in_words(design: Design) -> str:
    """The model in two sentences."""
    words = design.specification
    mean, spread = _moderators(design.location.names), _moderators(design.scale.names)
    first = f"depends on {mean}" if mean else "is one for all studies"
    second = f"depends on {spread}" if spread else "is one for all studies"
    if words.study_effects == "student_t":
        around, square = "follow a t distribution with ν degrees of freedom", "squared scale"
    else:
        around, square = "are normal", "variance"
    return (
        f"The observed effect {words.effect} of a study is its true effect and a sampling error of "
        f"known variance ({words.variance}). True effects {around} around a mean that "
        f"{first}; the logarithm of their {square} τ², the heterogeneity, {second}."
    )


def _moderators(names: Sequence[str]) -> str:
    terms = [_plain(name) for name in names if name != "intrcpt"]
    return " and ".join([", ".join(terms[:-1]), terms[-1]] if len(terms) > 1 else terms)


def _sum(letter: str, names: Sequence[str]) -> str:
    terms = [
        f"{letter}{j}".translate(_SUBSCRIPTS) + ("" if name == "intrcpt" else f" {_plain(name)}ᵢ")
        for j, name in enumerate(names)
    ]
    return " + ".join(terms)


def _plain(name: str) -> str:
    """A term without the formula language's ``I``."""
    return name[1:] if name.startswith("I(") and name.endswith(")") else name
