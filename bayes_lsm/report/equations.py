"""A model in words and in equations of plain characters."""

from __future__ import annotations

from collections.abc import Sequence

from bayes_lsm.design.design import Design
from bayes_lsm.design.new_data import formula_columns
from bayes_lsm.design.scale_terms import ScaleTerm

_KINDS = {
    "none": "not at all",
    "compound_symmetric": "all alike",
    "unstructured": "each pair on its own",
}
_MOST_TERMS = 10
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def in_equations(design: Design) -> tuple[str, ...]:
    """The model's distributions, and its linear predictors term by term.

    Where each effect has a τ² of its own, in two levels; else as a sum with effects u of groups.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel.from_file("preterm_weeks")
    >>> print("\\n".join(in_equations(model.design)))
    yᵢ ~ Normal(θᵢ, vᵢ)
    θᵢ ~ Normal(μᵢ, τᵢ²)
    μᵢ = β₀ + β₁ (weeks - 40)ᵢ
    ln τᵢ² = α₀ + α₁ (weeks - 40)ᵢ

    >>> model = lsm.LocationScaleModel.from_file("konstantopoulos2011")
    >>> print("\\n".join(in_equations(model.design)))
    yᵢ = μᵢ + u[district]ᵢ + u[district/school]ᵢ + eᵢ
    μᵢ = β₀
    u[district] ~ Normal(0, τ²), ln τ² = α₀
    u[district/school] ~ Normal(0, τ²), ln τ² = α₁ + α₂ ((year - 1990) / 10)ᵢ
    eᵢ ~ Normal(0, vᵢ)
    """
    if not design.is_independent:
        return _sum_of_levels(design)
    robust = design.specification.study_effects == "student_t"
    return (
        "yᵢ ~ Normal(θᵢ, vᵢ)",
        "θᵢ ~ t(ν, μᵢ, τᵢ²)" if robust else "θᵢ ~ Normal(μᵢ, τᵢ²)",
        f"μᵢ = {_sum('β', design.location.names)}",
        f"ln τᵢ² = {_sum('α', design.scale.names)}",
    )


def in_words(design: Design) -> str:
    """The model in some sentences.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> in_words(lsm.LocationScaleModel.from_file("konstantopoulos2011").design)
    'The observed effect yi is the sum of a mean that is one for all, of effects of the groups that
    it belongs to, and of a sampling error of known variance (vi). The effects of groups are normal
    around 0; the logarithm of their variance τ², the heterogeneity, is one for all groups of
    “district”, and depends on year for those of “district/school”.'
    """
    if not design.is_independent:
        return _levels_in_words(design)
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


def _sum_of_levels(design: Design) -> tuple[str, ...]:
    """The model as a sum, with effects u of the groups of every scale term."""
    effects, lines, first = [], [], 0
    for term in design.terms:
        u = f"u[{term.name}]"
        several = len(term.effects) > 1
        if term.slope_part is not None:
            slopes = ", ".join("1" if name == "intrcpt" else _plain(name) for name in term.effects)
            effects.append(f"({slopes})ᵢ·{u}ᵢ" if several else f"{slopes}ᵢ {u}ᵢ")
        else:
            effects.append(f"{u}ᵢ")
        spread = "D R D" if several and term.correlation != "none" else "D²" if several else "τ²"
        where = "" if not several else ", D = diag(τ)"
        lines.append(f"{u} ~ Normal(0, {spread}){where}, {_log_variance(term, first)}")
        first += len(term.names)
    errors = ["e ~ Normal(0, V)" if design.blocks else "eᵢ ~ Normal(0, vᵢ)"]
    if not (design.v > 0).any():
        errors = []
    return (
        f"yᵢ = {' + '.join(['μᵢ', *effects, *(['eᵢ'] if errors else [])])}",
        f"μᵢ = {_sum('β', design.location.names)}",
        *lines,
        *errors,
    )


def _log_variance(term: ScaleTerm, first: int) -> str:
    """ln τ² of a term's effects, whose coefficients begin with the number `first`."""
    s = len(term.effects)
    if term.slope_part is None or s == 1:
        return f"ln τ² = {_sum('α', term.names, first)}"
    names, each = term.part.names, len(term.names) // s
    return ", ".join(
        f"ln τ²[{'1' if effect == 'intrcpt' else _plain(effect)}] = "
        f"{_sum('α', names, first + k * each)}"
        for k, effect in enumerate(term.effects)
    )


def _levels_in_words(design: Design) -> str:
    words = design.specification
    errors = f", and of a sampling error of known variance ({words.variance})"
    if not (design.v > 0).any():
        errors = ""
    elif design.blocks:
        errors = ", and of sampling errors of known variances and covariances"
    levels = []
    for term in design.terms:
        spread = _columns(term.part.formula)
        name = f"“{term.name}”"
        levels.append(
            f"depends on {spread} for those of {name}"
            if spread
            else f"is one for all groups of {name}"
        )
    related = [
        f" Effects of a group of “{term.name}” are correlated ({_KINDS[term.correlation]})."
        for term in design.terms
        if len(term.effects) > 1
    ]
    mean = _columns(words.location)
    return (
        f"The {'observed effect' if errors else 'score'} {words.effect} is the sum of a mean that "
        f"{f'depends on {mean}' if mean else 'is one for all'}, of effects of the groups that it "
        f"belongs to{errors}. The effects of groups are normal around 0; the logarithm of their "
        f"variance τ², the heterogeneity, {', and '.join(levels)}.{''.join(related)}"
    )


def _columns(formula: str) -> str:
    """The columns that a formula uses."""
    return listed(formula_columns(formula))


def _moderators(names: Sequence[str]) -> str:
    return listed([_plain(name) for name in names if name != "intrcpt"])


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _sum(letter: str, names: Sequence[str], first: int = 0) -> str:
    terms = [
        f"{letter}{j}".translate(_SUBSCRIPTS) + ("" if name == "intrcpt" else f" {_plain(name)}ᵢ")
        for j, name in enumerate(names, first)
    ]
    if len(terms) > _MOST_TERMS:
        terms = [*terms[:3], "…", terms[-1]]
    return " + ".join(terms)


def _plain(name: str) -> str:
    """A term without the formula language's ``I``."""
    return name[1:] if name.startswith("I(") and name.endswith(")") else name
