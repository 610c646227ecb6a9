"""`Priors`: what a user says of the coefficients, in words that a model file can carry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from bayes_lsm.frozen import Fault, FrozenDict, key_text
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom, Df
from bayes_lsm.priors.families import AnyFamily, Prior
from bayes_lsm.priors.family import SYMBOLS, Checked, Family
from bayes_lsm.priors.informed import GENERAL
from bayes_lsm.priors.rules import UNIT_INFORMATION_SD, Measure, PresetName, in_words
from bayes_lsm.priors.shrinkage import AnyShrinkage, Shrinkage
from bayes_lsm.priors.variances import HalfCauchy, HalfNormal, HalfStudentT

EVERY_OTHER_TERM = "*"

_BY_NAME = {each.model_fields["family"].default: each for each in Prior.__args__}
AnySd = Annotated[HalfNormal | HalfStudentT | HalfCauchy, Field(discriminator="family")]
_ByTerm = Annotated[dict[str, AnyFamily], AfterValidator(FrozenDict)]


class Priors(Checked):
    """Which prior each coefficient gets: a preset, and what is said of single ones besides.

    For each coefficient the first of these that speaks of it counts: `location` or `scale` by the
    term's name, `tau`, the key ``"*"`` of `location` or `scale`, `scale_shrinkage`, the preset.

    Parameters
    ----------
    preset : {"weakly_informative", "slides", "robma", "blsmeta", "informed"}
        The rule for every coefficient that is not named; see `bayes_lsm.priors.preset`. Default
        ``"weakly_informative"``.
    location, scale : mapping of term name to prior, optional
        Term names as the tables print them (``"I(weeks - 40)"``). These priors are on the raw
        coefficient: per unit of the moderator, the scale part on ln τ² (a `HalfNormal` on τ where
        all moderators are zero), unless the prior itself says otherwise (``on=``,
        ``moderators=``). The key ``"*"`` stands for every term that is not named. A `Flat` prior on
        a scale coefficient is accepted by models whose data bound the coefficient.
    measure : {"SMD", "OR", "RR", "HR", "IRR", "ZCOR", "MD"}, optional
        What the effects are: standardised mean differences, logarithms of ratios of odds, risks,
        hazards or rates, Fisher's z, or differences of means. Needed by ``"robma"`` and
        ``"informed"``.
    unit_information_sd : float, optional
        For ``"robma"``, in place of that of the measure.
    tau : prior, optional
        Of the τ of a study with average moderators (or of the τ of each level, in ``0 + group``).
    scale_shrinkage : Horseshoe or R2D2, optional
        Of all slopes of the scale part together (those of all scale terms, where there are
        several), per standard deviation of each moderator.
    df : DegreesOfFreedom or float, optional
        Of Student-t study effects only: the prior of their degrees of freedom ν, or the number that
        ν is fixed at. Default: ``DegreesOfFreedom(2, 0.1)``, Gamma(2, 0.1) from 1 up.
    lkj : float, optional
        Concentration of the LKJ prior of correlated effects; default 1, uniform over correlation
        matrices. Above 1 it draws correlations towards 0. (Compound-symmetric correlations of more
        than two effects are uniform wherever their matrix is positive definite.)
    scale_sd : HalfNormal, HalfStudentT or HalfCauchy, optional
        Of the SDs of random intercepts of ln τ², ``(1 | country)``. Default, with any preset:
        ``HalfNormal(1)``. With an SD of 1, τ of a usual group is 1.6 times that of the middle one,
        or as much smaller; an SD of 2, which the prior exceeds with 5%, puts the τ of 95% of the
        groups within a factor 7 of it, as far as the default prior lets a moderator's slope go.

    Raises
    ------
    PriorError
        Listing every fault with its place.

    Examples
    --------
    >>> from bayes_lsm.priors import HalfNormal, Normal, Priors
    >>> Priors("slides", scale={"I(weeks - 40)": Normal(0, 1)}).scale["I(weeks - 40)"]
    Normal(mean=0.0, sd=1.0)
    >>> Priors("robma", measure="OR", tau=HalfNormal(0.3)).describe()
    "preset 'robma' (mean effect ~ Normal(0, 1), ...), but average study ~ HalfNormal(0.3) on τ"
    """

    preset: PresetName = "weakly_informative"
    location: _ByTerm = Field(default_factory=FrozenDict)
    scale: _ByTerm = Field(default_factory=FrozenDict)
    measure: Measure | None = Field(default=None, kw_only=True)
    unit_information_sd: float | None = Field(default=None, gt=0, strict=True, kw_only=True)
    tau: AnyFamily | None = Field(default=None, kw_only=True)
    scale_shrinkage: AnyShrinkage | None = Field(default=None, kw_only=True)
    df: Df | None = Field(default=None, kw_only=True)
    lkj: float | None = Field(default=None, gt=0, strict=True, kw_only=True)
    scale_sd: AnySd | None = Field(default=None, kw_only=True)

    @classmethod
    def _faults_between(cls, fields: Mapping[str, Any]) -> list[Fault]:
        faults = [
            *(_location_fault(term, prior) for term, prior in _each(fields, "location")),
            _sd_fault(fields.get("scale_sd")),
            _preset_fault(fields),
        ]
        scale = fields.get("scale")
        starred = isinstance(scale, Mapping) and EVERY_OTHER_TERM in scale
        if starred and fields.get("scale_shrinkage") is not None:
            text = "the scale slopes get a prior from scale['*'] too; give one of them"
            faults.append(Fault("scale_shrinkage", text))
        return [fault for fault in faults if fault is not None]

    def with_terms(
        self,
        *,
        location: Mapping[str, Prior] | None = None,
        scale: Mapping[str, Prior] | None = None,
    ) -> Priors:
        """The same priors with those of some terms replaced."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        fields["location"] = {**self.location, **(location or {})}
        fields["scale"] = {**self.scale, **(scale or {})}
        return Priors(**fields)

    def describe(self) -> str:
        """In a line: the preset, and what is said besides."""
        given = {"location": self.location, "scale": self.scale}
        single = [
            f"{part} {'(others)' if term == EVERY_OTHER_TERM else term} ~ {prior}"
            for part, priors in given.items()
            for term, prior in priors.items()
        ]
        if self.tau is not None and self.preset != "informed":
            single.insert(0, f"average study ~ {self.tau}")
        if self.scale_shrinkage is not None:
            single.append(f"scale slopes per SD ~ {self.scale_shrinkage}")
        if self.lkj is not None:
            single.append(f"correlations ~ LKJ({self.lkj:g})")
        if self.scale_sd is not None:
            words = str(self.scale_sd).removesuffix(f" on {SYMBOLS['tau']}")
            single.append(f"SDs of random intercepts of ln τ² ~ {words}")
        if all(EVERY_OTHER_TERM in priors for priors in given.values()):
            return ", ".join(single)
        words = in_words(
            self.preset, measure=self.measure, uisd=self.unit_information_sd, published=self.tau
        )
        whole = f"preset {self.preset!r} ({words})"
        return f"{whole}, but {', '.join(single)}" if single else whole

    def to_dict(self) -> dict[str, Any]:
        """As plain tables, for a TOML model file; `Priors(**tables)` reads them back."""
        tables = {name: _plain(getattr(self, name)) for name in type(self).model_fields}
        return {key: value for key, value in tables.items() if value}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {term: prior.to_dict() for term, prior in value.items()}
    return value.to_dict() if isinstance(value, Family | Shrinkage | DegreesOfFreedom) else value


def _each(fields: Mapping[str, Any], part: str) -> Iterable[tuple[str, Any]]:
    given = fields.get(part)
    return given.items() if isinstance(given, Mapping) else ()


def _kind(prior: Any) -> tuple[type[Family], str] | None:
    """The family of a prior and what it is stated on, also of one that is still a plain table."""
    if isinstance(prior, Family):
        return type(prior), prior.on
    if not isinstance(prior, Mapping) or not isinstance(prior.get("family"), str):
        return None
    family = _BY_NAME.get(prior["family"])
    return family and (family, str(prior.get("on", family.model_fields["on"].default)))


def _location_fault(term: str, prior: Any) -> Fault | None:
    kind = _kind(prior)
    if kind is None or kind[1] == "coefficient":
        return None
    family, on = kind
    said = SYMBOLS.get(on, repr(on))
    return Fault(
        f"location.{key_text(term)}",
        f"the location prior of {term!r} is {family.words} on {said}, but a location coefficient "
        f"is not a {said}; use a normal prior",
    )


def _sd_fault(prior: Any) -> Fault | None:
    kind = _kind(prior)
    if kind is None or kind[1] == "tau":
        return None
    text = f"is the prior of an SD of ln τ², not of {SYMBOLS.get(kind[1], repr(kind[1]))}; "
    return Fault("scale_sd", f"{text}leave 'on' out")


def _preset_fault(fields: Mapping[str, Any]) -> Fault | None:
    """A preset that lacks what it needs to know."""
    name, measure = fields.get("preset"), fields.get("measure")
    if name == "robma" and fields.get("unit_information_sd") is None:
        if measure is None:
            text = (
                "the preset 'robma' needs the effect measure, for its unit information SD; give "
                f"measure={' or '.join(map(repr, UNIT_INFORMATION_SD))}, or unit_information_sd"
            )
            return Fault("measure", text)
        if measure not in UNIT_INFORMATION_SD:
            text = (
                f"the unit information SD of {measure!r} is not known to the preset 'robma'; give "
                "unit_information_sd"
            )
            return Fault("measure", text)
    if name == "informed" and fields.get("tau") is None and measure not in GENERAL:
        got = "none was given" if measure is None else f"got {measure!r}"
        text = (
            "the preset 'informed' needs a measure whose heterogeneity has a published predictive "
            f"distribution, {' or '.join(map(repr, GENERAL))}; {got}. Give one, or tau"
        )
        return Fault("measure", text)
    return None
