"""What each preset gives to the level of the average study and to slopes.

A `Rule` is a preset, bound to the unit of the data, for one part of a model. Its coordinates say
what a level and a slope are:

================  =======================================  =======================================
``coordinates``   a level is that of a study with          a slope is per
================  =======================================  =======================================
``raw``           all moderators zero                      unit
``centred``       average moderators                       unit
``standardised``  average moderators                       SD; per step, of one with two values
``numeric``       average numbers and indicators zero      SD; per unit, of an indicator
================  =======================================  =======================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.choices import require_choice
from bayes_lsm.errors import PriorError
from bayes_lsm.priors.families import Normal, Prior
from bayes_lsm.priors.informed import GENERAL
from bayes_lsm.priors.variances import HalfNormal

PresetName = Literal["weakly_informative", "slides", "robma", "blsmeta", "informed"]
Measure = Literal["SMD", "OR", "RR", "HR", "IRR", "ZCOR", "MD"]
Coordinates = Literal["raw", "centred", "standardised", "numeric"]

RATIO_MEASURES = ("OR", "RR", "HR", "IRR")
# The standard deviation of the effect that one unit of information would have.
UNIT_INFORMATION_SD: dict[str | None, float] = {
    "SMD": math.sqrt(2.0),
    "OR": 2.0,
    "RR": 2.0,
    "HR": 2.0,
    "IRR": 2.0,
    "ZCOR": 1.0,
}

_WEAKLY_INFORMATIVE = (
    "with s the SD of the effects: mean effect ~ Normal(average, 2.5 s), {tau}, per SD of a "
    "moderator Normal(0, 2.5 s) on the effect and Normal(0, 2) on ln τ²"
)
_IN_WORDS: dict[PresetName, str] = {
    "weakly_informative": _WEAKLY_INFORMATIVE.format(tau="τ of the average study ~ HalfNormal(s)"),
    "informed": _WEAKLY_INFORMATIVE.format(tau="τ of the average study as published, {published}"),
    "slides": "raw coefficients: location ~ Normal(0, 100), scale ~ Normal(0, 7)",
    "robma": "mean effect ~ Normal(0, {half:.3g}), τ of the average study ~ "
    "HalfNormal({quarter:.3g}), per SD of a moderator or step of an indicator Normal(0, "
    "{quarter:.3g}) on the effect and Normal(0, 0.5) on ln τ",
    "blsmeta": "at the average study ln τ ~ Normal(-2, 1), per unit of a moderator Normal(0, 1) on "
    "ln τ; location ~ Normal(0, 31.6)",
}


@dataclass(frozen=True)
class Rule:
    """A preset's prior of the level of the average study, and of slopes, for one part."""

    level: Prior
    slope: Prior
    coordinates: Coordinates


def in_words(
    name: PresetName, *, measure: Measure | None, uisd: float | None, published: Prior | None
) -> str:
    """What a preset says, in a line."""
    unit = uisd or UNIT_INFORMATION_SD.get(measure, math.nan)
    published = published or GENERAL.get(measure)
    return _IN_WORDS[name].format(half=unit / 2, quarter=unit / 4, published=published)


def rules(
    name: PresetName, *, measure: Measure | None, uisd: float | None, y: Array, v: Array
) -> tuple[Rule, Rule]:
    """The rules of the location and the scale part."""
    unit = max(float(np.std(y, ddof=1)) if len(y) > 1 else 0.0, math.sqrt(float(np.mean(v))))
    average = Normal(float(np.mean(y)), 2.5 * unit)
    weak_location = Rule(average, Normal(0, 2.5 * unit), "standardised")
    weak_slope = Normal(0, 2)
    match name:
        case "weakly_informative":
            return weak_location, Rule(HalfNormal(unit), weak_slope, "standardised")
        case "informed":
            level: Prior = GENERAL[measure] if measure in GENERAL else HalfNormal(unit)
            return weak_location, Rule(level, weak_slope, "standardised")
        case "slides":
            return (
                Rule(Normal(0, 100), Normal(0, 100), "raw"),
                Rule(Normal(0, 7), Normal(0, 7), "raw"),
            )
        case "robma":
            known = uisd or UNIT_INFORMATION_SD[measure]
            return (
                Rule(Normal(0, known / 2), Normal(0, known / 4), "numeric"),
                Rule(HalfNormal(known / 4), Normal(0, 0.5, on="log_tau"), "numeric"),
            )
        case "blsmeta":
            wide = Normal(0, math.sqrt(1000.0))
            level, slope = Normal(-2, 1, on="log_tau"), Normal(0, 1, on="log_tau")
            return Rule(wide, wide, "centred"), Rule(level, slope, "centred")


def contrasts(columns: Array, coordinates: Coordinates) -> tuple[Array, list[int]]:
    """Rows that turn coefficients into levels and slopes, and which columns carry a level.

    The level columns are the constant one or, in a formula without it, the indicators of which
    exactly one is 1 in every row (``0 + group``). Without any level column nothing is centred: the
    model goes through the origin.
    """
    require_choice("coordinates", coordinates, Coordinates, error=PriorError)
    p = columns.shape[1]
    level = level_columns(columns)
    rows = np.eye(p)
    if coordinates == "raw":
        return rows, level
    for j in range(p):
        column = columns[:, j]
        if j in level:
            rows[j, j] = column.max()
            continue
        rows[j, j] = _spread(column, coordinates)
        centre = 0.0 if coordinates == "numeric" and _is_indicator(column) else column.mean()
        for i in level:
            rows[i, j] = centre
    return rows, level


def _spread(column: Array, coordinates: Coordinates) -> float:
    """By how much a slope's moderator moves."""
    if coordinates == "centred" or (coordinates == "numeric" and _is_indicator(column)):
        return 1.0
    step = float(np.ptp(column))
    two_valued = np.isin(column, (column.min(), column.max())).all()
    sd = float(np.std(column, ddof=1)) if len(column) > 1 else 0.0
    spread = step if two_valued and coordinates == "standardised" else sd
    return spread if spread > 0 else 1.0


def level_columns(columns: Array) -> list[int]:
    """The constant column, or else the indicators of which exactly one is 1 in every row."""
    constant = [
        j for j in range(columns.shape[1]) if np.ptp(columns[:, j]) == 0 and columns[0, j] != 0
    ]
    if constant:
        return constant[:1]
    # A factor's indicators stand side by side; other 0/1 columns may come before or after them.
    is_indicator = [_is_indicator(column) for column in columns.T]
    for first in range(columns.shape[1]):
        covered = np.zeros(len(columns))
        for last in range(first, columns.shape[1]):
            covered = covered + columns[:, last]
            if not is_indicator[last] or covered.max() > 1:
                break
            if covered.min() == 1:
                return list(range(first, last + 1))
    return []


def _is_indicator(column: Array) -> bool:
    return bool(np.isin(column, (0.0, 1.0)).all())
