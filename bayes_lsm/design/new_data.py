"""A design's formulas applied to other rows, with the transforms and levels of its own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_lsm import formulas
from bayes_lsm.arrays import Array
from bayes_lsm.design import frames
from bayes_lsm.design.part import Part, apply_part
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import DataError
from bayes_lsm.formulas.random_intercepts import split_random_intercepts
from bayes_lsm.formulas.term_names import Kind
from bayes_lsm.specification import Specification


@dataclass(frozen=True, eq=False)
class NewTerm:
    """One scale term in groups that are new: slopes (m, s) and Z (m, s, q); see `ScaleTerm`."""

    slopes: Array
    Z: Array


@dataclass(frozen=True, eq=False)
class NewData:
    """Moderators where a fitted model is asked something: X (m, p), and those of each term."""

    X: Array
    terms: tuple[NewTerm, ...]
    labels: tuple[str, ...]

    @property
    def Z(self) -> Array:
        """Scale matrix of a model of independent effects, shape (m, q)."""
        return self.terms[0].Z[:, 0, :]


def formula_columns(*texts: str) -> list[str]:
    """The columns of several formulas and their random intercepts, each once."""
    split = (split_random_intercepts(text) for text in texts)
    found = (c for fixed, groups in split for c in (*formulas.parse(fixed).columns, *groups))
    return list(dict.fromkeys(found))


def read_new_data(
    specification: Specification,
    location: Part,
    terms: Sequence[ScaleTerm],
    kinds: Mapping[str, Kind],
    data: pd.DataFrame,
) -> NewData:
    """The matrices for other rows; see `Design.for_new_data`."""
    data = frames.require_frame(data)
    if not len(data):
        raise DataError("the new data have no rows; give one row for each prediction")
    texts = [specification.location, *(term.part.formula for term in terms)]
    texts += [term.grouping.slope for term in terms if term.grouping.slope]
    columns = formula_columns(*texts)
    inner = [term.grouping.inner for term in terms if term.grouping.inner]
    frames.require_columns(data, [*columns, *inner])
    study = specification.study
    labels = frames.row_labels(data, study if study in data.columns else None)
    frames.require_complete(data, columns, labels)
    frame, found = frames.moderators(data, columns, labels)
    frames.require_same_kinds(frame, found, kinds)
    X = apply_part(location, frame, labels)
    return NewData(X, tuple(_apply_term(term, data, frame, labels) for term in terms), labels)


def _apply_term(
    term: ScaleTerm, data: pd.DataFrame, frame: pd.DataFrame, labels: Sequence[str]
) -> NewTerm:
    matrix = apply_part(term.part, frame, labels)
    if term.grouping.inner:
        level = [frames.level_text(value) for value in data[term.grouping.inner]]
        unknown = [each for each in level if each not in term.effects]
        if unknown:
            raise DataError(
                f"new data: {term.grouping.inner!r} has the level {unknown[0]!r}, which the fitted "
                f"data do not have; they have {', '.join(term.effects)}"
            )
        slopes = np.eye(len(term.effects))[[term.effects.index(each) for each in level]]
        return NewTerm(slopes, slopes[:, :, None] * matrix[:, None, :])
    s = len(term.effects)
    if term.slope_part is None:
        return NewTerm(np.ones((len(matrix), 1)), matrix[:, None, :])
    slopes = apply_part(term.slope_part, frame, labels)
    if s == 1:
        return NewTerm(slopes, matrix[:, None, :])
    return NewTerm(slopes, np.stack([np.kron(np.eye(s), row) for row in matrix]))
