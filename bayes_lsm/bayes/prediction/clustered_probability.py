"""Posterior probabilities that an effect lies beyond a threshold, with several scale terms.

As in `probability` the probability averages normal distribution functions over the
draws, which is less noisy than counting draws of effects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.prediction.clustered_effects import chosen_terms
from bayes_lsm.bayes.prediction.clustered_prediction import by_distinct_points
from bayes_lsm.bayes.prediction.group_effects import GroupEffects
from bayes_lsm.bayes.prediction.points import Points, points_of
from bayes_lsm.bayes.prediction.probability import (
    Direction,
    Probability,
    checked_sign,
    mean_columns,
    normal_above,
    title_of,
)
from bayes_lsm.results import model_title

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior


def level_probability(
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
        data's: see `bayes_lsm.bayes.prediction.clustered_prediction.predict_levels`.
    direction : {"above", "below"}, default "above"
        Which side of the threshold.

    Returns
    -------
    Probability
        Columns mean_effect (of x'β), new_effect (of the true effect, in new groups but for those
        that are known) and, without new data, true_effect (in the groups that the rows have), each
        followed by its Monte Carlo standard error, ``…_mcse``.

    Raises
    ------
    FitError
        For a threshold that is not finite, an unknown direction or scale term.
    DataError
        For a column, a value or a known group that is missing in the new data.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)
    >>> new = pd.DataFrame({"district": [11, 27], "year": 1990})
    >>> level_probability(fit, 0, new, known=["district"]).table["new_effect"].round(1).to_list()
    [0.5, 1.0]
    """
    sign = checked_sign(beyond, direction)
    effects = GroupEffects(fit.design, fit.draws)

    def columns(name: str, values: Array) -> dict[str, Array]:
        return mean_columns(name, values, fit.importance, fit.draws.chains)

    def of_new(some: Points) -> dict[str, Array]:
        found = some.effect(effects)
        above = normal_above(sign * (found.centre - beyond), np.sqrt(found.variance))
        return {
            **columns("mean_effect", (sign * (found.mean - beyond) > 0).astype(float)),
            **columns("new_effect", above),
        }

    def of_known(some: Points) -> dict[str, Array]:
        found = some.effect(effects)
        above = normal_above(sign * (found.centre - beyond), np.sqrt(found.variance))
        return columns("true_effect", above)

    points = points_of(fit, new_data, terms=terms, known=known)
    table = by_distinct_points(fit, points, of_new)
    if new_data is None:
        own = points_of(fit, None, terms=terms, known=chosen_terms(fit, terms))
        table = pd.concat([table, by_distinct_points(fit, own, of_known)], axis=1)
    title = title_of(beyond, direction, model_title(fit.design, fit.label))
    remarks = (*points.remarks, *fit.notes)
    return Probability(title, table, remarks, math.nan, beyond, direction)
