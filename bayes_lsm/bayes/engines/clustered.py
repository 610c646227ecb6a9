"""The fast engine for several scale terms: β integrated out, α and the correlations drawn directly.

The same importance sampling as in `collapsed`, with the likelihood of `likelihood.clustered`. The
coefficients of all scale terms, and the κ of their correlations, are one vector; `resolve_terms`
says which prior each has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy.linalg import block_diag

from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.engines.collapsed import (
    CHAINS,
    draw_weighted,
    normal_prior,
    require_collapsible,
)
from bayes_lsm.bayes.engines.coordinates import Coordinates
from bayes_lsm.bayes.pymc_model.graph import refuse_unused
from bayes_lsm.bayes.resolved_priors.clustered_propriety import require_proper_terms
from bayes_lsm.bayes.term_draws import join_terms, terms_of
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import PriorError
from bayes_lsm.likelihood.blocks.correlation_matrices import count
from bayes_lsm.priors import (
    Family,
    Logistic,
    Prior,
    PriorBlock,
    Priors,
    ResolvedPriors,
    Shrinkage,
    contrasts,
    resolve,
)


class PartialCorrelation(Family):
    """Prior of Fisher's z κ of a (partial) correlation r, (1 − r²)^(b − 1) on r.

    With b = η + (s − 1 − j)/2 for the correlation given j − 1 other effects the matrix of s effects
    is LKJ(η) (Lewandowski, Kurowicka & Joe 2009, doi:10.1016/j.jmva.2009.04.008).
    """

    on: Literal["coefficient"] = Field(default="coefficient", kw_only=True)
    b: float = Field(gt=0, strict=True)
    family: Literal["partial_correlation"] = Field(default="partial_correlation", kw_only=True)

    words: ClassVar[str] = "of a partial correlation"

    def _logpdf(self, x: Array) -> Array:
        """Of κ: sech²ᵇ κ over its integral B(½, b)."""
        from scipy.special import betaln

        log_sech = math.log(2.0) - np.logaddexp(x, -x)
        return np.asarray(2.0 * self.b * log_sech - betaln(0.5, self.b))

    # (1 + r) / 2 is Beta(b, b), and κ half its logit.

    def _cdf(self, x: Array) -> Array:
        from scipy.special import betainc, expit

        return np.asarray(betainc(self.b, self.b, expit(2.0 * x)))

    def _quantile(self, p: Array) -> Array:
        from scipy.special import betaincinv, logit

        return np.asarray(logit(betaincinv(self.b, self.b, p)) / 2.0)

    def _sample(self, size: int, rng: np.random.Generator) -> Array:
        return np.arctanh(2.0 * rng.beta(self.b, self.b, size) - 1.0)


def resolve_terms(design: Design, priors: Priors) -> ResolvedPriors:
    """The priors of a design's location coefficients, scale coefficients and correlations.

    In the scale part the coefficients of a term come before the κ of its correlations, and the next
    term after those. A shrinkage prior is one of the slopes of all terms together.

    A prior of a single scale term is named ``"district: year"``, or ``"year"`` for all groupings
    that have it. The scale of effects that are multiplied by a slope follows the slope's units.

    Raises
    ------
    PriorError
        When a prior names a term, or something else, that the model does not have, or is flat on a
        scale coefficient that the data do not bound.
    """
    refuse_unused(
        priors,
        correlations=any(count(len(term.effects), term.correlation) for term in design.terms),
        random=any(term.random for term in design.terms),
    )
    words = priors.model_copy(update={"lkj": None, "scale_sd": None})
    location = _resolve(design, words, {}, design.y, design.v, design.terms[0]).location
    blocks: list[Array] = []
    scale: list[Family | Shrinkage] = []
    for term, given in zip(design.terms, _given(design, priors), strict=True):
        for piece, size in pieces(term):
            own = {name: prior for name, prior in given.items() if name in (*piece.names, "*")}
            block = _resolve(design, words, own, design.y / size, design.v / size**2, piece).scale
            blocks.append(block.contrasts)
            scale += block.priors
        kappas = _correlation_priors(term, priors.lkj or 1.0)
        blocks.append(np.eye(len(kappas)))
        scale += kappas
    resolved = ResolvedPriors(location, PriorBlock(block_diag(*blocks), tuple(scale)))
    require_proper_terms(design, resolved, priors)
    return resolved


def level_positions(design: Design) -> list[int]:
    """Which coefficients of the scale part are levels of ln τ², by their places in its block."""
    found: list[int] = []
    first = 0
    for term in design.terms:
        for piece, _ in pieces(term):
            _, levels = contrasts(piece.Z[piece.used], "standardised")
            found += [first + j for j in levels]
            first += len(piece.names)
        first += count(len(term.effects), term.correlation)
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


def _given(design: Design, priors: Priors) -> list[dict[str, Prior]]:
    """The priors of single scale coefficients, term by term."""
    found: list[dict[str, Prior]] = [{} for _ in design.terms]
    for key, prior in priors.scale.items():
        known = False
        for term, given in zip(design.terms, found, strict=True):
            plain = key.removeprefix(f"{term.name}: ")
            if key == "*" or plain in term.names:
                given[plain], known = prior, True
        if not known:
            names = [f"{term.name}: {name}" for term in design.terms for name in term.names]
            raise PriorError(
                f"a scale prior is given for {key!r}, but the scale terms are "
                f"{', '.join(map(repr, names))}"
            )
    return found


def _resolve(
    design: Design,
    priors: Priors,
    given: dict[str, Prior],
    y: Array,
    v: Array,
    term: ScaleTerm,
) -> ResolvedPriors:
    words = Priors(**{**dict(priors), "scale": given})
    return resolve(
        words,
        y=y,
        v=v,
        X=design.X,
        Z=term.Z[term.used],
        location_names=design.location.names,
        scale_names=term.names,
    )


def _correlation_priors(term: ScaleTerm, eta: float) -> list[Family]:
    s = len(term.effects)
    if not count(s, term.correlation):
        return []
    if term.correlation == "compound_symmetric" and s > 2:
        # ρ uniform where the matrix is positive definite: 2κ − ln(s − 1) is logistic.
        return [Logistic(math.log(s - 1) / 2, 0.5)]
    if term.correlation == "compound_symmetric":
        return [PartialCorrelation(eta)]
    return [PartialCorrelation(eta + (s - 2 - j) / 2) for i in range(s) for j in range(i)]


class ClusteredTarget:
    """The log posterior density of φ, up to the marginal likelihood."""

    def __init__(self, design: Design, priors: ResolvedPriors) -> None:
        from bayes_lsm.likelihood.blocks import blocks
        from bayes_lsm.likelihood.blocks.arrange import arrange_design

        self._data = arrange_design(design)
        self._location = blocks.NormalPrior(*normal_prior(priors.location))
        self._inverse = np.linalg.inv(priors.scale.contrasts)
        G = _information(design) @ self._inverse
        self.coordinates = Coordinates(priors.scale.priors, G / math.sqrt(2))
        away = _first_guess(design) - G @ self.coordinates.theta_middle
        self.guesses = np.array([self.coordinates.middle, self.coordinates.towards(G.T @ away / 2)])

    def coefficients(self, phi: Array) -> Array:
        """α and κ (m, q) from φ (m, q)."""
        return np.ascontiguousarray(self.coordinates.theta(phi) @ self._inverse.T)

    def __call__(self, phi: Array) -> Array:
        from bayes_lsm.likelihood.blocks import blocks

        alphas = self.coefficients(phi)
        values = blocks.log_likelihoods(alphas, self._data, method=self._location)
        values = values + self.coordinates.prior.logpdf(phi)
        return np.asarray(np.where(np.isnan(values), -np.inf, values))

    def draw_location(self, alphas: Array, rng: np.random.Generator) -> Array:
        """One β (m, p) given each α (m, q)."""
        from bayes_lsm.likelihood.blocks import blocks

        noise = rng.standard_normal((len(alphas), self._data.p))
        return blocks.draw_location(alphas, noise, self._data, prior=self._location)


def sample_clustered(design: Design, priors: ResolvedPriors, *, draws: int, seed: int) -> Draws:
    """Independent draws of β, α and correlations, and how good they are."""
    require_collapsible(priors, "use such priors, or engine='nuts'")
    rng = np.random.default_rng(seed)
    target = ClusteredTarget(design, priors)
    phi, importance = draw_weighted(target, draws, rng)
    alphas = target.coefficients(phi)
    location = target.draw_location(alphas, rng)
    return join_terms(location, terms_of(design, alphas), importance).in_chains(CHAINS)


def _information(design: Design) -> Array:
    """∂ln τ²/∂α of every variance that has rows, and for κ as much as from so many groups."""
    blocks = []
    for term in design.terms:
        Z = term.Z.reshape(-1, term.Z.shape[2])
        blocks.append(Z)
        kappas = count(len(term.effects), term.correlation)
        blocks.append(math.sqrt(2.0 * len(term.groups)) * np.eye(kappas))
    return np.asarray(block_diag(*blocks))


def _first_guess(design: Design) -> Array:
    """ln τ² of every variance: the residual variance in equal shares; 0 for κ."""
    residuals = design.y - design.X @ np.linalg.lstsq(design.X, design.y, rcond=None)[0]
    total = float(np.mean(residuals**2))
    share = max(total - float(np.mean(design.v)), 0.05 * total) / len(design.terms)
    values = []
    for term in design.terms:
        size = np.maximum(np.mean(term.slopes**2, axis=0), 1e-300)
        values.append(np.tile(np.log(share / size), len(term.groups)))
        values.append(np.zeros(count(len(term.effects), term.correlation)))
    return np.concatenate(values)
