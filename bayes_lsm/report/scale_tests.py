"""The tests of a report: whether the heterogeneity hangs on the scale moderators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from bayes_lsm.bayes.resolved_priors.resolve import pieces
from bayes_lsm.design.coefficients import coefficients
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.priors import contrasts
from bayes_lsm.reml import (
    PermutationTest,
    RemlFit,
    fit_reml,
    likelihood_ratio_test,
    permutation_test,
    score_test,
    wald_test,
)

_JOINT = "all moderators"
Contrast = dict[str, float]


def scale_tests(
    reml: RemlFit, *, permutations: int, seed: int, progress: bool
) -> tuple[pd.DataFrame | None, tuple[str, ...], PermutationTest | None]:
    """The table of tests, why some are missing, and the permutation test; None without moderators.

    With 0 permutations there is no permutation test.
    """
    hypotheses = dict(_hypotheses(reml.design))
    if not hypotheses:
        return None, (), None
    permuted, notes = _permute(reml, permutations, seed=seed, progress=progress)
    rows = {label: _row(reml, [row], permuted, notes) for label, row in hypotheses.items()}
    rows[_JOINT] = _row(reml, list(hypotheses.values()), permuted, notes)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("term")
    table.columns = pd.MultiIndex.from_tuples(list(rows[_JOINT]), names=["test", "statistic"])
    return table, tuple(dict.fromkeys(notes)), permuted


def _permute(
    reml: RemlFit, permutations: int, *, seed: int, progress: bool
) -> tuple[PermutationTest | None, list[str]]:
    """The permutation test of the scale part, if it is asked for and can be; and its notes."""
    if not permutations:
        return None, []
    try:
        found = permutation_test(reml, iterations=permutations, seed=seed, progress=progress)
    except FitError as error:
        return None, [f"permutation test: {error}"]
    return found, [f"permutation test: {note}" for note in found.notes]


def _hypotheses(design: Design) -> Iterator[tuple[str, Contrast]]:
    """What is 0 if ln τ² is constant: slopes, and differences of levels."""
    labels = iter(coefficients(design))
    for term in design.terms:
        for piece, _ in pieces(term):
            names = [next(labels).label for _ in piece.names]
            _, levels = contrasts(piece.Z[piece.used], "raw")
            for j in levels[1:]:
                label = f"{names[j]} - {piece.names[levels[0]]}"
                yield label, {names[j]: 1.0, names[levels[0]]: -1.0}
            for j in sorted(set(range(len(names))) - set(levels)):
                yield names[j], {names[j]: 1.0}


def _row(
    reml: RemlFit,
    rows: list[Contrast],
    permuted: PermutationTest | None,
    notes: list[str],
) -> dict[tuple[str, str], Any]:
    """The tests of some hypotheses: all with a χ² statistic."""
    terms = [name for row in rows for name in row]
    slopes = len(terms) == len(rows)
    found: dict[tuple[str, str], Any] = {("", "df"): len(rows)}
    for short, (name, test) in _TESTS.items():
        found[short, "χ²"] = found[short, "pval"] = math.nan
        if short != "Wald" and not slopes:
            notes.append(_OF_SLOPES)
            continue
        try:
            found[short, "χ²"], found[short, "pval"] = test(reml, rows)
        except FitError as error:
            notes.append(f"{name}: {error}")
    if permuted is not None:
        single = permuted.table["pval"]
        alone = len(terms) == 1 and terms[0] in single.index
        found["permutation", "pval"] = (
            float(single[terms[0]]) if alone else permuted.pval if len(rows) > 1 else math.nan
        )
    return found


def _wald(reml: RemlFit, rows: list[Contrast]) -> tuple[float, float]:
    found = wald_test(reml, contrast=rows)
    # One contrast is tested by z.
    return found.statistic ** (2 if len(rows) == 1 else 1), found.pval


def _likelihood_ratio(reml: RemlFit, rows: list[Contrast]) -> tuple[float, float]:
    zero = {name: 0.0 for row in rows for name in row}
    found = likelihood_ratio_test(reml, fit_reml(reml.design, method=reml.method, fixed=zero))
    return found.statistic, found.pval


def _score(reml: RemlFit, rows: list[Contrast]) -> tuple[float, float]:
    found = score_test(reml, [name for row in rows for name in row])
    return found.statistic, found.pval


# Heading, name, and what gives χ² and p of some contrasts.
_TESTS: dict[str, tuple[str, Callable[[RemlFit, list[Contrast]], tuple[float, float]]]] = {
    "Wald": ("Wald test", _wald),
    "LRT": ("likelihood-ratio test", _likelihood_ratio),
    "score": ("score test", _score),
}
_OF_SLOPES = "likelihood-ratio and score tests: of slopes alone, not of differences between levels"
