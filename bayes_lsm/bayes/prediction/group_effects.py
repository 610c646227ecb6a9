"""The posterior of the effects of the groups of every scale term: deviations from x'β.

Given the draws an effect is normal (`conditional_effects`); its mixture over them is summarised as
that of a row's true effect (`blup`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from bayes_lsm.arrays import Array, Index
from bayes_lsm.bayes.draws import row_blocks
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.bayes.summaries.intervals import Interval, check_interval, how, mixture_bounds
from bayes_lsm.predictions import GroupEffects, index_of_effects
from bayes_lsm.results import model_title

SUMMARIES = ["estimate", "sd", "pi_lb", "pi_ub"]


def group_effects(
    fit: Posterior, *, level: float = 0.95, interval: Interval = "eti"
) -> GroupEffects:
    """The effects u of all groups, shrunken towards 0.

    Parameters
    ----------
    fit : BayesFit
    level, interval
        As in `blup`.

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
        As in `blup`.

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
    terms, numbers = effects.design.terms, []
    seen = [
        term.used if term.grouping.inner else np.ones(term.Z.shape[:2], dtype=bool)
        for term in terms
    ]
    for some, start in zip(seen, effects.starts, strict=False):
        numbers.append(start + np.flatnonzero(some))
    return index_of_effects(effects.design, seen), np.concatenate(numbers)


def _unit_rows(numbers: Index, size: int) -> sparse.csr_array:
    ones = np.ones(len(numbers))
    places = (np.arange(len(numbers)), numbers)
    return sparse.csr_array((ones, places), shape=(len(numbers), size))
