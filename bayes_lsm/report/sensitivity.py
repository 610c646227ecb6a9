"""The prior-sensitivity report: the verdicts first, then what they rest on."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import TYPE_CHECKING

import pandas as pd

from bayes_lsm import plots
from bayes_lsm.bayes.sensitivity.refits import is_part
from bayes_lsm.bayes.sensitivity.sensitivity import AS_FITTED, Sensitivity
from bayes_lsm.bayes.sensitivity.verdicts import THRESHOLDS, factor_words
from bayes_lsm.report.drawing import figure_of
from bayes_lsm.report.equations import listed
from bayes_lsm.report.page import (
    Block,
    Items,
    Mono,
    Page,
    Picture,
    Section,
    Status,
    Strong,
    Table,
    Text,
    Verdict,
    Verdicts,
)

if TYPE_CHECKING:
    pass

STATUS: dict[str, Status] = {
    "data-driven": "good",
    "prior-informed": "caution",
    "prior-dominated": "bad",
}
_PARTS = ("scale", "location")
_INTERVAL = ["median", "ci_lb", "ci_ub"]
_SHOWN = [
    *_INTERVAL,
    "share",
    "verdict",
    "together",
    "overlap",
    "contraction",
    "prior_sens",
    "lik_sens",
]


def sensitivity_page(found: Sensitivity) -> Page:
    """The whole report.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.report.sensitivity import sensitivity_page
    >>> fit = lsm.LocationScaleModel.from_file("bcg").fit_bayes(seed=1)
    >>> page = sensitivity_page(
    ...     fit.sensitivity(factors=(), presets=(), draws=1000, progress=False))
    >>> page.tables[0].name
    'sensitivity'
    """
    words = found.fit.design.specification
    title = f"Prior sensitivity: {words.title}" if words.title else "Prior sensitivity"
    made = (
        f"Made by bayes_lsm {version('bayes_lsm')}: {found.draws} draws in each refit, seed "
        f"{found.seed}. Priors: {found.fit.priors.describe()}."
    )
    return Page(title, sensitivity_lead(found), sensitivity_sections(found), (Text(made),))


def sensitivity_lead(found: Sensitivity) -> tuple[Block, ...]:
    """The answer: how many coefficients are the data's, and a verdict on each."""
    counts = found.verdicts.value_counts()
    total = len(found.verdicts)
    parts = listed([f"{counts.get(word, 0)} are {word}" for word in STATUS])
    pieces: list[str | Strong] = [f"Of {total} coefficients {parts}. "]
    dominated = _labels(found, "prior-dominated")
    if dominated:
        pieces += [
            Strong(f"The posterior of {listed(dominated)} says what the prior says"),
            " wherever the data do not exclude it: its interval is as wide as one cares to make "
            "the prior, and should not be reported as a finding.",
        ]
    else:
        pieces.append("No posterior is mainly a statement of its prior.")
    rows = zip(found.table.index, found.verdicts, found.sentences, strict=True)
    verdicts = tuple(
        Verdict(label_of(part, term), STATUS[word], after_colon(sentence), word)
        for (part, term), word, sentence in rows
    )
    return (Text(*pieces), Verdicts(verdicts), *map(Text, found.fit.design.notes))


def sensitivity_sections(found: Sensitivity) -> tuple[Section, ...]:
    """What the verdicts rest on, section by section."""
    return (
        _how_far(found),
        _before_and_after(found),
        _wider_and_narrower(found),
        _packages(found),
        _families(found),
        _tau(found),
    )


def _how_far(found: Sensitivity) -> Section:
    return Section(
        "How far each coefficient is the prior's",
        (
            Items(
                (
                    Text(
                        Mono("share"),
                        ": by how many per cent the interval grows when the coefficient's own "
                        "prior is one per cent wider, between half and twice its width. With a "
                        "normal prior and likelihood it is the prior's part of the posterior "
                        "precision: 0, the data alone; 1, the prior alone.",
                    ),
                    Text(Mono("together"), ": the same with all priors made wider at once."),
                    Text(
                        Mono("contraction"),
                        ": 1 − (length of the posterior's interval / of the prior's)². It looks "
                        "large for a coefficient of which the data exclude one side only, and is "
                        "no verdict.",
                    ),
                    Text(
                        Mono("overlap"),
                        ": the area that the densities of prior and posterior share.",
                    ),
                    Text(
                        Mono("prior_sens"),
                        ": how far the posterior moves when all priors, or, in ",
                        Mono("lik_sens"),
                        ", the likelihood, count a little more (power-scaling, Kallioinen et al. "
                        "2024); from 0.05 up it is worth a look.",
                    ),
                )
            ),
            Table(
                "sensitivity",
                found.table[_SHOWN],
                caption=found.title,
                digits=2,
                notes=(f"{THRESHOLDS}.", f"Intervals of {100 * found.level:g}%, equal-tailed."),
            ),
        ),
    )


def _before_and_after(found: Sensitivity) -> Section:
    pictures = []
    names = found.table.index.unique("part")
    others = [name for name in names if not any(is_part(name, each) for each in _PARTS)]
    for part in (*_PARTS, *others):
        where = part.replace("_", " ")
        shared = zip(found.table.index, found.table["overlap"], strict=True)
        overlaps = ", ".join(
            f"{term if of == part else f'{of}: {term}'} {area:.2f}"
            for (of, term), area in shared
            if is_part(of, part)
        )
        pictures.append(
            Picture(
                f"prior_posterior_{_slug(part)}",
                figure_of(plots.prior_posterior(found.fit, part=part, columns=2)[0]),
                alt=f"Densities of prior and posterior of each {where} coefficient. They share an "
                f"area of: {overlaps}.",
                caption=f"Prior and posterior, {where} part. Where the two curves are nearly the "
                "same, the data have said little.",
            )
        )
    return Section("Before the data and after", tuple(pictures))


def _wider_and_narrower(found: Sensitivity) -> Section:
    factors = found.widths.index.get_level_values("factor")
    span = f"{factor_words(factors.min())} to {factor_words(factors.max())}"
    words = ", ".join(
        f"{label_of(part, term)} {row['verdict']} (share {row['share']:.2f})"
        for (part, term), row in zip(found.table.index, found.table.to_dict("records"), strict=True)
    )
    return Section(
        "Wider and narrower priors",
        (
            Text(
                f"The model was refitted with each prior {span} times as wide about its median, "
                "the others as they are, and with all of them so. Of a normal prior that is the "
                "prior to the power 1/factor²."
            ),
            Picture(
                "sensitivity_curves",
                figure_of(plots.sensitivity(found, columns=4)[0]),
                alt=f"Median and interval of each coefficient against the width of its prior, in "
                f"a panel for each: {words}.",
                caption="A flat band is the data's; a band that opens with the prior is the "
                "prior's.",
            ),
            Text(
                "The tipping point is the width at which a conclusion changes. ",
                Mono("conclusion"),
                f" says whether the {100 * found.level:g}% interval lies above 0, below it, or "
                "includes it (open); ",
                Mono("narrower"),
                " and ",
                Mono("wider"),
                " by what factor the prior's width would have to be multiplied for that to "
                "change, ",
                Mono("p_narrower"),
                " and ",
                Mono("p_wider"),
                " for the probability of the more probable sign to cross 0.95; missing where "
                f"neither happens from {span} times the width. Between two refits a straight line "
                "is drawn. A level of ln τ² has no tipping point, as 0 means nothing for it.",
            ),
            Table("tipping_points", found.tipping, caption="Tipping points", digits=2),
            *_doubtful(found),
        ),
    )


def _doubtful(found: Sensitivity) -> tuple[Block, ...]:
    if not found.problems:
        return ()
    text = f"{len(found.problems)} refits should not be trusted (crosses, hollow markers):"
    return (Text(text), Items(tuple(map(Text, found.problems))))


def _packages(found: Sensitivity) -> Section:
    names = list(dict.fromkeys(found.presets.index.get_level_values("prior")))
    blocks: list[Block] = []
    if len(names) > 1:
        blocks += [
            Text(
                "The same model under the default priors of other packages and of this one. ",
                Mono("p_positive"),
                " is the probability that the coefficient is above 0.",
            ),
            Picture(
                "other_presets",
                figure_of(plots.under_priors(found, columns=4)[0]),
                alt=f"Median and interval of each scale coefficient under {listed(names)}; the "
                "numbers are in the table below.",
            ),
            Table(
                "presets",
                _side_by_side(found.presets, names, [*_INTERVAL, "p_positive"]),
                caption="Coefficients under other presets",
                digits=2,
            ),
        ]
    if found.skipped:
        left_out = (Text(Mono(name), f": {why}.") for name, why in found.skipped.items())
        blocks += [Text("Left out, for want of information:"), Items(tuple(left_out))]
    return Section("What other packages would have said", tuple(blocks))


def _families(found: Sensitivity) -> Section:
    names = list(dict.fromkeys(found.families.index.get_level_values("prior")))
    medians = found.families["median"].unstack("prior")[names]
    order = found.table.index
    more = (
        "Other families in the location part are reached by reweighting the draws."
        if found.fit.design.specification.study_effects == "normal"
        else "Of ν, other published priors."
    )
    return Section(
        "Priors of other families",
        (
            Text(
                "Priors with the same median and quartiles and other tails; of τ, half families "
                "with the same median, and the same prior moved so that τ is half or twice as "
                f"large. {more}"
            ),
            Picture(
                "other_families",
                figure_of(plots.under_priors(found, others="families", columns=4)[0]),
                alt=f"Median and interval of each scale coefficient under {len(names)} priors; "
                "the medians are in the table below.",
            ),
            Table(
                "families",
                medians.loc[order].T.rename_axis("prior"),
                caption="Medians under priors of other families",
                digits=2,
            ),
        ),
    )


def _tau(found: Sensitivity) -> Section:
    names = list(dict.fromkeys(found.tau.index.get_level_values("prior")))
    own = _under(found.tau, AS_FITTED)
    of = str(found.tau.index.names[1])
    plural = {"study": "studies", "variance": "variances"}[of]
    summary = pd.DataFrame(
        {
            name: {
                "lowest before": rows["prior_median"].min(),
                "highest before": rows["prior_median"].max(),
                "97.5% before": rows["prior_ci_ub"].max(),
                "lowest after": rows["median"].min(),
                "highest after": rows["median"].max(),
                "97.5% after": rows["ci_ub"].max(),
            }
            for name, rows in ((name, _under(found.tau, name)) for name in names)
        }
    ).T.rename_axis("prior")
    upper = f"{50 + 50 * found.level:g}%"
    summary.columns = [str(column).replace("97.5%", upper) for column in summary]
    widest = own["prior_ci_ub"].max() / own["ci_ub"].max()
    return Section(
        "What the priors say of τ",
        (
            Text(
                f"τ of each {of}, in the units of the effects, before the data and after. As "
                f"fitted, the largest {upper} limit of any {of} is {_times(widest)} as "
                "large before the data as after."
            ),
            Table(
                "tau_of_priors",
                summary,
                caption=f"Medians of the {plural} with the lowest and the highest τ, and the "
                f"largest {upper} limit",
                digits=2,
            ),
            Table(f"tau_by_{of}", own, caption=f"τ of each {of}, as fitted", digits=2),
        ),
    )


def _side_by_side(table: pd.DataFrame, names: list[str], columns: list[str]) -> pd.DataFrame:
    """One group of columns for each prior."""
    return pd.concat({name: _under(table, name)[columns] for name in names}, axis=1)


def _under(table: pd.DataFrame, prior: str) -> pd.DataFrame:
    """The rows of one prior."""
    return table[table.index.get_level_values("prior") == prior].droplevel("prior")


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def _labels(found: Sensitivity, verdict: str) -> list[str]:
    rows = zip(found.table.index, found.verdicts, strict=True)
    return [label_of(part, term) for (part, term), word in rows if word == verdict]


def label_of(part: str, term: str) -> str:
    """What a coefficient is called."""
    return f"{part}: {term}"


def after_colon(sentence: str) -> str:
    """Without the name and the verdict, which stand before it."""
    said = sentence.split(": ", 1)[1]
    return said[0].upper() + said[1:]


def _times(ratio: float) -> str:
    return f"{ratio:.2g} times" if ratio <= 1000 else "more than 1000 times"
