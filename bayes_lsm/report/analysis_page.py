"""The analysis report: the answer, the data, the model, the results, and how far to trust them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from bayes_lsm import plots
from bayes_lsm.design.design import Design
from bayes_lsm.design.new_data import formula_columns
from bayes_lsm.plots.reading import is_number
from bayes_lsm.report.analysis import Analysis
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
    Status,
    Table,
    Text,
    Verdict,
    Verdicts,
)
from bayes_lsm.report.results_sections import (
    MOST_FIGURES,
    estimates,
    predictions,
    profiles,
    said,
    tests,
)
from bayes_lsm.report.sensitivity import STATUS, after_colon, label_of, sensitivity_page

# Rows of a figure that can still be told apart.
_MOST_ROWS = 150
_TWO_KINDS = (
    "The Bayesian fit has Student-t study effects, of which τ is the scale. REML cannot have them: "
    "all that is by REML here is of the same model with normal study effects, of which τ is the "
    "SD. Where the two differ, studies far from the others are the likely reason; their weights "
    "are among the diagnostics."
)


def analysis_page(found: Analysis) -> Page:
    """The whole report of a model.

    Parameters
    ----------
    found : Analysis
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
    sections = [
        _data(found),
        _model(found),
        _effects(found),
        estimates(found),
        tests(found),
        profiles(found),
        _heterogeneity(found),
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
    shown = found.bayes if found.is_robust else found.reml
    title = found.model.specification.title or shown.title
    return Page(title, _lead(found), tuple(sections), made_with(found.bayes))


def _lead(found: Analysis) -> tuple[Block, ...]:
    """The answer."""
    words = found.model.specification
    question = f"{words.description.strip()} " if words.description.strip() else ""
    return (
        Text(f"{question}{found.design.kind} of {_sizes(found.design)}."),
        *map(Text, found.design.notes),
        *((Text(_TWO_KINDS),) if found.is_robust else ()),
        Verdicts((*_of_reml(found), *_of_priors(found), _of_diagnostics(found))),
        Table("comparison", found.comparison, "REML and Bayes side by side", said=said(found)),
    )


def _of_reml(found: Analysis) -> Iterator[Verdict]:
    for term in found.reml.terms.values():
        if term.divergence is not None:
            name = found.design.part_name("REML", term.term)
            yield Verdict(name, "bad", f"{term.divergence}.", word="no finite estimate")
    if not found.reml.converged:
        yield Verdict("REML", "bad", "the optimiser did not converge.")


def _of_priors(found: Analysis) -> Iterator[Verdict]:
    """How much of the scale part is prior; of levels of ln τ² only where nothing is tested."""
    asked = found.sensitivity
    if asked is None:
        return
    for (part, term), word, sentence in zip(
        asked.table.index, asked.verdicts, asked.sentences, strict=True
    ):
        level = term == "intrcpt" and len(found.design.terms) == 1 and found.tests is not None
        if part != "location" and not level:
            yield Verdict(label_of(part, term), STATUS[word], after_colon(sentence), word=word)


def _of_diagnostics(found: Analysis) -> Verdict:
    """The worst of the diagnostics, and what they say together."""
    worst = {each.status for each in found.diagnosis.findings}
    status: Status = "bad" if "bad" in worst else "caution" if "caution" in worst else "good"
    return Verdict("Diagnostics", status, found.diagnosis.verdict)


def _sizes(design: Design) -> str:
    """``56 effects; groups: district 11, district/school 56``."""
    what = "effects" if (design.v > 0).any() else "individuals"
    groups = [
        f"{term.name} {len(term.groups)}" for term in design.terms if not term.grouping.is_residual
    ]
    return f"{len(design.y)} {what}" + (f"; groups: {', '.join(groups)}" if groups else "")


def _data(found: Analysis) -> Section:
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


def _model(found: Analysis) -> Section:
    words = found.model.specification
    formulas: list[str | Mono] = ["In formulas: location ", Mono(words.location)]
    for term in found.design.terms:
        formulas += [f"; scale of {term.name} ", Mono(term.part.formula)]
    formulas.append(f". Priors of the Bayesian fit: {found.bayes.priors.describe()}.")
    return Section(
        "Model",
        (
            Text(in_words(found.design)),
            Equation(in_equations(found.design)),
            Text(*formulas),
        ),
    )


def _effects(found: Analysis) -> Section:
    design, fit = found.design, found.reml
    by = " By REML, with normal study effects." if found.is_robust else ""
    moved = len(design.location.names) > 1
    diamonds = " Pale diamonds: the mean effect that the model has for the row." if moved else ""
    blocks: list[Block] = []
    if (design.v > 0).all() and len(design.y) <= _MOST_ROWS:
        blocks.append(
            Picture(
                "forest",
                figure_of(plots.forest(fit)),
                alt=f"Forest plot of {len(design.y)} effects with 95% confidence intervals.",
                caption=f"Squares: effects, by weight 1/Σᵢᵢ, the total variance.{diamonds}{by}",
            )
        )
    blocks += [*_groups(found), *_bubbles(found, by)]
    if not blocks:
        blocks.append(Text(f"There are too many rows and groups to draw (over {_MOST_ROWS})."))
    return Section("Effects", tuple(blocks))


def _groups(found: Analysis) -> Iterator[Picture]:
    shown = [
        term.name
        for term in found.design.terms
        if len(term.groups) < len(found.design.y)
        and len(term.groups) * len(term.effects) <= _MOST_ROWS
    ]
    for i, name in enumerate(shown[:MOST_FIGURES], 1):
        yield Picture(
            f"groups_{i}",
            figure_of(plots.caterpillar(found.reml, of="deviation", grouping=name)),
            alt=f"The effects of the groups of {name} in order, with 95% intervals.",
            caption=f"{name}: how far each group is from the mean (REML).",
        )


def _bubbles(found: Analysis, by: str) -> Iterator[Picture]:
    if not (found.design.v > 0).all():
        return
    names = [name for name in map(str, found.design.moderators) if is_number(found.design, name)]
    for i, name in enumerate(names[:MOST_FIGURES], 1):
        yield Picture(
            f"bubble_{i}",
            figure_of(plots.bubble(found.reml, name)),
            alt=f"Effects against {name}, with the mean, its confidence band, the band of one τ "
            "around it and the prediction band.",
            caption=f"Effects against {name}. The prediction band and the dashed lines (mean ± τ) "
            f"change their width as the scale part says.{by}",
        )


def _heterogeneity(found: Analysis) -> Section:
    reml, bayes = found.reml.heterogeneity(), found.bayes.heterogeneity()
    table = bayes.table.copy()
    table.columns = pd.MultiIndex.from_product([[found.bayes.label], table.columns])
    for i, name in enumerate(reml.table):
        table.insert(i, (found.reml.label, str(name)), reml.table[name])
    note = "Without sampling errors I² is an intraclass correlation"
    if reml.Q is not None:
        note = f"Cochran's Q(df = {reml.Q.df}) = {reml.Q.statistic:.3f}, p = {reml.Q.pval:.3g}"
    about = "" if reml.constant else " (means over the rows)"
    blocks: list[Block] = [
        Table("heterogeneity", table, f"Each level{about}", digits=3, notes=(note,))
    ]
    components = found.reml.components
    if list(components.index) != [term.name for term in found.design.terms]:
        caption = "τ² of each effect (REML; means where it differs between groups)"
        blocks.append(Table("components", components, caption, digits=3))
    for i, name in enumerate(_of_scale(found.design), 1):
        blocks.append(
            Picture(
                f"heterogeneity_{i}",
                figure_of(plots.heterogeneity([found.reml, found.bayes], name)),
                alt=f"Heterogeneity τ against {name}, by REML and by Bayes, with 95% intervals.",
                caption=f"τ against {name}.",
            )
        )
    if not reml.constant and len(found.design.y) <= _MOST_ROWS:
        blocks.append(Table("heterogeneity_by_row", bayes.by_row, "Each row (Bayes)", digits=3))
    return Section("Heterogeneity", tuple(blocks))


def _of_scale(design: Design) -> list[str]:
    """The moderators of the scale formulas."""
    used = {c for term in design.terms for c in formula_columns(term.part.formula)}
    return [name for name in map(str, design.moderators) if name in used][:MOST_FIGURES]
