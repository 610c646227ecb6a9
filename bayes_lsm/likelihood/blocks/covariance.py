"""Σ = V + A D A' of several scale terms, block by block: for what needs it as it is, not its value.

All effects of all groups stand beside each other, A (n, m) and their covariance D (m, m), sparse.
Rows that share an effect or a sampling covariance form a block, as in the likelihood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import cho_solve, solve_triangular
from scipy.sparse.csgraph import connected_components

from bayes_lsm.arrays import Array, Index
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.blocks.arrange import error_covariance


@dataclass(frozen=True, eq=False)
class DenseBlock:
    """Rows (b,) and effects, `columns` (e,), that have to do with each other; their Σ (b, b)."""

    rows: Index
    columns: Index
    sigma: Array

    @cached_property
    def root(self) -> Array:
        """Lower Cholesky factor."""
        return np.linalg.cholesky(self.sigma)

    def solve(self, right: Array) -> Array:
        """Σ⁻¹ times what is given."""
        return np.asarray(cho_solve((self.root, True), right))


def loadings(design: Design) -> sparse.csr_array:
    """A (n, m): what each row multiplies every effect by, terms beside each other.

    A row that has any effect of a group has an entry for all of them, a zero if need be: they are
    correlated. A row that has none, its slopes being 0, has no entry.
    """
    found = []
    for term in design.terms:
        n, s = term.slopes.shape
        used = np.flatnonzero(term.slopes.any(axis=1))
        columns = (s * term.index[used, None] + np.arange(s)).ravel()
        rows = np.repeat(used, s)
        shape = (n, s * len(term.groups))
        entries = term.slopes[used].ravel()
        found.append(sparse.csr_array((entries, (rows, columns)), shape=shape))
    return sparse.csr_array(sparse.hstack(found))


def stack_covariances(tau2: Sequence[Array], correlations: Sequence[Array]) -> sparse.csr_array:
    """D (m, m) of the effects' variances (G, s) and correlation matrix (s, s) of each term."""
    found: list[Any] = []
    for values, R in zip(tau2, correlations, strict=True):
        if values.shape[1] == 1:
            found.append(sparse.diags_array(values.ravel()))
            continue
        tau = np.sqrt(values)
        found.append(block_diagonal(tau[:, :, None] * R * tau[:, None, :]))
    return sparse.csr_array(sparse.block_diag(found))


def block_diagonal(matrices: Array) -> sparse.csr_array:
    """Matrices (G, s, s) along the diagonal of one."""
    groups = np.arange(len(matrices) + 1)
    found = sparse.bsr_array((matrices, groups[:-1], groups)).tocsr()
    found.eliminate_zeros()
    return found


def blocks(design: Design, A: sparse.csr_array, D: sparse.csr_array) -> Iterator[DenseBlock]:
    """The blocks of V + A D A'."""
    V = error_covariance(design)
    V = sparse.diags_array(V) if isinstance(V, np.ndarray) else V
    sigma = sparse.csr_array(A @ D @ A.T + V)
    variances = sigma.diagonal()
    for rows in _block_rows(A, V):
        if len(rows) == 1:  # of individuals in one arm there are thousands
            i = int(rows[0])
            columns = np.unique(A.indices[A.indptr[i] : A.indptr[i + 1]]).astype(np.intp)
            yield DenseBlock(rows, columns, variances[[i], None])
            continue
        yield DenseBlock(rows, np.unique(A[rows].indices), sigma[rows][:, rows].toarray())


def _block_rows(A: sparse.csr_array, V: Any) -> list[Index]:
    """The rows of each block, whatever the variances."""
    has = sparse.csr_array((np.ones(A.nnz), A.indices, A.indptr), shape=A.shape)
    _, block = connected_components(has @ has.T + abs(V), directed=False)
    order = np.argsort(block, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(block[order])) + 1)


@dataclass(frozen=True, eq=False)
class BlockCovariance:
    """Σ = V + A D A', taken apart into independent blocks; see `Covariance`."""

    parts: tuple[DenseBlock, ...]
    size: int

    @cached_property
    def _alone(self) -> tuple[Index, Array]:
        """Rows that share nothing, and their variances."""
        found = [part for part in self.parts if len(part.rows) == 1]
        rows = np.array([part.rows[0] for part in found], dtype=np.intp)
        return rows, np.array([part.sigma[0, 0] for part in found])

    @cached_property
    def _shared(self) -> list[DenseBlock]:
        return [part for part in self.parts if len(part.rows) > 1]

    @property
    def variances(self) -> Array:
        found = np.empty(self.size)
        for part in self.parts:
            found[part.rows] = np.diag(part.sigma)
        return found

    def solve(self, right: Array) -> Array:
        alone, variances = self._alone
        found = np.empty(right.shape)
        found[alone] = (right[alone].T / variances).T
        for part in self._shared:
            found[part.rows] = part.solve(right[part.rows])
        return found

    def explained(self, left: Any) -> Array:
        left = sparse.csr_array(left)
        alone, variances = self._alone
        found = np.asarray((1.0 / variances) @ left[alone].power(2))
        for part in self._shared:
            here = left[part.rows]
            columns = np.unique(here.indices)
            dense = here[:, columns].toarray()
            found[columns] += np.einsum("ij,ij->j", dense, part.solve(dense))
        return found

    def draw(self, sets: int, rng: np.random.Generator) -> Array:
        noise = np.empty((sets, self.size))
        for part in self.parts:
            noise[:, part.rows] = rng.normal(size=(sets, len(part.rows))) @ part.root.T
        return noise

    def whiten(self, right: Array) -> Array:
        return self._by_part(right, lambda root, here: solve_triangular(root, here, lower=True))

    def unwhiten(self, right: Array) -> Array:
        return self._by_part(right, np.matmul)

    def _by_part(self, right: Array, change: Callable[[Array, Array], Array]) -> Array:
        found = np.empty(right.shape)
        for part in self.parts:
            found[part.rows] = change(part.root, right[part.rows])
        return found

    @property
    def matrix(self) -> sparse.csr_array:
        i = np.concatenate([np.repeat(part.rows, len(part.rows)) for part in self.parts])
        j = np.concatenate([np.tile(part.rows, len(part.rows)) for part in self.parts])
        values = np.concatenate([part.sigma.ravel() for part in self.parts])
        return sparse.csr_array((values, (i, j)), shape=(self.size, self.size))


def block_covariance(
    design: Design, tau2: Sequence[Array], correlations: Sequence[Array]
) -> BlockCovariance:
    """Σ where each term's effects have the variances (G, s) and correlations (s, s)."""
    D = stack_covariances(tau2, [np.nan_to_num(each) for each in correlations])
    return BlockCovariance(tuple(blocks(design, loadings(design), D)), len(design.y))
