"""Everything that the analysis report says of a model, as results: no words, no figures.

`analyse` makes them, and `analysis_page` puts them on a page.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from bayes_lsm.bayes import BayesFit, diagnose, sensitivity
from bayes_lsm.bayes.diagnostics.diagnosis import Diagnosis
from bayes_lsm.bayes.sensitivity.sensitivity import Sensitivity
from bayes_lsm.capabilities import require_capable
from bayes_lsm.compare import Comparison, compare
from bayes_lsm.design.coefficients import pairs
from bayes_lsm.design.design import Design
from bayes_lsm.errors import BayesLsmWarning, FitError
from bayes_lsm.model import LocationScaleModel
from bayes_lsm.plots.reading import is_number, levels_of, typical
from bayes_lsm.priors import PresetName, Priors
from bayes_lsm.reml import PermutationTest, Profile, RemlFit, fit_reml
from bayes_lsm.report.scale_tests import scale_tests


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
        One row a scale moderator (or difference between levels) and one of all together; statistic
        and pval of the Wald, the likelihood-ratio and the score test, and the p-value of the
        permutation test. None where the scale part has no moderators.
    test_notes : tuple of str
        Why a test is missing.
    permutation : PermutationTest or None
    profiles : mapping of str to Profile
        Of each scale coefficient and each correlation.
    profile_notes : tuple of str
        Why one is missing.
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
    profile_notes: tuple[str, ...]
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
) -> Analysis:
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
    Analysis

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
    require_capable("report", model.design)
    with warnings.catch_warnings():
        # What the fits warn of is in their notes, which the report shows.
        warnings.simplefilter("ignore", BayesLsmWarning)
        reml = _fit_reml(model)
        bayes = model.fit_bayes(prior=prior, draws=draws, seed=seed, progress=progress)
        tests, test_notes, permutation = scale_tests(
            reml, permutations=permutations, seed=bayes.seed, progress=progress
        )
        profiles, profile_notes = _profiles(reml)
        return Analysis(
            model,
            reml,
            bayes,
            compare(reml, bayes),
            tests,
            test_notes,
            permutation,
            profiles,
            profile_notes,
            _points(reml.design),
            sensitivity(bayes, progress=progress) if with_sensitivity else None,
            diagnose(bayes, progress=progress),
        )


def _fit_reml(model: LocationScaleModel) -> RemlFit:
    design, words = model.design, model.specification
    if words.study_effects == "student_t":
        known = {"study_effects": "normal", "priors": words.priors.model_copy(update={"df": None})}
        design = replace(design, specification=words.model_copy(update=known))
    return fit_reml(design, method=words.method)


def _profiles(reml: RemlFit) -> tuple[dict[str, Profile], tuple[str, ...]]:
    """Of scale coefficients and of correlations."""
    names = [*reml.scale_names, *(pair.label for pair in pairs(reml.design))]
    found: dict[str, Profile] = {}
    notes = []
    for name in names:
        try:
            found[name] = reml.profile(name)
        except FitError as error:
            notes.append(f"{name}: {error}")
    return found, tuple(notes)


def _points(design: Design) -> pd.DataFrame:
    """Where predictions are made: one moderator at a time is moved."""
    held = typical(design)
    rows: dict[str, dict[str, Any]] = {}
    for name in held:
        for words, value in _values_of(design, name).items():
            rows[f"{name} = {words}"] = {**held, name: value}
    if not rows:
        return pd.DataFrame(index=[f"all {design.units}"])
    return pd.DataFrame.from_dict(rows, orient="index").astype(
        {name: float for name in held if is_number(design, name)}
    )


def _values_of(design: Design, name: str) -> dict[str, Any]:
    if not is_number(design, name):
        levels = levels_of(design, name)
        return {f"{level:g}" if isinstance(level, float) else str(level): level for level in levels}
    values = design.moderators[name].to_numpy(dtype=float)
    distinct = np.unique(values)
    if len(distinct) > 3:
        distinct = np.array([values.min(), values.mean(), values.max()])
    return {f"{value:.4g}": float(value) for value in distinct}
