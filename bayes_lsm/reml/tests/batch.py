"""Fits of many datasets of one design at once: other effects, or reordered moderators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from bayes_lsm.likelihood.rows.ascent import Summits
    from bayes_lsm.likelihood.rows.kernels import Problem

Array = npt.NDArray[np.float64]
Orders = npt.NDArray[np.intp]

# Predicted gain, relative to the log-likelihood, at which an ascent ends: within 1e-6 of an SE.
TOLERANCE = 1e-15


def climb_highest(
    starts: Iterable[Array],
    problem: Problem,
    *,
    effects: Array | None = None,
    orders: Orders | None = None,
    part: Literal["location", "scale"] = "scale",
) -> Summits:
    """The highest summit of each of m datasets that one of some starts leads to.

    Parameters
    ----------
    starts : iterable of ndarray, shape (q,) or (m, q)
        In the coordinates of the problem: the same for all datasets, or one for each.
    problem : Problem
    effects : ndarray, shape (m, n), optional
        In place of the problem's.
    orders : ndarray of int, shape (m, n), optional
        Which study's row of Z (or of X, for the location `part`) is to be where.
    part : {"location", "scale"}, default "scale"

    Returns
    -------
    Summits
        Of length m, with a value of −inf where there is none.
    """
    from bayes_lsm.likelihood.rows.ascent import climb_sets

    none = np.empty((0, len(problem.y)), dtype=np.intp)
    best: Summits | None = None
    for start in starts:
        found: Summits = climb_sets(
            np.atleast_2d(start),
            problem.y[None] if effects is None else effects,
            problem,
            orders if orders is not None and part == "location" else none,
            orders if orders is not None and part == "scale" else none,
            TOLERANCE,
        )
        found.value[np.isnan(found.value)] = -np.inf
        if best is None:
            best = found
            continue
        higher = found.value > best.value + 1e-12
        for kept, new in zip(best, found, strict=True):
            kept[higher] = new[higher]
    if best is None:
        raise ValueError("there must be a start")
    return best
