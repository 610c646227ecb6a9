"""What every fit can do, whoever made it: tables that print like a statistician's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import pandas as pd

from bayes_lsm.design.design import Design
from bayes_lsm.tables import LONGEST, Tabled


class Fit(Protocol):
    """A fitted location-scale model."""

    @property
    def design(self) -> Design:
        """The numbers that were fitted."""

    @property
    def label(self) -> str:
        """How it was fitted, in a word: ``REML``, ``ML``, ``Bayes``."""

    @property
    def converged(self) -> bool:
        """Whether the fit can be trusted."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any table of the fit has to know."""

    def comparison(self, *, at_stop: bool = False) -> dict[str, pd.DataFrame]:
        """Two columns for a side-by-side table, by the suffix of their heading (mostly ``""``)."""

    def to_dataframe(self) -> pd.DataFrame:
        """All coefficients as one table, indexed by part and term."""


@dataclass(frozen=True, eq=False)
class ResultTable(Tabled):
    """What a fit answered: a table with a title and the notes that its reader must see.

    Attributes
    ----------
    heading : str
        Its title.
    table : DataFrame
    remarks : tuple of str
        Its notes.
    level : float
        Of the intervals.
    """

    heading: str
    table: pd.DataFrame
    remarks: tuple[str, ...]
    level: float

    @property
    def title(self) -> str:
        """What the table is of."""
        return self.heading

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""
        rows = len(self.table)
        if rows <= LONGEST:
            return self.remarks
        cut = f"the first {LONGEST} of {rows} rows are shown; to_dataframe() has them all"
        return (cut, *self.remarks)

    def _table(self) -> pd.DataFrame:
        return super()._table().head(LONGEST)


def model_title(design: Design, how: str = "") -> str:
    """``Location-Scale Model (k = 37; REML)``."""
    return f"{design.kind} ({design.size}{f'; {how}' if how else ''})"
