"""Clusters of rows: what is left out together, shuffled together, or dependent on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.arrays import Index
from bayes_lsm.design import frames
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError

Cluster = str | Sequence[Any]


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of the rows: `code` (n,) is 0, 1, … in the order of their appearance.

    `what` is the scale term that they are the groups of, or ``"study"``, ``"row"``, ``"cluster"``.
    """

    code: Index
    names: tuple[str, ...]
    what: str

    def __len__(self) -> int:
        return len(self.names)

    @property
    def unit(self) -> str:
        """What each of them is called: a row with an effect of its own is a study."""
        return "study" if self.what == "residual" else self.what

    @property
    def sizes(self) -> Index:
        """How many rows each has (G,)."""
        return np.bincount(self.code, minlength=len(self))

    @property
    def plural(self) -> str:
        """Several of them."""
        return {"study": "studies", "row": "rows"}.get(self.unit, "clusters")

    @cached_property
    def rows(self) -> tuple[Index, ...]:
        """The rows of each."""
        order = np.argsort(self.code, kind="stable")
        return tuple(np.split(order, np.cumsum(self.sizes)[:-1]))

    @cached_property
    def first(self) -> Index:
        """The first row of each."""
        return np.unique(self.code, return_index=True)[1]


def read_clusters(design: Design, cluster: Cluster | None) -> Clusters:
    """The clusters that are asked for: a scale term's grouping, or the cluster of each row (n,).

    By default the groups of the scale term in whose groups those of all others lie. A FitError
    refuses an unknown grouping, clusters that are missing or fewer than two, and groups that cross.
    """
    names = ", ".join(repr(term.name) for term in design.terms)
    if cluster is None:
        return _outermost(design, names)
    if isinstance(cluster, str):
        for term in design.terms:
            if term.name == " ".join(cluster.split()):
                return Clusters(term.index, term.groups, term.name)
        raise FitError(
            f"there is no scale term {cluster!r}; name one of {names}, or pass a column of the data"
        )
    codes, levels = pd.factorize(np.asarray(cluster, dtype=object))
    if len(codes) != len(design.y):
        dropped = len(design.dropped)
        also = f" ({dropped} rows of the data were left out)" if dropped else ""
        raise FitError(
            f"cluster must have one entry for each of the {len(design.y)} rows that were "
            f"fitted{also}, got {len(codes)}"
        )
    if (codes < 0).any():
        row = design.labels[int(np.flatnonzero(codes < 0)[0])]
        raise FitError(f"cluster is missing in {row}; give each row a cluster")
    if len(levels) < 2:
        raise FitError("cluster must have at least two different entries, got one")
    return Clusters(codes.astype(np.intp), tuple(map(frames.level_text, levels)), "cluster")


def each_row(design: Design) -> Clusters:
    """Every row by itself, whatever it shares with others."""
    return Clusters(np.arange(len(design.y)), design.labels, "row")


def group_studies(design: Design) -> Clusters:
    """Rows of one name are one study where a column of names was given; else each row is one."""
    if design.specification.study is None:
        return Clusters(np.arange(len(design.y)), design.labels, "study")
    codes, names = pd.factorize(np.array(design.labels, dtype=object))
    return Clusters(codes.astype(np.intp), tuple(names), "study")


def _outermost(design: Design, names: str) -> Clusters:
    term = min(design.terms, key=lambda each: len(each.groups))
    found = Clusters(term.index, term.groups, term.name)
    other = shared(design, found)
    if other:
        raise FitError(
            f"{other} lie in several groups of {term.name!r}; say which rows belong together with "
            f"cluster= a scale term ({names}) or a column of the data"
        )
    return found


def shared(design: Design, clusters: Clusters) -> str:
    """What makes rows of different clusters dependent, in words; empty if nothing does."""
    for term in design.terms:
        pairs = np.unique(np.stack([term.index, clusters.code]), axis=1).shape[1]
        if pairs > len(term.groups):
            return f"the groups of {term.name!r}"
    for block in design.blocks:
        if len(np.unique(clusters.code[block.rows])) > 1:
            return "correlated sampling errors"
    return ""


def has_dependent_rows(design: Design) -> bool:
    """Whether some rows share effects or have correlated sampling errors."""
    return len(np.unique(connected_rows(design))) < len(design.y)


def connected_rows(design: Design) -> Index:
    """A number (n,) that rows share when a group or a sampling error makes them dependent."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    n = len(design.y)
    links, offset = [np.empty((2, 0), dtype=np.intp)], n
    for term in design.terms:
        row = np.flatnonzero((term.slopes != 0).any(axis=1))
        links.append(np.stack([row, offset + term.index[row]]))
        offset += len(term.groups)
    for number, block in enumerate(design.blocks):
        links.append(np.stack([block.rows, np.full(len(block.rows), offset + number)]))
    offset += len(design.blocks)
    i, j = np.concatenate(links, axis=1)
    graph = sparse.coo_array((np.ones(len(i)), (i, j)), shape=(offset, offset))
    label = connected_components(graph, directed=False)[1][:n]
    return np.asarray(pd.factorize(label)[0], dtype=np.intp)


def independent_clusters(design: Design) -> Clusters:
    """The outermost groups; where they are dependent, the sets of rows that are independent."""
    outer = min(design.terms, key=lambda each: len(each.groups))
    connected = connected_rows(design)
    sets = np.unique(np.stack([outer.index, connected]), axis=1).shape[1]
    if sets == int(connected.max()) + 1:  # each set lies in one group
        return Clusters(outer.index, outer.groups, outer.name)
    first = np.unique(connected, return_index=True)[1]
    size = np.bincount(connected)
    names = [
        design.labels[row] if many == 1 else f"{design.labels[row]} and {many - 1} with it"
        for row, many in zip(first, size, strict=True)
    ]
    return Clusters(connected, tuple(names), "cluster")


def sum_by_cluster(values: npt.NDArray[np.float64], code: Index) -> npt.NDArray[np.float64]:
    """Sums of the rows of `values` (n, m) over the clusters 0, 1, …, G − 1 of each row, (G, m).

    Examples
    --------
    >>> sum_by_cluster(np.array([[1.0], [2.0], [4.0]]), np.array([0, 1, 0]))
    array([[5.],
           [2.]])
    """
    sums = np.zeros((int(code.max()) + 1, values.shape[1]))
    np.add.at(sums, code, values)
    return sums
