"""What `savage_dickey` asks of a model: its coefficients, and models without some of them.

Of the scale part they are α and κ of all scale terms, one after another. Effects of random
intercepts of ln τ² are unknowns like them that are only never moved: a density of α given them,
averaged over their draws, is one of the posterior too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.collapsed import normal_prior
from bayes_lsm.bayes.engines.direct import sample_directly
from bayes_lsm.bayes.evidence.conditionals import Unknowns, collapsed_unknowns, joint_unknowns
from bayes_lsm.bayes.evidence.evidence import Evidence, read_evidence
from bayes_lsm.bayes.evidence.submodels import (
    CORRELATIONS,
    Term,
    take_submodel,
    terms_of_parts,
)
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.term_draws import flat_coefficients, split_terms
from bayes_lsm.design.coefficients import (
    Coefficient,
    Named,
    coefficients,
    find,
    pairs,
    scale_places,
)
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.likelihood.protocol import NormalPrior
from bayes_lsm.priors import ResolvedPriors

PartName = Literal["location", "scale"]


@dataclass(frozen=True, eq=False)
class Reduced:
    """Draws (m, d) of a model, what their coordinates are, and how many independent ones that is.

    With the evidence of the model, where the draws tell it.
    """

    unknowns: Unknowns
    points: Array
    worth: float
    evidence: Evidence | None = None


@dataclass(frozen=True, eq=False)
class Nesting:
    """A fitted model that has others within it."""

    fit: Posterior

    @cached_property
    def priors(self) -> ResolvedPriors:
        """Of the coefficients and κ."""
        return resolve_priors(self.fit.design, self.fit.priors)

    @property
    def can_draw(self) -> bool:
        """Whether models without some of the coefficients can be drawn from."""
        return not any(term.random for term in self.fit.design.terms)

    @cached_property
    def terms(self) -> Mapping[str, tuple[Term, ...]]:
        """Of the formulas of each part."""
        return {
            part: tuple(each for each in terms if each.name != CORRELATIONS)
            for part, terms in terms_of_parts(self.fit.design).items()
        }

    @cached_property
    def coefficients(self) -> Mapping[str, Mapping[int, Named]]:
        """The coefficients of each part that can be tested, by their places."""
        design = self.fit.design
        location = [
            Coefficient(0, j, "", name, name) for j, name in enumerate(design.location.names)
        ]
        scale: dict[int, Named] = dict(
            zip(scale_places(design).tolist(), coefficients(design), strict=True)
        )
        ends = np.cumsum([term.size for term in design.terms])
        for pair in pairs(design):
            # With more effects a κ is of a partial correlation, of which 0 is no model.
            if len(design.terms[pair.t].effects) == 2:
                scale[int(ends[pair.t]) - 1] = pair
        return {"location": dict(enumerate(location)), "scale": scale}

    def find(self, part: PartName, term: str) -> list[int]:
        """The places of a coefficient, or of all of a term of the formula."""
        places = {each.label: each.columns for each in self.terms[part]}
        places |= {each.label: (j,) for j, each in self.coefficients[part].items()}
        known: dict[str, Named] = {each.label: each for each in self.terms[part]}
        known |= {each.label: each for each in self.coefficients[part].values()}
        return list(places[find(term, list(known.values()), f"{part} term").label])

    def without(self, part: PartName, columns: Sequence[int]) -> dict[str, list[int]]:
        """What a model has that does without some coefficients of a part."""
        sizes = {name: len(getattr(self.priors, name).priors) for name in self.terms}
        return {
            name: [j for j in range(size) if name != part or j not in columns]
            for name, size in sizes.items()
        }

    def is_model(self, part: PartName, columns: Sequence[int]) -> bool:
        """Whether there is a model without some coefficients of a part."""
        level = {j for term in self.terms[part] if not term.optional for j in term.columns}
        return not level.intersection(columns) and bool(self.without(part, columns)[part])

    def location_moments(self, most: int) -> tuple[Array, Array, float]:
        """Means (m, p) and covariances (m, p, p) of β at draws of α; what they are worth."""
        alphas, worth = thinned(flat_coefficients(self.fit.terms), worth_of(self.fit), most)
        likelihood = likelihood_of(self.fit.design.given_levels())
        prior = NormalPrior(*normal_prior(self.priors.location))
        return (*likelihood.conditional_location(alphas, prior), worth)

    @cached_property
    def whole(self) -> Reduced:
        """Of the fit itself."""
        return self._reduced(self.fit.design, self.priors, self.fit.draws, worth_of(self.fit))

    def draw(self, kept: Mapping[str, Sequence[int]], *, draws: int) -> Reduced:
        """Of the model with these coefficients of each part only; not with random intercepts."""
        if not self.can_draw:
            raise FitError(
                "the coefficients of a whole term can be tested together only without random "
                "intercepts of ln τ²; name one of them"
            )
        design, priors = take_submodel(
            self.fit.design, self.priors, kept["location"], kept["scale"]
        )
        drawn = sample_directly(design, priors, draws=draws, seed=self.fit.seed)
        worth = drawn.importance.ess if drawn.importance else 0.0
        return self._reduced(design, priors, drawn, worth, read_evidence(drawn))

    def _reduced(
        self,
        design: Design,
        priors: ResolvedPriors,
        drawn: Draws,
        worth: float,
        evidence: Evidence | None = None,
    ) -> Reduced:
        if priors.df is None:
            alphas = flat_coefficients(split_terms(design, drawn))
            return Reduced(collapsed_unknowns(design, priors), alphas, worth, evidence)
        points = np.column_stack([drawn.flat_location, drawn.flat_scale, drawn.flat_df])
        return Reduced(joint_unknowns(design, priors), points, worth, evidence)


def worth_of(fit: Posterior) -> float:
    """How many independent draws the fit's are worth."""
    return float(fit.convergence.filter(like="ess").to_numpy().min())


def thinned(draws: Array, worth: float, most: int) -> tuple[Array, float]:
    """At most so many draws, and what they are worth."""
    thin = draws[:: -(-len(draws) // most)]
    return np.ascontiguousarray(thin), min(worth, float(len(thin)))
