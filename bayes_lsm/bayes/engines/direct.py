"""The engines that need no chains, and which of them draws from a model.

`collapsed` has independent normal study effects, `student_collapsed` Student-t ones, `clustered`
any number of scale terms. Another such engine is one more module that returns `Draws`, and one line
here.
"""

from __future__ import annotations

from typing import cast

from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.clustered import sample_clustered
from bayes_lsm.bayes.engines.collapsed import can_collapse, require_collapsible, sample_collapsed
from bayes_lsm.bayes.engines.student_collapsed import (
    can_sample_student,
    require_student_priors,
    sample_student,
)
from bayes_lsm.bayes.student.excess import Degrees
from bayes_lsm.design.design import Design
from bayes_lsm.design.subsets import Numbers
from bayes_lsm.priors import ResolvedPriors


def can_sample(design: Design, priors: ResolvedPriors, df: Degrees | None) -> bool:
    """Whether `sample_directly` takes a model; `df` is None for normal study effects."""
    if df is not None:
        return can_sample_student(priors)
    return can_collapse(priors) and not any(term.random for term in design.terms)


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
    design : Design, or of independent effects a part of one
    priors : ResolvedPriors
    df : DegreesOfFreedom, Excess, float or None
        See `sample_student`; None for normal study effects.
    draws : int, default 4000
    seed : int
        The same seed gives the same draws.

    Raises
    ------
    FitError
        For priors that the engine cannot take, or random intercepts of ln τ².
    """
    if df is not None:
        return sample_student(design, priors, df, draws=draws, seed=seed)
    if design.is_independent:
        return sample_collapsed(design, priors, draws=draws, seed=seed)
    return sample_clustered(cast("Design", design), priors, draws=draws, seed=seed)
