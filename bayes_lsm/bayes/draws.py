"""Posterior draws of the coefficients, whichever engine made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.design import Design

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """How good a weighted sample is, and what it says of the evidence.

    Attributes
    ----------
    pareto_k : float
        Shape of the tail of the weights; below 0.7 they can be trusted, however long the tail.
    largest_weight : float
        Share of the total that the largest weight holds; see `diagnostics.dominated`.
    ess : float
        Effective number of independent draws.
    log_evidence, log_evidence_se : float
        Log marginal likelihood ln p(y) and its Monte Carlo error; with a flat prior, of a density
        1 everywhere, it is no such thing.
    evaluations : int
        Points in the last round.
    bounded : bool
        Whether no weight can be large because the proposal holds the prior; not with flat ones.
    """

    pareto_k: float
    largest_weight: float
    ess: float
    log_evidence: float
    log_evidence_se: float
    evaluations: int
    bounded: bool = True


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of the coefficients, on the user's scale.

    Attributes
    ----------
    location : ndarray, shape (chains, draws, p)
    scale : ndarray, shape (chains, draws, q)
        Coefficients of ln τ².
    stats : mapping of str to ndarray, shape (chains, draws)
        What the sampler says of each draw (``diverging``, ``energy``, …).
    importance : Importance or None
        Of the collapsed engine.
    df : ndarray, shape (chains, draws), or None
        Degrees of freedom ν of Student-t study effects; of shape (1, 1) where ν is fixed.
    true_effect : ndarray, shape (chains, draws, k), or None
        True effects of the studies, of a model with latent study effects.
    """

    location: Array
    scale: Array
    stats: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    importance: Importance | None = None
    df: Array | None = None
    true_effect: Array | None = None

    @property
    def flat_location(self) -> Array:
        """All chains as one, shape (chains · draws, p)."""
        return self.location.reshape(-1, self.location.shape[-1])

    @property
    def flat_scale(self) -> Array:
        """All chains as one, shape (chains · draws, q)."""
        return self.scale.reshape(-1, self.scale.shape[-1])

    @property
    def flat_df(self) -> Array:
        """ν of all chains as one, shape (chains · draws,); infinite for normal study effects."""
        df = np.inf if self.df is None else self.df
        return np.broadcast_to(df, self.location.shape[:2]).reshape(-1)

    def parts(self, design: Design) -> dict[str, tuple[tuple[str, ...], Array]]:
        """What was estimated: of each part of the model the terms, and draws (chains, draws, n)."""
        found = {
            "location": (design.location.names, self.location),
            "scale": (design.scale.names, self.scale),
        }
        if self.df is not None and self.df.size > 1:
            found["study_effects"] = (("df",), self.df[..., None])
        return found


# Numbers (rows × draws) that are worked on at a time: 8 MB an array, whatever the number of rows.
_BLOCK = 1_000_000


def row_blocks(rows: int, draws: int) -> Iterator[slice]:
    """Rows few enough that an array of rows × draws stays small."""
    step = max(1, _BLOCK // draws)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
