"""From log densities, of refits or of draws, to an `Elpd`: whatever the model and what is left out.

What a model gives of each study is its log density at each draw given the others, that given its
own effects too, and its effects' probabilities; see `loo.densities` and `clustered_loo.densities`.
What refits give is in `refits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import logsumexp

from bayes_lsm.bayes.cross_validation.elpd import Elpd
from bayes_lsm.bayes.cross_validation.refits import Predictions
from bayes_lsm.bayes.engines.diagnostics import LARGEST_PARETO_K
from bayes_lsm.bayes.engines.pareto import smooth_weights
from bayes_lsm.bayes.student.effects import integrated_out, said_before
from bayes_lsm.design.subsets import Array, Indices, Studies
from bayes_lsm.errors import ConvergenceWarning, FitError, warn

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior

Densities = Iterable[tuple[int, Array, Array, Array]]

_LARGEST_WAIC_PENALTY = 0.4


def draw_folds(k: int, count: int, seed: int) -> list[Indices]:
    """Studies 0, 1, …, count − 1 in k random folds.

    Raises
    ------
    FitError
        For a wrong `k`.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 2 <= k <= count:
        raise FitError(f"k must be a whole number of folds from 2 to {count}, got {k!r}")
    shuffled = np.random.default_rng(seed).permutation(count)
    return [np.sort(fold) for fold in np.array_split(shuffled, k)]


def sampled_elpd(
    criterion: Literal["loo", "kfold"],
    fit: Posterior,
    studies: Studies,
    found: Predictions,
    problems: Sequence[str],
) -> Elpd:
    """Of the draws of a sampler, or where they do not do of new ones without the fold."""
    what = f"each {studies.unit}" if criterion == "loo" else "each fold"
    again = int(found.refitted.sum())
    note = (
        f"{what} is predicted by importance sampling from the draws of the fit, with the effects "
        "of random intercepts of ln τ² integrated out (psis, and its pareto_k), or, where those "
        f"weights do not do, by a NUTS refit ({again} of {len(found.elpd)} {studies.plural}); "
        f"Monte Carlo error {_total(found.mcse):.3f} in all"
    )
    heading = (
        f"Leave-one-{studies.unit}-out by draws and refits"
        if criterion == "loo"
        else "Cross-validation by draws and refits"
    )
    columns = {"mcse": found.mcse, "psis": found.shared_elpd, "pareto_k": found.shared_k}
    elpd = _exact(criterion, heading, fit, studies, found, columns, note)
    for problem in problems:
        warn(problem, ConvergenceWarning)
    return replace(elpd, problems=(*elpd.problems, *problems))


def loo_elpd(fit: Posterior, studies: Studies, found: Predictions, densities: Densities) -> Elpd:
    """Of refits without each study, with what PSIS makes of the draws beside them."""
    psis = _smooth(fit, studies, densities)
    columns = {"mcse": found.mcse, "psis": psis.elpd, "pareto_k": psis.pareto_k}
    note = (
        f"each {studies.unit} is predicted by a refit without it, {integrated_out(fit.design)} "
        f"integrated out (Monte Carlo error {_total(found.mcse):.3f} in all); psis and pareto_k "
        "are of the approximation by importance sampling, which can be trusted below "
        f"{LARGEST_PARETO_K}"
    )
    heading = f"Leave-one-{studies.unit}-out by exact refits"
    return _exact("loo", heading, fit, studies, found, columns, note)


def kfold_elpd(fit: Posterior, studies: Studies, found: Predictions, k: int) -> Elpd:
    """Of refits without each of k folds."""
    count = len(studies.names)
    sizes = f"{count // k}" if count % k == 0 else f"{count // k} or {count // k + 1}"
    note = (
        f"each fold of {sizes} {studies.plural} is predicted by a refit without it, "
        f"{integrated_out(fit.design)} integrated out (Monte Carlo error "
        f"{_total(found.mcse):.3f} in all)"
    )
    columns = {"mcse": found.mcse}
    return _exact("kfold", f"{k}-fold cross-validation", fit, studies, found, columns, note)


def psis_elpd(fit: Posterior, studies: Studies, densities: Densities) -> Elpd:
    """Of draws with weights 1/density, Pareto-smoothed."""
    found = _smooth(fit, studies, densities)
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
        f"Leave-one-{studies.unit}-out by importance sampling (PSIS)",
        studies,
        fit.design.y,
        found.elpd,
        found.lpd - found.elpd,
        {"mcse": found.mcse, "pareto_k": found.pareto_k},
        found.pit,
        problems,
        fit.notes,
    )


def waic_elpd(fit: Posterior, studies: Studies, densities: Densities) -> Elpd:
    """Of draws, less the variance of the log density."""
    lpd, penalty = np.empty((2, len(studies.names)))
    for u, _, density, _ in densities:
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


def _exact(
    criterion: Literal["loo", "kfold"],
    heading: str,
    fit: Posterior,
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
        (note, *said_before(fit.design, fit.priors), *fit.design.notes),
    )


def _smooth(fit: Posterior, studies: Studies, densities: Densities) -> Predictions:
    count = len(studies.names)
    elpd, lpd, mcse, k, largest, ess = np.empty((6, count))
    pit = np.empty(len(fit.design.y))
    for u, density, again, below in densities:
        log_weights, k[u] = smooth_weights(-density)
        weights = np.exp(log_weights)
        elpd[u] = logsumexp(log_weights + density)
        lpd[u] = logsumexp(again) - np.log(len(again))
        deviation = np.exp(density - elpd[u]) - 1.0
        mcse[u] = np.sqrt(np.sum((weights * deviation) ** 2))
        largest[u], ess[u] = weights.max(), 1.0 / np.sum(weights**2)
        pit[studies.rows[u]] = weights @ below
    nothing = np.zeros(count, dtype=bool)
    return Predictions(elpd, lpd, mcse, pit, k, largest, ess, nothing)


def _total(mcse: Array) -> float:
    return float(np.sqrt(np.sum(mcse**2)))


def _some(studies: Studies, which: Indices) -> str:
    more = f" and {len(which) - 8} more" if len(which) > 8 else ""
    return ", ".join(studies.names[u] for u in which[:8]) + more
