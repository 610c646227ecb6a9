"""Averages over models of several scale terms: which terms each formula needs.

The scale terms themselves, their levels and their correlations are in every model; what may be left
out are the moderators of the location part and of each scale term's own formula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.engines.collapsed import require_collapsible, sample_collapsed
from bayes_lsm.bayes.evidence.averages import Averages, in_words, sample_models
from bayes_lsm.bayes.evidence.clustered_nested import (
    first_coefficients,
    formula_terms,
)
from bayes_lsm.bayes.evidence.model_prior import ModelPrior
from bayes_lsm.bayes.evidence.submodels import SubModel, Term, find_terms
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prediction.heterogeneity import Heterogeneity, heterogeneity
from bayes_lsm.bayes.prediction.prediction import Prediction, predict
from bayes_lsm.bayes.resolved_priors.propriety import require_normalised
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.term_draws import flat_coefficients, join_terms, split_terms, terms_of
from bayes_lsm.design.design import Design
from bayes_lsm.design.subsets import restrict, take_columns
from bayes_lsm.errors import FitError
from bayes_lsm.priors import Priors, ResolvedPriors

_CORRELATIONS = "correlations"


@dataclass(frozen=True, eq=False)
class ClusteredModelAverage(Averages[Design]):
    """Models of which moderators matter, with their probabilities, and averages over them.

    Its attributes are those of `averages.Averages`; a term of the scale part is named
    ``"district: weeks"``.
    """

    def parts(self) -> Mapping[str, tuple[Sequence[str], Array]]:
        """What was estimated: of each part of the model the terms, and draws (1, draws, terms)."""
        return {
            "location": (self.design.location.names, self.draws.location),
            "scale": (_names(self.design), self.draws.scale),
        }

    def to_dataframe(self, *, level: float = 0.95) -> pd.DataFrame:
        """As of one scale term; the coefficients of ln τ² are named ``"district: weeks"``.

        The parameters of the correlations, Fisher's z of (partial) ones, are left out.
        """
        table = super().to_dataframe(level=level)
        return table[table.index.get_level_values("term") != _CORRELATIONS]

    def predict(
        self,
        new_data: pd.DataFrame | None = None,
        *,
        terms: Sequence[str] | None = None,
        known: Sequence[str] = (),
        variance: float | Sequence[float] | None = None,
        level: float = 0.95,
    ) -> Prediction:
        """Effects in new groups or known ones; see `BayesFit.predict`."""
        found = predict(
            self._fit, new_data, terms=terms, known=known, variance=variance, level=level
        )
        return replace(found, heading=f"Predictions of a {self.title}", remarks=self.notes)

    def heterogeneity(self, *, level: float = 0.95) -> Heterogeneity:
        """τ², τ and I² of each scale term; see `BayesFit.heterogeneity`."""
        found = heterogeneity(self._fit, level=level)
        return replace(found, heading=f"Heterogeneity of a {self.title}", remarks=self.notes)

    @property
    def _fit(self) -> Posterior:
        """The draws of all models as those of the full one."""
        terms = terms_of(self.design, self.draws.flat_scale)
        draws = join_terms(self.draws.flat_location, terms)
        return Posterior(self.design, self.priors, draws, self.seed, pd.DataFrame(), ())

    def _describe(self, terms: Sequence[str]) -> str:
        return _in_words(self.design, terms)


def average_clustered(
    design: Design,
    *,
    prior: Priors | None,
    model_prior: ModelPrior | Mapping[str, float],
    keep: Sequence[str],
    draws: int,
    seed: int | None,
    most_models: int,
    progress: bool,
) -> ClusteredModelAverage:
    """Average over all models that leave out moderators; see `averaging.average_models`.

    Raises
    ------
    FitError
        As there, and for random intercepts of ln τ².
    """
    if any(term.random for term in design.terms):
        raise FitError(
            "models with random intercepts of ln τ² cannot be averaged; compare fits by "
            "bayes_factor, or leave the random intercepts out"
        )
    prior = prior or design.specification.priors
    priors = resolve_priors(design, prior)
    require_normalised(priors, "averaging over models")
    require_collapsible(priors, "models can be averaged with such priors only")
    terms = {"location": find_terms(design.location), "scale": _scale_terms(design)}

    def sample(model: SubModel, its_seed: int) -> Draws:
        smaller = take_columns(design, model.location, model.scale)
        own = ResolvedPriors(
            restrict(priors.location, model.location), restrict(priors.scale, model.scale)
        )
        drawn = sample_collapsed(smaller, own, draws=draws, seed=its_seed)
        scale = flat_coefficients(split_terms(smaller, drawn))  # α and κ
        return Draws(drawn.flat_location[None], scale[None], importance=drawn.importance)

    found = sample_models(
        terms,
        sample,
        model_prior=model_prior,
        keep=keep,
        draws=draws,
        seed=seed,
        most_models=most_models,
        progress=progress,
        describe=lambda terms: _in_words(design, terms),
    )
    return ClusteredModelAverage(
        design,
        prior,
        found.models,
        found.log_prior,
        found.evidences,
        terms,
        found.draws,
        found.seed,
        found.problems,
    )


def _scale_terms(design: Design) -> tuple[Term, ...]:
    """The terms of all formulas, and what every model has of correlations."""
    found: list[Term] = []
    for term, first in zip(design.terms, first_coefficients(design), strict=True):
        for each in formula_terms(term):
            found.append(
                Term(
                    f"{term.name}: {each.name}",
                    tuple(first + j for j in each.columns),
                    each.optional,
                    frozenset(f"{term.name}: {factor}" for factor in each.factors),
                )
            )
        first += len(term.names)
        kappas = tuple(range(first, first + term.n_correlations))
        if kappas:
            found.append(Term(f"{term.name}: {_CORRELATIONS}", kappas, False, frozenset()))
    return tuple(found)


def _names(design: Design) -> tuple[str, ...]:
    found: list[str] = []
    for term in design.terms:
        found += [f"{term.name}: {name}" for name in term.names]
        found += [_CORRELATIONS] * term.n_correlations
    return tuple(found)


def _in_words(design: Design, terms: Sequence[str]) -> str:
    """``district: 1, school: year``."""
    words = []
    for term in design.terms:
        start = f"{term.name}: "
        own = [name.removeprefix(start) for name in terms if name.startswith(start)]
        words.append(start + in_words([name for name in own if name != _CORRELATIONS]))
    return ", ".join(words)
