"""What may be reshuffled in a permutation test: moderators of one part, by whole clusters.

Rows of a cluster depend on each other, rows of different clusters do not: so clusters, and not
rows, are exchangeable. A permutation gives each cluster the moderators of another, in all scale
terms at once; the effects, and what is held in ln τ², stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from bayes_lsm.arrays import Array, Index
from bayes_lsm.design.clusters import Cluster, Clusters, read_clusters, shared
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import FitError

PartName = Literal["location", "scale"]


@dataclass(frozen=True, eq=False)
class Exchangeable:
    """The moderators of one part, with one value in each of G clusters.

    `tables` are the location matrix of each cluster (G, p), or of each scale term Z (G, s, q).
    """

    design: Design
    part: PartName
    clusters: Clusters
    tables: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.clusters)

    @property
    def moderators(self) -> Array:
        """All that a cluster gives to another, shape (G, m)."""
        return np.concatenate([each.reshape(len(self), -1) for each in self.tables], axis=1)

    def rows(self, orders: Index) -> Index:
        """Whose moderators each row gets, (m, n), from whose each cluster gets, (m, G)."""
        return np.asarray(self.clusters.first[orders[:, self.clusters.code]])

    def reorder(self, order: Index) -> Design:
        """The design in which each cluster has the moderators of that one of an order (G,)."""
        if self.part == "location":
            moved = self.tables[0][order][self.clusters.code]
            return replace(self.design, location=replace(self.design.location, matrix=moved))
        terms = [
            replace(term, Z=table[order][_cluster_of(term, self.clusters)])
            for term, table in zip(self.design.terms, self.tables, strict=True)
        ]
        return replace(self.design, terms=tuple(terms))


def exchangeable(design: Design, part: PartName, cluster: Cluster | None = None) -> Exchangeable:
    """The moderators of a part that a permutation of clusters moves; for those see `read_clusters`.

    A FitError refuses clusters that depend on each other, moderators that differ within a cluster,
    and a part none of whose moderators differ between clusters.
    """
    clusters = read_clusters(design, cluster)
    common = "" if cluster is None else shared(design, clusters)  # the outermost share nothing
    if common:
        raise FitError(
            f"{common} lie in several clusters, which therefore depend on each other and cannot be "
            "permuted; give coarser clusters"
        )
    if part == "location":
        table = design.X[clusters.first]
        names = design.location.names
        _require_one_value(design.X, table[clusters.code], names, part, clusters)
        found = Exchangeable(design, part, clusters, (table,))
    else:
        names = tuple(name for term in design.terms for name in term.names)
        tables = tuple(_of_term(term, clusters) for term in design.terms)
        found = Exchangeable(design, part, clusters, tables)
    if not names or np.ptp(found.moderators, axis=0).max() == 0:
        other = "location" if part == "scale" else "scale"
        raise FitError(
            f"there is nothing to permute: the {part} part has no moderators that differ between "
            f"clusters, only {', '.join(names)}; use part={other!r}, or give a formula with "
            "moderators"
        )
    return found


def _cluster_of(term: ScaleTerm, clusters: Clusters) -> Index:
    """The cluster of each group of a term (G,)."""
    first = np.unique(term.index, return_index=True)[1]
    return np.asarray(clusters.code[first])


def _of_term(term: ScaleTerm, clusters: Clusters) -> Array:
    """Z of each cluster's groups, shape (clusters, s, q)."""
    owner, used = _cluster_of(term, clusters), term.used
    s, q = len(term.effects), len(term.names)
    table = np.full((len(clusters), s, q), np.nan)
    for k in range(s):
        groups = np.flatnonzero(used[:, k])
        table[owner[groups], k] = term.Z[groups, k]
        _require_one_value(
            term.Z[groups, k], table[owner[groups], k], term.names, term.name, clusters
        )
        missing = np.isnan(table[:, k]).any(axis=1)
        if missing.any():
            known = np.unique(table[~missing, k], axis=0)
            if len(known) > 1:
                raise FitError(
                    f"{clusters.what} {clusters.names[int(np.flatnonzero(missing)[0])]} has no "
                    f"{term.effects[k]!r} whose scale moderators could be given to another; leave "
                    "such clusters out"
                )
            table[missing, k] = known[0]
    return table


def _require_one_value(
    values: Array, expected: Array, names: Sequence[str], part: str, clusters: Clusters
) -> None:
    differs = (values != expected).any(axis=0)
    if differs.any():
        listed = ", ".join(name for name, bad in zip(names, differs, strict=True) if bad)
        raise FitError(
            f"a permutation of whole clusters needs moderators with one value in each cluster, but "
            f"{listed} of {part!r} differs within groups of {clusters.what!r}; test it with "
            "likelihood_ratio_test or bootstrap_test"
        )
