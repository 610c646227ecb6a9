"""What `savage_dickey` asks of a model with several scale terms; see `nested.Nesting`.

Effects of random intercepts of ln τ² are unknowns like α and κ, that are only never moved: a
density of α given them, averaged over their draws, is one of the posterior too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bayes_lsm.bayes.engines.collapsed import normal_prior, require_collapsible, sample_collapsed
from bayes_lsm.bayes.evidence.conditionals import Unknowns
from bayes_lsm.bayes.evidence.evidence import read_evidence
from bayes_lsm.bayes.evidence.nested import PartName, Reduced, thinned, unknown_term, worth_of
from bayes_lsm.bayes.evidence.submodels import Term, find_terms
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.term_draws import are_random, flat_coefficients, split_terms
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.design.subsets import Array, restrict, take_columns
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.blocks.arrange import error_covariance, likelihood_terms
from bayes_lsm.likelihood.blocks.row_sums import RowSums
from bayes_lsm.priors import ResolvedPriors

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior

# Of a density in units of that of one row: so many in a quadrature, and what each costs at least.
_WORK, _OVERHEAD = 1e5, 40


class Levels:
    """A model of several scale terms. Its scale part is α and κ of all terms, one after another."""

    exact_location = True

    def __init__(self, fit: Posterior) -> None:
        self._fit = fit
        design = fit.design
        self.priors = resolve_priors(design, fit.priors)
        self.nested = not any(term.random for term in design.terms)
        pieces = [(term, each) for term in design.terms for each in formula_terms(term)]
        firsts = dict(
            zip([term.name for term in design.terms], first_coefficients(design), strict=True)
        )
        self._scale = [
            (term.name, each.name, [firsts[term.name] + j for j in each.columns], each.optional)
            for term, each in pieces
        ]
        location = find_terms(design.location)
        self._location = {each.name: list(each.columns) for each in location}
        self.names: Mapping[str, Sequence[str]] = {
            "location": design.location.names,
            "scale": _names(design),
        }
        self.level: Mapping[str, set[int]] = {
            "location": {j for each in location if not each.optional for j in each.columns},
            "scale": {j for *_, columns, optional in self._scale if not optional for j in columns},
        }

    def find(self, part: PartName, term: str) -> list[int]:
        """The coefficients of a name."""
        names = self.names[part]
        if term in names:
            return [names.index(term)]
        if part == "location":
            found = [self._location[term]] if term in self._location else []
        else:
            plain = [[j] for j, name in enumerate(names) if name.partition(": ")[2] == term]
            found = plain or [
                columns
                for grouping, name, columns, _ in self._scale
                if term in (name, f"{grouping}: {name}")
            ]
        if len(found) > 1:
            several = ", ".join(repr(names[columns[0]]) for columns in found)
            raise FitError(f"several scale terms have {term!r}; name one as {several}")
        if not found:
            raise unknown_term(part, term, names)
        return found[0]

    def require_direct(self, cure: str) -> None:
        """Refuse priors with which densities are not to be had."""
        require_collapsible(self.priors, cure)

    def location_moments(self, most: int) -> tuple[Array, Array, float]:
        """Means (m, p) and covariances (m, p, p) of β at draws of α; what they are worth."""
        alphas, worth = thinned(flat_coefficients(self._fit.terms), worth_of(self._fit), most)
        mean, precision = normal_prior(self.priors.location)
        sums = RowSums(self._fit.design, mean).of(np.arange(len(self._fit.design.y)), alphas)
        away, covariances = sums.location(precision)
        return mean + away, covariances, worth

    @cached_property
    def whole(self) -> Reduced:
        """Of the fit itself."""
        moved = np.flatnonzero(~are_random(self._fit.design)).tolist()
        unknowns = _unknowns(self._fit.design, self.priors, moved)
        return Reduced(unknowns, flat_coefficients(self._fit.terms), worth_of(self._fit))

    def without(self, kept: Mapping[str, Sequence[int]], *, draws: int) -> Reduced:
        """Of the model that has these coefficients of each part only."""
        if not self.nested:
            raise FitError(
                "the coefficients of a whole term can be tested together only without random "
                "intercepts of ln τ²; name one of them"
            )
        design = take_columns(self._fit.design, kept["location"], kept["scale"])
        priors = ResolvedPriors(
            restrict(self.priors.location, kept["location"]),
            restrict(self.priors.scale, kept["scale"]),
        )
        drawn = sample_collapsed(design, priors, draws=draws, seed=self._fit.seed)
        unknowns = _unknowns(design, priors, range(len(kept["scale"])))
        alphas = flat_coefficients(split_terms(design, drawn))
        worth = np.inf if drawn.importance is None else drawn.importance.ess
        return Reduced(unknowns, alphas, worth, read_evidence(drawn))


def _unknowns(design: Design, priors: ResolvedPriors, moved: Sequence[int]) -> Unknowns:
    """α, κ and effects of random intercepts, with β integrated out."""
    from bayes_lsm.likelihood.blocks import blocks

    terms, V = likelihood_terms(design), error_covariance(design)
    data = blocks.arrange(design.y, design.X, terms, variance=V)
    location = blocks.NormalPrior(*normal_prior(priors.location))

    def log_density(points: Array) -> Array:
        found = blocks.log_likelihoods(np.ascontiguousarray(points), data, method=location)
        return np.asarray(found + priors.scale.logpdf(points[:, moved]).sum(axis=1))

    return Unknowns(log_density, {"scale": moved}, _WORK / (len(design.y) + _OVERHEAD))


def formula_terms(term: ScaleTerm) -> Iterator[Term]:
    """The terms of its formula; of each effect by itself where they have coefficients of their own.

    Their columns are counted among the coefficients of this scale term.
    """
    terms, size = find_terms(term.part), len(term.part.names)
    if term.slope_part is None or len(term.effects) == 1:
        yield from terms
        return
    for k, effect in enumerate(term.effects):
        for each in terms:
            columns = tuple(k * size + j for j in each.columns)
            yield replace(each, name=f"{effect}: {each.name}", columns=columns)


def _sizes(design: Design) -> list[tuple[int, int]]:
    """How many α and κ each term has."""
    return [(len(term.names), term.n_correlations) for term in design.terms]


def first_coefficients(design: Design) -> list[int]:
    """Where the coefficients of each term begin in the scale part."""
    return [0, *np.cumsum([q + kappas for q, kappas in _sizes(design)])[:-1].tolist()]


def _names(design: Design) -> tuple[str, ...]:
    """Of all coefficients of the scale part."""
    found: list[str] = []
    for term, (_, kappas) in zip(design.terms, _sizes(design), strict=True):
        found += [f"{term.name}: {name}" for name in term.names]
        if len(term.effects) == 2:
            found += [f"{term.name}: {', '.join(term.effects)}"] * kappas
        else:  # a partial correlation, of which 0 is no model
            found += [f"({term.name}: κ {j + 1})" for j in range(kappas)]
    return tuple(found)
