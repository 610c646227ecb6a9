"""The base of everything a user configures: immutable, and checked once, when it is made.

A faulty field raises the subclass's own error, which lists all faults at once, each with its place;
nothing above has to know pydantic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bayes_lsm.errors import BayesLsmError, SpecificationError


@dataclass_transform(kw_only_default=False, field_specifiers=(Field,))
class Frozen(BaseModel):
    """An immutable record whose fields can be given by position or by keyword."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
    )
    error: ClassVar[type[BayesLsmError]] = SpecificationError

    def __init__(self, *args: Any, **fields: Any) -> None:
        names = list(type(self).model_fields)
        if len(args) > len(names):
            raise TypeError(f"{type(self).__name__} takes {len(names)} values, got {len(args)}")
        repeated = set(names[: len(args)]) & set(fields)
        if repeated:
            raise TypeError(f"{type(self).__name__} got {sorted(repeated)} twice")
        try:
            super().__init__(**dict(zip(names, args, strict=False)), **fields)
        except ValidationError as found:
            faults = tuple(fault for each in found.errors() for fault in _describe(each))
            error = self.error("\n".join(map(str, faults)))
            error.faults = faults
            raise error from None


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a record: where, and what."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" if self.place else self.text

    def inside(self, outer: str) -> Fault:
        """The same fault, seen from the record that holds this one as its field `outer`."""
        return Fault(".".join(filter(None, (outer, self.place))), self.text)


def _describe(fault: Any) -> list[Fault]:
    family = fault["input"].get("family") if isinstance(fault["input"], dict) else None
    place = ".".join(_key(part) for part in fault["loc"] if part != family)
    if fault["type"] == "extra_forbidden":
        return [Fault(place, "unknown key; remove it or correct its spelling")]
    if fault["type"] == "missing":
        return [Fault(place, "required, but missing")]
    if fault["type"] == "union_tag_invalid":
        allowed = fault["ctx"]["expected_tags"]
        return [Fault(place, f"family must be one of {allowed}, got {fault['ctx']['tag']!r}")]
    if fault["type"] == "value_error":
        error = fault["ctx"]["error"]
        nested = getattr(error, "faults", ()) or (Fault("", str(error)),)
        return [inner.inside(place) for inner in nested]
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return [Fault(place, f"{message}, got {fault['input']!r}")]


def _key(part: object) -> str:
    text = str(part)
    return text if text.replace("_", "").replace("-", "").isalnum() else f'"{text}"'
