"""How a page was made: versions, seed, and what to run for the same page again."""

from __future__ import annotations

import platform
from importlib.metadata import version

from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.report.page import Text

_NUMERICAL = ("numpy", "scipy", "numba")
_SAMPLING = ("pymc", "nutpie", "arviz")


def versions(*, sampled: bool = False) -> str:
    """``bayes_lsm 0.1.0, Python 3.13.1, numpy 2.5.0, …``; with those of NUTS where it was used."""
    names = ("bayes_lsm", *_NUMERICAL, *(_SAMPLING if sampled else ()))
    first, *others = (f"{name} {version(name)}" for name in names)
    return ", ".join([first, f"Python {platform.python_version()}", *others])


def was_sampled(fit: Posterior) -> bool:
    """Whether the draws are of NUTS."""
    return fit.draws.importance is None


def made_with(fit: Posterior) -> tuple[Text, ...]:
    """The foot of a page about a Bayesian fit."""
    sampled = was_sampled(fit)
    engine = "nuts" if sampled else "collapsed"
    return (
        Text(
            f"Made with {versions(sampled=sampled)}. Seed {fit.seed}, engine {engine}; priors: "
            f"{fit.priors.describe()}."
        ),
    )
