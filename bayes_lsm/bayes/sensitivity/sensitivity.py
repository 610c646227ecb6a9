"""How much of a posterior is the prior's: the same model under many other priors.

`subject` names what is unknown, `refits` refits the model, `other_priors` has the other priors,
`power_scaling` asks what happens when the prior or the likelihood counts a little more, and
`verdicts` says what all that means for each coefficient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.resolved_priors.propriety import require_normalised
from bayes_lsm.bayes.sensitivity.other_priors import other_families, other_presets
from bayes_lsm.bayes.sensitivity.power_scaling import power_scaling
from bayes_lsm.bayes.sensitivity.refits import (
    PriorRefitter,
    as_shown,
    overlap,
    stretched,
    summarise,
    tau_under_priors,
    width,
)
from bayes_lsm.bayes.sensitivity.subject import PriorCoefficient, Refitted, Subject
from bayes_lsm.bayes.sensitivity.verdicts import (
    THRESHOLDS,
    PriorFinding,
    judge,
    sentence,
    tipping_point,
)
from bayes_lsm.bayes.student.effects import said_before
from bayes_lsm.bayes.summaries.intervals import check_interval
from bayes_lsm.choices import require_choice, require_count, seed_or
from bayes_lsm.errors import FitError
from bayes_lsm.priors import PresetName, Priors, ResolvedPriors
from bayes_lsm.progress import track
from bayes_lsm.results import model_title
from bayes_lsm.tables import Printable

Varied = Literal["own", "together"]

AS_FITTED = "as fitted"
_FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0, 16.0)
_HALF, _TWICE = 0.5, 2.0
# Where draws are reweighted: so near 1 that no weight is large, whatever the posterior.
_STEP = 0.9
_PRIOR_DRAWS = 20_000
_SHOWN_PROBLEMS = 3


@dataclass(frozen=True, eq=False)
class Sensitivity(Printable):
    """How the posterior of each coefficient depends on the priors: see `sensitivity`.

    Attributes
    ----------
    fit : BayesFit
    table : DataFrame
        By part and term. median, ci_lb, ci_ub, p_positive; share, together: by how many per cent
        the interval grows when the coefficient's own prior, or all priors, are one per cent wider
        (between half and twice the width); moved: by how many posterior SDs the median moves then
        (these three of a correlation as Fisher's z, of the SD of random intercepts as ln ω², and
        of ν as the logarithm of what it has beyond its smallest value);
        contraction: 1 − (length of the posterior's interval / of the prior's)²; overlap: the area
        that prior and posterior density share; prior_sens, lik_sens: power-scaling sensitivity;
        verdict.
    widths : DataFrame
        By varied (``"own"``, ``"together"``), part, term and factor: median, ci_lb, ci_ub,
        p_positive when the coefficient's own prior, or all priors, are so many times as wide;
        trusted: whether the refit's draws can be.
    tipping : DataFrame
        By part and term. conclusion: whether the interval lies above 0, below, or is ``"open"``;
        narrower, wider: the factors of the own prior's width at which that changes; p_narrower,
        p_wider: at which P(> 0) or P(< 0) crosses 0.95; nan where it does not in the range. Levels
        of ln τ², SDs and ν are left out, for which 0 has no meaning.
    families, presets : DataFrame
        By prior, part and term: median, ci_lb, ci_ub, p_positive, trusted under other priors.
    tau : DataFrame
        By prior and study, or by prior and variance where effects are not independent:
        prior_median, prior_ci_lb, prior_ci_ub of its τ before the data under each preset, and
        median, ci_lb, ci_ub after.
    reweighted : bool
        Whether the draws of the fit were given weights, for want of an engine that is fast enough
        for refits.
    skipped : mapping of preset to str
        Why a preset was left out.
    level : float
        Of all intervals, which are equal-tailed.
    draws, seed : int
        Of each refit.
    problems : tuple of str
        Refits that should not be trusted.
    """

    fit: Posterior
    table: pd.DataFrame
    widths: pd.DataFrame
    tipping: pd.DataFrame
    families: pd.DataFrame
    presets: pd.DataFrame
    tau: pd.DataFrame
    reweighted: bool
    skipped: Mapping[PresetName, str]
    level: float
    draws: int
    seed: int
    problems: tuple[str, ...]

    _digits: ClassVar[int] = 2
    _hidden = ("p_positive", "moved", "lik_sens")

    @cached_property
    def sentences(self) -> pd.Series:
        """The verdict on each coefficient in words, by part and term."""
        tips = dict(zip(self.tipping.index, self.tipping.to_dict("records"), strict=True))
        factors = self.widths.index.get_level_values("factor")
        rows = zip(self.table.index, self.table.to_dict("records"), strict=True)
        words = [
            sentence(
                PriorFinding(f"{part}[{term}]", row, tips.get((part, term))),
                level=self.level,
                factors=(factors.min(), factors.max()),
            )
            for (part, term), row in rows
        ]
        return pd.Series(words, index=self.table.index, name="verdict")

    @property
    def verdicts(self) -> pd.Series:
        """``data-driven``, ``prior-informed`` or ``prior-dominated``, by part and term."""
        return self.table["verdict"]

    @property
    def title(self) -> str:
        """The kind of model, and its number of studies."""
        return model_title(self.fit.design, "prior sensitivity")

    @property
    def notes(self) -> tuple[str, ...]:
        """The verdicts in words, their thresholds, and how it was made."""
        made = f"{100 * self.level:g}% intervals; {self.how}; priors: {self.fit.priors.describe()}"
        left_out = [f"preset {name!r} left out: {why}" for name, why in self.skipped.items()]
        shown = self.problems[:_SHOWN_PROBLEMS]
        more = len(self.problems) - len(shown)
        rest = (f"and {more} more refits with such problems; see .problems",) if more else ()
        return (
            *self.sentences,
            THRESHOLDS,
            *left_out,
            *shown,
            *rest,
            made,
            *said_before(self.fit.design, self.fit.priors)[1:],
            *self.fit.design.notes,
        )

    @property
    def how(self) -> str:
        """In words, where the numbers come from."""
        if not self.reweighted:
            return f"{self.draws} draws in each refit, seed {self.seed}"
        return (
            f"not refitted but reweighted, {self.draws} draws of NUTS; share, together and moved "
            f"from priors {_STEP:g} to {1 / _STEP:.2g} times as wide"
        )

    def curve(self, part: str, term: str, *, varied: Varied = "own") -> pd.DataFrame:
        """The rows of `widths` of one coefficient, by factor.

        Raises
        ------
        FitError
            When there is no such coefficient, or curve.
        """
        require_choice("varied", varied, Varied)
        name = (varied, part, term)
        places = [self.widths.index.get_level_values(level) for level in range(3)]
        rows = np.logical_and.reduce([at == of for at, of in zip(places, name, strict=True)])
        if not rows.any():
            known = ", ".join(f"{of}[{each}]" for of, each in self.table.index)
            raise FitError(f"there is no {varied} curve of {part}[{term}]; there are {known}")
        return self.widths[rows].droplevel(["varied", "part", "term"])

    def to_dataframe(self) -> pd.DataFrame:
        """`table`, unrounded."""
        return self.table.copy()


def sensitivity(
    fit: Posterior,
    *,
    factors: Sequence[float] | None = None,
    presets: Sequence[PresetName] | None = None,
    level: float = 0.95,
    draws: int = 8000,
    seed: int | None = None,
    progress: bool = True,
) -> Sensitivity:
    """How the posterior of each coefficient depends on the priors.

    The model is refitted, exactly, with each coefficient's prior made narrower and wider, with all
    priors made so at once, with priors of other families, and with the presets of other packages.
    Where only NUTS can fit it, its draws are reweighted instead, and nothing is refitted unless
    `presets` are given. The verdict on a coefficient is

    - *prior-dominated*, when its interval grows at least half as fast as its own prior (share ≥
      0.5, between half and twice the prior's width);
    - *data-driven*, when share < 0.1, the same rate for all priors together is < 0.25, the median
      moves by less than half a posterior SD as priors go from half to twice as wide, and
      power-scaling the prior has a sensitivity below 0.05;
    - *prior-informed* otherwise.

    Parameters
    ----------
    fit : BayesFit
    factors : sequence of float, optional
        Widths of the priors relative to their own, by default 1/16, 1/8, …, 16; ½, 1 and 2 are
        always among them. A prior is stretched about its median, on the scale of the coefficient
        (ln τ²). Of a normal prior that is the prior to the power 1/factor².
    presets : sequence of preset names, optional
        By default all, or none where only NUTS can fit the model. Those that lack information (the
        effect measure) are left out, and the result says why.
    level : float, default 0.95
        Of the equal-tailed intervals.
    draws : int, default 8000
        In each refit; at least 100. Where draws are reweighted they are those of the fit.
    seed : int, optional
        By default the fit's. The same seed gives the same result.
    progress : bool, default True
        Show a progress bar on standard error.

    Returns
    -------
    Sensitivity

    Raises
    ------
    FitError
        For flat priors, or settings out of range.

    Notes
    -----
    In the location part other families are reached by reweighting the draws (Pareto-smoothed
    importance sampling), as β is integrated out under normal priors; all else is refitted.

    With Student-t study effects whose ν is estimated, ν is one more coefficient, whose prior is
    made wider on ln(ν − its smallest value); presets do not speak of it, so it keeps its prior.

    Draws of NUTS that are reweighted count as the independent ones that they are worth: for the
    tail of the weights, their effective number, and tipping points.

    With several scale terms a coefficient's own prior is that of its term, ``"district: year"``.
    The correlations of a term have one prior, LKJ, which is made wider on Fisher's z of the partial
    correlations, about 0; that of an SD ω of random intercepts on ln ω², about its median; a
    shrinkage prior, that of all its slopes, in their size. No preset speaks of correlations and
    SDs, so those keep their priors.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("preterm_continent").fit_bayes(seed=1)
    >>> found = sensitivity(fit, factors=(0.5, 2), presets=(), progress=False)
    >>> found.verdicts["scale", "continentOther"], found.verdicts["location", "I(weeks - 40)"]
    ('prior-dominated', 'data-driven')

    References
    ----------
    Kallioinen, N., Paananen, T., Bürkner, P.-C., & Vehtari, A. (2024). Detecting and diagnosing
    prior and likelihood sensitivity with power-scaling. Statistics and Computing, 34, 57.
    doi:10.1007/s11222-023-10366-5
    """
    subject = _checked(fit, level=level, draws=draws)
    seed = seed_or(fit.seed, seed)
    refit = PriorRefitter(subject, draws, seed)
    steps = (_HALF, _TWICE) if refit.is_exact else (_STEP, 1 / _STEP)
    widths = _checked_factors(_FACTORS if factors is None and refit.is_exact else factors, steps)
    usable, skipped = _presets(refit, fit, presets)
    base = refit.base()
    plan = [
        *_plan_widths(subject, widths),
        *(_Task(("family", each.name), each.priors) for each in other_families(subject)),
        *(_Task(("preset", name), subject.resolve(own), own) for name, own in usable.items()),
    ]
    tables: dict[_Key, pd.DataFrame] = {}
    presets_found = {AS_FITTED: base}
    problems = [f"{AS_FITTED}: {each}" for each in base.problems]
    for task in track(plan, "Refitting", progress=progress):
        if task.said is None or subject.can_draw(task.priors):
            found = refit(task.priors, near=base)
        else:
            found = subject.sample(task.said, seed=seed, progress=progress)
        tables[task.key] = summarise(found, subject.coefficients, level=level)
        if task.said is not None:
            presets_found[str(task.key[1])] = found
        problems += [f"{task.words}: {each}" for each in found.problems]
    center = summarise(base, subject.coefficients, level=level)
    curves = _curves(tables, center, subject.coefficients, widths)
    table = _measure(refit, base, center, curves, level, steps)
    shown = {
        kind: as_shown(_named(tables, kind, center), subject.coefficients)
        for kind in ("family", "preset")
    }
    return Sensitivity(
        fit,
        table.assign(verdict=[judge(row) for row in table.to_dict("records")]),
        as_shown(pd.concat(curves, names=["varied", "part", "term"]), subject.coefficients),
        _tipping(curves, subject.coefficients, level, refit.draws_behind(fit)),
        shown["family"],
        shown["preset"],
        tau_under_priors(subject, presets_found, level=level, draws=_PRIOR_DRAWS, seed=seed),
        not refit.is_exact,
        skipped,
        level,
        len(base.values),
        seed,
        tuple(problems),
    )


_Key = tuple[str | float, ...]


@dataclass(frozen=True)
class _Task:
    """A refit that is to be made: what it is called, its priors, and those of a preset as said."""

    key: _Key
    priors: ResolvedPriors
    said: Priors | None = None

    @property
    def words(self) -> str:
        """What it is called in a sentence."""
        if self.key[0] == "own":
            _, name, factor = self.key
            return f"{name} with its prior {factor:.3g} times as wide"
        if self.key[0] == "together":
            return f"all priors {self.key[1]:.3g} times as wide"
        return str(self.key[1])


def _checked(fit: Posterior, *, level: float, draws: int) -> Subject:
    check_interval(level, "eti")
    require_count("draws", draws, least=100)
    subject = Subject(fit)
    require_normalised(subject.priors, "sensitivity")
    return subject


def _presets(
    refit: PriorRefitter, fit: Posterior, names: Sequence[PresetName] | None
) -> tuple[dict[PresetName, Priors], dict[PresetName, str]]:
    """Those to be refitted, and why the others are not."""
    asked = get_args(PresetName) if names is None else names
    for name in asked:
        require_choice("each of presets", name, PresetName)
    usable, skipped = other_presets(refit.subject, fit.priors, asked)
    if names is None:
        slow = [
            name
            for name, said in usable.items()
            if not refit.subject.can_draw(refit.subject.resolve(said))
        ]
        for name in slow:
            del usable[name]
            skipped[name] = f"only NUTS can refit this model; ask for presets=({name!r},)"
    return usable, skipped


def _checked_factors(factors: Sequence[float] | None, steps: tuple[float, float]) -> Array:
    given = np.asarray([*((_HALF, _TWICE) if factors is None else factors), *steps, 1.0])
    if not (np.isfinite(given) & (given > 0)).all():
        raise FitError(f"factors must be finite and > 0, got {list(factors or ())}")
    return np.unique(given)


def _plan_widths(subject: Subject, factors: Array) -> Iterator[_Task]:
    for factor in map(float, factors[factors != 1]):
        done = set()
        for each in subject.coefficients:
            if (each.block, each.own) not in done:
                done.add((each.block, each.own))
                priors = stretched(subject.priors, [each], factor)
                yield _Task(("own", _own_name(each), factor), priors)
        everything = stretched(subject.priors, subject.coefficients, factor)
        yield _Task(("together", factor), everything)


def _own_name(coefficient: PriorCoefficient) -> str:
    """What is refitted once: a coefficient, or all that share its prior."""
    if len(coefficient.own) == 1:
        return str(coefficient)
    return f"{coefficient.part} {coefficient.own}"


def _curves(
    tables: Mapping[_Key, pd.DataFrame],
    center: pd.DataFrame,
    coefficients: Sequence[PriorCoefficient],
    factors: Array,
) -> dict[tuple[str, str, str], pd.DataFrame]:
    """The posterior along the width of the prior: of each varied, part and term a row a factor."""
    found: dict[tuple[str, str, str], pd.DataFrame] = {}
    for each in coefficients:
        name = (each.part, each.term)
        for varied, key in (("own", ("own", _own_name(each))), ("together", ("together",))):
            rows = {factor: tables.get((*key, factor), center) for factor in map(float, factors)}
            curve = pd.concat({factor: row.loc[[name]] for factor, row in rows.items()})
            found[varied, *name] = curve.set_axis(pd.Index(rows, name="factor"))
    return found


def _measure(
    refit: PriorRefitter,
    base: Refitted,
    center: pd.DataFrame,
    curves: Mapping[tuple[str, str, str], pd.DataFrame],
    level: float,
    steps: tuple[float, float],
) -> pd.DataFrame:
    """The table without its verdicts."""
    coefficients = refit.subject.coefficients
    prior = refit.sample_prior(base.priors, _PRIOR_DRAWS)
    posterior_width = width(center)
    prior_width = width(summarise(prior, coefficients, level=level))
    # As many SDs as the interval of a normal distribution has.
    sd = posterior_width / (2 * ndtri(0.5 + level / 2))
    changes = {
        varied: [_change(curves[varied, each.part, each.term], *steps) for each in coefficients]
        for varied in ("own", "together")
    }
    rate = {varied: [rate for rate, _ in pairs] for varied, pairs in changes.items()}
    moved = np.max([[moved for _, moved in pairs] for pairs in changes.values()], axis=0)
    log_prior, log_lik = refit.log_densities(base)
    return (
        as_shown(center, coefficients)
        .drop(columns="trusted")
        .assign(
            share=rate["own"],
            together=rate["together"],
            moved=moved / sd,
            contraction=1 - (posterior_width / prior_width) ** 2,
            overlap=[overlap(*pair) for pair in zip(prior.T, base.values.T, strict=True)],
            prior_sens=power_scaling(base.values, log_prior),
            lik_sens=power_scaling(base.values, log_lik),
        )
    )


def _change(curve: pd.DataFrame, narrow: float, wide: float) -> tuple[float, float]:
    """d ln(interval) / d ln(width), and the median's move from half to twice the prior's width."""
    rows = curve.loc[[narrow, wide]]
    span = math.log(wide / narrow)
    length, median = width(rows).to_numpy(), rows["median"].to_numpy()
    moved = abs(median[1] - median[0]) * math.log(_TWICE / _HALF) / span
    return math.log(length[1] / length[0]) / span, moved


def _tipping(
    curves: Mapping[tuple[str, str, str], pd.DataFrame],
    coefficients: Sequence[PriorCoefficient],
    level: float,
    draws: pd.Series,
) -> pd.DataFrame:
    found = {}
    for each in coefficients:
        if each.can_be_zero:
            curve = curves["own", each.part, each.term]
            curve = curve[curve["trusted"] | (curve.index == 1)]
            found[each.part, each.term] = tipping_point(
                curve.index.to_numpy(dtype=float),
                curve["p_positive"].to_numpy(),
                level=level,
                draws=float(draws[each.part, each.term]),
            )
    return pd.DataFrame.from_dict(found, orient="index").rename_axis(["part", "term"])


def _named(tables: Mapping[_Key, pd.DataFrame], kind: str, center: pd.DataFrame) -> pd.DataFrame:
    found = {str(key[1]): table for key, table in tables.items() if key[0] == kind}
    return pd.concat({AS_FITTED: center, **found}, names=["prior", "part", "term"])
