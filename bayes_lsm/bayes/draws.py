"""Posterior draws of all that is unknown in a model, whichever engine made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bayes_lsm.bayes.coordinates import are_correlations
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.blocks.correlation_matrices import pair_correlations

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
    """Draws on the user's scale, named as the variables of the PyMC model.

    What a model does not have is None.

    Attributes
    ----------
    location : ndarray, shape (chains, draws, p)
    scale : ndarray, shape (chains, draws, q)
        Coefficients of ln τ², those of one scale term after those of another.
    stats : mapping of str to ndarray, shape (chains, draws)
        What the sampler says of each draw (``diverging``, ``energy``, …).
    importance : Importance or None
        Of the collapsed engine.
    df : ndarray, shape (chains, draws), or None
        Degrees of freedom ν of Student-t study effects; of shape (1, 1) where ν is fixed.
    true_effect : ndarray, shape (chains, draws, k), or None
        True effects of the studies, of a model with latent study effects.
    kappa : ndarray, shape (chains, draws, κ), or None
        Coefficients of the correlations of a group's effects, for the scale terms that have them.
        The correlations follow from them (`correlations`), and not the other way: near ±1 rounding
        leaves nothing to read κ from.
    scale_sd : ndarray, shape (chains, draws, random intercepts), or None
        SDs of the random intercepts of ln τ².
    scale_effect : ndarray, shape (chains, draws, levels), or None
        The random intercepts of ln τ², for all levels of one column after those of another.
    """

    location: Array
    scale: Array
    stats: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    importance: Importance | None = None
    df: Array | None = None
    true_effect: Array | None = None
    kappa: Array | None = None
    scale_sd: Array | None = None
    scale_effect: Array | None = None

    @property
    def chains(self) -> int:
        """Number of chains."""
        return len(self.location)

    @property
    def size(self) -> int:
        """Number of draws in all chains together."""
        return int(np.prod(self.location.shape[:2]))

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

    def alpha_and_kappa(self, design: Design) -> Array:
        """The coefficients of the scale part as its priors have them (chains, draws, Q).

        Each term's own of ln τ², then its κ.
        """
        is_kappa = are_correlations(design)
        found = np.empty((*self.scale.shape[:2], len(is_kappa)))
        found[..., ~is_kappa] = self.scale
        if self.kappa is not None:
            found[..., is_kappa] = self.kappa
        return found

    def correlations(self, design: Design) -> Array | None:
        """Of the pairs of all terms that have correlations (chains, draws, pairs)."""
        if self.kappa is None:
            return None
        found = correlations_of(design, self.kappa.reshape(self.size, -1))
        return found.reshape(*self.kappa.shape[:2], -1)

    def take(self, chosen: npt.NDArray[np.intp]) -> Draws:
        """Some of the draws, counted through all chains, in the given order, as one chain."""
        return self._map(lambda values: values.reshape(self.size, *values.shape[2:])[chosen][None])

    def in_chains(self, chains: int) -> Draws:
        """The same independent draws as so many chains, if they are a multiple of that."""
        if self.size % chains:
            return self
        return self._map(lambda values: values.reshape(chains, -1, *values.shape[2:]))

    def _map(self, change: Callable[[Array], Array]) -> Draws:
        """Every variable changed, but for a fixed ν; without what the sampler says of draws."""
        arrays = {each.name: getattr(self, each.name) for each in fields(self)}
        changed: dict[str, Any] = {
            name: change(values)
            for name, values in arrays.items()
            if isinstance(values, np.ndarray) and values.shape[:2] == self.location.shape[:2]
        }
        return replace(self, stats={}, **changed)

    def parts(self, design: Design) -> dict[str, tuple[tuple[str, ...], Array]]:
        """What was estimated: of each part of the model the terms, and draws (chains, draws, n)."""
        found = {"location": (design.location.names, self.location)}
        rest = {name: getattr(self, name) for name in ("scale", "scale_sd", "scale_effect")}
        rest["correlation"] = self.correlations(design)

        def add(part: str, variable: str, names: tuple[str, ...]) -> None:
            if names:
                values, rest[variable] = np.split(rest[variable], [len(names)], axis=2)
                found[part] = (names, values)

        for term in design.terms:
            add(design.part_name("scale", term), "scale", term.names)
        for term in design.terms:
            columns = tuple(each.column for each in term.random)
            add(design.part_name("scale_sd", term), "scale_sd", columns)
            of = "" if len(design.terms) == 1 else f"{term.name}: "
            for each in term.random:
                add(f"scale_effect ({of}{each.column})", "scale_effect", each.levels)
        for term in design.terms:
            add(design.part_name("correlation", term), "correlation", term.pairs)
        if self.df is not None and self.df.size > 1:
            found["study_effects"] = (("df",), self.df[..., None])
        return found


def correlations_of(design: Design, kappa: Array) -> Array:
    """The correlations (S, pairs) of all terms from their κ (S, κ)."""
    found = []
    for term in design.terms:
        own, kappa = np.split(kappa, [term.n_correlations], axis=1)
        found.append(pair_correlations(own, len(term.effects), term.correlation))
    return np.concatenate(found, axis=1)


# Numbers (rows × draws) that are worked on at a time: 8 MB an array, whatever the number of rows.
_BLOCK = 1_000_000


def row_blocks(rows: int, draws: int) -> Iterator[slice]:
    """Rows few enough that an array of rows × draws stays small."""
    step = max(1, _BLOCK // draws)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
