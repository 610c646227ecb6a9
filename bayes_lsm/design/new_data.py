"""A design with several scale terms, applied to other rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.design import frames
from bayes_lsm.design.clustered_design import ClusteredDesign, ScaleTerm, formula_columns
from bayes_lsm.design.design import apply_part
from bayes_lsm.errors import DataError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClusteredNewData:
    """Moderator values at which a model with several scale terms is asked something.

    Attributes
    ----------
    X : ndarray, shape (m, p)
    slopes, Z : tuple of ndarray, shapes (m, s) and (m, s, q), one for each scale term
        As those of `ScaleTerm`, for groups that are new.
    labels : tuple of str, length m
    """

    X: Array
    slopes: tuple[Array, ...]
    Z: tuple[Array, ...]
    labels: tuple[str, ...]


def apply_to_new_data(design: ClusteredDesign, data: pd.DataFrame) -> ClusteredNewData:
    """The matrices for other rows, with the transforms and levels of the design's data.

    Parameters
    ----------
    design : ClusteredDesign
    data : DataFrame
        With every column that the formulas use, and the inner column of correlated effects.

    Raises
    ------
    DataError
        For a missing column or value, or a level that the design's data do not have.
    """
    data = frames.require_frame(data)
    if not len(data):
        raise DataError("the new data have no rows; give one row for each prediction")
    words = design.specification
    texts = [words.location, *(term.part.formula for term in design.terms)]
    texts += [term.grouping.slope for term in design.terms if term.grouping.slope]
    columns = list(dict.fromkeys(formula_columns(*texts)))
    inner = [term.grouping.inner for term in design.terms if term.grouping.inner]
    frames.require_columns(data, [*columns, *inner])
    labels = frames.row_labels(data, words.study if words.study in data.columns else None)
    frames.require_complete(data, columns, labels)
    frame, kinds = frames.moderators(data, columns, labels)
    frames.require_same_kinds(frame, kinds, design.kinds)
    applied = [_apply_term(term, data, frame, labels) for term in design.terms]
    slopes, Z = zip(*applied, strict=True) if applied else ((), ())
    X = apply_part(design.location, frame, labels)
    return ClusteredNewData(X, tuple(slopes), tuple(Z), labels)


def _apply_term(
    term: ScaleTerm, data: pd.DataFrame, frame: pd.DataFrame, labels: Sequence[str]
) -> tuple[Array, Array]:
    """Slopes (m, s) and Z (m, s, q) of one term, for other rows."""
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
        return slopes, slopes[:, :, None] * matrix[:, None, :]
    s = len(term.effects)
    if term.slope_part is None:
        return np.ones((len(matrix), 1)), matrix[:, None, :]
    slopes = apply_part(term.slope_part, frame, labels)
    if s == 1:
        return slopes, matrix[:, None, :]
    return slopes, np.stack([np.kron(np.eye(s), row) for row in matrix])
