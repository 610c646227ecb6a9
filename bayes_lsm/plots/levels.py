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

if TYPE_CHECKING:
    from bayes_lsm.reml.clustered_fit import ClusteredFit

Array = npt.NDArray[np.float64]


def forest_rows(
    fit: ClusteredFit,
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
    from bayes_lsm.reml.clustered_residuals import standard_errors

    design = fit.design
    if not (design.v > 0).all():
        raise FitError("a forest plot needs sampling variances; individual data have none")
    weights = 1.0 / standard_errors(fit)[0] ** 2
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


def _under_headings(
    fit: ClusteredFit, by: str | Sequence[object], studies: Sequence[Row]
) -> list[Row]:
    from bayes_lsm.clusters import read_clusters

    clusters = read_clusters(fit.design, by)
    rows: list[Row] = []
    for c, name in enumerate(clusters.names):
        members = [row for row in studies if clusters.code[row.study] == c]
        heading = name if clusters.what == "cluster" else f"{clusters.what} {name}"
        rows += [Row("heading", heading), *members, Row("gap")]
    return rows[:-1]


def fitted_means(fit: ClusteredFit, level: float) -> Array:
    """The mean effect of each row, and the ends of its confidence interval (n, 3)."""
    X = fit.design.X
    mean = X @ fit.beta
    half = float(ndtri(0.5 + level / 2)) * np.sqrt(
        np.einsum("ij,jk,ik->i", X, fit.vcov_location, X)
    )
    return np.column_stack([mean, mean - half, mean + half])
