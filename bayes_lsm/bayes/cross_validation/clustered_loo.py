"""How well a model of several scale terms predicts a cluster that it has not seen.

As `loo` for studies: `loo` and `kfold` leave whole clusters out and refit, exactly; `psis_loo` and
`waic` need nothing but the draws, and condition on β as well as on the scale coefficients. The
effects of all groups are integrated out throughout, so that what is predicted is all rows of a
cluster together, those of a new group with new effects. Where clusters are not independent (schools
of one district) a cluster is predicted from the coefficients and the rows that it depends on.
Bürkner, Gabry & Vehtari (2021), Computational Statistics 36, 1243-1261,
doi:10.1007/s00180-020-01045-4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import ndtr

from bayes_lsm.bayes.cross_validation.clustered_deletion import ClusterDeletion, RowSums
from bayes_lsm.bayes.cross_validation.elpd import Elpd
from bayes_lsm.bayes.cross_validation.elpd_from_densities import (
    draw_folds,
    kfold_elpd,
    loo_elpd,
    psis_elpd,
    sampled_elpd,
    waic_elpd,
)
from bayes_lsm.bayes.cross_validation.level_integrals import LevelIntegrals
from bayes_lsm.bayes.cross_validation.refits import Predictions, leave_out_folds
from bayes_lsm.bayes.cross_validation.sampled_deletion import SampledDeletion
from bayes_lsm.bayes.resolved_priors.propriety import require_proper_without
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.term_draws import flat_coefficients
from bayes_lsm.choices import require_choice
from bayes_lsm.design.clusters import (
    Cluster,
    Clusters,
    connected_rows,
    independent_clusters,
    read_clusters,
)
from bayes_lsm.design.columns import check_columns
from bayes_lsm.design.design import Design
from bayes_lsm.design.subsets import Array, Indices, Studies, each_row
from bayes_lsm.errors import DataError, FitError
from bayes_lsm.progress import track

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior

Unit = Literal["cluster", "row"]

_FEWEST_CLUSTERS = 3
_MANY_CLUSTERS = 100


def loo(
    fit: Posterior,
    *,
    cluster: Cluster | None = None,
    unit: Unit = "cluster",
    seed: int | None = None,
    progress: bool = True,
) -> Elpd:
    """Leave each cluster out in turn and predict it, by exact refits.

    Parameters
    ----------
    fit : BayesFit
        Of either engine; the refits are by the collapsed one, with the priors of the full fit. Of
        random intercepts of ln τ² see the notes.
    cluster : str or sequence of length n, optional
        What is left out as a whole: the groups of a scale term, or the cluster of each row that was
        fitted. By default the outermost groups; where none holds the others, the sets of rows that
        are independent of each other.
    unit : {"cluster", "row"}, default "cluster"
        ``"row"``: each row is predicted from all others, those of its own groups among them.
    seed : int, optional
        Default: that of the fit.
    progress : bool, default True
        Show a progress bar on standard error when it takes more than a second or two.

    Returns
    -------
    Elpd
        One row a cluster, with the PSIS estimates and their Pareto k next to the exact ones.

    Raises
    ------
    FitError
        For fewer than three clusters, one without which a location coefficient (or a scale
        coefficient with a flat prior) is left open, or location priors that are not normal.

    Warns
    -----
    ConvergenceWarning
        When even a refit of its own gives a cluster's density with too large an error, or a NUTS
        refit cannot be trusted.

    Notes
    -----
    No engine but NUTS takes random intercepts of ln τ². Then clusters are predicted by the draws of
    the fit, as by `psis_loo`, and where Pareto k is above 0.7 by the draws of a NUTS refit without
    the cluster. Either way the effects of the levels that it tells most of are integrated out; see
    `bayes_lsm.bayes.level_integrals`.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)
    >>> found = fit.loo()
    >>> found.studies.unit, len(found.pointwise)
    ('district', 11)
    """
    studies = checked_clusters(fit.design, cluster, unit)
    folds = _one_by_one(studies)
    _require_proper(fit, studies, folds)
    if has_random_intercepts(fit.design):
        return _by_draws("loo", fit, studies, folds, seed=seed, progress=progress)
    found = _refit(fit, studies, folds, seed=seed, progress=progress)
    each = densities(fit, studies, progress=_slow(studies, progress))
    return loo_elpd(fit, studies, found, each)


def kfold(
    fit: Posterior,
    k: int = 10,
    *,
    cluster: Cluster | None = None,
    unit: Unit = "cluster",
    seed: int | None = None,
    progress: bool = True,
) -> Elpd:
    """Leave folds of whole clusters out in turn and predict them, by exact refits.

    Parameters
    ----------
    fit : BayesFit
    k : int, default 10
        Number of folds, from 2 to the number of clusters.
    cluster, unit
        As in `loo`.
    seed : int, optional
        Of the folds, which are drawn at random, and of the refits. Default: that of the fit. For
        a comparison, give all models the same.
    progress : bool, default True

    Returns
    -------
    Elpd
        `Elpd.pointwise` is of each cluster given the folds that it is not in.

    Raises
    ------
    FitError
        As in `loo`, and for a wrong `k`.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)
    >>> len(fit.kfold(5, seed=1).pointwise)
    11
    """
    studies = checked_clusters(fit.design, cluster, unit)
    folds = draw_folds(k, len(studies.names), fit.seed if seed is None else seed)
    _require_proper(fit, studies, folds)
    if has_random_intercepts(fit.design):
        return _by_draws("kfold", fit, studies, folds, seed=seed, progress=progress)
    found = _refit(fit, studies, folds, seed=seed, progress=progress)
    return kfold_elpd(fit, studies, found, k)


def psis_loo(
    fit: Posterior,
    *,
    cluster: Cluster | None = None,
    unit: Unit = "cluster",
    progress: bool = True,
) -> Elpd:
    """Leave each cluster out in turn by Pareto-smoothed importance sampling from the draws.

    Parameters
    ----------
    fit : BayesFit
        Of random intercepts of ln τ² the effects are integrated out that the cluster tells of most;
        the coefficients and their SDs are conditioned on.
    cluster, unit
        As in `loo`.
    progress : bool, default True
        Show a progress bar on standard error when there are many clusters.

    Returns
    -------
    Elpd

    Raises
    ------
    FitError
        For fewer than three clusters.

    Warns
    -----
    ConvergenceWarning
        When Pareto k of a cluster is above 0.7: `loo` refits in any case.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=3)
    >>> fit.psis_loo(cluster="district/school").criterion
    'psis_loo'
    """
    studies = checked_clusters(fit.design, cluster, unit)
    _require_proper(fit, studies, _one_by_one(studies))
    of_each = integrated_densities if has_random_intercepts(fit.design) else densities
    return psis_elpd(fit, studies, of_each(fit, studies, progress=_slow(studies, progress)))


def waic(fit: Posterior, *, cluster: Cluster | None = None, unit: Unit = "cluster") -> Elpd:
    """The widely applicable information criterion, on the scale of the log density.

    Parameters
    ----------
    fit : BayesFit
    cluster, unit
        As in `loo`; the clusters must be independent given the coefficients.

    Returns
    -------
    Elpd
        −2 times `Elpd.elpd` is WAIC on the scale of a deviance.

    Raises
    ------
    FitError
        For fewer than three clusters, or clusters that share effects or sampling errors.

    Warns
    -----
    ConvergenceWarning
        When the penalty of a cluster is above 0.4, where the formula fails.
    """
    studies = checked_clusters(fit.design, cluster, unit)
    if not are_independent(fit.design, studies):
        raise FitError(
            "WAIC is a sum over clusters that are independent given the coefficients, but these "
            "share effects or sampling errors; use larger clusters, or loo(), which needs no "
            "independence"
        )
    return waic_elpd(fit, studies, densities(fit, studies))


def checked_clusters(design: Design, cluster: Cluster | None, unit: Unit = "cluster") -> Studies:
    """The clusters, or the rows, that can be left out one by one.

    Raises
    ------
    FitError
        For clusters that are unknown or missing, or fewer than three; for an unknown unit, and rows
        that are given clusters.
    """
    require_unit(unit, cluster)
    if unit == "row":
        return each_row(design)
    studies = _studies(
        design, independent_clusters(design) if cluster is None else read_clusters(design, cluster)
    )
    count = len(studies.names)
    if count < _FEWEST_CLUSTERS:
        raise FitError(
            f"leaving clusters out needs at least {_FEWEST_CLUSTERS} of them, got {count} "
            f"({', '.join(studies.names)}); name smaller ones with cluster="
        )
    return studies


def require_unit(unit: str, cluster: Cluster | None) -> None:
    """Refuse an unknown unit, and rows that are given clusters.

    Raises
    ------
    FitError
    """
    require_choice("unit", unit, Unit)
    if unit == "row" and cluster is not None:
        raise FitError("cluster is for unit='cluster', got unit='row'; leave one of them out")


def are_independent(design: Design, studies: Studies) -> bool:
    """Whether no two clusters share an effect or a sampling error."""
    sets = [np.unique(connected_rows(design)[rows]) for rows in studies.rows]
    return sum(map(len, sets)) == len(np.unique(np.concatenate(sets)))


def _studies(design: Design, clusters: Clusters) -> Studies:
    order = np.argsort(clusters.code, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(clusters.code))[:-1])
    unit = clusters.what
    for term in design.terms:
        if term.name == clusters.what:
            unit = "/".join(term.grouping.columns) or "row"
    return Studies(clusters.names, tuple(rows), unit)


def _one_by_one(studies: Studies) -> list[Indices]:
    return list(np.arange(len(studies.names))[:, None])


def _require_proper(fit: Posterior, studies: Studies, folds: list[Indices]) -> None:
    resolved = resolve_priors(fit.design, fit.priors)
    require_proper_without(fit.design, resolved, fit.priors, studies, folds)


def has_random_intercepts(design: Design) -> bool:
    """Whether ln τ² of some term has them."""
    return any(term.random for term in design.terms)


def _slow(studies: Studies, progress: bool) -> bool:
    return progress and len(studies.names) > _MANY_CLUSTERS


def _refit(
    fit: Posterior,
    studies: Studies,
    folds: list[Indices],
    *,
    seed: int | None,
    progress: bool,
) -> Predictions:
    design = fit.design
    _require_rank(design, studies, folds)
    model = ClusterDeletion(design, resolve_priors(design, fit.priors))
    seed = fit.seed if seed is None else seed
    with np.errstate(invalid="ignore"):  # points of the prior may be too far out for any density
        return leave_out_folds(model, studies, folds, seed=seed, progress=progress)


def _by_draws(
    criterion: Literal["loo", "kfold"],
    fit: Posterior,
    studies: Studies,
    folds: list[Indices],
    *,
    seed: int | None,
    progress: bool,
) -> Elpd:
    """Of a model that only NUTS can fit."""
    _require_rank(fit.design, studies, folds)
    model = SampledDeletion(fit)
    seed = fit.seed if seed is None else seed
    found = leave_out_folds(model, studies, folds, seed=seed, progress=progress)
    return sampled_elpd(criterion, fit, studies, found, model.problems)


def _require_rank(design: Design, studies: Studies, folds: list[Indices]) -> None:
    """Refuse folds without which a location coefficient would be the prior's alone."""
    for fold in folds:
        out = np.concatenate([studies.rows[u] for u in fold])
        left = np.setdiff1d(np.arange(len(design.y)), out)
        try:
            check_columns("location", design.location.names, design.X[left])
        except DataError as error:
            names = ", ".join(studies.names[u] for u in fold)
            raise FitError(
                f"without {studies.unit} {names} the rest cannot tell all location coefficients: "
                f"{str(error).split(';')[0]}; let them differ by a scale term, merge levels, or "
                "use psis_loo()"
            ) from error


def densities(
    fit: Posterior, studies: Studies, *, progress: bool = False
) -> Iterator[tuple[int, Array, Array, Array]]:
    """Each cluster's log density (draws,), twice, and its rows' probabilities (draws, rows).

    Given the coefficients of the draw, effects of random intercepts among them, and the rows of
    other clusters that it depends on.
    """
    centre = fit.draws.flat_location.mean(axis=0)
    away, alphas = fit.draws.flat_location - centre, flat_coefficients(fit.terms)
    sums = RowSums(fit.design, centre)
    for u in track(range(len(studies.names)), "Smoothing weights", progress=progress):
        rows = studies.rows[u]
        kept = np.setdiff1d(sums.around(rows), rows)
        both = sums.of(np.union1d(rows, kept), alphas).log_density(away)
        density = both - sums.of(kept, alphas).log_density(away) if len(kept) else both
        yield u, density, density, ndtr(sums.standardise(rows, kept, away, alphas))


def integrated_densities(
    fit: Posterior, studies: Studies, *, progress: bool = False
) -> Iterator[tuple[int, Array, Array, Array]]:
    """The same with the effects of random intercepts integrated out, and then with them.

    Given the rows of other clusters: those that depend on it by such an effect, too.
    """
    integrals = LevelIntegrals(fit)
    for u in track(range(len(studies.names)), "Smoothing weights", progress=progress):
        rows = studies.rows[u]
        found = integrals.leave_out(rows, [rows])
        yield u, found.fold, integrals.given_effects(rows), found.below[0]
