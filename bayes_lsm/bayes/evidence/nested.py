"""What `savage_dickey` asks of a model: its coefficients, and models without some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.direct import require_direct
from bayes_lsm.bayes.evidence.conditionals import (
    Unknowns,
    collapsed_unknowns,
    joint_unknowns,
    with_prior,
)
from bayes_lsm.bayes.evidence.evidence import Evidence, read_evidence
from bayes_lsm.bayes.evidence.submodels import find_terms, sample_submodel
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.student.effects import df_prior
from bayes_lsm.design.subsets import Array, restrict, take_columns
from bayes_lsm.errors import FitError
from bayes_lsm.priors import ResolvedPriors

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior

PartName = Literal["location", "scale"]


@dataclass(frozen=True, eq=False)
class Reduced:
    """Draws of a model, and what their coordinates are.

    Attributes
    ----------
    unknowns : Unknowns
    points : ndarray, shape (m, d)
    worth : float
        How many independent draws they are worth.
    evidence : Evidence or None
        Of the model, where the draws tell it.
    """

    unknowns: Unknowns
    points: Array
    worth: float
    evidence: Evidence | None = None


class Nesting(Protocol):
    """A fitted model that has others within it.

    Attributes
    ----------
    priors : ResolvedPriors
    names : mapping of str to sequence of str
        The coefficients of each part.
    level : mapping of str to set of int
        Which of them a model cannot do without.
    nested : bool
        Whether models without some of them can be drawn from.
    exact_location : bool
        Whether β is normal given all else.
    whole : Reduced
    """

    priors: ResolvedPriors
    names: Mapping[str, Sequence[str]]
    level: Mapping[str, set[int]]
    nested: bool
    exact_location: bool

    @property
    def whole(self) -> Reduced:
        """Of the fit itself."""

    def find(self, part: PartName, term: str) -> list[int]:
        """The coefficients of a name."""

    def require_direct(self, cure: str) -> None:
        """Refuse priors with which densities are not to be had."""

    def location_moments(self, most: int) -> tuple[Array, Array, float]:
        """Means (m, p) and covariances (m, p, p) of β at draws of α; what they are worth."""

    def without(self, kept: Mapping[str, Sequence[int]], *, draws: int) -> Reduced:
        """Of the model that has these coefficients of each part only."""


class Studies:
    """A model whose τ² is one of each study."""

    nested = True

    def __init__(self, fit: Posterior) -> None:
        self._fit = fit
        design = fit.design
        self.priors = resolve_priors(design, fit.priors)
        self._df = df_prior(design, fit.priors)
        self.exact_location = self._df is None
        self.names: Mapping[str, Sequence[str]] = {
            "location": design.location.names,
            "scale": design.scale.names,
        }
        self._terms = {
            "location": find_terms(design.location),
            "scale": find_terms(design.scale),
        }
        self.level: Mapping[str, set[int]] = {
            part: {j for term in terms if not term.optional for j in term.columns}
            for part, terms in self._terms.items()
        }

    def find(self, part: PartName, term: str) -> list[int]:
        """The coefficients of a name."""
        if term in self.names[part]:
            return [self.names[part].index(term)]
        for each in self._terms[part]:
            if each.name == term:
                return list(each.columns)
        raise unknown_term(part, term, self.names[part])

    def require_direct(self, cure: str) -> None:
        """Refuse priors with which densities are not to be had."""
        require_direct(self.priors, self._df, cure)

    def location_moments(self, most: int) -> tuple[Array, Array, float]:
        """Means (m, p) and covariances (m, p, p) of β at draws of α; what they are worth."""
        from bayes_lsm.likelihood.rows.deletion import location_moments

        alphas, worth = thinned(self._fit.draws.flat_scale, worth_of(self._fit), most)
        arrays = with_prior(self._fit.design, self.priors.location)
        return (*location_moments(alphas, *arrays), worth)

    @cached_property
    def whole(self) -> Reduced:
        """Of the fit itself."""
        everything = {name: range(len(each)) for name, each in self.names.items()}
        return self._posterior(everything, self._fit.draws, worth_of(self._fit))

    def without(self, kept: Mapping[str, Sequence[int]], *, draws: int) -> Reduced:
        """Of the model that has these coefficients of each part only."""
        drawn = sample_submodel(
            self._fit.design,
            self.priors,
            self._df,
            kept["location"],
            kept["scale"],
            draws=draws,
            seed=self._fit.seed,
        )
        worth = drawn.importance.ess if drawn.importance else 0.0
        return self._posterior(kept, drawn, worth, read_evidence(drawn))

    def _posterior(
        self,
        kept: Mapping[str, Sequence[int]],
        drawn: Draws,
        worth: float,
        evidence: Evidence | None = None,
    ) -> Reduced:
        own = ResolvedPriors(
            restrict(self.priors.location, kept["location"]),
            restrict(self.priors.scale, kept["scale"]),
        )
        numbers = take_columns(self._fit.design, kept["location"], kept["scale"])
        if self._df is None:
            return Reduced(collapsed_unknowns(numbers, own), drawn.flat_scale, worth, evidence)
        points = np.column_stack([drawn.flat_location, drawn.flat_scale, drawn.flat_df])
        return Reduced(joint_unknowns(numbers, own), points, worth, evidence)


def unknown_term(part: PartName, term: str, names: Sequence[str]) -> FitError:
    """What to say of a name that is not there."""
    known = ", ".join(map(repr, names))
    return FitError(f"there is no {part} term {term!r}; the {part} coefficients are {known}")


def worth_of(fit: Posterior) -> float:
    """How many independent draws the fit's are worth."""
    return float(fit.convergence.filter(like="ess").to_numpy().min())


def thinned(draws: Array, worth: float, most: int) -> tuple[Array, float]:
    """At most so many draws, and what they are worth."""
    thin = draws[:: -(-len(draws) // most)]
    return np.ascontiguousarray(thin), min(worth, float(len(thin)))
