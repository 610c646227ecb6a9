"""Posterior probabilities that an effect lies beyond a threshold.

For effects that are normal given the coefficients the probability averages normal distribution
functions over the draws (Rao–Blackwell), which is less noisy than counting draws of them, and not
0 or 1 only because no draw fell there. For a new study with a Student-t study effect it averages
t distribution functions; the studies' own effects are normal given a drawn weight (see `effects`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtr

from bayes_lsm.bayes.draws import Array, Importance, row_blocks
from bayes_lsm.bayes.prediction.effects import conditionals
from bayes_lsm.bayes.prediction.prediction import asks_for_levels, by_distinct_rows, points_of
from bayes_lsm.choices import require_choice
from bayes_lsm.errors import FitError
from bayes_lsm.links import tau2_from_log
from bayes_lsm.results import ResultTable, model_title

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior

Direction = Literal["above", "below"]

# A τ below this counts as 0.
_SMALLEST_SD = 1e-150


@dataclass(frozen=True, eq=False)
class Probability(ResultTable):
    """Probabilities that effects lie beyond a threshold: see `probability`.

    Attributes
    ----------
    table : DataFrame
        One row for each row of the new data, or a study.
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
        One row for each answer, with every column that the location and the scale formula use. By
        default the studies themselves.
    terms, known : sequence of str, optional
        The scale terms whose effects are in the true effect, and those of them whose groups are the
        data's: see `predict`.
    direction : {"above", "below"}, default "above"
        Which side of the threshold.

    Returns
    -------
    Probability
        Columns mean_effect (of x'β), new_effect (of the true effect of a new study with these
        moderators) and, without new data, true_effect (of each study's own), each followed by its
        Monte Carlo standard error, ``…_mcse``.

    Raises
    ------
    FitError
        For a threshold that is not finite or an unknown direction.
    DataError
        For a column or a value that is missing in the new data.

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
    if asks_for_levels(fit, terms, known):
        from bayes_lsm.bayes.prediction.clustered_probability import level_probability

        return level_probability(
            fit, beyond, new_data, terms=terms, known=known, direction=direction
        )
    sign = checked_sign(beyond, direction)
    points = points_of(fit, new_data)
    p = points.X.shape[1]
    new_effect = normal_above if fit.draws.df is None else partial(_student, fit.draws.flat_df)

    def summarise(rows: Array) -> dict[str, Array]:
        mean = rows[:, :p] @ fit.draws.flat_location.T
        tau = np.sqrt(tau2_from_log(rows[:, p:] @ fit.draws.flat_scale.T))
        return {
            **_columns(fit, "mean_effect", (sign * (mean - beyond) > 0).astype(float)),
            **_columns(fit, "new_effect", new_effect(sign * (mean - beyond), tau)),
        }

    table = by_distinct_rows(fit, np.c_[points.X, points.Z], summarise).set_index(points.index)
    if new_data is None:
        # Names of studies may repeat; the rows are in the same order.
        effects = _true_effects(fit, beyond, sign).set_index(points.index)
        table = pd.concat([table, effects], axis=1)
    title = title_of(beyond, direction, model_title(fit.design, fit.label))
    return Probability(title, table, fit.notes, math.nan, beyond, direction)


def _true_effects(fit: Posterior, beyond: float, sign: float) -> pd.DataFrame:
    parts = []
    for block in row_blocks(fit.design.n_studies, len(fit.draws.flat_scale)):
        given = conditionals(fit, block)
        values = normal_above(sign * (given.mean + given.u - beyond), given.sd)
        parts.append(pd.DataFrame(_columns(fit, "true_effect", values)))
    return pd.concat(parts)


def normal_above(distance: Array, sd: Array) -> Array:
    """P(Normal(distance, sd²) > 0), elementwise."""
    with np.errstate(over="ignore"):
        return np.asarray(ndtr(distance / np.maximum(sd, _SMALLEST_SD)))


def _student(df: Array, distance: Array, scale: Array) -> Array:
    """P(distance + scale · t_ν > 0), elementwise."""
    with np.errstate(over="ignore"):
        return np.asarray(stdtr(df, distance / np.maximum(scale, _SMALLEST_SD)))


def _columns(fit: Posterior, name: str, values: Array) -> dict[str, Array]:
    return mean_columns(name, values, fit.draws.importance, fit.draws.scale.shape[0])


def checked_sign(beyond: float, direction: str) -> float:
    """1 for effects above a threshold, −1 for those below.

    Raises
    ------
    FitError
        For a threshold that is not finite or an unknown direction.
    """
    if not np.isfinite(beyond):
        raise FitError(f"the threshold must be a finite number, got {beyond!r}")
    require_choice("direction", direction, Direction)
    return 1.0 if direction == "above" else -1.0


def title_of(beyond: float, direction: Direction, model: str) -> str:
    """``Probability of an effect > 0 in a …``."""
    return (
        f"Probability of an effect {'>' if direction == 'above' else '<'} {beyond:g} in a {model}"
    )


def mean_columns(
    name: str, values: Array, importance: Importance | None, chains: int
) -> dict[str, Array]:
    """The mean of values (m, S) over the draws, and its Monte Carlo standard error."""
    return {name: values.mean(axis=1), f"{name}_mcse": _mcse(values, importance, chains)}


def _mcse(values: Array, importance: Importance | None, chains: int) -> Array:
    if importance is not None:
        return values.std(axis=1, ddof=1) / math.sqrt(importance.ess)
    from arviz_stats.base import array_stats  # chains: they were sampled with PyMC

    by_chain = values.reshape(len(values), chains, -1)
    # Where no draw differs from another there is nothing to be estimated from.
    return np.nan_to_num(np.asarray(array_stats.mcse(by_chain, method="mean")))
