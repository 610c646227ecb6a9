"""Posteriors of τ², τ and I² of every level of a model with several scale terms.

In each draw they are what `level_heterogeneity` makes of an
estimate: τ² of a level is its mean over the rows, ṽ = (n − p) / tr(P), P with weights V⁻¹, the
typical sampling variance, and I² a level's share of Σ_l τ_l² + ṽ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_lsm.bayes.draws import Array, row_blocks
from bayes_lsm.bayes.prediction.prediction import how
from bayes_lsm.bayes.summaries.intervals import Interval, bounds, check_interval
from bayes_lsm.likelihood.typical_variance import typical_variance
from bayes_lsm.links import tau2_from_log
from bayes_lsm.results import ResultTable, model_title

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior
    from bayes_lsm.bayes.term_draws import TermDraws


@dataclass(frozen=True, eq=False)
class LevelHeterogeneity(ResultTable):
    """Shares of the variance, level by level: see `level_heterogeneity`.

    Attributes
    ----------
    table : DataFrame
        One row a scale term, and their total.
    level : float
        Of the intervals.
    interval : {"eti", "hdi"}
    typical_variance : float
        ṽ, the typical sampling variance; 0 for individual data.
    tau2 : mapping of str to ndarray, shape (S,)
        Posterior draws of τ² of each scale term, the mean over the rows, and of the total.
    """

    interval: Interval
    typical_variance: float
    tau2: Mapping[str, Array]


def level_heterogeneity(
    fit: Posterior, *, level: float = 0.95, interval: Interval = "eti"
) -> LevelHeterogeneity:
    """τ², τ and I² of each scale term with intervals.

    Where τ² differs between groups or is multiplied by a slope, its mean over the rows is taken.
    Individual data have ṽ = 0, and the shares are intraclass correlations. Random intercepts of
    ln τ² are in it with their own draws.

    Parameters
    ----------
    fit : BayesFit
    level : float, default 0.95
        Of the intervals.
    interval : {"eti", "hdi"}, default "eti"
        Equal-tailed, or of highest density, each on its own scale.

    Returns
    -------
    LevelHeterogeneity
        Columns tau2, tau and I2 (per cent), posterior medians, each with its ``…_ci_lb`` and
        ``…_ci_ub``; one row a scale term, and the total. Medians of the terms do not add up to that
        of the total.

    Raises
    ------
    FitError
        For a level outside (0, 1) or an unknown interval.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)
    >>> level_heterogeneity(fit).table["I2"].round(-1).to_list()
    [60.0, 30.0, 100.0]

    References
    ----------
    Nakagawa, S., & Santos, E. S. A. (2012). Methodological issues and advances in biological
    meta-analysis. Evolutionary Ecology, 26, 1253-1274. doi:10.1007/s10682-012-9555-5
    """
    check_interval(level, interval)
    design = fit.design
    typical = typical_variance(design)
    tau2 = {name: mean_row_variance(each) for name, each in fit.terms.items()}
    total = np.sum(list(tau2.values()), axis=0)
    values = np.column_stack([*tau2.values(), total])
    measures = {
        "tau2": values,
        "tau": np.sqrt(values),
        "I2": 100.0 * values / (total + typical)[:, None],
    }
    columns = {}
    for name, draws in measures.items():
        columns[name] = np.median(draws, axis=0)
        ends = bounds(draws, level=level, interval=interval)
        columns[f"{name}_ci_lb"], columns[f"{name}_ci_ub"] = ends
    table = pd.DataFrame(columns, index=pd.Index([*tau2, "total"], name="level"))
    title = f"Heterogeneity of a {model_title(design, how(fit, level, interval))}"
    return LevelHeterogeneity(
        title, table, fit.notes, level, interval, typical, {**tau2, "total": total}
    )


def mean_row_variance(each: TermDraws) -> Array:
    """Draws of the mean over the rows of a_i' D R D a_i, the variance of a term, shape (S,)."""
    term, size = each.term, len(each.alpha)
    groups, s = term.Z.shape[:2]
    products = np.zeros((groups, s, s))
    np.add.at(products, term.index, term.slopes[:, :, None] * term.slopes[:, None, :])
    total = np.zeros(size)
    for block in row_blocks(groups, size * s):
        units = slice(block.start * s, block.stop * s)
        tau = np.sqrt(tau2_from_log(each.log_tau2(units))).reshape(-1, s, size)
        for j in range(s):
            for k in range(s):
                shared = products[block, j, k]
                if shared.any():
                    of_groups = np.einsum("g,ga,ga->a", shared, tau[:, j], tau[:, k])
                    total += each.correlation[:, j, k] * of_groups
    return total / len(term.index)
