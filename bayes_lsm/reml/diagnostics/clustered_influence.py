r"""What each cluster does to a fit of several scale terms: exact refits without it.

Each refit is the same search for the highest point that the fit itself is, so β and all scale
coefficients are estimated again. With estimates (c) without cluster c, X_c its rows, and Σ_cc(c)
the covariance that the others' variances give them,

    deleted residuals  e = y_c − X_cβ̂_(c),  Ω = Σ_cc(c) + X_cV_(c)X_c',  z = e / √diag Ω
    their χ²           e'Ω⁻¹e
    Cook's distance    (β̂ − β̂_(c))' V⁻¹ (β̂ − β̂_(c))
    DFBETAS of β       (β̂ − β̂_(c)) / √diag (X'Σ_(c)⁻¹X)⁻¹, over all rows
    DFBETAS of α       (α̂ − α̂_(c)) / SE(α̂_(c))
    covariance ratio   |V_(c)| / |V|

which are metafor's for ``rma.mv`` with ``cluster`` (it has none for α).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtr

from bayes_lsm.design.clusters import Cluster, Clusters, read_clusters
from bayes_lsm.errors import BayesLsmError
from bayes_lsm.likelihood.blocks.covariance import block_rows, loadings
from bayes_lsm.reml.diagnostics.clustered_deletion import keep_rows, sigma_blocks
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search.maximum import estimate
from bayes_lsm.results import ResultTable, model_title
from bayes_lsm.tables import Printable

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class ClusterLeaveOneOut(ResultTable):
    """Estimates with each cluster left out in turn, one row a cluster."""


@dataclass(frozen=True, eq=False)
class ClusterInfluence(Printable):
    """What each of G clusters does to a fit; a row is nan where the model needs the cluster.

    Attributes
    ----------
    fit : RemlFit
        Of all rows.
    clusters : Clusters
    beta, se_beta : ndarray, shape (G, p)
        Without each cluster.
    alpha, se_alpha : ndarray, shape (G, q)
        Scale coefficients of all terms; ±inf, without a standard error, where the refit diverges.
    loglik : ndarray, shape (G,)
    cook, cov_ratio, chi2 : ndarray, shape (G,)
        Cook's distance and covariance ratio of β, and χ² of the cluster's deleted residuals.
    deleted_residual, deleted_residual_se : ndarray, shape (n,)
        Distance of each row from what the other clusters predict, and its standard error.
    dfbetas_location : ndarray, shape (G, p)
    dfbetas_scale : ndarray, shape (G, q)
        ±inf where α is finite with the cluster and infinite without it, or the other way round.
    unfittable : dict of str to str
        Clusters without which the model cannot be fitted, and why.
    diverging, unconverged : tuple of str
        Clusters without which a variance is zero, or the optimiser did not converge.
    """

    fit: Estimates
    clusters: Clusters
    beta: Array
    se_beta: Array
    alpha: Array
    se_alpha: Array
    loglik: Array
    cook: Array
    cov_ratio: Array
    chi2: Array
    deleted_residual: Array
    deleted_residual_se: Array
    dfbetas_location: Array
    dfbetas_scale: Array
    unfittable: dict[str, str]
    diverging: tuple[str, ...]
    unconverged: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The clusters' names."""
        return self.clusters.names

    @property
    def unit(self) -> str:
        """What is left out."""
        return self.clusters.what

    @property
    def influential(self) -> Mask:
        """Clusters that move β: Cook's distance above the median of χ²(p), or a DFBETAS above 1."""
        with np.errstate(invalid="ignore"):
            moved = (np.abs(self.dfbetas_location) > 1).any(axis=1)
            return np.asarray((chdtr(len(self.fit.beta), self.cook) > 0.5) | moved)

    @property
    def influential_scale(self) -> Mask:
        """Clusters that move some α by more than one standard error (G,)."""
        with np.errstate(invalid="ignore"):
            return np.asarray((np.abs(self.dfbetas_scale) > 1).any(axis=1))

    @property
    def dfbetas(self) -> pd.DataFrame:
        """DFBETAS of all coefficients, one row a cluster; columns (part, term)."""
        parts = (
            ("location", self.fit.design.location.names, self.dfbetas_location),
            ("scale", self.fit.scale_names, self.dfbetas_scale),
        )
        columns = {
            (part, name): values[:, j]
            for part, names, values in parts
            for j, name in enumerate(names)
        }
        return pd.DataFrame(columns, index=self._index)

    @property
    def leave_one_out(self) -> ClusterLeaveOneOut:
        """Estimates and standard errors without each cluster; columns (part, term, statistic)."""
        parts = (
            ("location", self.fit.design.location.names, self.beta, self.se_beta),
            ("scale", self.fit.scale_names, self.alpha, self.se_alpha),
        )
        columns = {
            (part, name, statistic): values[:, j]
            for part, names, estimate, se in parts
            for j, name in enumerate(names)
            for statistic, values in (("estimate", estimate), ("se", se))
        }
        columns["model", "", "loglik"] = self.loglik
        table = pd.DataFrame(columns, index=self._index)
        title = f"Estimates without each {self.clusters.what} of a {self._model}"
        return ClusterLeaveOneOut(title, table, self._remarks, 0.95)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a cluster: its rows, X2 of deleted residuals, cook.d and cov.r."""
        table = {
            "rows": np.bincount(self.clusters.code),
            "X2": self.chi2,
            "cook.d": self.cook,
            "cov.r": self.cov_ratio,
        }
        return pd.DataFrame(table, index=self._index)

    @property
    def title(self) -> str:
        """What was left out of what."""
        return f"Influence of each {self.clusters.what} in a {self._model}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""
        marks = (
            "under inf, * marks clusters that move a location coefficient, and s those that move a "
            "scale coefficient by more than one standard error"
        )
        return (marks, *self._remarks)

    @property
    def _remarks(self) -> tuple[str, ...]:
        found = [f"without {name}: {why}" for name, why in self.unfittable.items()]
        for names, what in (
            (self.diverging, "a variance is zero"),
            (self.unconverged, "the optimiser did not converge"),
        ):
            if names:
                shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
                found.append(f"{what} without {shown}")
        return (*found, *self.fit.notes)

    @property
    def _index(self) -> pd.Index:
        return pd.Index(self.labels, name=self.clusters.what)

    @property
    def _model(self) -> str:
        return model_title(self.fit.design, self.fit.label)

    def _table(self) -> pd.DataFrame:
        marks = np.char.add(
            np.where(self.influential, "*", ""), np.where(self.influential_scale, "s", "")
        )
        return self.to_dataframe().assign(inf=marks)


def cluster_influence(
    fit: Estimates, cluster: Cluster | None = None, *, progress: bool = True
) -> ClusterInfluence:
    """Refit without each cluster.

    Parameters
    ----------
    fit : RemlFit
    cluster : str or sequence of length n, optional
        What is left out as a whole: the groups of a scale term, or the cluster of each row. By
        default the outermost groups.
    progress : bool, default True
        Show a progress bar on standard error when there are many clusters.

    Returns
    -------
    ClusterInfluence

    Raises
    ------
    FitError
        For clusters that are unknown or missing, and where groups cross and none are given.

    References
    ----------
    Viechtbauer, W., & Cheung, M. W.-L. (2010). Outlier and influence diagnostics for meta-analysis.
    Research Synthesis Methods, 1(2), 112-125. doi:10.1002/jrsm.11
    """
    design = fit.design
    clusters = read_clusters(design, cluster)
    G, p, q, n = len(clusters), len(fit.beta), len(fit.alpha), len(design.y)
    beta, se_beta = np.full((G, p), np.nan), np.full((G, p), np.nan)
    alpha, se_alpha = np.full((G, q), np.nan), np.full((G, q), np.nan)
    loglik, ratio, chi2 = (np.full(G, np.nan) for _ in range(3))
    residual, residual_se, spread = np.full(n, np.nan), np.full(n, np.nan), np.full((G, p), np.nan)
    unfittable, diverging, unconverged = {}, [], []
    parts = block_rows(design, loadings(design))
    for c in _track(G, progress):
        rows = np.flatnonzero(clusters.code == c)
        try:
            rest = keep_rows(design, clusters.code != c)
            refit = estimate(rest, fit.method)
        except (BayesLsmError, np.linalg.LinAlgError) as error:
            unfittable[clusters.names[c]] = str(error).split(";")[0]
            continue
        beta[c], alpha[c], loglik[c] = refit.beta, refit.alpha, refit.loglik
        se_beta[c] = np.sqrt(np.diag(refit.vcov_location))
        se_alpha[c] = np.sqrt(np.diag(refit.vcov_scale))
        logs = [np.linalg.slogdet(each.vcov_location)[1] for each in (refit, fit)]
        ratio[c] = np.exp(logs[0] - logs[1])
        spread[c] = _spread(refit, fit, parts)
        residual[rows], residual_se[rows], chi2[c] = _deleted(refit, fit, rows)
        diverging += [clusters.names[c]] if refit.divergence else []
        unconverged += [] if refit.converged else [clusters.names[c]]
    shift = fit.beta - beta
    with np.errstate(invalid="ignore"):
        moved = (fit.alpha - alpha) / se_alpha
        one_sided = np.isfinite(fit.alpha) != np.isfinite(alpha)
        moved = np.where(one_sided & ~np.isnan(alpha), fit.alpha - alpha, moved)
    return ClusterInfluence(
        fit=fit,
        clusters=clusters,
        beta=beta,
        se_beta=se_beta,
        alpha=alpha,
        se_alpha=se_alpha,
        loglik=loglik,
        cook=np.sum(shift.T * np.linalg.solve(fit.vcov_location, shift.T), axis=0),
        cov_ratio=ratio,
        chi2=chi2,
        deleted_residual=residual,
        deleted_residual_se=residual_se,
        dfbetas_location=shift / spread,
        dfbetas_scale=moved,
        unfittable=unfittable,
        diverging=tuple(diverging),
        unconverged=tuple(unconverged),
    )


def _spread(refit: Estimates, fit: Estimates, parts: list[Index]) -> Array:
    """Standard errors of β of all rows, with the variances of the refit (p,)."""
    design = fit.design
    precision = np.zeros((len(fit.beta), len(fit.beta)))
    for rows, sigma in zip(parts, sigma_blocks(refit, design, parts), strict=True):
        precision += design.X[rows].T @ np.linalg.solve(sigma, design.X[rows])
    return np.sqrt(np.diag(np.linalg.inv(precision)))


def _deleted(refit: Estimates, fit: Estimates, rows: Index) -> tuple[Array, Array, float]:
    """Deleted residuals of some rows, their standard errors and χ²."""
    design = fit.design
    (sigma,) = sigma_blocks(refit, design, [rows])
    X = design.X[rows]
    omega = sigma + X @ refit.vcov_location @ X.T
    e = design.y[rows] - X @ refit.beta
    return e, np.sqrt(np.diag(omega)), float(e @ np.linalg.solve(omega, e))


def _track(count: int, progress: bool) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import track

    hidden = not progress or count < 50
    console = Console(stderr=True)
    yield from track(
        range(count), "Leaving clusters out", console=console, disable=hidden, transient=True
    )
