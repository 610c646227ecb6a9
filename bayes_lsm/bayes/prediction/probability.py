"""Posterior probabilities that an effect lies beyond a threshold.

For effects that are normal given the coefficients the probability averages normal distribution
functions over the draws (Rao–Blackwell), which is less noisy than counting draws of them, and not
0 or 1 only because no draw fell there. For a new study with a Student-t study effect it averages
t distribution functions; the studies' own effects are normal given a drawn weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.bayes.prediction.prediction_points import PredictionPoints, points_of, tabulate
from bayes_lsm.choices import require_choice
from bayes_lsm.design.chosen_terms import chosen_terms
from bayes_lsm.errors import FitError
from bayes_lsm.results import ResultTable, model_title

Direction = Literal["above", "below"]


@dataclass(frozen=True, eq=False)
class Probability(ResultTable):
    """Probabilities that effects lie beyond a threshold: see `probability`.

    Attributes
    ----------
    table : DataFrame
        One row for each row of the new data, or of the data.
    level : float
        nan: there are no intervals.
    threshold : float
    direction : {"above", "below"}
    """

    threshold: float
    direction: Direction


def probability(
    fit: Posterior,
    beyond: float,
    new_data: pd.DataFrame | None = None,
    *,
    terms: Sequence[str] | None = None,
    known: Sequence[str] = (),
    direction: Direction = "above",
) -> Probability:
    """The posterior probability that an effect lies beyond a threshold.

    Parameters
    ----------
    fit : BayesFit
    beyond : float
        The threshold, in units of y.
    new_data : DataFrame, optional
        One row for each answer, with every column that the formulas use. By default the rows of the
        data.
    terms, known : sequence of str, optional
        The scale terms whose effects are in the true effect, and those of them whose groups are the
        data's: see `predict`.
    direction : {"above", "below"}, default "above"
        Which side of the threshold.

    Returns
    -------
    Probability
        Columns mean_effect (of x'β), new_effect (of the true effect, in new groups but for those
        that are known) and, without new data, true_effect (in the groups that the rows have: each
        study's own), each followed by its Monte Carlo standard error, ``…_mcse``.

    Raises
    ------
    FitError
        For a threshold that is not finite, an unknown direction or scale term.
    DataError
        For a column, a value or a known group that is missing in the new data.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg"), priors="slides"
    ... ).fit_bayes(draws=40_000, seed=1)
    >>> found = probability(fit, 0, pd.DataFrame({"ablat": [20, 40]}), direction="below")
    >>> found.table[["mean_effect", "new_effect"]].round(1)
           mean_effect  new_effect
    row 0          1.0         0.9
    row 1          1.0         1.0

    References
    ----------
    Mathur, M. B., & VanderWeele, T. J. (2019). New metrics for meta-analyses of heterogeneous
    effects. Statistics in Medicine, 38(8), 1336-1342. doi:10.1002/sim.8057
    """
    sign = _checked_sign(beyond, direction)
    effects = ConditionalEffects(fit.design, fit.draws)

    def of_new(some: PredictionPoints) -> dict[str, Array]:
        found = some.effect(effects)
        is_beyond = (sign * (found.mean - beyond) > 0).astype(float)
        return {
            **_columns(fit, "mean_effect", is_beyond),
            **_columns(fit, "new_effect", found.beyond(beyond, sign)),
        }

    def of_known(some: PredictionPoints) -> dict[str, Array]:
        return _columns(fit, "true_effect", some.effect(effects).beyond(beyond, sign))

    points = points_of(fit, new_data, terms=terms, known=known)
    table = tabulate(fit, points, of_new)
    if new_data is None:
        own = points_of(fit, None, terms=terms, known=chosen_terms(fit.design, terms))
        # Names of studies may repeat; the rows are in the same order.
        own_effects = tabulate(fit, own, of_known)
        table = pd.concat([table, own_effects.set_axis(table.index)], axis=1)
    side = ">" if direction == "above" else "<"
    title = f"Probability of an effect {side} {beyond:g} in a {model_title(fit.design, fit.label)}"
    return Probability(title, table, (*points.remarks, *fit.notes), math.nan, beyond, direction)


def _checked_sign(beyond: float, direction: str) -> float:
    """1 for effects above a threshold, −1 for those below; a FitError for anything else."""
    if not np.isfinite(beyond):
        raise FitError(f"the threshold must be a finite number, got {beyond!r}")
    require_choice("direction", direction, Direction)
    return 1.0 if direction == "above" else -1.0


def _columns(fit: Posterior, name: str, values: Array) -> dict[str, Array]:
    """The mean of values (m, S) over the draws, and its Monte Carlo standard error."""
    return {name: values.mean(axis=1), f"{name}_mcse": _mcse(fit, values)}


def _mcse(fit: Posterior, values: Array) -> Array:
    if fit.importance is not None:
        return values.std(axis=1, ddof=1) / math.sqrt(fit.importance.ess)
    from arviz_stats.base import array_stats  # chains: they were sampled with PyMC

    by_chain = values.reshape(len(values), fit.draws.chains, -1)
    # Where no draw differs from another there is nothing to be estimated from.
    return np.nan_to_num(np.asarray(array_stats.mcse(by_chain, method="mean")))
