r"""Residuals, hat values and weights of a fit, and refits without a study, as metafor has them.

With W = diag(w), w_i = 1/(v_i + τ_i²), the hat matrix is H = X(X'WX)⁻¹X'W, and a residual
e_i = y_i − x_i'β̂ has variance (v_i + τ_i²)(1 − h_i) given the τ_i². With one τ² for all studies
these are the numbers of metafor's ``resid``, ``rstandard``, ``rstudent``, ``hatvalues``,
``weights`` and ``fitted``; a location-scale fit only has a τ_i² for each study in their place.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.choices import require_choice
from bayes_lsm.design.clusters import Cluster
from bayes_lsm.design.columns import check_columns
from bayes_lsm.design.design import Design
from bayes_lsm.errors import BayesLsmError, BayesLsmWarning, FitError
from bayes_lsm.likelihood.rows.closed_form import estimate_location, typical_sampling_variance
from bayes_lsm.links import tau2_from_log
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.fitting import fit_reml
from bayes_lsm.reml.search.rows_estimates import one_term
from bayes_lsm.reml.search.surface import Surface
from bayes_lsm.reml.wald import cochran_q
from bayes_lsm.tables import format_cells, format_table

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
ResidualKind = Literal["raw", "pearson", "standardized", "studentized_deleted"]

# A study whose hat value differs from 1 by less decides its own fitted value, and has no residual.
_ALL_ITS_OWN = 1e-13
# A residual smaller than this share of the effects is the rounding of 0.
_ROUNDING = 1e-14
# With more studies than this, most refits are climbs from the estimate of all studies.
_MANY_STUDIES = 300
# That many of the studies that move α most are searched all the same.
_SEARCHED = 20
# τ²/v below which a climb may be on its way to a limit, where only a search can tell.
_VANISHED = 1e-6
# Unweighted leverage from which on a study may be the only one that carries a coefficient.
_ALONE = 1.0 - 1e-6
# Relative size below which a number is the rounding of 0.
_ZERO = 1e-9


@dataclass(frozen=True, eq=False)
class Residuals:
    """Residuals of a fit, one for each study.

    Attributes
    ----------
    kind : {"raw", "pearson", "standardized", "studentized_deleted"}
    labels : tuple of str, length k
    raw : ndarray, shape (k,)
        In the unit of the effects: y_i − x_i'β̂, with β̂ from the other studies where the kind is
        ``"studentized_deleted"``.
    se : ndarray, shape (k,)
        What they are divided by; nan for raw residuals, and where a study has no residual because
        it alone decides its fitted value.
    """

    kind: ResidualKind
    labels: tuple[str, ...]
    raw: Array
    se: Array

    @property
    def values(self) -> Array:
        """The residuals of this kind (k,): ``raw``, or ``raw / se``."""
        return self.raw if self.kind == "raw" else self.raw / self.se

    def to_dataframe(self) -> pd.DataFrame:
        """Columns resid, se and z, as metafor prints them (resid alone for raw ones)."""
        columns = {"resid": self.raw}
        if self.kind != "raw":
            columns |= {"se": self.se, "z": self.values}
        return pd.DataFrame(columns, index=pd.Index(self.labels, name="study"))

    def __str__(self) -> str:
        return format_table(self.to_dataframe())

    def _repr_html_(self) -> str:
        return str(format_cells(self.to_dataframe(), digits=4).to_html())


def residuals(
    fit: Estimates, kind: ResidualKind = "raw", *, cluster: Cluster | None = None
) -> Residuals:
    """Residuals of a fit.

    Parameters
    ----------
    fit : RemlFit or Estimates
    kind : {"raw", "pearson", "standardized", "studentized_deleted"}, default "raw"
        ``"raw"``: e_i = y_i − x_i'β̂. ``"pearson"``: e_i / √(v_i + τ_i²). ``"standardized"``
        (internally): e_i / √((v_i + τ_i²)(1 − h_i)), metafor's ``rstandard``.
        ``"studentized_deleted"`` (externally): the study's distance from what the other studies
        predict of it, by an exact refit without it, divided by its standard error; metafor's
        ``rstudent``, which metafor refuses for location-scale fits. With several scale terms the
        variance of a row is Σ_ii, and whole clusters are left out.
    cluster : str or sequence of length n, optional
        Of a fit of several scale terms: what is left out, see `influence`.

    Returns
    -------
    Residuals

    Raises
    ------
    FitError
        For an unknown kind.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", scale="~ ablat", variance="vi", study="trial",
    ...     data=lsm.load_dataset("bcg")).fit_reml()
    >>> print(residuals(fit, "standardized").to_dataframe().round(2).head(3))
           resid    se     z
    study
    1       0.14  0.62  0.23
    2      -0.24  0.48 -0.49
    3      -0.38  0.69 -0.55

    References
    ----------
    Viechtbauer, W., & Cheung, M. W.-L. (2010). Outlier and influence diagnostics for meta-analysis.
    Research Synthesis Methods, 1(2), 112-125. doi:10.1002/jrsm.11
    """
    require_choice("kind", kind, ResidualKind)
    labels = fit.design.labels
    if not fit.design.is_independent:
        return _clustered_residuals(fit, kind, cluster)
    if cluster is not None:
        raise FitError("cluster is for fits of several scale terms; leave it out")
    if kind == "studentized_deleted":
        found = Refits(fit, progress=False)
        return Residuals(kind, labels, fit.design.y - found.predicted, found.residual_se)
    raw = _raw(fit)
    if kind == "raw":
        return Residuals(kind, labels, raw, np.full(len(raw), np.nan))
    variance = fit.design.v + fit.tau2
    if kind == "standardized":
        own = 1.0 - hat_values(fit)
        variance = variance * np.where(own > _ALL_ITS_OWN, own, np.nan)
    return Residuals(kind, labels, raw, np.sqrt(variance))


def _raw(fit: Estimates) -> Array:
    raw = fit.design.y - fitted_values(fit)
    return np.where(np.abs(raw) < _ROUNDING * np.abs(fit.design.y).max(), 0.0, raw)


def _clustered_residuals(fit: Estimates, kind: ResidualKind, cluster: Cluster | None) -> Residuals:
    from bayes_lsm.reml.diagnostics.clustered_influence import cluster_influence
    from bayes_lsm.reml.diagnostics.clustered_residuals import standard_errors

    labels, raw = fit.design.labels, _raw(fit)
    if kind == "studentized_deleted":
        found = cluster_influence(fit, cluster, progress=False)
        return Residuals(kind, labels, found.deleted_residual, found.deleted_residual_se)
    if kind == "raw":
        return Residuals(kind, labels, raw, np.full(len(raw), np.nan))
    total, own = standard_errors(fit)
    if kind == "pearson":
        return Residuals(kind, labels, raw, total)
    return Residuals(kind, labels, raw, np.where(own > _ALL_ITS_OWN * total, own, np.nan))


def fitted_values(fit: Estimates) -> Array:
    """What the location part predicts of each study, x_i'β̂ (k,).

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_reml()
    >>> fitted_values(fit)[:3].round(3)
    array([-1.029, -1.349, -0.971])
    """
    return np.asarray(fit.design.X @ fit.beta)


def hat_values(fit: Estimates) -> Array:
    """The share of each study's own effect in its fitted value (k,), the diagonal of H.

    They lie between 0 and 1 and add up to p.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_reml()
    >>> round(float(hat_values(fit).sum()), 9)
    2.0
    """
    if not fit.design.is_independent:
        from bayes_lsm.reml.diagnostics.clustered_residuals import clustered_hat_values

        return clustered_hat_values(fit)
    basis = estimate_location(fit.design.y, fit.design.v + fit.tau2, fit.design.X).basis
    return np.asarray(np.sum(basis**2, axis=1))


def weights(fit: Estimates) -> Array:
    """The weight of each study, 1/(v_i + τ_i²), in per cent of their sum (k,).

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg")).fit_reml()
    >>> weights(fit)[:3].round(2)
    array([5.06, 6.36, 4.44])
    """
    if not fit.design.is_independent:
        raise FitError("weights are of independent effects; see hat_values")
    inverse = 1.0 / (fit.design.v + fit.tau2)
    return np.asarray(100.0 * inverse / inverse.sum())


class Refits:
    """Exact refits with each study left out, and what they tell of that study.

    β and α are both estimated again. Up to 300 studies each refit is the same search for the
    highest point that `fit_reml` does. With more it is a climb from the estimate of all studies,
    which one study in hundreds does not move far; the search is done where the climb does not
    converge, where τ² runs to 0, and for the studies that move α most.

    Row i of each array is without study i; nan where the model cannot be fitted without it.

    Attributes
    ----------
    fit : RemlFit
        Of all k studies.
    beta : ndarray, shape (k, p)
    vcov : ndarray, shape (k, p, p)
    se_all : ndarray, shape (k, p)
        Standard errors of β if all k studies were there, with the τ² that the others give them.
    alpha, se_alpha : ndarray, shape (k, q)
    loglik : ndarray, shape (k,)
    tau2, own_tau2 : ndarray, shape (k,)
        Mean τ² of the k − 1 studies, and the τ² that they predict for the one left out.
    scaling : ndarray, shape (k,)
        Knapp and Hartung's factor; 1 without it.
    I2, H2, Q, Q_pval : ndarray, shape (k,)
    unfittable : dict of int to str
        Studies without which the model cannot be fitted, and why.
    diverging, unconverged : set of int
    searched : ndarray of bool, shape (k,)
    """

    def __init__(self, fit: Estimates, *, progress: bool) -> None:
        self.fit = fit
        k, p = fit.design.X.shape
        q = fit.design.Z.shape[1]
        self.beta, self.vcov = np.full((k, p), np.nan), np.full((k, p, p), np.nan)
        self.alpha, self.se_alpha = np.full((k, q), np.nan), np.full((k, q), np.nan)
        self.se_all = np.full((k, p), np.nan)
        one_each = [np.full(k, np.nan) for _ in range(8)]
        self.loglik, self.tau2, self.own_tau2, self.scaling = one_each[:4]
        self.I2, self.H2, self.Q, self.Q_pval = one_each[4:]
        self.searched = np.zeros(k, dtype=bool)
        self.diverging, self.unconverged = set[int](), set[int]()
        self.unfittable = dict(_unfittable(fit.design))
        self._climbs = _can_climb(fit)
        fittable = [i for i in range(k) if i not in self.unfittable]
        for i in _track(fittable, progress=progress):
            self._leave_out(i, search=not self._climbs)
        if self._climbs:
            shift = np.nan_to_num(fit.alpha - self.alpha, posinf=0.0, neginf=0.0)
            moved = np.linalg.norm(shift @ fit.design.Z.T, axis=1)
            for i in np.argsort(-moved)[:_SEARCHED]:
                if int(i) in fittable and not self.searched[i]:
                    self._leave_out(int(i), search=True)

    def _leave_out(self, i: int, *, search: bool) -> None:
        design = _without(self.fit.design, i)
        found = None if search else _climb(self.fit, design)
        self.searched[i] = found is None
        if found is None:
            try:
                found = _search(self.fit, design)
            except (BayesLsmError, np.linalg.LinAlgError) as error:
                self.unfittable[i] = str(error)
                return
        self._keep(i, found)

    def _keep(self, i: int, found: Estimates) -> None:
        design, rest = self.fit.design, found.design
        self.beta[i], self.vcov[i] = found.beta, found.vcov_location
        self.alpha[i], self.loglik[i] = found.alpha, found.loglik
        self.se_alpha[i] = np.where(
            np.isfinite(found.alpha), np.sqrt(np.diag(found.vcov_scale)), np.nan
        )
        self.tau2[i] = tau2 = float(np.mean(found.tau2))
        self.own_tau2[i] = own = _tau2_of(found, design.Z[i])
        typical = typical_sampling_variance(rest.v, rest.X)
        self.I2[i], self.H2[i] = 100 * tau2 / (tau2 + typical), tau2 / typical + 1
        self.Q[i], _, self.Q_pval[i] = cochran_q(rest)
        squares = (rest.y - rest.X @ found.beta) ** 2 / (rest.v + found.tau2)
        knha = found.test == "knha"
        self.scaling[i] = squares.sum() / (len(rest.y) - len(found.beta)) if knha else 1.0
        if not np.isnan(own):
            variance = design.v + np.insert(found.tau2, i, own)
            covariance = estimate_location(design.y, variance, design.X).covariance
            self.se_all[i] = np.sqrt(self.scaling[i] * np.diag(covariance))
        if found.divergence is not None:
            self.diverging.add(i)
        if not found.converged:
            self.unconverged.add(i)

    @property
    def predicted(self) -> Array:
        """What the others predict of each study (k,)."""
        return np.asarray(np.sum(self.fit.design.X * self.beta, axis=1))

    @property
    def residual_se(self) -> Array:
        """Standard error of each study's distance from it (k,); nan where its τ² is left open."""
        design = self.fit.design
        variance = self.scaling * (design.v + self.own_tau2)
        variance = variance + np.einsum("ij,ijk,ik->i", design.X, self.vcov, design.X)
        return np.sqrt(np.where(np.isfinite(variance), variance, np.nan))


def _without(design: Design, i: int) -> Design:
    return design.keep(np.arange(design.n_studies) != i)


def _search(fit: Estimates, design: Design) -> Estimates:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayesLsmWarning)
        return fit_reml(design, method=fit.method, test=fit.test, fixed=fit.fixed)


def _can_climb(fit: Estimates) -> bool:
    plain = fit.test == "z" and not fit.fixed and fit.design.specification.link == "log"
    interior = fit.divergence is None and fit.rival is None
    return plain and interior and fit.design.n_studies > _MANY_STUDIES


def _climb(fit: Estimates, design: Design) -> Estimates | None:
    """The refit by a climb from the estimate of all studies; None where a search is called for."""
    surface = Surface(design.y, design.v, design.X, design.Z, fit.method)
    (point,) = surface.climb([fit.alpha])
    if not point.converged or (point.tau2 < _VANISHED * design.v).any():
        return None
    alpha, vcov = point.alpha, point.covariance
    term = one_term(design, alpha, vcov, point.tau2, None, alpha, vcov, point.blind)
    return replace(
        fit,
        design=design,
        beta=point.beta,
        vcov_location=point.vcov_location,
        terms={term.term.name: term},
        vcov_terms=point.covariance,
        limit_vcov=point.covariance,
        loglik=point.value,
    )


def _unfittable(design: Design) -> Iterator[tuple[int, str]]:
    """Studies that a coefficient needs, and which."""
    k, p = design.X.shape
    q = design.Z.shape[1]
    if k - 1 <= max(p, q) or k - 1 < p + q:
        left = f"{k - 1} studies cannot carry {p} location and {q} scale coefficients"
        yield from ((i, left) for i in range(k))
        return
    leverages = [np.sum(np.linalg.qr(part)[0] ** 2, axis=1) for part in (design.X, design.Z)]
    for i in np.flatnonzero(np.maximum(*leverages) > _ALONE):
        rest = _without(design, int(i))
        try:
            check_columns("location", rest.location.names, rest.X)
            check_columns("scale", rest.scale.names, rest.Z)
        except BayesLsmError as error:
            yield int(i), str(error).split(";")[0]


def _tau2_of(fit: Estimates, z: Array) -> float:
    """τ² of a study with the scale moderators z (q,) that was not among those fitted.

    At a limit it is 0 where every direction of the divergence sends it there, inf where every one
    sends it to infinity, and nan where the data leave it open.
    """
    if fit.design.specification.link == "identity":
        value = float(z @ fit.alpha)
        return value if value >= 0 else np.nan
    if np.isfinite(fit.alpha).all():
        return float(tau2_from_log(np.atleast_1d(z @ fit.alpha))[0])
    from scipy.optimize import nnls

    names = fit.design.scale.names
    known = np.array([name in fit.fixed for name in names])
    held = np.where(known, fit.alpha, 0.0)
    Z, zero = fit.design.Z[:, ~known], fit.tau2 == 0
    back = np.linalg.inv(np.linalg.qr(Z, mode="r")) * np.sqrt(len(Z))
    rows, there = Z @ back, z[~known] @ back
    basis = np.eye(Z.shape[1])
    if not zero.all():
        sizes, directions = np.linalg.svd(np.linalg.qr(rows[~zero], mode="r"))[1:]
        basis = directions[int((sizes > _ZERO * sizes[0]).sum()) :].T
    ahead = there @ basis
    size = float(np.linalg.norm(ahead))
    if size <= _ZERO * max(1.0, float(np.linalg.norm(there))):
        log_tau2 = np.log(fit.tau2[~zero]) - fit.design.Z[~zero] @ held
        share = np.linalg.lstsq(rows[~zero].T, there, rcond=None)[0]
        return float(tau2_from_log(np.atleast_1d(share @ log_tau2 + z @ held))[0])
    gone = rows[zero] @ basis
    for sign, value in ((1.0, 0.0), (-1.0, np.inf)):
        if nnls(gone.T, sign * ahead, maxiter=100 * len(gone) + 1000)[1] < _ZERO * size:
            return value
    return np.nan


def _track(items: list[int], *, progress: bool) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import track

    # A refit takes 10 to 50 ms, so fewer are done before a bar could be read.
    hidden = not progress or len(items) < 50
    console = Console(stderr=True)
    yield from track(items, "Leaving studies out", console=console, disable=hidden, transient=True)
