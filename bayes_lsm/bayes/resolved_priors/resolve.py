"""The priors of all coefficients of a model, bound to its design."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.linalg import block_diag

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.coordinates import scale_names
from bayes_lsm.bayes.resolved_priors.propriety import require_proper
from bayes_lsm.capabilities import require_capable
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import PriorError
from bayes_lsm.priors import (
    EVERY_OTHER_TERM,
    Family,
    HalfNormal,
    Prior,
    PriorBlock,
    Priors,
    ResolvedPriors,
    Shrinkage,
    contrasts,
)
from bayes_lsm.priors.blocks import bind_location, bind_scale, unknown_term
from bayes_lsm.priors.correlations import compound_symmetric, lkj
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom

DEFAULT_SCALE_SD = HalfNormal(1.0)


def resolve_priors(design: Design, priors: Priors) -> ResolvedPriors:
    """The priors of a design's location coefficients, scale coefficients and correlations.

    In the scale part the coefficients of a term come before the κ of its correlations, and the next
    term after those. A shrinkage prior is one of the slopes of all terms together.

    Where there are several scale terms a prior of one of them is named ``"district: year"``, and
    ``"year"`` is for all groupings that have no such prior of their own. The scale of effects that
    are multiplied by a slope follows the slope's units.

    A PriorError says that a prior names something that the model does not have, or is flat on a
    scale coefficient that the data do not bound.

    Examples
    --------
    >>> from bayes_lsm.datasets import load_dataset
    >>> from bayes_lsm.design.design import build_design
    >>> from bayes_lsm.priors import HalfNormal, Normal
    >>> from bayes_lsm.specification import Specification
    >>> words = Specification("yi ~ 1", "vi", scale={"district": "~ 1", "study": "~ year"})
    >>> design = build_design(words, load_dataset("konstantopoulos2011"))
    >>> said = Priors(scale={"intrcpt": HalfNormal(0.5), "study: year": Normal(0, 1)})
    >>> resolve_priors(design, said).scale.priors
    (HalfNormal(sd=0.5), HalfNormal(sd=0.5), Normal(mean=0.0, sd=1.0))
    """
    require_capable("fit_bayes", design)
    _refuse_unused(design, priors)
    y, v = design.y, design.v
    location = bind_location(priors, y=y, v=v, X=design.X, names=design.location.names)
    blocks: list[Array] = []
    scale: list[Family | Shrinkage] = []
    for term, given in zip(design.terms, _given(design, priors), strict=True):
        for piece, size in pieces(term):
            Z, names = piece.Z[piece.used], piece.names
            block = bind_scale(priors, given, y=y / size, v=v / size**2, Z=Z, names=names)
            blocks.append(block.contrasts)
            scale += block.priors
        kappas = _correlation_priors(term, priors.lkj or 1.0)
        blocks.append(np.eye(len(kappas)))
        scale += kappas
    block = PriorBlock(block_diag(*blocks), tuple(scale))
    resolved = ResolvedPriors(location, block, df_prior(design, priors))
    require_proper(design, resolved, priors)
    return resolved


def df_prior(design: Design, priors: Priors) -> DegreesOfFreedom | float | None:
    """The prior of ν, or its fixed value; None where the study effects are normal.

    A PriorError says that ν has a prior but the study effects are normal.
    """
    if design.specification.study_effects == "student_t":
        return DegreesOfFreedom() if priors.df is None else priors.df
    if priors.df is not None:
        raise PriorError(
            "the priors have degrees of freedom (df), but the study effects are normal; leave df "
            "out, or make the model with study_effects='student_t'"
        )
    return None


def scale_sd_prior(priors: Priors) -> Family:
    """The prior of the SDs of random intercepts of ln τ²."""
    return priors.scale_sd or DEFAULT_SCALE_SD


def level_positions(design: Design) -> list[int]:
    """Which coefficients of the scale part are levels of ln τ², by their places in its block."""
    found: list[int] = []
    first = 0
    for term in design.terms:
        for piece, _ in pieces(term):
            _, levels = contrasts(piece.Z[piece.used], "standardised")
            found += [first + j for j in levels]
            first += len(piece.names)
        first += term.n_correlations
    return found


def pieces(term: ScaleTerm) -> Iterator[tuple[ScaleTerm, float]]:
    """A term by effects that have units of their own, and how large their slopes are."""
    s, q = len(term.effects), len(term.names)
    if term.slope_part is None or s == 1:
        yield term, math.sqrt(float(np.mean(np.sum(term.slopes**2, axis=1))))
        return
    for k in range(s):
        here = slice(k * q // s, (k + 1) * q // s)
        piece = replace(
            term,
            names=term.names[here],
            effects=term.effects[k : k + 1],
            slopes=term.slopes[:, k : k + 1],
            Z=term.Z[:, k : k + 1, here],
        )
        yield piece, math.sqrt(float(np.mean(piece.slopes**2)))


def _refuse_unused(design: Design, priors: Priors) -> None:
    """Refuse priors of what a model does not have."""
    if priors.lkj is not None and not any(term.n_correlations for term in design.terms):
        raise PriorError(
            f"the priors have lkj={priors.lkj:g}, but the model has no correlated effects; leave "
            "lkj out"
        )
    if priors.scale_sd is not None and not any(term.random for term in design.terms):
        raise PriorError(
            f"the priors have scale_sd={priors.scale_sd}, but no scale formula of the model has "
            "random intercepts; leave scale_sd out, or write '~ 1 + (1 | column)'"
        )


def _given(design: Design, priors: Priors) -> list[dict[str, Prior]]:
    """The priors of single scale coefficients, term by term."""
    given: list[dict[str, Prior]] = []
    for term in design.terms:
        of_all = {key: prior for key, prior in priors.scale.items() if key in _short_names(term)}
        own = {
            name: priors.scale[f"{term.name}: {name}"]
            for name in term.names
            if f"{term.name}: {name}" in priors.scale
        }
        given.append({**of_all, **own})
    known = {
        key
        for term in design.terms
        for key in (*_short_names(term), *(f"{term.name}: {name}" for name in term.names))
    }
    for key in priors.scale:
        if key not in known:
            raise unknown_term("scale", key, scale_names(design))
    return given


def _short_names(term: ScaleTerm) -> tuple[str, ...]:
    return (*term.names, EVERY_OTHER_TERM)


def _correlation_priors(term: ScaleTerm, concentration: float) -> list[Family]:
    if not term.n_correlations:
        return []
    of_kind = compound_symmetric if term.correlation == "compound_symmetric" else lkj
    return of_kind(len(term.effects), concentration)
