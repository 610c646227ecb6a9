"""What `sensitivity` asks of a fitted model: its unknowns by name, and its posterior refitted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import Literal

import numpy as np
import pandas as pd
from scipy.linalg import block_diag

from bayes_lsm.arrays import Array, Index
from bayes_lsm.bayes.coordinates import are_correlations
from bayes_lsm.bayes.draws import Draws, correlations_of
from bayes_lsm.bayes.engines.diagnostics import convergence, find_problems
from bayes_lsm.bayes.engines.direct import can_sample, sample_directly
from bayes_lsm.bayes.engines.nuts import Chains, sample_nuts
from bayes_lsm.bayes.pointwise_likelihood import joint_log_likelihood
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.resolved_priors.resolve import (
    level_positions,
    resolve_priors,
    scale_sd_prior,
)
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.priors import Family, PartialCorrelation, PriorBlock, Priors, ResolvedPriors
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom
from bayes_lsm.priors.excess import Excess, LogExcess

BlockName = Literal["location", "scale"]
Kind = Literal["coefficient", "level", "correlation", "sd", "df"]

# Correlations nearer to 1 are 1 in Fisher's z.
_LARGEST_Z = 18.0
_CONCENTRATIONS = (1.0, 2.0, 4.0)
# Shape and rate of published priors of ν: see `degrees_of_freedom`.
_OTHERS_OF_DF = ((2.0, 0.1), (1.0, 1 / 29))


@dataclass(frozen=True)
class PriorCoefficient:
    """One number that a model estimates, by what tables call it.

    `own` are the places of its own prior in that block of priors: several where numbers have a
    joint prior (the correlations of one scale term, slopes under a shrinkage prior). A level of
    ln τ², an SD of random intercepts, or ν, is never 0. A correlation is measured as Fisher's z, an
    SD ω as ln ω² and ν as ln(ν − lower), so that their priors can be made wider.
    """

    part: str
    term: str
    block: BlockName
    own: tuple[int, ...]
    kind: Kind = "coefficient"
    lower: float = 0.0

    @property
    def can_be_zero(self) -> bool:
        """Whether it means something that it is 0."""
        return self.kind in ("coefficient", "correlation")

    def shown(self, values: Array) -> Array:
        """What is measured as itself: a correlation from Fisher's z, ω from ln ω², ν."""
        if self.kind == "correlation":
            return np.tanh(values)
        if self.kind == "df":
            return np.asarray(self.lower + np.exp(values))
        return np.exp(values / 2) if self.kind == "sd" else values

    def __str__(self) -> str:
        return f"{self.part}[{self.term}]"


@dataclass(frozen=True, eq=False)
class Refitted:
    """Draws under one prior, and why they should not be trusted.

    `scale` (S, q) is what the scale block of priors is of, `values` (S, P) are all coefficients of
    the subject in its order. The weights (S,), where the draws do not have equal ones, sum to one.
    """

    priors: ResolvedPriors
    drawn: Draws
    scale: Array
    values: Array
    problems: tuple[str, ...] = ()
    weights: Array | None = None

    @cached_property
    def log_priors(self) -> dict[BlockName, Array]:
        """Log prior density (S,) of either block."""
        return {
            "location": self.priors.location.logpdf(self.drawn.flat_location).sum(axis=1),
            "scale": self.priors.scale.logpdf(self.scale).sum(axis=1),
        }


class Subject:
    """A fitted model whose priors are to be changed.

    Its scale block of priors has, of all scale terms, the coefficients of ln τ² and the κ of
    correlations, as `resolve_priors` has them; then ln ω² of the SDs ω of random intercepts; and
    last ln(ν − its smallest value), where ν is estimated. `slopes` and `levels` are the places in
    it of the coefficients of ln τ²; the priors are as fitted.
    """

    def __init__(self, fit: Posterior) -> None:
        self._fit, self._design = fit, fit.design
        self._is_kappa = are_correlations(fit.design)
        self._random = [each for term in fit.design.terms for each in term.random]
        self.priors = self.resolve(fit.priors)
        self._df = self.priors.df
        self._excess = Excess.of(self._df) if isinstance(self._df, DegreesOfFreedom) else None
        self.levels = level_positions(fit.design)
        of_tau2: list[int] = np.flatnonzero(~self._is_kappa).tolist()
        self.slopes = [j for j in of_tau2 if j not in self.levels]
        self.coefficients = tuple(self._find_coefficients())

    def _find_coefficients(self) -> Iterator[PriorCoefficient]:
        design, scale = self._design, self.priors.scale
        for j, name in enumerate(design.location.names):
            yield PriorCoefficient("location", name, "location", _sharing(self.priors.location, j))
        for term, at in zip(design.terms, design.places, strict=True):
            for j, name in enumerate(term.names, start=at.start):
                kind: Kind = "level" if j in self.levels else "coefficient"
                part = design.part_name("scale", term)
                yield PriorCoefficient(part, name, "scale", _sharing(scale, j), kind)
        place = count(len(self._is_kappa))
        for term in design.terms:
            for each in term.random:
                part = design.part_name("scale_sd", term)
                yield PriorCoefficient(part, each.column, "scale", (next(place),), "sd")
        for term, at in zip(design.terms, design.places, strict=True):
            own = tuple(range(at.start + len(term.names), at.stop))
            for pair in term.pairs:
                part = design.part_name("correlation", term)
                yield PriorCoefficient(part, pair, "scale", own, "correlation")
        if self._excess is not None:
            lower = self._excess.lower
            yield PriorCoefficient("study_effects", "df", "scale", (next(place),), "df", lower)

    def resolve(self, priors: Priors) -> ResolvedPriors:
        """Priors bound to the data."""
        found = resolve_priors(self._design, priors)
        more: list[Family] = [scale_sd_prior(priors)] * len(self._random)
        if isinstance(found.df, DegreesOfFreedom):
            more.append(LogExcess(found.df))
        joined = np.asarray(block_diag(found.scale.contrasts, np.eye(len(more))))
        return replace(found, scale=PriorBlock(joined, (*found.scale.priors, *more)))

    def other_statements(self) -> dict[str, Priors]:
        """What else might have been said of correlations, and of ν."""
        said = self._fit.priors
        found: dict[str, Priors] = {}
        if any(isinstance(prior, PartialCorrelation) for prior in self.priors.scale.priors):
            for eta in _CONCENTRATIONS:
                if eta != (said.lkj or 1.0):
                    found[f"correlations: LKJ({eta:g})"] = said.model_copy(update={"lkj": eta})
        if self._excess is not None:
            for numbers in _OTHERS_OF_DF:
                other = DegreesOfFreedom(*numbers, lower=self._excess.lower)
                if other != self._df:
                    found[f"ν: {other}"] = said.model_copy(update={"df": other})
        return found

    def preset_like(self, preset: Priors) -> Priors:
        """A preset, with what is said of unknowns that presets do not speak of."""
        kept = {name: getattr(self._fit.priors, name) for name in ("lkj", "scale_sd", "df")}
        return preset.model_copy(update=kept)

    def _of_engine(self, priors: ResolvedPriors) -> ResolvedPriors:
        """The priors that an engine takes: those of `resolve_priors`, with what is known of ν."""
        block, q, df = priors.scale, len(self._is_kappa), priors.df
        last = block.priors[-1]
        if self._excess is not None and isinstance(last, Family):
            df = replace(self._excess, prior=last)
        own = PriorBlock(block.contrasts[:q, :q], block.priors[:q])
        return replace(priors, scale=own, df=df)

    def can_draw(self, priors: ResolvedPriors) -> bool:
        """Whether `draw` takes these."""
        return can_sample(self._design, self._of_engine(priors))

    def draw(self, priors: ResolvedPriors, *, draws: int, seed: int) -> Refitted:
        """Independent draws under these priors."""
        drawn = sample_directly(self._design, self._of_engine(priors), draws=draws, seed=seed)
        return self.under(priors, drawn)

    def drawn(self) -> Refitted:
        """The draws of the fit itself."""
        return self.under(self.priors, self._fit.draws)

    def sample(self, priors: Priors, *, seed: int, progress: bool) -> Refitted:
        """The posterior by NUTS."""
        chains = Chains(-(-self._fit.draws.size // 4))
        drawn = sample_nuts(self._design, priors, chains, seed=seed, progress=progress)
        return self.under(self.resolve(priors), drawn)

    def under(self, priors: ResolvedPriors, drawn: Draws) -> Refitted:
        """Draws, as those of the posterior under these priors."""
        columns = [drawn.alpha_and_kappa(self._design).reshape(drawn.size, -1)]
        if drawn.scale_sd is not None:
            columns.append(2.0 * np.log(drawn.scale_sd.reshape(drawn.size, -1)))
        if self._excess is not None:
            columns.append(self._excess.from_df(drawn.flat_df)[:, None])
        scale = np.concatenate(columns, axis=1)
        problems = tuple(find_problems(drawn, convergence(self._design, drawn)))
        return Refitted(priors, drawn, scale, self.values(drawn.flat_location, scale), problems)

    def values(self, location: Array, scale: Array) -> Array:
        """All coefficients (S, P) as they are measured."""
        ends = np.cumsum([len(self._is_kappa), len(self._random)])
        of_terms, log_squares, log_excess = np.split(scale, ends, axis=1)
        rho = correlations_of(self._design, of_terms[:, self._is_kappa])
        with np.errstate(divide="ignore"):
            z = np.arctanh(np.clip(rho, -1.0, 1.0))
        z = np.clip(z, -_LARGEST_Z, _LARGEST_Z)
        alpha = of_terms[:, ~self._is_kappa]
        return np.concatenate([location, alpha, log_squares, z, log_excess], axis=1)

    def log_likelihood(self, found: Refitted) -> Array:
        """ln p(y) in each draw (S,)."""
        return joint_log_likelihood(self._design, found.drawn)

    def tau_rows(self) -> tuple[pd.Index, Array]:
        """Whose τ is shown, and the rows (U, q) that make their ln τ² of the scale block.

        Each study has its own where effects are independent; else of each scale term the variances
        that differ, of a group in the middle of all levels of random intercepts.
        """
        labels: list[str] = []
        rows, by_study = [], self._design.unit == "study"
        for term, at in zip(self._design.terms, self._design.places, strict=True):
            units = np.flatnonzero(term.used)
            if not by_study:
                units = units[np.sort(np.unique(term.table[units], axis=0, return_index=True)[1])]
            each = np.zeros((len(units), len(self.priors.scale.priors)))
            each[:, at.start : at.start + len(term.names)] = term.table[units]
            rows.append(each)
            labels += term.groups if by_study else _variance_labels(term, units)
        return pd.Index(labels, name="study" if by_study else "variance"), np.concatenate(rows)


def _sharing(block: PriorBlock, place: int) -> tuple[int, ...]:
    """The places of the prior that the coefficient at `place` has, alone or with others."""
    return tuple(block.shrunk) if place in block.shrunk else (place,)


def _variance_labels(term: ScaleTerm, units: Index) -> Iterator[str]:
    """The term, and what tells its variance from the others: effect, or the first such group."""
    by_effect = bool((term.Z[:1] == term.Z)[term.used].all())
    for group, effect in np.stack(np.divmod(units, len(term.effects)), axis=1):
        of = [] if by_effect else [term.groups[group]]
        if len(term.effects) > 1:
            of.append(term.effects[effect])
        yield term.name if len(units) == 1 else f"{term.name}: {', '.join(of)}"
