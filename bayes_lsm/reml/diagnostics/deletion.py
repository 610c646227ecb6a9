r"""Refits without each cluster of rows, and what they say of the rows that are left out.

β and α are both estimated again. With up to 300 clusters each refit is the same search for the
highest point that `fit_reml` does. With more it is a climb from the estimate of all, which one
cluster in hundreds does not move far; the search is done where the climb does not converge, where a
variance runs to 0, and for the clusters that move α most.

With estimates (c) without cluster c, X_c its rows, and Σ(c) the covariance of all rows that the
others' variances give them (times Knapp and Hartung's factor, where the fit tests with it),

    deleted residuals  e = y_c − X_cβ̂_(c),  Ω = Σ_cc(c) + X_cV_(c)X_c',  z = e / √diag Ω
    their χ²           e'Ω⁻¹e
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from bayes_lsm.arrays import Array, Mask
from bayes_lsm.design.clusters import Cluster, Clusters, read_clusters
from bayes_lsm.design.coefficients import scale_places
from bayes_lsm.design.columns import check_columns
from bayes_lsm.design.coordinates import unit_steps
from bayes_lsm.design.design import Design, check_size
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import BayesLsmError, DataError
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.likelihood.typical_variance import typical_variance
from bayes_lsm.links import tau2_from_log
from bayes_lsm.progress import track
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.method import require_informed
from bayes_lsm.reml.search.maximum import maximise
from bayes_lsm.reml.term_estimate import TermEstimate
from bayes_lsm.reml.uninformed import depends, mean_of_known
from bayes_lsm.reml.wald import cochran_q

# With more clusters than this, most refits are climbs from the estimate of all.
_MANY = 300
# That many of the clusters that move α most are searched all the same.
_SEARCHED = 20
# Share of a row's variance below which an effect may be on its way to a limit, where only a search
# can tell.
_VANISHED = 1e-6
# Information on a combination of ln τ² (SE 10,000) below which there is none.
_NO_INFORMATION = 1e-8
# A refit takes 10 to 50 ms, so fewer are done before a bar could be read.
_SOON = 50


@dataclass(frozen=True, eq=False)
class Deletions:
    """Refits without each of G clusters; a row is nan where the model needs the cluster.

    Attributes
    ----------
    fit : RemlFit or Estimates
        Of all rows.
    clusters : Clusters
    beta, se_beta : ndarray, shape (G, p)
    vcov : ndarray, shape (G, p, p)
        Of β.
    se_all : ndarray, shape (G, p)
        Standard errors of β if all rows were there, with the variances that the others give them.
    alpha, se_alpha : ndarray, shape (G, q)
        Scale coefficients of all terms; ±inf, without a standard error, where the refit diverges.
    df_location, df_scale : ndarray, shape (G,)
        Degrees of freedom of t-tests; nan for the normal distribution.
    loglik : ndarray, shape (G,)
    tau2 : ndarray, shape (G,)
        Mean τ² of the rows that are left.
    tau2_change : ndarray, shape (G,)
        Mean τ² of those rows as estimated with the cluster, less `tau2`.
    I2, H2 : ndarray, shape (G,)
        At `tau2`, with the typical sampling variance; I² in per cent. nan for individual data.
    Q, Q_pval : ndarray, shape (G,)
        Cochran's Q of the rows that are left; nan for individual data.
    own_tau2 : ndarray, shape (n,)
        Each row's τ² as the other clusters predict it: inf or nan where they leave it open.
    residual, residual_se : ndarray, shape (n,)
        Distance of each row from what the other clusters predict, and its standard error; the
        latter is nan where they leave the row's τ² open.
    spread : ndarray, shape (n,)
        The variance of each row that the other clusters predict, with Knapp and Hartung's factor.
    chi2 : ndarray, shape (G,)
        Of the cluster's deleted residuals.
    unfittable : tuple of Unfittable
    diverging : tuple of str
        Clusters without which α has no finite estimate.
    unconverged : tuple of str
        Clusters without which the optimiser did not converge.
    searched : ndarray of bool, shape (G,)
        Which refits searched for the highest point, rather than climbed from the full estimate.
    """

    fit: Estimates
    clusters: Clusters
    beta: Array
    se_beta: Array
    vcov: Array
    se_all: Array
    alpha: Array
    se_alpha: Array
    df_location: Array
    df_scale: Array
    loglik: Array
    tau2: Array
    tau2_change: Array
    I2: Array
    H2: Array
    Q: Array
    Q_pval: Array
    own_tau2: Array
    residual: Array
    residual_se: Array
    spread: Array
    chi2: Array
    unfittable: tuple[Unfittable, ...]
    diverging: tuple[str, ...]
    unconverged: tuple[str, ...]
    searched: Mask


@dataclass(frozen=True)
class Unfittable:
    """A cluster without which the model cannot be fitted, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class _Without:
    """What one refit says: numbers and vectors as in `Deletions`, the last of each row left out."""

    beta: Array
    se_beta: Array
    vcov: Array
    se_all: Array
    alpha: Array
    se_alpha: Array
    df_location: float
    df_scale: float
    loglik: float
    tau2: float
    tau2_change: float
    I2: float
    H2: float
    Q: float
    Q_pval: float
    chi2: float
    diverges: bool
    converged: bool
    searched: bool
    own_tau2: Array
    residual: Array
    residual_se: Array
    spread: Array


_FLAGS = ("diverges", "converged", "searched")
_OF_ROWS = ("own_tau2", "residual", "residual_se", "spread")


def delete(fit: Estimates, cluster: Cluster | None = None, *, progress: bool = False) -> Deletions:
    """Refit without each cluster, of which `read_clusters` says what they can be.

    The refits have the fit's method, test and fixed coefficients. (Bounds on α are not known to a
    fit, and are not kept.) With many clusters a progress bar may be shown on standard error.
    """
    clusters = read_clusters(fit.design, cluster)
    found, reasons = dict[int, _Without](), dict[int, str]()

    def leave_out(c: int, *, search: bool) -> None:
        try:
            found[c] = _leave_out(fit, clusters.code != c, search=search)
        except (BayesLsmError, np.linalg.LinAlgError) as error:
            reasons[c] = str(error).split(";")[0]

    climbs = len(clusters) > _MANY and _is_interior(fit)
    bar = progress and len(clusters) >= _SOON
    for c in track(range(len(clusters)), f"Leaving each {clusters.unit} out", progress=bar):
        leave_out(c, search=not climbs)
    if climbs:
        for c in _farthest(fit, found):
            leave_out(c, search=True)
    names = clusters.names
    return Deletions(
        fit=fit,
        clusters=clusters,
        unfittable=tuple(Unfittable(names[c], reasons[c]) for c in sorted(reasons)),
        diverging=tuple(names[c] for c in sorted(found) if found[c].diverges),
        unconverged=tuple(names[c] for c in sorted(found) if not found[c].converged),
        searched=np.array([c not in found or found[c].searched for c in range(len(clusters))]),
        **_stack(fit, clusters, found),
    )


def _stack(fit: Estimates, clusters: Clusters, found: dict[int, _Without]) -> dict[str, Array]:
    """The numbers of all refits, beside each other."""
    p, q = len(fit.beta), len(fit.alpha)
    lengths: dict[str, tuple[int, ...]] = dict.fromkeys(("beta", "se_beta", "se_all"), (p,))
    lengths |= {"vcov": (p, p), "alpha": (q,), "se_alpha": (q,)}
    arrays = {}
    for name in (each.name for each in fields(_Without) if each.name not in _FLAGS):
        of_rows = name in _OF_ROWS
        shape = clusters.code.shape if of_rows else (len(clusters), *lengths.get(name, ()))
        arrays[name] = np.full(shape, np.nan)
        for c, each in found.items():
            arrays[name][clusters.code == c if of_rows else c] = getattr(each, name)
    return arrays


def _farthest(fit: Estimates, found: dict[int, _Without]) -> list[int]:
    """The clusters that move ln τ² most, of those that were not searched."""
    forth = np.linalg.inv(unit_steps(fit.design))[:, scale_places(fit.design)]
    moved = {
        c: float(np.linalg.norm(forth @ (fit.alpha - each.alpha)))
        for c, each in found.items()
        if not each.searched
    }
    return sorted(moved, key=lambda c: -moved[c])[:_SEARCHED]


def _leave_out(fit: Estimates, kept: Mask, *, search: bool) -> _Without:
    rest = _rest(fit, kept)
    climbed = None if search else _climb(fit, rest)
    refit = _search(fit, rest) if climbed is None else climbed
    own_tau2, sigma, se_all = _predicted_errors(fit.design, refit, kept)
    factor = 1.0
    if fit.test == "knha":
        factor = refit.knapp_hartung
        refit = replace(refit, vcov_location=factor * refit.vcov_location)
    rows = np.flatnonzero(~kept)
    X = fit.design.X[rows]
    residual = fit.design.y[rows] - X @ refit.beta
    omega = factor * sigma + X @ refit.vcov_location @ X.T
    omega[depends(X, refit.blind_location)] = np.nan
    known = np.isfinite(omega).all()
    left = _known_tau2(refit)
    tau2, change = mean_of_known(left), mean_of_known(_known_tau2(fit)[kept] - left)
    df_location, df_scale = refit.df_location, refit.df_scale
    return _Without(
        beta=refit.beta,
        se_beta=np.sqrt(np.diag(refit.known_vcov_location)),
        vcov=refit.known_vcov_location,
        se_all=np.sqrt(factor) * se_all,
        alpha=refit.alpha,
        se_alpha=np.sqrt(np.diag(refit.vcov_scale)),
        df_location=np.nan if df_location is None else df_location,
        df_scale=np.nan if df_scale is None else df_scale,
        loglik=refit.loglik,
        tau2=tau2,
        tau2_change=change,
        **_heterogeneity(rest, tau2),
        chi2=float(residual @ np.linalg.solve(omega, residual)) if known else np.nan,
        diverges=refit.divergence is not None,
        converged=refit.converged,
        searched=climbed is None,
        own_tau2=own_tau2,
        residual=residual,
        residual_se=np.sqrt(np.diag(omega)),
        spread=factor * np.diag(sigma),
    )


def _known_tau2(fit: Estimates) -> Array:
    """τ² of each row, nan where the data say nothing of it.

    What has vanished is known to be next to nothing, however flat the likelihood is there.
    """
    vanished = fit.tau2 < _VANISHED * (fit.design.v + fit.tau2)
    return np.where(fit.is_known | vanished, fit.tau2, np.nan)


def _heterogeneity(rest: Design, tau2: float) -> dict[str, float]:
    """I², H² and Cochran's Q; nan for individual data, which have no sampling variances."""
    if not (rest.v > 0).all():
        return dict.fromkeys(("I2", "H2", "Q", "Q_pval"), np.nan)
    typical, (Q, _, pval) = typical_variance(rest), cochran_q(rest)
    return {"I2": 100 * tau2 / (tau2 + typical), "H2": tau2 / typical + 1, "Q": Q, "Q_pval": pval}


def _predicted_errors(design: Design, refit: Estimates, kept: Mask) -> tuple[Array, Array, Array]:
    """What a refit says of the errors of the r rows left out, and of β if they were there.

    Their τ² (r,), their covariance (r, r), nan in the rows whose τ² is left open, and SEs of β
    (p,).
    """
    rows = np.flatnonzero(~kept)
    terms = list(zip(refit.terms.values(), design.terms, strict=True))
    tau2 = [_tau2_everywhere(refit, each, term, kept) for each, term in terms]
    own_tau2 = np.sum(
        [
            each.variances_at(term.slopes[rows], values[term.index[rows]])
            for (each, term), values in zip(terms, tau2, strict=True)
        ],
        axis=0,
    )
    is_open = ~np.isfinite(own_tau2)
    covariance = likelihood_of(design).covariance(
        [np.where(np.isfinite(values), values, 0.0) for values in tau2],
        [each.correlation for each, _ in terms],
    )
    sigma = covariance.matrix[rows][:, rows].toarray()
    sigma[is_open, :] = sigma[:, is_open] = np.nan
    R = np.linalg.qr(covariance.whiten(design.X), mode="r")
    se_all = np.linalg.norm(np.linalg.inv(R), axis=1)
    if np.isinf(own_tau2).all() and len(rows) == 1:
        # A row of infinite variance has no weight.
        se_all = np.sqrt(np.diag(refit.vcov_location))
    elif is_open.any():
        se_all = np.full(len(R), np.nan)
    se_all[depends(np.eye(len(R)), refit.blind_location)] = np.nan
    return own_tau2, sigma, se_all


def _tau2_everywhere(refit: Estimates, each: TermEstimate, term: ScaleTerm, kept: Mask) -> Array:
    """τ² of all groups (G, s) of a term of all rows, those that a refit had no row of included."""
    groups = np.unique(term.index[kept])
    used = np.zeros(term.Z.shape[:2], dtype=bool)
    used[groups] = each.term.used
    tau2 = np.zeros(used.shape)
    tau2[groups] = each.tau2
    if refit.design.specification.link == "identity":
        predicted = term.Z[~used] @ each.alpha
        tau2[~used] = np.where(predicted >= 0, predicted, np.nan)
    else:
        tau2[~used] = each.tau2_at(term.Z[~used])
    return tau2


def _rest(fit: Estimates, kept: Mask) -> Design:
    """The same model of the rows `kept` (n,).

    An error when they cannot carry it: too few groups or rows, or a coefficient that they leave
    open.
    """
    rest = fit.design.keep(kept)
    check_size(rest)
    check_columns("location", rest.location.names, rest.X)
    for term in rest.terms:
        used = term.used
        if len(term.groups) < 2:
            raise DataError(f"the scale term {term.name!r} has one group")
        for effect, is_used in zip(term.effects, used.any(axis=0), strict=True):
            if not is_used:
                raise DataError(f"no row is left with the effect {effect!r} of {term.name!r}")
        check_columns(rest.part_name("scale", term), term.names, term.Z[used])
    require_informed(rest, fit.method)
    return rest


def _search(fit: Estimates, rest: Design) -> Estimates:
    """The refit by a search for the highest point."""
    found = maximise(rest, fit.method, fixed=fit.fixed)
    return replace(found, test=fit.test, fixed=fit.fixed)


def _is_interior(fit: Estimates) -> bool:
    """Whether a climb from the estimate can be trusted to end at the maximum of similar data."""
    held = fit.divergence or fit.at_bound or fit.has_border or fit.uninformed
    return fit.design.specification.link == "log" and fit.rival is None and not held


def _climb(fit: Estimates, rest: Design) -> Estimates | None:
    """The refit by a climb from the estimate of all; None where a search is called for."""
    held = fit.is_fixed
    end = likelihood_of(rest).climb(fit.summit[None], fit.method, held=held)
    names = [name in fit.fixed for name in fit.scale_names]
    back = unit_steps(rest.without(scale=np.flatnonzero(names).tolist()))
    hessian = end.hessian[0][np.ix_(~held, ~held)]
    values, vectors = np.linalg.eigh(-back.T @ hessian @ back)
    if not end.converged[0] or (values < _NO_INFORMATION).any():
        return None
    axes = back @ vectors
    vcov = np.full((len(held), len(held)), np.nan)
    vcov[np.ix_(~held, ~held)] = (axes / values) @ axes.T
    found = replace(
        fit,
        design=rest,
        beta=end.beta[0],
        vcov_location=end.covariance[0],
        terms=_terms(fit, rest, end.alpha[0], vcov),
        vcov_terms=vcov,
        limit_vcov=vcov,
        loglik=float(end.value[0]),
        stop=end.alpha[0],
    )
    return None if found.has_border or _may_vanish(found) else found


def _terms(fit: Estimates, rest: Design, alpha: Array, vcov: Array) -> dict[str, TermEstimate]:
    """The scale terms of a maximum at finite coefficients and κ."""
    terms = {}
    for each, term, at in zip(fit.terms.values(), rest.terms, rest.places, strict=True):
        own = slice(at.start, at.start + len(term.names))
        others = slice(own.stop, at.stop)
        kappa, R = alpha[others], each.correlation
        if len(kappa):
            R = correlation_matrices(kappa[None], len(term.effects), term.correlation)[0]
        terms[term.name] = replace(
            each,
            term=term,
            alpha=alpha[own],
            vcov=vcov[own, own],
            tau2=tau2_from_log(term.Z @ alpha[own]),
            kappa=kappa,
            vcov_kappa=vcov[others, others],
            correlation=R,
            limit_alpha=alpha[own],
            limit_vcov=vcov[own, own],
        )
    return terms


def _may_vanish(found: Estimates) -> bool:
    total = found.design.v + found.tau2
    for each in found.terms.values():
        share = each.term.slopes**2 * each.tau2[each.term.index] / total[:, None]
        if ((share < _VANISHED) & (each.term.slopes != 0)).any():
            return True
    return False
