"""Coordinates of the scale part in which neither units nor means of moderators matter."""

from __future__ import annotations

import math

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.design.design import Design


def unit_steps(design: Design) -> Array:
    """What takes coordinates to the coefficients and κ of all terms, shape (m, m).

    A step of 1 in a coordinate changes ln τ² of the effects of one term by about 1 (its columns are
    orthogonal there, of mean square 1), or one κ by 1.

    Examples
    --------
    >>> from bayes_lsm import Specification, build_design, load_dataset
    >>> words = Specification("yi ~ 1", "vi", scale="~ 0 + I(1000 * ablat)")
    >>> design = build_design(words, load_dataset("bcg"))
    >>> step = unit_steps(design)
    >>> round(float(np.mean((design.Z @ step) ** 2)), 9)
    1.0
    """
    back = np.eye(design.places[-1].stop)
    for term, places in zip(design.terms, design.places, strict=True):
        rows = term.Z[term.used]
        R = np.linalg.qr(rows, mode="r") / math.sqrt(len(rows))
        here = slice(places.start, places.start + len(R))
        back[here, here] = np.linalg.solve(R, np.eye(len(R)))
    return back
