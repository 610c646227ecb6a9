"""Other priors that one might have had: other families, other sizes of τ, other presets.

A prior of another family has the same median and the same quartiles, so what differs is the tails.
A half family has one number to be fitted, and has the same median.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bayes_lsm.bayes.sensitivity.subject import Subject
from bayes_lsm.errors import FitError, PriorError
from bayes_lsm.priors import (
    Cauchy,
    Family,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    Laplace,
    Logistic,
    LogNormal,
    Normal,
    PresetName,
    PriorBlock,
    Priors,
    ResolvedPriors,
    Stretched,
    StudentT,
    preset,
)

# What is called by these names, and the numbers that come before its place and its size.
_ON_THE_LINE: dict[str, tuple[Any, ...]] = {
    "normal": (Normal,),
    "Student t (3 df)": (StudentT, 3.0),
    "Cauchy": (Cauchy,),
    "Laplace": (Laplace,),
    "logistic": (Logistic,),
}
_OF_TAU: dict[str, tuple[Any, ...]] = {
    "half-normal": (HalfNormal,),
    "half-t (3 df)": (HalfStudentT, 3.0),
    "half-Cauchy": (HalfCauchy,),
}


@dataclass(frozen=True)
class NamedPriors:
    """Priors of a model, and what to call them."""

    name: str
    priors: ResolvedPriors


def other_families(subject: Subject) -> Iterator[NamedPriors]:
    """The same priors by other families, part by part, and with τ half and twice as large."""
    priors, levels = subject.priors, subject.levels
    location = [j for j, prior in enumerate(priors.location.priors) if _is_single(prior)]
    for name, family in _ON_THE_LINE.items():
        if not _are(priors.location, location, family):
            like = _like(priors.location, location, family)
            yield _changed(f"location: {name}", priors, "location", like)
    of_tau = [j for j in levels if _is_of_tau(priors.scale.priors[j])]
    single = [j for j in subject.slopes if _is_single(priors.scale.priors[j])]
    scale = sorted({*single, *levels} - {*of_tau})
    what = "scale slopes" if set(scale).isdisjoint(levels) else "scale"
    for name, family in _ON_THE_LINE.items():
        if scale and not _are(priors.scale, scale, family):
            like = _like(priors.scale, scale, family)
            yield _changed(f"{what}: {name}", priors, "scale", like)
    for name, said in subject.other_statements().items():
        yield NamedPriors(name, subject.resolve(said))
    if levels:
        yield from _other_tau(priors, levels)


def _other_tau(priors: ResolvedPriors, levels: Sequence[int]) -> Iterator[NamedPriors]:
    for name, family in _OF_TAU.items():
        if not _are(priors.scale, levels, family):
            like = _like_tau(priors.scale, levels, family)
            yield _changed(f"τ: {name}", priors, "scale", like)
    # A normal prior of ln τ² is a log-normal one of τ².
    if not all(isinstance(priors.scale.priors[j], Normal | LogNormal) for j in levels):
        normal = {
            j: LogNormal(prior.mean, prior.sd, on="tau2")
            for j, prior in _like(priors.scale, levels, (Normal,)).items()
        }
        yield _changed("τ: log-normal", priors, "scale", normal)
    for name, ratio in (("τ: half as large", 0.5), ("τ: twice as large", 2.0)):
        by = 2 * math.log(ratio)  # on ln τ²
        moved = {
            j: Stretched(base=prior, factor=1.0, shift=by)
            for j, prior in enumerate(priors.scale.priors)
            if j in levels and isinstance(prior, Family)
        }
        yield _changed(name, priors, "scale", moved)


def other_presets(
    subject: Subject, priors: Priors, names: Sequence[PresetName]
) -> tuple[dict[PresetName, Priors], dict[PresetName, str]]:
    """The presets of these names, and of those that cannot be used, why."""
    found: dict[PresetName, Priors] = {}
    skipped: dict[PresetName, str] = {}
    for name in names:
        try:
            given = preset(
                name, measure=priors.measure, unit_information_sd=priors.unit_information_sd
            )
            given = subject.preset_like(given)
            subject.resolve(given)
        except PriorError as error:
            skipped[name] = " ".join(str(error).split()).removeprefix("measure: ")
        else:
            found[name] = given
    return found, skipped


def _changed(
    name: str, priors: ResolvedPriors, part: str, changed: Mapping[int, Family]
) -> NamedPriors:
    block: PriorBlock = getattr(priors, part)
    each = tuple(changed.get(j, prior) for j, prior in enumerate(block.priors))
    other: dict[str, Any] = {part: replace(block, priors=each)}
    return NamedPriors(name, replace(priors, **other))


def _is_single(prior: Any) -> bool:
    """Whether it is the prior of one coefficient, and no shrinkage prior."""
    return isinstance(prior, Family)


def _is_of_tau(prior: Any) -> bool:
    return isinstance(prior, Family) and prior.on_variance


def _are(block: PriorBlock, which: Sequence[int], family: tuple[Any, ...]) -> bool:
    """Whether these priors are of that very family already."""
    return len(family) == 1 and all(isinstance(block.priors[j], family[0]) for j in which)


def _like(block: PriorBlock, which: Sequence[int], family: tuple[Any, ...]) -> dict[int, Any]:
    """Priors of another family on the line, with the same median and quartiles."""
    kind, *fixed = family
    unit = float(kind(*fixed).quantile(0.75))
    found = {}
    for j in which:
        lower, median, upper = _quantiles(block, j)
        found[j] = kind(*fixed, median, (upper - lower) / 2 / unit)
    return found


def _like_tau(block: PriorBlock, which: Sequence[int], family: tuple[Any, ...]) -> dict[int, Any]:
    """Priors of τ of another family, with the same median."""
    kind, *fixed = family
    unit = float(kind(*fixed).quantile(0.5))
    return {j: kind(*fixed, math.exp((_quantiles(block, j)[1] - unit) / 2)) for j in which}


def _quantiles(block: PriorBlock, j: int) -> tuple[float, float, float]:
    """Quartiles and median of a prior of one coefficient."""
    prior = block.priors[j]
    if not isinstance(prior, Family):
        raise FitError(f"a shrinkage prior, {prior}, is not one of a single coefficient")
    lower, median, upper = prior.quantile([0.25, 0.5, 0.75])
    return float(lower), float(median), float(upper)
