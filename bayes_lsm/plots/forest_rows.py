"""The lines of a forest plot: studies under headings, and the summary below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_choice
from bayes_lsm.design.clusters import read_clusters
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.plots.reading import (
    AnyFit,
    column_of,
    held_text,
    levels_of,
    row_names,
    rows_at,
    study_weights,
)

Order = Literal["given", "effect", "precision"]
Kind = Literal["study", "summary", "prediction", "heading", "gap"]


@dataclass(frozen=True)
class ForestRow:
    """One line of the plot: a study, a diamond, a prediction interval or a heading."""

    kind: Kind
    label: str = ""
    estimate: float = np.nan
    lower: float = np.nan
    upper: float = np.nan
    weight: float = np.nan
    study: int = -1


def rows_of(
    fit: AnyFit,
    by: str | Sequence[object] | None,
    summary: pd.DataFrame | None,
    order: Order,
    level: float,
) -> list[ForestRow]:
    """A line for each effect, under headings if asked for, and the summary."""
    design = fit.design
    require_capable("forest", design)
    studies = _studies(fit, order, level)
    rows = studies if by is None else _under_headings(fit, by, studies, level)
    if summary is not None:
        table = fit.predict(summary, level=level).table
        table = table.set_axis(row_names(table, summary), axis=0)
    elif (by is None or _is_grouping(design, by)) and _is_alike(design):
        table = fit.predict(level=level).table.iloc[[0]].set_axis([design.kind], axis=0)
    else:
        return rows
    return [*rows, ForestRow("gap"), *diamonds(table, level)]


def _is_alike(design: Design) -> bool:
    """Whether one prediction is that of all rows."""
    plain = all(len(term.effects) == 1 and not term.slope_part for term in design.terms)
    return plain and not len(design.kinds)


def _is_grouping(design: Design, by: object) -> bool:
    return isinstance(by, str) and by in [term.name for term in design.terms]


def _studies(fit: AnyFit, order: Order, level: float) -> list[ForestRow]:
    """A line for each effect, with its confidence interval."""
    require_choice("order", order, Order)
    design, weights = fit.design, study_weights(fit)
    y, half = design.y, float(ndtri(0.5 + level / 2)) * np.sqrt(design.v)
    key = {"given": np.arange(len(y)), "effect": y, "precision": design.v}[order]
    places = range(len(y))
    rows = zip(design.labels, y, y - half, y + half, weights, places, strict=True)
    studies = [ForestRow("study", *each) for each in rows]
    return [studies[i] for i in np.argsort(key, kind="stable")]


def _under_headings(
    fit: AnyFit, by: str | Sequence[object], studies: Sequence[ForestRow], level: float
) -> list[ForestRow]:
    values, found = _groups(fit, by, level)
    rows: list[ForestRow] = []
    for value in found:
        members = [row for row in studies if values[row.study] == value]
        if members:
            rows += [ForestRow("heading", str(value)), *members, *found[value], ForestRow("gap")]
    return rows[:-1]


def _groups(
    fit: AnyFit, by: str | Sequence[object], level: float
) -> tuple[Sequence[object], dict[object, list[ForestRow]]]:
    """Each row's group, and of each in order its diamonds."""
    design = fit.design
    if not isinstance(by, str):
        given = list(by)
        if len(given) != len(design.y):
            raise FitError(
                f"by must give a group to each of the {len(design.y)} studies of the model, "
                f"got {len(given)}"
            )
        return given, {value: [] for value in given}
    if " ".join(by.split()) in [term.name for term in design.terms]:
        clusters = read_clusters(design, by)
        names = [f"{clusters.what} {name}" for name in clusters.names]
        return [names[c] for c in clusters.code], {name: [] for name in names}
    values = column_of(design, by).tolist()
    if design.kinds[by] == "numbers":
        raise FitError(
            f"by={by!r} holds numbers; give a categorical moderator, or k groups such as "
            f"pandas.cut(data[{by!r}], 3)"
        )
    levels = levels_of(design, by)
    table = fit.predict(rows_at(design, by, levels, None), level=level).table
    label = f"Mean {held_text(design, by, None)}".strip()
    return values, {
        value: diamonds(table.iloc[[i]].set_axis([label], axis=0), level)
        for i, value in enumerate(levels)
    }


def diamonds(table: pd.DataFrame, level: float) -> list[ForestRow]:
    """A diamond and a prediction interval for each row of predictions."""
    rows, name = [], f"{100 * level:g}% prediction interval"
    for label, each in table.iterrows():
        found = ForestRow("summary", str(label), each["estimate"], each["ci_lb"], each["ci_ub"])
        interval = {"label": name, "lower": each["pi_lb"], "upper": each["pi_ub"]}
        rows += [found, replace(found, kind="prediction", **interval)]
    return rows
