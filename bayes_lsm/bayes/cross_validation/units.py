"""What is left out at a time: a study, a cluster of rows that depend on each other, or a row."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from bayes_lsm.choices import require_choice
from bayes_lsm.design.clusters import (
    Cluster,
    Clusters,
    connected_rows,
    each_row,
    group_studies,
    independent_clusters,
    read_clusters,
)
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError

Unit = Literal["cluster", "row"]

# Of two clusters the one that is left cannot tell how clusters differ.
_FEWEST_CLUSTERS, _FEWEST = 3, 2


def read_units(design: Design, cluster: Cluster | None = None, unit: Unit = "cluster") -> Clusters:
    """The clusters, studies or rows that are to be left out.

    A FitError refuses an unknown unit, rows that are given clusters, clusters that are unknown or
    missing, and fewer than three clusters, or than two studies or rows.
    """
    require_choice("unit", unit, Unit)
    if unit == "row" and cluster is not None:
        raise FitError("cluster is for unit='cluster', got unit='row'; leave one of them out")
    units = each_row(design) if unit == "row" else _clusters(design, cluster)
    count = len(units.names)
    fewest = _FEWEST if units.unit in ("study", "row") else _FEWEST_CLUSTERS
    if count < fewest:
        raise FitError(
            f"leaving {units.plural} out needs at least {fewest} of them, got {count} "
            f"({', '.join(units.names)}); name smaller ones with cluster="
        )
    return units


def are_independent(design: Design, units: Clusters) -> bool:
    """Whether no two of them share an effect or a sampling error."""
    connected = connected_rows(design)
    sets = [np.unique(connected[rows]) for rows in units.rows]
    return sum(map(len, sets)) == len(np.unique(np.concatenate(sets)))


def _clusters(design: Design, cluster: Cluster | None) -> Clusters:
    """By default those that are independent of each other, which a row of its own study is."""
    found = independent_clusters(design) if cluster is None else read_clusters(design, cluster)
    if cluster is None and len(found) == len(design.y):
        return group_studies(design)
    unit = found.what
    for term in design.terms:
        if term.name == found.what:
            unit = "/".join(term.grouping.columns) or "row"
    return replace(found, what=unit)
