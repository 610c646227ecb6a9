"""A model in words: formulas, columns, link and priors, and where its data are.

A `Specification` knows nothing of any data. It can be written to a TOML model file and read back
without loss; all faults of a file are reported at once. `models/` holds the bundled model files.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import AfterValidator, Field, PrivateAttr, field_validator, model_validator

from bayes_lsm import formulas
from bayes_lsm.choices import closest, did_you_mean
from bayes_lsm.errors import FormulaError, SpecificationError
from bayes_lsm.formulas.grouping import RESIDUAL, Grouping, read_grouping
from bayes_lsm.formulas.random_intercepts import split_random_intercepts
from bayes_lsm.frozen import Fault, Frozen, FrozenDict, key_text
from bayes_lsm.priors import Priors

Method = Literal["REML", "ML"]
Engine = Literal["auto", "collapsed", "nuts"]
TrueEffects = Literal["integrated", "latent"]
Link = Literal["log", "identity"]
StudyEffects = Literal["normal", "student_t"]
# In place of the column of the variances, where their covariance matrix is given with the data.
MATRIX = "(matrix)"
Correlation = Literal["none", "compound_symmetric", "unstructured"]


class SamplingCovariance(Frozen):
    """How the sampling errors of effects from the same cluster are related.

    Parameters
    ----------
    cluster : str
        Column; errors of different clusters are independent.
    rho : float, optional
        The correlation of any two errors of a cluster, between -1 and 1.
    columns : list of str, optional
        Columns that hold the rows of each cluster's covariance matrix: the j-th of them its j-th
        column, the cluster's rows in their order in the data. Give this or `rho`.

    Examples
    --------
    >>> SamplingCovariance("trial", rho=0.6)
    SamplingCovariance(cluster='trial', rho=0.6, columns=())
    """

    cluster: str = Field(min_length=1)
    rho: float | None = Field(default=None, gt=-1, lt=1, strict=True)
    columns: tuple[str, ...] = ()

    @classmethod
    def _faults_between(cls, fields: Mapping[str, Any]) -> list[Fault]:
        if (fields.get("rho") is None) == (not fields.get("columns")):
            return [Fault("", "give either rho or columns, which say how the errors are related")]
        return []


_ByGrouping = Annotated[dict[str, str], AfterValidator(FrozenDict)]
_Correlations = Annotated[dict[str, Correlation], AfterValidator(FrozenDict)]


class Specification(Frozen):
    """A location-scale model in words.

    Parameters
    ----------
    location : str
        Formula of the mean, ``"~ continent + I(weeks - 40)"``. May be two-sided
        (``"yi ~ weeks"``), and then `effect` can be left out.
    variance : str, optional
        Column of the sampling variances (``vi``). Left out for individual data, which need a
        ``"residual"`` scale term, and where the covariance matrix is given with the data.
    effect : str
        Column of the effects (``yi``).
    scale : str or mapping of str to str, default "~ 1"
        Formula of ln τ²; or one such formula for each scale term, by its grouping:
        ``{"district": "~ 1", "district/school": "~ year"}`` (see `grouping`). A formula
        may have random intercepts, ``"~ weeks + (1 | country)"`` (Bayesian fits only): ln τ²
        differs between countries by more than the moderators say.
    link : {"log", "identity"}, default "log"
        The scale formula gives the logarithm of τ², or τ² itself (REML and ML only).
    study_effects : {"normal", "student_t"}, default "normal"
        The distribution of the true effects around their mean (Bayesian fits only for the second).
        With ``"student_t"``, τ is the scale of a t distribution whose degrees of freedom are
        estimated or fixed (``priors.df``); its SD is τ √(ν / (ν − 2)).
    correlation : mapping of str to {"none", "compound_symmetric", "unstructured"}, optional
        Of the effects of a group, for scale terms with several, such as ``"outcome | trial"``; by
        default unstructured.
    sampling_covariance : SamplingCovariance, optional
        For sampling errors that are not independent.
    study : str, optional
        Column with the names of the studies, for messages and tables.
    data : str, optional
        The name of a bundled dataset, or the path of a CSV file (relative to the model file).
    method : {"REML", "ML"}, default "REML"
    engine : {"auto", "collapsed", "nuts"}, default "auto"
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
    variance: str | None = None
    effect: str = ""
    scale: str | _ByGrouping = "~ 1"
    correlation: _Correlations = Field(default_factory=FrozenDict)
    sampling_covariance: SamplingCovariance | None = None
    link: Link = "log"
    study_effects: StudyEffects = "normal"
    study: str | None = None
    data: str | None = None
    method: Method = "REML"
    engine: Engine = "auto"
    draws: int = Field(default=4000, ge=100, strict=True)
    seed: int | None = Field(default=None, ge=0, strict=True)
    title: str = ""
    description: str = ""
    priors: Priors = Field(default_factory=Priors)
    _folder: Path | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _effect_from_location(cls, fields: Any) -> Any:
        location = fields.get("location")
        if not isinstance(location, str):
            return fields
        left, right = formulas.split(location)
        return fields if left is None else {**fields, "effect": left, "location": right}

    @classmethod
    def _faults_between(cls, fields: Mapping[str, Any]) -> list[Fault]:
        return [*_missing_variance(fields), *_effect_faults(fields)]

    @field_validator("location")
    @classmethod
    def _is_a_formula(cls, formula: str) -> str:
        _, groups = split_random_intercepts(formula)
        if groups:
            raise ValueError(
                f"has random intercepts of {groups[0]!r}; effects that differ between groups are a "
                f"scale term: leave it out, and write scale={{{groups[0]!r}: '~ 1', ...}}"
            )
        return formulas.parse(formula).text

    @field_validator("scale", mode="before")
    @classmethod
    def _is_a_scale(cls, scale: Any) -> Any:
        if isinstance(scale, str):
            return _scale_formula(scale)
        if not isinstance(scale, Mapping) or not scale:
            raise ValueError(
                "must be a formula, or formulas by grouping such as {'study': '~ 1'}, "
                f"got {scale!r}"
            )
        read: dict[str, str] = {}
        faults: list[Fault] = []
        for key, formula in scale.items():
            try:
                read[read_grouping(str(key)).text] = _scale_formula(str(formula))
            except (SpecificationError, FormulaError) as error:
                faults.append(Fault(key_text(key), str(error)))
        if faults:
            raise SpecificationError.of(faults)
        return read

    @model_validator(mode="after")
    def _correlations_have_terms(self) -> Self:
        several = (grouping for grouping in self.scale_terms if grouping.inner or grouping.slope)
        known = [grouping.text for grouping in several]
        for key in self.correlation:
            if key not in known:
                raise ValueError(
                    f"correlation is given for {key!r}, but the scale terms with correlated "
                    f"effects are {', '.join(map(repr, known)) or 'none'}; write such a term as "
                    "'outcome | trial'"
                )
        return self

    @field_validator("variance", "study", "data")
    @classmethod
    def _is_named(cls, name: str | None) -> str | None:
        if name is not None and not name.strip():
            raise ValueError("must not be empty; give a name, or leave the key out")
        return name

    @model_validator(mode="after")
    def _study_effects_fit_the_rest(self) -> Self:
        faults = []
        if self.study_effects == "normal" and self.priors.df is not None:
            text = "is for Student-t study effects; leave it out, or set study_effects='student_t'"
            faults.append(Fault("priors.df", text))
        if self.study_effects != "normal" and self.link != "log":
            faults.append(Fault("study_effects", f"{self.study_effects!r} needs link='log'"))
        if faults:
            raise SpecificationError.of(faults)
        return self

    @property
    def variance_column(self) -> str | None:
        """The column of the sampling variances; None where there is none."""
        return None if self.variance == MATRIX else self.variance

    @property
    def scale_terms(self) -> Mapping[Grouping, str]:
        """The scale formulas by their groupings; one formula alone is that of the rows."""
        if isinstance(self.scale, str):
            return {read_grouping(RESIDUAL): self.scale}
        return {read_grouping(key): formula for key, formula in self.scale.items()}

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
            once = "; each key may be given once" if "overwrite" in str(error) else ""
            raise SpecificationError(f"{name}: not valid TOML: {error}{once}") from None
        except RecursionError:
            raise SpecificationError(f"{name}: its values are nested too deeply") from None
        try:
            return cls(**tables)
        except SpecificationError as error:
            faults = [_with_line(fault, text) for fault in error.faults]
            count = f"{len(faults)} faults" if len(faults) > 1 else "1 fault"
            listing = "\n".join(f"  {fault}" for fault in faults)
            raise SpecificationError(f"{name}: {count}\n{listing}{_suggestions(tables)}") from None

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a model file; a CSV file that it names is taken from its own folder only."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecificationError(f"cannot read the model file {path}: {error}") from None
        specification = cls.from_toml(text, name=str(path))
        data = specification.data
        if data and data.lower().endswith(".csv"):
            specification = specification.model_copy(update={"data": str(path.parent / data)})
            specification._folder = path.parent
        return specification

    @property
    def folder(self) -> Path | None:
        """Where the model file stood that names a data file, which has to lie there, too."""
        return self._folder


def _items(scale: object) -> list[tuple[str, str]]:
    return list(scale.items()) if isinstance(scale, Mapping) else []


def _scale_formula(text: str) -> str:
    """A scale formula as it is kept, after checking it."""
    fixed, columns = split_random_intercepts(text)
    kept = formulas.parse(fixed).text
    return " + ".join([kept, *(f"(1 | {_quoted(column)})" for column in columns)])


def _quoted(column: str) -> str:
    return column if column.isidentifier() else f"`{column}`"


def _missing_variance(fields: Mapping[str, Any]) -> list[Fault]:
    if fields.get("variance") is not None or RESIDUAL in dict(_items(fields.get("scale"))):
        return []
    text = "required, but missing (individual data have a 'residual' scale term instead)"
    return [Fault("variance", text)]


def _effect_faults(fields: Mapping[str, Any]) -> list[Fault]:
    location = fields.get("location")
    left = formulas.split(location)[0] if isinstance(location, str) else None
    effect = fields.get("effect") or left
    if left is not None and effect != left:
        text = f"is {effect!r}, but the location formula begins with {left!r}"
        return [Fault("effect", f"{text}; name the effects in one place")]
    if effect is None:
        return [Fault("effect", "required; name its column, or write 'yi ~ ...' as location")]
    if effect == fields.get("variance"):
        return [Fault("variance", f"{effect!r} is the column of the effects; name another")]
    scale = fields.get("scale")
    parts: dict[str, object] = {"location": location, "scale": scale}
    parts |= {f"scale.{key_text(key)}": formula for key, formula in _items(scale)}
    return [
        Fault(part, f"the formula uses the effects {effect!r} as a moderator; leave them out")
        for part, formula in parts.items()
        if effect in _columns(formula)
    ]


def _columns(formula: object) -> tuple[str, ...]:
    """The columns of a formula; none when it is faulty, which is another fault."""
    try:
        text = formula if isinstance(formula, str) else ""
        if not text:
            return ()
        fixed, groups = split_random_intercepts(formulas.split(text)[1])
        return (*formulas.parse(fixed).columns, *groups)
    except FormulaError:
        return ()


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
    known = Specification.model_fields
    meant = {key: closest(key, known) for key in tables if key not in known}
    return "".join(
        f"\n  did you mean {word!r} instead of {key!r}?" for key, word in meant.items() if word
    )


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
    path, name, names = Path(name_or_path), str(name_or_path), list_models()
    # `os.path.isfile`, unlike `Path.is_file`, takes a name that no file can have for no file.
    if os.path.isfile(path):
        return Specification.from_file(path)
    if name in names:
        text = (_models() / f"{name}.toml").read_text("utf-8")
        return Specification.from_toml(text, name=name)
    bundled = f"neither a file nor a bundled model ({', '.join(names)})"
    raise SpecificationError(f"no model file {name!r}: {bundled}{did_you_mean(path.stem, names)}")
