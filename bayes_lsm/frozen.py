"""The base of everything a user configures: immutable, and checked once, when it is made.

A faulty field raises the subclass's own error, which lists all faults at once, each with its place;
nothing above has to know pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Never, dataclass_transform

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bayes_lsm.errors import BayesLsmError, SpecificationError


@dataclass_transform(kw_only_default=False, field_specifiers=(Field,))
class Frozen(BaseModel):
    """An immutable record whose fields can be given by position or by keyword.

    Fields marked ``kw_only`` can be given by keyword only.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
    )
    error: ClassVar[type[BayesLsmError]] = SpecificationError

    # `self` by position only: a model file may have a key of that name.
    def __init__(self, /, *args: Any, **fields: Any) -> None:
        fields_of = type(self).model_fields
        names = [name for name, field in fields_of.items() if not field.kw_only]
        if len(args) > len(names):
            raise TypeError(f"{type(self).__name__} takes {len(names)} values, got {len(args)}")
        repeated = set(names[: len(args)]) & set(fields)
        if repeated:
            raise TypeError(f"{type(self).__name__} got {sorted(repeated)} twice")
        given = dict(zip(names, args, strict=False)) | fields
        given = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in given.items()
        }
        faults = self._faults_between(given)
        try:
            super().__init__(**given)
        except ValidationError as found:
            faults += [fault for each in found.errors() for fault in _describe(each)]
        if faults:
            raise self.error.of(faults)

    @classmethod
    def _faults_between(cls, fields: Mapping[str, Any]) -> list[Fault]:
        """Faults of several fields together, found whether or not each is faultless by itself."""
        return []


class FrozenDict[Value](dict[str, Value]):
    """A dictionary that cannot be changed, so that a frozen record can hold it and be hashed."""

    def _refuse(self, *_: object) -> Never:
        raise TypeError("this mapping belongs to an immutable record; make a new record instead")

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse  # type: ignore[assignment]

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


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
    keys = list(fault["loc"])
    # A choice between classes adds the choice itself to the place, which is no key of the file.
    if isinstance(fault["input"], dict) and keys and keys[-1] == fault["input"].get("family"):
        keys.pop()
    place = ".".join(map(key_text, keys))
    if fault["type"] == "extra_forbidden":
        return [Fault(place, "unknown key; remove it or correct its spelling")]
    if fault["type"] == "union_tag_not_found":
        return [Fault(place, f"the key 'family' is missing; got {_brief(fault['input'])}")]
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
    return [Fault(place, f"{message}, got {_brief(fault['input'])}")]


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"


def key_text(part: object) -> str:
    """A key of a file as the file has to write it: in quotes unless it is one plain word."""
    text = str(part)
    plain = text.isascii() and text.replace("_", "").replace("-", "").isalnum()
    return text if plain else f'"{text}"'
