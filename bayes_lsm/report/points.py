"""Where a report predicts: each moderator at its levels, the others at typical values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bayes_lsm.design.design import Design
from bayes_lsm.plots.reading import is_number, levels_of, typical


def points_of(design: Design) -> pd.DataFrame:
    """Where predictions are made: one moderator at a time is moved."""
    held = typical(design)
    rows: dict[str, dict[str, Any]] = {}
    for name in held:
        for words, value in _values(design, name).items():
            rows[f"{name} = {words}"] = {**held, name: value}
    if not rows:
        return pd.DataFrame(index=[f"all {design.units}"])
    return pd.DataFrame.from_dict(rows, orient="index").astype(
        {name: float for name in held if is_number(design, name)}
    )


def _values(design: Design, name: str) -> dict[str, Any]:
    if not is_number(design, name):
        levels = levels_of(design, name)
        return {f"{level:g}" if isinstance(level, float) else str(level): level for level in levels}
    values = design.moderators[name].to_numpy(dtype=float)
    distinct = np.unique(values)
    if len(distinct) > 3:
        distinct = np.array([values.min(), values.mean(), values.max()])
    return {f"{value:.4g}": float(value) for value in distinct}
