r"""What each study, or cluster of rows, does to a fit: exact refits without it.

The measures are metafor's (Viechtbauer & Cheung 2010), which has them for one common τ², and with
clusters for ``rma.mv``; it has none for α. With estimates (c) without cluster c, and Σ(c) the
covariance of all rows that the others' variances give them,

    deleted residuals  of `deletion`, and their χ²
    Cook's distance    (β̂ − β̂_(c))' V⁻¹ (β̂ − β̂_(c))
    DFBETAS of β       (β̂ − β̂_(c)) / √diag (X'Σ_(c)⁻¹X)⁻¹, over all rows
    DFBETAS of α       (α̂ − α̂_(c)) / SE(α̂_(c))
    covariance ratio   |V_(c)| / |V|
    DFFITS             x_i'(β̂ − β̂_(i)) / √(g_i Σ_(i)ii), where the cluster is one row i, with
                       g_i = x_i'(X'Σ⁻¹X)⁻¹x_i / Σ_ii, the hat value of independent effects
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtr

from bayes_lsm.arrays import Array, Mask
from bayes_lsm.design.clusters import Cluster, sum_by_cluster
from bayes_lsm.reml.diagnostics.leave_one_out import (
    LeaveOneOut,
    by_cluster,
    facts,
    leave_one_out,
    some,
)
from bayes_lsm.reml.diagnostics.location_projection import project
from bayes_lsm.reml.diagnostics.residuals import hat_values, weights
from bayes_lsm.reml.estimates import Estimates


@dataclass(frozen=True, eq=False)
class Influence(LeaveOneOut):
    """What each of G studies or clusters does to a fit of n rows.

    Its other fields are those of `LeaveOneOut`, the refits. A row is nan where the model cannot be
    fitted without the cluster.

    Attributes
    ----------
    dffits : ndarray, shape (G,)
        nan for clusters of several rows.
    cook, cov_ratio : ndarray, shape (G,)
        Those of β.
    hat, weight : ndarray, shape (G,)
        From the fit of all rows, sums over the cluster's; the weight in per cent.
    dfbetas_location : ndarray, shape (G, p)
    dfbetas_scale : ndarray, shape (G, q)
        Of the scale coefficients of all terms. ±inf where α is finite with the cluster and infinite
        without it, or the other way round; nan where it is infinite both ways.
    """

    dffits: Array
    cook: Array
    cov_ratio: Array
    hat: Array
    weight: Array
    dfbetas_location: Array
    dfbetas_scale: Array

    @property
    def leave_one_out(self) -> LeaveOneOut:
        """The refits themselves."""
        return LeaveOneOut(**facts(self))

    @property
    def sizes(self) -> npt.NDArray[np.intp]:
        """How many rows each has (G,)."""
        return self.clusters.sizes

    @property
    def deleted_residual(self) -> Array:
        """Distance of each row from what the other clusters predict (n,)."""
        return self.residual

    @property
    def deleted_residual_se(self) -> Array:
        """Its standard error (n,); nan where the others leave the row's τ² open."""
        return self.residual_se

    @property
    def rstudent(self) -> Array:
        """Studentised deleted residuals (n,): about standard normal without outliers."""
        return self.residual / self.residual_se

    @property
    def influential(self) -> Mask:
        """Clusters that move β, by metafor's rules (G,).

        \\|DFFITS\\| > 3√(p/(n − p)), or Cook's distance above the median of χ²(p), or a hat value
        above three times its mean p/n (times the rows of the cluster), or a \\|DFBETAS\\| of β
        above 1.
        """
        n, p = self.fit.design.X.shape
        with np.errstate(invalid="ignore"):
            return np.asarray(
                (np.abs(self.dffits) > 3 * np.sqrt(p / (n - p)))
                | (chdtr(p, self.cook) > 0.5)
                | (self.hat > 3 * self.sizes * p / n)
                | (np.abs(self.dfbetas_location) > 1).any(axis=1)
            )

    @property
    def influential_scale(self) -> Mask:
        """Clusters that move some α by more than one standard error (G,)."""
        with np.errstate(invalid="ignore"):
            return np.asarray((np.abs(self.dfbetas_scale) > 1).any(axis=1))

    def to_dataframe(self) -> pd.DataFrame:
        """One row a cluster: its rows, the measures under metafor's names, and two more of τ².

        rstudent and dffits are nan for clusters of several rows, whose deleted residuals have their
        χ² in X2; QE.del is nan for individual data.
        """
        code = self.clusters.code
        alone = np.where(self.sizes == 1, 1.0, np.nan)
        table = {
            "rows": self.sizes,
            "rstudent": alone * sum_by_cluster(self.rstudent[:, None], code)[:, 0],
            "X2": self.chi2,
            "dffits": self.dffits,
            "cook.d": self.cook,
            "cov.r": self.cov_ratio,
            "tau2.del": self.tau2,
            "tau2.change": self.tau2_change,
            "QE.del": self.Q,
            "hat": self.hat,
            "weight": self.weight,
        }
        return pd.DataFrame(table, index=pd.Index(self.labels, name=self.unit))

    @property
    def measures(self) -> tuple[str, ...]:
        """The columns that say something of these clusters, each in its own way.

        Of single rows X2 is the square of rstudent; clusters of several rows have no rstudent.
        """
        table = self.to_dataframe().drop(columns=["rows", "X2"] if (self.sizes == 1).all() else [])
        return tuple(map(str, table.columns[table.notna().any()]))

    @property
    def dfbetas(self) -> pd.DataFrame:
        """DFBETAS of all coefficients, one row a cluster; columns (part, term)."""
        columns: dict[tuple[str, ...], Array] = {}
        for part, names, values in (
            ("location", self.fit.design.location.names, self.dfbetas_location),
            ("scale", self.fit.scale_names, self.dfbetas_scale),
        ):
            columns |= {(part, name): values[:, j] for j, name in enumerate(names)}
        return by_cluster(columns, self)

    @property
    def title(self) -> str:
        """What was left out of what."""
        return f"Influence of each {self.unit} in a {self.fit.title}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""
        marks = (
            f"under inf, * marks each {self.unit} that moves the location coefficients by "
            "metafor's rules, and s each that moves a scale coefficient by more than one standard "
            "error"
        )
        labels, fitted = self.fit.design.labels, ~np.isnan(self.residual)
        open_ = [labels[i] for i in np.flatnonzero(fitted & ~np.isfinite(self.own_tau2))]
        unknown = f"the others do not tell the τ² of {some(open_)}, so no z is given there"
        return (marks, *([unknown] if open_ else []), *super().notes)

    def _table(self) -> pd.DataFrame:
        marks = np.char.add(
            np.where(self.influential, "*", ""), np.where(self.influential_scale, "s", "")
        )
        return self.to_dataframe()[list(self.measures)].assign(inf=marks)


def influence(
    fit: Estimates, *, cluster: Cluster | None = None, progress: bool = True
) -> Influence:
    """What each study, or each cluster, does to a fit, by exact refits without it.

    Parameters
    ----------
    fit : RemlFit or Estimates
    cluster : str or sequence of length n, optional
        What is left out as a whole: the groups of a scale term, or the cluster of each row. By
        default the rows of independent effects, and else the outermost groups.
    progress : bool, default True
        Show a progress bar on standard error when it takes more than a second or two.

    Returns
    -------
    Influence

    Raises
    ------
    FitError
        For clusters that are unknown or missing, and where groups cross and none are given.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", scale="~ ablat", variance="vi", study="trial",
    ...     data=lsm.load_dataset("bcg")).fit_reml()
    >>> found = influence(fit, progress=False)
    >>> print(found.to_dataframe()[["rstudent", "cook.d", "tau2.change"]].round(3).head(2))
           rstudent  cook.d  tau2.change
    study
    1         0.225   0.004       -0.009
    2        -0.482   0.073       -0.006

    References
    ----------
    Viechtbauer, W., & Cheung, M. W.-L. (2010). Outlier and influence diagnostics for meta-analysis.
    Research Synthesis Methods, 1(2), 112-125. doi:10.1002/jrsm.11
    """
    found = leave_one_out(fit, cluster=cluster, progress=progress)
    code = found.clusters.code
    V, shift = fit.known_vcov_location, fit.beta - found.beta
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = (fit.alpha - found.alpha) / found.se_alpha
        # One of the two at infinity: the cluster makes or ends a divergence.
        one_sided = np.isfinite(fit.alpha) != np.isfinite(found.alpha)
        scale = np.where(one_sided & ~np.isnan(found.alpha), fit.alpha - found.alpha, scale)
        volume = np.linalg.slogdet(found.vcov)[1] - np.linalg.slogdet(V)[1]
    return Influence(
        **facts(found),
        dffits=_dffits(fit, found, shift),
        cook=np.sum(shift.T * np.linalg.solve(V, shift.T), axis=0),
        cov_ratio=np.exp(volume),
        hat=sum_by_cluster(hat_values(fit)[:, None], code)[:, 0],
        weight=sum_by_cluster(weights(fit)[:, None], code)[:, 0],
        dfbetas_location=shift / found.se_all,
        dfbetas_scale=scale,
    )


def _dffits(fit: Estimates, found: LeaveOneOut, shift: Array) -> Array:
    """How far each cluster of one row moves its own fitted value (G,); nan for the others."""
    projection = project(fit)
    share = np.sum(projection.fitted**2, axis=1) / projection.covariance.variances
    row = found.clusters.first
    moved = np.sum(fit.design.X[row] * shift, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = moved / np.sqrt(share[row] * found.spread[row])
    return np.where(found.clusters.sizes == 1, ratio, np.nan)
