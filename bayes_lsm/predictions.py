"""What a fit of either kind predicts: effects of new studies, of groups, of rows, and τ²."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Mask
from bayes_lsm.design.design import Design
from bayes_lsm.results import ResultTable

Interval = Literal["eti", "hdi"]
ScaleUncertainty = Literal["propagated", "plug-in"]


@dataclass(frozen=True, eq=False)
class Summarised(ResultTable):
    """A table, whose rows the verb explains; `interval` is of a posterior: "eti", "hdi" or None."""

    interval: Interval | None = None


@dataclass(frozen=True, eq=False)
class Prediction(Summarised):
    """Predictions at some values of the moderators: see `predict` and `predict_tau`.

    Attributes
    ----------
    remarks : tuple of str
        Where there is no heterogeneity, where a number is missing, and why.
    scale_uncertainty : {"propagated", "plug-in"} or None
        What the prediction intervals of REML or ML make of the uncertainty of τ².
    """

    scale_uncertainty: ScaleUncertainty | None = None


@dataclass(frozen=True, eq=False)
class Blups(Summarised):
    """Each row's own true effect: see `blup`."""


@dataclass(frozen=True, eq=False)
class GroupEffects(Summarised):
    """The effects of the groups of every scale term: see `group_effects`."""


@dataclass(frozen=True, eq=False)
class Levels(ResultTable):
    """Heterogeneity of a fit, level by level: `tau2`, `tau`, `I2` and `H2` are of the total.

    Attributes
    ----------
    table : DataFrame
        One row a scale term, and the total where there are several.
    """

    @property
    def tau2(self) -> float:
        """τ² of all levels together."""
        return self._total("tau2")

    @property
    def tau(self) -> float:
        """Its root."""
        return self._total("tau")

    @property
    def I2(self) -> float:
        """Per cent."""
        return self._total("I2")

    @property
    def H2(self) -> float:
        """(τ² + ṽ)/ṽ; nan for individual data."""
        return self._total("H2") if "H2" in self.table else math.nan

    def _total(self, column: str) -> float:
        return float(self.table[column].iloc[-1])


def truth_notes(design: Design, notes: tuple[str, ...]) -> tuple[str, ...]:
    """What a reader of the rows' true effects has to know."""
    if (design.v > 0).any():
        return notes
    return ("individual data have no sampling errors: θ is what was observed", *notes)


def index_of_effects(design: Design, shown: Sequence[Mask]) -> pd.Index:
    """The groups of the effects (G, s) of each term that are shown.

    Of several effects or terms, these as well.
    """
    names = [
        (term.name, term.groups[g], term.effects[k])
        for term, some in zip(design.terms, shown, strict=True)
        for g, k in np.argwhere(some)
    ]
    index = pd.MultiIndex.from_tuples(names, names=["grouping", "group", "effect"])
    term, *others = design.terms
    if others:
        return index
    if len(term.effects) > 1:
        return index.droplevel("grouping")
    unit = "study" if term.grouping.is_residual else "group"
    return index.droplevel(["grouping", "effect"]).rename(unit)
