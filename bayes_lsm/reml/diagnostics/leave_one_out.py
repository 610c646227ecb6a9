"""Estimates with each study, or each cluster of rows, left out in turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.design.clusters import Cluster
from bayes_lsm.reml.diagnostics.deletion import Deletions, delete
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.wald import wald_columns
from bayes_lsm.tables import Printable

_SHOWN = ("estimate", "se", "loglik", "tau2", "I2", "H2", "Q")


@dataclass(frozen=True, eq=False)
class LeaveOneOut(Deletions, Printable):
    """Estimates without each study or cluster; its fields are those of `Deletions`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What was left out, by name."""
        return self.clusters.names

    @property
    def unit(self) -> str:
        """What each of those is: a study, a group of a scale term, or a cluster."""
        return self.clusters.unit

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each that was left out; columns (part, term, statistic).

        For each location and scale term estimate, se, zval (or tval), pval, ci_lb and ci_ub; for
        the part ``"model"`` loglik, tau2, I2, H2, Q and Qp.
        """
        return by_cluster(self._columns(), self)

    def _columns(self) -> dict[tuple[str, str, str], Array]:
        columns = dict[tuple[str, str, str], Array]()
        for part, names, estimate, se, df in (
            ("location", self.fit.design.location.names, self.beta, self.se_beta, self.df_location),
            ("scale", self.fit.scale_names, self.alpha, self.se_alpha, self.df_scale),
        ):
            for j, name in enumerate(names):
                found = wald_columns(estimate[:, j], se[:, j], None if np.isnan(df).all() else df)
                found.pop("df", None)
                columns |= {(part, name, statistic): each for statistic, each in found.items()}
        whole = ("loglik", "tau2", "I2", "H2", "Q")
        columns |= {("model", "", name): getattr(self, name) for name in whole}
        columns["model", "", "Qp"] = self.Q_pval
        return columns

    @property
    def title(self) -> str:
        """What was left out of what."""
        return f"Estimates without each {self.unit} of a {self.fit.title}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""
        found = [f"without {each.name}: {each.reason}" for each in self.unfittable]
        others = {*self.diverging, *(each.name for each in self.unfittable)}
        ended = [name for name in self.labels if name not in others]
        for names, what in (
            (self.diverging, "a scale coefficient has no finite estimate"),
            (ended if self.fit.divergence else (), "every scale coefficient has a finite estimate"),
            (self.unconverged, "the optimiser did not converge"),
        ):
            if names:
                found.append(f"{what} without {some(names)}")
        return (*found, *self.fit.notes)

    def _table(self) -> pd.DataFrame:
        shown = {
            (f"{part} {term}".strip(), statistic): values
            for (part, term, statistic), values in self._columns().items()
            if statistic in _SHOWN
        }
        return by_cluster(shown, self)


def leave_one_out(
    fit: Estimates, *, cluster: Cluster | None = None, progress: bool = True
) -> LeaveOneOut:
    """Estimates with each study, or each cluster, left out in turn, by exact refits.

    Parameters
    ----------
    fit : RemlFit or Estimates
        Its method, test and fixed coefficients are those of the refits. (Bounds on α are not known
        to a fit, and are not kept.)
    cluster : str or sequence of length n, optional
        What is left out as a whole: the groups of a scale term, or the cluster of each row. By
        default the rows of independent effects, and else the outermost groups.
    progress : bool, default True
        Show a progress bar on standard error when it takes more than a second or two.

    Returns
    -------
    LeaveOneOut

    Raises
    ------
    FitError
        For clusters that are unknown or missing, and where groups cross and none are given.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"), study="trial").fit_reml()
    >>> table = leave_one_out(fit, progress=False).to_dataframe()
    >>> print(table["location"]["intrcpt"][["estimate", "se"]].round(3).head(3))
           estimate     se
    study
    1        -0.707  0.190
    2        -0.654  0.181
    3        -0.686  0.186
    """
    return LeaveOneOut(**facts(delete(fit, cluster, progress=progress)))


def facts(found: Deletions) -> dict[str, Any]:
    """The fields of `Deletions`, by their names."""
    return {each.name: getattr(found, each.name) for each in fields(Deletions)}


def by_cluster(columns: Mapping[Any, Array], found: LeaveOneOut) -> pd.DataFrame:
    """A table with a row for each that was left out; the columns are tuples."""
    table = pd.DataFrame(dict(enumerate(columns.values())))
    table.index = pd.Index(found.labels, name=found.unit)
    table.columns = pd.MultiIndex.from_tuples(list(columns))
    return table


def some(names: Sequence[str] | Iterable[str]) -> str:
    """The first eight names."""
    names = list(names)
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
