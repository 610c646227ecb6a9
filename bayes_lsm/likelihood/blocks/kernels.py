r"""The first half of `blocks`, compiled: from α to whitened blocks, their QR and a value.

Each block of Σ is factored once, and y, X and the effects' columns u_r are whitened with it, so
that u_r'Σ⁻¹u_s and X'Σ⁻¹X are plain inner products:

- *low rank*, Σ = D + UTU' with D diagonal, T = CC': the columns are [D^−½x; 0], projected on the
  complement of [D^−½UC; I] = QR by Gram–Schmidt. This is Woodbury's formula without its
  cancellation, and O(n m²) for n rows and m effects. ln |Σ| = ln |D| + 2 Σ ln R_ii.
- *dense*, otherwise: C⁻¹x with Σ = CC', O(n³).

All arrays are C-contiguous. Import this module inside the functions that need it: it loads numba.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit, prange

from bayes_lsm.arrays import Array, Mask
from bayes_lsm.likelihood.blocks.correlations import correlate
from bayes_lsm.likelihood.rows.kernels import solve_location
from bayes_lsm.likelihood.rows.newton import orthonormalise
from bayes_lsm.links import LARGEST_EXPONENT

Index = npt.NDArray[np.int64]

# Sums may be reordered; infinities and nan keep their meaning.
_SUMS = {"reassoc", "contract"}


class Layout(NamedTuple):
    """The rows, their blocks and the pieces of Σ, flat, as the compiled loops read them.

    Rows are sorted by block; `…_start` are the offsets of ragged arrays. *Effects* are the columns
    of U: one group of one scale term (times one of its slopes). *Parts* are the terms of
    Σ = V + Σ_c exp(o_c + z_c'α) ρ_c (u_a u_b' + u_b u_a')/(1 + [a = b]): first one for each effect
    of a block, in the effects' order and with a = b and ρ = 1; then one for each correlated pair.
    *Singles* are effects of one row only, part of the diagonal D.
    """

    y: Array  # (n,)
    v: Array  # (n,) diagonal of V
    X: Array  # (n, p)
    spare: Array  # (n,) degrees of freedom within a row that stands for several
    squares: Array  # (n,) their sum of squares
    row_start: Index  # (blocks + 1,)
    effect_start: Index  # (blocks + 1,)
    part_start: Index  # (blocks + 1,)
    white_start: Index  # (blocks + 1,) rows after whitening: rows, and effects where low rank
    store_start: Index  # (blocks + 1,) room for effects × whitened rows
    dense: Mask  # (blocks,)
    V_start: Index  # (blocks,) where V of the block begins in `V_values`; −1 where it is diagonal
    V_values: Array
    entry_start: Index  # (effects + 1,) the non-zeros of each u
    entry_row: Index  # within the block
    entry_value: Array
    effect_first: Index  # (effects,) first effect of the same group, within the block
    effect_correlation: Index  # (effects,) the term's number among the correlated; −1: none
    part_a: Index  # (parts,) within the block
    part_b: Index
    part_pair: Index  # (parts,) number of ρ_c; −1 where it is 1
    z_start: Index  # (parts + 1,) the non-zeros of z_c
    z_index: Index
    z_value: Array
    z_offset: Array  # (parts,) o_c
    single_start: Index  # (n + 1,) the singles of each row
    single_weight: Array  # (singles,) squared slope
    single_z_start: Index  # (singles + 1,)
    single_z_index: Index
    single_z_value: Array
    single_z_offset: Array  # (singles,)
    active_start: Index  # (blocks + 1,) the coefficients that each block depends on, sorted
    active: Index
    correlation_kind: Index  # (correlated terms,)
    correlation_size: Index  # effects of a group
    correlation_alpha: Index  # where κ begins in α
    correlation_count: Index  # how many κ
    correlation_pair: Index  # where its pairs begin


class Correlated(NamedTuple):
    """ρ of all pairs of correlated terms with two derivatives, and the Cholesky factors."""

    rho: Array  # (pairs,)
    first: Array  # (pairs, h)
    second: Array  # (pairs, h, h)
    factor: Array  # (terms, s, s)


class Whitened(NamedTuple):
    """What `whiten` leaves behind for the derivatives."""

    amount: Array  # (parts,) exp(o_c + z_c'α)
    single: Array  # (singles,) squared slope times exp(o + z'α)
    D: Array  # (n,) diagonal part, low-rank blocks only
    Q: Array  # orthonormal basis of each low-rank block, (effects, whitened rows) flat
    U: Array  # whitened effects, (effects, whitened rows) flat
    X: Array  # (p, whitened rows), orthonormalised in the end
    y: Array  # (whitened rows,), residuals in the end
    R: Array  # (p, p) the triangular factor of X
    c: Array  # (p,) R β̂ = c
    correlated: Correlated


@njit(cache=True)
def _predict(alpha, start, index, value, offset, weights, out):
    for c in range(len(out)):
        eta = offset[c]
        for k in range(start[c], start[c + 1]):
            eta += value[k] * alpha[index[k]]
        amount = math.exp(min(eta, LARGEST_EXPONENT))
        out[c] = amount * weights[c] if len(weights) else amount


@njit(cache=True)
def _correlate(alpha, layout):
    terms = len(layout.correlation_kind)
    size, count = 1, 1
    pairs = 0
    for t in range(terms):
        size = max(size, layout.correlation_size[t])
        count = max(count, layout.correlation_count[t])
        pairs += layout.correlation_size[t] * (layout.correlation_size[t] - 1) // 2
    rho, first = np.zeros(pairs), np.zeros((pairs, count))
    second, factor = np.zeros((pairs, count, count)), np.zeros((terms, size, size))
    for t in range(terms):
        s, h = layout.correlation_size[t], layout.correlation_count[t]
        begin = layout.correlation_pair[t]
        end = begin + s * (s - 1) // 2
        at = layout.correlation_alpha[t]
        correlate(
            layout.correlation_kind[t],
            alpha[at : at + h],
            rho[begin:end],
            first[begin:end, :h],
            second[begin:end, :h, :h],
            factor[t, :s, :s],
        )
    return Correlated(rho, first, second, factor)


@njit(cache=True)
def prepare(alpha, layout, prior_rows):
    """Room for everything, with the variances filled in."""
    p = layout.X.shape[1]
    rows = layout.white_start[-1] + prior_rows
    amount, single = np.empty(len(layout.part_a)), np.empty(len(layout.single_weight))
    _predict(
        alpha,
        layout.z_start,
        layout.z_index,
        layout.z_value,
        layout.z_offset,
        np.empty(0),
        amount,
    )
    _predict(
        alpha,
        layout.single_z_start,
        layout.single_z_index,
        layout.single_z_value,
        layout.single_z_offset,
        layout.single_weight,
        single,
    )
    return Whitened(
        amount,
        single,
        np.empty(len(layout.y)),
        np.zeros(layout.store_start[-1]),
        np.zeros(layout.store_start[-1]),
        np.zeros((p, rows)),
        np.zeros(rows),
        np.zeros((p, p)),
        np.empty(p),
        _correlate(alpha, layout),
    )


@njit(cache=True, fastmath=_SUMS)
def dot(a, b):
    """a'b."""
    s = 0.0
    for i in range(len(a)):
        s += a[i] * b[i]
    return s


@njit(cache=True, fastmath=_SUMS)
def _project(Q, x):
    """x minus its part in the space of the orthonormal rows of Q, in place."""
    for r in range(Q.shape[0]):
        s = dot(Q[r], x)
        for i in range(len(x)):
            x[i] -= s * Q[r, i]


@njit(cache=True)
def _spread(layout, white, block, Q):
    """Fills the rows of Q with [D^−½UC; I], before they are orthonormalised."""
    begin, m = layout.effect_start[block], Q.shape[0]
    first_row = layout.row_start[block]
    n = layout.row_start[block + 1] - first_row
    parts = layout.part_start[block]
    for e in range(m):
        root = math.sqrt(white.amount[parts + e])
        term, first = layout.effect_correlation[begin + e], layout.effect_first[begin + e]
        for column in range(first, e + 1):
            scale = root
            if term >= 0:
                scale *= white.correlated.factor[term, e - first, column - first]
            elif column < e:
                continue
            for k in range(layout.entry_start[begin + e], layout.entry_start[begin + e + 1]):
                i = layout.entry_row[k]
                Q[column, i] += scale * layout.entry_value[k] / math.sqrt(white.D[first_row + i])
        Q[e, n + e] = 1.0


@njit(cache=True)
def _whiten_low_rank(layout, white, block, derivatives):
    """Whitens a block of the form D + UTU'; returns its ln |Σ|, or nan."""
    begin, end = layout.row_start[block], layout.row_start[block + 1]
    n = end - begin
    m = layout.effect_start[block + 1] - layout.effect_start[block]
    at, size = layout.white_start[block], n + m
    store = slice(layout.store_start[block], layout.store_start[block + 1])
    total = 0.0
    for i in range(begin, end):
        d = layout.v[i]
        for k in range(layout.single_start[i], layout.single_start[i + 1]):
            d += white.single[k]
        if not d > 0.0:
            return np.nan
        white.D[i] = d
        total += (1.0 + layout.spare[i]) * math.log(d)
        root = 1.0 / math.sqrt(d)
        white.y[at + i - begin] = root * layout.y[i]
        for a in range(layout.X.shape[1]):
            white.X[a, at + i - begin] = root * layout.X[i, a]
    if m == 0:
        return total
    Q = white.Q[store].reshape((m, size))
    _spread(layout, white, block, Q)
    for e in range(m):
        norm = math.sqrt(dot(Q[e], Q[e]))
        if not norm > 0.0:
            return np.nan
        total += 2.0 * math.log(norm)
        for i in range(size):
            Q[e, i] /= norm
        for later in range(e + 1, m):
            _project(Q[e : e + 1], Q[later])
    _project(Q, white.y[at : at + size])
    for a in range(layout.X.shape[1]):
        _project(Q, white.X[a, at : at + size])
    if derivatives:
        U = white.U[store].reshape((m, size))
        for e in range(m):
            effect = layout.effect_start[block] + e
            for k in range(layout.entry_start[effect], layout.entry_start[effect + 1]):
                i = layout.entry_row[k]
                U[e, i] = layout.entry_value[k] / math.sqrt(white.D[begin + i])
            _project(Q, U[e])
    return total


@njit(cache=True)
def _assemble(layout, white, block):
    """The dense Σ of a block."""
    begin, end = layout.row_start[block], layout.row_start[block + 1]
    n = end - begin
    S = np.zeros((n, n))
    if layout.V_start[block] >= 0:
        at = layout.V_start[block]
        S[:] = layout.V_values[at : at + n * n].reshape((n, n))
    else:
        for i in range(n):
            S[i, i] = layout.v[begin + i]
    effects = layout.effect_start[block]
    for c in range(layout.part_start[block], layout.part_start[block + 1]):
        a, b = effects + layout.part_a[c], effects + layout.part_b[c]
        psi = white.amount[c]
        if layout.part_pair[c] >= 0:
            psi *= white.correlated.rho[layout.part_pair[c]]
        for k in range(layout.entry_start[a], layout.entry_start[a + 1]):
            i = layout.entry_row[k]
            for h in range(layout.entry_start[b], layout.entry_start[b + 1]):
                j = layout.entry_row[h]
                value = psi * layout.entry_value[k] * layout.entry_value[h]
                S[i, j] += value
                if a != b:
                    S[j, i] += value
    return S


@njit(cache=True)
def _cholesky(A, L):
    """`kernels.cholesky` for matrices that may be large: its inner products run vectorised."""
    for i in range(len(A)):
        for j in range(i):
            L[i, j] = (A[i, j] - dot(L[i, :j], L[j, :j])) / L[j, j]
        pivot = A[i, i] - dot(L[i, :i], L[i, :i])
        if not pivot > 0.0:
            return False
        L[i, i] = math.sqrt(pivot)
    return True


@njit(cache=True)
def _substitute(L, x):
    """L⁻¹x, in place."""
    for i in range(len(x)):
        x[i] = (x[i] - dot(L[i, :i], x[:i])) / L[i, i]


@njit(cache=True)
def _whiten_dense(layout, white, block, derivatives):
    """Whitens a block by its Cholesky factor; returns its ln |Σ|, or nan."""
    begin, end = layout.row_start[block], layout.row_start[block + 1]
    n = end - begin
    at = layout.white_start[block]
    L = np.zeros((n, n))
    if not _cholesky(_assemble(layout, white, block), L):
        return np.nan
    total = 0.0
    for i in range(n):
        total += 2.0 * math.log(L[i, i])
    white.y[at : at + n] = layout.y[begin:end]
    _substitute(L, white.y[at : at + n])
    for a in range(layout.X.shape[1]):
        white.X[a, at : at + n] = layout.X[begin:end, a]
        _substitute(L, white.X[a, at : at + n])
    if derivatives:
        effects = layout.effect_start[block]
        m = layout.effect_start[block + 1] - effects
        U = white.U[layout.store_start[block] : layout.store_start[block + 1]].reshape((m, n))
        for e in range(m):
            effect = effects + e
            for k in range(layout.entry_start[effect], layout.entry_start[effect + 1]):
                U[e, layout.entry_row[k]] = layout.entry_value[k]
            _substitute(L, U[e])
    return total


@njit(cache=True)
def whiten_rows(layout, white, derivatives):
    """Whitens y, X and the effects; returns Σ ln |Σ| + what cells' rows say of it, or nan."""
    total = 0.0
    for block in range(len(layout.dense)):
        if layout.dense[block]:
            total += _whiten_dense(layout, white, block, derivatives)
        else:
            total += _whiten_low_rank(layout, white, block, derivatives)
        if not np.isfinite(total):
            return np.nan
    for i in range(len(layout.y)):
        if layout.spare[i] > 0.0:
            total += layout.squares[i] / white.D[i]
    return total


@njit(cache=True)
def whiten(layout, white, prior_root, prior_y, adjusted, derivatives):
    """Fills `white`; returns Σ ln |Σ| + r'Σ⁻¹r (+ ln |A| where `adjusted`), or nan.

    A = X'Σ⁻¹X + Λ, and r'Σ⁻¹r includes the prior's (β̂ − m)'Λ(β̂ − m), for a prior N(m, Λ⁻¹) on β
    that is given as rows (k, p) and (k,): Λ^½ and Λ^½m. No rows: a flat prior.
    """
    p = layout.X.shape[1]
    total = whiten_rows(layout, white, derivatives)
    if not np.isfinite(total):
        return np.nan
    at = layout.white_start[-1]
    for k in range(len(prior_y)):
        white.y[at + k] = prior_y[k]
        for a in range(p):
            white.X[a, at + k] = prior_root[k, a]
    if not orthonormalise(white.X, white.y, white.R, white.c):
        return np.nan
    total += dot(white.y, white.y)
    if adjusted:
        for a in range(p):
            total += 2.0 * math.log(white.R[a, a])
    return total


@njit(cache=True)
def value_at(alpha, layout, prior_root, prior_y, adjusted):
    """−½ of `whiten`."""
    white = prepare(alpha, layout, len(prior_y))
    return -0.5 * whiten(layout, white, prior_root, prior_y, adjusted, False)


@njit(cache=True, parallel=True)
def values_at(alphas, layout, prior_root, prior_y, adjusted):
    """−½ of `whiten` for each row of alphas (m, q)."""
    values = np.empty(len(alphas))
    for i in prange(len(alphas)):
        values[i] = value_at(alphas[i], layout, prior_root, prior_y, adjusted)
    return values


@njit(cache=True, parallel=True)
def sums_at(alphas, layout, A, b, c):
    """Fills X'Σ⁻¹X (m, p, p), X'Σ⁻¹y (m, p) and ln |Σ| + y'Σ⁻¹y (m,), nan where Σ is singular."""
    p = layout.X.shape[1]
    for k in prange(len(alphas)):
        white = prepare(alphas[k], layout, 0)
        c[k] = whiten_rows(layout, white, False) + dot(white.y, white.y)
        for i in range(p):
            b[k, i] = dot(white.X[i], white.y)
            for j in range(p):
                A[k, i, j] = dot(white.X[i], white.X[j])


@njit(cache=True, parallel=True)
def locations_at(alphas, layout, prior_root, prior_y, betas, covariances, squares):
    """Fills β̂ (m, p), its covariance (m, p, p) and r'Σ⁻¹r (m,) at each row of alphas (m, q)."""
    for i in prange(len(alphas)):
        white = prepare(alphas[i], layout, len(prior_y))
        total = whiten(layout, white, prior_root, prior_y, False, False)
        if np.isfinite(total):
            solve_location(white.R, white.c, betas[i], covariances[i])
            squares[i] = dot(white.y, white.y)
            for k in range(len(layout.y)):
                if layout.spare[k] > 0.0:
                    squares[i] += layout.squares[k] / white.D[k]


@njit(cache=True, parallel=True)
def draw_location(alphas, noise, layout, prior_root, prior_y):
    """One β | α, y for each row of alphas (m, q), from standard normals `noise` (m, p)."""
    p = layout.X.shape[1]
    drawn = np.empty((len(alphas), p))
    for i in prange(len(alphas)):
        white = prepare(alphas[i], layout, len(prior_y))
        whiten(layout, white, prior_root, prior_y, True, False)
        for a in range(p - 1, -1, -1):  # R β = c + noise
            s = white.c[a] + noise[i, a]
            for b in range(a + 1, p):
                s -= white.R[a, b] * drawn[i, b]
            drawn[i, a] = s / white.R[a, a]
    return drawn
