"""Fits to simulated effects, and where the truth lies.

`calibration` and `coverage` read the same numbers off such refits: in the one the truth is drawn
from the prior, in the other it is held fixed. Truths are held as a fit holds draws, so that one
piece of code reads the unknowns off either: all that `Draws.parts` lists. The priors are resolved
once, on the design's own effects, and stay the same in every fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.compiled_models import compile_model
from bayes_lsm.bayes.engines.diagnostics import convergence, find_problems
from bayes_lsm.bayes.engines.direct import sample_directly
from bayes_lsm.bayes.engines.nuts import Chains, kept_of, run_nuts
from bayes_lsm.bayes.pointwise_likelihood import joint_log_likelihood
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.bayes.pymc_model.graph import build_pymc_model
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.student.effects import said_before
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_count
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.priors import Priors
from bayes_lsm.progress import track
from bayes_lsm.tables import Printable

LEVELS = (0.5, 0.8, 0.95)
TUNE = 500  # warm-up of each chain of NUTS
CHAINS = 4

Sampler = Callable[[Design, int], Draws]


@dataclass(frozen=True, eq=False)
class SimulatedFits:
    """What m fits to simulated effects say of P unknowns.

    Attributes
    ----------
    names : tuple of (part, term)
        Of the unknowns.
    truth : ndarray, shape (m, P)
    mean, median, sd : ndarray, shape (m, P)
        Of the posterior.
    lower, upper : ndarray, shape (m, 3, P)
        Equal-tailed intervals at the `LEVELS`.
    ranks : ndarray of int, shape (m, P + 1)
        Posterior draws, of `largest_rank` that are spread over the chains, below the truth; the
        last column is of the log-likelihood.
    largest_rank : int
    problems : tuple of (int, str)
        Number of the fit, and why its draws should not be trusted.
    """

    names: tuple[tuple[str, str], ...]
    truth: Array
    mean: Array
    median: Array
    sd: Array
    lower: Array
    upper: Array
    ranks: npt.NDArray[np.int64]
    largest_rank: int
    problems: tuple[tuple[int, str], ...]

    @property
    def failed(self) -> int:
        """Number of fits with a problem."""
        return len({number for number, _ in self.problems})

    @property
    def covered(self) -> Array:
        """Share of the intervals that hold the truth, shape (3, P)."""
        truth = self.truth[:, None]
        return np.asarray(np.mean((self.lower <= truth) & (truth <= self.upper), axis=0))

    @property
    def shares_covered(self) -> dict[str, Array]:
        """The columns of a table that say how many intervals hold the truth, (P,) each."""
        names = [f"cover{100 * level:.0f}" for level in LEVELS]
        return dict(zip(names, self.covered, strict=True))

    @property
    def share_errors(self) -> str:
        """Monte Carlo SEs of these shares, in a line."""
        m = len(self.truth)
        errors = ", ".join(f"{np.sqrt(level * (1 - level) / m):.3f}" for level in LEVELS)
        return f"Monte Carlo SEs of the shares covered are {errors}"

    def describe_problems(self) -> tuple[str, ...]:
        """A line on the fits that warned, if any did."""
        if not self.problems:
            return ()
        number, text = self.problems[0]
        return (
            f"{self.failed} of {len(self.truth)} fits warned, and are counted like the others; "
            f"fit {number}: {text}",
        )


@dataclass(frozen=True, eq=False)
class Replications(Printable):
    """Fits to simulated effects, and how they were made.

    Attributes
    ----------
    design : Design
        Its y is not used, but for the scales of a prior that depends on them.
    prior : Priors
    refits : SimulatedFits
        Truth, ranks, posterior summaries and problems of every fit.
    engine : str
    seed : int
        What to pass for the same result.
    """

    design: Design
    prior: Priors
    refits: SimulatedFits
    engine: str
    seed: int

    _digits: ClassVar[int] = 3

    @property
    def _made(self) -> tuple[str, ...]:
        made = f"seed {self.seed}; priors, resolved once: {self.prior.describe()}"
        said = said_before(self.design, self.prior)[1:]
        return (made, *said, *self.refits.describe_problems())


def name_of(engine: str | Sampler) -> str:
    """What an engine is called."""
    return engine if isinstance(engine, str) else getattr(engine, "__name__", "own engine")


def make_sampler(design: Design, prior: Priors, *, engine: str | Sampler, draws: int) -> Sampler:
    """The function that fits one set of effects.

    A FitError refuses an unknown engine, too few draws, and a model that the engine cannot take.
    """
    require_count("draws", draws, least=100)
    if callable(engine):
        return engine
    resolved = resolve_priors(design, prior)
    if engine == "collapsed":
        require_capable("engine='collapsed'", design)
        return lambda simulated, seed: sample_directly(simulated, resolved, draws=draws, seed=seed)
    if engine != "nuts":
        raise FitError(
            "engine must be 'collapsed', 'nuts' or a function of a design and a seed, got "
            f"{engine!r}"
        )
    # Compiled once, and given each set of effects.
    model = build_pymc_model(design, prior)
    compiled = compile_model(model, kept_of(model))

    chains = Chains(-(-draws // CHAINS), TUNE, CHAINS)
    return lambda simulated, seed: run_nuts(
        lambda: (compiled.with_data(y=simulated.y), False), chains, resolved.df, seed=seed
    )


def refit(
    design: Design,
    true: Draws,
    sample: Sampler,
    *,
    largest_rank: int,
    rng: np.random.Generator,
    progress: bool,
) -> SimulatedFits:
    """Simulate effects of new groups under each of some truths (m draws), and fit them."""
    truth = unknowns(design, true)
    rows: list[dict[str, Any]] = []
    problems: list[tuple[int, str]] = []
    for number in track(range(true.size), "Fitting simulated effects", progress=progress):
        one = true.take(np.array([number]))
        simulated = replace(design, y=observed_effects(design, one, rng)[0])
        draws = sample(simulated, int(rng.integers(2**31)))
        few = draws.take(np.linspace(0, draws.size - 1, largest_rank).astype(np.intp))
        row = _summarise(unknowns(design, draws))
        below = np.sum(unknowns(design, few) < truth[number], axis=0)
        likelier = joint_log_likelihood(simulated, one) > joint_log_likelihood(simulated, few)
        rows.append({**row, "ranks": np.append(below, np.sum(likelier))})
        found = find_problems(draws, convergence(simulated, draws))
        problems += [(number + 1, text) for text in found]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    parts = true.parts(design).items()
    names = tuple((part, term) for part, (terms, _) in parts for term in terms)
    return SimulatedFits(
        names, truth, **columns, largest_rank=largest_rank, problems=tuple(problems)
    )


def observed_effects(design: Design, draws: Draws, rng: np.random.Generator) -> Array:
    """New effects y (draws, n) of new groups as large as the observed, one set for each draw."""
    residuals = ConditionalEffects(design, draws).new_residuals(rng)
    return np.asarray(draws.flat_location @ design.X.T + residuals)


def unknowns(design: Design, draws: Draws) -> Array:
    """All that is estimated, shape (draws, P)."""
    parts = draws.parts(design).values()
    return np.hstack([values.reshape(-1, len(names)) for names, values in parts])


def _summarise(values: Array) -> dict[str, Array]:
    tails = [(1 - level) / 2 for level in LEVELS]
    return {
        "mean": values.mean(axis=0),
        "median": np.median(values, axis=0),
        "sd": values.std(axis=0, ddof=1),
        "lower": np.quantile(values, tails, axis=0),
        "upper": np.quantile(values, [1 - tail for tail in tails], axis=0),
    }
