"""Permutation tests with several scale terms: whole clusters change their moderators.

Rows of a cluster depend on each other, rows of different clusters do not: so clusters, and not
rows, are exchangeable. A permutation gives each cluster the moderators of another, in all scale
terms at once; each of the refits is a search for the highest point, with fewer starts than the fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.choices import require_choice
from bayes_lsm.design.clusters import Cluster, Clusters, read_clusters, shared
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import FitError
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search import maximum
from bayes_lsm.reml.tests.bootstrap_test import batches, checked_seed
from bayes_lsm.reml.tests.orders import ExactOrders, RandomOrders, is_exhaustive
from bayes_lsm.reml.tests.permutation_test import PermutationTest, share_at_least
from bayes_lsm.reml.tests.wald_and_ratio import PartName, term_columns

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# Of the work that `batches` puts into one of its batches: some tenths of a second.
_WORK = 50_000


def permute_clusters(
    fit: Estimates,
    part: PartName,
    cluster: Cluster | None,
    iterations: int,
    seed: int | None,
    exact: bool | Literal["auto"],
    progress: bool,
) -> PermutationTest:
    """What `permutation_test` does for several scale terms.

    A coefficient that diverges in a permutation counts with z = 0, its limit; the joint χ² is that
    of the others.

    Raises
    ------
    FitError
        For a part without moderators, moderators that differ within a cluster, and clusters that
        depend on each other.
    """
    design = fit.design
    rows, reorder = exchangeable(design, part, cluster)
    count, exhaustive = is_exhaustive(rows, iterations, exact)
    seed = None if exhaustive else checked_seed(seed)
    orders = ExactOrders(rows) if exhaustive else RandomOrders(len(rows), seed)
    names = fit.scale_names if part == "scale" else design.location.names
    tested = term_columns(part, names)
    z_fit, joint_fit, _ = _statistics(fit, part, tested, fill=math.nan)
    z_null, joint_null, diverged = [], [], 0
    total = count if exhaustive else iterations - 1
    for batch in batches(total, _WORK, "Refitting permutations", progress=progress):
        for order in orders(batch.stop - batch.start):
            refit = maximum.estimate(reorder(order), fit.method, turns=0, near=[fit.stop])
            z, joint, diverges = _statistics(refit, part, tested, fill=0.0)
            z_null.append(z)
            joint_null.append(joint)
            diverged += diverges
    if not exhaustive:
        z_null.insert(0, np.nan_to_num(z_fit))
        joint_null.insert(0, 0.0 if math.isnan(joint_fit) else joint_fit)
    null, joint_values = np.array(z_null), np.array(joint_null)
    estimate, covariance = _part(fit, part)
    table = pd.DataFrame(
        {
            "estimate": estimate,
            "se": np.sqrt(np.diag(covariance)),
            "zval": z_fit,
            "pval": [
                share_at_least(np.abs(z), abs(at)) for z, at in zip(null.T, z_fit, strict=True)
            ],
        },
        index=pd.Index(names, name="term"),
    )
    return PermutationTest(
        part=part,
        table=table,
        statistic=joint_fit,
        df=len(tested),
        pval=share_at_least(joint_values, joint_fit),
        null=pd.DataFrame(null, columns=list(names)),
        null_joint=joint_values,
        iterations=len(joint_values),
        exact=exhaustive,
        diverged=diverged,
        failed=int(np.isinf(joint_values).sum()),
        seed=seed,
        same_maximum=True,
    )


def exchangeable(
    design: Design, part: PartName, cluster: Cluster | None
) -> tuple[Array, Callable[[Index], Design]]:
    """The moderators of each cluster (G, m), and the design with those of an order of clusters."""
    require_choice("part", part, PartName)
    clusters = read_clusters(design, cluster)
    common = shared(design, clusters)
    if common:
        raise FitError(
            f"{common} lie in several clusters, which therefore depend on each other and cannot be "
            "permuted; give coarser clusters"
        )
    return _moderators(design, part, clusters)


def _part(fit: Estimates, part: PartName) -> tuple[Array, Array]:
    return (fit.beta, fit.vcov_location) if part == "location" else (fit.alpha, fit.vcov_terms)


def _statistics(
    fit: Estimates, part: PartName, tested: list[int], *, fill: float
) -> tuple[Array, float, bool]:
    """z of each coefficient, χ² of the tested ones, and whether one diverges.

    A missing z is `fill`, and so is χ² unless that is 0: then it is that of the others. Where the
    refit failed both are inf.
    """
    estimate, covariance = _part(fit, part)
    if not fit.converged:
        return np.full(len(estimate), np.inf), math.inf, False
    finite = np.isfinite(estimate) & np.isfinite(np.diag(covariance))
    se = np.sqrt(np.where(finite, np.diag(covariance), 1.0))
    z = np.where(finite, np.where(finite, estimate, 0.0) / se, fill)
    kept = [j for j in tested if finite[j]]
    if len(kept) < len(tested) and math.isnan(fill):
        return z, math.nan, not finite.all()
    b, V = estimate[kept], covariance[np.ix_(kept, kept)]
    joint = float(b @ np.linalg.solve(V, b)) if kept else 0.0
    return z, joint, not finite.all()


def _moderators(
    design: Design, part: PartName, clusters: Clusters
) -> tuple[Array, Callable[[Index], Design]]:
    """The same, of clusters that are independent."""
    if part == "location":
        X = design.X
        table = X[clusters.first]
        _require_one_value(X, table[clusters.code], design.location.names, part, clusters)
        _require_moderators(table, part, design.location.names)

        def with_location(order: Index) -> Design:
            moved = table[order][clusters.code]
            return replace(design, location=replace(design.location, matrix=moved))

        return table, with_location
    tables = [_of_term(term, clusters) for term in design.terms]
    flat = np.concatenate([each.reshape(len(clusters), -1) for each in tables], axis=1)
    _require_moderators(flat, part, [name for term in design.terms for name in term.names])

    def with_scale(order: Index) -> Design:
        terms = [
            replace(term, Z=table[order][_cluster_of(term, clusters)])
            for term, table in zip(design.terms, tables, strict=True)
        ]
        return replace(design, terms=tuple(terms))

    return flat, with_scale


def _cluster_of(term: ScaleTerm, clusters: Clusters) -> Index:
    """The cluster of each group of a term (G,)."""
    first = np.unique(term.index, return_index=True)[1]
    return clusters.code[first]


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
    values: Array, expected: Array, names: tuple[str, ...], part: str, clusters: Clusters
) -> None:
    differs = (values != expected).any(axis=0)
    if differs.any():
        listed = ", ".join(name for name, bad in zip(names, differs, strict=True) if bad)
        raise FitError(
            f"a permutation of whole clusters needs moderators with one value in each cluster, but "
            f"{listed} of {part!r} differs within groups of {clusters.what!r}; test it with "
            "likelihood_ratio_test or bootstrap_test"
        )


def _require_moderators(table: Array, part: PartName, names: object) -> None:
    if np.ptp(table, axis=0).max() == 0:
        raise FitError(
            f"there is nothing to permute: the {part} part has no moderators that differ between "
            "clusters; give a formula with moderators, or name the other part"
        )
