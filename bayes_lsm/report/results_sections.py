"""The sections of a report that show results: estimates, tests, profiles and predictions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bayes_lsm import plots
from bayes_lsm.reml import Profile
from bayes_lsm.report.analysis import Analysis
from bayes_lsm.report.drawing import figure_of
from bayes_lsm.report.page import Block, Picture, Section, Table, Text

MOST_FIGURES = 4
_MOST_CURVES = 8


def said(found: Analysis) -> tuple[str, ...]:
    """What the lead says, so that no table has to say it again."""
    own = found.reml.notes + found.bayes.notes
    fits = ((found.reml.label, found.reml), (found.bayes.label, found.bayes))
    labelled = tuple(f"{label}: {note}" for label, fit in fits for note in fit.notes)
    return (*found.design.notes, *own, *labelled)


def estimates(found: Analysis) -> Section:
    """Both fits, coefficient by coefficient."""
    said = found.design.notes
    return Section(
        "Estimates",
        (
            Table("reml", found.reml, said=said),
            Table("fit_statistics", _fit_statistics(found), "Fit statistics", digits=2),
            Table("bayes", found.bayes, said=said),
        ),
    )


def _fit_statistics(found: Analysis) -> pd.DataFrame:
    reml = found.reml
    row = {"logLik": reml.loglik, "AIC": reml.aic, "BIC": reml.bic, "AICc": reml.aicc}
    return pd.DataFrame([row], index=[reml.label])


def tests(found: Analysis) -> Section:
    """Whether the heterogeneity hangs on moderators."""
    heading = "Tests of the scale coefficients"
    if found.tests is None:
        return Section(heading, (Text("The scale part has no moderators, so none is tested."),))
    permuted = found.permutation
    without = " The permutation test does not rely on large samples." if permuted else ""
    blocks: list[Block] = [
        Text(
            f"Each row tests that the coefficients are 0, {_tested(found)}. The Wald test needs a "
            f"finite estimate, the score test none.{without}"
        ),
        Table("tests", found.tests, "Tests", digits=3, notes=found.test_notes),
    ]
    if permuted is not None and np.isfinite(permuted.statistic):
        blocks.append(
            Picture(
                "permutation_null",
                figure_of(plots.permutation_null(permuted)),
                alt="Histogram of the joint statistic under permutation, with the observed one.",
                caption=permuted.title,
            )
        )
    return Section(heading, tuple(blocks))


def _tested(found: Analysis) -> str:
    """The tests, by their names."""
    if found.permutation is None:
        return "by Wald, likelihood-ratio and score tests"
    return "by Wald, likelihood-ratio, score and permutation tests"


def profiles(found: Analysis) -> Section:
    """How far the data bound each scale coefficient."""
    profiles: Mapping[str, Profile] = found.profiles
    table = pd.DataFrame.from_dict(
        {
            term: {
                "estimate": each.estimate,
                "ci_lb": each.lower,
                "ci_ub": each.upper,
                "verdict": each.verdict,
            }
            for term, each in profiles.items()
        },
        orient="index",
    ).rename_axis("term")
    shown = list(profiles.values())[: 2 * MOST_FIGURES]
    return Section(
        "Profiles of the scale coefficients",
        (
            Picture(
                "profiles",
                figure_of(plots.profiles(shown)[0]),
                alt="Profile likelihood of each scale coefficient, with its 95% cut-off.",
                caption="Where a curve stays above the dashed line on one side, the data set no "
                "bound there.",
            ),
            Table(
                "profiles",
                table,
                "95% profile-likelihood intervals",
                digits=3,
                notes=found.profile_notes,
            ),
        ),
    )


def predictions(found: Analysis) -> Section:
    """Effects of new studies, or of new groups."""
    points = found.points
    several = len(found.design.terms) > 1
    whose = "in new groups of every level" if several else "of a new study"
    moved = (
        ", and τ there; one moderator is moved at a time, the others are at their means or most "
        "frequent levels"
        if points.shape[1]
        else ""
    )
    blocks: list[Block] = [
        Text(
            "Mean effects with their confidence (ci) and prediction intervals (pi, of the true "
            f"effect {whose}){moved}."
        )
    ]
    for name, fit in (("reml", found.reml), ("bayes", found.bayes)):
        table = fit.predict(points).table.head(len(points)).set_axis(points.index, axis=0)
        blocks.append(Table(f"predictions_{name}", table.rename_axis("at"), fit.label, digits=3))
    if len(points) <= _MOST_CURVES:
        blocks.append(
            Picture(
                "new_effect",
                figure_of(plots.new_effect(found.bayes, points)),
                alt="Density of the true effect of a new study at each of these points.",
                caption="The true effect of a new study (Bayes).",
            )
        )
    return Section("Predictions", tuple(blocks))
