"""The page of a `Diagnosis`: the verdict, what is out of bounds, and then everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayes_lsm import plots
from bayes_lsm.bayes.cross_validation.elpd import Elpd
from bayes_lsm.bayes.diagnostics.diagnosis import Diagnosis
from bayes_lsm.bayes.prediction.study_weights import study_weights
from bayes_lsm.design.clusters import has_dependent_rows
from bayes_lsm.report.drawing import figure_of
from bayes_lsm.report.making import made_with
from bayes_lsm.report.page import Block, Page, Picture, Section, Table, Text, Verdict, Verdicts

if TYPE_CHECKING:
    import pandas as pd

_ABOUT = (
    "Draws are judged by Vehtari et al. (2021) and Betancourt (2016). The other limits say where "
    "to look and are no tests: of many checks of a good model some are out of bounds by chance."
)


def diagnosis_page(found: Diagnosis) -> Page:
    """What speaks for and against a Bayesian fit, as a page.

    Parameters
    ----------
    found : Diagnosis
        From `BayesFit.diagnose`.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_bayes(seed=1)
    >>> page = diagnosis_page(fit.diagnose(progress=False))
    >>> [section.heading for section in page.sections]
    ['All checks', 'Draws', 'Posterior predictive checks', 'Leave-one-study-out', 'Single studies']
    """
    said = found.fit.design.notes
    sections = [
        Section("All checks", (Text(_ABOUT), Table("checks", found, said=found.notes))),
        _draws(found),
        _predictive(found),
    ]
    if found.loo is not None:
        sections.append(_leave_out(found.loo, said))
    if found.studies is not None:
        sections.append(_studies(found, found.studies))
    if found.engines is not None:
        sections.append(_engines(found.engines))
    return Page(
        found.title,
        (Text(found.verdict), *_out_of_bounds(found), *map(Text, (*found.remarks, *said))),
        tuple(sections),
        made_with(found.fit),
    )


def _out_of_bounds(found: Diagnosis) -> tuple[Block, ...]:
    beyond = [each for each in found.findings if each.status != "good"]
    verdicts = tuple(
        Verdict(each.name, each.status, each.sentence.removeprefix(f"{each.name}: "))
        for each in beyond
    )
    return (Verdicts(verdicts),) if verdicts else ()


def _draws(found: Diagnosis) -> Section:
    return Section(
        "Draws",
        (
            Text(
                "Effective draws, and the Monte Carlo error of each median, in the units of the "
                "coefficient."
            ),
            Table("convergence", found.convergence, "Convergence", digits=3),
        ),
    )


def _predictive(found: Diagnosis) -> Section:
    check, design = found.check, found.fit.design
    z = "(y − x'β)/√(v + τ²)"
    if found.has_student_effects:
        z = "the normal score of y in its distribution, a t plus a normal sampling error"
    elif has_dependent_rows(design):
        z = "y − x'β by the root of its covariance, independent from row to row"
    said = [f"z = {z}"]
    if "Q" in check.observed:
        said.append("Q is (y − Xb)'V⁻¹(y − Xb)" if design.blocks else "Q is Cochran's")
    of = "the same studies"
    if not all(term.is_of_rows for term in design.terms):
        of = "new groups, of the same sizes and moderators,"
        said.append("of each level there is the SD of its groups' mean residuals, or slopes")
    return Section(
        "Posterior predictive checks",
        (
            Text(
                f"Effects of {of} were drawn from the posterior. {'; '.join(said)}; "
                "cor(|z|, moderator) is 0 where the scale part describes how the spread changes "
                "along that moderator."
            ),
            Table("predictive", check, said=check.remarks),
            Picture(
                "predictive",
                figure_of(plots.replicated(check)[0]),
                alt="Histograms of replicated test quantities, each with the observed one.",
                caption="Grey: replicated. Blue: observed, shaded its 95% interval where it "
                "depends on the coefficients.",
            ),
        ),
    )


def _leave_out(found: Elpd, said: tuple[str, ...]) -> Section:
    picture = Picture(
        "loo_pit",
        figure_of(plots.loo_pit(found)),
        alt="The empirical distribution of the LOO-PIT values less the uniform one, with its band.",
        caption="A hump at the left and a dip at the right: predictions are too narrow; the other "
        "way round: too wide.",
    )
    return Section(
        f"Leave-one-{found.studies.unit}-out",
        (picture, Table("loo", found, said=said)),
    )


def _studies(found: Diagnosis, studies: pd.DataFrame) -> Section:
    one = str(studies.index.name)
    return Section(
        f"Single {'studies' if one == 'study' else 'clusters'}",
        (
            Text(
                f"z is the normal score of a {one}'s LOO-PIT: how far it lies from what the others "
                f"predict for it. The other columns: by how many posterior SDs the median of a "
                f"coefficient moves when the {one} is left out."
            ),
            Picture(
                "shifts",
                figure_of(plots.shifts(found)),
                alt=f"For each coefficient, how far its median moves without each {one}.",
                caption="Diamonds: more than one posterior SD.",
            ),
            Table("influence", studies, f"Each {one}", digits=2),
            *_weights(found),
        ),
    )


def _weights(found: Diagnosis) -> tuple[Block, ...]:
    if not found.has_student_effects:
        return ()
    return (Table("weights", study_weights(found.fit), said=found.fit.notes),)


def _engines(engines: pd.DataFrame) -> Section:
    return Section(
        "Agreement of engines",
        (
            Text("The same posterior by the other engine; in_mcse should be within ±4."),
            Table("engines", engines, "Medians by both engines", digits=3),
        ),
    )
