r"""ML, REML and β-integrated criteria of several scale terms and a covariance in blocks.

    y ~ Normal( Xβ, Σ ),   Σ = V + Σ_l A_l diag(exp(Z_l α_l)) A_l'

where a term may also have several effects a group, correlated (see `BlockTerm`). With
A = X'Σ⁻¹X + Λ and r = y − Xβ̂,

    ℓ_ML   = −½ [ n ln 2π + ln|Σ| + r'Σ⁻¹r ]
    ℓ_REML = −½ [ (n − p) ln 2π + ln|Σ| + r'Σ⁻¹r + ln|X'Σ⁻¹X| − ln|X'X| ]
    ln p(y | α) = −½ [ n ln 2π + ln|Σ| + r'Σ⁻¹r + (β̂ − m)'Λ(β̂ − m) + ln|A| − ln|Λ| ]

the last with β ~ N(m, Λ⁻¹). The constants are those of `independent` and `integrated`, and of
metafor. nlme's REML log-likelihood leaves out ln|X'X|: it is `value` − `data.log_det_XX` / 2.

Rows that share a group or a sampling covariance form a block; blocks are independent. Where V is
diagonal a block of n rows and m effects costs O(n m²), otherwise, and where m > n, O(n³). Groups
that cross until everything is connected make one block of all rows. Memory is that of X, Z, and of
the largest pieces above. Rows alike in all but y are first collapsed, exactly: 7,044 children in
two arms of 37 studies are 74 cells. Import this module inside the functions that need it: it loads
numba.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from bayes_lsm.arrays import Array, Mask
from bayes_lsm.likelihood.blocks import ascent, derivatives, kernels
from bayes_lsm.likelihood.blocks.kernels import Layout
from bayes_lsm.likelihood.blocks.layout import build_layout, coefficient_starts
from bayes_lsm.likelihood.blocks.terms import (
    BlockRows,
    BlockTerm,
    collapse,
    of_single_rows,
)
from bayes_lsm.likelihood.protocol import Criterion, Evaluation, Locations, NormalPrior

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Arranged:
    """Data and model, arranged for the compiled loops; made by `arrange`.

    The coefficients of term l are ``alpha[starts[l]:starts[l + 1]]``: its q, then its κ. `cell`
    (n,) is the row of the layout, sorted by block, that each row of the data went into; n, p and q
    count rows before they were collapsed, columns of X, and α; `log_det_XX` is ln |X'X|, which nlme
    leaves out.
    """

    layout: Layout
    terms: tuple[BlockTerm, ...]
    starts: Index
    cell: Index
    n: int
    p: int
    q: int
    log_det_XX: float

    @property
    def blocks(self) -> Index:
        """The number of cells of each block, shape (blocks,)."""
        return np.diff(self.layout.row_start)


@dataclass(frozen=True, eq=False)
class Ascent:
    """Where an ascent ended, and what the criterion is there."""

    alpha: Array
    at: Evaluation
    iterations: int
    converged: bool


def arrange(
    y: Array,
    X: Array,
    terms: tuple[BlockTerm, ...],
    *,
    variance: Array | sparse.csr_array | None = None,
) -> Arranged:
    """Sorts rows into cells and blocks, once for a model; X (n, p) is of full column rank.

    `variance` is V: sampling variances (n,), or their matrix, dense or CSR; 0 if left out. Its
    zeros are exploited, so a matrix in blocks need not be handed over in blocks.

    Examples
    --------
    Two schools in each of three districts, a variance for each level:

    >>> district, school = np.repeat(np.arange(3), 2), np.arange(6)
    >>> terms = BlockTerm(district, np.ones((3, 1))), BlockTerm(school, np.ones((6, 1)))
    >>> y = np.array([0.1, 0.3, -0.4, -0.1, 0.8, 0.5])
    >>> data = arrange(y, np.ones((6, 1)), terms, variance=np.linspace(0.002, 0.007, 6))
    >>> data.q, data.blocks
    (2, array([2, 2, 2]))
    >>> fit = ascend(np.full(2, -2.0), data, method="REML")
    >>> np.exp(fit.alpha).round(3)
    array([0.185, 0.032])
    """
    layout, cell, collapsed = arrange_rows(y, X, terms, variance=variance)
    starts = coefficient_starts(terms)
    triangle = np.linalg.qr(collapsed, mode="r")
    n, p = np.shape(X)
    return Arranged(
        layout=layout,
        terms=terms,
        starts=starts,
        cell=cell,
        n=n,
        p=p,
        q=int(starts[-1]),
        log_det_XX=2.0 * float(np.sum(np.log(np.abs(np.diag(triangle))))),
    )


def arrange_rows(
    y: Array,
    X: Array,
    terms: tuple[BlockTerm, ...],
    *,
    variance: Array | sparse.csr_array | None = None,
) -> tuple[Layout, Index, Array]:
    """The layout alone, whatever the rank of X; the cell of each row, and X of the cells."""
    y, X = np.asarray(y, dtype=float), np.asarray(X, dtype=float)
    n = len(X)
    v, V = _split(n, variance)
    single = [of_single_rows(term) for term in terms]
    groups = np.stack([term.groups for term in terms], axis=1) if terms else np.zeros((n, 0), int)
    multipliers = tuple(term.multipliers for term in terms)
    rows = BlockRows(y, v, X, np.zeros(n), np.zeros(n), groups.astype(np.int64), multipliers)
    cell = np.arange(n)
    if V is None and rows.vary(single).all():
        rows, cell = collapse(rows, terms, single)
    layout, order = build_layout(rows, terms, single, V)
    return layout, np.argsort(order)[cell], rows.X


def _split(
    n: int, variance: Array | sparse.csr_array | None
) -> tuple[Array, sparse.csr_array | None]:
    """The diagonal of V, and V itself unless it is diagonal."""
    if variance is None:
        return np.zeros(n), None
    if isinstance(variance, np.ndarray) and variance.ndim == 1:
        return variance.astype(float), None
    V: sparse.csr_array = sparse.csr_array(variance)
    V = V.astype(np.float64)
    V.eliminate_zeros()
    i, j = V.tocoo().coords
    return np.asarray(V.diagonal()), None if np.array_equal(i, j) else V


def _criterion(
    data: Arranged, method: Criterion
) -> tuple[tuple[Layout, Array, Array, bool], float]:
    """What the compiled loops ask for, and the constant that they leave out."""
    if isinstance(method, NormalPrior):
        root = np.linalg.cholesky(method.precision).T
        log_det = 2.0 * float(np.sum(np.log(np.diag(root))))
        constant = -0.5 * (data.n * math.log(2 * math.pi) - log_det)
        root = np.ascontiguousarray(root)
        return (data.layout, root, root @ np.asarray(method.mean, dtype=float), True), constant
    none = np.empty((0, data.p)), np.empty(0)
    if method == "ML":
        return (data.layout, *none, False), -0.5 * data.n * math.log(2 * math.pi)
    constant = -0.5 * ((data.n - data.p) * math.log(2 * math.pi) - data.log_det_XX)
    return (data.layout, *none, True), constant


def evaluate(alpha: Array, data: Arranged, *, method: Criterion) -> Evaluation:
    """A criterion at α (q,), its score and its exact Hessian; with a prior, β is integrated out."""
    criterion, constant = _criterion(data, method)
    found = _empty_evaluation(data)
    value = derivatives.evaluate_at(np.asarray(alpha, dtype=float), *criterion, *found)
    return Evaluation(value + constant, *found)


def log_likelihoods(alphas: Array, data: Arranged, *, method: Criterion) -> Array:
    """The criterion alone at each row of alphas (m, q), on all processors."""
    criterion, constant = _criterion(data, method)
    values: Array = kernels.values_at(np.ascontiguousarray(alphas), *criterion)
    return values + constant


def locations(alphas: Array, data: Arranged) -> Locations:
    """Generalised least squares at each row of alphas (m, q); nan where X'Σ⁻¹X is singular."""
    (layout, root, y, _), _ = _criterion(data, "ML")
    m, p = len(alphas), data.p
    found = Locations(np.full((m, p), np.nan), np.full((m, p, p), np.nan), np.full(m, np.nan))
    kernels.locations_at(
        np.ascontiguousarray(alphas), layout, root, y, found.beta, found.covariance, found.squares
    )
    return found


def draw_location(alphas: Array, noise: Array, data: Arranged, *, prior: NormalPrior) -> Array:
    """One β | α, y for each row of alphas (m, q), from standard normals `noise` (m, p)."""
    (layout, root, y, _), _ = _criterion(data, prior)
    drawn: Array = kernels.draw_location(
        np.ascontiguousarray(alphas), np.ascontiguousarray(noise), layout, root, y
    )
    return drawn


def ascend(
    start: Array,
    data: Arranged,
    *,
    method: Criterion,
    tolerance: float = 1e-10,
    held: Mask | None = None,
) -> Ascent:
    """Newton's ascent to the nearest maximum: exact Hessian, bounded steps, saddles left behind.

    It ends where the predicted gain is below `tolerance`, relative to max(1, |ℓ|). Coefficients
    that are `held` (q,) stay where they start; score and Hessian are then 0 and −1 there.
    """
    criterion, constant = _criterion(data, method)
    held = np.zeros(data.q, dtype=bool) if held is None else held
    alpha, found = np.empty(data.q), _empty_evaluation(data)
    value, iterations, converged = ascent.ascend_at(
        np.asarray(start, dtype=float), held, criterion, tolerance, (alpha, *found)
    )
    return Ascent(alpha, Evaluation(value + constant, *found), iterations, converged)


def _empty_evaluation(data: Arranged) -> tuple[Array, Array, Array, Array]:
    """Room for a score, a Hessian, β̂ and its covariance."""
    return (
        np.empty(data.q),
        np.empty((data.q, data.q)),
        np.full(data.p, np.nan),
        np.full((data.p, data.p), np.nan),
    )
