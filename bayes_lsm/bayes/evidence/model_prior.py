"""What is believed about models before the data are seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy.special import logsumexp

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.evidence.submodels import SubModel, Term
from bayes_lsm.choices import require_choice
from bayes_lsm.errors import FitError

ModelPrior = Literal["uniform", "beta_binomial"]


def log_model_prior(
    model_prior: ModelPrior | Mapping[str, float],
    models: Sequence[SubModel],
    terms: Mapping[str, Sequence[Term]],
) -> Array:
    """Log prior probabilities of the models (M,), which sum to 1; see `average_models`.

    A FitError refuses an unknown rule or term, and probabilities that are not between 0 and 1.
    """
    if isinstance(model_prior, Mapping):
        log_prior = _by_inclusion(model_prior, models, terms)
    else:
        require_choice(
            "model_prior",
            model_prior,
            ModelPrior,
            cure="it can also be a mapping of terms to inclusion probabilities",
        )
        sizes = np.array([len(model.location_terms) + len(model.scale_terms) for model in models])
        alike = np.array([np.sum(sizes == size) for size in sizes], dtype=float)
        # One share for each number of terms, divided among the models that have it.
        log_prior = {"uniform": np.zeros(len(models)), "beta_binomial": -np.log(alike)}[model_prior]
    return np.asarray(log_prior - logsumexp(log_prior))


def _by_inclusion(
    given: Mapping[str, float],
    models: Sequence[SubModel],
    terms: Mapping[str, Sequence[Term]],
) -> Array:
    log_prior = np.zeros(len(models))
    known = [f"{part}[{term.label}]" for part in terms for term in terms[part] if term.optional]
    for name, probability in given.items():
        if name not in known:
            raise FitError(
                f"model_prior names {name!r}; the terms that can be left out are "
                f"{', '.join(map(repr, known))}"
            )
        if not 0 < probability < 1:
            raise FitError(
                f"the inclusion probability of {name} must be between 0 and 1, got {probability}; "
                "name a term that is always there in keep"
            )
        part = name.split("[", 1)[0]
        term = name[len(part) + 1 : -1]
        has = np.array([term in getattr(model, f"{part}_terms") for model in models])
        log_prior += np.where(has, math.log(probability), math.log1p(-probability))
    return log_prior
