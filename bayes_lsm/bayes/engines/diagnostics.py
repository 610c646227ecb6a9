"""Whether the draws can be trusted.

Chains: R-hat and effective sample sizes, with the thresholds of Vehtari, Gelman, Simpson, Carpenter
& Bürkner (2021, doi:10.1214/20-BA1221), divergences, and the energy (Betancourt 2016,
arXiv:1604.00695). Weighted draws: the Pareto k of the weights (Vehtari et al. 2024, JMLR 25(72))
and their effective number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import Draws, Importance
from bayes_lsm.design.design import Design

LARGEST_R_HAT = 1.01
SMALLEST_ESS = 400
SMALLEST_BFMI = 0.3
LARGEST_PARETO_K = 0.7
LARGE_WEIGHT = 0.01


def convergence(design: Design, draws: Draws) -> pd.DataFrame:
    """How well each coefficient is known, indexed by part and term.

    mcse_median, and of chains ess_bulk, ess_tail and r_hat, of weighted draws ess.
    """
    tables = {
        part: _convergence(names, values)
        if draws.importance is None
        else _independent(names, values.reshape(-1, len(names)), draws.importance.ess)
        for part, (names, values) in draws.parts(design).items()
    }
    return pd.concat(tables, names=["part", "term"])


def _independent(names: Sequence[str], values: Array, ess: float) -> pd.DataFrame:
    # The rank of the median among so many draws has standard deviation ½ / √ess.
    half = 0.5 / np.sqrt(max(ess, 1.0))
    lower, upper = np.quantile(values, [0.5 - half, 0.5 + half], axis=0)
    return pd.DataFrame(
        {"ess": ess, "mcse_median": (upper - lower) / 2}, index=pd.Index(names, name="term")
    )


def _convergence(names: Sequence[str], values: Array) -> pd.DataFrame:
    from arviz_stats.base import array_stats

    by_term = np.moveaxis(values, -1, 0)
    return pd.DataFrame(
        {
            "ess_bulk": array_stats.ess(by_term, method="bulk"),
            "ess_tail": array_stats.ess(by_term, method="tail", prob=(0.05, 0.95)),
            "r_hat": array_stats.rhat(by_term),
            "mcse_median": array_stats.mcse(by_term, method="median"),
        },
        index=pd.Index(names, name="term"),
    )


def find_problems(draws: Draws, table: pd.DataFrame) -> list[str]:
    """What is wrong, each with its remedy; `table` is that of `convergence`."""
    if draws.importance is not None:
        return weight_problems(draws.importance)
    found: list[str] = []
    for (part, term), row in zip(table.index, table.to_dict("records"), strict=True):
        where = f"{part}[{term}]"
        # Written so that nan, from a chain that never moved, counts as wrong.
        if not row["r_hat"] <= LARGEST_R_HAT:
            found.append(
                f"{where}: R-hat is {row['r_hat']:.3f} (at most {LARGEST_R_HAT} is good), so the "
                "chains disagree; take more draws and a longer tune"
            )
        ess = min(row["ess_bulk"], row["ess_tail"])
        if not ess >= SMALLEST_ESS:
            found.append(
                f"{where}: {ess:.0f} effective draws (at least {SMALLEST_ESS} are good); "
                "take more draws"
            )
    diverging = int(np.sum(np.asarray(draws.stats.get("diverging", 0))))
    if diverging:
        found.append(
            f"{diverging} divergent transitions: parts of the posterior may be missed; raise "
            "target_accept or use tighter priors"
        )
    if "energy" in draws.stats:
        lowest = float(np.min(bfmi(np.asarray(draws.stats["energy"], dtype=float))))
        if lowest < SMALLEST_BFMI:
            found.append(
                f"E-BFMI is {lowest:.2f} (at least {SMALLEST_BFMI} is good): heavy tails are "
                "explored slowly; take more draws or use tighter priors"
            )
    return found


def dominated(pareto_k: Array | float, largest_weight: Array | float) -> npt.NDArray[np.bool_]:
    """Whether a few weights dominate: k above 0.7, and a weight above a hundredth of the total.

    k extrapolates the tail. What m points miss because it lies beyond their largest weight w, of a
    total of 1, is about w/(1 − k) of the total where the tail goes on for ever: 3% at k = 0.7 and
    w = 0.01. Here it does not go on, since the proposal holds the prior, which bounds the weights;
    k is then often large only because many weights are nearly alike and a few are a little larger.
    So a large k with no large weight does no harm.
    """
    # Written so that nan counts as dominated.
    harmless = (np.asarray(pareto_k) <= LARGEST_PARETO_K) | (
        np.asarray(largest_weight) <= LARGE_WEIGHT
    )
    return np.asarray(~harmless)


def is_dominated(importance: Importance) -> bool:
    """The same of a weighted sample; where nothing bounds the weights, any k above 0.7 counts."""
    largest = importance.largest_weight if importance.bounded else np.inf
    return bool(dominated(importance.pareto_k, largest))


def weight_problems(importance: Importance) -> list[str]:
    """Why weighted draws should not be trusted; see `dominated` for when k counts."""
    remedy = "use engine='nuts', or tighter priors"
    found = []
    if is_dominated(importance):
        largest = f"the largest weight is {100 * importance.largest_weight:.1f}% of the total"
        why = (
            f" and {largest}: a few draws dominate"
            if importance.bounded
            else (": a flat prior leaves their tail too long")
        )
        found.append(
            f"Pareto k of the importance weights is {importance.pareto_k:.2f} (at most "
            f"{LARGEST_PARETO_K} is good){why}; {remedy}"
        )
    if not importance.ess >= SMALLEST_ESS:
        found.append(
            f"{importance.ess:.0f} effective draws (at least {SMALLEST_ESS} are good); {remedy}, "
            "or take more draws"
        )
    return found


def bfmi(energy: Array) -> Array:
    """Estimated Bayesian fraction of missing information of each chain, (chains, draws) in."""
    return np.asarray(np.mean(np.diff(energy, axis=1) ** 2, axis=1) / np.var(energy, axis=1))
