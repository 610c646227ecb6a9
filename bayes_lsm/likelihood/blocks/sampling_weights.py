"""Weights V⁻¹, those of the sampling errors alone, for a design with several scale terms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.design import Design

Array = npt.NDArray[np.float64]


def weigh(design: Design, columns: Array) -> tuple[Array, float]:
    """V⁻¹ times some columns (n, m), and tr V⁻¹."""
    alone = np.ones(len(design.v), dtype=bool)
    found = np.zeros_like(columns)
    trace = 0.0
    for block in design.blocks:
        alone[block.rows] = False
        W = np.linalg.inv(block.covariance)
        found[block.rows] = W @ columns[block.rows]
        trace += float(np.trace(W))
    found[alone] = columns[alone] / design.v[alone, None]
    return found, trace + float(np.sum(1.0 / design.v[alone]))


def typical_variance(design: Design) -> float:
    """The typical sampling variance (n − p) / tr(P), P with weights V⁻¹; 0 for individual data."""
    if not (design.v > 0).all():
        return 0.0
    WX, trace = weigh(design, design.X)
    trace -= float(np.trace(np.linalg.solve(design.X.T @ WX, WX.T @ WX)))
    return float((len(design.v) - design.X.shape[1]) / trace)
