"""The posterior of the effects of all groups, and of the rows' own true effects.

Given the draws an effect is normal (`group_effects`), so that its posterior is a mixture of normals
over them. Means and SDs average those of its components (Rao–Blackwell), and equal-tailed intervals
solve its distribution function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from bayes_lsm.bayes.draws import Array, row_blocks
from bayes_lsm.bayes.prediction.group_effects import GroupEffects, Index
from bayes_lsm.bayes.prediction.prediction import how
from bayes_lsm.bayes.summaries.intervals import Interval, check_interval, mixture_bounds
from bayes_lsm.errors import FitError
from bayes_lsm.results import ResultTable, model_title

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior


@dataclass(frozen=True, eq=False)
class LevelEffects(ResultTable):
    """The effects of the groups of every scale term: see `level_effects`.

    Attributes
    ----------
    table : DataFrame
        Indexed by grouping, group and effect.
    level : float
        Of the intervals.
    interval : {"eti", "hdi"}
    """

    interval: Interval = "eti"


def level_effects(
    fit: Posterior, *, level: float = 0.95, interval: Interval = "eti"
) -> LevelEffects:
    """The effects u of all groups, shrunken towards 0.

    Parameters
    ----------
    fit : BayesFit
    level : float, default 0.95
        Of the intervals.
    interval : {"eti", "hdi"}, default "eti"
        Equal-tailed, or of highest density.

    Returns
    -------
    LevelEffects
        Columns estimate (posterior mean), sd, pi_lb, pi_ub, indexed by grouping, group and effect;
        of the effects themselves, deviations from x'β. Unlike those of `RemlFit` they hold the
        uncertainty of the variances. Of correlated outcomes a group has those that it was seen
        with.

    Raises
    ------
    FitError
        For a level outside (0, 1) or an unknown interval.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)
    >>> level_effects(fit).table.loc["district"]["estimate"].iloc[:2].round(1).to_list()
    [-0.2, -0.1]
    """
    check_interval(level, interval)
    effects = GroupEffects(fit.design, fit.draws)
    names, numbers = _reported(fit, effects)
    numbers_by_block = np.argsort(effects.owner[numbers], kind="stable")
    parts = []
    for some in row_blocks(len(numbers), fit.draws.size):
        wanted = numbers[numbers_by_block[some]]
        mean, variance = effects.combine(_unit_rows(wanted, effects.starts[-1]))
        parts.append(_summaries(mean, variance, level, interval))
    table = pd.concat(parts).set_index(numbers_by_block).sort_index()
    index = pd.MultiIndex.from_tuples(names, names=["grouping", "group", "effect"])
    title = f"Effects of the groups in a {model_title(fit.design, how(fit, level, interval))}"
    return LevelEffects(title, table.set_index(index), fit.notes, level, interval)


def row_effects(fit: Posterior, *, level: float = 0.95, interval: Interval = "eti") -> pd.DataFrame:
    """Each row's own true effect θ_i = x_i'β + Σ_l a_i'u_l, y less its sampling error.

    Returns
    -------
    DataFrame
        Columns estimate (posterior mean), sd, pi_lb, pi_ub, in units of y; one row a row of the
        data.
    """
    check_interval(level, interval)
    effects, X = GroupEffects(fit.design, fit.draws), fit.design.X
    loadings = loadings_of(fit, {name: each.term.index for name, each in fit.terms.items()})
    parts = []
    for some in row_blocks(len(X), fit.draws.size):
        mean, variance = effects.combine(loadings[some])
        parts.append(
            _summaries(X[some] @ fit.draws.flat_location.T + mean, variance, level, interval)
        )
    return pd.concat(parts).set_index(pd.Index(fit.design.labels, name="row"))


def true_effects(
    fit: Posterior, *, terms: Sequence[str] | None = None, seed: int | None = None
) -> Array:
    """Draws of the rows' true effects: one for each draw of the coefficients.

    Parameters
    ----------
    fit : BayesFit
    terms : sequence of str, optional
        The scale terms whose effects are in it, by their groupings; by default all but the residual
        of individual data. ``["district"]`` gives the mean of each row's district.
    seed : int, optional
        By default that of the fit.

    Returns
    -------
    ndarray, shape (chains, draws, n)
        θ_i = x_i'β + Σ_l a_i'u_l. 8 · draws · n bytes. Rows of one group share its effect, draw
        by draw.

    Raises
    ------
    FitError
        For an unknown scale term.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)
    >>> true_effects(fit, terms=["district"]).shape
    (4, 1000, 56)
    """
    chosen = chosen_terms(fit, terms)
    rng = np.random.default_rng(fit.seed if seed is None else seed)
    drawn = GroupEffects(fit.design, fit.draws).draw_rows(frozenset(chosen), rng)
    drawn += fit.draws.flat_location @ fit.design.X.T
    return drawn.reshape(fit.draws.chains, -1, len(fit.design.y))


def chosen_terms(fit: Posterior, terms: Sequence[str] | None) -> list[str]:
    """The scale terms that are asked for; by default all but the residual of individual data.

    Raises
    ------
    FitError
        For an unknown one, or names that are not in a list.
    """
    if terms is None:
        individual = not (fit.design.v > 0).any()
        return [name for name in fit.terms if not (individual and name == "residual")]
    return known_terms(fit, terms, "terms")


def known_terms(fit: Posterior, names: Sequence[str], what: str) -> list[str]:
    """Names of scale terms, checked."""
    if isinstance(names, str):
        raise FitError(f"{what} must be a list of scale terms, got {names!r}; write [{names!r}]")
    for name in names:
        if name not in fit.terms:
            known = ", ".join(map(repr, fit.terms))
            raise FitError(f"there is no scale term {name!r}; there are {known}")
    return list(names)


def loadings_of(
    fit: Posterior, groups: dict[str, Index], slopes: dict[str, Array] | None = None
) -> sparse.csr_array:
    """Rows (m, effects) of what the effects of known groups are multiplied by.

    Parameters
    ----------
    fit : BayesFit
    groups : dict of str to ndarray of int, shape (m,)
        The group of each row, of the scale terms that are in it.
    slopes : dict of str to ndarray, shape (m, s), optional
        By default those of the data.
    """
    starts = GroupEffects(fit.design, fit.draws).starts
    rows, columns, values = [], [], []
    for (name, each), start in zip(fit.terms.items(), starts, strict=False):
        if name in groups:
            multipliers = each.term.slopes if slopes is None else slopes[name]
            row, effect = np.nonzero(multipliers)
            rows.append(row)
            columns.append(start + groups[name][row] * multipliers.shape[1] + effect)
            values.append(multipliers[row, effect])
    size = len(next(iter(groups.values())))
    places = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_array((np.concatenate(values), places), shape=(size, starts[-1]))


def _reported(fit: Posterior, effects: GroupEffects) -> tuple[list[tuple[str, str, str]], Index]:
    """Names and numbers of the effects whose ln τ² is known."""
    names, numbers = [], []
    for (name, each), start in zip(fit.terms.items(), effects.starts, strict=False):
        term = each.term
        seen = term.used if term.grouping.inner else np.ones(term.Z.shape[:2], dtype=bool)
        group, effect = np.nonzero(seen)
        names += [
            (name, term.groups[g], term.effects[k]) for g, k in zip(group, effect, strict=True)
        ]
        numbers.append(start + group * len(term.effects) + effect)
    return names, np.concatenate(numbers)


def _unit_rows(numbers: Index, size: int) -> sparse.csr_array:
    ones = np.ones(len(numbers))
    places = (np.arange(len(numbers)), numbers)
    return sparse.csr_array((ones, places), shape=(len(numbers), size))


def _summaries(mean: Array, variance: Array, level: float, interval: Interval) -> pd.DataFrame:
    """Of mixtures with components of these means and variances (R, S)."""
    lower, upper = mixture_bounds(mean, np.sqrt(variance), level=level, interval=interval)
    sd = np.sqrt(variance.mean(axis=1) + mean.var(axis=1))
    return pd.DataFrame({"estimate": mean.mean(axis=1), "sd": sd, "pi_lb": lower, "pi_ub": upper})
