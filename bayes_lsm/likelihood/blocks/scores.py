r"""What each cluster of rows adds to the score of the coefficients and κ of all terms.

The profile log-likelihood is a sum over clusters c that are independent under the model,
ℓ_c(α, β̂(α)), but for REML's ½ ln|X'Σ⁻¹X|, whose derivative is. With u = Σ⁻¹(y − Xβ̂),
V_j = ∂Σ/∂α_j, M = (X'Σ⁻¹X)⁻¹ and b_j = Σ_c X_c'Σ_c⁻¹V_jc u_c, so that dβ̂/dα_j = −M b_j,

    s_cj = ½ [ u_c'V_jc u_c − tr(Σ_c⁻¹V_jc) + tr(M X_c'Σ_c⁻¹V_jcΣ_c⁻¹X_c) ] − b_j'M X_c'u_c

where the trace with M is REML's alone. The last term is what β̂ passes on: it adds up to 0 over all
clusters but is not 0 in any. For rows that are independent this is `score_contributions`.
"""

from __future__ import annotations

import numpy as np

from bayes_lsm.arrays import Array, Index
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.blocks.covariance import blocks, loadings
from bayes_lsm.likelihood.blocks.information import derivatives, parts_at
from bayes_lsm.specification import Method


def scores(alpha: Array, design: Design, cluster: Index, *, method: Method) -> Array:
    """Each cluster's part of the score at the coefficients and κ of all terms, shape (G, m)."""
    A, (D, slopes) = loadings(design), derivatives(parts_at(alpha, design), design)
    parts = list(blocks(design, A, D))
    # In orthonormal columns: sums over those of X itself lose their digits in extreme units.
    X = np.linalg.qr(design.X)[0]
    solved = [part.solve(X[part.rows]) for part in parts]
    pairs = list(zip(parts, solved, strict=True))
    M = np.linalg.inv(sum(X[part.rows].T @ WX for part, WX in pairs))
    e = design.y - X @ (M @ sum(WX.T @ design.y[part.rows] for part, WX in pairs))
    G, p = int(cluster.max()) + 1, X.shape[1]
    own, pulled, b = np.zeros((G, len(slopes))), np.zeros((G, p)), np.zeros((len(slopes), p))
    for part, WX in pairs:
        rows, c = part.rows, int(cluster[part.rows[0]])
        here = A[rows][:, part.columns]
        u = part.solve(e[rows])
        pulled[c] += X[rows].T @ u
        for j, slope in enumerate(slopes):
            change = (here @ slope[part.columns][:, part.columns] @ here.T).toarray()
            if not change.any():
                continue
            own[c, j] += 0.5 * (u @ change @ u - np.trace(part.solve(change)))
            if method == "REML":
                own[c, j] += 0.5 * np.sum(M * (WX.T @ change @ WX))
            b[j] += WX.T @ change @ u
    return np.asarray(own - pulled @ M @ b.T)
