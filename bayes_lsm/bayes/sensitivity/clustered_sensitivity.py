"""What `sensitivity` asks of a model with several scale terms.

Its scale block has the coefficients of ln τ², term by term, each followed by the κ of the term's
correlations, and last ln ω² of the random intercepts' SDs ω.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.linalg import block_diag

from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.engines.collapsed import can_collapse, sample_collapsed
from bayes_lsm.bayes.engines.diagnostics import convergence, find_problems
from bayes_lsm.bayes.engines.nuts import sample_nuts
from bayes_lsm.bayes.resolved_priors.resolve import (
    DEFAULT_SCALE_SD,
    level_positions,
    resolve_priors,
)
from bayes_lsm.bayes.sensitivity.refits import Coefficient, Kind, Refitted, joint_places
from bayes_lsm.bayes.term_draws import split_terms
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.likelihood.blocks.correlation_matrices import (
    correlation_matrices,
    kappas_of,
)
from bayes_lsm.likelihood.blocks.row_sums import RowSums
from bayes_lsm.priors import PartialCorrelation, PriorBlock, Priors, ResolvedPriors

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior

# Correlations nearer to 1 are 1 in Fisher's z.
_LARGEST_Z = 18.0
_CONCENTRATIONS = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class _Place:
    """Where a scale term stands in the scale block."""

    term: ScaleTerm
    alpha: slice
    kappa: slice
    sd: slice


class Terms:
    """A model with several scale terms; see `sensitivity_refits.Subject`."""

    def __init__(self, fit: Posterior) -> None:
        self._fit = fit
        self._places = tuple(_places(fit.design.terms))
        self.priors = self.resolve(fit.priors)
        self.levels = level_positions(fit.design)
        of_alpha = [j for place in self._places for j in _range(place.alpha)]
        self.slopes = [j for j in of_alpha if j not in self.levels]
        self.coefficients = tuple(self._find_coefficients())

    def _find_coefficients(self) -> Iterator[Coefficient]:
        location, scale = self.priors.location, self.priors.scale
        for j, name in enumerate(self._fit.design.location.names):
            yield Coefficient("location", name, "location", joint_places(location, j))
        for place in self._places:
            part = self._fit.design.part_name("scale", place.term)
            for j, name in zip(_range(place.alpha), place.term.names, strict=True):
                kind: Kind = "level" if j in self.levels else "coefficient"
                yield Coefficient(part, name, "scale", joint_places(scale, j), kind)
        for place in self._places:
            part = self._fit.design.part_name("scale_sd", place.term)
            for j, each in zip(_range(place.sd), place.term.random, strict=True):
                yield Coefficient(part, each.column, "scale", (j,), "sd")
        for place in self._places:
            own = tuple(_range(place.kappa))
            for pair in place.term.pairs:
                part = self._fit.design.part_name("correlation", place.term)
                yield Coefficient(part, pair, "scale", own, "correlation")

    def resolve(self, priors: Priors) -> ResolvedPriors:
        found = resolve_priors(self._fit.design, priors)
        sds = sum(len(place.term.random) for place in self._places)
        of_sd = (priors.scale_sd or DEFAULT_SCALE_SD,) * sds
        contrasts = np.asarray(block_diag(found.scale.contrasts, np.eye(sds)))
        return replace(found, scale=PriorBlock(contrasts, (*found.scale.priors, *of_sd)))

    def other_statements(self) -> dict[str, Priors]:
        if not any(isinstance(prior, PartialCorrelation) for prior in self.priors.scale.priors):
            return {}
        own = self._fit.priors.lkj or 1.0
        return {
            f"correlations: LKJ({eta:g})": self._fit.priors.model_copy(update={"lkj": eta})
            for eta in _CONCENTRATIONS
            if eta != own
        }

    def preset_like(self, preset: Priors) -> Priors:
        said = {"lkj": self._fit.priors.lkj, "scale_sd": self._fit.priors.scale_sd}
        return preset.model_copy(update=said)

    def can_draw(self, priors: ResolvedPriors) -> bool:
        return can_collapse(priors) and not any(place.term.random for place in self._places)

    def draw(self, priors: ResolvedPriors, *, draws: int, seed: int) -> Refitted:
        return self._posterior(
            priors, sample_collapsed(self._fit.design, priors, draws=draws, seed=seed)
        )

    def drawn(self) -> Refitted:
        return self._posterior(self.priors, self._fit.draws)

    def sample(self, priors: Priors, *, seed: int, progress: bool) -> Refitted:
        each = -(-self._fit.draws.size // 4)
        drawn = sample_nuts(self._fit.design, priors, draws=each, seed=seed, progress=progress)
        return self._posterior(self.resolve(priors), drawn)

    def _posterior(self, priors: ResolvedPriors, drawn: Draws) -> Refitted:
        design = self._fit.design
        terms = split_terms(design, drawn)
        scale = np.empty((drawn.size, len(priors.scale.priors)))
        effects = []
        for place in self._places:
            of_term = terms[place.term.name]
            scale[:, place.alpha] = of_term.alpha
            if place.term.random:
                sds = np.column_stack([each.sd for each in of_term.random])
                scale[:, place.sd] = 2.0 * np.log(sds)
            if len(_range(place.kappa)):
                scale[:, place.kappa] = kappas_of(of_term.correlation, place.term.correlation)
            effects += [each.effect for each in of_term.random]
        latent = np.concatenate(effects, axis=1) if effects else None
        location = drawn.flat_location
        problems = tuple(find_problems(drawn, convergence(design, drawn)))
        return Refitted(priors, location, scale, self.values(location, scale), latent, problems)

    def values(self, location: Array, scale: Array) -> Array:
        found = [location, *(scale[:, place.alpha] for place in self._places)]
        found += [scale[:, place.sd] for place in self._places]
        for place in self._places:
            term, s = place.term, len(place.term.effects)
            if len(_range(place.kappa)):
                R = correlation_matrices(scale[:, place.kappa], s, term.correlation)
                i, j = np.tril_indices(s, -1)
                with np.errstate(divide="ignore"):
                    z = np.arctanh(np.clip(R[:, i, j], -1.0, 1.0))
                found.append(np.clip(z, -_LARGEST_Z, _LARGEST_Z))
        return np.concatenate(found, axis=1)

    def log_likelihood(self, found: Refitted) -> Array:
        columns, first = [], 0
        for place in self._places:
            columns.append(found.scale[:, place.alpha])
            if found.latent is not None:
                levels = sum(len(each.levels) for each in place.term.random)
                columns.append(found.latent[:, first : first + levels])
                first += levels
            columns.append(found.scale[:, place.kappa])
        alphas = np.ascontiguousarray(np.concatenate(columns, axis=1))
        centre = found.location.mean(axis=0)
        sums = RowSums(self._fit.design, centre).of(np.arange(len(self._fit.design.y)), alphas)
        return np.asarray(sums.log_density(found.location - centre))

    def tau_rows(self) -> tuple[pd.Index, Array]:
        """Of each scale term the variances that differ: of a group in the middle of all levels."""
        labels, rows = [], []
        for place in self._places:
            term = place.term
            table, used = term.table, term.used.ravel()
            distinct, first = np.unique(table[used], axis=0, return_index=True)
            for z, unit in sorted(
                zip(distinct, np.flatnonzero(used)[first], strict=True), key=lambda pair: pair[1]
            ):
                row = np.zeros(len(self.priors.scale.priors))
                row[place.alpha] = z
                rows.append(row)
                labels.append(_unit_label(term, int(unit), alone=len(distinct) == 1))
        return pd.Index(labels, name="variance"), np.array(rows)


def _places(terms: tuple[ScaleTerm, ...]) -> Iterator[_Place]:
    kappas = [term.n_correlations for term in terms]
    first, last = 0, sum(kappas) + sum(len(term.names) for term in terms)
    for term, c in zip(terms, kappas, strict=True):
        end = first + len(term.names)
        sd = slice(last, last + len(term.random))
        yield _Place(term, slice(first, end), slice(end, end + c), sd)
        first, last = end + c, sd.stop


def _range(places: slice) -> range:
    return range(places.start, places.stop)


def _unit_label(term: ScaleTerm, unit: int, *, alone: bool) -> str:
    """The term, and what tells its variance from the others: effect, or the first such group."""
    if alone:
        return term.name
    group, effect = divmod(unit, term.Z.shape[1])
    by_effect = bool((term.Z[:1] == term.Z)[term.used].all())
    of = [] if by_effect else [term.groups[group]]
    if len(term.effects) > 1:
        of.append(term.effects[effect])
    return f"{term.name}: {', '.join(of)}"
