r"""Cluster-robust covariances: standard errors that hold when the rows of a cluster are dependent.

Location. With M = (X'WX)⁻¹, W = diag(1/(v + τ²)), residuals e and rows in clusters c,

    V_β = M [ Σ_c X_c'W_c A_c e_c e_c' A_c' W_c X_c ] M

where A_c = I for CR0 and CR1, and for CR2 (Bell & McCaffrey 2002; Pustejovsky & Tipton 2018)
A_c = D_c B_c^{−½} D_c with D_c = Φ_c^{½}, Φ = W⁻¹ and B_c = D_c (Φ_c − X_c M X_c') D_c, so that V_β
is unbiased if Φ is right. CR1 is CR0 times G/(G − p), G clusters, as in metafor's ``robust``.

Scale. The profile log-likelihood of α is a sum over studies, ℓ_i(α, β̂(α)), and so is its score.
With u_i = w_i e_i, f_i = dτ_i²/d(z_i'α) = τ_i² and dβ̂/dα = M B', B = −Σ_i f_i w_i u_i z_i x_i',

    s_i = ½ f_i (u_i² − w_i + w_i h_i) z_i  +  B M x_i u_i

where the term w_i h_i, the study's part of d ln|X'WX|/dα, is REML's alone. The second term is what
β̂ passes on; it adds up to 0 over all studies but not over a cluster. Then

    V_α = (−H)⁻¹ [ Σ_c s_c s_c' ] (−H)⁻¹,    s_c = Σ_{i in c} s_i

with H the Hessian of the (restricted) log-likelihood. Under ML it is the α block of the sandwich of
the joint scores of (β, α). CR1 is CR0 times G/(G − 1). There is no CR2 for a score of τ²: with
``kind="CR2"`` the scale part has CR1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import fdtrc, ndtr, ndtri, stdtr, stdtrit

from bayes_lsm.choices import require_choice
from bayes_lsm.design.clusters import Cluster
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.rows.closed_form import estimate_location, evaluate
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.results import model_title, stack_parts
from bayes_lsm.specification import Method
from bayes_lsm.tables import Printable

if TYPE_CHECKING:
    from bayes_lsm.reml.diagnostics.clustered_residuals import ClusteredRobustFit

Array = npt.NDArray[np.float64]
Kind = Literal["CR0", "CR1", "CR2"]

# Eigenvalues of B_c, relative to the largest possible, that are the rounding of 0.
_ZERO = 1e-12


@dataclass(frozen=True)
class RobustTest:
    """An F test of all location moderators; it unpacks as statistic, df, df2, pval."""

    statistic: float
    df: int
    df2: int
    pval: float

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter((self.statistic, self.df, self.df2, self.pval))


@dataclass(frozen=True, eq=False)
class ClusterRobust[Fit: Estimates](Printable):
    """What robust fits of one and of several scale terms share; the estimates are the fit's.

    Attributes
    ----------
    fit : RemlFit or Estimates
    kind : {"CR0", "CR1", "CR2"}
    n_clusters : int
        G.
    vcov_location : ndarray, shape (p, p)
    vcov_scale : ndarray, shape (q, q)
        nan where the fit has no covariance: for diverging, fixed and unidentified coefficients.
    df_location : ndarray, shape (p,)
        Degrees of freedom of the t-tests: G − p, or Satterthwaite's for CR2; inf for tests with the
        normal distribution.
    df_scale : ndarray, shape (q,)
        G − 1, or inf.
    """

    fit: Fit
    kind: Kind
    n_clusters: int
    vcov_location: Array
    vcov_scale: Array
    df_location: Array
    df_scale: Array

    @property
    def location(self) -> pd.DataFrame:
        """Location coefficients: estimate, se, tval, df, pval, ci_lb, ci_ub; one row a term."""
        names = self.fit.design.location.names
        return t_table(names, self.fit.beta, self.vcov_location, self.df_location)

    @property
    def title(self) -> str:
        """The kind of model, how it was fitted, and the clusters."""
        how = f"{self.fit.label}; {self.kind} in {self.n_clusters} clusters"
        return model_title(self.fit.design, how)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""
        found = ["standard errors and tests are cluster-robust"]
        if self.kind == "CR2":
            found.append("CR2 is for the location part; the scale part has CR1")
        return (*found, *self.fit.notes)


@dataclass(frozen=True, eq=False)
class RobustFit(ClusterRobust[Estimates]):
    """A fit with cluster-robust covariances; see `ClusterRobust` for its numbers."""

    @property
    def design(self) -> Design:
        """The numbers that were fitted."""
        return self.fit.design

    @property
    def scale(self) -> pd.DataFrame:
        """Scale coefficients of ln τ²: the same columns, one row a term."""
        return t_table(self.design.scale.names, self.fit.alpha, self.vcov_scale, self.df_scale)

    @property
    def qm(self) -> RobustTest:
        """F test of all location moderators (of the intercept, when there are none), as metafor.

        With G − p denominator degrees of freedom, for CR0 and CR1; nan for CR2, whose tests have
        degrees of freedom of their own.
        """
        names = self.design.location.names
        tested = [j for j, name in enumerate(names) if name != "intrcpt"] or [0]
        df2 = self.n_clusters - len(names)
        b, V = self.fit.beta[tested], self.vcov_location[np.ix_(tested, tested)]
        # Fewer clusters than moderators would leave V singular.
        if self.kind == "CR2" or self.n_clusters <= len(tested):
            return RobustTest(np.nan, len(tested), df2, np.nan)
        statistic = float(b @ np.linalg.solve(V, b)) / len(tested)
        return RobustTest(statistic, len(tested), df2, float(fdtrc(len(tested), df2, statistic)))

    def to_dataframe(self) -> pd.DataFrame:
        """Both tables as one, indexed by part and term."""
        return stack_parts(self.location, self.scale)


def robust(
    fit: Estimates,
    cluster: Cluster | None = None,
    *,
    kind: Kind = "CR1",
    small_sample: bool = True,
) -> RobustFit | ClusteredRobustFit:
    """Cluster-robust covariances of the location and the scale coefficients of a fit.

    Parameters
    ----------
    fit : RemlFit or Estimates
        With the log link.
    cluster : sequence of length k
        The cluster of each row that was fitted: numbers or text, none missing. With several scale
        terms also the grouping of one of them; by default the outermost groups.
    kind : {"CR1", "CR2", "CR0"}, default "CR1"
        ``"CR0"``: without correction. ``"CR1"``: metafor's, times G/(G − p) for β, and G/(G − 1)
        for α. ``"CR2"``: bias-reduced, with Satterthwaite degrees of freedom, as clubSandwich; for
        β only, with CR1 for α.
    small_sample : bool, default True
        Tests and intervals with the t distribution; otherwise with the normal one.

    Returns
    -------
    RobustFit or ClusteredRobustFit

    Raises
    ------
    FitError
        For clusters that are missing or as few as the location coefficients, for an unknown kind,
        and for the identity link.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> data = lsm.load_dataset("bangertdrowns2004")
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ I(ni / 100)", scale="~ I(ni / 100)", variance="vi", data=data).fit_reml()
    >>> print(robust(fit, data["author"]).location.round(3))
                 estimate     se   tval    df   pval  ci_lb  ci_ub
    term
    intrcpt         0.302  0.064  4.695  43.0  0.000  0.172  0.431
    I(ni / 100)    -0.055  0.016 -3.511  43.0  0.001 -0.087 -0.024

    References
    ----------
    Pustejovsky, J. E., & Tipton, E. (2018). Small-sample methods for cluster-robust variance
    estimation and hypothesis testing in fixed effects models. Journal of Business & Economic
    Statistics, 36(4), 672-683. doi:10.1080/07350015.2016.1247004
    """
    if not fit.design.is_independent:
        from bayes_lsm.reml.diagnostics.clustered_residuals import clustered_robust

        return clustered_robust(fit, cluster, kind=kind, small_sample=small_sample)
    design = fit.design
    require_choice("kind", kind, Kind)
    if design.specification.link != "log":
        raise FitError("robust covariances are for the log link; fit the model with link='log'")
    groups, G = _groups(design, cluster)
    p, q = design.X.shape[1], design.Z.shape[1]
    if kind == "CR2":
        vcov_location, df = _cr2(fit, groups, G)
    else:
        factor = G / (G - p) if kind == "CR1" else 1.0
        vcov_location, df = factor * _cr0(fit, groups, G), np.full(p, float(G - p))
    factor = 1.0 if kind == "CR0" else G / (G - 1)
    df_scale = np.full(q, float(G - 1))
    if not small_sample:
        df, df_scale = np.full(p, np.inf), np.full(q, np.inf)
    vcov_scale = factor * _scale_sandwich(fit, groups, G)
    return RobustFit(fit, kind, G, vcov_location, vcov_scale, df, df_scale)


def _groups(design: Design, cluster: Cluster | None) -> tuple[npt.NDArray[np.intp], int]:
    """Clusters as 0, 1, … of each row, and their number."""
    k, p = design.X.shape
    if cluster is None:
        raise FitError(f"cluster must hold the cluster of each of the {k} rows; give one")
    if isinstance(cluster, str):
        raise FitError(
            f"cluster must hold the cluster of each of the {k} rows, got the text {cluster!r}; "
            f"pass the column itself: data[{cluster!r}]"
        )
    codes, names = pd.factorize(np.asarray(cluster, dtype=object))
    if len(codes) != k:
        dropped = len(design.dropped)
        cure = (
            f"; {dropped} rows of the data were left out, leave theirs out too" if dropped else ""
        )
        raise FitError(f"cluster must have one value for each of {k} rows, got {len(codes)}{cure}")
    if (codes < 0).any():
        row = design.labels[int(np.flatnonzero(codes < 0)[0])]
        raise FitError(f"cluster has no value for {row}; give each row one")
    if len(names) <= p:
        raise FitError(
            f"{len(names)} clusters are too few for {p} location coefficients; at least {p + 1} "
            "are needed"
        )
    return codes, len(names)


def _sums(values: Array, groups: npt.NDArray[np.intp], G: int) -> Array:
    """Sums of the rows of `values` (k, m) over clusters (G, m)."""
    sums = np.zeros((G, values.shape[1]))
    np.add.at(sums, groups, values)
    return sums


def _cr0(fit: Estimates, groups: npt.NDArray[np.intp], G: int) -> Array:
    whitened = _whiten(fit)
    scores = _sums(whitened.residuals[:, None] * whitened.basis, groups, G) @ whitened.back.T
    return np.asarray(scores.T @ scores)


class _Whitened(NamedTuple):
    """W^½X = Q R: sums over Q (k, p) keep the digits that those over X lose in extreme units.

    `residuals` are W^½e (k,), and `back` is R⁻¹ (p, p), so that X = W^-½ Q R and M = R⁻¹R⁻ᵀ.
    """

    basis: Array
    residuals: Array
    back: Array


def _whiten(fit: Estimates) -> _Whitened:
    design = fit.design
    variance = design.v + fit.tau2
    location = estimate_location(design.y, variance, design.X)
    root = np.sqrt(variance)
    Q = location.basis
    R = np.triu(Q.T @ (design.X / root[:, None]))
    return _Whitened(Q, location.residuals / root, np.linalg.solve(R, np.eye(len(R))))


def _cr2(fit: Estimates, groups: npt.NDArray[np.intp], G: int) -> tuple[Array, Array]:
    """The bias-reduced covariance, and Satterthwaite degrees of freedom of each coefficient.

    With a_c = A_c W_c X_c M t for a coefficient t, the variance estimate is Σ_c (a_c'e_c)², a
    quadratic form in normal variables with the matrix P, P_cd = 1(c = d) a_c'Φ_c a_c − a_c'X_c M
    X_d'a_d, and df = (tr P)²/tr PP.
    """
    variance = fit.design.v + fit.tau2
    root = np.sqrt(variance)[:, None]
    whitened = _whiten(fit)
    e = whitened.residuals * root[:, 0]
    X = whitened.basis * root  # in whose coordinates M is the identity
    pulls = (whitened.basis / root) @ whitened.back.T
    adjusted = np.empty_like(pulls)
    order = np.argsort(groups, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(groups, minlength=G))[:-1]):
        D = np.sqrt(variance[rows])
        B = D[:, None] * (np.diag(variance[rows]) - X[rows] @ X[rows].T) * D
        values, vectors = np.linalg.eigh(B)
        kept = values > _ZERO * np.max(D) ** 4
        half = (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
        adjusted[rows] = D[:, None] * (half @ (D[:, None] * pulls[rows]))
    estimates = _sums(adjusted * e[:, None], groups, G)
    own = _sums(adjusted**2 * variance[:, None], groups, G)
    df = np.empty(len(whitened.back))
    for j in range(len(df)):
        U = _sums(adjusted[:, [j]] * X, groups, G)
        through = np.sum(U**2, axis=1)
        S = U.T @ U
        squared = np.sum(own[:, j] ** 2 - 2 * own[:, j] * through) + np.trace(S @ S)
        df[j] = (own[:, j].sum() - through.sum()) ** 2 / squared
    return estimates.T @ estimates, df


def score_contributions(
    fit_tau2: Array, y: Array, v: Array, X: Array, Z: Array, *, method: Method
) -> Array:
    """Each study's part of the score of α (k, q); at a maximum they add up to 0.

    Parameters
    ----------
    fit_tau2 : ndarray, shape (k,)
        τ² of each study, ln τ² = Zα; studies with τ² = 0 contribute through β̂ only.
    y, v : ndarray, shape (k,)
    X : ndarray, shape (k, p)
    Z : ndarray, shape (k, q)
    method : {"REML", "ML"}
    """
    variance = v + fit_tau2
    location = estimate_location(y, variance, X)
    w = 1.0 / variance
    u = w * location.residuals
    h = np.sum(location.basis**2, axis=1) if method == "REML" else 0.0
    own = 0.5 * (fit_tau2 * (u**2 - w + w * h))[:, None] * Z
    # With X in the coordinates W^-½Q, in which (X'WX)⁻¹ is the identity.
    X = location.basis * np.sqrt(variance)[:, None]
    B = -(Z.T * (fit_tau2 * w * u)) @ X
    passed_on = (u[:, None] * X) @ B.T
    return np.asarray(own + passed_on)


def _scale_sandwich(fit: Estimates, groups: npt.NDArray[np.intp], G: int) -> Array:
    """(−H)⁻¹ Σ s s' (−H)⁻¹ on the user's coefficients.

    It is computed for coefficients γ of an orthonormal basis of Z in the studies with τ² > 0, and
    then read for α: so it holds at a limit too, for the coefficients that are finite there.
    """
    design = fit.design
    q = design.Z.shape[1]
    covariance = np.full((q, q), np.nan)
    given = np.isfinite(np.diag(fit.vcov_scale)) & np.isfinite(fit.alpha)
    estimated = [j for j, name in enumerate(design.scale.names) if name not in fit.fixed]
    free = fit.tau2 > 0
    if not given.any():
        return covariance
    left, sizes, right = np.linalg.svd(_scaled(design.Z[np.ix_(free, estimated)]), False)
    rank = int((sizes > 1e-9 * sizes[0]).sum())
    basis = np.zeros((design.n_studies, rank))
    basis[free] = left[:, :rank]
    log_tau2 = np.log(np.where(free, fit.tau2, 1.0))
    scores = score_contributions(fit.tau2, design.y, design.v, design.X, basis, method=fit.method)
    # The estimated ln τ² is one more column, with the coefficient 1; the others have 0 then.
    gamma = np.concatenate([np.zeros(rank), [1.0]])
    here = evaluate(
        gamma,
        design.y,
        design.v,
        design.X,
        np.column_stack([basis, log_tau2]),
        method=fit.method,
        zero=~free,
    )
    bread = np.linalg.pinv(-here.hessian[:rank, :rank], rcond=1e-12, hermitian=True)
    pulled = _sums(scores, groups, G) @ bread
    back = (right[:rank].T / sizes[:rank]) / _lengths(design.Z[np.ix_(free, estimated)])[:, None]
    full = back @ (pulled.T @ pulled) @ back.T
    covariance[np.ix_(estimated, estimated)] = full
    covariance[~given, :] = covariance[:, ~given] = np.nan
    return covariance


def _lengths(Z: Array) -> Array:
    """Lengths of the columns; 1 for a column of zeros."""
    lengths = np.linalg.norm(Z, axis=0)
    return np.where(lengths > 0, lengths, 1.0)


def _scaled(Z: Array) -> Array:
    return np.asarray(Z / _lengths(Z))


def t_table(names: Sequence[str], estimate: Array, covariance: Array, df: Array) -> pd.DataFrame:
    """Estimates with t tests of their own degrees of freedom; with the normal one where inf."""
    variances = np.diag(covariance)
    se = np.sqrt(np.where(variances > 0, variances, np.nan))
    ratio = np.where(np.isfinite(estimate), estimate, np.nan) / se
    if np.isinf(df).all():
        test = {"zval": ratio}
        pval, quantile = 2 * ndtr(-np.abs(ratio)), np.full(len(df), ndtri(0.975))
    else:
        test = {"tval": ratio, "df": df}
        pval, quantile = 2 * stdtr(df, -np.abs(ratio)), stdtrit(df, 0.975)
    bounds = np.where(np.isfinite(se), estimate, np.nan)
    ends = {"ci_lb": bounds - quantile * se, "ci_ub": bounds + quantile * se}
    table = {"estimate": estimate, "se": se, **test, "pval": pval, **ends}
    return pd.DataFrame(table, index=pd.Index(names, name="term"))
