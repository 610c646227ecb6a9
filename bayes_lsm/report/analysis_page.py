"""The analysis report: the answer, the data, the model, the results, and how far to trust them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from bayes_lsm import plots
from bayes_lsm.bayes.student.effects import describe_df, df_prior
from bayes_lsm.plots.reading import is_number
from bayes_lsm.report.clustered_analysis import ClusteredAnalysis
from bayes_lsm.report.clustered_page import clustered_lead, clustered_sections
from bayes_lsm.report.diagnosis import diagnosis_page
from bayes_lsm.report.drawing import figure_of
from bayes_lsm.report.equations import in_equations, in_words
from bayes_lsm.report.making import made_with
from bayes_lsm.report.methods import methods, reproduction
from bayes_lsm.report.page import (
    Block,
    Equation,
    Mono,
    Page,
    Picture,
    Section,
    Table,
    Text,
    Verdict,
    Verdicts,
)
from bayes_lsm.report.sensitivity import sensitivity_page
from bayes_lsm.report.shared_sections import (
    JUDGED,
    MOST_FIGURES,
    estimates,
    judged,
    predictions,
    profiles,
    said,
    tests,
)

if TYPE_CHECKING:
    from bayes_lsm.bayes import Heterogeneity
    from bayes_lsm.report.analysis import Analysis

_TWO_KINDS = (
    "The Bayesian fit has Student-t study effects, of which τ is the scale. REML cannot have them: "
    "all that is by REML here is of the same model with normal study effects, of which τ is the "
    "SD. Where the two differ, studies far from the others are the likely reason; their weights "
    "are among the diagnostics."
)


def analysis_page(found: Analysis | ClusteredAnalysis) -> Page:
    """The whole report of a model.

    Parameters
    ----------
    found : Analysis or ClusteredAnalysis
        From `bayes_lsm.report.analyse`.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel.from_file("preterm_weeks")
    >>> found = lsm.report.analyse(
    ...     model, seed=1, permutations=0, with_sensitivity=False, progress=False)
    >>> [section.heading for section in analysis_page(found).sections][:4]
    ['Data', 'Model', 'Effects', 'Estimates']
    """
    if isinstance(found, ClusteredAnalysis):
        lead, own = clustered_lead(found), clustered_sections(found)
    else:
        lead, own = _lead(found), _sections(found)
    data, model, effects, heterogeneity = own
    sections = [
        data,
        model,
        effects,
        estimates(found),
        tests(found),
        profiles(found),
        heterogeneity,
        predictions(found),
    ]
    if found.sensitivity is not None:
        page = sensitivity_page(found.sensitivity)
        sections.append(page.as_section("Sensitivity to the priors", prefix="sensitivity_"))
    diagnostics = diagnosis_page(found.diagnosis)
    sections += [
        diagnostics.as_section("Diagnostics", prefix="diagnostics_"),
        Section("Methods", methods(found)),
        Section("How to make this report again", reproduction(found)),
    ]
    robust = not isinstance(found, ClusteredAnalysis) and found.is_robust
    title = found.model.specification.title or (found.bayes if robust else found.reml).title
    return Page(title, lead, tuple(sections), made_with(found.bayes))


def _sections(found: Analysis) -> tuple[Section, Section, Section, Section]:
    """Data, model, effects and heterogeneity."""
    return _data(found), _model(found), _effects(found), _heterogeneity(found)


def _lead(found: Analysis) -> tuple[Block, ...]:
    design, words = found.design, found.model.specification
    question = f"{words.description.strip()} " if words.description.strip() else ""
    verdicts = []
    if found.reml.divergence is not None:
        verdicts.append(
            Verdict("REML", "bad", str(found.reml.divergence) + ".", word="no finite estimate")
        )
    if not found.reml.converged:
        verdicts.append(Verdict("REML", "bad", "the optimiser did not converge."))
    if found.sensitivity is not None:
        sentences, judgements = (
            each.loc["scale"] for each in (found.sensitivity.sentences, found.sensitivity.verdicts)
        )
        for term in map(str, judgements.index):
            if term != "intrcpt" or found.tests is None:
                word = str(judgements[term])
                label = f"scale[{term}]"
                sentence = str(sentences[term]).removeprefix(f"{label} ")
                verdicts.append(Verdict(label, JUDGED[word], sentence, word=word))
    verdicts += judged(found)
    return (
        Text(f"{question}{design.kind} of {design.n_studies} effects."),
        *map(Text, design.notes),
        *((Text(_TWO_KINDS),) if found.is_robust else ()),
        Verdicts(tuple(verdicts)),
        Table("comparison", found.comparison, "REML and Bayes side by side", said=said(found)),
    )


def _data(found: Analysis) -> Section:
    design, words = found.design, found.model.specification
    source = f"the data {words.data!r}" if words.data else "a data frame"
    table = pd.DataFrame(
        {str(words.effect): design.y, str(words.variance): design.v},
        index=pd.Index(design.labels, name="study"),
    )
    for name in design.moderators:
        table[str(name)] = design.moderators[name].to_numpy()
    return Section(
        "Data",
        (
            Text(
                f"{design.n_studies} effects of {source}: effects in ",
                Mono(str(words.effect)),
                ", sampling variances in ",
                Mono(str(words.variance)),
                f". Effects range from {design.y.min():.3g} to {design.y.max():.3g}, their "
                f"standard errors from {np.sqrt(design.v.min()):.3g} to "
                f"{np.sqrt(design.v.max()):.3g}.",
            ),
            Table("studies", table, "The effects and their moderators", digits=3),
        ),
    )


def _model(found: Analysis) -> Section:
    words = found.model.specification
    df = df_prior(found.design, found.bayes.priors)
    of_df = "" if df is None else f"; {describe_df(df)}"
    return Section(
        "Model",
        (
            Text(in_words(found.design)),
            Equation(in_equations(found.design)),
            Text(
                "In formulas: location ", Mono(words.location), ", scale ", Mono(str(words.scale)),
                f". Priors of the Bayesian fit: {found.bayes.priors.describe()}{of_df}.",
            ),
        ),
    )  # fmt: skip


def _effects(found: Analysis) -> Section:
    fit, design = found.reml, found.design
    by = " By REML, with normal study effects." if found.is_robust else ""
    blocks: list[Block] = [
        Picture(
            "forest",
            figure_of(plots.forest(fit)),
            alt=f"Forest plot of {design.n_studies} effects with 95% confidence intervals.",
            caption="Squares: effects, by weight 1/(v + τ²). Pale diamonds: the mean effect that "
            f"the model has for the study.{by}",
        )
    ]
    blocks += [
        Picture(
            f"bubble_{i}",
            figure_of(plots.bubble(fit, name)),
            alt=f"Effects against {name}, with the mean, its confidence band, the band of one τ "
            "around it and the prediction band.",
            caption=f"Effects against {name}. The prediction band and the dashed lines (mean ± τ) "
            f"change their width as the scale part says.{by}",
        )
        for i, name in enumerate(_numbers(found), 1)
    ]
    return Section("Effects", tuple(blocks))


def _numbers(found: Analysis) -> list[str]:
    names = map(str, found.design.moderators.columns)
    return [name for name in names if is_number(found.design, name)][:MOST_FIGURES]


def _heterogeneity(found: Analysis) -> Section:
    reml = found.reml.heterogeneity()
    bayes = cast("Heterogeneity", found.bayes.heterogeneity())
    about = "" if reml.constant else " of the average study"
    values = {"tau2": reml.tau2, "tau": reml.tau, "I2": reml.I2, "H2": reml.H2}
    table = bayes.table.copy()
    table.columns = pd.MultiIndex.from_product([[found.bayes.label], table.columns])
    table.insert(0, (found.reml.label, "estimate"), pd.Series(values))
    q = reml.Q
    blocks: list[Block] = [
        Table(
            "heterogeneity",
            table,
            f"Heterogeneity{about}",
            digits=3,
            notes=(f"Cochran's Q(df = {q.df}) = {q.statistic:.3f}, p = {q.pval:.3g}",),
        )
    ]
    of_scale = [
        name
        for name in map(str, found.design.moderators.columns)
        if any(name in term for term in found.design.scale.names)
    ]
    blocks += [
        Picture(
            f"heterogeneity_{i}",
            figure_of(plots.heterogeneity([found.reml, found.bayes], name)),
            alt=f"Heterogeneity τ against {name}, by REML and by Bayes, with 95% intervals.",
            caption=f"τ against {name}.",
        )
        for i, name in enumerate(of_scale[:MOST_FIGURES], 1)
    ]
    if not reml.constant:
        blocks.append(
            Table("heterogeneity_by_study", bayes.by_study, "Each study (Bayes)", digits=3)
        )
    return Section("Heterogeneity", tuple(blocks))
