r"""The second half of `blocks`, compiled: score and Hessian in α.

Σ is linear in its parts ψ_c = exp(z_c'α) ρ_c(κ), ∂Σ/∂ψ_c = E_c = κ_c (u_a u_b' + u_b u_a') with
κ_c = ½ where a = b and 1 otherwise. With P = Σ⁻¹ − Σ⁻¹XA⁻¹X'Σ⁻¹ and t_a = u_a'P y,

    ∂ℓ/∂ψ_c       = κ_c (t_a t_b − u_a'P u_b)
    ∂²ℓ/∂ψ_c∂ψ_d = ½ tr(P E_c P E_d) − y'P E_c P E_d P y

(ML: Σ⁻¹ in place of P in the traces), and the chain rule does the rest. u_a'P u_b = G_ab − B_a'B_b,
G from the whitened effects of a block, B (p,) their inner products with the orthonormal basis of X.
What G enters stays within a block; what is of B alone is summed over all blocks in M_j (p, p) and
g_j (p,), one for each coefficient, so that the cost is linear in the number of blocks.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from bayes_lsm.likelihood.blocks.kernels import dot, prepare, whiten
from bayes_lsm.likelihood.rows.kernels import solve_location

# Multiplications from which on a matrix product is left to BLAS: waking its threads takes time.
_LARGE_PRODUCT = 50_000_000


@njit(cache=True)
def _product(A, B):
    """AB'."""
    if A.size * B.shape[0] > _LARGE_PRODUCT:
        return np.dot(A, np.ascontiguousarray(B).T)
    out = np.empty((A.shape[0], B.shape[0]))
    for i in range(A.shape[0]):
        for j in range(B.shape[0]):
            out[i, j] = dot(A[i], B[j])
    return out


@njit(cache=True)
def _gram(A):
    """AA'."""
    if A.size * A.shape[0] > _LARGE_PRODUCT:
        return np.dot(A, A.T)
    out = np.empty((A.shape[0], A.shape[0]))
    for i in range(A.shape[0]):
        for j in range(i + 1):
            out[i, j] = out[j, i] = dot(A[i], A[j])
    return out


@njit(cache=True)
def _inner_products(layout, white, block):
    """G (m, m), B (m, p) and t (m,) of a block."""
    m = layout.effect_start[block + 1] - layout.effect_start[block]
    begin, end = layout.white_start[block], layout.white_start[block + 1]
    store = slice(layout.store_start[block], layout.store_start[block + 1])
    U = white.U[store].reshape((m, end - begin))
    t = np.empty(m)
    for e in range(m):
        t[e] = dot(U[e], white.y[begin:end])
    return _gram(U), _product(U, white.X[:, begin:end]), t


@njit(cache=True)
def _jacobian(layout, white, block, local, J):
    """Fills J (active, parts): ∂ψ_c/∂α of a block."""
    first = layout.part_start[block]
    for c in range(J.shape[1]):
        part = first + c
        pair = layout.part_pair[part]
        psi = white.amount[part]
        if pair >= 0:
            psi *= white.correlated.rho[pair]
            effect = layout.effect_start[block] + layout.part_a[part]
            term = layout.effect_correlation[effect]
            for h in range(layout.correlation_count[term]):
                j = local[layout.correlation_alpha[term] + h]
                J[j, c] += white.amount[part] * white.correlated.first[pair, h]
        for k in range(layout.z_start[part], layout.z_start[part + 1]):
            J[local[layout.z_index[k]], c] += psi * layout.z_value[k]


@njit(cache=True)
def _bend(layout, white, block, slopes, local, H):
    """Adds Σ_c ∂ℓ/∂ψ_c ∂²ψ_c/∂α² to H (active, active)."""
    first = layout.part_start[block]
    for c in range(len(slopes)):
        part = first + c
        pair = layout.part_pair[part]
        amount = slopes[c] * white.amount[part]
        psi = amount if pair < 0 else amount * white.correlated.rho[pair]
        begin, end = layout.z_start[part], layout.z_start[part + 1]
        for k in range(begin, end):
            j = local[layout.z_index[k]]
            for h in range(begin, end):
                z = layout.z_value[k] * layout.z_value[h]
                H[j, local[layout.z_index[h]]] += psi * z
        if pair < 0:
            continue
        term = layout.effect_correlation[layout.effect_start[block] + layout.part_a[part]]
        for a in range(layout.correlation_count[term]):
            j = local[layout.correlation_alpha[term] + a]
            for b in range(layout.correlation_count[term]):
                i = local[layout.correlation_alpha[term] + b]
                H[j, i] += amount * white.correlated.second[pair, a, b]
            for k in range(begin, end):
                i = local[layout.z_index[k]]
                change = amount * white.correlated.first[pair, a] * layout.z_value[k]
                H[j, i] += change
                H[i, j] += change


@njit(cache=True)
def _of_parts(layout, white, block, adjusted, products, local, J, score, H, M, g):
    """Score and Hessian of the parts among themselves; g and M of the whole."""
    G, B, t = products
    p, parts = B.shape[1], J.shape[1]
    first = layout.part_start[block]
    N = _gram(B) if adjusted else np.zeros_like(G)
    slopes, curves = np.empty(parts), np.empty((parts, parts))
    for c in range(parts):
        r, s = layout.part_a[first + c], layout.part_b[first + c]
        k = 0.5 if r == s else 1.0
        slopes[c] = k * (t[r] * t[s] - G[r, s] + N[r, s])
        for d in range(c + 1):
            a, b = layout.part_a[first + d], layout.part_b[first + d]
            both = k * (0.5 if a == b else 1.0)
            trace = G[r, a] * (G[s, b] - N[s, b]) - N[r, a] * G[s, b]
            trace += G[r, b] * (G[s, a] - N[s, a]) - N[r, b] * G[s, a]
            trace -= t[r] * (t[a] * G[s, b] + t[b] * G[s, a])
            trace -= t[s] * (t[a] * G[r, b] + t[b] * G[r, a])
            curves[c, d] = curves[d, c] = both * trace
        for j in range(J.shape[0]):
            if J[j, c] == 0.0:
                continue
            score[j] += J[j, c] * slopes[c]
            whole = layout.active[layout.active_start[block] + j]
            for a in range(p):
                g[whole, a] += J[j, c] * k * (t[r] * B[s, a] + t[s] * B[r, a])
                if adjusted:
                    x, w = J[j, c] * k * B[s, a], J[j, c] * k * B[r, a]
                    for b in range(p):
                        M[whole, a, b] += x * B[r, b] + w * B[s, b]
    H += _product(_product(J, curves), J)
    _bend(layout, white, block, slopes, local, H)


@njit(cache=True)
def _single_slopes(layout, white, row, local, touched, values):
    """∂D_i/∂α of a row: fills the coefficients it touches and the values; returns how many."""
    count = 0
    for s in range(layout.single_start[row], layout.single_start[row + 1]):
        for k in range(layout.single_z_start[s], layout.single_z_start[s + 1]):
            j = local[layout.single_z_index[k]]
            value = white.single[s] * layout.single_z_value[k]
            place = count
            for other in range(count):
                if touched[other] == j:
                    place = other
            if place == count:
                touched[count] = j
                values[count] = 0.0
                count += 1
            values[place] += value
    return count


@njit(cache=True)
def _of_singles(layout, white, block, adjusted, products, local, J, score, H, M, g):
    """Score and Hessian of the diagonal part D, and of D with the parts."""
    _, B, t = products
    begin, n = layout.row_start[block], layout.row_start[block + 1] - layout.row_start[block]
    if layout.single_start[begin + n] == layout.single_start[begin]:
        return
    m, p = B.shape
    first, active, parts = layout.part_start[block], J.shape[0], J.shape[1]
    at, size = layout.white_start[block], n + m
    store = slice(layout.store_start[block], layout.store_start[block + 1])
    U, Q = white.U[store].reshape((m, size)), white.Q[store].reshape((m, size))
    T, Y, h = np.zeros((active, m, m)), np.zeros((active, m, p)), np.zeros((active, m))
    F = np.zeros((active, parts))
    W_row, N_row, curve = np.empty(m), np.empty(m), np.empty(parts)
    touched, values = np.empty(active, np.int64), np.empty(active)
    for i in range(n):
        row = begin + i
        count = _single_slopes(layout, white, row, local, touched, values)
        if count == 0:
            continue
        D = white.D[row]
        root = 1.0 / math.sqrt(D)
        u = root * white.y[at + i]  # = (Py)_i
        q2, x2 = 0.0, 0.0
        for e in range(m):
            q2 += Q[e, i] * Q[e, i]
            W_row[e] = root * U[e, i]
            N_row[e] = 0.0
        if adjusted:
            for a in range(p):
                x = white.X[a, at + i]
                x2 += x * x
                for e in range(m):
                    N_row[e] += root * x * B[e, a]
        # A row that stands for several: contrasts within it have variance D and no mean.
        spare, squares = layout.spare[row], layout.squares[row]
        slope = 0.5 * (u * u - (1.0 - q2 - x2) / D) + 0.5 * (squares / D - spare) / D
        bend = (0.5 - q2 - x2) / D / D - u * u / D + (0.5 * spare - squares / D) / D / D
        for c in range(parts):
            r, s = layout.part_a[first + c], layout.part_b[first + c]
            k = 0.5 if r == s else 1.0
            trace = W_row[r] * (W_row[s] - N_row[s]) - N_row[r] * W_row[s]
            curve[c] = k * (trace - u * (t[r] * W_row[s] + t[s] * W_row[r]))
        for s in range(layout.single_start[row], layout.single_start[row + 1]):
            for k in range(layout.single_z_start[s], layout.single_z_start[s + 1]):
                zk = layout.single_z_value[k] * white.single[s] * slope
                j = local[layout.single_z_index[k]]
                for o in range(layout.single_z_start[s], layout.single_z_start[s + 1]):
                    H[j, local[layout.single_z_index[o]]] += zk * layout.single_z_value[o]
        for k in range(count):
            j, value = touched[k], values[k]
            whole = layout.active[layout.active_start[block] + j]
            score[j] += value * slope
            for o in range(count):
                H[j, touched[o]] += value * values[o] * bend
            for c in range(parts):
                F[j, c] += value * curve[c]
            share, pull = value / D, value * u * root
            for e in range(m):
                h[j, e] += pull * Q[e, i]
                for f in range(m):
                    T[j, e, f] += share * Q[e, i] * Q[f, i]
                if adjusted:
                    for a in range(p):
                        Y[j, e, a] += share * Q[e, i] * white.X[a, at + i]
            for a in range(p):
                g[whole, a] += pull * white.X[a, at + i]
                if adjusted:
                    x = share * white.X[a, at + i]
                    if x != 0.0:
                        for b in range(p):
                            M[whole, a, b] += x * white.X[b, at + i]
    crossed = _product(F, J)
    H += crossed + crossed.T + _gram(h)
    flat = T.reshape((active, m * m))
    H += 0.5 * _gram(flat)
    if adjusted:
        mixed = Y.reshape((active, m * p))
        H += _gram(mixed)


@njit(cache=True)
def evaluate_at(alpha, layout, prior_root, prior_y, adjusted, score, hessian, beta, covariance):
    """−½ of `whiten` with its derivatives; nan where Σ or X'Σ⁻¹X is singular to rounding.

    Fills score (q,), hessian (q, q), beta (p,) and its covariance (p, p).
    """
    q, p = len(alpha), layout.X.shape[1]
    white = prepare(alpha, layout, len(prior_y))
    total = whiten(layout, white, prior_root, prior_y, adjusted, True)
    if not np.isfinite(total):
        return np.nan
    solve_location(white.R, white.c, beta, covariance)
    score[:] = 0.0
    hessian[:] = 0.0
    M, g = np.zeros((q, p, p)), np.zeros((q, p))
    local = np.zeros(q, np.int64)
    for block in range(len(layout.dense)):
        active = layout.active[layout.active_start[block] : layout.active_start[block + 1]]
        for j in range(len(active)):
            local[active[j]] = j
        parts = layout.part_start[block + 1] - layout.part_start[block]
        J = np.zeros((len(active), parts))
        _jacobian(layout, white, block, local, J)
        of_block, H = np.zeros(len(active)), np.zeros((len(active), len(active)))
        products = _inner_products(layout, white, block)
        _of_parts(layout, white, block, adjusted, products, local, J, of_block, H, M, g)
        if not layout.dense[block]:
            _of_singles(layout, white, block, adjusted, products, local, J, of_block, H, M, g)
        for j in range(len(active)):
            score[active[j]] += of_block[j]
            for k in range(len(active)):
                hessian[active[j], active[k]] += H[j, k]
    hessian += _gram(g)
    if adjusted:
        flat = M.reshape((q, p * p))
        hessian += 0.5 * _gram(flat)
    return -0.5 * total
