"""The engines that need no chains, and which of them draws from a model.

`collapsed` has normal effects, `student_collapsed` Student-t study effects. Another such engine is
one more module with a target to draw from, and one line of `_ENGINES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.collapsed import CollapsedTarget, can_collapse
from bayes_lsm.bayes.engines.importance_sampling import Target, sample_target
from bayes_lsm.bayes.engines.student_collapsed import StudentTarget, can_sample_student
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.priors import ResolvedPriors


class _Engine(NamedTuple):
    """Which priors an engine takes, why no others, and what it draws from."""

    takes: Callable[[ResolvedPriors], bool]
    needs: str
    target: Callable[[Design, ResolvedPriors], Target]


_ENGINES = {
    "normal": _Engine(can_collapse, "the collapsed engine needs normal priors", CollapsedTarget),
    "student_t": _Engine(
        can_sample_student,
        "with Student-t study effects the collapsed engine needs proper priors",
        StudentTarget,
    ),
}


def _engine(priors: ResolvedPriors) -> _Engine:
    return _ENGINES["normal" if priors.df is None else "student_t"]


def can_sample(design: Design, priors: ResolvedPriors) -> bool:
    """Whether `sample_directly` takes a model."""
    return _engine(priors).takes(priors) and not any(term.random for term in design.terms)


def require_direct(priors: ResolvedPriors, cure: str) -> None:
    """Refuse priors that `sample_directly` does not take, by a FitError."""
    engine = _engine(priors)
    if not engine.takes(priors):
        raise FitError(
            f"{engine.needs} on all location coefficients, and no shrinkage prior on the scale "
            f"part; {cure}"
        )


def sample_directly(
    design: Design,
    priors: ResolvedPriors,
    *,
    draws: int = 4000,
    seed: int,
) -> Draws:
    """Independent draws from the posterior, with `importance`: how good they are, and the evidence.

    The design may be a part of one. Priors that the engine cannot take are a FitError.
    """
    require_direct(priors, "use engine='nuts'")
    return sample_target(_engine(priors).target(design, priors), draws, seed)
