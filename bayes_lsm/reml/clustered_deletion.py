"""A design of several scale terms without some rows, and what a fit says of rows it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bayes_lsm.clustered_design import ClusteredDesign, ScaleTerm
from bayes_lsm.columns import check_columns
from bayes_lsm.errors import DataError
from bayes_lsm.reml.clustered_blocks import loadings, stack_covariances
from bayes_lsm.reml.clustered_fit import ClusteredFit
from bayes_lsm.reml.term_estimate import TermEstimate
from bayes_lsm.sampling_errors import Block

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def keep_rows(design: ClusteredDesign, kept: Mask) -> ClusteredDesign:
    """The same model of the rows `kept` (n,).

    Raises
    ------
    DataError
        When they cannot carry it: too few groups or rows, or a coefficient that they leave open.
    """
    X = design.X[kept]
    terms = tuple(_keep_term(term, kept) for term in design.terms)
    if len(X) <= X.shape[1]:
        raise DataError(f"{len(X)} rows cannot carry {X.shape[1]} location coefficients")
    check_columns("location", design.location.names, X)
    position = np.cumsum(kept) - 1
    blocks = []
    for block in design.blocks:
        here = kept[block.rows]
        if here.sum() > 1:
            rows = position[block.rows[here]]
            blocks.append(Block(rows, block.covariance[np.ix_(here, here)]))
    labels = tuple(label for label, keep in zip(design.labels, kept, strict=True) if keep)
    return replace(
        design,
        y=design.y[kept],
        v=design.v[kept],
        blocks=tuple(blocks),
        location=replace(design.location, matrix=X),
        terms=terms,
        labels=labels,
    )


def _keep_term(term: ScaleTerm, kept: Mask) -> ScaleTerm:
    groups, index = np.unique(term.index[kept], return_inverse=True)
    if len(groups) < 2:
        raise DataError(f"the scale term {term.name!r} has one group")
    found = replace(
        term,
        groups=tuple(term.groups[g] for g in groups),
        index=index,
        slopes=term.slopes[kept],
        Z=term.Z[groups],
    )
    for effect, used in zip(term.effects, found.used.any(axis=0), strict=True):
        if not used:
            raise DataError(f"no row is left with the effect {effect!r} of {term.name!r}")
    check_columns(f"scale ({term.name})", term.names, found.Z[found.used])
    return found


def tau2_at(each: TermEstimate, Z: Array) -> Array:
    """τ² (m, s) of groups with scale moderators Z (m, s, q); 0, inf or nan where it has a limit."""
    rows, added = each.read(Z.reshape(-1, Z.shape[2]))
    log_tau2 = rows @ np.nan_to_num(each.limit_alpha) + added
    return np.asarray(np.exp(log_tau2).reshape(Z.shape[:2]))


def sigma_blocks(
    fit: ClusteredFit, design: ClusteredDesign, parts: Sequence[npt.NDArray[np.intp]]
) -> list[Array]:
    """Σ of sets of rows of a design, with the variances that a fit of other rows gives them."""
    from bayes_lsm.likelihood.terms import sampling_covariance

    terms = list(fit.terms.values())
    tau2 = [tau2_at(each, term.Z) for each, term in zip(terms, design.terms, strict=True)]
    A = loadings(design)
    D = stack_covariances(tau2, [np.nan_to_num(each.correlation) for each in terms])
    V = sampling_covariance(design)
    found = []
    for rows in parts:
        here = A[rows]
        own = np.diag(V[rows]) if isinstance(V, np.ndarray) else V[rows][:, rows].toarray()
        found.append((here @ D @ here.T).toarray() + own)
    return found
