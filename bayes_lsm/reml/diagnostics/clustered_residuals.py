r"""Residuals, hat values and cluster-robust covariances of fits of several scale terms.

With W = Σ⁻¹, M = (X'WX)⁻¹ and e = y − Xβ̂, the hat matrix is XMX'W and e has the covariance
Σ − XMX'. Cluster by cluster, with clusters that are independent of each other under the model,

    V_β = M [ Σ_c X_c'W_c A_c e_c e_c' A_c'W_c X_c ] M

with A_c = I for CR0 and CR1 (times G/(G − p)), and for CR2 A_c = D'(D (Σ_c − X_cMX_c') D')^{−½} D,
D'D = Σ_c: see `robust`, whose formulas these are for a Σ that is not diagonal; the scale part is in
`clustered_sandwich`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.choices import require_choice
from bayes_lsm.design.clusters import Cluster, read_clusters, shared
from bayes_lsm.design.coefficients import coefficients
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.blocks.covariance import blocks, loadings
from bayes_lsm.reml.diagnostics.clustered_sandwich import orthonormal_location, scale_sandwich
from bayes_lsm.reml.diagnostics.robust import ClusterRobust, Kind, t_table
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.prediction.group_effects import covariance_of_effects

Array = npt.NDArray[np.float64]

# Eigenvalues of a matrix, relative to the largest possible, that are the rounding of 0.
_ZERO = 1e-12


@dataclass(frozen=True, eq=False)
class ClusteredRobustFit(ClusterRobust[Estimates]):
    """A fit of several scale terms with cluster-robust covariances; see `ClusterRobust`.

    `vcov_scale` is that of the scale coefficients of all terms.
    """

    @property
    def scale(self) -> pd.DataFrame:
        """Scale coefficients of ln τ²: the same columns, indexed by grouping and term."""
        named = coefficients(self.fit.design)
        names = [each.label for each in named]
        table = t_table(names, self.fit.alpha, self.vcov_scale, self.df_scale)
        table.index = pd.MultiIndex.from_tuples(
            [(each.grouping, each.name) for each in named], names=["grouping", "term"]
        )
        return table

    def to_dataframe(self) -> pd.DataFrame:
        """All tables as one, indexed by part and term."""
        scale = self.scale
        parts = {f"scale ({name})": scale.loc[name] for name in self.fit.terms}
        return pd.concat({"location": self.location, **parts}, names=["part", "term"])


def standard_errors(fit: Estimates) -> tuple[Array, Array]:
    """√Σ_ii of each row, and √(Σ − XMX')_ii of its residual (n,)."""
    design = fit.design
    total = np.empty(len(design.y))
    for block in blocks(design, loadings(design), covariance_of_effects(fit)):
        total[block.rows] = np.diag(block.sigma)
    mean = np.einsum("ij,jk,ik->i", design.X, fit.vcov_location, design.X)
    return np.sqrt(total), np.sqrt(np.maximum(total - mean, 0.0))


def clustered_hat_values(fit: Estimates) -> Array:
    """The diagonal of XMX'W (n,)."""
    design = fit.design
    found = np.empty(len(design.y))
    for block in blocks(design, loadings(design), covariance_of_effects(fit)):
        X = design.X[block.rows]
        found[block.rows] = np.sum(X @ fit.vcov_location * block.solve(X), axis=1)
    return found


def clustered_robust(
    fit: Estimates, cluster: Cluster | None, *, kind: Kind, small_sample: bool
) -> ClusteredRobustFit:
    """Cluster-robust covariances of β and α.

    Raises
    ------
    FitError
        For an unknown kind, clusters that depend on each other under the model, and as few of them
        as there are location coefficients.
    """
    require_choice("kind", kind, Kind)
    design = fit.design
    clusters = read_clusters(design, cluster)
    common = shared(design, clusters)
    if common:
        raise FitError(
            f"{common} lie in several clusters, so that the model itself makes these dependent; "
            "give coarser clusters"
        )
    G, p = len(clusters), len(fit.beta)
    if p >= G:
        raise FitError(
            f"{G} clusters are too few for {p} location coefficients; at least {p + 1} are needed"
        )
    X, M, back = orthonormal_location(fit)
    pieces = _pieces(fit, X, M, back, clusters.code, adjusted=kind == "CR2")
    estimates = np.array([pull.T @ e for pull, _, _, e in pieces])
    vcov = estimates.T @ estimates
    df = np.full(p, float(G - p))
    if kind == "CR1":
        vcov = vcov * G / (G - p)
    if kind == "CR2":
        df = _satterthwaite(pieces, M)
    df_scale = np.full(len(fit.alpha), float(G - 1))
    if not small_sample:
        df, df_scale = np.full(p, np.inf), np.full(len(fit.alpha), np.inf)
    vcov_scale = (1.0 if kind == "CR0" else G / (G - 1)) * scale_sandwich(fit, clusters)
    return ClusteredRobustFit(fit, kind, G, vcov, vcov_scale, df, df_scale)


_Piece = tuple[Array, Array, Array, Array]  # A W X M, X, Σ and e of a cluster


def _pieces(
    fit: Estimates,
    orthonormal: Array,
    M: Array,
    back: Array,
    code: npt.NDArray[np.intp],
    *,
    adjusted: bool,
) -> list[_Piece]:
    design = fit.design
    e = design.y - design.X @ fit.beta
    of_cluster: dict[int, list[tuple[npt.NDArray[np.intp], Array]]] = {}
    for block in blocks(design, loadings(design), covariance_of_effects(fit)):
        of_cluster.setdefault(int(code[block.rows[0]]), []).append((block.rows, block.sigma))
    found = []
    for parts in of_cluster.values():
        rows = np.concatenate([rows for rows, _ in parts])
        sigma = np.zeros((len(rows), len(rows)))
        first = 0
        for _, part in parts:
            last = first + len(part)
            sigma[first:last, first:last] = part
            first = last
        X = orthonormal[rows]
        pull = np.linalg.solve(sigma, X) @ (M @ back.T)
        if adjusted:
            D = np.linalg.cholesky(sigma).T
            values, vectors = np.linalg.eigh(D @ (sigma - X @ M @ X.T) @ D.T)
            kept = values > _ZERO * np.linalg.eigvalsh(sigma)[-1] ** 2
            root = (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
            pull = D.T @ (root @ (D @ pull))
        found.append((pull, X, sigma, e[rows]))
    return found


def _satterthwaite(pieces: list[_Piece], M: Array) -> Array:
    """(tr P)²/tr PP of each coefficient, with P_cd = 1(c = d) a_c'Σ_c a_c − a_c'X_cMX_d'a_d."""
    df = np.empty(len(M))
    for j in range(len(M)):
        own = np.array([pull[:, j] @ sigma @ pull[:, j] for pull, _, sigma, _ in pieces])
        U = np.array([pull[:, j] @ X for pull, X, _, _ in pieces])
        P = np.diag(own) - U @ M @ U.T
        df[j] = np.trace(P) ** 2 / np.sum(P * P)
    return df
