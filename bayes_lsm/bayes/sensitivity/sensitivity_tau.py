"""What other priors say of τ itself, before the data and after: for `sensitivity`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bayes_lsm.bayes.draws import Array, row_blocks
from bayes_lsm.bayes.sensitivity.refits import quantiles
from bayes_lsm.bayes.sensitivity.subject import Refitted, Subject
from bayes_lsm.links import tau2_from_log


def tau_under_priors(
    subject: Subject, found: Mapping[str, Refitted], *, level: float, draws: int, seed: int
) -> pd.DataFrame:
    """τ of each study or variance under each of these priors, and after the data.

    Indexed by prior and by whose τ it is: prior_median, prior_ci_lb, prior_ci_ub, median, ci_lb
    and ci_ub.
    """
    rng = np.random.default_rng(seed)
    labels, rows = subject.tau_rows()
    tables = {}
    for name, each in found.items():
        prior = each.priors.scale.sample(draws, rng)
        before = _tau_quantiles(labels, rows, prior, None, level).add_prefix("prior_")
        after = _tau_quantiles(labels, rows, each.scale, each.weights, level)
        tables[name] = pd.concat([before, after], axis=1)  # names of studies may repeat
    return pd.concat(tables, names=["prior", labels.name])


def _tau_quantiles(
    labels: pd.Index, rows: Array, alphas: Array, weights: Array | None, level: float
) -> pd.DataFrame:
    probabilities = [0.5, (1 - level) / 2, (1 + level) / 2]
    found = [
        quantiles(alphas @ rows[block].T, probabilities, weights)
        for block in row_blocks(len(rows), len(alphas))
    ]
    # τ rises with ln τ², so that its quantiles are those of ln τ², taken to τ.
    tau = np.sqrt(tau2_from_log(np.concatenate(found, axis=1).T))
    return pd.DataFrame(tau, labels, ["median", "ci_lb", "ci_ub"])
