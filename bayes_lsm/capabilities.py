"""What cannot be done with which kind of model, why, and what to do instead: one table.

A verb asks `require_capable` before it begins. Whatever is not in this table works for every kind
of model; the tests try every verb on every kind and meet a result or a line of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from bayes_lsm.design.clusters import connected_rows
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_parts import scale_parts
from bayes_lsm.errors import FitError


@dataclass(frozen=True)
class Kind:
    """A kind of model that some verb cannot take: what it is called, and whether it holds."""

    words: str
    holds: Callable[[Design], bool]


IDENTITY = Kind("link='identity'", lambda design: design.specification.link == "identity")
STUDENT = Kind(
    "study_effects='student_t'", lambda design: design.specification.study_effects != "normal"
)
NORMAL = Kind(
    "study_effects='normal'", lambda design: design.specification.study_effects == "normal"
)
RANDOM_SCALE = Kind(
    "random intercepts of ln τ²", lambda design: any(term.random for term in design.terms)
)
INDIVIDUAL = Kind("individual data", lambda design: not (design.v > 0).all())
GROUPED = Kind(
    "several scale terms or dependent sampling errors", lambda design: not design.is_independent
)
MODERATED = Kind(
    "scale moderators", lambda design: any(term.names != ("intrcpt",) for term in design.terms)
)
CONSTANT = Kind(
    "constant scale formulas",
    lambda design: not any(part.columns for part in scale_parts(design)),
)
LEVELS = Kind(
    "a scale part of levels alone, without moderators",
    lambda design: all(len(term.levels) == len(term.names) for term in design.terms),
)
BARE = Kind(
    "a model without moderators",
    lambda design: design.location.names == ("intrcpt",) and CONSTANT.holds(design),
)
CONNECTED = Kind(
    "rows that all depend on each other, as those of crossed groups",
    lambda design: not design.is_independent and not connected_rows(design).any(),
)


@dataclass(frozen=True)
class Refusal:
    """What verbs cannot do with one kind of model, for what reason, and what to do instead."""

    verbs: tuple[str, ...]
    kind: Kind
    reason: str
    instead: str


LIMITS = (
    Refusal(
        ("fit_reml",),
        STUDENT,
        "the restricted likelihood of effects with the tails of a t is not implemented",
        "use fit_bayes, or study_effects='normal'",
    ),
    Refusal(
        ("fit_reml",),
        RANDOM_SCALE,
        "the likelihood has no closed form when ln τ² itself varies at random",
        "use fit_bayes, or make the column a moderator of the scale formula",
    ),
    Refusal(
        (
            "fit_bayes",
            "to_pymc",
            "prior_predictive",
            "average",
            "calibrate",
            "coverage",
            "report",
        ),
        IDENTITY,
        "priors are stated on ln τ²",
        "use fit_reml, or link='log'",
    ),
    Refusal(
        ("check", "score_test", "permutation_test", "bootstrap_test", "profile", "robust"),
        IDENTITY,
        "its likelihood is that of ln τ², which has no border",
        "use link='log'; wald_test, likelihood_ratio_test and Wald intervals take the link",
    ),
    Refusal(
        ("tau_means", "tau_contrasts", "tau_steps"),
        IDENTITY,
        "means and ratios are linear in α where it gives ln τ²",
        "use predict_tau, or link='log'",
    ),
    Refusal(
        ("tau_means", "tau_contrasts"),
        CONSTANT,
        "there are no values of a moderator to be compared",
        "give the scale a formula with a moderator; heterogeneity() has τ²",
    ),
    Refusal(
        ("tau_steps",),
        LEVELS,
        "the scale part has no moderators, so there is nothing to compare",
        "give the scale a formula with a moderator",
    ),
    Refusal(
        ("permutation_test",),
        BARE,
        "there is nothing to permute",
        "give the location or the scale a formula with moderators",
    ),
    Refusal(
        ("permutation_test", "robust"),
        CONNECTED,
        "there are no clusters that are independent of each other",
        "use wald_test, likelihood_ratio_test or bootstrap_test",
    ),
    Refusal(
        ("bubble", "plots.heterogeneity"),
        BARE,
        "there is no moderator to be on the axis",
        "use forest, or give a formula with a moderator",
    ),
    Refusal(
        ("cochran_q", "forest"),
        INDIVIDUAL,
        "they need sampling variances, which individual data do not have",
        "see the variances of the scale terms, fit.components",
    ),
    Refusal(
        ("estimate_tau2", "q_profile_interval"),
        GROUPED,
        "the classical estimators are of one τ² that independent effects share",
        "use fit_reml and its profile likelihood",
    ),
    Refusal(
        ("estimate_tau2", "q_profile_interval"),
        MODERATED,
        "the classical estimators are of one τ² that all studies share",
        "use scale='~ 1', or fit_reml and its profile likelihood",
    ),
    Refusal(
        ("study_weights",),
        NORMAL,
        "only effects with the tails of a t are discounted; with normal ones all weights are 1",
        "make the model with study_effects='student_t'",
    ),
    Refusal(
        ("true_effects='latent'",),
        STUDENT,
        "effects with the tails of a t are integrated out",
        "leave it out, or make the model with study_effects='normal'",
    ),
    Refusal(
        ("true_effects='latent'",),
        GROUPED,
        "groups share their effects, so that a row's own is not one of the model's variables",
        "leave it out: true effects are integrated out, and true_effects() draws them",
    ),
    Refusal(
        ("coverage",),
        RANDOM_SCALE,
        "its truth is one, and their levels would be drawn anew with every set of effects",
        "use calibrate with engine='nuts', which draws them from the prior",
    ),
    Refusal(
        ("average",),
        BARE,
        "there is only one model",
        "give the location or the scale a formula with moderators",
    ),
    Refusal(
        ("waic",),
        CONNECTED,
        "WAIC is a sum over clusters that are independent given the coefficients",
        "use loo, which needs no independence",
    ),
    Refusal(
        ("engine='collapsed'", "average", "report"),
        RANDOM_SCALE,
        "they need likelihoods in closed form, by the hundred",
        "use fit_bayes with engine='nuts', and bayes_factor for two models",
    ),
)


def capabilities() -> pd.DataFrame:
    """What cannot be done with which kind of model, why, and what to do instead.

    Returns
    -------
    DataFrame
        One row a verb and kind of model: verb, model, reason, instead.

    Examples
    --------
    >>> capabilities().query("verb == 'study_weights'")["instead"].item()
    "make the model with study_effects='student_t'"
    """
    rows = [
        (verb, each.kind.words, each.reason, each.instead) for each in LIMITS for verb in each.verbs
    ]
    return pd.DataFrame(rows, columns=["verb", "model", "reason", "instead"])


_LIMITS_OF = {
    verb: tuple(limit for limit in LIMITS if verb in limit.verbs)
    for verb in {verb for limit in LIMITS for verb in limit.verbs}
}


def require_capable(verb: str, design: Design) -> None:
    """Refuse a verb that cannot take a kind of model, with the line of the table that says so."""
    for limit in _LIMITS_OF.get(verb, ()):
        if limit.kind.holds(design):
            raise FitError(
                f"{verb} does not take {limit.kind.words}: {limit.reason}; {limit.instead}"
            )
