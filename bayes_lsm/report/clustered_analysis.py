"""Everything that the analysis report says of a model with several scale terms, as results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bayes_lsm.bayes import diagnose, sensitivity
from bayes_lsm.bayes.resolved_priors.resolve import pieces
from bayes_lsm.compare import Comparison, compare
from bayes_lsm.errors import FitError
from bayes_lsm.priors import contrasts
from bayes_lsm.reml import permutation_test, score_test, wald_test
from bayes_lsm.report.points import points_of

if TYPE_CHECKING:
    from bayes_lsm.bayes import BayesFit
    from bayes_lsm.bayes.diagnostics.diagnosis import Diagnosis
    from bayes_lsm.bayes.sensitivity.sensitivity import Sensitivity
    from bayes_lsm.design.design import Design
    from bayes_lsm.model import LocationScaleModel
    from bayes_lsm.priors import PresetName, Priors
    from bayes_lsm.reml import PermutationTest, Profile, RemlFit

JOINT = "all moderators"
Contrast = dict[str, float]


@dataclass(frozen=True, eq=False)
class ClusteredAnalysis:
    """What was found of a model with several scale terms.

    Attributes
    ----------
    model, reml, bayes, comparison, permutation, points, sensitivity, diagnosis
        As those of `Analysis`, of fits of several scale terms.
    tests : DataFrame or None
        One row a scale moderator (or difference between levels) and one of all together: Wald,
        score and permutation test.
    test_notes : tuple of str
        Why a test is missing.
    profiles : mapping of str to Profile
        Of each scale coefficient (``"district: intrcpt"``) and each correlation.
    profile_notes : tuple of str
        Why one is missing.
    """

    model: LocationScaleModel
    reml: RemlFit
    bayes: BayesFit
    comparison: Comparison
    tests: pd.DataFrame | None
    test_notes: tuple[str, ...]
    permutation: PermutationTest | None
    profiles: Mapping[str, Profile]
    profile_notes: tuple[str, ...]
    points: pd.DataFrame
    sensitivity: Sensitivity | None
    diagnosis: Diagnosis

    @property
    def design(self) -> Design:
        """The model in numbers."""
        return self.bayes.design


def analyse_clustered(
    model: LocationScaleModel,
    *,
    prior: Priors | PresetName | None,
    draws: int | None,
    seed: int | None,
    permutations: int,
    with_sensitivity: bool,
    progress: bool,
) -> ClusteredAnalysis:
    """Fit a model of several scale terms both ways and ask everything that the report tells.

    Parameters
    ----------
    model, prior, draws, seed, permutations, with_sensitivity, progress
        See `bayes_lsm.report.analyse`.

    Raises
    ------
    FitError
        For random intercepts of ln τ², which REML cannot fit.
    """
    design = model.design
    if any(term.random for term in design.terms):
        raise FitError(
            "a report takes models that both REML and Bayes can fit, got random intercepts of "
            "ln τ²; use fit_bayes, its tables, diagnose and sensitivity"
        )
    reml = model.fit_reml()
    bayes = model.fit_bayes(prior=prior, draws=draws, seed=seed, progress=progress)
    tests, test_notes, permuted = _tests(
        reml, permutations=permutations, seed=bayes.seed, progress=progress
    )
    profiles, profile_notes = _profiles(reml)
    return ClusteredAnalysis(
        model,
        reml,
        bayes,
        compare(reml, bayes),
        tests,
        test_notes,
        permuted,
        profiles,
        profile_notes,
        points_of(design),
        sensitivity(bayes, progress=progress) if with_sensitivity else None,
        diagnose(bayes, progress=progress),
    )


def _tests(
    reml: RemlFit, *, permutations: int, seed: int, progress: bool
) -> tuple[pd.DataFrame | None, tuple[str, ...], PermutationTest | None]:
    hypotheses = dict(_hypotheses(reml.design))
    if not hypotheses:
        return None, (), None
    permuted, notes = permute(reml, permutations, seed=seed, progress=progress)
    rows = {label: _row(reml, [row], permuted, notes) for label, row in hypotheses.items()}
    rows[JOINT] = _row(reml, list(hypotheses.values()), permuted, notes)
    return table_of_tests(rows), tuple(dict.fromkeys(notes)), permuted


def permute(
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


def table_of_tests(rows: Mapping[str, dict[tuple[str, str], Any]]) -> pd.DataFrame:
    """One row a hypothesis; the last has all columns."""
    table = pd.DataFrame.from_dict(dict(rows), orient="index").rename_axis("term")
    table.columns = pd.MultiIndex.from_tuples(list(rows[JOINT]), names=["test", "statistic"])
    return table


def _hypotheses(design: Design) -> Iterator[tuple[str, Contrast]]:
    """What is 0 if ln τ² is constant: slopes, and differences of levels."""
    for term in design.terms:
        for piece, _ in pieces(term):
            names = [f"{term.name}: {name}" for name in piece.names]
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
    found: dict[tuple[str, str], Any] = {
        ("", "df"): len(rows),
        ("Wald", "χ²"): math.nan,
        ("Wald", "pval"): math.nan,
        ("score", "χ²"): math.nan,
        ("score", "pval"): math.nan,
    }
    try:
        wald = wald_test(reml, contrast=rows)
        found["Wald", "χ²"] = wald.statistic ** (2 if len(rows) == 1 else 1)
        found["Wald", "pval"] = wald.pval
    except FitError as error:
        notes.append(str(error))
    terms = [name for row in rows for name in row]
    if len(terms) == len(rows):
        try:
            score = score_test(reml, terms)
            found["score", "χ²"], found["score", "pval"] = score.statistic, score.pval
        except FitError as error:
            notes.append(f"score test: {error}")
    else:
        notes.append("score test: of slopes alone, not of differences between levels")
    if permuted is not None:
        single = permuted.table["pval"]
        alone = len(terms) == 1 and terms[0] in single.index
        found["permutation", "pval"] = (
            float(single[terms[0]]) if alone else permuted.pval if len(rows) > 1 else math.nan
        )
    return found


def _profiles(reml: RemlFit) -> tuple[dict[str, Profile], tuple[str, ...]]:
    """Of scale coefficients and of correlations."""
    names = list(reml.scale_names)
    names += [f"{grouping}: {pair}" for grouping, pair in reml.correlations.index]
    found: dict[str, Profile] = {}
    notes = []
    for name in names:
        try:
            found[name] = reml.profile(name)
        except FitError as error:
            notes.append(f"{name}: {error}")
    return found, tuple(notes)
