"""Checks of a design matrix's columns: none constant beside the intercept, none redundant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.errors import DataError

# Columns are compared after centring and scaling to length 1, where rounding leaves about 1e-15
# times a modest factor; moderators that differ in one part in 1e8 still count as different.
_RANK_TOLERANCE = 1e-10
_ROUNDING = 8 * float(np.finfo(float).eps)


def check_columns(part: str, names: Sequence[str], values: Array) -> None:
    """Refuse a matrix (n, p) with constant, zero or collinear columns, and name them.

    `part` is how the message begins: ``"location"``, ``"scale"``.

    Examples
    --------
    >>> check_columns("scale", ["intrcpt", "x"], np.array([[1.0, 0.0], [1.0, 2.0]]))
    """
    if len(values) == 1:
        return
    for j, name in enumerate(names):
        if not is_constant(values[:, j]):
            continue
        if values[0, j] == 0:
            raise DataError(
                f"the {part} moderator {name!r} is zero in every study; leave it out, or merge the "
                "level with another"
            )
        if "intrcpt" in names and name != "intrcpt":
            raise DataError(
                f"the {part} moderator {name!r} is constant ({values[0, j]:g} in every study); "
                "leave it out"
            )
    redundant = redundant_column(values)
    if redundant is not None:
        j, others = redundant
        listed = " and ".join(repr(names[i]) for i in others) or "the others"
        raise DataError(
            f"the {part} term {names[j]!r} is a linear combination of {listed} (collinear); "
            "leave one of them out"
        )


def is_constant(column: Array) -> bool:
    """Whether a column does not vary by more than its rounding.

    Examples
    --------
    >>> is_constant(np.array([0.3, 0.1 + 0.2])), is_constant(np.array([1e8, 1e8 + 1]))
    (True, False)
    """
    return bool(np.ptp(column) <= _ROUNDING * np.abs(column).max())


def redundant_column(values: Array) -> tuple[int, list[int]] | None:
    """The first column that the columns before it determine, and which of them do.

    Beside a constant column the others are centred first, so that neither a moderator's origin nor
    its unit (years, 1e8) makes it look like the constant.

    Examples
    --------
    >>> redundant_column(np.array([[1.0, 2.0, 4.0], [1.0, 3.0, 6.0], [1.0, 5.0, 10.0]]))
    (2, [1])
    """
    p = values.shape[1]
    constant = [j for j in range(p) if is_constant(values[:, j])]
    if len(constant) > 1:
        return constant[1], constant[:1]
    largest = np.abs(values).max(axis=0)
    scaled = values / np.where(largest > 0, largest, 1.0)
    if constant:
        shift = scaled.mean(axis=0)
        shift[constant] = 0.0
        scaled = scaled - shift
    scaled /= np.linalg.norm(scaled, axis=0)
    # All that matters of n rows is in the p rows of R, where column j has no entry below row j.
    r = np.linalg.qr(scaled, mode="r")
    for j in range(1, p):
        left = np.linalg.norm(r[j:, j]) if j < len(r) else 0.0
        if left < _RANK_TOLERANCE:
            weights, *_ = np.linalg.lstsq(r[:, :j], r[:, j], rcond=None)
            return j, [i for i in range(j) if abs(weights[i]) > 1e-6]
    return None
