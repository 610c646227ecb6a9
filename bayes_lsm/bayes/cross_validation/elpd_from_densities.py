"""From log densities, of refits or of draws, to an `Elpd`: whatever the model and what is left out.

What a model gives of each study is its log density at each draw given the others, that given its
own effects too, and its effects' probabilities; see `loo.densities`. What refits give is in
`refits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from scipy.special import logsumexp

from bayes_lsm.arrays import Array, Index
from bayes_lsm.bayes.cross_validation.elpd import Elpd
from bayes_lsm.bayes.cross_validation.refits import Predictions
from bayes_lsm.bayes.engines.diagnostics import LARGEST_PARETO_K
from bayes_lsm.bayes.engines.pareto import smooth_weights
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.student.effects import integrated_out, said_before
from bayes_lsm.design.clusters import Clusters
from bayes_lsm.errors import ConvergenceWarning, FitError, warn

Densities = Iterable[tuple[int, Array, Array, Array]]

_LARGEST_WAIC_PENALTY = 0.4


def draw_folds(k: int, count: int, seed: int) -> list[Index]:
    """Studies 0, 1, …, count − 1 in k random folds; a wrong `k` is a FitError."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 2 <= k <= count:
        raise FitError(f"k must be a whole number of folds from 2 to {count}, got {k!r}")
    shuffled = np.random.default_rng(seed).permutation(count)
    return [np.sort(fold) for fold in np.array_split(shuffled, k)]


def refitted_elpd(
    criterion: Literal["loo", "kfold"],
    fit: Posterior,
    studies: Clusters,
    found: Predictions,
    problems: Sequence[str],
    *,
    folds: int = 0,
) -> Elpd:
    """Of refits without each unit, or each of so many folds.

    With one unit at a time the table has what importance sampling makes of the draws beside them;
    so it has where the draws are a sampler's, and refits only stand in for them.
    """
    columns = {"mcse": found.mcse}
    if criterion == "loo" or found.sampled:
        columns |= {"psis": found.shared_elpd, "pareto_k": found.shared_k}
    doubtful = np.flatnonzero(found.doubtful)
    if len(doubtful):
        problems = (
            f"the log density of {_some(studies, doubtful)} has too large a Monte Carlo error even "
            "by a refit of its own; use tighter priors",
            *problems,
        )
    for problem in problems:
        warn(problem, ConvergenceWarning)
    heading, note = _made(fit, studies, found, folds)
    return Elpd(
        criterion,
        heading,
        studies,
        fit.design.y,
        found.elpd,
        found.lpd - found.elpd,
        columns,
        found.pit,
        tuple(problems),
        (note, *said_before(fit.design, fit.priors), *fit.design.notes),
    )


def _made(fit: Posterior, studies: Clusters, found: Predictions, folds: int) -> tuple[str, str]:
    """The heading, and how the predictions were made."""
    count, error = len(studies.names), float(np.sqrt(np.sum(found.mcse**2)))
    heading = f"{folds}-fold cross-validation" if folds else f"Leave-one-{studies.unit}-out"
    what = f"each {studies.unit}"
    if folds:
        size, rest = divmod(count, folds)
        sizes = f"{size} or {size + 1}" if rest else f"{size}"
        what = f"each fold of {sizes} {studies.plural}"
    if found.sampled:
        return f"{heading} by draws and refits", (
            f"{what} is predicted by importance sampling from the draws of the fit, with the "
            "effects of random intercepts of ln τ² integrated out (psis, and its pareto_k), or, "
            f"where those weights do not do, by a NUTS refit ({int(found.refitted.sum())} of "
            f"{count} {studies.plural}); Monte Carlo error {error:.3f} in all"
        )
    note = (
        f"{what} is predicted by a refit without it, {integrated_out(fit.design)} integrated out "
        f"(Monte Carlo error {error:.3f} in all)"
    )
    if folds:
        return heading, note
    return f"{heading} by exact refits", (
        f"{note}; psis and pareto_k are of the approximation by importance sampling, which can be "
        f"trusted below {LARGEST_PARETO_K}"
    )


def psis_elpd(fit: Posterior, studies: Clusters, densities: Densities) -> Elpd:
    """Of draws with weights 1/density, Pareto-smoothed."""
    found = smooth(fit, studies, densities)
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


def waic_elpd(fit: Posterior, studies: Clusters, densities: Iterable[Array]) -> Elpd:
    """Of draws, less the variance of the log density."""
    lpd, penalty = np.empty((2, len(studies.names)))
    for u, density in enumerate(densities):
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


def smooth(fit: Posterior, studies: Clusters, densities: Densities) -> Predictions:
    """What draws with weights 1/density say of each unit, Pareto-smoothed."""
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


def _some(studies: Clusters, which: Index) -> str:
    more = f" and {len(which) - 8} more" if len(which) > 8 else ""
    return ", ".join(studies.names[u] for u in which[:8]) + more
