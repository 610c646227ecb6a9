"""What the analysis report of a model with several scale terms says in its own way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_lsm import plots
from bayes_lsm.report.drawing import figure_of
from bayes_lsm.report.equations import levels_in_equations, levels_in_words
from bayes_lsm.report.page import (
    Block,
    Equation,
    Mono,
    Picture,
    Section,
    Table,
    Text,
    Verdict,
    Verdicts,
)
from bayes_lsm.report.sensitivity import after_colon, label_of
from bayes_lsm.report.shared_sections import (
    JUDGED,
    MOST_FIGURES,
    judged,
    said,
)

if TYPE_CHECKING:
    from bayes_lsm.design.design import Design
    from bayes_lsm.report.clustered_analysis import ClusteredAnalysis

# Rows of a figure that can still be told apart.
_MOST_ROWS = 150


def clustered_lead(found: ClusteredAnalysis) -> tuple[Block, ...]:
    """The answer."""
    words = found.model.specification
    question = f"{words.description.strip()} " if words.description.strip() else ""
    verdicts = [
        Verdict(f"REML, {name}", "bad", f"{each}.", word="no finite estimate")
        for name, each in ((n, t.divergence) for n, t in found.reml.terms.items())
        if each is not None
    ]
    if not found.reml.converged:
        verdicts.append(Verdict("REML", "bad", "the optimiser did not converge."))
    if found.sensitivity is not None:
        asked = found.sensitivity
        for (part, term), word, sentence in zip(
            asked.table.index, asked.verdicts, asked.sentences, strict=True
        ):
            if part != "location":
                label = label_of(part, term)
                verdicts.append(Verdict(label, JUDGED[word], after_colon(sentence), word=word))
    verdicts += judged(found)
    return (
        Text(f"{question}{found.design.kind} of {_sizes(found.design)}."),
        *map(Text, found.design.notes),
        Verdicts(tuple(verdicts)),
        Table("comparison", found.comparison, "REML and Bayes side by side", said=said(found)),
    )


def clustered_sections(found: ClusteredAnalysis) -> tuple[Section, Section, Section, Section]:
    """Data, model, effects and heterogeneity."""
    return _data(found), _model(found), _effects(found), _heterogeneity(found)


def _sizes(design: Design) -> str:
    """``56 effects; groups: district 11, district/school 56``."""
    what = "effects" if (design.v > 0).any() else "individuals"
    groups = [
        f"{term.name} {len(term.groups)}" for term in design.terms if not term.grouping.is_residual
    ]
    return f"{len(design.y)} {what}" + (f"; groups: {', '.join(groups)}" if groups else "")


def _data(found: ClusteredAnalysis) -> Section:
    design, words = found.design, found.model.specification
    source = f"the data {words.data!r}" if words.data else "a data frame"
    table = pd.DataFrame({str(words.effect): design.y}, index=pd.Index(design.labels, name="row"))
    pieces: list[str | Mono] = [
        f"{_sizes(design)}. Of {source}: outcomes in ",
        Mono(str(words.effect)),
    ]
    if (design.v > 0).any():
        table["sampling variance"] = design.v
        pieces.append(
            f", their standard errors from {np.sqrt(design.v.min()):.3g} to "
            f"{np.sqrt(design.v.max()):.3g}"
        )
    pieces.append(f". Outcomes range from {design.y.min():.3g} to {design.y.max():.3g}.")
    for term in design.terms:
        if not term.grouping.is_residual and len(term.groups) < len(design.y):
            table[f"group of {term.name}"] = np.array(term.groups, dtype=object)[term.index]
    for name in design.moderators:
        table[str(name)] = design.moderators[name].to_numpy()
    return Section(
        "Data", (Text(*pieces), Table("rows", table, "The rows and their moderators", digits=3))
    )


def _model(found: ClusteredAnalysis) -> Section:
    words = found.model.specification
    formulas: list[str | Mono] = ["In formulas: location ", Mono(words.location)]
    for term in found.design.terms:
        formulas += [f"; scale of {term.name} ", Mono(term.part.formula)]
    formulas.append(f". Priors of the Bayesian fit: {found.bayes.priors.describe()}.")
    return Section(
        "Model",
        (
            Text(levels_in_words(found.design)),
            Equation(levels_in_equations(found.design)),
            Text(*formulas),
        ),
    )


def _effects(found: ClusteredAnalysis) -> Section:
    design, fit = found.design, found.reml
    moved = len(design.location.names) > 1
    diamonds = " Pale diamonds: the mean effect that the model has for the row." if moved else ""
    blocks: list[Block] = []
    if len(design.y) <= _MOST_ROWS and (design.v > 0).all():
        blocks.append(
            Picture(
                "forest",
                figure_of(plots.forest(fit)),
                alt=f"Forest plot of {len(design.y)} effects with 95% confidence intervals.",
                caption=f"Squares: effects, by weight 1/Σᵢᵢ, the total variance.{diamonds}",
            )
        )
    shown = [
        term.name
        for term in design.terms
        if not term.grouping.is_residual and len(term.groups) * len(term.effects) <= _MOST_ROWS
    ]
    blocks += [
        Picture(
            f"groups_{i}",
            figure_of(plots.caterpillar(fit, grouping=name)),
            alt=f"The effects of the groups of {name} in order, with 95% intervals.",
            caption=f"{name}: how far each group is from the mean (REML).",
        )
        for i, name in enumerate(shown[:MOST_FIGURES], 1)
    ]
    if not blocks:
        blocks.append(Text(f"There are too many rows and groups to draw (over {_MOST_ROWS})."))
    return Section("Effects", tuple(blocks))


def _heterogeneity(found: ClusteredAnalysis) -> Section:
    reml, bayes = found.reml.heterogeneity().table, found.bayes.heterogeneity().table
    table = bayes.copy()
    table.columns = pd.MultiIndex.from_product([[found.bayes.label], table.columns])
    for i, name in enumerate(reml):
        table.insert(i, (found.reml.label, str(name)), reml[name])
    if len(found.design.terms) == 1:
        table = table.iloc[:1]  # the total is that term's
    blocks: list[Block] = []
    if (found.design.v > 0).all():
        q = found.reml.qe
        note = f"Cochran's Q(df = {q.df}) = {q.statistic:.3f}, p = {q.pval:.3g}"
    else:
        note = "Without sampling errors I² is an intraclass correlation"
    blocks.append(Table("heterogeneity", table, "Each level", digits=3, notes=(note,)))
    components = found.reml.components
    if list(components.index) != [term.name for term in found.design.terms]:
        caption = "τ² of each effect (REML; means where it differs between groups)"
        blocks.append(Table("components", components, caption, digits=3))
    return Section("Heterogeneity of each level", tuple(blocks))
