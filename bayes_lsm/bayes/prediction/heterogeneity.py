"""Posteriors of τ², τ, I² and H², level by level.

As by REML they compare τ² with the typical sampling variance ṽ = (n − p) / tr(P), P with weights
V⁻¹ (Higgins & Thompson 2002, doi:10.1002/sim.1186): of each scale term I² is its share of
Σ_l τ_l² + ṽ, and H² = (τ² + ṽ)/ṽ. A term's τ² is its mean over the rows, taken in each draw; in a
row it is a'D a, with a the slopes of the row and D the covariance of the effects of its group. R²
is left to REML: it compares two fits, and draws of two posteriors do not pair up.

With Student-t study effects τ is their scale. Then I² and H² compare their variance, τ² ν/(ν − 2),
with ṽ, and its root is reported as sd; where ν ≤ 2 it is infinite, I² is 100% and H² infinite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import row_blocks
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prediction.effect_family import EffectFamily, family_of
from bayes_lsm.bayes.prediction.prediction_points import PredictionPoints, points_of, tabulate
from bayes_lsm.bayes.summaries.intervals import (
    Interval,
    Measure,
    bounds,
    check_interval,
    how,
    tau_summaries,
)
from bayes_lsm.bayes.term_draws import TermDraws
from bayes_lsm.likelihood.typical_variance import typical_variance
from bayes_lsm.links import tau2_from_log
from bayes_lsm.predictions import Levels
from bayes_lsm.results import model_title

# Quantiles of infinite numbers are nan, so an infinite variance is a huge one until it is shown.
_HUGE = 1e50


@dataclass(frozen=True, eq=False)
class Heterogeneity(Levels):
    """Heterogeneity of a Bayesian fit, level by level: see `heterogeneity`.

    `tau2`, `tau`, `sd`, `I2` and `H2` are posterior medians of the total.

    Attributes
    ----------
    table : DataFrame
        One row a scale term, and the total where there are several: tau2, tau, with Student-t study
        effects sd, I2 (per cent) and, but for individual data, H2. Posterior medians, each with its
        ``…_ci_lb`` and ``…_ci_ub``; those of the terms do not add up to that of the total.
    level : float
        Of the intervals.
    interval : {"eti", "hdi"}
    typical_variance : float
        ṽ, the typical sampling variance; 0 for individual data.
    constant : bool
        Whether each term has one τ² for all of its groups.
    tau2_draws : mapping of str to ndarray, shape (S,)
        Posterior draws of τ², the mean over the rows, of each level in the table.
    """

    interval: Interval
    typical_variance: float
    constant: bool
    tau2_draws: Mapping[str, Array]
    _fit: Posterior

    @property
    def sd(self) -> float:
        """The SD of true effects: τ, or more with Student-t study effects."""
        return self._total("sd" if "sd" in self.table else "tau")

    @property
    def average_tau2(self) -> Array:
        """Posterior draws of the average row's τ², that of all levels together, shape (S,)."""
        return self.tau2_draws[self.table.index[-1]]

    @property
    def by_measure(self) -> pd.DataFrame:
        """The total, one row a measure: estimate (posterior median), ci_lb, ci_ub."""
        total, ends = self.table.iloc[-1], ("", "_ci_lb", "_ci_ub")
        names = [str(name) for name in self.table if not str(name).endswith(ends[1:])]
        rows = [[total[f"{name}{end}"] for end in ends] for name in names]
        return pd.DataFrame(rows, index=names, columns=["estimate", "ci_lb", "ci_ub"])

    @cached_property
    def by_row(self) -> pd.DataFrame:
        """One row a row of the data: what `table` has, of the variance of its true effect."""
        fit, family = self._fit, family_of(self._fit.design, self._fit.draws)
        of_tau2, of_variance = _measures(family, self.typical_variance)

        def summarise(some: PredictionPoints) -> dict[str, Array]:
            eta = some.log_variances(fit.terms)[1]
            pairs = ((eta, of_tau2), (eta + family.log_inflation, of_variance))
            parts = [
                tau_summaries(of, measures, level=self.level, interval=self.interval)
                for of, measures in pairs
            ]
            return {name: column for part in parts for name, column in part.items()}

        rows = points_of(fit, None, terms=list(fit.terms), known=())
        return _infinite_where_huge(tabulate(fit, rows, summarise))

    @property
    def by_study(self) -> pd.DataFrame:
        """`by_row`, whose rows are the studies."""
        return self.by_row

    def _table(self) -> pd.DataFrame:
        return self.by_measure if len(self.table) == 1 else super()._table()


def heterogeneity(
    fit: Posterior, *, level: float = 0.95, interval: Interval = "eti"
) -> Heterogeneity:
    """τ², τ, I² and H² with intervals, of each scale term and of all together.

    Where τ² differs between rows, all numbers are of the average one, and `Heterogeneity.by_row`
    has those of each. Individual data have ṽ = 0, and their shares are intraclass correlations.
    Random intercepts of ln τ² are in it with their own draws.

    Parameters
    ----------
    fit : BayesFit
    level, interval
        As in `predict`; those of highest density are so each on its own scale.

    Returns
    -------
    Heterogeneity

    Raises
    ------
    FitError
        As in `predict`.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg"), priors="slides"
    ... ).fit_bayes(draws=40_000, seed=1)
    >>> heterogeneity(fit).by_measure.loc["I2"].round(-1).to_list()
    [60.0, 0.0, 90.0]

    Several scale terms:

    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)
    >>> heterogeneity(fit).table["I2"].round(-1).to_dict()
    {'district': 60.0, 'district/school': 30.0, 'total': 100.0}

    References
    ----------
    Nakagawa, S., & Santos, E. S. A. (2012). Methodological issues and advances in biological
    meta-analysis. Evolutionary Ecology, 26, 1253-1274. doi:10.1007/s10682-012-9555-5
    """
    check_interval(level, interval)
    design, typical = fit.design, typical_variance(fit.design)
    draws = {name: _mean_row_variance(each) for name, each in fit.terms.items()}
    if len(draws) > 1:
        draws["total"] = np.sum(list(draws.values()), axis=0)
    family = family_of(design, fit.draws)
    table = _levels(draws, family, typical, level, interval)
    constant = all(term.is_constant and not term.random for term in design.terms)
    about = "" if constant else f" of the average {'study' if len(draws) == 1 else 'row'}"
    title = f"Heterogeneity{about} in a {model_title(design, how(fit.label, level, interval))}"
    remarks = (*family.remarks, *fit.notes)
    return Heterogeneity(title, table, remarks, level, interval, typical, constant, draws, fit)


def _levels(
    tau2: Mapping[str, Array],
    family: EffectFamily,
    typical: float,
    level: float,
    interval: Interval,
) -> pd.DataFrame:
    """The table: of draws of τ² of each level (S,), the last of which is the total."""
    values = np.column_stack(list(tau2.values()))
    with np.errstate(divide="ignore"):
        variance = tau2_from_log(np.log(values) + family.log_inflation[:, None])
    of_tau2, of_variance = _measures(family, typical, variance[:, -1:])
    columns = {}
    for measures, of in ((of_tau2, values), (of_variance, variance)):
        for name, measure in measures.items():
            draws = measure(of)
            columns[name] = np.median(draws, axis=0)
            ends = bounds(draws, level=level, interval=interval)
            columns[f"{name}_ci_lb"], columns[f"{name}_ci_ub"] = ends
    return _infinite_where_huge(pd.DataFrame(columns, index=pd.Index(list(tau2), name="level")))


def _measures(
    family: EffectFamily, typical: float, total: Array | None = None
) -> tuple[dict[str, Measure], dict[str, Measure]]:
    """Functions of τ², and of the variance of true effects, of which `total` is that of all."""

    def share(variance: Array) -> Array:
        whole = (variance if total is None else total) + typical
        return 100 * np.divide(variance, whole, out=np.zeros_like(variance), where=whole > 0)

    of_variance: dict[str, Measure] = {**family.spreads, "I2": share}
    if typical > 0:
        of_variance["H2"] = lambda variance: variance / typical + 1
    return {"tau2": np.positive, "tau": np.sqrt}, of_variance


def _infinite_where_huge(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of sd and H2 with what stands for infinity, in a quantile's way, as infinite."""
    huge = [name for name in map(str, table) if name.startswith(("sd", "H2"))]
    return table.assign(**{name: table[name].where(table[name] < _HUGE, np.inf) for name in huge})


def _mean_row_variance(each: TermDraws) -> Array:
    """Draws of the mean over the rows of a_i' D R D a_i, the variance of a term, shape (S,)."""
    term, size = each.term, len(each.alpha)
    groups, s = term.Z.shape[:2]
    key = np.column_stack([term.Z.reshape(groups, -1), *(some.of.index for some in each.random)])
    # Groups with equal moderators have one τ².
    _, first, place = np.unique(key, axis=0, return_index=True, return_inverse=True)
    products = np.zeros((len(first), s, s))
    shared = term.slopes[:, :, None] * term.slopes[:, None, :]
    np.add.at(products, place.reshape(-1)[term.index], shared)
    total = np.zeros(size)
    for block in row_blocks(len(first), size * s):
        units = (first[block, None] * s + np.arange(s)).ravel()
        tau = np.sqrt(tau2_from_log(each.log_tau2(units))).reshape(-1, s, size)
        for j, k in np.argwhere(products[block].any(axis=0)):
            of_groups = np.einsum("g,ga,ga->a", products[block, j, k], tau[:, j], tau[:, k])
            total += each.correlation[:, j, k] * of_groups
    return total / len(term.index)
