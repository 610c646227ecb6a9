"""NUTS on the PyMC model of several scale terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.engines.compiled_models import compile_model
from bayes_lsm.bayes.engines.nuts import run_nuts
from bayes_lsm.bayes.pymc_model.graph import build_pymc_model
from bayes_lsm.design.design import Design
from bayes_lsm.priors import Priors

_KEPT = ("location", "scale", "correlation", "scale_sd", "scale_effect")


@dataclass(frozen=True, eq=False)
class ClusteredDraws:
    """What NUTS drew.

    Attributes
    ----------
    values : mapping of str to ndarray, shape (chains, draws, ...)
        ``location``, ``scale`` and, where the model has them, ``correlation``, ``scale_sd`` and
        ``scale_effect``; see `build_pymc_model`.
    stats : mapping of str to ndarray, shape (chains, draws)
    """

    values: Mapping[str, Array]
    stats: Mapping[str, npt.NDArray[Any]]


def compile_clustered(design: Design, priors: Priors) -> Any:
    """The PyMC model of a design compiled for nutpie, from the store if one like it is there."""
    model = build_pymc_model(design, priors)
    return compile_model(model, [name for name in _KEPT if name in model.named_vars])


def sample_clustered_nuts(
    compiled_model: Callable[[], Any],
    *,
    draws: int,
    tune: int,
    chains: int,
    seed: int,
    target_accept: float,
    progress: bool,
) -> ClusteredDraws:
    """Draw from the posterior; `draws` and `tune` are those of each chain.

    `compiled_model` is called when the progress bar is there, to say that it compiles.
    """
    posterior, stats = run_nuts(
        lambda: (compiled_model(), False),
        draws=draws,
        tune=tune,
        chains=chains,
        seed=seed,
        target_accept=target_accept,
        progress=progress,
    )
    return ClusteredDraws({name: posterior[name] for name in _KEPT if name in posterior}, stats)
