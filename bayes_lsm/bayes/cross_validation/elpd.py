"""What every estimate of out-of-sample prediction has in common: its table, and comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.design.clusters import Clusters
from bayes_lsm.errors import FitError
from bayes_lsm.tables import Printable

Criterion = Literal["loo", "psis_loo", "waic", "kfold"]

_MOST_ROWS = 60


@dataclass(frozen=True, eq=False)
class Elpd(Printable):
    """Expected log predictive density of a new study, by leaving studies out or by formula.

    Attributes
    ----------
    criterion : {"loo", "psis_loo", "waic", "kfold"}
    studies : Clusters
    y : ndarray, shape (n,)
        The effects that were predicted.
    pointwise : ndarray, shape (U,)
        Log predictive density of each of the U studies; of all its effects together where it has
        several.
    penalty : ndarray, shape (U,)
        How much higher the log density is when the study itself is among the data. The sum is the
        effective number of parameters.
    columns : mapping of str to ndarray, shape (U,)
        What else is known of each study, for the table: ``mcse`` (Monte Carlo error of
        `pointwise`), ``pareto_k``, ``psis``.
    pit : ndarray, shape (n,), or None
        P(new effect ≤ y_i) of each row by the studies that are left: uniform on (0, 1) where the
        model fits.
    problems : tuple of str
        Why the numbers should not be trusted; empty when all is well.
    """

    criterion: Criterion
    heading: str = field(repr=False)
    studies: Clusters
    y: Array = field(repr=False)
    pointwise: Array
    penalty: Array
    columns: Mapping[str, Array]
    pit: Array | None
    problems: tuple[str, ...]
    remarks: tuple[str, ...] = field(repr=False)

    _digits: ClassVar[int] = 3

    @property
    def title(self) -> str:
        """How it was estimated."""
        return self.heading

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""
        worst = _MOST_ROWS // 3
        count = len(self.pointwise)
        cut = (f"the {worst} {self.studies.plural} that are predicted worst are shown",)
        return (*self.remarks, *(cut if count > _MOST_ROWS else ()), *self.problems)

    @property
    def elpd(self) -> float:
        """Sum over the studies; higher is better."""
        return float(np.sum(self.pointwise))

    @property
    def se(self) -> float:
        """Standard error of `elpd`, as of a sum of U independent terms; nan for one study."""
        count = len(self.pointwise)
        return math.sqrt(count) * float(np.std(self.pointwise, ddof=1)) if count > 1 else math.nan

    @property
    def p(self) -> float:
        """Effective number of parameters."""
        return float(np.sum(self.penalty))

    @property
    def mcse(self) -> float:
        """Monte Carlo error of `elpd`, those of the studies taken as independent; nan for WAIC."""
        each = self.columns.get("mcse")
        return math.nan if each is None else float(np.sqrt(np.sum(each**2)))

    def to_dataframe(self) -> pd.DataFrame:
        """One row a study: elpd, p, and what else is known; pit where each study has one effect."""
        table = {"elpd": self.pointwise, "p": self.penalty, **self.columns}
        if self.pit is not None and all(len(rows) == 1 for rows in self.studies.rows):
            table["pit"] = self.pit[np.concatenate(self.studies.rows)]
        unit = self.studies.unit
        index = pd.MultiIndex.from_product(
            [[unit.capitalize()], self.studies.names], names=["part", unit]
        )
        return pd.DataFrame(table, index=index)

    def _table(self) -> pd.DataFrame:
        """The totals, and the studies: all, or the worst predicted of many."""
        table = self.to_dataframe()
        if len(table) > _MOST_ROWS:
            table = table.iloc[np.argsort(self.pointwise)[: _MOST_ROWS // 3]]
        total = dict.fromkeys(table.columns, math.nan) | {"elpd": self.elpd, "p": self.p}
        if "mcse" in total:
            total["mcse"] = self.mcse
        if "psis" in total:
            total["psis"] = float(np.sum(self.columns["psis"]))
        error = dict.fromkeys(table.columns, math.nan) | {"elpd": self.se}
        count = f"sum of {len(self.pointwise)}"
        index = pd.MultiIndex.from_tuples([("Total", count), ("Total", "standard error")])
        return pd.concat([pd.DataFrame([total, error], index=index), table])


@dataclass(frozen=True, eq=False)
class ElpdComparison(Printable):
    """Models side by side, the best first.

    Attributes
    ----------
    table : DataFrame
        One row a model: elpd, p, elpd_diff (from the best) and se_diff, the standard error of that
        difference, from the differences of the single studies.
    criterion : {"loo", "psis_loo", "waic", "kfold"}
    problems : tuple of str
        Of the single results.
    """

    table: pd.DataFrame
    criterion: Criterion
    problems: tuple[str, ...]

    _digits: ClassVar[int] = 2

    @property
    def title(self) -> str:
        """What was compared."""
        return f"Expected log predictive density ({self.criterion})"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""
        small = "differences are from the best model; one below 4 says little, whatever its error"
        return (small, *self.problems)

    def to_dataframe(self) -> pd.DataFrame:
        """The table, unrounded."""
        return self.table


def compare_elpd(results: Mapping[str, Elpd]) -> ElpdComparison:
    """Compare how well models predict a study that they have not seen.

    Parameters
    ----------
    results : mapping of str to Elpd
        By the models' names: all ``fit.loo()``, or all ``fit.kfold(seed=1)``, … of the same data.

    Returns
    -------
    ElpdComparison

    Raises
    ------
    FitError
        When something else or fewer than two are given, or they are of different data or criteria.

    Notes
    -----
    The standard error of a difference is too small when models are alike, the model is wrong or
    studies are few (below about 100): Sivula, Magnusson, Matamoros & Vehtari (2025), Bayesian
    Analysis, doi:10.1214/25-BA1569. A difference below 4 says little in any case.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fits = {
    ...     moderator: lsm.LocationScaleModel(
    ...         f"yi ~ {moderator}", variance="vi", data=lsm.load_dataset("bcg")
    ...     ).fit_bayes(seed=1)
    ...     for moderator in ("1", "ablat")
    ... }
    >>> compared = compare_elpd({name: fit.loo() for name, fit in fits.items()})
    >>> compared.table.index.to_list()
    [('Model', 'ablat'), ('Model', '1')]
    """
    _require_results(results)
    if len(results) < 2:
        raise FitError(f"a comparison needs at least two results, got {len(results)}")
    (first_name, first), *others = results.items()
    for name, other in others:
        if other.criterion != first.criterion:
            raise FitError(
                f"{first_name!r} is {first.criterion} and {name!r} is {other.criterion}; compare "
                "results of one kind"
            )
        if other.studies.names != first.studies.names or not np.array_equal(other.y, first.y):
            raise FitError(
                f"{first_name!r} and {name!r} predict different effects; fit both models to the "
                "same rows (leave out those with missing moderators first)"
            )
    ordered = sorted(results, key=lambda name: -results[name].elpd)
    best = results[ordered[0]]
    rows = []
    for name in ordered:
        result = results[name]
        differences = result.pointwise - best.pointwise
        spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else math.nan
        rows.append(
            {
                "elpd": result.elpd,
                "se": result.se,
                "p": result.p,
                "elpd_diff": float(np.sum(differences)),
                "se_diff": math.sqrt(len(differences)) * spread,
            }
        )
    index = pd.MultiIndex.from_product([["Model"], ordered], names=["part", "model"])
    problems = [f"{name}: {text}" for name in ordered for text in results[name].problems]
    return ElpdComparison(pd.DataFrame(rows, index=index), first.criterion, tuple(problems))


def _require_results(results: object) -> None:
    """Refuse what is not a mapping of `Elpd`."""
    values = list(results.values()) if isinstance(results, Mapping) else [results]
    wrong = [each for each in values if not isinstance(each, Elpd)]
    if wrong or not isinstance(results, Mapping):
        got = type((wrong or values)[0]).__name__
        raise FitError(
            "compare_elpd takes results by the models' names, {'a': first.loo(), 'b': "
            f"second.loo()}}; got {got}"
        )
