"""How well a model predicts a study that it has not seen.

`loo` and `kfold` leave studies out and refit, exactly (see `refits`). `psis_loo` and `waic` need
nothing but the draws; they condition on β as well as on α, so a study with much leverage upsets
them. What is left out is the study: where several rows have one name, all of them.

Vehtari, Gelman & Gabry (2017), Statistics and Computing 27, 1413-1432,
doi:10.1007/s11222-016-9696-4; PIT: Gelman et al. (2013), Bayesian Data Analysis, section 6.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import logsumexp, ndtr

from bayes_lsm.bayes.diagnostics import LARGEST_PARETO_K
from bayes_lsm.bayes.elpd import Elpd
from bayes_lsm.bayes.graph import resolve_priors
from bayes_lsm.bayes.pareto import smooth_weights
from bayes_lsm.bayes.refits import Predictions, leave_out_folds
from bayes_lsm.bayes.row_deletion import RowDeletion
from bayes_lsm.bayes.student import require_normal_effects
from bayes_lsm.bayes.subsets import Array, Indices, Studies, group_studies, take_rows
from bayes_lsm.bayes.tracking import track
from bayes_lsm.bayes.tree import log_likelihood
from bayes_lsm.errors import ConvergenceWarning, FitError, warn
from bayes_lsm.links import tau2_from_log

if TYPE_CHECKING:
    from bayes_lsm.bayes.fit import BayesFit

_LARGEST_WAIC_PENALTY = 0.4
_MANY_STUDIES = 5000


def loo(fit: BayesFit, *, seed: int | None = None, progress: bool = True) -> Elpd:
    """Leave each study out in turn and predict it, by exact refits.

    Parameters
    ----------
    fit : BayesFit
        Of either engine; the refits are by the collapsed one, with the priors of the full fit.
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
        When the location priors are not normal, or there is only one study.

    Warns
    -----
    ConvergenceWarning
        When even a refit of its own gives a study's density with too large an error.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(seed=1)
    >>> found = fit.loo()
    >>> round(found.elpd), round(found.p)
    (-11, 3)
    """
    studies = checked_studies(fit)
    folds = list(np.arange(len(studies.names))[:, None])
    found = _refit(fit, studies, folds, seed=seed, progress=progress)
    psis = _psis(fit, studies, progress=progress)
    columns = {"mcse": found.mcse, "psis": psis.elpd, "pareto_k": psis.pareto_k}
    note = (
        f"each study is predicted by a refit without it, β integrated out (Monte Carlo error "
        f"{_total(found.mcse):.3f} in all); psis and pareto_k are of the approximation by "
        f"importance sampling, which can be trusted below {LARGEST_PARETO_K}"
    )
    return _exact("loo", "Leave-one-study-out by exact refits", fit, studies, found, columns, note)


def kfold(fit: BayesFit, k: int = 10, *, seed: int | None = None, progress: bool = True) -> Elpd:
    """Leave folds of studies out in turn and predict them, by exact refits.

    Parameters
    ----------
    fit : BayesFit
    k : int, default 10
        Number of folds, from 2 to the number of studies.
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
        For a wrong `k`, or when the location priors are not normal.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(seed=1)
    >>> len(fit.kfold(5, seed=1).pointwise)
    13
    """
    studies = checked_studies(fit)
    count = len(studies.names)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 2 <= k <= count:
        raise FitError(f"k must be a whole number of folds from 2 to {count}, got {k!r}")
    shuffled = np.random.default_rng(fit.seed if seed is None else seed).permutation(count)
    folds = [np.sort(fold) for fold in np.array_split(shuffled, k)]
    found = _refit(fit, studies, folds, seed=seed, progress=progress)
    sizes = f"{count // k}" if count % k == 0 else f"{count // k} or {count // k + 1}"
    note = (
        f"each fold of {sizes} studies is predicted by a refit without it, β integrated out "
        f"(Monte Carlo error {_total(found.mcse):.3f} in all)"
    )
    columns = {"mcse": found.mcse}
    return _exact("kfold", f"{k}-fold cross-validation", fit, studies, found, columns, note)


def psis_loo(fit: BayesFit, *, progress: bool = True) -> Elpd:
    """Leave each study out in turn by Pareto-smoothed importance sampling from the draws.

    Parameters
    ----------
    fit : BayesFit
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
    studies = checked_studies(fit)
    found = _psis(fit, studies, progress=progress)
    high = np.flatnonzero(~(found.pareto_k <= LARGEST_PARETO_K))
    problems: tuple[str, ...] = ()
    if len(high):
        problems = (
            f"Pareto k is above {LARGEST_PARETO_K} for {_some(studies, high)}, whose elpd cannot "
            "be trusted; use loo(), which refits",
        )
        warn(problems[0], ConvergenceWarning)
    return Elpd(
        "psis_loo",
        "Leave-one-study-out by importance sampling (PSIS)",
        studies,
        fit.design.y,
        found.elpd,
        found.lpd - found.elpd,
        {"mcse": found.mcse, "pareto_k": found.pareto_k},
        found.pit,
        problems,
        fit.notes,
    )


def waic(fit: BayesFit) -> Elpd:
    """The widely applicable information criterion, on the scale of the log density.

    Parameters
    ----------
    fit : BayesFit

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
    studies = checked_studies(fit)
    lpd, penalty = np.empty((2, len(studies.names)))
    for u, density, _ in densities(fit, studies):
        lpd[u] = logsumexp(density) - np.log(len(density))
        penalty[u] = np.var(density, ddof=1)
    high = np.flatnonzero(penalty > _LARGEST_WAIC_PENALTY)
    problems: tuple[str, ...] = ()
    if len(high):
        problems = (
            f"the penalty is above {_LARGEST_WAIC_PENALTY} for {_some(studies, high)}, where WAIC "
            "fails; use loo()",
        )
        warn(problems[0], ConvergenceWarning)
    heading, remarks = "Widely applicable information criterion", fit.notes
    y = fit.design.y
    return Elpd("waic", heading, studies, y, lpd - penalty, penalty, {}, None, problems, remarks)


def checked_studies(fit: BayesFit) -> Studies:
    """The studies of a fit that can be left out one by one.

    Raises
    ------
    FitError
        With Student-t study effects, or a single study.
    """
    require_normal_effects(fit.design, "leaving studies out")
    studies = group_studies(fit.design)
    if len(studies.names) < 2:
        raise FitError("leaving studies out needs at least two of them, got 1")
    return studies


def _refit(
    fit: BayesFit,
    studies: Studies,
    folds: list[Indices],
    *,
    seed: int | None,
    progress: bool,
) -> Predictions:
    model = RowDeletion(fit.design, resolve_priors(fit.design, fit.priors))
    seed = fit.seed if seed is None else seed
    return leave_out_folds(model, studies, folds, seed=seed, progress=progress)


def _exact(
    criterion: Literal["loo", "kfold"],
    heading: str,
    fit: BayesFit,
    studies: Studies,
    found: Predictions,
    columns: dict[str, Array],
    note: str,
) -> Elpd:
    doubtful = np.flatnonzero(found.doubtful)
    problems: tuple[str, ...] = ()
    if len(doubtful):
        problems = (
            f"the log density of {_some(studies, doubtful)} has too large a Monte Carlo error even "
            "by a refit of its own; use tighter priors",
        )
        warn(problems[0], ConvergenceWarning)
    return Elpd(
        criterion,
        heading,
        studies,
        fit.design.y,
        found.elpd,
        found.lpd - found.elpd,
        columns,
        found.pit,
        problems,
        (note, f"priors: {fit.priors.describe()}", *fit.design.notes),
    )


def _psis(fit: BayesFit, studies: Studies, *, progress: bool) -> Predictions:
    count = len(studies.names)
    elpd, lpd, mcse, k, largest, ess = np.empty((6, count))
    pit = np.empty(fit.design.n_studies)
    show = progress and count > _MANY_STUDIES
    for u, density, below in densities(fit, studies, progress=show):
        log_weights, k[u] = smooth_weights(-density)
        weights = np.exp(log_weights)
        elpd[u] = logsumexp(log_weights + density)
        lpd[u] = logsumexp(density) - np.log(len(density))
        deviation = np.exp(density - elpd[u]) - 1.0
        mcse[u] = np.sqrt(np.sum((weights * deviation) ** 2))
        largest[u], ess[u] = weights.max(), 1.0 / np.sum(weights**2)
        pit[studies.rows[u]] = weights @ below
    nothing = np.zeros(count, dtype=bool)
    return Predictions(elpd, lpd, mcse, pit, k, largest, ess, nothing)


def densities(
    fit: BayesFit, studies: Studies, *, progress: bool = False
) -> Iterator[tuple[int, Array, Array]]:
    """Each study's log density (draws,) and its effects' probabilities (draws, rows)."""
    location, scale = fit.draws.flat_location, fit.draws.flat_scale
    for u in track(range(len(studies.names)), "Smoothing weights", progress=progress):
        part = take_rows(fit.design, studies.rows[u])
        density = log_likelihood(part, location, scale).sum(axis=1)
        sd = np.sqrt(part.v + tau2_from_log(scale @ part.Z.T))
        yield u, density, ndtr((part.y - location @ part.X.T) / sd)


def _total(mcse: Array) -> float:
    return float(np.sqrt(np.sum(mcse**2)))


def _some(studies: Studies, which: Indices) -> str:
    more = f" and {len(which) - 8} more" if len(which) > 8 else ""
    return ", ".join(studies.names[u] for u in which[:8]) + more
