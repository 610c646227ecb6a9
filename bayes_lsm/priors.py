"""Priors: what is believed about the coefficients before the data are seen.

A `Prior` is one univariate distribution; a `Priors` says which one each coefficient gets. Two
presets are ready: `preset("weakly_informative")` (the default) follows the units of the effects and
of every moderator; `preset("slides")` puts independent normals on the raw coefficients.

A prior need not be stated on a coefficient itself. What it is stated on is always one linear
function of the coefficients (the mean of an average study, a slope per standard deviation of its
moderator), so `resolve` turns `Priors` and the design's arrays into a `PriorBlock` per part:
``contrasts @ coefficients = theta`` with an independent prior on each ``theta[j]``. To add a
distribution, add a class here, its log density, and its PyMC twin in `bayes/graph.py`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from bayes_lsm.degrees_of_freedom import DegreesOfFreedom as DegreesOfFreedom
from bayes_lsm.degrees_of_freedom import Df
from bayes_lsm.errors import PriorError
from bayes_lsm.frozen import Fault, Frozen, FrozenDict, key_text

Array = npt.NDArray[np.float64]
PresetName = Literal["weakly_informative", "slides"]

EVERY_OTHER_TERM = "*"

_IN_WORDS: dict[PresetName, str] = {
    "weakly_informative": "with s the SD of the effects: mean effect ~ Normal(average, 2.5 s), τ "
    "of the average study ~ HalfNormal(s), per SD of a moderator Normal(0, 2.5 s) on the effect "
    "and Normal(0, 2) on ln τ²",
    "slides": "raw coefficients: location ~ Normal(0, 100), scale ~ Normal(0, 7)",
}


class _Checked(Frozen):
    error: ClassVar = PriorError


class Normal(_Checked):
    """Normal prior on a coefficient (of the scale part: on log τ²).

    Parameters
    ----------
    mean : float, default 0
    sd : float, default 1
        Must be positive.

    Examples
    --------
    >>> Normal(0, 7)
    Normal(mean=0.0, sd=7.0)
    """

    mean: float = Field(default=0.0, strict=True)
    sd: float = Field(default=1.0, gt=0, strict=True)
    family: Literal["normal"] = Field(default="normal", repr=False)

    def logpdf(self, theta: Array) -> Array:
        """Log density at `theta`, elementwise."""
        z = (np.asarray(theta) - self.mean) / self.sd
        return -0.5 * z**2 - math.log(self.sd) - 0.5 * math.log(2 * math.pi)

    def sample(self, size: int, rng: np.random.Generator) -> Array:
        """Independent draws, shape (size,)."""
        return rng.normal(self.mean, self.sd, size)


class HalfNormal(_Checked):
    """Half-normal prior on τ, for the intercept (or the level means) of the scale part.

    The coefficient is log τ² there; the Jacobian |dτ / d log τ²| = τ/2 is part of `logpdf`.

    Parameters
    ----------
    sd : float, default 1
        Scale of the half-normal, in the units of the effects. Must be positive.

    Examples
    --------
    >>> HalfNormal(5)
    HalfNormal(sd=5.0)
    """

    sd: float = Field(default=1.0, gt=0, strict=True)
    family: Literal["half_normal"] = Field(default="half_normal", repr=False)

    def logpdf(self, theta: Array) -> Array:
        """Log density of θ = log τ², elementwise."""
        log_tau = 0.5 * np.asarray(theta)
        with np.errstate(over="ignore"):
            z = np.exp(log_tau - math.log(self.sd))
            square = z**2
        constant = 0.5 * math.log(2 / math.pi) - math.log(2) - math.log(self.sd)
        return -0.5 * square + log_tau + constant

    def sample(self, size: int, rng: np.random.Generator) -> Array:
        """Independent draws of θ = log τ², shape (size,)."""
        return 2.0 * np.log(np.abs(rng.normal(0.0, self.sd, size)))


Prior = Normal | HalfNormal
_AnyFamily = Annotated[Prior, Field(discriminator="family")]
_ByTerm = Annotated[dict[str, _AnyFamily], AfterValidator(FrozenDict)]


class Priors(_Checked):
    """Which prior each coefficient gets: a preset, and priors of single terms that override it.

    Parameters
    ----------
    preset : {"weakly_informative", "slides"}, default "weakly_informative"
        The rule for every coefficient that is not named below.
    location, scale : mapping of term name to prior, optional
        Term names as the tables print them (``"I(weeks - 40)"``). These priors are on the raw
        coefficient: per unit of the moderator, the scale part on log τ² (a `HalfNormal` on τ where
        all moderators are zero). The key ``"*"`` stands for every term that is not named.
    df : DegreesOfFreedom or float, optional
        Of Student-t study effects only: the prior of their degrees of freedom ν, or the number that
        ν is fixed at. Default: ``DegreesOfFreedom(2, 0.1)``, Gamma(2, 0.1) from 1 up.

    Examples
    --------
    >>> Priors("slides", scale={"I(weeks - 40)": Normal(0, 1)}).scale["I(weeks - 40)"]
    Normal(mean=0.0, sd=1.0)
    """

    preset: PresetName = "weakly_informative"
    location: _ByTerm = Field(default_factory=FrozenDict)
    scale: _ByTerm = Field(default_factory=FrozenDict)
    df: Df | None = None

    @classmethod
    def _faults_between(cls, fields: Mapping[str, Any]) -> list[Fault]:
        location = fields.get("location")
        if not isinstance(location, Mapping):
            return []
        return [
            Fault(
                f"location.{key_text(term)}",
                f"the location prior of {term!r} is half-normal on τ, but a location coefficient "
                "is not a τ; use a normal prior",
            )
            for term, prior in location.items()
            if isinstance(prior, HalfNormal)
            or (isinstance(prior, Mapping) and prior.get("family") == "half_normal")
        ]

    def with_terms(
        self,
        *,
        location: Mapping[str, Prior] | None = None,
        scale: Mapping[str, Prior] | None = None,
    ) -> Priors:
        """The same priors with those of some terms replaced (on their raw coefficients)."""
        return Priors(
            preset=self.preset,
            location={**self.location, **(location or {})},
            scale={**self.scale, **(scale or {})},
            df=self.df,
        )

    def describe(self) -> str:
        """In a line: the preset, and the priors given for single terms."""
        given = {"location": self.location, "scale": self.scale}
        single = [
            f"{part} {'(others)' if term == EVERY_OTHER_TERM else term} ~ {prior}"
            for part, priors in given.items()
            for term, prior in priors.items()
        ]
        everywhere = all(EVERY_OTHER_TERM in priors for priors in given.values())
        whole = f"preset {self.preset!r} ({_IN_WORDS[self.preset]})"
        return ", ".join(single if everywhere else [whole, *single])

    def to_dict(self) -> dict[str, Any]:
        """As plain tables, for a TOML model file; `Priors(**tables)` reads them back."""
        tables = self.model_dump()
        return {key: value for key, value in tables.items() if value}


def preset(name: PresetName) -> Priors:
    """Ready-made priors.

    Parameters
    ----------
    name : {"weakly_informative", "slides"}
        ``"weakly_informative"``: with s_y = max(sd(y), √mean(v)), at a study with average
        moderators the effect is Normal(mean(y), 2.5·s_y) and τ is HalfNormal(s_y); per standard
        deviation of a numeric moderator (per step of an indicator) the effect changes by
        Normal(0, 2.5·s_y) and log τ² by Normal(0, 2), a ratio of τ up to about 7 either way.
        The priors follow the units of the effects and of every moderator.

        ``"slides"``: Normal(0, 100) on each raw location coefficient, Normal(0, 7) on each raw
        scale coefficient, those of log τ². The talk this package starts from does not print its
        priors; these come near its Bayesian column.

    Examples
    --------
    >>> preset("slides").preset
    'slides'
    """
    return Priors(name)


def independent_normal(*, location: float, scale: float) -> Priors:
    """Independent Normal(0, sd) priors on the raw, unstandardised coefficients.

    Parameters
    ----------
    location, scale : float
        Standard deviations; `scale` is on log τ².

    Examples
    --------
    >>> independent_normal(location=10, scale=2.5).scale["*"]
    Normal(mean=0.0, sd=2.5)
    """
    return Priors(
        location={EVERY_OTHER_TERM: Normal(0, location)},
        scale={EVERY_OTHER_TERM: Normal(0, scale)},
    )


@dataclass(frozen=True)
class PriorBlock:
    """The priors of one part of a model, ready for use.

    Attributes
    ----------
    contrasts : ndarray, shape (p, p)
        Row j is the linear function of the coefficients that ``priors[j]`` is stated on. The
        identity when every prior is on its raw coefficient.
    priors : tuple of Prior, length p
    """

    contrasts: Array
    priors: tuple[Prior, ...]

    @property
    def is_raw(self) -> bool:
        """Whether every prior is stated on its raw coefficient."""
        return bool(np.array_equal(self.contrasts, np.eye(len(self.priors))))

    def logpdf(self, coefficients: Array) -> Array:
        """Log prior density of each θ_j, shape (..., p), for coefficients of shape (..., p).

        The sum over the last axis is the log density of θ; that of the coefficients differs from
        it by the constant log |det contrasts|.
        """
        theta = np.asarray(coefficients) @ self.contrasts.T
        columns = [prior.logpdf(theta[..., j]) for j, prior in enumerate(self.priors)]
        return np.stack(columns, axis=-1)

    def sample(self, size: int, rng: np.random.Generator) -> Array:
        """Independent draws of the coefficients, shape (size, p)."""
        theta = np.stack([prior.sample(size, rng) for prior in self.priors], axis=-1)
        return np.linalg.solve(self.contrasts, theta.T).T


@dataclass(frozen=True)
class ResolvedPriors:
    """The priors of a model's location and scale coefficients, bound to its data."""

    location: PriorBlock
    scale: PriorBlock


def resolve(
    priors: Priors,
    *,
    y: Array,
    v: Array,
    X: Array,
    Z: Array,
    location_names: Iterable[str],
    scale_names: Iterable[str],
) -> ResolvedPriors:
    """Bind priors to data: work out each coefficient's prior and what it is stated on.

    Raises
    ------
    PriorError
        When a prior names a term that the model does not have.
    """
    unit = max(float(np.std(y, ddof=1)) if len(y) > 1 else 0.0, math.sqrt(float(np.mean(v))))
    rules: dict[str, tuple[_Rule, _Rule]] = {
        "weakly_informative": (
            _Rule(Normal(float(np.mean(y)), 2.5 * unit), Normal(0, 2.5 * unit), standardised=True),
            _Rule(HalfNormal(unit), Normal(0, 2), standardised=True),
        ),
        "slides": (
            _Rule(Normal(0, 100), Normal(0, 100), standardised=False),
            _Rule(Normal(0, 7), Normal(0, 7), standardised=False),
        ),
    }
    location_rule, scale_rule = rules[priors.preset]
    return ResolvedPriors(
        _block("location", X, tuple(location_names), location_rule, priors.location),
        _block("scale", Z, tuple(scale_names), scale_rule, priors.scale),
    )


@dataclass(frozen=True)
class _Rule:
    """A preset's prior for the level of the average study and for slopes."""

    level: Prior
    slope: Prior
    standardised: bool


def _block(
    part: str, columns: Array, names: tuple[str, ...], rule: _Rule, given: Mapping[str, Prior]
) -> PriorBlock:
    for term in given:
        if term != EVERY_OTHER_TERM and term not in names:
            raise PriorError(
                f"a {part} prior is given for {term!r}, but the {part} terms are "
                f"{', '.join(map(repr, names))}{_did_you_mean(term, names)}"
            )
    identity = np.eye(len(names))
    contrasts, levels = _standardisation(columns)
    if not rule.standardised:
        contrasts = identity.copy()
    chosen: list[Prior] = []
    for j, name in enumerate(names):
        raw = given.get(name, given.get(EVERY_OTHER_TERM))
        if isinstance(raw, HalfNormal) and j not in levels:
            raise PriorError(
                f"the scale prior of {name!r} is half-normal on τ, but this coefficient is a "
                "slope, not a log τ²; use a normal prior, or put it on the intercept"
            )
        if raw is not None:
            contrasts[j] = identity[j]
        chosen.append(raw or (rule.level if j in levels else rule.slope))
    return PriorBlock(contrasts, tuple(chosen))


def _standardisation(columns: Array) -> tuple[Array, list[int]]:
    """Contrasts for "at the average study" and "per SD", and which columns carry the level.

    The level columns are the constant one or, in a formula without it, the indicators of which
    exactly one is 1 in every row (``0 + group``). Slopes of moderators with two values, indicators
    above all, are per step from one to the other, however they are coded; all others are per
    standard deviation. Without any level column nothing is centred: the model goes through the
    origin.
    """
    p = columns.shape[1]
    level = _level_columns(columns)
    contrasts = np.eye(p)
    for j in range(p):
        column = columns[:, j]
        if j in level:
            contrasts[j, j] = column.max()
            continue
        step = float(np.ptp(column))
        two_valued = np.isin(column, (column.min(), column.max())).all()
        spread = step if two_valued else float(np.std(column, ddof=1))
        if spread > 0:
            contrasts[j, j] = spread
        for i in level:
            contrasts[i, j] = column.mean()
    return contrasts, level


def _level_columns(columns: Array) -> list[int]:
    constant = [
        j for j in range(columns.shape[1]) if np.ptp(columns[:, j]) == 0 and columns[0, j] != 0
    ]
    if constant:
        return constant[:1]
    # A factor's indicators stand side by side; other 0/1 columns may come before or after them.
    is_indicator = [bool(np.isin(column, (0.0, 1.0)).all()) for column in columns.T]
    for first in range(columns.shape[1]):
        covered = np.zeros(len(columns))
        for last in range(first, columns.shape[1]):
            covered = covered + columns[:, last]
            if not is_indicator[last] or covered.max() > 1:
                break
            if covered.min() == 1:
                return list(range(first, last + 1))
    return []


def _did_you_mean(word: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
