"""Everything that the analysis report says of a model, as results: no words, no figures.

`analyse` makes them, and `analysis_page` puts them on a page.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from bayes_lsm.bayes import diagnose, sensitivity
from bayes_lsm.compare import Comparison, compare
from bayes_lsm.design.design import Design
from bayes_lsm.errors import BayesLsmWarning, FitError
from bayes_lsm.reml import (
    RemlFit,
    fit_reml,
    likelihood_ratio_test,
    score_test,
)
from bayes_lsm.report.clustered_analysis import (
    JOINT,
    ClusteredAnalysis,
    analyse_clustered,
    permute,
    table_of_tests,
)
from bayes_lsm.report.points import points_of

if TYPE_CHECKING:
    from bayes_lsm.bayes import BayesFit
    from bayes_lsm.bayes.diagnostics.diagnosis import Diagnosis
    from bayes_lsm.bayes.sensitivity.sensitivity import Sensitivity
    from bayes_lsm.model import LocationScaleModel
    from bayes_lsm.priors import PresetName, Priors
    from bayes_lsm.reml import PermutationTest, Profile


@dataclass(frozen=True, eq=False)
class Analysis:
    """What was found of a model: see `analyse`.

    Attributes
    ----------
    model : LocationScaleModel
    reml : RemlFit
        With normal study effects, whatever those of the model are.
    bayes : BayesFit
    comparison : Comparison
        The two side by side.
    tests : DataFrame or None
        One row a scale moderator and one of all together; statistic and pval of the Wald, the
        likelihood-ratio and the score test, and the p-value of the permutation test. None where
        the scale part has no moderators.
    test_notes : tuple of str
        Why a test is missing.
    permutation : PermutationTest or None
    profiles : mapping of str to Profile
        Of each scale coefficient.
    points : DataFrame
        New data: each moderator at its levels, or its smallest, mean and largest value, the others
        at typical values; indexed by what is varied. Without columns where there are no moderators.
    sensitivity : Sensitivity or None
        None where it was not asked for.
    diagnosis : Diagnosis
    """

    model: LocationScaleModel
    reml: RemlFit
    bayes: BayesFit
    comparison: Comparison
    tests: pd.DataFrame | None
    test_notes: tuple[str, ...]
    permutation: PermutationTest | None
    profiles: Mapping[str, Profile]
    points: pd.DataFrame
    sensitivity: Sensitivity | None
    diagnosis: Diagnosis

    @property
    def design(self) -> Design:
        """The model in numbers."""
        return self.bayes.design

    @property
    def is_robust(self) -> bool:
        """Whether the study effects are Student t, and so those of the two fits differ."""
        return self.bayes.draws.df is not None


def analyse(
    model: LocationScaleModel,
    *,
    prior: Priors | PresetName | None = None,
    draws: int | None = None,
    seed: int | None = None,
    permutations: int = 1000,
    with_sensitivity: bool = True,
    progress: bool = True,
) -> Analysis | ClusteredAnalysis:
    """Fit a model both ways and ask everything that the report tells.

    Parameters
    ----------
    model : LocationScaleModel
        With Student-t study effects the REML fit, which cannot have them, is of the same model with
        normal ones.
    prior : Priors or preset name, optional
    draws, seed : int, optional
        By default those of the model's specification.
    permutations : int, default 1000
        Of the scale moderators, with several scale terms by whole clusters; 0 leaves the test out.
    with_sensitivity : bool, default True
        Refit under other priors: most of the time that a report takes.
    progress : bool, default True
        Show progress bars on standard error.

    Returns
    -------
    Analysis, or with several scale terms ClusteredAnalysis

    Raises
    ------
    FitError
        For a model with random intercepts of ln τ², which REML cannot fit, or another link than the
        logarithm.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel.from_file("preterm_weeks")
    >>> found = analyse(
    ...     model, seed=1, permutations=0, with_sensitivity=False, progress=False)
    >>> found.tests.index.to_list()
    ['I(weeks - 40)', 'all moderators']
    """
    with warnings.catch_warnings():
        # What the fits warn of is in their notes, which the report shows.
        warnings.simplefilter("ignore", BayesLsmWarning)
        if not model.design.is_independent:
            return analyse_clustered(
                model,
                prior=prior,
                draws=draws,
                seed=seed,
                permutations=permutations,
                with_sensitivity=with_sensitivity,
                progress=progress,
            )
        _require_log_link(model)
        reml = _fit_reml(model)
        bayes = model.fit_bayes(prior=prior, draws=draws, seed=seed, progress=progress)
        tests, test_notes, permutation = _tests(
            reml, permutations=permutations, seed=bayes.seed, progress=progress
        )
        return Analysis(
            model,
            reml,
            bayes,
            compare(reml, bayes),
            tests,
            test_notes,
            permutation,
            {term: reml.profile(term) for term in reml.design.scale.names},
            points_of(reml.design),
            sensitivity(bayes, progress=progress) if with_sensitivity else None,
            diagnose(bayes, progress=progress),
        )


def _require_log_link(model: LocationScaleModel) -> None:
    link = model.specification.link
    if link != "log":
        raise FitError(
            "a report takes models with link='log', which both REML and Bayes can fit, got "
            f"{link!r}; use fit_reml and its own tables"
        )


def _fit_reml(model: LocationScaleModel) -> RemlFit:
    design, words = model.design, model.specification
    if words.study_effects == "student_t":
        known = {"study_effects": "normal", "priors": words.priors.model_copy(update={"df": None})}
        design = replace(design, specification=words.model_copy(update=known))
    return fit_reml(design, method=words.method)


def _tests(
    reml: RemlFit, *, permutations: int, seed: int, progress: bool
) -> tuple[pd.DataFrame | None, tuple[str, ...], PermutationTest | None]:
    terms = [name for name in reml.design.scale.names if name != "intrcpt"]
    if not terms:
        return None, (), None
    permuted, notes = permute(reml, permutations, seed=seed, progress=progress)
    rows = {term: _row(reml, [term], permuted, notes) for term in terms}
    rows[JOINT] = _row(reml, terms, permuted, notes)
    return table_of_tests(rows), tuple(dict.fromkeys(notes)), permuted


def _row(
    reml: RemlFit, terms: list[str], permuted: PermutationTest | None, notes: list[str]
) -> dict[tuple[str, str], Any]:
    """The tests of some scale moderators being 0: all with a χ² statistic."""
    single = len(terms) == 1
    scale = reml.scale
    if single:
        wald, wald_p = float(scale["zval"][terms[0]]) ** 2, float(scale["pval"][terms[0]])
    else:
        wald, wald_p = reml.qs.statistic, reml.qs.pval
    if math.isnan(wald):
        notes.append("Wald test: a coefficient without a finite estimate has no standard error")
    found: dict[tuple[str, str], Any] = {
        ("", "df"): len(terms),
        ("Wald", "χ²"): wald,
        ("Wald", "pval"): wald_p,
    }
    try:
        ratio = likelihood_ratio_test(reml, _without(reml, terms))
        found |= {("LRT", "χ²"): ratio.statistic, ("LRT", "pval"): ratio.pval}
    except FitError as error:
        found |= {("LRT", "χ²"): math.nan, ("LRT", "pval"): math.nan}
        notes.append(f"likelihood-ratio test: {error}")
    try:
        score = score_test(reml, terms)
        found |= {("score", "χ²"): score.statistic, ("score", "pval"): score.pval}
    except FitError as error:
        found |= {("score", "χ²"): math.nan, ("score", "pval"): math.nan}
        notes.append(f"score test: {error}")
    if permuted is not None:
        found["permutation", "pval"] = (
            float(permuted.table["pval"][terms[0]]) if single else permuted.pval
        )
    return found


def _without(reml: RemlFit, terms: list[str]) -> RemlFit:
    return fit_reml(reml.design, method=reml.method, fixed=dict.fromkeys(terms, 0.0))
