r"""Cluster-robust covariances: standard errors that hold when the rows of a cluster are dependent.

Location. With W = Σ⁻¹, M = (X'WX)⁻¹, residuals e and clusters c that are independent of each other
under the model,

    V_β = M [ Σ_c X_c'W_c A_c e_c e_c' A_c' W_c X_c ] M

where A_c = I for CR0 and CR1, and for CR2 (Bell & McCaffrey 2002; Pustejovsky & Tipton 2018)
A_c = D_c' B_c^{−½} D_c with D_c'D_c = Σ_c and B_c = D_c (Σ_c − X_c M X_c') D_c', so that V_β is
unbiased if Σ is right. CR1 is CR0 times G/(G − p), G clusters, as in metafor's ``robust``.

Scale. The profile log-likelihood of α is a sum over clusters, ℓ_c(α, β̂(α)), and so is its score s_c
(`Likelihood.scores`, with REML's share of ln|X'WX|). Then

    V_α = (−H)⁻¹ [ Σ_c s_c s_c' ] (−H)⁻¹

with H the Hessian of the (restricted) log-likelihood. Under ML it is the α block of the sandwich of
the joint scores of (β, α). CR1 is CR0 times G/(G − 1). There is no CR2 for a score of τ²: with
``kind="CR2"`` the scale part has CR1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import fdtrc

from bayes_lsm.arrays import Array, Index
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_choice
from bayes_lsm.design.clusters import Cluster, Clusters, read_clusters, shared, sum_by_cluster
from bayes_lsm.design.coefficients import scale_places
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.protocol import Covariance
from bayes_lsm.reml.diagnostics.location_projection import LocationProjection, project
from bayes_lsm.reml.estimates import Estimates, by_grouping
from bayes_lsm.reml.wald import FTest, wald_table
from bayes_lsm.results import model_title
from bayes_lsm.tables import Printable

Kind = Literal["CR0", "CR1", "CR2"]

# Eigenvalues of B_c, relative to the largest possible, that are the rounding of 0.
_ZERO = 1e-12


@dataclass(frozen=True, eq=False)
class RobustFit(Printable):
    """A fit with cluster-robust covariances; the estimates are the fit's.

    Attributes
    ----------
    fit : RemlFit or Estimates
    kind : {"CR0", "CR1", "CR2"}
    n_clusters : int
        G.
    vcov_location : ndarray, shape (p, p)
    vcov_scale : ndarray, shape (q, q)
        Of the scale coefficients of all terms; nan where the fit has no covariance: for diverging,
        fixed and unidentified coefficients.
    df_location : ndarray, shape (p,)
        Degrees of freedom of the t-tests: G − p, or Satterthwaite's for CR2; inf for tests with the
        normal distribution.
    df_scale : ndarray, shape (q,)
        G − 1, or inf.
    """

    fit: Estimates
    kind: Kind
    n_clusters: int
    vcov_location: Array
    vcov_scale: Array
    df_location: Array
    df_scale: Array

    @property
    def design(self) -> Design:
        """The numbers that were fitted."""
        return self.fit.design

    @property
    def location(self) -> pd.DataFrame:
        """Location coefficients: estimate, se, tval, df, pval, ci_lb, ci_ub; one row a term."""
        names = self.design.location.names
        return _table(names, self.fit.beta, self.vcov_location, self.df_location)

    @property
    def scale(self) -> pd.DataFrame:
        """Scale coefficients of ln τ²: the same columns, one row a term.

        Indexed by grouping and term where there are several scale terms.
        """
        return by_grouping(self._scale_tables(), "term")

    def _scale_tables(self) -> dict[str, pd.DataFrame]:
        return {
            name: _table(each.term.names, each.shown, self.vcov_scale[at, at], self.df_scale[at])
            for (name, each), at in zip(self.fit.terms.items(), self.design.columns, strict=True)
        }

    @property
    def qm(self) -> FTest:
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
            return FTest(np.nan, len(tested), df2, np.nan)
        statistic = float(b @ np.linalg.solve(V, b)) / len(tested)
        return FTest(statistic, len(tested), df2, float(fdtrc(len(tested), df2, statistic)))

    def to_dataframe(self) -> pd.DataFrame:
        """All tables as one, indexed by part and term."""
        parts = {
            self.design.part_name("scale", self.fit.terms[name].term): table
            for name, table in self._scale_tables().items()
        }
        return pd.concat({"location": self.location, **parts}, names=["part", "term"])

    @property
    def title(self) -> str:
        """The kind of model, how it was fitted, and the clusters."""
        how = f"{self.fit.label}; {self.kind} in {self.n_clusters} clusters"
        return model_title(self.design, how)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""
        found = ["standard errors and tests are cluster-robust"]
        if self.kind == "CR2":
            found.append("CR2 is for the location part; the scale part has CR1")
        return (*found, *self.fit.notes)


def robust(
    fit: Estimates,
    cluster: Cluster | None = None,
    *,
    kind: Kind = "CR1",
    small_sample: bool = True,
) -> RobustFit:
    """Cluster-robust covariances of the location and the scale coefficients of a fit.

    Parameters
    ----------
    fit : RemlFit or Estimates
        With the log link.
    cluster : str or sequence of length n, optional
        The groups of a scale term, or the cluster of each row that was fitted: numbers or text,
        none missing. By default the outermost groups, which are the rows themselves where effects
        are independent (the covariance is then robust to their variances alone).
    kind : {"CR1", "CR2", "CR0"}, default "CR1"
        ``"CR0"``: without correction. ``"CR1"``: metafor's, times G/(G − p) for β, and G/(G − 1)
        for α. ``"CR2"``: bias-reduced, with Satterthwaite degrees of freedom, as clubSandwich; for
        β only, with CR1 for α.
    small_sample : bool, default True
        Tests and intervals with the t distribution; otherwise with the normal one.

    Returns
    -------
    RobustFit

    Raises
    ------
    FitError
        For clusters that are missing, that depend on each other under the model, or that are as few
        as the location coefficients; for an unknown kind; and for the identity link.

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
    require_choice("kind", kind, Kind)
    require_capable("robust", fit.design)
    p, q = len(fit.beta), len(fit.alpha)
    clusters = _independent_clusters(fit.design, cluster, p)
    G, code, projection = len(clusters), clusters.code, project(fit)
    e = fit.design.y - fit.design.X @ fit.beta
    if kind == "CR2":
        vcov_location, df = _cr2(projection, e, code)
    else:
        whitened = projection.basis * projection.covariance.whiten(e)[:, None]
        scores = sum_by_cluster(whitened, code) @ projection.back.T
        vcov_location, df = scores.T @ scores, np.full(p, float(G - p))
        vcov_location = vcov_location * (G / (G - p) if kind == "CR1" else 1.0)
    df_scale = np.full(q, float(G - 1))
    if not small_sample:
        df, df_scale = np.full(p, np.inf), np.full(q, np.inf)
    vcov_scale = (1.0 if kind == "CR0" else G / (G - 1)) * _scale_sandwich(fit, code)
    return RobustFit(fit, kind, G, vcov_location, vcov_scale, df, df_scale)


def _independent_clusters(design: Design, cluster: Cluster | None, p: int) -> Clusters:
    clusters = read_clusters(design, cluster)
    common = shared(design, clusters)
    if common:
        raise FitError(
            f"{common} lie in several clusters, so that the model itself makes these dependent; "
            "give coarser clusters"
        )
    if len(clusters) <= p:
        raise FitError(
            f"{len(clusters)} clusters are too few for {p} location coefficients; at least {p + 1} "
            "are needed"
        )
    return clusters


def _cr2(projection: LocationProjection, e: Array, code: Index) -> tuple[Array, Array]:
    """The bias-reduced covariance, and Satterthwaite degrees of freedom of each coefficient.

    With a_c = A_c W_c X_c M t for a coefficient t, the variance estimate is Σ_c (a_c'e_c)², a
    quadratic form in normal variables with the matrix P, P_cd = 1(c = d) a_c'Σ_c a_c − a_c'X_c M
    X_d'a_d, and df = (tr P)²/tr PP.
    """
    X, back = projection.fitted, projection.back  # in whose coordinates M is the identity
    pulls, own = np.empty_like(X), np.empty((int(code.max()) + 1, X.shape[1]))
    for members, rows, sigma in _stacks(projection.covariance, code):
        L, here = np.linalg.cholesky(sigma), X[rows]
        D = np.swapaxes(L, 1, 2)
        values, vectors = np.linalg.eigh(D @ (sigma - here @ np.swapaxes(here, 1, 2)) @ L)
        kept = values > _ZERO * np.linalg.eigvalsh(sigma)[:, -1:] ** 2
        roots = np.divide(1.0, np.sqrt(np.abs(values)), out=np.zeros_like(values), where=kept)
        half = (vectors * roots[:, None, :]) @ np.swapaxes(vectors, 1, 2)
        pull = L @ (half @ np.linalg.solve(L, here)) @ back.T
        pulls[rows], own[members] = pull, np.einsum("csi,cst,cti->ci", pull, sigma, pull)
    estimates = sum_by_cluster(pulls * e[:, None], code)
    df = np.empty(len(back))
    for j in range(len(df)):
        U = sum_by_cluster(pulls[:, [j]] * X, code)
        through = np.sum(U**2, axis=1)
        S = U.T @ U
        squared = np.sum(own[:, j] ** 2 - 2 * own[:, j] * through) + np.trace(S @ S)
        df[j] = (own[:, j].sum() - through.sum()) ** 2 / squared
    return estimates.T @ estimates, df


def _stacks(covariance: Covariance, code: Index) -> Iterator[tuple[Index, Index, Array]]:
    """Clusters of one size together: their numbers (m,), rows (m, s) and Σ (m, s, s)."""
    order = np.argsort(code, kind="stable")
    sizes = np.bincount(code)
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(code), dtype=np.intp)
    place[order] = np.arange(len(code)) - starts[code[order]]
    entries = covariance.matrix.tocoo()
    i, j = entries.coords
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        number = np.full(len(sizes), -1)
        number[members] = np.arange(len(members))
        here = (number[code[i]] >= 0) & (code[i] == code[j])
        sigma = np.zeros((len(members), size, size))
        sigma[number[code[i[here]]], place[i[here]], place[j[here]]] = entries.data[here]
        yield members, order[starts[members][:, None] + np.arange(size)], sigma


def _scale_sandwich(fit: Estimates, code: Index) -> Array:
    """(−H)⁻¹ Σ s s' (−H)⁻¹ of the scale coefficients of all terms.

    At a limit H and the scores are those of the effects that have a variance, and so hold for the
    coefficients that are finite there. Where a limit took correlated effects there is none: the
    correlations of the others are coefficients of another model.
    """
    covariance = np.full(fit.vcov_terms.shape, np.nan)
    given = np.flatnonzero(np.isfinite(np.diag(fit.limit_vcov)))
    if len(given) and len(fit.summit) == len(covariance):
        scores = fit.likelihood.scores(fit.summit, fit.method, code)
        pulled = scores[:, given] @ fit.limit_vcov[np.ix_(given, given)]
        covariance[np.ix_(given, given)] = pulled.T @ pulled
        covariance[np.isnan(fit.vcov_terms)] = np.nan
    places = scale_places(fit.design)
    return covariance[np.ix_(places, places)]


def _table(names: Sequence[str], estimate: Array, covariance: Array, df: Array) -> pd.DataFrame:
    """Estimates with t tests of their own degrees of freedom; with the normal one where inf."""
    given = np.where(covariance == 0, np.nan, covariance)  # no variance is no standard error
    return wald_table(names, estimate, given, df=None if np.isinf(df).all() else df)
