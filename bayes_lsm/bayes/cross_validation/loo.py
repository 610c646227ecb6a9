"""How well a model predicts what it has not seen: a study, a cluster of rows, or a row.

`loo` and `kfold` leave units out and refit, exactly (see `refits`). `psis_loo` and `waic` need
nothing but the draws; they condition on β as well as on α, so a unit with much leverage upsets
them. What is left out is the study: where several rows have one name, all of them; and of dependent
effects the whole cluster (`units`). The effects of all groups are integrated out throughout, normal
or Student-t: what is predicted are all rows of a unit together, those of a new group with new
effects. Where units are not independent (schools of one district) one is predicted from the
coefficients and the rows that it depends on.

Vehtari, Gelman & Gabry (2017), Statistics and Computing 27, 1413-1432,
doi:10.1007/s11222-016-9696-4; PIT: Gelman et al. (2013), Bayesian Data Analysis, section 6.3;
dependent rows: Bürkner, Gabry & Vehtari (2021), Computational Statistics 36, 1243-1261,
doi:10.1007/s00180-020-01045-4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bayes_lsm.arrays import Array, Index
from bayes_lsm.bayes.cross_validation.deletion import deletion_of
from bayes_lsm.bayes.cross_validation.elpd import Elpd
from bayes_lsm.bayes.cross_validation.elpd_from_densities import (
    draw_folds,
    psis_elpd,
    refitted_elpd,
    smooth,
    waic_elpd,
)
from bayes_lsm.bayes.cross_validation.given_draws import given_draws
from bayes_lsm.bayes.cross_validation.refits import Predictions, leave_out_folds
from bayes_lsm.bayes.cross_validation.units import Unit, are_independent, read_units
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.resolved_priors.propriety import require_proper_without
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import seed_or
from bayes_lsm.design.clusters import Cluster, Clusters
from bayes_lsm.errors import FitError
from bayes_lsm.progress import track

_FEW = 100


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
        Of either engine; the refits are by the collapsed one, with the priors of the full fit: of a
        coefficient that nothing is left to tell of the prior speaks alone. Of random intercepts of
        ln τ² see the notes.
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
        For fewer than two studies or rows, or three clusters; for one that tells alone of a
        coefficient with a flat prior; and for priors that the collapsed engine cannot take:
        location priors that are not normal (with Student-t study effects, flat ones), or a
        shrinkage prior.

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
    studies = checked_studies(fit, cluster, unit)
    seed = seed_or(fit.seed, seed)
    found, problems = _refits(fit, studies, _one_by_one(studies), seed=seed, progress=progress)
    if not found.sampled:
        psis = smooth(fit, studies, densities(fit, studies, progress=progress))
        found = replace(found, shared_elpd=psis.elpd, shared_k=psis.pareto_k)
    return refitted_elpd("loo", fit, studies, found, problems)


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
        Number of folds, from 2 to the number of studies or clusters.
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
        As in `loo`, and for a wrong `k`.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(seed=1)
    >>> len(fit.kfold(5, seed=1).pointwise)
    13
    """
    studies = read_units(fit.design, cluster, unit)
    seed = seed_or(fit.seed, seed)
    folds = draw_folds(k, len(studies.names), seed)
    _require_proper(fit, studies, folds)
    found, problems = _refits(fit, studies, folds, seed=seed, progress=progress)
    return refitted_elpd("kfold", fit, studies, found, problems, folds=k)


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
    studies = checked_studies(fit, cluster, unit)
    return psis_elpd(fit, studies, densities(fit, studies, progress=progress))


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
        For too few clusters, or clusters that share effects or sampling errors.

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
    studies = checked_studies(fit, cluster, unit)
    if not are_independent(fit.design, studies):
        raise FitError(
            "WAIC is a sum over clusters that are independent given the coefficients, but these "
            "share effects or sampling errors; use larger clusters, or loo(), which needs no "
            "independence"
        )
    given = given_draws(fit.design, fit.draws)
    return waic_elpd(fit, studies, (given.given_effects(rows) for rows in studies.rows))


def checked_studies(
    fit: Posterior, cluster: Cluster | None = None, unit: Unit = "cluster"
) -> Clusters:
    """The units of a fit that can be left out one by one; see `units.read_units`.

    None of them may bound a coefficient with a flat prior by itself.
    """
    studies = read_units(fit.design, cluster, unit)
    _require_proper(fit, studies, _one_by_one(studies))
    return studies


def densities(
    fit: Posterior, studies: Clusters, *, progress: bool = False
) -> Iterator[tuple[int, Array, Array, Array]]:
    """Each unit's log density (draws,), that given its own effects too, and its probabilities.

    The effects are those of random intercepts of ln τ², the probabilities P(new effect ≤ y_i)
    (draws, rows) of its rows; all given the rows of other units.
    """
    given = given_draws(fit.design, fit.draws)
    random = any(term.random for term in fit.design.terms)
    show = progress and len(studies.names) > _FEW
    for u in track(range(len(studies.names)), "Smoothing weights", progress=show):
        rows = studies.rows[u]
        found = given.leave_out(rows, [rows])
        again = given.given_effects(rows) if random else found.fold
        yield u, found.fold, again, found.below[0]


def _refits(
    fit: Posterior, studies: Clusters, folds: list[Index], *, seed: int, progress: bool
) -> tuple[Predictions, list[str]]:
    """What the rest says of each fold, and what is wrong with that."""
    model = deletion_of(fit)
    with np.errstate(invalid="ignore"):  # points of the prior may be too far out for any density
        found = leave_out_folds(model, studies, folds, seed=seed, progress=progress)
    return found, model.problems


def _one_by_one(studies: Clusters) -> list[Index]:
    return list(np.arange(len(studies.names))[:, None])


def _require_proper(fit: Posterior, studies: Clusters, folds: list[Index]) -> None:
    resolved = resolve_priors(fit.design, fit.priors)
    require_proper_without(fit.design, resolved, fit.priors, studies, folds)
