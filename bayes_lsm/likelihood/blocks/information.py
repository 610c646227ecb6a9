r"""The expected information on the variances, I_jk = ½ tr(P V_j P V_k), V_j = ∂Σ/∂α_j.

P = Σ⁻¹ − Σ⁻¹X A⁻¹ X'Σ⁻¹, A = X'Σ⁻¹X (Σ⁻¹ in place of P for ML). With C_j = Σ⁻¹V_jΣ⁻¹,

    tr(P V_j P V_k) = tr(C_j V_k) − 2 tr(A⁻¹ X'C_j V_k Σ⁻¹X) + tr(A⁻¹ X'C_jX A⁻¹ X'C_kX),

sums over the blocks of Σ but for the last.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from bayes_lsm.arrays import Array
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.likelihood.blocks.covariance import (
    BlockCovariance,
    block_diagonal,
    blocks,
    loadings,
    stack_covariances,
)
from bayes_lsm.links import tau2_from_log
from bayes_lsm.specification import Method

# Step of the central difference of a correlation matrix in κ: its error is the square.
_STEP = 1e-5


def expected_information(alpha: Array, design: Design, *, method: Method) -> Array:
    """½ tr(P V_j P V_k) at the coefficients and κ of all terms, shape (q, q); for ML of Σ⁻¹."""
    A = loadings(design)
    D, slopes = derivatives(parts_at(alpha, design), design)
    q, p = len(alpha), design.X.shape[1]
    trace, cross, M = np.zeros((q, q)), np.zeros((q, q, p, p)), np.zeros((q, p, p))
    precision = np.zeros((p, p))
    for block in blocks(design, A, D):
        here = A[block.rows][:, block.columns]
        changes = [(here @ d[block.columns][:, block.columns] @ here.T).toarray() for d in slopes]
        active = [j for j in range(q) if changes[j].any()]
        X = design.X[block.rows]
        WX = block.solve(X)
        precision += X.T @ WX
        moved = {j: block.solve(changes[j]) for j in active}  # Σ⁻¹V_j
        for j in active:
            M[j] += WX.T @ changes[j] @ WX
            for k in active:
                trace[j, k] += np.sum(moved[j] * moved[k].T)
                if method == "REML":
                    cross[j, k] += WX.T @ changes[j] @ moved[k] @ WX
    if method == "REML":
        inverse = np.linalg.inv(precision)
        inside = inverse @ M
        trace = trace - 2.0 * np.einsum("ab,jkba->jk", inverse, cross)
        trace = trace + np.einsum("jab,kba->jk", inside, inside)
    return np.asarray(0.5 * trace)


def location_slopes(alpha: Array, design: Design) -> Array:
    """∂β̂/∂α' = −(X'Σ⁻¹X)⁻¹X'Σ⁻¹V_jΣ⁻¹r at the coefficients and κ of all terms, shape (p, q)."""
    A, (D, slopes) = loadings(design), derivatives(parts_at(alpha, design), design)
    covariance = BlockCovariance(tuple(blocks(design, A, D)), len(design.y))
    WX = covariance.solve(design.X)
    precision = design.X.T @ WX
    beta = np.linalg.solve(precision, WX.T @ design.y)
    pulls = A.T @ covariance.solve(design.y - design.X @ beta)
    V = np.array([A @ (slope @ pulls) for slope in slopes]).reshape(-1, len(design.y)).T
    return np.asarray(-np.linalg.solve(precision, WX.T @ V))


def parts_at(alpha: Array, design: Design) -> list[tuple[Array, Array]]:
    """τ² (G, s) and κ of each term."""
    found = []
    for term, at in zip(design.terms, design.places, strict=True):
        here, q = alpha[at], len(term.names)
        found.append((tau2_from_log(term.offsets + term.Z @ here[:q]), here[q:]))
    return found


def derivatives(
    parts: Sequence[tuple[Array, Array]], design: Design
) -> tuple[sparse.csr_array, list[sparse.csr_array]]:
    """D (m, m), and its derivative in each coefficient and κ, from `parts_at`."""
    tau2, correlations, slopes = [], [], []
    widths = [len(term.groups) * len(term.effects) for term in design.terms]
    for t, (term, (values, kappa)) in enumerate(zip(design.terms, parts, strict=True)):
        R, changes = _term_derivatives(values, kappa, term)
        tau2.append(values)
        correlations.append(R)
        before, after = sum(widths[:t]), sum(widths[t + 1 :])
        for change in changes:
            filled = [
                sparse.csr_array((before, before)),
                block_diagonal(change),
                sparse.csr_array((after, after)),
            ]
            slopes.append(sparse.csr_array(sparse.block_diag(filled)))
    return stack_covariances(tau2, correlations), slopes


def _term_derivatives(tau2: Array, kappa: Array, term: ScaleTerm) -> tuple[Array, list[Array]]:
    """R (s, s), and ∂D_g/∂α_j (G, s, s) of each coefficient and κ."""
    s = len(term.effects)
    kind = term.correlation if term.n_correlations else "none"
    R = np.array(correlation_matrices(kappa[None], s, kind)[0])
    tau = np.sqrt(tau2)
    outer = tau[:, :, None] * tau[:, None, :]
    changes = [
        0.5 * (term.Z[:, :, None, j] + term.Z[:, None, :, j]) * outer * R
        for j in range(len(term.names))
    ]
    for step in _STEP * np.eye(len(kappa)):
        ends = correlation_matrices(np.array([kappa + step, kappa - step]), s, kind)
        changes.append(outer * (ends[0] - ends[1]) / (2 * _STEP))
    return R, changes
