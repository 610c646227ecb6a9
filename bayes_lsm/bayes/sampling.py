"""The general engine: NUTS (nutpie) on the PyMC model of a design."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.graph import build_pymc_model
from bayes_lsm.bayes.student import df_prior
from bayes_lsm.degrees_of_freedom import DegreesOfFreedom
from bayes_lsm.design import Design
from bayes_lsm.priors import Priors

_KEPT_STATISTICS = ("diverging", "energy", "depth", "n_steps", "step_size", "mean_tree_accept")


def sample_nuts(
    design: Design,
    priors: Priors,
    *,
    draws: int = 1000,
    tune: int = 1000,
    chains: int = 4,
    seed: int,
    target_accept: float = 0.95,
    progress: bool = True,
) -> Draws:
    """Draw from the posterior by the no-U-turn sampler.

    Parameters
    ----------
    design : Design
    priors : Priors
    draws, tune : int, default 1000
        Kept and warm-up draws of each chain.
    chains : int, default 4
    seed : int
        The same seed gives the same draws.
    target_accept : float, default 0.95
        Raise it towards 1 when there are divergences.
    progress : bool, default True
        Show a progress bar on standard error.
    """
    with _progress(progress, chains * (tune + draws)) as (say, advance):
        say("Loading PyMC and compiling the model")
        import nutpie

        compiled = nutpie.compile_pymc_model(build_pymc_model(design, priors))
        say(f"Sampling {chains} chains")
        sampler = nutpie.sample(
            compiled,
            draws=draws,
            tune=tune,
            chains=chains,
            seed=seed,
            target_accept=target_accept,
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
    posterior, stats = tree["posterior"], tree["sample_stats"]
    return Draws(
        np.asarray(posterior["location"]),
        np.asarray(posterior["scale"]),
        {name: np.asarray(stats[name]) for name in _KEPT_STATISTICS if name in stats},
        df=_df(posterior, df_prior(design, priors)),
    )


def _df(posterior: Any, prior: DegreesOfFreedom | float | None) -> Array | None:
    if isinstance(prior, DegreesOfFreedom):
        return np.asarray(posterior["df"])
    return None if prior is None else np.full((1, 1), prior)


@contextmanager
def _progress(
    show: bool, total: int
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
            bar.update(task, completed=sum(each.finished_draws for each in chains), total=total)

        yield say, advance
