"""Example data, each with its provenance.

A dataset is one CSV file in this folder. Its first lines begin with ``# `` and are, without that, a
TOML document: title, source, measure, licence, note, the meaning and units of every column and,
where a column is categorical, the order of its levels (the first is the reference). `study` names
the column that tells studies apart, unless it is called that. An optional `caution` is a sentence
or two that every result of these data repeats. To add a dataset, add such a file.
"""

from __future__ import annotations

import io
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files

import pandas as pd

from bayes_lsm.choices import did_you_mean
from bayes_lsm.errors import DataError

__all__ = ["Dataset", "describe_dataset", "list_datasets", "load_dataset"]


@dataclass(frozen=True)
class Dataset:
    """Where a dataset comes from and what its columns mean.

    Attributes
    ----------
    name, title, source, measure, licence, note : str
        `measure` says what the effects are, and which group minus which.
    columns : mapping of str to str
        Column → meaning and units.
    levels : mapping of str to list of str
        Categorical column → its levels in order; the first is the reference.
    caution : str
        What has to be known wherever results of these data are shown; empty for most.
    study : str
        The column that tells studies apart; several rows of a study have the same value.
    """

    name: str
    title: str
    source: str
    measure: str
    licence: str
    note: str
    columns: Mapping[str, str]
    levels: Mapping[str, list[str]] = field(default_factory=dict)
    caution: str = ""
    study: str = "study"

    def __str__(self) -> str:
        width = max(map(len, self.columns))
        columns = [f"  {name:<{width}}  {meaning}" for name, meaning in self.columns.items()]
        lines = [f"{self.name}: {self.title}", ""]
        lines += [f"Caution: {self.caution}", ""] if self.caution else []
        lines += [self.note.strip(), "", f"Effect: {self.measure}"]
        lines += ["Columns:", *columns, "", f"Source: {self.source.strip()}"]
        return "\n".join([*lines, f"Licence: {self.licence}"])


def load_dataset(name: str) -> pd.DataFrame:
    """A bundled dataset as a data frame, with its caution, if any, in ``attrs["caution"]``.

    ``preterm_iq`` needs a word of care: eight of its 37 rows are published, the others are
    reconstructions (``published`` is False) that reproduce the published results and are not data
    of any real study. So does ``preterm_iq_ipd``: its individual scores are made up to match.
    ``describe_dataset(name)`` says where each dataset comes from.

    Parameters
    ----------
    name : str
        One of ``list_datasets()``.

    Raises
    ------
    DataError
        When there is no dataset of that name.

    Examples
    --------
    >>> load_dataset("preterm_iq")[["study", "continent", "weeks", "yi"]].head(2)
       study continent  weeks    yi
    0      1    Europe   32.1   7.3
    1      2   America   31.4  11.6
    """
    dataset, table = _read(name)
    frame = pd.read_csv(io.StringIO(table))
    for column, levels in dataset.levels.items():
        frame[column] = pd.Categorical(frame[column], categories=levels)
    if dataset.caution:
        frame.attrs["caution"] = dataset.caution
    return frame


def describe_dataset(name: str) -> Dataset:
    """Provenance, columns and units of a bundled dataset.

    Examples
    --------
    >>> describe_dataset("bcg").columns["ablat"]
    'absolute latitude of the place, degrees'
    """
    return _read(name)[0]


def list_datasets() -> pd.DataFrame:
    """The bundled datasets: title, number of studies, number of rows and effect measure.

    Examples
    --------
    >>> list_datasets().loc["bcg", "studies"]
    np.int64(13)
    """
    names = _names()
    rows = [
        {
            "title": about.title,
            "studies": table[about.study].nunique(),
            "rows": len(table),
            "measure": about.measure,
        }
        for name in names
        for about, table in [(describe_dataset(name), load_dataset(name))]
    ]
    return pd.DataFrame(rows, index=pd.Index(names, name="name"))


def _names() -> list[str]:
    return sorted(
        entry.name.removesuffix(".csv")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".csv")
    )


def _read(name: str) -> tuple[Dataset, str]:
    """A dataset's provenance and the text of its table."""
    names = _names()
    if name not in names:
        meant = did_you_mean(name, names)
        raise DataError(f"unknown dataset {name!r}; bundled are {', '.join(names)}{meant}")
    lines = (files(__name__) / f"{name}.csv").read_text("utf-8").splitlines(keepends=True)
    header = [line for line in lines if line.startswith("#")]
    provenance = tomllib.loads("".join(line[1:].removeprefix(" ") for line in header))
    return Dataset(name=name, **provenance), "".join(lines[len(header) :])
