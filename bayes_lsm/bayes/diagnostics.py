"""Whether the draws can be trusted: R-hat, effective sample sizes, divergences, energy.

Thresholds are those of Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021,
doi:10.1214/20-BA1221), and for the energy that of Betancourt (2016, arXiv:1604.00695).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.design import Design
from bayes_lsm.results import stack_parts

LARGEST_R_HAT = 1.01
SMALLEST_ESS = 400
SMALLEST_BFMI = 0.3


def convergence(design: Design, draws: Draws) -> pd.DataFrame:
    """ess_bulk, ess_tail, r_hat and mcse_median of each coefficient, indexed by part and term."""
    return stack_parts(
        _convergence(design.location.names, draws.location),
        _convergence(design.scale.names, draws.scale),
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
    found: list[str] = []
    for (part, term), row in table.iterrows():
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
    diverging = int(np.sum(draws.stats.get("diverging", 0)))
    if diverging:
        found.append(
            f"{diverging} divergent transitions: parts of the posterior may be missed; raise "
            "target_accept or use tighter priors"
        )
    if "energy" in draws.stats:
        lowest = float(np.min(_bfmi(np.asarray(draws.stats["energy"], dtype=float))))
        if lowest < SMALLEST_BFMI:
            found.append(
                f"E-BFMI is {lowest:.2f} (at least {SMALLEST_BFMI} is good): heavy tails are "
                "explored slowly; take more draws or use tighter priors"
            )
    return found


def _bfmi(energy: Array) -> Array:
    """Estimated Bayesian fraction of missing information of each chain, (chains, draws) in."""
    return np.asarray(np.mean(np.diff(energy, axis=1) ** 2, axis=1) / np.var(energy, axis=1))
