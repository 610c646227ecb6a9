"""Linear functions of the scale coefficients from posterior draws, for `bayes_lsm.contrasts`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.summaries.intervals import (
    INTERVALS,
    Interval,
    bounds,
    check_interval,
    tau_summaries,
)
from bayes_lsm.choices import require_choice
from bayes_lsm.contrasts import POWER, ContrastInterval, Measure, ScaleFunctions


def scale_functions(
    fit: Posterior,
    rows: Array,
    labels: Sequence[str],
    *,
    measure: Measure = "log_tau2",
    method: ContrastInterval | None = None,
    level: float = 0.95,
    compared: bool = True,
) -> ScaleFunctions:
    """l'α for each row l (m, q), or exp(l'α): posterior median, interval, P(l'α > 0).

    See `contrasts.ScaleFunctions`: `method` is ``"eti"`` (the default) or ``"hdi"``, on the scale
    of the measure; random intercepts of ln τ² are at 0, and a posterior has no remark to make of
    any of the labels. Another method and a level outside (0, 1) are a FitError.
    """
    require_choice("measure", measure, Measure)
    require_choice("for a Bayesian fit method", "eti" if method is None else method, Interval)
    interval: Interval = "hdi" if method == "hdi" else "eti"
    check_interval(level, interval)
    values = rows @ fit.draws.flat_scale.T
    if measure == "log_tau2":
        lower, upper = bounds(values.T, level=level, interval=interval)
        columns = {"estimate": np.median(values, axis=1), "ci_lb": lower, "ci_ub": upper}
    else:
        measures = {"estimate": lambda ratio: ratio ** POWER[measure]}
        found = tau_summaries(values, measures, level=level, interval=interval)
        columns = {name.removeprefix("estimate_"): each for name, each in found.items()}
    if compared:
        columns["prob_above"] = np.mean(values > 0, axis=1)
    return ScaleFunctions(pd.DataFrame(columns), INTERVALS[interval])
