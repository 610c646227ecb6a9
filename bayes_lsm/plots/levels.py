"""What figures read from a fit of several scale terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

from bayes_lsm.errors import FitError
from bayes_lsm.plots.forest import Order, Row, diamonds, study_rows
from bayes_lsm.plots.reading import row_names
from bayes_lsm.reml.reml_fit import RemlFit

if TYPE_CHECKING:
    from bayes_lsm.bayes.bayes_fit import BayesFit

Array = npt.NDArray[np.float64]
type LevelFit = "RemlFit | BayesFit"


def forest_rows(
    fit: LevelFit,
    by: str | Sequence[object] | None,
    summary: pd.DataFrame | None,
    order: Order,
    level: float,
) -> list[Row]:
    """A row for each effect, under headings if asked for, and the summary.

    Raises
    ------
    FitError
        For individual data, an unknown grouping or order, and groups of another length.
    """
    design = fit.design
    if not (design.v > 0).all():
        raise FitError("a forest plot needs sampling variances; individual data have none")
    weights = 1.0 / _total_variances(fit)
    weights = 100.0 * weights / weights.sum()
    studies = study_rows(design.y, design.v, design.labels, weights, order, level)
    rows = studies if by is None else _under_headings(fit, by, studies)
    if summary is not None:
        table = fit.predict(summary, level=level).table
        return [*rows, Row("gap"), *diamonds(table.set_axis(row_names(table, summary)), level)]
    plain = not design.kinds and all(len(term.effects) == 1 for term in design.terms)
    if plain and not any(term.slope_part for term in design.terms):
        table = fit.predict(pd.DataFrame({"row": [0]}), level=level).table
        return [*rows, Row("gap"), *diamonds(table.set_axis([design.kind]), level)]
    return list(rows)


def _under_headings(fit: LevelFit, by: str | Sequence[object], studies: Sequence[Row]) -> list[Row]:
    from bayes_lsm.design.clusters import read_clusters

    clusters = read_clusters(fit.design, by)
    rows: list[Row] = []
    for c, name in enumerate(clusters.names):
        members = [row for row in studies if clusters.code[row.study] == c]
        heading = name if clusters.what == "cluster" else f"{clusters.what} {name}"
        rows += [Row("heading", heading), *members, Row("gap")]
    return rows[:-1]


def _total_variances(fit: LevelFit) -> Array:
    """Σ_ii of each row (n,): at the estimates, or at posterior medians of τ²."""
    return np.asarray(fit.design.v + fit.tau2)


def fitted_means(fit: LevelFit, level: float) -> Array:
    """The mean effect of each row, and the ends of its confidence interval (n, 3).

    Of a Bayesian fit the posterior median, and an equal-tailed interval.
    """
    X = fit.design.X
    if not isinstance(fit, RemlFit):
        location = fit.draws.flat_location
        return np.quantile(location @ X.T, [0.5, (1 - level) / 2, (1 + level) / 2], axis=0).T
    mean = X @ fit.beta
    half = float(ndtri(0.5 + level / 2)) * np.sqrt(
        np.einsum("ij,jk,ik->i", X, fit.vcov_location, X)
    )
    return np.column_stack([mean, mean - half, mean + half])


def own_effects(fit: LevelFit, level: float) -> Array:
    """Each row's own true effect, and the ends of its interval (n, 3)."""
    table = fit.blup(level=level).table
    return table[["estimate", "pi_lb", "pi_ub"]].to_numpy()
