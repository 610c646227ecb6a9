"""The engines that need no chains, and which of them draws from a model.

`collapsed` has normal effects, `student_collapsed` Student-t study effects. Another such engine is
one more module that returns `Draws`, and one line here.
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
from bayes_lsm.design.design import Design
from bayes_lsm.priors import ResolvedPriors


def can_sample(design: Design, priors: ResolvedPriors, df: Degrees | None) -> bool:
    """Whether `sample_directly` takes a model; `df` is None for normal study effects."""
    if df is not None:
        return can_sample_student(priors)
    return can_collapse(priors) and not any(term.random for term in design.terms)


def require_direct(priors: ResolvedPriors, df: Degrees | None, cure: str) -> None:
    """Refuse priors that `sample_directly` does not take, by a FitError."""
    if df is None:
        require_collapsible(priors, cure)
    else:
        require_student_priors(priors, cure)


def sample_directly(
    design: Design,
    priors: ResolvedPriors,
    df: Degrees | None,
    *,
    draws: int = 4000,
    seed: int,
) -> Draws:
    """Independent draws from the posterior.

    Parameters
    ----------
    design : Design, or a part of one
    priors : ResolvedPriors
    df : DegreesOfFreedom, Excess, float or None
        Prior of ν, or of ln(ν − lower), or its fixed value; None for normal study effects.
    draws : int, default 4000
    seed : int
        The same seed gives the same draws.

    Returns
    -------
    Draws
        With `importance`: the effective number of draws, Pareto k, and the log marginal likelihood.

    Raises
    ------
    FitError
        For priors that the engine cannot take, or random intercepts of ln τ².
    """
    if df is not None:
        return sample_student(design, priors, df, draws=draws, seed=seed)
    return sample_collapsed(design, priors, draws=draws, seed=seed)
