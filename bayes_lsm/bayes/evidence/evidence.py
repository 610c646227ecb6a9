"""A log marginal likelihood with its error, read from the weights of the collapsed engine.

The marginal likelihood ln p(y) is a by-product of that engine: the mean weight of its points, with
a Monte Carlo error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bayes_lsm.bayes.draws import Draws, Importance
from bayes_lsm.bayes.engines.diagnostics import is_dominated
from bayes_lsm.errors import FitError

EVIDENCE_DRAWS = 8000
_LARGEST_SE = 0.1


@dataclass(frozen=True)
class Evidence:
    """A log marginal likelihood.

    Attributes
    ----------
    log : float
        ln p(y).
    se : float
        Its Monte Carlo error.
    problems : tuple of str
        Why it should not be trusted; empty when all is well.
    """

    log: float
    se: float
    problems: tuple[str, ...] = ()


def read_evidence(draws: Draws) -> Evidence:
    """The marginal likelihood that the collapsed engine found on its way to these draws."""
    if draws.importance is None:
        raise FitError("draws of NUTS have no marginal likelihood; use engine='collapsed'")
    return read_importance(draws.importance)


def read_importance(importance: Importance) -> Evidence:
    """The mean weight of a sample, and why it should not be trusted."""
    log, se, k = importance.log_evidence, importance.log_evidence_se, importance.pareto_k
    problems = []
    if is_dominated(importance):
        problems.append(
            f"a few points dominate the marginal likelihood (Pareto k {k:.2f}, largest weight "
            f"{100 * importance.largest_weight:.1f}%); use tighter priors"
        )
    return with_error(log, se, problems, cure="take more draws, or use tighter priors")


def with_error(log: float, se: float, problems: Sequence[str], *, cure: str) -> Evidence:
    """A marginal likelihood, with a complaint and its cure when its error is large."""
    # Written so that nan counts as wrong.
    if se <= _LARGEST_SE:
        return Evidence(log, se, tuple(problems))
    large = (
        f"the log marginal likelihood has a Monte Carlo error of {se:.2g} (at most {_LARGEST_SE} "
        f"is good); {cure}"
    )
    return Evidence(log, se, (*problems, large))
