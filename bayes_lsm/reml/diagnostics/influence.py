r"""What each study does to a fit: exact refits with one study left out.

β and α are both estimated again without the study. Up to 300 studies each refit is the same search
for the highest point that `fit_reml` does. With more it is a climb from the estimate of all
studies, which one study in hundreds does not move far; the search is done where the climb does not
converge, where τ² runs to 0, and for the studies that move α most.

The measures are metafor's (Viechtbauer & Cheung 2010), which has them for one common τ² only. Here
each study keeps its own: with τ²_j(i) = exp(z_j'α̂_(i)), w_j(i) = 1/(v_j + τ²_j(i)),

    deleted residual   (y_i − x_i'β̂_(i)) / √(v_i + τ²_i(i) + x_i'V_(i)x_i)
    DFFITS             x_i'(β̂ − β̂_(i)) / √(h_i (v_i + τ²_i(i)))
    Cook's distance    (β̂ − β̂_(i))' V⁻¹ (β̂ − β̂_(i))
    DFBETAS of β       (β̂ − β̂_(i)) / √diag (X'W_(i)X)⁻¹, over all k studies
    DFBETAS of α       (α̂ − α̂_(i)) / SE(α̂_(i))
    covariance ratio   |V_(i)| / |V|
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtr, ndtr, ndtri, stdtr, stdtrit

from bayes_lsm.design.clusters import Cluster
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.reml.diagnostics.clustered_influence import ClusterInfluence, ClusterLeaveOneOut
from bayes_lsm.reml.diagnostics.residuals import Refits, fitted_values, hat_values, weights
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.tables import format_cells, format_table, wrap_notes

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Unfittable:
    """A study without which the model cannot be fitted, and why."""

    study: str
    reason: str


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Estimates with each study left out in turn; row i is without study i.

    A row is nan where the model cannot be fitted without the study.

    Attributes
    ----------
    fit : RemlFit
        Of all k studies.
    beta, se_beta : ndarray, shape (k, p)
    alpha, se_alpha : ndarray, shape (k, q)
        α is ±inf, without a standard error, where the refit diverges.
    loglik : ndarray, shape (k,)
    tau2 : ndarray, shape (k,)
        Mean τ² of the k − 1 studies that are left.
    I2, H2 : ndarray, shape (k,)
        At that mean τ²; I² in per cent.
    Q, Q_pval : ndarray, shape (k,)
        Cochran's Q of the studies that are left.
    unfittable : tuple of Unfittable
    diverging : tuple of str
        Studies without which α has no finite estimate.
    unconverged : tuple of str
        Studies without which the optimiser did not converge.
    searched : ndarray of bool, shape (k,)
        Which refits searched for the highest point, rather than climbed from the full estimate.
    """

    fit: Estimates
    beta: Array
    se_beta: Array
    alpha: Array
    se_alpha: Array
    loglik: Array
    tau2: Array
    I2: Array
    H2: Array
    Q: Array
    Q_pval: Array
    unfittable: tuple[Unfittable, ...]
    diverging: tuple[str, ...]
    unconverged: tuple[str, ...]
    searched: Mask

    def to_dataframe(self) -> pd.DataFrame:
        """One row a study; columns (part, term, statistic).

        For each location and scale term estimate, se, zval (or tval), pval, ci_lb and ci_ub; for
        the part ``"model"`` loglik, tau2, I2, H2, Q and Qp.
        """
        design = self.fit.design
        columns: dict[tuple[str, ...], Array] = {}
        for part, names, estimate, se in (
            ("location", design.location.names, self.beta, self.se_beta),
            ("scale", design.scale.names, self.alpha, self.se_alpha),
        ):
            df = None if self.fit.test == "z" else design.n_studies - 1 - len(names)
            for j, name in enumerate(names):
                for statistic, values in _wald(estimate[:, j], se[:, j], df).items():
                    columns[part, name, statistic] = values
        whole = ("loglik", "tau2", "I2", "H2", "Q")
        columns |= {("model", "", name): getattr(self, name) for name in whole}
        columns["model", "", "Qp"] = self.Q_pval
        return _frame(columns, design)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""
        found = [f"without {each.study}: {each.reason}" for each in self.unfittable]
        others = set(self.diverging) | {each.study for each in self.unfittable}
        ended = [study for study in self.fit.design.labels if study not in others]
        for studies, what in (
            (self.diverging, "a scale coefficient has no finite estimate"),
            (ended if self.fit.divergence else (), "every scale coefficient has a finite estimate"),
            (self.unconverged, "the optimiser did not converge"),
        ):
            if studies:
                found.append(f"{what} without {_some(studies)}")
        return (*found, *self.fit.design.notes)

    def __str__(self) -> str:
        table = self.to_dataframe()
        statistics = table.columns.get_level_values(2)
        kept = statistics.isin(["estimate", "se", "loglik", "tau2", "I2", "H2", "Q"])
        title = f"Leave-One-Out Estimates ({self.fit.title})"
        shown = format_table(table[table.columns[kept]])
        return "\n".join([title, "", shown, "", *wrap_notes(self.notes)]).rstrip()

    def _repr_html_(self) -> str:
        return str(format_cells(self.to_dataframe(), digits=4).to_html())


@dataclass(frozen=True, eq=False)
class Influence:
    """What each study does to a fit; all arrays have one row for each of the k studies.

    A row is nan where the model cannot be fitted without the study.

    Attributes
    ----------
    leave_one_out : LeaveOneOut
        The refits themselves.
    deleted_residual, deleted_residual_se : ndarray, shape (k,)
        Distance of the study from what the others predict, and its standard error; the latter is
        nan where the others leave the study's τ² open.
    dffits, cook, cov_ratio : ndarray, shape (k,)
        cook and cov_ratio are those of β.
    tau2 : ndarray, shape (k,)
        Mean τ² of the other studies, estimated without the study.
    tau2_change : ndarray, shape (k,)
        Mean τ² of the other studies as estimated with the study, less `tau2`.
    own_tau2 : ndarray, shape (k,)
        The study's own τ² as the others predict it.
    Q : ndarray, shape (k,)
        Cochran's Q without the study.
    hat, weight : ndarray, shape (k,)
        From the fit of all studies; the weight in per cent.
    dfbetas_location : ndarray, shape (k, p)
    dfbetas_scale : ndarray, shape (k, q)
        ±inf where α is finite with the study and infinite without it, or the other way round; nan
        where it is infinite both ways.
    """

    leave_one_out: LeaveOneOut
    deleted_residual: Array
    deleted_residual_se: Array
    dffits: Array
    cook: Array
    cov_ratio: Array
    tau2: Array
    tau2_change: Array
    own_tau2: Array
    Q: Array
    hat: Array
    weight: Array
    dfbetas_location: Array
    dfbetas_scale: Array

    @property
    def fit(self) -> Estimates:
        """The fit of all studies."""
        return self.leave_one_out.fit

    @property
    def labels(self) -> tuple[str, ...]:
        """The studies' names."""
        return self.fit.design.labels

    @property
    def unit(self) -> str:
        """What is left out."""
        return "study"

    @property
    def rstudent(self) -> Array:
        """Studentised deleted residuals (k,): about standard normal without outliers."""
        return self.deleted_residual / self.deleted_residual_se

    @property
    def influential(self) -> Mask:
        """Studies that move β, by metafor's rules (k,).

        \\|DFFITS\\| > 3√(p/(k − p)), or Cook's distance above the median of χ²(p), or a hat value
        above 3p/k, or a \\|DFBETAS\\| of β above 1.
        """
        k, p = self.fit.design.X.shape
        with np.errstate(invalid="ignore"):
            return np.asarray(
                (np.abs(self.dffits) > 3 * np.sqrt(p / (k - p)))
                | (chdtr(p, self.cook) > 0.5)
                | (self.hat > 3 * p / k)
                | (np.abs(self.dfbetas_location) > 1).any(axis=1)
            )

    @property
    def influential_scale(self) -> Mask:
        """Studies that move some α by more than one standard error (k,)."""
        with np.errstate(invalid="ignore"):
            return np.asarray((np.abs(self.dfbetas_scale) > 1).any(axis=1))

    def to_dataframe(self) -> pd.DataFrame:
        """One row a study: the measures under metafor's names, and two more of τ²."""
        table = {
            "rstudent": self.rstudent,
            "dffits": self.dffits,
            "cook.d": self.cook,
            "cov.r": self.cov_ratio,
            "tau2.del": self.tau2,
            "tau2.change": self.tau2_change,
            "QE.del": self.Q,
            "hat": self.hat,
            "weight": self.weight,
        }
        return pd.DataFrame(table, index=pd.Index(self.fit.design.labels, name="study"))

    @property
    def dfbetas(self) -> pd.DataFrame:
        """DFBETAS of all coefficients, one row a study; columns (part, term)."""
        design = self.fit.design
        columns: dict[tuple[str, ...], Array] = {}
        for part, names, values in (
            ("location", design.location.names, self.dfbetas_location),
            ("scale", design.scale.names, self.dfbetas_scale),
        ):
            columns |= {(part, name): values[:, j] for j, name in enumerate(names)}
        return _frame(columns, design)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""
        marks = (
            "under inf, * marks studies that move the location coefficients by metafor's rules, "
            "and s those that move a scale coefficient by more than one standard error"
        )
        labels, fitted = self.fit.design.labels, ~np.isnan(self.deleted_residual)
        open_ = [labels[i] for i in np.flatnonzero(fitted & ~np.isfinite(self.own_tau2))]
        unknown = f"the other studies do not tell the τ² of {_some(open_)}, so no z is given there"
        return (marks, *([unknown] if open_ else []), *self.leave_one_out.notes)

    def __str__(self) -> str:
        table = self.to_dataframe()
        table["inf"] = np.char.add(
            np.where(self.influential, "*", ""), np.where(self.influential_scale, "s", "")
        )
        title = f"Influence of Each Study ({self.fit.title})"
        return "\n".join([title, "", format_table(table), "", *wrap_notes(self.notes)])

    def _repr_html_(self) -> str:
        return str(format_cells(self.to_dataframe(), digits=4).to_html())


def leave_one_out(
    fit: Estimates, *, cluster: Cluster | None = None, progress: bool = True
) -> LeaveOneOut | ClusterLeaveOneOut:
    """Estimates with each study left out in turn, by exact refits.

    Parameters
    ----------
    fit : RemlFit or Estimates
        Its method, test and fixed coefficients are those of the refits. (Bounds on α are not known
        to a fit, and are not kept.)
    cluster : str or sequence of length n, optional
        With several scale terms whole clusters are left out: see `cluster_influence`.
    progress : bool, default True
        Show a progress bar on standard error when it takes more than a second or two.

    Returns
    -------
    LeaveOneOut or ClusterLeaveOneOut

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"), study="trial").fit_reml()
    >>> table = leave_one_out(fit, progress=False).to_dataframe()
    >>> print(table["location"]["intrcpt"][["estimate", "se"]].round(3).head(3))
           estimate     se
    study
    1        -0.707  0.190
    2        -0.654  0.181
    3        -0.686  0.186
    """
    if not fit.design.is_independent:
        from bayes_lsm.reml.diagnostics.clustered_influence import cluster_influence

        return cluster_influence(fit, cluster, progress=progress).leave_one_out
    _refuse(cluster)
    return _leave_one_out(Refits(fit, progress=progress))


def _refuse(cluster: Cluster | None) -> None:
    if cluster is not None:
        raise FitError("cluster is for fits of several scale terms; leave it out")


def _leave_one_out(found: Refits) -> LeaveOneOut:
    labels = found.fit.design.labels
    return LeaveOneOut(
        fit=found.fit,
        beta=found.beta,
        se_beta=np.sqrt(np.diagonal(found.vcov, axis1=1, axis2=2)),
        alpha=found.alpha,
        se_alpha=found.se_alpha,
        loglik=found.loglik,
        tau2=found.tau2,
        I2=found.I2,
        H2=found.H2,
        Q=found.Q,
        Q_pval=found.Q_pval,
        unfittable=tuple(
            Unfittable(labels[i], reason) for i, reason in sorted(found.unfittable.items())
        ),
        diverging=tuple(labels[i] for i in sorted(found.diverging)),
        unconverged=tuple(labels[i] for i in sorted(found.unconverged)),
        searched=found.searched,
    )


def influence(
    fit: Estimates, *, cluster: Cluster | None = None, progress: bool = True
) -> Influence | ClusterInfluence:
    """What each study does to a fit, by exact refits without it.

    Parameters
    ----------
    fit : RemlFit or Estimates
    cluster : str or sequence of length n, optional
        As for `leave_one_out`.
    progress : bool, default True
        Show a progress bar on standard error when it takes more than a second or two.

    Returns
    -------
    Influence or ClusterInfluence

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
    if not fit.design.is_independent:
        from bayes_lsm.reml.diagnostics.clustered_influence import cluster_influence

        return cluster_influence(fit, cluster, progress=progress)
    _refuse(cluster)
    found = Refits(fit, progress=progress)
    design, deleted = fit.design, _leave_one_out(found)
    hat, shift = hat_values(fit), fit.beta - found.beta
    spread = found.scaling * (design.v + found.own_tau2)
    others = (fit.tau2.sum() - fit.tau2) / (design.n_studies - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        dffits = (fitted_values(fit) - found.predicted) / np.sqrt(hat * spread)
        ratio = np.linalg.slogdet(found.vcov)[1] - np.linalg.slogdet(fit.vcov_location)[1]
        scale = (fit.alpha - found.alpha) / found.se_alpha
        # One of the two at infinity: the study makes or ends a divergence.
        one_sided = np.isfinite(fit.alpha) != np.isfinite(found.alpha)
        scale = np.where(one_sided, fit.alpha - found.alpha, scale)
    return Influence(
        leave_one_out=deleted,
        deleted_residual=design.y - found.predicted,
        deleted_residual_se=found.residual_se,
        dffits=np.where(np.isfinite(spread), dffits, np.nan),
        cook=np.sum(shift.T * np.linalg.solve(fit.vcov_location, shift.T), axis=0),
        cov_ratio=np.exp(ratio),
        tau2=deleted.tau2,
        tau2_change=others - deleted.tau2,
        own_tau2=found.own_tau2,
        Q=deleted.Q,
        hat=hat,
        weight=weights(fit),
        dfbetas_location=shift / found.se_all,
        dfbetas_scale=scale,
    )


def _wald(estimate: Array, se: Array, df: int | None) -> dict[str, Array]:
    finite = np.where(np.isfinite(estimate), estimate, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = finite / se
    if df is None:
        pval, quantile = 2 * ndtr(-np.abs(ratio)), float(ndtri(0.975))
    else:
        pval, quantile = 2 * stdtr(df, -np.abs(ratio)), float(stdtrit(df, 0.975))
    name = "zval" if df is None else "tval"
    bounds = {"ci_lb": finite - quantile * se, "ci_ub": finite + quantile * se}
    return {"estimate": estimate, "se": se, name: ratio, "pval": pval, **bounds}


def _frame(columns: dict[tuple[str, ...], Array], design: Design) -> pd.DataFrame:
    table = pd.DataFrame(dict(enumerate(columns.values())))
    table.index = pd.Index(design.labels, name="study")
    table.columns = pd.MultiIndex.from_tuples(list(columns))
    return table


def _some(studies: Sequence[str]) -> str:
    return ", ".join(studies[:8]) + (" …" if len(studies) > 8 else "")
