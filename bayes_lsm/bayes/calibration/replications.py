"""Simulate effects from known coefficients, fit each set, and note where the truth lies.

`calibration` and `coverage` read the same numbers off such refits: in the one the truth is drawn
from the prior, in the other it is held fixed. What is simulated and fitted, a `World` says: that of
one scale term is here, that of several in `clustered_replications`. The priors are resolved once,
on the design's own effects, and stay the same in every fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.engines.compiled_models import compile_model
from bayes_lsm.bayes.engines.diagnostics import convergence, find_problems
from bayes_lsm.bayes.engines.direct import sample_directly
from bayes_lsm.bayes.pointwise_likelihood import log_likelihood
from bayes_lsm.bayes.pymc_model.graph import build_pymc_model
from bayes_lsm.bayes.resolved_priors.resolve import require_log_link, resolve_priors
from bayes_lsm.bayes.student.effects import df_prior, sample_effects
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.links import tau2_from_log
from bayes_lsm.priors import Priors
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom
from bayes_lsm.progress import track

LEVELS = (0.5, 0.8, 0.95)
TUNE = 500  # warm-up of each chain of NUTS
CHAINS = 4

Sampler = Callable[[Design, int], Draws]
Names = tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Refit:
    """What one fit to simulated effects says.

    Attributes
    ----------
    values : ndarray, shape (S, P)
        Posterior draws of the unknowns.
    log_likelihood : ndarray, shape (R,)
        Of those of them that `spread_out` takes.
    true_log_likelihood : float
    problems : list of str
    """

    values: Array
    log_likelihood: Array
    true_log_likelihood: float
    problems: list[str]


class World(Protocol):
    """A model, and m truths under which its effects are simulated."""

    @property
    def names(self) -> Names:
        """Part and term of the P unknowns."""

    @property
    def truth(self) -> Array:
        """Their true values, shape (m, P)."""

    def refit(self, number: int, ranked: int, rng: np.random.Generator) -> Refit:
        """Simulate effects under one of the truths, and fit them."""


@dataclass(frozen=True, eq=False)
class Refits:
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

    names: Names
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
class Studies:
    """The world of a model with one scale term.

    The unknowns are the location coefficients, the scale coefficients, and ν of Student-t study
    effects where it is estimated.

    Attributes
    ----------
    design : Design
    sample : function of a design and a seed
    truth : ndarray, shape (m, P)
    df : ndarray, shape (m,), or None
        True ν.
    """

    design: Design
    sample: Sampler
    truth: Array
    df: Array | None

    @property
    def names(self) -> Names:
        """Part and term of the unknowns."""
        names = [(part, term) for part, terms in self.design.parts.items() for term in terms]
        if self.truth.shape[1] > len(names):
            names.append(("study_effects", "df"))
        return tuple(names)

    def refit(self, number: int, ranked: int, rng: np.random.Generator) -> Refit:
        """Simulate effects under one of the truths, and fit them."""
        design, truth = self.design, self.truth[number]
        p, q = design.X.shape[1], design.Z.shape[1]
        mean = design.X @ truth[:p]
        tau2 = tau2_from_log(design.Z @ truth[p : p + q])
        own = None if self.df is None else self.df[number : number + 1]
        if own is None:
            y = rng.normal(mean, np.sqrt(design.v + tau2))
        else:
            y = sample_effects(mean, design.v, tau2, own[0], rng)
        simulated = replace(design, y=y)
        draws = self.sample(simulated, int(rng.integers(2**31)))
        values = np.hstack(
            [each.reshape(-1, len(names)) for names, each in draws.parts(design).values()]
        )
        chosen = spread_out(len(values), ranked)
        few = None if own is None else draws.flat_df[chosen]
        return Refit(
            values,
            _log_likelihood(simulated, values[chosen], few),
            float(_log_likelihood(simulated, truth[None], own)[0]),
            find_problems(draws, convergence(design, draws)),
        )


def make_sampler(
    design: Design, prior: Priors, *, engine: str | Sampler, draws: int, cores: int = 1
) -> Sampler:
    """The function that fits one set of effects.

    Raises
    ------
    FitError
        For an unknown engine, or too few draws.
    """
    require_log_link(design)
    check_whole("draws", draws, least=100)
    if callable(engine):
        return engine
    if engine == "collapsed":
        resolved, df = resolve_priors(design, prior), df_prior(design, prior)
        return lambda simulated, seed: sample_directly(
            simulated, resolved, df, draws=draws, seed=seed
        )
    if engine == "nuts":
        return _compiled_nuts(design, prior, draws=draws, cores=cores)
    raise unknown_engine(engine)


def unknown_engine(engine: str) -> FitError:
    """What is said of one."""
    return FitError(
        f"engine must be 'collapsed', 'nuts' or a function of a design and a seed, got {engine!r}"
    )


def _compiled_nuts(design: Design, prior: Priors, *, draws: int, cores: int) -> Sampler:
    """NUTS on a model that is compiled once and given each set of effects."""
    import nutpie

    df = df_prior(design, prior)
    names = (
        ("location", "scale", "df") if isinstance(df, DegreesOfFreedom) else ("location", "scale")
    )
    compiled = compile_model(build_pymc_model(design, prior), names)

    def sample(simulated: Design, seed: int) -> Draws:
        tree = nutpie.sample(
            compiled.with_data(y=simulated.y),
            draws=-(-draws // CHAINS),
            tune=TUNE,
            chains=CHAINS,
            cores=cores,
            seed=seed,
            target_accept=0.95,
            save_warmup=False,
            progress_bar=False,
        )
        posterior, stats = tree["posterior"], tree["sample_stats"]
        return Draws(
            np.asarray(posterior["location"]),
            np.asarray(posterior["scale"]),
            {name: np.asarray(stats[name]) for name in ("diverging", "energy")},
            df=np.asarray(posterior["df"]) if "df" in names else _fixed(df),
        )

    return sample


def _fixed(df: DegreesOfFreedom | float | None) -> Array | None:
    return None if df is None else np.full((1, 1), df)


def refit(world: World, *, largest_rank: int, rng: np.random.Generator, progress: bool) -> Refits:
    """Simulate effects under each of a world's truths, and fit them."""
    truth = world.truth
    rows: list[dict[str, Any]] = []
    problems: list[tuple[int, str]] = []
    for number in track(range(len(truth)), "Fitting simulated effects", progress=progress):
        found = world.refit(number, largest_rank, rng)
        problems += [(number + 1, text) for text in found.problems]
        rows.append(_read(found, truth[number], largest_rank))
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Refits(
        world.names, truth, **columns, largest_rank=largest_rank, problems=tuple(problems)
    )


def spread_out(draws: int, ranked: int) -> npt.NDArray[np.intp]:
    """Which draws the truth is ranked among."""
    return np.linspace(0, draws - 1, ranked).astype(np.intp)


def _read(found: Refit, truth: Array, largest_rank: int) -> dict[str, Any]:
    values = found.values
    tails = [(1 - level) / 2 for level in LEVELS]
    below = np.sum(values[spread_out(len(values), largest_rank)] < truth, axis=0)
    return {
        "mean": values.mean(axis=0),
        "median": np.median(values, axis=0),
        "sd": values.std(axis=0, ddof=1),
        "lower": np.quantile(values, tails, axis=0),
        "upper": np.quantile(values, [1 - tail for tail in tails], axis=0),
        "ranks": np.append(below, np.sum(found.log_likelihood < found.true_log_likelihood)),
    }


def _log_likelihood(design: Design, coefficients: Array, df: Array | None) -> Array:
    """ln p(y | β, α, ν), for each row of coefficients (m, ≥ p + q) and ν (m,)."""
    p, q = design.X.shape[1], design.Z.shape[1]
    location, scale = coefficients[:, :p], coefficients[:, p : p + q]
    return np.asarray(log_likelihood(design, location, scale, df).sum(axis=1))


def check_whole(name: str, value: int, *, least: int) -> None:
    """Refuse what is not a whole number of at least `least`."""
    wrong_kind = isinstance(value, bool) or not isinstance(value, int | np.integer)
    if wrong_kind or value < least:
        raise FitError(f"{name} must be a whole number of at least {least}, got {value!r}")


def chosen_seed(seed: int | None) -> int:
    """The seed that is used: the given one, or a new one."""
    return int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
