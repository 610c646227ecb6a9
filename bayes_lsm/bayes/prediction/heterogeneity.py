"""Posteriors of τ², τ, I² and H².

As in `heterogeneity` I² and H² compare τ² with the typical sampling variance
ṽ = (k − p) / tr(P), P with weights 1/v (Higgins & Thompson 2002, doi:10.1002/sim.1186):
I² = τ²/(τ² + ṽ), H² = (τ² + ṽ)/ṽ. The average study's τ² is the mean of the studies' τ², taken in
each draw. R² is left to REML: it compares two fits, and draws of two posteriors do not pair up.

With Student-t study effects τ is their scale. Then I² and H² compare their variance, τ² ν/(ν − 2),
with ṽ, and its root is reported as sd; where ν ≤ 2 it is infinite, I² is 100% and H² infinite.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_lsm.bayes.draws import Array, row_blocks
from bayes_lsm.bayes.prediction.prediction import by_distinct_rows, how
from bayes_lsm.bayes.student.effects import log_sd_ratio
from bayes_lsm.bayes.summaries.intervals import (
    Interval,
    Measure,
    bounds,
    check_interval,
    tau_summaries,
)
from bayes_lsm.likelihood.rows.closed_form import typical_sampling_variance
from bayes_lsm.links import tau2_from_log
from bayes_lsm.results import ResultTable, model_title

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior
    from bayes_lsm.bayes.prediction.clustered_heterogeneity import LevelHeterogeneity

# Quantiles of infinite numbers are nan, so an infinite variance is a huge one until it is shown.
_HUGE_SHIFT = 1e6  # in logs
_HUGE = 1e50


@dataclass(frozen=True, eq=False)
class Heterogeneity(ResultTable):
    """Heterogeneity of a Bayesian fit: see `heterogeneity`.

    Attributes
    ----------
    table : DataFrame
        Rows tau2, tau, with Student-t study effects sd, I2 (per cent), H2, of the average study;
        columns estimate (posterior median), ci_lb, ci_ub.
    level : float
        Of the intervals.
    interval : {"eti", "hdi"}
    typical_variance : float
        ṽ, the typical sampling variance.
    constant : bool
        Whether the scale part is intercept-only, so that all studies have one τ².
    average_tau2 : ndarray, shape (S,)
        Posterior draws of the average study's τ².
    """

    interval: Interval
    typical_variance: float
    constant: bool
    average_tau2: Array
    _fit: Posterior

    @property
    def tau2(self) -> float:
        """Posterior median of the average study's τ²."""
        return self._estimate("tau2")

    @property
    def tau(self) -> float:
        """Posterior median of the root of the average study's τ²."""
        return self._estimate("tau")

    @property
    def sd(self) -> float:
        """Posterior median of the SD of true effects: τ, or more with Student-t study effects."""
        return self._estimate("sd" if "sd" in self.table.index else "tau")

    @property
    def I2(self) -> float:
        """Posterior median of I², in per cent."""
        return self._estimate("I2")

    @property
    def H2(self) -> float:
        """Posterior median of H²."""
        return self._estimate("H2")

    def _estimate(self, name: str) -> float:
        return float(self.table["estimate"][name])

    @cached_property
    def by_study(self) -> pd.DataFrame:
        """One row a study: the posterior medians of what `table` has, each with its ``…_ci_lb``
        and ``…_ci_ub``."""
        fit, measures = self._fit, _measures(self._fit, self.typical_variance)

        def summarise(rows: Array) -> dict[str, Array]:
            eta = rows @ fit.draws.flat_scale.T
            parts = [
                tau_summaries(eta + shift, some, level=self.level, interval=self.interval)
                for shift, some in measures
            ]
            return {name: column for part in parts for name, column in part.items()}

        index = pd.Index(fit.design.labels, name="study")
        found = by_distinct_rows(fit, fit.design.Z, summarise).set_index(index)
        return _infinite_where_huge(found)


def heterogeneity(
    fit: Posterior, *, level: float = 0.95, interval: Interval = "eti"
) -> Heterogeneity | LevelHeterogeneity:
    """τ², τ, I² and H² with intervals, of the average study and of each.

    Parameters
    ----------
    fit : BayesFit
    level : float, default 0.95
        Of the intervals.
    interval : {"eti", "hdi"}, default "eti"
        Equal-tailed, or of highest density, each on its own scale.

    Returns
    -------
    Heterogeneity, or of dependent effects LevelHeterogeneity
        Its `table` has rows tau2, tau, I2, H2, and with Student-t study effects sd;
        `Heterogeneity.by_study` has those of each study.

    Raises
    ------
    FitError
        For a level outside (0, 1) or an unknown interval.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg"), priors="slides"
    ... ).fit_bayes(draws=40_000, seed=1)
    >>> heterogeneity(fit).table.loc["I2"].round(-1).to_list()
    [60.0, 0.0, 90.0]
    """
    if not fit.design.is_independent:
        from bayes_lsm.bayes.prediction.clustered_heterogeneity import level_heterogeneity

        return level_heterogeneity(fit, level=level, interval=interval)
    check_interval(level, interval)
    design = fit.design
    average = _average_tau2(fit)
    with np.errstate(divide="ignore"):
        log_average = np.log(average)
    typical = typical_sampling_variance(design.v, design.X)
    draws = {
        name: measure(tau2_from_log(log_average + shift))
        for shift, some in _measures(fit, typical)
        for name, measure in some.items()
    }
    values = np.column_stack(list(draws.values()))
    lower, upper = bounds(values, level=level, interval=interval)
    table = pd.DataFrame(
        {"estimate": np.median(values, axis=0), "ci_lb": lower, "ci_ub": upper}, index=list(draws)
    )
    constant = design.scale.names == ("intrcpt",)
    about = "" if constant else " of the average study"
    title = f"Heterogeneity{about} in a {model_title(design, how(fit, level, interval))}"
    table = _infinite_where_huge(table.T).T
    return Heterogeneity(
        title, table, (*_about(fit), *fit.notes), level, interval, typical, constant, average, fit
    )


def _measures(fit: Posterior, typical: float) -> list[tuple[Array | float, dict[str, Measure]]]:
    """Functions of τ², and of the variance of true effects, with ln of its ratio to τ² (S,)."""
    of_scale: dict[str, Measure] = {"tau2": np.positive, "tau": np.sqrt}
    of_variance: dict[str, Measure] = {
        "I2": lambda variance: 100 * variance / (variance + typical),
        "H2": lambda variance: variance / typical + 1,
    }
    if fit.draws.df is None:
        return [(0.0, of_scale | of_variance)]
    shift = np.minimum(2 * log_sd_ratio(fit.draws.flat_df), _HUGE_SHIFT)
    return [(0.0, of_scale), (shift, {"sd": np.sqrt, **of_variance})]


def _about(fit: Posterior) -> tuple[str, ...]:
    """What sd, I² and H² are with Student-t study effects."""
    if fit.draws.df is None:
        return ()
    share = np.mean(fit.draws.flat_df <= 2)
    return (
        "sd, I² and H² are those of the study effects' variance τ² ν/(ν − 2), which is infinite "
        f"where ν ≤ 2; P(ν ≤ 2) = {share:.2f}",
    )


def _infinite_where_huge(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of sd and H2 with what stands for infinity, in a quantile's way, as infinite."""
    huge = [name for name in map(str, table) if name.startswith(("sd", "H2"))]
    return table.assign(**{name: table[name].where(table[name] < _HUGE, np.inf) for name in huge})


def _average_tau2(fit: Posterior) -> Array:
    """The mean of the studies' τ² in each draw, shape (S,)."""
    alphas = fit.draws.flat_scale
    distinct, counts = np.unique(fit.design.Z, axis=0, return_counts=True)
    total = np.zeros(len(alphas))
    for block in row_blocks(len(distinct), len(alphas)):
        total += counts[block] @ tau2_from_log(distinct[block] @ alphas.T)
    return total / counts.sum()
