"""The engines that need no chains: `collapsed`, and `student_collapsed` for Student-t effects.

A model has normal study effects or Student-t ones, and whoever refits it need not ask which.
"""

from __future__ import annotations

from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.collapsed import can_collapse, require_collapsible, sample_collapsed
from bayes_lsm.bayes.engines.student_collapsed import (
    can_sample_student,
    require_student_priors,
    sample_student,
)
from bayes_lsm.bayes.student.excess import Degrees
from bayes_lsm.design.subsets import Numbers
from bayes_lsm.priors import ResolvedPriors


def can_sample(priors: ResolvedPriors, df: Degrees | None) -> bool:
    """Whether `sample_directly` takes these priors; `df` is None for normal study effects."""
    return can_collapse(priors) if df is None else can_sample_student(priors)


def require_direct(priors: ResolvedPriors, df: Degrees | None, cure: str) -> None:
    """Refuse priors that `sample_directly` does not take.

    Raises
    ------
    FitError
    """
    if df is None:
        require_collapsible(priors, cure)
    else:
        require_student_priors(priors, cure)


def sample_directly(
    design: Numbers,
    priors: ResolvedPriors,
    df: Degrees | None,
    *,
    draws: int = 4000,
    seed: int,
) -> Draws:
    """Independent draws from the posterior, with their marginal likelihood.

    Parameters
    ----------
    design : Design, or a part of one
    priors : ResolvedPriors
    df : DegreesOfFreedom, Excess, float or None
        See `sample_student`; None for normal study effects.
    draws : int, default 4000
    seed : int
        The same seed gives the same draws.

    Raises
    ------
    FitError
        For priors that the engine cannot take.
    """
    if df is None:
        return sample_collapsed(design, priors, draws=draws, seed=seed)
    return sample_student(design, priors, df, draws=draws, seed=seed)
