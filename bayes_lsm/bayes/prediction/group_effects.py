"""The posterior of the effects of the groups of every scale term: deviations from x'β.

Given the draws an effect is normal (`conditional_effects`), so that its posterior is a mixture of
normals over them. Means and SDs average those of its components (Rao–Blackwell), and equal-tailed
intervals solve its distribution function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from bayes_lsm.bayes.draws import Array, row_blocks
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects, Index
from bayes_lsm.bayes.summaries.intervals import Interval, check_interval, how, mixture_bounds
from bayes_lsm.results import ResultTable, model_title

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior


SUMMARIES = ["estimate", "sd", "pi_lb", "pi_ub"]


@dataclass(frozen=True, eq=False)
class GroupEffects(ResultTable):
    """The effects of the groups of every scale term: see `group_effects`.

    Attributes
    ----------
    table : DataFrame
        One row an effect of a group.
    level : float
        Of the intervals.
    interval : {"eti", "hdi"}
    """

    interval: Interval = "eti"


def group_effects(
    fit: Posterior, *, level: float = 0.95, interval: Interval = "eti"
) -> GroupEffects:
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
    GroupEffects
        Columns estimate (posterior mean), sd, pi_lb, pi_ub, of the effects themselves: deviations
        from x'β. Unlike those of `RemlFit` they hold the uncertainty of the variances. One row a
        study, or group; indexed by the effect as well where a group has several, and by the
        grouping where there are several scale terms. Of correlated outcomes a group has those that
        it was seen with.

    Raises
    ------
    FitError
        For a level outside (0, 1) or an unknown interval.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)
    >>> group_effects(fit).table.loc["district"]["estimate"].iloc[:2].round(1).to_list()
    [-0.2, -0.1]
    """
    check_interval(level, interval)
    effects = ConditionalEffects(fit.design, fit.draws)
    index, numbers = _reported(effects)
    numbers_by_block = np.argsort(effects.owner[numbers], kind="stable")
    parts = []
    for some in row_blocks(len(numbers), fit.draws.size):
        wanted = numbers[numbers_by_block[some]]
        mean, variance = effects.combine(_unit_rows(wanted, effects.starts[-1]))
        parts.append(summarise_mixtures(mean, variance, level, interval))
    found = np.empty((len(numbers), len(SUMMARIES)))
    found[numbers_by_block] = np.concatenate(parts)
    table = pd.DataFrame(found, index, SUMMARIES)
    title = f"Effects of the groups in a {model_title(fit.design, how(fit.label, level, interval))}"
    return GroupEffects(title, table, fit.notes, level, interval)


def summarise_mixtures(mean: Array, variance: Array, level: float, interval: Interval) -> Array:
    """`SUMMARIES` of mixtures with components of these means and variances (m, S), one a row."""
    lower, upper = mixture_bounds(mean, np.sqrt(variance), level=level, interval=interval)
    sd = np.sqrt(variance.mean(axis=1) + mean.var(axis=1))
    return np.column_stack([mean.mean(axis=1), sd, lower, upper])


def _reported(effects: ConditionalEffects) -> tuple[pd.Index, Index]:
    """Names and numbers of the effects whose ln τ² is known."""
    terms = effects.design.terms
    names, numbers = [], []
    for term, start in zip(terms, effects.starts, strict=False):
        seen = term.used if term.grouping.inner else np.ones(term.Z.shape[:2], dtype=bool)
        group, effect = np.nonzero(seen)
        names += [
            (term.name, term.groups[g], term.effects[k]) for g, k in zip(group, effect, strict=True)
        ]
        numbers.append(start + group * len(term.effects) + effect)
    index = pd.MultiIndex.from_tuples(names, names=["grouping", "group", "effect"])
    return _short(index, effects), np.concatenate(numbers)


def _short(index: pd.MultiIndex, effects: ConditionalEffects) -> pd.Index:
    """Without what is the same in all rows."""
    terms = effects.design.terms
    if len(terms) > 1:
        return index
    if len(terms[0].effects) > 1:
        return index.droplevel("grouping")
    unit = "study" if terms[0].grouping.is_residual else "group"
    return index.droplevel(["grouping", "effect"]).rename(unit)


def _unit_rows(numbers: Index, size: int) -> sparse.csr_array:
    ones = np.ones(len(numbers))
    places = (np.arange(len(numbers)), numbers)
    return sparse.csr_array((ones, places), shape=(len(numbers), size))
