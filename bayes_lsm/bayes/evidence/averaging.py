"""Averages over models: which terms belong to the location part, which to the scale part.

Every sub-model of a model gets its marginal likelihood from the collapsed engine, and so a
posterior probability. All have the same kind of study effects; ν, where it is estimated, is in all
of them. What is asked of the models is then averaged over them, and the uncertainty
about the model is part of the answer. The priors are one statement throughout: a sub-model's is the
full model's given that the coefficients of the terms left out are zero.

Hoeting, Madigan, Raftery & Volinsky (1999), Statistical Science 14, 382-417,
doi:10.1214/ss/1009212519; for meta-analysis Gronau, Heck, Berkhout, Haaf & Wagenmakers (2021),
AMPPS 4(3), doi:10.1177/25152459211031256.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.direct import require_direct, sample_directly
from bayes_lsm.bayes.evidence.evidence import Evidence, read_evidence
from bayes_lsm.bayes.evidence.model_average import ModelAverage, describe, probabilities
from bayes_lsm.bayes.evidence.model_prior import ModelPrior, log_model_prior
from bayes_lsm.bayes.evidence.submodels import (
    SubModel,
    Term,
    combine,
    find_subsets,
    require_terms,
    take_submodel,
    terms_of_parts,
)
from bayes_lsm.bayes.resolved_priors.propriety import require_normalised
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.term_draws import flat_coefficients, join_terms, split_terms, terms_of
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_count, seed_or_new
from bayes_lsm.design.design import Design
from bayes_lsm.errors import ConvergenceWarning, FitError, warn
from bayes_lsm.priors import Priors
from bayes_lsm.priors.excess import Degrees
from bayes_lsm.progress import track

_FEW_MODELS = 8
# A model this much less probable than the best, in ln, gets no draw among thousands.
_HOPELESS = 15.0


def average_models(
    design: Design,
    *,
    prior: Priors | None = None,
    model_prior: ModelPrior | Mapping[str, float] = "uniform",
    keep: Sequence[str] = (),
    draws: int = 4000,
    seed: int | None = None,
    most_models: int = 1000,
    progress: bool = True,
) -> ModelAverage:
    """Average over all models that leave out terms of the location or the scale part.

    A factor is kept or left out as a whole, and a term is kept wherever an interaction with it is.
    The intercept, or the factor that stands in for it, is always kept.

    Parameters
    ----------
    design : Design
        Of the full model. Its scale terms, their groups and correlations are in every model.
    prior : Priors, optional
        Of the coefficients. Default: those of the design's specification.
    model_prior : {"uniform", "beta_binomial"} or mapping of str to float, default "uniform"
        ``"uniform"``: all models are equally probable. ``"beta_binomial"``: all numbers of terms
        are, and all models of one size, which guards against many idle candidates (Scott & Berger
        2010). A mapping gives terms, as ``"scale[continent]"``, their inclusion probabilities;
        terms that it does not name have ½.
    keep : sequence of str
        Terms that every model has, as ``"location[weeks]"``; with several scale terms
        ``"scale[district: weeks]"``.
    draws : int, default 4000
        Of the average.
    seed : int, optional
        The same seed gives the same result. Without one, a seed is drawn and kept.
    most_models : int, default 1000
        More are refused: each takes some hundredths of a second.
    progress : bool, default True
        Show a progress bar on standard error when there are more than a few models.

    Returns
    -------
    ModelAverage

    Raises
    ------
    FitError
        For too many models, an unknown term, flat priors, priors that the collapsed engine cannot
        take (location priors that are not normal, with normal study effects; a shrinkage prior),
        random intercepts of ln τ², or when there is nothing to average over.

    Warns
    -----
    ConvergenceWarning
        When the marginal likelihood of a model that matters cannot be trusted.

    Notes
    -----
    The intercept is the effect where all moderators are 0, and so means another thing in each
    model, unless moderators are centred. `ModelAverage.predict` averages what means the same.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel(
    ...     "yi ~ ablat", scale="~ ablat", variance="vi", data=lsm.load_dataset("bcg"))
    >>> average = model.average(seed=1)
    >>> len(average.models)
    4
    >>> bool(average.inclusion.loc[("location", "ablat"), "posterior"] > 0.7)
    True

    References
    ----------
    Scott, J. G., & Berger, J. O. (2010). Bayes and empirical-Bayes multiplicity adjustment in the
    variable-selection problem. Annals of Statistics, 38(5), 2587-2619. doi:10.1214/10-AOS792
    """
    require_capable("average", design)
    require_count("draws", draws, least=100)
    prior = prior or design.specification.priors
    priors = resolve_priors(design, prior)
    require_normalised(priors, "averaging over models")
    require_direct(priors, "models can be averaged with such priors only")
    terms = terms_of_parts(design)
    models = _enumerate(terms, keep, most_models)
    log_prior = log_model_prior(model_prior, models, terms)
    seed = seed_or_new(seed)
    seeds = np.random.SeedSequence(seed).generate_state(len(models) + 1)
    evidences: list[Evidence] = []
    found: list[_Coefficients | None] = []
    best = -math.inf
    show = progress and len(models) > _FEW_MODELS
    for m in track(range(len(models)), "Fitting models", progress=show):
        smaller, own = take_submodel(design, priors, models[m].location, models[m].scale)
        drawn = sample_directly(smaller, own, draws=draws, seed=int(seeds[m]))
        evidences.append(read_evidence(drawn))
        height = evidences[m].log + log_prior[m]
        best = max(best, height)
        found.append(_Coefficients.of(smaller, drawn) if height > best - _HOPELESS else None)
    problems = tuple(
        f"location ~ {words['location']}, scale ~ {words['scale']}: {text}"
        for model, each in zip(models, evidences, strict=True)
        for words in [describe(terms, model)]
        for text in each.problems
    )
    if problems:
        warn("; ".join(problems), ConvergenceWarning)
    rng = np.random.default_rng(int(seeds[-1]))
    mixed = _mix(design, models, probabilities(log_prior, evidences), found, priors.df, draws, rng)
    return ModelAverage(
        design, prior, models, log_prior, tuple(evidences), terms, mixed, seed, problems
    )


@dataclass(frozen=True, eq=False)
class _Coefficients:
    """Draws of β (S, p), of α and κ (S, q), and of ν (S,)."""

    location: Array
    scale: Array
    df: Array

    @classmethod
    def of(cls, design: Design, drawn: Draws) -> _Coefficients:
        scale = flat_coefficients(split_terms(design, drawn))
        return cls(drawn.flat_location, scale, drawn.flat_df)


def _enumerate(
    terms: Mapping[str, Sequence[Term]], keep: Sequence[str], most_models: int
) -> tuple[SubModel, ...]:
    kept = {part: _of_part(part, keep) for part in terms}
    named = sum(map(len, kept.values()))
    if named < len(keep):
        raise FitError(f"keep must name terms as 'location[…]' or 'scale[…]', got {list(keep)!r}")
    for part, names in kept.items():
        require_terms(part, names, terms[part])
    free = sum(
        term.optional and term.label not in kept[part] for part in terms for term in terms[part]
    )
    # Counted before they are listed, which might fill the memory; marginality leaves fewer.
    if free > 30:
        raise FitError(_too_many(f"up to 2^{free}", most_models))
    location, scale = (find_subsets(terms[part], kept[part]) for part in ("location", "scale"))
    count = len(location) * len(scale)
    if count > most_models:
        raise FitError(_too_many(str(count), most_models))
    if count == 1:
        raise FitError("there is only one model: no term can be left out of either part")
    return tuple(combine(first, second) for first in location for second in scale)


def _too_many(count: str, most: int) -> str:
    return (
        f"{count} models are too many to average over, at most {most} are allowed; name terms that "
        "every model has in keep, or raise most_models"
    )


def _of_part(part: str, names: Sequence[str]) -> list[str]:
    start = f"{part}["
    return [name[len(start) : -1] for name in names if name.startswith(start) and name[-1] == "]"]


def _mix(
    design: Design,
    models: Sequence[SubModel],
    probability: Array,
    found: Sequence[_Coefficients | None],
    df: Degrees | None,
    draws: int,
    rng: np.random.Generator,
) -> Draws:
    """Draws of all models in proportion to their probabilities, in random order."""
    bounds = np.floor(np.cumsum(probability) * draws + rng.uniform()).astype(int)
    bounds[-1] = draws
    counts = np.diff(np.minimum(bounds, draws), prepend=0)
    order = rng.permutation(draws)
    location = np.zeros((draws, design.X.shape[1]))
    scale = np.zeros((draws, sum(term.size for term in design.terms)))
    drawn_df = np.empty(draws)
    first = 0
    for model, drawn, count in zip(models, found, counts, strict=True):
        if drawn is None or not count:
            continue
        rows = order[first : first + count]
        first += count
        location[np.ix_(rows, model.location)] = drawn.location[:count]
        scale[np.ix_(rows, model.scale)] = drawn.scale[:count]
        drawn_df[rows] = drawn.df[:count]
    mixed = join_terms(location, terms_of(design, scale))
    if df is None:
        return mixed
    known = drawn_df[None] if not isinstance(df, float) else np.full((1, 1), df)
    return replace(mixed, df=known)
