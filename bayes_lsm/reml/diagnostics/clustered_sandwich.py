r"""Cluster-robust covariance of the scale coefficients of several scale terms.

The profile log-likelihood of α and κ is a sum over clusters c that are independent under the model,
ℓ_c(α, β̂(α)), but for REML's ½ ln|X'Σ⁻¹X|, whose derivative is. With u = Σ⁻¹(y − Xβ̂),
V_j = ∂Σ/∂α_j, M = (X'Σ⁻¹X)⁻¹ and b_j = Σ_c X_c'Σ_c⁻¹V_jc u_c, so that dβ̂/dα_j = −M b_j,

    s_cj = ½ [ u_c'V_jc u_c − tr(Σ_c⁻¹V_jc) + tr(M X_c'Σ_c⁻¹V_jcΣ_c⁻¹X_c) ] − b_j'M X_c'u_c

where the trace with M is REML's alone. At a maximum they add up to 0, and

    V_α = (−H)⁻¹ [ Σ_c s_c s_c' ] (−H)⁻¹ ,

times G/(G − 1) for CR1. With one row in each cluster these are the formulas of `robust`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.clusters import Clusters
from bayes_lsm.design.coefficients import scale_places
from bayes_lsm.likelihood.blocks.covariance import blocks, loadings
from bayes_lsm.likelihood.blocks.information import derivatives
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.prediction.group_effects import covariance_of_effects

Array = npt.NDArray[np.float64]


def orthonormal_location(fit: Estimates) -> tuple[Array, Array, Array]:
    """X in orthonormal columns (n, p), M = (X'Σ⁻¹X)⁻¹ of those, and what takes it to the design's.

    In extreme units sums over the columns of X itself lose their digits.
    """
    design = fit.design
    Q, R = np.linalg.qr(design.X)
    information = np.zeros((len(R), len(R)))
    for block in blocks(design, loadings(design), covariance_of_effects(fit)):
        information += Q[block.rows].T @ block.solve(Q[block.rows])
    return Q, np.linalg.inv(information), np.linalg.inv(R)


def cluster_scores(fit: Estimates, clusters: Clusters) -> Array:
    """Each cluster's part of the score of all coefficients and κ, term by term (G, m).

    Where a variance is 0 at the maximum its coefficients have no score.
    """
    design = fit.design
    parts = [(each.tau2, each.kappa) for each in fit.terms.values()]
    A, (D, slopes) = loadings(design), derivatives(parts, design)
    X, M, _ = orthonormal_location(fit)
    e = design.y - design.X @ fit.beta
    own = np.zeros((len(clusters), len(slopes)))
    pulled, b = np.zeros((len(clusters), X.shape[1])), np.zeros((len(slopes), X.shape[1]))
    for block in blocks(design, A, D):
        rows, c = block.rows, int(clusters.code[block.rows[0]])
        here = A[rows][:, block.columns]
        u, WX = block.solve(e[rows]), block.solve(X[rows])
        pulled[c] += X[rows].T @ u
        for j, slope in enumerate(slopes):
            change = (here @ slope[block.columns][:, block.columns] @ here.T).toarray()
            if not change.any():
                continue
            own[c, j] += 0.5 * (u @ change @ u - np.trace(block.solve(change)))
            if fit.method == "REML":
                own[c, j] += 0.5 * np.sum(M * (WX.T @ change @ WX))
            b[j] += WX.T @ change @ u
    return np.asarray(own - pulled @ M @ b.T)


def scale_sandwich(fit: Estimates, clusters: Clusters) -> Array:
    """CR0 of the scale coefficients (q, q); nan where the fit has no covariance.

    So it is for all of them where a limit has taken correlated effects from a term: the
    correlations of the others are then coefficients of another model.
    """
    q = sum(term.size for term in fit.design.terms)
    covariance = np.full((q, q), np.nan)
    if all(len(each.kappa) == each.term.size - len(each.alpha) for each in fit.terms.values()):
        given = np.flatnonzero(np.isfinite(np.diag(fit.limit_vcov)))
        pulled = cluster_scores(fit, clusters)[:, given] @ fit.limit_vcov[np.ix_(given, given)]
        covariance[np.ix_(given, given)] = pulled.T @ pulled
        covariance[np.isnan(fit.vcov_terms)] = np.nan
    places = scale_places(fit.design)
    return covariance[np.ix_(places, places)]
