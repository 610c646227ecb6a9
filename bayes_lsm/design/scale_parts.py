"""The formulas of ln τ² of any design, one for each scale term, and where they can be evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bayes_lsm import formulas
from bayes_lsm.arrays import Array
from bayes_lsm.design import frames
from bayes_lsm.design.design import Design
from bayes_lsm.design.part import Part, apply_part
from bayes_lsm.errors import DataError, FitError
from bayes_lsm.formulas.term_names import Kind

# Values that a numeric column without influence may take, so that its terms can be computed.
_ANY_NUMBER = (1.0, 2.0, 0.5, 10.0, 100.0, 0.0, -1.0)


@dataclass(frozen=True, eq=False)
class ScalePart:
    """One formula of ln τ², evaluated in each study or each group of its term.

    `kinds` are what the columns of the model's formulas hold, `first` is where the coefficients
    begin among the `total` of a fit. It is `simple` if a coefficient is one of the formula's
    columns, which is not so where a group has several slopes; and `alone` if names need no
    grouping.
    """

    grouping: str
    part: Part
    location: Part
    kinds: Mapping[str, Kind]
    first: int
    total: int
    simple: bool
    alone: bool

    @property
    def used(self) -> dict[Any, set[str]]:
        """The columns that each term of the formula uses."""
        found = self.part.spec.term_variables.items()
        return {term: set(map(str, names)) & set(self.kinds) for term, names in found}

    @property
    def columns(self) -> list[str]:
        """All that the formula uses."""
        return [name for name in self.kinds if any(name in found for found in self.used.values())]

    def label(self, name: str) -> str:
        """What a coefficient, or column, is called: ``"school: size"``."""
        return name if self.alone else f"{self.grouping}: {name}"

    def among_all(self, rows: Array) -> Array:
        """Rows (m, q) of its coefficients as rows of all of a fit's."""
        found = np.zeros((len(rows), self.total))
        found[:, self.first : self.first + rows.shape[1]] = rows
        return found

    def levels(self, column: str) -> list[Any] | None:
        """Those of a categorical column, in the order of the fit; None for a numeric one."""
        for part in (self.part, self.location):
            for factor, state in part.spec.factor_contrasts.items():
                variables = set(map(str, part.spec.factor_variables[factor]))
                if variables & set(self.kinds) == {column}:
                    return list(state.levels)
        return [False, True] if self.kinds[column] == "truth values" else None

    def evaluate(self, variable: str, values: list[Any], at: Mapping[str, Any]) -> Array:
        """Rows of Z with `variable` at these values; columns that nobody asked for at any value."""
        asked = {variable: values, **{name: [at[name]] * len(values) for name in at}}
        others = {name: self.levels(name) for name in self.columns if name not in asked}
        failure: DataError | None = None
        for number in _ANY_NUMBER:
            for name, levels in others.items():
                asked[name] = [number if levels is None else levels[0]] * len(values)
            try:
                return self._apply(pd.DataFrame(asked))
            except DataError as error:
                failure = failure or error
            if all(levels is not None for levels in others.values()):
                break
        raise failure or DataError("the terms of the scale formula cannot be computed")

    def _apply(self, data: pd.DataFrame) -> Array:
        labels = frames.row_labels(data, None)
        columns = formulas.parse(self.part.formula).columns
        frames.require_complete(data, columns, labels)
        frame, kinds = frames.moderators(data, columns, labels)
        frames.require_same_kinds(frame, kinds, self.kinds)
        return apply_part(self.part, frame, labels).copy()


def scale_parts(design: Design) -> list[ScalePart]:
    """The formulas of all scale terms."""
    return [
        ScalePart(
            term.name,
            term.part,
            design.location,
            design.kinds,
            at.start,
            design.columns[-1].stop,
            term.names == term.part.names,
            len(design.terms) == 1,
        )
        for term, at in zip(design.terms, design.columns, strict=True)
    ]


def scale_part(design: Design, variable: str, grouping: str | None = None) -> ScalePart:
    """The formula that uses a column, or that of one scale term.

    A FitError refuses an unknown grouping, a column that several scale terms use, and several
    slopes of a group whose variances the same formula gives.
    """
    parts = scale_parts(design)
    if grouping is not None:
        known = ", ".join(repr(each.grouping) for each in parts)
        parts = [each for each in parts if each.grouping == " ".join(grouping.split())]
        if not parts:
            raise FitError(f"there is no scale term {grouping!r}; there are {known}")
    using = [each for each in parts if variable in each.columns] or parts[:1]
    if len(using) > 1:
        listed = ", ".join(repr(each.grouping) for each in using)
        raise FitError(f"several scale terms use {variable!r}; say which, grouping= {listed}")
    if not using[0].simple:
        raise FitError(
            f"the scale term {using[0].grouping!r} has several effects in each group, whose "
            "variances have coefficients of their own; use wald_test(fit, contrast=...)"
        )
    return using[0]
