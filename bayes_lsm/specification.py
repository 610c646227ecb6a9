"""A model in words: formulas, columns, link and priors, and where its data are.

A `Specification` knows nothing of any data. It can be written to a TOML model file and read back
without loss; all faults of a file are reported at once. `models/` holds the bundled model files.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import Field, field_validator, model_validator

from bayes_lsm import formulas
from bayes_lsm.errors import SpecificationError
from bayes_lsm.frozen import Fault, Frozen
from bayes_lsm.priors import Priors

Method = Literal["REML", "ML"]
Engine = Literal["auto", "nuts"]
Link = Literal["log"]


class Specification(Frozen):
    """A location-scale model in words.

    Parameters
    ----------
    location : str
        Formula of the mean, ``"~ continent + I(weeks - 40)"``. May be two-sided
        (``"yi ~ weeks"``), and then `effect` can be left out.
    variance : str
        Column of the sampling variances (``vi``).
    effect : str
        Column of the effects (``yi``).
    scale : str, default "~ 1"
        Formula of ln τ².
    link : {"log"}, default "log"
        The scale formula gives the logarithm of τ².
    study : str, optional
        Column with the names of the studies, for messages and tables.
    data : str, optional
        The name of a bundled dataset, or the path of a CSV file (relative to the model file).
    method : {"REML", "ML"}, default "REML"
    engine : {"auto", "nuts"}, default "auto"
    draws : int, default 4000
        Posterior draws of the Bayesian fit, at least 100.
    seed : int, optional
        Of the Bayesian fit; the same seed gives the same draws.
    title, description : str, optional
    priors : Priors, optional
        Default: the preset ``"weakly_informative"``.

    Raises
    ------
    SpecificationError
        Listing every fault with its place.

    Examples
    --------
    >>> spec = Specification(location="yi ~ weeks", variance="vi", scale="~ weeks")
    >>> spec.effect, spec.location
    ('yi', '~ weeks')
    """

    location: str
    variance: str
    effect: str = ""
    scale: str = "~ 1"
    link: Link = "log"
    study: str | None = None
    data: str | None = None
    method: Method = "REML"
    engine: Engine = "auto"
    draws: int = Field(default=4000, ge=100)
    seed: int | None = Field(default=None, ge=0)
    title: str = ""
    description: str = ""
    priors: Priors = Field(default_factory=Priors)

    @model_validator(mode="before")
    @classmethod
    def _effect_from_location(cls, fields: Any) -> Any:
        location = fields.get("location")
        if not isinstance(location, str):
            return fields
        left, right = formulas.split(location)
        if left is None:
            return fields
        named = fields.get("effect") or left
        if named != left:
            raise ValueError(
                f"effect is {named!r}, but the location formula begins with {left!r}; "
                "name the effects in one place"
            )
        return {**fields, "effect": left, "location": right}

    @field_validator("location", "scale")
    @classmethod
    def _is_a_formula(cls, formula: str) -> str:
        return formulas.parse(formula).text

    @field_validator("variance")
    @classmethod
    def _is_named(cls, column: str) -> str:
        if not column:
            raise ValueError("must name a column, got ''")
        return column

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        if not self.effect:
            raise ValueError("effect: required; name its column, or write 'yi ~ ...' as location")
        return self

    def to_dict(self) -> dict[str, Any]:
        """As plain tables, without what is left at its default."""
        fields = self.model_dump(exclude={"priors"}, exclude_defaults=True)
        priors = self.priors.to_dict()
        return fields | ({"priors": priors} if self.priors != Priors() else {})

    def to_toml(self) -> str:
        """The model file's text; `from_toml` reads it back without loss."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str, *, name: str = "model file") -> Self:
        """Read a model file's text.

        Raises
        ------
        SpecificationError
            Listing every fault with its place.
        """
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SpecificationError(f"{name}: not valid TOML: {error}") from None
        try:
            return cls(**tables)
        except SpecificationError as error:
            faults = [_with_line(fault, text) for fault in error.faults]
            count = f"{len(faults)} faults" if len(faults) > 1 else "1 fault"
            listing = "\n".join(f"  {fault}" for fault in faults)
            raise SpecificationError(f"{name}: {count}\n{listing}{_suggestions(tables)}") from None

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a model file; a relative CSV path in it is taken from the file's own folder."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecificationError(f"cannot read the model file {path}: {error}") from None
        specification = cls.from_toml(text, name=str(path))
        data = specification.data
        if data and data.lower().endswith(".csv") and not Path(data).is_absolute():
            return specification.model_copy(update={"data": str(path.parent / data)})
        return specification


def _with_line(fault: Fault, text: str) -> str:
    """Add the line of the innermost table or key around the fault, where the text shows it."""
    table, where, depth = "", 0, 0
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[(.+)\]\s*(#.*)?$", line)
        if header:
            table = key = header[1].strip()
        else:
            key = ".".join(filter(None, (table, line.partition("=")[0].strip())))
        inside = fault.place == key or fault.place.startswith(f"{key}.")
        if key and inside and len(key) > depth:
            where, depth = number, len(key)
    return f"line {where}: {fault}" if where else str(fault)


def _suggestions(tables: Mapping[str, Any]) -> str:
    known = list(Specification.model_fields)
    meant = [
        f"did you mean {close[0]!r} instead of {key!r}?"
        for key in tables
        if key not in known and (close := difflib.get_close_matches(key, known, n=1))
    ]
    return "".join(f"\n  {line}" for line in meant)


def _models() -> Traversable:
    bundled = files("bayes_lsm") / "models"
    return bundled if bundled.is_dir() else files("bayes_lsm") / ".." / "models"


def list_models() -> dict[str, str]:
    """The bundled model files: name and title.

    Examples
    --------
    >>> "preterm_continent" in list_models()
    True
    """
    found = [entry for entry in _models().iterdir() if entry.name.endswith(".toml")]
    return {
        entry.name.removesuffix(".toml"): tomllib.loads(entry.read_text("utf-8")).get("title", "")
        for entry in sorted(found, key=lambda entry: entry.name)
    }


def find_specification(name_or_path: str | Path) -> Specification:
    """The specification in a model file, given its path or the name of a bundled one.

    Raises
    ------
    SpecificationError
        When there is neither, or the file is faulty.

    Examples
    --------
    >>> find_specification("preterm_weeks").scale
    '~ I(weeks - 40)'
    """
    path = Path(name_or_path)
    if path.is_file():
        return Specification.from_file(path)
    names = list_models()
    name = str(name_or_path)
    if name in names:
        text = (_models() / f"{name}.toml").read_text("utf-8")
        return Specification.from_toml(text, name=name)
    close = difflib.get_close_matches(path.stem, list(names), n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    raise SpecificationError(
        f"no model file {name!r}: neither a file nor a bundled model ({', '.join(names)}){meant}"
    )
