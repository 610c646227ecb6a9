"""The sampling errors' covariance V: variances, and blocks of rows whose errors are correlated.

V may be given as a matrix, as the columns of each cluster's block, or as one correlation. Whatever
its form, it is cut into the smallest blocks that are independent of each other, and each of them is
checked to be a covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.arrays import Array, Index
from bayes_lsm.design import frames
from bayes_lsm.design.frames import some
from bayes_lsm.errors import DataError
from bayes_lsm.specification import MATRIX, SamplingCovariance, Specification

# Covariances are often typed in with a few digits: relative to the largest entry.
_SYMMETRY = 1e-8


@dataclass(frozen=True, eq=False)
class Block:
    """Rows (m,) whose sampling errors are correlated, two or more in ascending order.

    Their `covariance` (m, m) is symmetric and positive definite.
    """

    rows: Index
    covariance: Array

    def keep(self, place: Index) -> tuple[Block, ...]:
        """The block of the rows that are kept, if they are two or more.

        `place` (n,) is where each row of the data stands among those kept; −1 where it is left out.
        """
        here = np.flatnonzero(place[self.rows] >= 0)
        here = here[np.argsort(place[self.rows[here]])]
        if len(here) < 2:
            return ()
        return (Block(place[self.rows[here]], self.covariance[np.ix_(here, here)]),)


def sampling_errors(
    specification: Specification,
    data: pd.DataFrame,
    labels: Sequence[str],
    *,
    covariance: Any = None,
) -> tuple[Array, tuple[Block, ...]]:
    """Variances (n,) and correlated blocks of the sampling errors; zeros for individual data.

    The specification names the variances and, if they are correlated, how; a `covariance` (n, n)
    takes its place. A DataError refuses a V that is not a covariance.
    """
    if covariance is not None:
        return _from_matrix(covariance, labels)
    if specification.variance == MATRIX:
        raise DataError(
            "the model's sampling covariance was given as a matrix, which its words do not hold; "
            "pass the matrix with the data"
        )
    words = specification.sampling_covariance
    v = np.zeros(len(data))
    if specification.variance_column:
        v = frames.outcome(data, specification.variance_column, labels)
        _require_positive(specification.variance_column, v, labels)
    if words is None:
        return v, ()
    clusters = pd.factorize(data[words.cluster])[0]
    order = np.argsort(clusters, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(clusters[order])) + 1)
    if words.columns:
        matrices = [_from_columns(words, data, rows, labels) for rows in members]
        v = _diagonal(specification, matrices, members, v, labels)
    elif specification.variance_column:
        matrices = [_equicorrelated(v[rows], float(words.rho or 0.0)) for rows in members]
    else:
        raise DataError(
            "a correlation of sampling errors needs their variances; name their column as variance"
        )
    names = [frames.level_text(level) for level in pd.unique(data[words.cluster])]
    blocks = []
    for name, rows, matrix in zip(names, members, matrices, strict=True):
        _require_covariance(f"of {words.cluster} {name}", matrix)
        blocks += _split(rows, matrix)
    return v, tuple(blocks)


def align(covariance: Any, data: pd.DataFrame, complete: npt.NDArray[np.bool_]) -> Array:
    """The rows and columns of a covariance matrix that belong to the complete rows of the data."""
    n = len(data)
    if isinstance(covariance, pd.DataFrame) and not (
        covariance.index.equals(covariance.columns) and covariance.index.equals(data.index)
    ):
        raise DataError(
            "the rows and columns of the sampling covariance must have the index of the data; "
            "reorder it, such as with V.loc[data.index, data.index]"
        )
    matrix = covariance.toarray() if hasattr(covariance, "toarray") else np.asarray(covariance)
    if matrix.shape != (n, n):
        shape = " × ".join(map(str, matrix.shape))
        raise DataError(
            f"the sampling covariance must be {n} × {n}, a row and a column for each row of the "
            f"data, got {shape}"
        )
    if not np.issubdtype(matrix.dtype, np.number):
        raise DataError(f"the sampling covariance must hold numbers, got {matrix.dtype}")
    return np.array(matrix[np.ix_(complete, complete)], dtype=float)


def _from_matrix(matrix: Array, labels: Sequence[str]) -> tuple[Array, tuple[Block, ...]]:
    from scipy.sparse.csgraph import connected_components

    v = np.diag(matrix).copy()
    _require_positive("covariance", v, labels)
    _, cluster = connected_components(matrix != 0, directed=False)
    blocks = []
    for number in range(cluster.max() + 1):
        rows = np.flatnonzero(cluster == number)
        if len(rows) > 1:
            block = matrix[np.ix_(rows, rows)]
            _require_covariance(f"of {some(labels, cluster == number)}", block)
            blocks.append(Block(rows, _symmetric(block)))
    return v, tuple(blocks)


def _from_columns(
    words: SamplingCovariance, data: pd.DataFrame, rows: Index, labels: Sequence[str]
) -> Array:
    columns = words.columns[: len(rows)]
    if len(columns) < len(rows):
        raise DataError(
            f"the cluster of {labels[rows[0]]} has {len(rows)} rows, but only {len(columns)} "
            "columns of sampling covariances are named; name one for each row"
        )
    here = data.iloc[rows]
    return np.column_stack(
        [frames.outcome(here, name, [labels[i] for i in rows]) for name in columns]
    )


def _diagonal(
    specification: Specification,
    matrices: Sequence[Array],
    members: Sequence[Index],
    named: Array,
    labels: Sequence[str],
) -> Array:
    v = np.empty(len(named))
    for rows, matrix in zip(members, matrices, strict=True):
        v[rows] = np.diag(matrix)
    differs = ~np.isclose(v, named, rtol=1e-6)
    if specification.variance_column and differs.any():
        raise DataError(
            f"the sampling variances {specification.variance_column!r} are not the diagonal of the "
            f"covariance columns in {some(labels, differs)}; correct one of them"
        )
    _require_positive("covariance", v, labels)
    return v


def _equicorrelated(v: Array, rho: float) -> Array:
    sd = np.sqrt(v)
    matrix = rho * np.outer(sd, sd)
    np.fill_diagonal(matrix, v)
    return matrix


def _split(rows: Index, matrix: Array) -> list[Block]:
    """The block, or none where its rows are independent."""
    off_diagonal = matrix - np.diag(np.diag(matrix))
    if not off_diagonal.any():
        return []
    order = np.argsort(rows)
    return [Block(rows[order], _symmetric(matrix)[np.ix_(order, order)])]


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


def _require_positive(column: str, v: Array, labels: Sequence[str]) -> None:
    bad = ~(np.isfinite(v) & (v > 0))
    if bad.any():
        raise DataError(
            f"sampling variance {column!r} must be > 0, got {v[bad][0]:g} in {some(labels, bad)}; "
            "drop the row or correct it"
        )


def _require_covariance(whose: str, matrix: Array) -> None:
    if not np.isfinite(matrix).all():
        raise DataError(f"the sampling covariance {whose} must be finite; correct it")
    asymmetry = np.abs(matrix - matrix.T).max()
    if asymmetry > _SYMMETRY * np.abs(matrix).max():
        raise DataError(
            f"the sampling covariance {whose} must be symmetric, but two of its entries differ by "
            f"{asymmetry:g}; correct it"
        )
    smallest = float(np.linalg.eigvalsh(_symmetric(matrix))[0])
    if not smallest > 0:
        raise DataError(
            f"the sampling covariance {whose} must be positive definite, but its smallest "
            f"eigenvalue is {smallest:.3g}; correct a covariance that is too large"
        )
