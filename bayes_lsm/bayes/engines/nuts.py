"""The general engine: NUTS (nutpie) on the PyMC model of a design."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bayes_lsm.arrays import Array, Index
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.compiled_models import compile_model
from bayes_lsm.bayes.pymc_model.graph import BUILDERS, build_switchable_pymc_model
from bayes_lsm.bayes.pymc_model.likelihood_node import rows_on
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.design.design import Design
from bayes_lsm.priors import Priors
from bayes_lsm.priors.excess import Degrees
from bayes_lsm.specification import TrueEffects

if TYPE_CHECKING:
    import pymc as pm

_KEPT_STATISTICS = ("diverging", "energy", "depth", "n_steps", "step_size", "mean_tree_accept")
_KEPT_VARIABLES = ("location", "scale", "kappa", "scale_sd", "scale_effect", "true_effect", "df")
# Where a far region has to be visited: transitions to a draw that is kept, and steps short enough
# for a path to turn into it. Five seeds of 20,000 draws of the bundled half-flat model then gave
# 0.57 effective draws a draw or more, in the middle and in the tails, and no divergence. Kept one
# and all it is 0.2, and with an acceptance of 0.98 one path in 80,000 diverged.
_FAR_TRANSITIONS = 4
_FAR_ACCEPT = 0.99


@dataclass(frozen=True)
class Chains:
    """How many chains of how many draws, after how long a warm-up; see `fit_bayes`."""

    draws: int = 1000
    tune: int = 1000
    chains: int = 4
    target_accept: float = 0.95


def sample_nuts(
    design: Design,
    priors: Priors,
    chains: Chains,
    *,
    seed: int,
    true_effects: TrueEffects = "integrated",
    progress: bool = True,
) -> Draws:
    """Draw from the posterior by the no-U-turn sampler.

    The sampler moves in coordinates of its own (`nuts_coordinates`), which a short run of the
    collapsed engine bends. Where that run finds a far region of little mass, one draw is kept of
    every four transitions, with an acceptance of 0.99 at least; the statistics tell of all four:
    whether one diverged, and their steps together. To sample without these coordinates, hand
    `build_pymc_model` to `pymc.sample`.
    """

    def compiled_model() -> tuple[Any, bool]:
        return compile_for(BUILDERS[true_effects](design, priors), design, priors, seed=seed)

    df = resolve_priors(design, priors).df
    return run_nuts(compiled_model, chains, df, seed=seed, progress=progress)


def compile_switchable(design: Design, priors: Priors) -> Callable[[Index, Chains, int], Draws]:
    """The model of groups' effects compiled once, for refits without some of its rows.

    What draws as `sample_nuts` where only some rows are observed, by chains and a seed.
    """
    model = build_switchable_pymc_model(design, priors)
    compiled, every = compile_model(model, kept_of(model)), np.arange(len(design.y))

    def sample(left: Index, chains: Chains, seed: int) -> Draws:
        rows = rows_on(design, np.isin(every, left))
        return run_nuts(lambda: (compiled.with_data(**rows), False), chains, None, seed=seed)

    return sample


def run_nuts(
    compiled_model: Callable[[], tuple[Any, bool]],
    chains: Chains,
    df: Degrees | None,
    *,
    seed: int,
    progress: bool = False,
) -> Draws:
    """The draws of a model that `compiled_model` compiles for nutpie, under a progress bar.

    It returns, too, whether there is a far region to be visited. `df` is the prior of ν, its fixed
    value, or None for normal study effects.
    """
    with _progress(progress) as (say, advance):
        say("Loading PyMC and compiling the model")
        import nutpie

        compiled, far = compiled_model()
        transitions = _FAR_TRANSITIONS if far else 1
        say(f"Sampling {chains.chains} chains")
        sampler = nutpie.sample(
            compiled,
            draws=transitions * chains.draws,
            tune=chains.tune,
            chains=chains.chains,
            seed=seed,
            target_accept=max(chains.target_accept, _FAR_ACCEPT if far else 0.0),
            # Its default scales by gradients, which mislead it where a posterior is half-flat.
            adaptation="draw_diag",
            save_warmup=False,
            progress_bar=False,
            progress_callback=advance,
            blocking=False,
        )
        try:
            tree = sampler.wait()
        except BaseException:
            sampler.cancel()
            raise
    variables = tree["posterior"].data_vars
    drawn = {name: np.asarray(variables[name]) for name in _KEPT_VARIABLES if name in variables}
    found: dict[str, Any] = dict(_thin(drawn, transitions))
    if isinstance(df, float):
        found["df"] = np.full((1, 1), df)
    stats = {
        name: np.asarray(tree["sample_stats"][name])
        for name in _KEPT_STATISTICS
        if name in tree["sample_stats"]
    }
    return Draws(**found, stats=_thin(stats, transitions) | _together(stats, transitions))


def _thin(draws: Mapping[str, Array], transitions: int) -> dict[str, Array]:
    """The last draw of every few."""
    return {name: each[:, transitions - 1 :: transitions] for name, each in draws.items()}


def _together(
    stats: Mapping[str, npt.NDArray[Any]], transitions: int
) -> dict[str, npt.NDArray[Any]]:
    """Whether one of every few transitions diverged, and their steps."""
    few = {
        name: stats[name].reshape(len(stats[name]), -1, transitions)
        for name in ("diverging", "n_steps")
    }
    return {"diverging": few["diverging"].any(axis=2), "n_steps": few["n_steps"].sum(axis=2)}


def compile_for(model: pm.Model, design: Design, priors: Priors, *, seed: int) -> tuple[Any, bool]:
    """A model of `graph` compiled for nutpie, in good coordinates, from the store if it can be.

    And whether those coordinates bring a far region near. The seed is that of the short run that
    bends them.
    """
    from bayes_lsm.bayes.engines.nuts_coordinates import build_sampling_model, can_map, pilot_data

    kept = kept_of(model)
    if not can_map(model, design, resolve_priors(design, priors)):
        return compile_model(model, kept), False
    numbers = pilot_data(design, priors, seed)
    compiled = compile_model(
        model, kept, sampled=lambda: build_sampling_model(model, numbers), numbers=numbers
    )
    return compiled, bool(numbers["z_reach_hinges"].any())


def kept_of(model: pm.Model) -> list[str]:
    """The variables of a model whose draws are kept."""
    return [name for name in _KEPT_VARIABLES if name in model.named_vars]


@contextmanager
def _progress(
    show: bool,
) -> Iterator[tuple[Callable[[str], None], Callable[[Sequence[Any]], None] | None]]:
    """A bar on standard error: what to call with a word, and with the chains' progress."""
    if not show:
        yield lambda words: None, None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def say(words: str) -> None:
            bar.update(task, description=words)

        def advance(chains: Sequence[Any]) -> None:
            done, total = (
                sum(getattr(each, name) for each in chains)
                for name in ("finished_draws", "total_draws")
            )
            bar.update(task, completed=done, total=total)

        yield say, advance
