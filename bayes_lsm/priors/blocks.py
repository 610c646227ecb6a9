"""From what is said to what is used: priors bound to the data of a design."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.choices import did_you_mean
from bayes_lsm.errors import FitError, PriorError
from bayes_lsm.priors.excess import Degrees
from bayes_lsm.priors.families import Flat, Prior
from bayes_lsm.priors.family import SYMBOLS, Family
from bayes_lsm.priors.rules import Rule, contrasts, rules
from bayes_lsm.priors.shrinkage import Shrinkage
from bayes_lsm.priors.statement import EVERY_OTHER_TERM, Priors


@dataclass(frozen=True)
class PriorBlock:
    """The priors of one part of a model, ready for use.

    Attributes
    ----------
    contrasts : ndarray, shape (p, p)
        Row j is the linear function θ_j of the coefficients that ``priors[j]`` is a distribution
        of. The identity when every prior is on its raw coefficient.
    priors : tuple of Family or Shrinkage, length p
        A shrinkage prior is that of all θ_j together at whose places it stands.
    """

    contrasts: Array
    priors: tuple[Family | Shrinkage, ...]

    @property
    def is_raw(self) -> bool:
        """Whether every prior is stated on its raw coefficient."""
        return bool(np.array_equal(self.contrasts, np.eye(len(self.priors))))

    @property
    def is_proper(self) -> bool:
        """Whether every prior integrates to one, so that it can be drawn from."""
        return not any(isinstance(prior, Flat) for prior in self.priors)

    @property
    def shrinkage(self) -> Shrinkage | None:
        """The joint prior of slopes, if there is one."""
        found = (prior for prior in self.priors if isinstance(prior, Shrinkage))
        return next(found, None)

    @property
    def shrunk(self) -> list[int]:
        """Which θ_j share the joint prior."""
        return [j for j, prior in enumerate(self.priors) if isinstance(prior, Shrinkage)]

    def logpdf(self, coefficients: Array) -> Array:
        """Log prior density of each θ_j, shape (..., p), for coefficients of shape (..., p).

        The sum over the last axis is the log density of θ; that of the coefficients differs from
        it by the constant log |det contrasts|. The slopes under a shrinkage prior have one joint
        log density, its hyperparameters integrated out, of which each is given an equal part.
        """
        theta = np.asarray(coefficients) @ self.contrasts.T
        values = np.empty_like(theta)
        for j, prior in enumerate(self.priors):
            if isinstance(prior, Family):
                values[..., j] = prior.logpdf(theta[..., j])
        if self.shrinkage is not None:
            joint = self.shrinkage.joint_logpdf(theta[..., self.shrunk])
            values[..., self.shrunk] = joint[..., None] / len(self.shrunk)
        return values

    def sample(self, size: int, rng: np.random.Generator) -> Array:
        """Independent draws of the coefficients, shape (size, p).

        Raises
        ------
        PriorError
            When a prior is flat.
        """
        theta = np.empty((size, len(self.priors)))
        for j, prior in enumerate(self.priors):
            if isinstance(prior, Family):
                theta[:, j] = prior.sample(size, rng)
        if self.shrinkage is not None:
            theta[:, self.shrunk] = self.shrinkage.joint_sample(size, len(self.shrunk), rng)
        return np.linalg.solve(self.contrasts, theta.T).T

    def restricted(self, kept: Sequence[int]) -> PriorBlock:
        """The prior of some coefficients given that the others are zero.

        It is what the same preset says of the smaller model: of the average study, per SD of each
        moderator that is left. So it is the same statement in a model and in its sub-models. A
        FitError says that a coefficient that carries the level of a model cannot be left out.
        """
        kept = list(kept)
        dropped = [j for j in range(len(self.priors)) if j not in kept]
        if np.any(self.contrasts[np.ix_(dropped, kept)]):
            raise FitError(
                "a coefficient that carries the level of a model (its intercept, the means of a "
                "factor without one) cannot be left out; keep it"
            )
        priors = tuple(self.priors[j] for j in kept)
        return PriorBlock(self.contrasts[np.ix_(kept, kept)], priors)


@dataclass(frozen=True)
class ResolvedPriors:
    """The priors of a model's location and scale coefficients, bound to its data.

    `df` is the prior of ν, or of ln(ν − lower), or its fixed value; None where the study effects
    are normal.
    """

    location: PriorBlock
    scale: PriorBlock
    df: Degrees | None = None

    @property
    def is_proper(self) -> bool:
        """Whether every prior integrates to one."""
        return self.location.is_proper and self.scale.is_proper


def bind_location(
    priors: Priors, *, y: Array, v: Array, X: Array, names: Iterable[str]
) -> PriorBlock:
    """Bind priors to data: each location coefficient's prior, and what it is stated on."""
    rule, _ = _rules(priors, y, v)
    known = tuple(names)
    for term in priors.location:
        if term != EVERY_OTHER_TERM and term not in known:
            raise unknown_term("location", term, known)
    return _Binding("location", X, known, rule).block(priors.location)


def bind_scale(
    priors: Priors,
    given: Mapping[str, Prior],
    *,
    y: Array,
    v: Array,
    Z: Array,
    names: Iterable[str],
) -> PriorBlock:
    """Bind priors to data: the prior of each coefficient of ln τ², and what it is stated on.

    Those of single coefficients are `given`, in the place of ``priors.scale``. The effects y (n,)
    and v are in units of what τ² is the variance of. A PriorError says that a slope got a prior of
    τ.
    """
    _, rule = _rules(priors, y, v)
    binding = _Binding("scale", Z, tuple(names), rule)
    return binding.block(given, tau=priors.tau, shrinkage=priors.scale_shrinkage)


def unknown_term(part: str, term: str, known: Sequence[str]) -> PriorError:
    """What is said of a prior of a term that the model does not have."""
    return PriorError(
        f"a {part} prior is given for {term!r}, but the {part} terms are "
        f"{', '.join(map(repr, known))}{did_you_mean(term, known)}"
    )


def _rules(priors: Priors, y: Array, v: Array) -> tuple[Rule, Rule]:
    return rules(priors.preset, measure=priors.measure, uisd=priors.unit_information_sd, y=y, v=v)


@dataclass(frozen=True)
class _Binding:
    """One part of a model whose coefficients are to be given their priors."""

    part: str
    columns: Array
    names: tuple[str, ...]
    rule: Rule

    def block(
        self,
        given: Mapping[str, Prior],
        *,
        tau: Prior | None = None,
        shrinkage: Shrinkage | None = None,
    ) -> PriorBlock:
        """Each coefficient's prior, by the order of precedence that `Priors` documents."""
        standardised, levels = contrasts(self.columns, "standardised")
        of_rule, _ = contrasts(self.columns, self.rule.coordinates)
        rows: list[Array] = []
        chosen: list[Prior | Shrinkage] = []
        for j, name in enumerate(self.names):
            by_term = given.get(name)
            if by_term is None and not (tau is not None and j in levels):
                by_term = given.get(EVERY_OTHER_TERM)
            if by_term is not None:
                raw = by_term.moderators == "raw"
                rows.append(np.eye(len(self.names))[j] if raw else standardised[j])
                chosen.append(self._checked(by_term, name, is_level=j in levels))
            elif tau is not None and j in levels:
                rows.append(standardised[j])
                chosen.append(tau)
            elif shrinkage is not None and j not in levels:
                rows.append(standardised[j])
                chosen.append(shrinkage)
            else:
                rows.append(of_rule[j])
                chosen.append(self.rule.level if j in levels else self.rule.slope)
        return PriorBlock(np.array(rows), tuple(chosen))

    def _checked(self, prior: Prior, name: str, *, is_level: bool) -> Prior:
        if prior.on_variance and not is_level:
            raise PriorError(
                f"the {self.part} prior of {name!r} is {prior.words} on {SYMBOLS[prior.on]}, but "
                "this coefficient is a slope, not a log τ²; use a normal prior, or put it on the "
                "intercept"
            )
        return prior
