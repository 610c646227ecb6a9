"""The fast engine for several scale terms: β integrated out, α and the correlations drawn directly.

The same importance sampling as in `collapsed`, with the likelihood of `likelihood.clustered`. The
coefficients of all scale terms, and the κ of their correlations, are one vector; `resolve_terms`
says which prior each has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import block_diag

from bayes_lsm.bayes.collapsed import draw_weighted, normal_prior, require_collapsible
from bayes_lsm.bayes.coordinates import Coordinates, Univariate
from bayes_lsm.bayes.draws import Array, Importance
from bayes_lsm.bayes.graph import refuse_unused
from bayes_lsm.clustered_design import ClusteredDesign, ScaleTerm
from bayes_lsm.errors import PriorError
from bayes_lsm.likelihood.correlation_matrices import count
from bayes_lsm.priors import Logistic, Prior, PriorBlock, Priors, ResolvedPriors, resolve


@dataclass(frozen=True)
class PartialCorrelation:
    """Prior of Fisher's z κ of a (partial) correlation r, (1 − r²)^(b − 1) on r.

    With b = η + (s − 1 − j)/2 for the correlation given j − 1 other effects the matrix of s effects
    is LKJ(η) (Lewandowski, Kurowicka & Joe 2009, doi:10.1016/j.jmva.2009.04.008).
    """

    b: float

    def logpdf(self, theta: Array) -> Array:
        """Log density of κ, elementwise: sech²ᵇ κ over its integral B(½, b)."""
        from scipy.special import betaln

        log_sech = math.log(2.0) - np.logaddexp(theta, -theta)
        return np.asarray(2.0 * self.b * log_sech - betaln(0.5, self.b))

    def sample(self, size: int, rng: np.random.Generator) -> Array:
        """Independent draws of κ."""
        return np.arctanh(2.0 * rng.beta(self.b, self.b, size) - 1.0)


@dataclass(frozen=True)
class ClusteredPriors:
    """Priors bound to a design with several scale terms.

    Attributes
    ----------
    location : PriorBlock
    contrasts : ndarray, shape (q, q)
        From all coefficients of the scale terms, and their κ, to what the priors are stated on.
    scale : tuple of Univariate, length q
    """

    location: PriorBlock
    contrasts: Array
    scale: tuple[Univariate, ...]


def resolve_terms(design: ClusteredDesign, priors: Priors) -> ClusteredPriors:
    """The priors of a design's location coefficients, scale coefficients and correlations.

    A prior of a single scale term is named ``"district: year"``, or ``"year"`` for all groupings
    that have it. The scale of effects that are multiplied by a slope follows the slope's units.

    Raises
    ------
    PriorError
        When a prior names a term, or something else, that the model does not have.
    """
    refuse_unused(
        priors,
        correlations=any(count(len(term.effects), term.correlation) for term in design.terms),
        random=any(term.random for term in design.terms),
    )
    words = priors.model_copy(update={"lkj": None, "scale_sd": None})
    location = _resolve(design, words, {}, design.y, design.v, design.terms[0]).location
    blocks, scale = [], []
    for term, given in zip(design.terms, _given(design, priors), strict=True):
        of_term, contrasts = _of_term(design, words, term, given)
        blocks.append(contrasts)
        scale += of_term
        kappas = _correlation_priors(term, priors.lkj or 1.0)
        blocks.append(np.eye(len(kappas)))
        scale += kappas
    return ClusteredPriors(location, block_diag(*blocks), tuple(scale))


def _given(design: ClusteredDesign, priors: Priors) -> list[dict[str, Prior]]:
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


def _of_term(
    design: ClusteredDesign, priors: Priors, term: ScaleTerm, given: dict[str, Prior]
) -> tuple[list[Univariate], Array]:
    """Priors of a term's coefficients and what they are stated on, effect by effect."""
    s, q = len(term.effects), len(term.names)
    if term.slope_part is None or s == 1:
        size = math.sqrt(float(np.mean(np.sum(term.slopes**2, axis=1))))
        block = _resolve(design, priors, given, design.y / size, design.v / size**2, term).scale
        return list(block.priors), block.contrasts
    found: list[Univariate] = []
    blocks = []
    for k in range(s):
        size = math.sqrt(float(np.mean(term.slopes[:, k] ** 2)))
        here = slice(k * q // s, (k + 1) * q // s)
        own = {name: prior for name, prior in given.items() if name in (*term.names[here], "*")}
        one = replace(term, names=term.names[here], Z=term.Z[:, k : k + 1, here])
        block = _resolve(design, priors, own, design.y / size, design.v / size**2, one).scale
        found += list(block.priors)
        blocks.append(block.contrasts)
    return found, block_diag(*blocks)


def _resolve(
    design: ClusteredDesign,
    priors: Priors,
    given: dict[str, Prior],
    y: Array,
    v: Array,
    term: ScaleTerm,
) -> ResolvedPriors:
    used = np.zeros(term.Z.shape[:2], dtype=bool)
    row, effect = np.nonzero(term.slopes[:, : term.Z.shape[1]])
    used[term.index[row], effect] = True
    words = Priors(**{**dict(priors), "scale": given})
    return resolve(
        words,
        y=y,
        v=v,
        X=design.X,
        Z=term.Z[used],
        location_names=design.location.names,
        scale_names=term.names,
    )


def _correlation_priors(term: ScaleTerm, eta: float) -> list[Univariate]:
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

    def __init__(self, design: ClusteredDesign, priors: ClusteredPriors) -> None:
        from bayes_lsm.likelihood import clustered
        from bayes_lsm.likelihood.terms import arrange_design

        self._data = arrange_design(design)
        self._location = clustered.NormalPrior(*normal_prior(priors.location))
        self._inverse = np.linalg.inv(priors.contrasts)
        G = _information(design) @ self._inverse
        self.coordinates = Coordinates(priors.scale, G / math.sqrt(2))
        away = _first_guess(design) - G @ self.coordinates.theta_middle
        self.guesses = np.array([self.coordinates.middle, self.coordinates.towards(G.T @ away / 2)])

    def coefficients(self, phi: Array) -> Array:
        """α and κ (m, q) from φ (m, q)."""
        return np.ascontiguousarray(self.coordinates.theta(phi) @ self._inverse.T)

    def __call__(self, phi: Array) -> Array:
        from bayes_lsm.likelihood import clustered

        alphas = self.coefficients(phi)
        values = clustered.log_likelihoods(alphas, self._data, method=self._location)
        values = values + self.coordinates.prior.logpdf(phi)
        return np.asarray(np.where(np.isnan(values), -np.inf, values))

    def draw_location(self, alphas: Array, rng: np.random.Generator) -> Array:
        """One β (m, p) given each α (m, q)."""
        from bayes_lsm.likelihood import clustered

        noise = rng.standard_normal((len(alphas), self._data.p))
        return clustered.draw_location(alphas, noise, self._data, prior=self._location)


def sample_clustered(
    design: ClusteredDesign, priors: ClusteredPriors, *, draws: int, seed: int
) -> tuple[Array, Array, Importance]:
    """Independent draws of β (draws, p), of α and κ (draws, q), and how good they are."""
    resolved = ResolvedPriors(priors.location, priors.location)
    require_collapsible(resolved, "give each location coefficient a normal prior")
    rng = np.random.default_rng(seed)
    target = ClusteredTarget(design, priors)
    phi, importance = draw_weighted(target, draws, rng)
    alphas = target.coefficients(phi)
    return target.draw_location(alphas, rng), alphas, importance


def _information(design: ClusteredDesign) -> Array:
    """∂ln τ²/∂α of every variance that has rows, and for κ as much as from so many groups."""
    blocks = []
    for term in design.terms:
        Z = term.Z.reshape(-1, term.Z.shape[2])
        blocks.append(Z)
        kappas = count(len(term.effects), term.correlation)
        blocks.append(math.sqrt(2.0 * len(term.groups)) * np.eye(kappas))
    return np.asarray(block_diag(*blocks))


def _first_guess(design: ClusteredDesign) -> Array:
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
