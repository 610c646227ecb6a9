"""What figures read from a fit: predictions along a moderator, weights, names of intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.bayes_fit import BayesFit
from bayes_lsm.choices import require_known
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.reml.reml_fit import RemlFit
from bayes_lsm.results import Fit

_ANOTHER = "another level"
type AnyFit = "RemlFit | BayesFit"


def refuse_fit(found: object, what: str, how: str) -> None:
    """Refuse a fit, by a FitError, where a result of one is asked for."""
    if hasattr(found, "loglik") and hasattr(found, "design"):
        raise FitError(f"this figure takes {what}, got a {type(found).__name__}; pass {how}")


def study_weights(fit: AnyFit) -> Array:
    """Each study's weight 1/(v_i + τ_i²) in per cent, with its own τ_i² (k,)."""
    inverse = 1.0 / (fit.design.v + fit.tau2)
    return np.asarray(100.0 * inverse / inverse.sum())


def interval_name(fit: Fit) -> str:
    """``CI``, or of a Bayesian fit ``CrI``."""
    return "CrI" if fit.label == "Bayes" else "CI"


def column_of(design: Design, variable: str) -> pd.Series:
    """A moderator's values, one a study; a FitError when the formulas do not use it."""
    require_known("the model", "moderator", variable, design.moderators.columns)
    return design.moderators[variable]


def is_number(design: Design, variable: str) -> bool:
    """Whether a moderator holds numbers, and the formulas take it for such: not as C(year)."""
    column_of(design, variable)
    return design.kinds.get(variable) == "numbers" and _coded_levels(design, variable) is None


def grid_of(design: Design, variable: str, points: int) -> Array:
    """Equally spaced values of a numeric moderator, from its smallest to its largest."""
    x = column_of(design, variable).to_numpy(dtype=float)
    return np.linspace(x.min(), x.max(), points)


def levels_of(design: Design, variable: str) -> list[Any]:
    """The levels of a categorical moderator, in the order of the fit."""
    coded = _coded_levels(design, variable)
    return sorted(column_of(design, variable).unique()) if coded is None else coded


def _coded_levels(design: Design, variable: str) -> list[Any] | None:
    """Those of a factor of the formulas that is made of it, if there is one."""
    of_scale = [term.part for term in design.terms]
    for part in (design.location, *of_scale):
        for factor, state in part.spec.factor_contrasts.items():
            if variable in set(map(str, part.spec.factor_variables[factor])):
                return list(state.levels)
    return None


def typical(design: Design, at: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A value of each moderator: as in `at`, or its mean, or its most frequent level."""
    at = dict(at or {})
    for name in at:
        column_of(design, name)
    usual: dict[str, Any] = {}
    for name in map(str, design.moderators.columns):
        values = column_of(design, name)
        usual[name] = float(values.mean()) if is_number(design, name) else values.mode().iloc[0]
    return {**usual, **at}


def rows_at(
    design: Design, variable: str, values: Sequence[Any] | Array, at: Mapping[str, Any] | None
) -> pd.DataFrame:
    """New data: one row for each value of a moderator, the others held where `typical` says."""
    if at and variable in at:
        raise FitError(f"{variable!r} is on the axis and cannot be held in `at`; leave it out")
    # Of a column with random intercepts of ln τ², a level that was not seen.
    levels = {each.column: _ANOTHER for term in design.terms for each in term.random}
    held = {**levels, **typical(design, at)}
    column_of(design, variable)
    return pd.DataFrame(
        {**{name: [value] * len(values) for name, value in held.items()}, variable: list(values)}
    )


def at_held(design: Design, variable: str, at: Mapping[str, Any] | None) -> npt.NDArray[np.bool_]:
    """Which studies have the levels at which the other categorical moderators are held (k,)."""
    found = np.ones(design.n_studies, dtype=bool)
    for name, value in typical(design, at).items():
        if name != variable and not is_number(design, name):
            found &= (column_of(design, name) == value).to_numpy()
    return found


def row_names(table: pd.DataFrame, new_data: pd.DataFrame) -> list[str]:
    """Names of the rows of a prediction: the words of the new data's index, if it has some."""
    words = all(isinstance(name, str) for name in new_data.index)
    return list(map(str, new_data.index if words else table.index))


def held_text(design: Design, variable: str, at: Mapping[str, Any] | None) -> str:
    """``at continent = Europe, weeks = 30.1``: where the other moderators are held."""
    held = {name: value for name, value in typical(design, at).items() if name != variable}
    words = [
        f"{name} = {value:.3g}" if isinstance(value, float) else f"{name} = {value}"
        for name, value in held.items()
    ]
    return f"at {', '.join(words)}" if words else ""
