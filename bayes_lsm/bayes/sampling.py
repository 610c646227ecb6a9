"""The general engine: NUTS (nutpie) on the PyMC model of a design."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bayes_lsm.bayes.compiled_models import compile_model
from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.graph import build_latent_pymc_model, build_pymc_model, resolve_priors
from bayes_lsm.bayes.student import df_prior
from bayes_lsm.degrees_of_freedom import DegreesOfFreedom
from bayes_lsm.design import Design
from bayes_lsm.priors import Priors
from bayes_lsm.specification import TrueEffects

if TYPE_CHECKING:
    import pymc as pm

_KEPT_STATISTICS = ("diverging", "energy", "depth", "n_steps", "step_size", "mean_tree_accept")
_KEPT_VARIABLES = ("location", "scale", "true_effect", "df")
_BUILDERS = {"integrated": build_pymc_model, "latent": build_latent_pymc_model}


def sample_nuts(
    design: Design,
    priors: Priors,
    *,
    draws: int = 1000,
    tune: int = 1000,
    chains: int = 4,
    seed: int,
    target_accept: float = 0.95,
    true_effects: TrueEffects = "integrated",
    progress: bool = True,
) -> Draws:
    """Draw from the posterior by the no-U-turn sampler.

    The sampler moves in coordinates of its own (`sampler_coordinates`), which a short run of the
    collapsed engine bends. To sample without them, hand `build_pymc_model` to `pymc.sample`.

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
    true_effects : {"integrated", "latent"}, default "integrated"
        ``"latent"`` draws the true effect of each study along with the coefficients.
    progress : bool, default True
        Show a progress bar on standard error.
    """

    def compiled_model() -> Any:
        return compile_for(_BUILDERS[true_effects](design, priors), design, priors, seed=seed)

    tree = run_nuts(
        compiled_model,
        draws=draws,
        tune=tune,
        chains=chains,
        seed=seed,
        target_accept=target_accept,
        progress=progress,
    )
    posterior, stats = tree["posterior"], tree["sample_stats"]
    return Draws(
        np.asarray(posterior["location"]),
        np.asarray(posterior["scale"]),
        kept_statistics(stats),
        df=_df(posterior, df_prior(design, priors)),
        true_effect=np.asarray(posterior["true_effect"]) if true_effects == "latent" else None,
    )


def kept_statistics(stats: Any) -> dict[str, Array]:
    """What the sampler says of each draw, (chains, draws), by its name."""
    return {name: np.asarray(stats[name]) for name in _KEPT_STATISTICS if name in stats}


def run_nuts(
    compiled_model: Callable[[], Any],
    *,
    draws: int,
    tune: int,
    chains: int,
    seed: int,
    target_accept: float,
    progress: bool,
) -> Any:
    """The draws of a model that `compiled_model` compiles for nutpie, under a progress bar.

    Returns
    -------
    DataTree
        With the groups posterior and sample_stats.
    """
    with _progress(progress, chains * (tune + draws)) as (say, advance):
        say("Loading PyMC and compiling the model")
        import nutpie

        compiled = compiled_model()
        say(f"Sampling {chains} chains")
        sampler = nutpie.sample(
            compiled,
            draws=draws,
            tune=tune,
            chains=chains,
            seed=seed,
            target_accept=target_accept,
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
    return tree


def _df(posterior: Any, prior: DegreesOfFreedom | float | None) -> Array | None:
    if isinstance(prior, DegreesOfFreedom):
        return np.asarray(posterior["df"])
    return None if prior is None else np.full((1, 1), prior)


def compile_for(model: pm.Model, design: Design, priors: Priors, *, seed: int) -> Any:
    """The model of a design compiled for nutpie, in good coordinates, from the store if it can be.

    Parameters
    ----------
    model : pymc.Model
        Of one of the builders in `graph`, for this design and these priors.
    design : Design
    priors : Priors
    seed : int
        Of the short run that bends the coordinates.
    """
    from bayes_lsm.bayes.sampler_coordinates import build_sampling_model, can_map, pilot_data

    kept = [name for name in _KEPT_VARIABLES if name in model.named_vars]
    if not can_map(model, resolve_priors(design, priors)):
        return compile_model(model, kept)
    numbers = pilot_data(design, priors, seed)
    return compile_model(
        model, kept, sampled=lambda: build_sampling_model(model, numbers), numbers=numbers
    )


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
