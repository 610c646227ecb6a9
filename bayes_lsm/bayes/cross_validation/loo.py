"""How well a model predicts a study that it has not seen.

`loo` and `kfold` leave studies out and refit, exactly (see `refits`). `psis_loo` and `waic` need
nothing but the draws; they condition on β as well as on α, so a study with much leverage upsets
them. What is left out is the study: where several rows have one name, all of them. Student-t study
effects are integrated out, as normal ones are: what is predicted is the observed effect.

Vehtari, Gelman & Gabry (2017), Statistics and Computing 27, 1413-1432,
doi:10.1007/s11222-016-9696-4; PIT: Gelman et al. (2013), Bayesian Data Analysis, section 6.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from bayes_lsm.bayes.cross_validation import clustered_loo
from bayes_lsm.bayes.cross_validation.clustered_loo import Unit, require_unit
from bayes_lsm.bayes.cross_validation.deletion import RowDeletion
from bayes_lsm.bayes.cross_validation.elpd import Elpd
from bayes_lsm.bayes.cross_validation.elpd_from_densities import (
    draw_folds,
    kfold_elpd,
    loo_elpd,
    psis_elpd,
    waic_elpd,
)
from bayes_lsm.bayes.cross_validation.refits import Predictions, Refittable, leave_out_folds
from bayes_lsm.bayes.cross_validation.student_deletion import StudentDeletion
from bayes_lsm.bayes.normal_scores import normal_scores
from bayes_lsm.bayes.pointwise_likelihood import log_likelihood
from bayes_lsm.bayes.resolved_priors.propriety import require_proper_without
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.student.effects import df_prior, require_normal_effects
from bayes_lsm.capabilities import require_capable
from bayes_lsm.design.clusters import Cluster
from bayes_lsm.design.subsets import Array, Indices, Studies, each_row, group_studies, take_rows
from bayes_lsm.errors import FitError
from bayes_lsm.progress import track

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior

_MANY_STUDIES = 5000


def loo(
    fit: Posterior,
    *,
    cluster: Cluster | None = None,
    unit: Unit = "cluster",
    seed: int | None = None,
    progress: bool = True,
) -> Elpd:
    """Leave each study out in turn and predict it, by exact refits.

    Parameters
    ----------
    fit : BayesFit
        Of either engine; the refits are by the collapsed one, with the priors of the full fit. Of
        random intercepts of ln τ² see the notes.
    cluster : str or sequence of length n, optional
        What is left out as a whole: the groups of a scale term, or the cluster of each row that was
        fitted. By default the study; with dependent effects the outermost groups, and where none
        holds the others the sets of rows that are independent of each other.
    unit : {"cluster", "row"}, default "cluster"
        ``"row"``: each row is predicted from all others, those of its study or of its own groups
        among them.
    seed : int, optional
        Default: that of the fit.
    progress : bool, default True
        Show a progress bar on standard error when it takes more than a second or two.

    Returns
    -------
    Elpd
        With the PSIS estimates and their Pareto k next to the exact ones.

    Raises
    ------
    FitError
        When there is only one study, or priors that the collapsed engine cannot take: location
        priors that are not normal (with Student-t study effects, flat ones), or a shrinkage prior.

    Warns
    -----
    ConvergenceWarning
        When even a refit of its own gives a study's density with too large an error, or a NUTS
        refit cannot be trusted.

    Notes
    -----
    No engine but NUTS takes random intercepts of ln τ². Then clusters are predicted by the draws of
    the fit, as by `psis_loo`, and where Pareto k is above 0.7 by the draws of a NUTS refit without
    the cluster. Either way the effects of the levels that it tells most of are integrated out.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(seed=1)
    >>> found = fit.loo()
    >>> round(found.elpd), round(found.p)
    (-11, 3)
    """
    if _leaves_clusters(fit, cluster, unit):
        return clustered_loo.loo(fit, cluster=cluster, unit=unit, seed=seed, progress=progress)
    studies = checked_studies(fit, unit)
    folds = list(np.arange(len(studies.names))[:, None])
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
    """Leave folds of studies out in turn and predict them, by exact refits.

    Parameters
    ----------
    fit : BayesFit
    k : int, default 10
        Number of folds, from 2 to the number of studies.
    cluster, unit
        As in `loo`.
    seed : int, optional
        Of the folds, which are drawn at random, and of the refits. Default: that of the fit. For
        a comparison, give all models the same.
    progress : bool, default True

    Returns
    -------
    Elpd
        `Elpd.pointwise` is of each study given the folds that it is not in.

    Raises
    ------
    FitError
        For a wrong `k`, or priors that the collapsed engine cannot take (see `loo`).

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(seed=1)
    >>> len(fit.kfold(5, seed=1).pointwise)
    13
    """
    if _leaves_clusters(fit, cluster, unit):
        return clustered_loo.kfold(fit, k, cluster=cluster, unit=unit, seed=seed, progress=progress)
    studies = checked_studies(fit, unit)
    folds = draw_folds(k, len(studies.names), fit.seed if seed is None else seed)
    _require_proper(fit, studies, folds)
    found = _refit(fit, studies, folds, seed=seed, progress=progress)
    return kfold_elpd(fit, studies, found, k)


def psis_loo(
    fit: Posterior,
    *,
    cluster: Cluster | None = None,
    unit: Unit = "cluster",
    progress: bool = True,
) -> Elpd:
    """Leave each study out in turn by Pareto-smoothed importance sampling from the draws.

    Parameters
    ----------
    fit : BayesFit
        Of random intercepts of ln τ² the effects are integrated out that the cluster tells of most;
        the coefficients and their SDs are conditioned on.
    cluster, unit
        As in `loo`.
    progress : bool, default True
        Show a progress bar on standard error when there are thousands of studies.

    Returns
    -------
    Elpd

    Warns
    -----
    ConvergenceWarning
        When Pareto k of a study is above 0.7: `loo` refits in any case.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(seed=1)
    >>> round(fit.psis_loo().elpd)
    -14

    References
    ----------
    Vehtari, A., Simpson, D., Gelman, A., Yao, Y., & Gabry, J. (2024). Pareto smoothed importance
    sampling. Journal of Machine Learning Research, 25(72), 1-58.
    """
    if _leaves_clusters(fit, cluster, unit):
        return clustered_loo.psis_loo(fit, cluster=cluster, unit=unit, progress=progress)
    studies = checked_studies(fit, unit)
    return psis_elpd(fit, studies, densities(fit, studies, progress=_slow(studies, progress)))


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

    Warns
    -----
    ConvergenceWarning
        When the penalty of a study is above 0.4, where the formula fails.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(seed=1)
    >>> round(fit.waic().elpd)
    -14

    References
    ----------
    Watanabe, S. (2010). Asymptotic equivalence of Bayes cross validation and widely applicable
    information criterion in singular learning theory. Journal of Machine Learning Research, 11,
    3571-3594.
    """
    require_capable("waic", fit.design)
    if _leaves_clusters(fit, cluster, unit):
        return clustered_loo.waic(fit, cluster=cluster, unit=unit)
    studies = checked_studies(fit, unit)
    return waic_elpd(fit, studies, densities(fit, studies))


def _leaves_clusters(fit: Posterior, cluster: Cluster | None, unit: Unit) -> bool:
    """Whether more than single studies are left out.

    Raises
    ------
    FitError
        For clusters of studies with Student-t effects, an unknown unit, and rows that are given
        clusters.
    """
    require_unit(unit, cluster)
    if cluster is not None:
        require_normal_effects(fit.design, "leaving out other clusters than studies")
    return cluster is not None or not fit.design.is_independent


def checked_studies(fit: Posterior, unit: Unit = "cluster") -> Studies:
    """The studies of a fit, or its rows, that can be left out one by one.

    Raises
    ------
    FitError
        For a single study, or one that bounds a scale coefficient with a flat prior by itself.
    """
    studies = each_row(fit.design) if unit == "row" else group_studies(fit.design)
    if len(studies.names) < 2:
        raise FitError(f"leaving {studies.plural} out needs at least two of them, got 1")
    _require_proper(fit, studies, list(np.arange(len(studies.names))[:, None]))
    return studies


def _require_proper(fit: Posterior, studies: Studies, folds: list[Indices]) -> None:
    resolved = resolve_priors(fit.design, fit.priors)
    require_proper_without(fit.design, resolved, fit.priors, studies, folds)


def _refit(
    fit: Posterior,
    studies: Studies,
    folds: list[Indices],
    *,
    seed: int | None,
    progress: bool,
) -> Predictions:
    priors, df = resolve_priors(fit.design, fit.priors), df_prior(fit.design, fit.priors)
    model: Refittable = (
        RowDeletion(fit.design, priors) if df is None else StudentDeletion(fit.design, priors, df)
    )
    seed = fit.seed if seed is None else seed
    return leave_out_folds(model, studies, folds, seed=seed, progress=progress)


def _slow(studies: Studies, progress: bool) -> bool:
    return progress and len(studies.names) > _MANY_STUDIES


def densities(
    fit: Posterior, studies: Studies, *, progress: bool = False
) -> Iterator[tuple[int, Array, Array, Array]]:
    """Each study's log density (draws,), twice, and its effects' probabilities (draws, rows)."""
    location, scale = fit.draws.flat_location, fit.draws.flat_scale
    df = None if fit.draws.df is None else fit.draws.flat_df
    for u in track(range(len(studies.names)), "Smoothing weights", progress=progress):
        part = take_rows(fit.design, studies.rows[u])
        density = log_likelihood(part, location, scale, df).sum(axis=1)
        z = normal_scores(part.y - location @ part.X.T, part.v, scale @ part.Z.T, df)
        yield u, density, density, ndtr(z)
