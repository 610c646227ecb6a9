"""How much of a posterior is the prior's: the same model under many other priors.

`sensitivity_refits` refits the model, `sensitivity_priors` has the other priors, `power_scaling`
asks what happens when the prior or the likelihood counts a little more, and `sensitivity_verdicts`
says what all that means for each coefficient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayes_lsm.bayes.clustered_fit import ClusteredBayesFit
from bayes_lsm.bayes.draws import Array, row_blocks
from bayes_lsm.bayes.graph import resolve_priors
from bayes_lsm.bayes.intervals import check_interval
from bayes_lsm.bayes.power_scaling import power_scaling
from bayes_lsm.bayes.sensitivity_priors import other_families, other_presets
from bayes_lsm.bayes.sensitivity_refits import (
    Coefficient,
    Posterior,
    Refitter,
    find_coefficients,
    make_refitter,
    overlap,
    stretched,
    summarise,
    width,
)
from bayes_lsm.bayes.sensitivity_verdicts import THRESHOLDS, Finding, judge, sentence, tipping_point
from bayes_lsm.bayes.tracking import track
from bayes_lsm.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.links import tau2_from_log
from bayes_lsm.priors import PresetName, Priors, ResolvedPriors
from bayes_lsm.results import model_title
from bayes_lsm.tables import Printable

if TYPE_CHECKING:
    from bayes_lsm.bayes.fit import BayesFit

Varied = Literal["own", "together"]

AS_FITTED = "as fitted"
_FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0, 16.0)
_NARROW, _WIDE = 0.5, 2.0
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
        (between half and twice the width); moved: by how many posterior SDs the median moves then;
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
        of ln τ² are left out, for which 0 has no meaning.
    families, presets : DataFrame
        By prior, part and term: median, ci_lb, ci_ub, p_positive, trusted under other priors.
    tau : DataFrame
        By prior and study: prior_median, prior_ci_lb, prior_ci_ub of the study's τ before the data
        under each preset, and median, ci_lb, ci_ub after.
    skipped : mapping of preset to str
        Why a preset was left out.
    level : float
        Of all intervals, which are equal-tailed.
    draws, seed : int
        Of each refit.
    problems : tuple of str
        Refits that should not be trusted.
    """

    fit: BayesFit
    table: pd.DataFrame
    widths: pd.DataFrame
    tipping: pd.DataFrame
    families: pd.DataFrame
    presets: pd.DataFrame
    tau: pd.DataFrame
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
                Finding(f"{part}[{term}]", row, tips.get((part, term))),
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
        refits = f"{self.draws} draws in each refit, seed {self.seed}"
        made = f"{100 * self.level:g}% intervals; {refits}; priors: {self.fit.priors.describe()}"
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
            *self.fit.design.notes,
        )

    def curve(self, part: str, term: str, *, varied: Varied = "own") -> pd.DataFrame:
        """The rows of `widths` of one coefficient, by factor.

        Raises
        ------
        FitError
            When there is no such coefficient.
        """
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
    fit: BayesFit | ClusteredBayesFit,
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
    The verdict on a coefficient is

    - *prior-dominated*, when its interval grows at least half as fast as its own prior (share ≥
      0.5, between half and twice the prior's width);
    - *data-driven*, when share < 0.1, the same rate for all priors together is < 0.25, the median
      moves by less than half a posterior SD as priors go from half to twice as wide, and
      power-scaling the prior has a sensitivity below 0.05;
    - *prior-informed* otherwise.

    Parameters
    ----------
    fit : BayesFit
        With priors that the collapsed engine takes, whichever engine it is from.
    factors : sequence of float, optional
        Widths of the priors relative to their own, by default 1/16, 1/8, …, 16; ½, 1 and 2 are
        always among them. A prior is stretched about its median, on the scale of the coefficient
        (ln τ²). Of a normal prior that is the prior to the power 1/factor².
    presets : sequence of preset names, optional
        By default all. Those that lack information (the effect measure) are left out, and the
        result says why.
    level : float, default 0.95
        Of the equal-tailed intervals.
    draws : int, default 8000
        In each refit; at least 100.
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
        For a fit with several scale terms, priors that only NUTS can take, or settings out of
        range.

    Notes
    -----
    In the location part other families are reached by reweighting the draws (Pareto-smoothed
    importance sampling), as β is integrated out under normal priors; all else is refitted.

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
    fit = _checked(fit, level=level, draws=draws)
    design = fit.design
    widths = _checked_factors(_FACTORS if factors is None else factors)
    names = get_args(PresetName) if presets is None else presets
    seed = fit.seed if seed is None else seed
    priors = resolve_priors(design, fit.priors)
    refit = make_refitter(design, fit.priors, priors, draws=draws, seed=seed)
    usable, skipped = other_presets(design, fit.priors, names)
    coefficients = find_coefficients(design)
    base = refit(priors)
    plan = [
        *_plan_widths(coefficients, priors, widths),
        *(_Task(("family", each.name), each.priors) for each in other_families(design, priors)),
        *(_Task(("preset", name), resolve_priors(design, own)) for name, own in usable.items()),
    ]
    tables: dict[_Key, pd.DataFrame] = {}
    alphas = {AS_FITTED: base.draws.flat_scale}
    problems = [f"{AS_FITTED}: {each}" for each in base.problems]
    for task in track(plan, "Refitting", progress=progress):
        found = refit(task.priors, near=base)
        tables[task.key] = summarise(
            found.values, coefficients, level=level, trusted=not found.problems
        )
        if task.key[0] == "preset":
            alphas[str(task.key[1])] = found.draws.flat_scale
        problems += [f"{task.words}: {each}" for each in found.problems]
    center = summarise(base.values, coefficients, level=level, trusted=not base.problems)
    curves = _curves(tables, center, coefficients, widths)
    table = _measure(refit, base, center, curves, coefficients, level)
    return Sensitivity(
        fit,
        table.assign(verdict=[judge(row) for row in table.to_dict("records")]),
        pd.concat(curves, names=["varied", "part", "term"]),
        _tipping(curves, coefficients, level, draws),
        _named(tables, "family", center),
        _named(tables, "preset", center),
        _tau(
            design,
            {AS_FITTED: fit.priors} | {str(name): own for name, own in usable.items()},
            alphas,
            level,
            seed,
        ),
        skipped,
        level,
        draws,
        seed,
        tuple(problems),
    )


_Key = tuple[str | float, ...]


@dataclass(frozen=True)
class _Task:
    """A refit that is to be made: what it is called, and its priors."""

    key: _Key
    priors: ResolvedPriors

    @property
    def words(self) -> str:
        """What it is called in a sentence."""
        if self.key[0] == "own":
            _, part, term, factor = self.key
            return f"{part}[{term}] with its prior {factor:g} times as wide"
        if self.key[0] == "together":
            return f"all priors {self.key[1]:g} times as wide"
        return str(self.key[1])


def _checked(fit: BayesFit | ClusteredBayesFit, *, level: float, draws: int) -> BayesFit:
    if isinstance(fit, ClusteredBayesFit):
        raise FitError(
            f"sensitivity takes a fit with one scale term, got a {type(fit).__name__}; refit the "
            "model under other priors with model.fit_bayes(prior=…), and compare the tables"
        )
    check_interval(level, "eti")
    if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 100:
        raise FitError(f"draws must be a whole number of at least 100, got {draws!r}")
    return fit


def _checked_factors(factors: Sequence[float]) -> Array:
    given = np.asarray([*factors, _NARROW, 1.0, _WIDE], dtype=float)
    if not (np.isfinite(given) & (given > 0)).all():
        raise FitError(f"factors must be finite and > 0, got {list(factors)}")
    return np.unique(given)


def _plan_widths(
    coefficients: Sequence[Coefficient], priors: ResolvedPriors, factors: Array
) -> Iterator[_Task]:
    for factor in map(float, factors[factors != 1]):
        for each in coefficients:
            key = ("own", each.part, each.term, factor)
            yield _Task(key, stretched(priors, [each], factor))
        yield _Task(("together", factor), stretched(priors, coefficients, factor))


def _curves(
    tables: Mapping[_Key, pd.DataFrame],
    center: pd.DataFrame,
    coefficients: Sequence[Coefficient],
    factors: Array,
) -> dict[tuple[str, str, str], pd.DataFrame]:
    """The posterior along the width of the prior: of each varied, part and term a row a factor."""
    found: dict[tuple[str, str, str], pd.DataFrame] = {}
    for varied in ("own", "together"):
        for each in coefficients:
            name = (each.part, each.term)
            rows = {
                factor: tables.get((varied, *name, factor), tables.get((varied, factor), center))
                for factor in map(float, factors)
            }
            curve = pd.concat({factor: row.loc[[name]] for factor, row in rows.items()})
            index = pd.Index(rows, name="factor")
            found[varied, *name] = curve.set_axis(index)
    return found


def _measure(
    refit: Refitter,
    base: Posterior,
    center: pd.DataFrame,
    curves: Mapping[tuple[str, str, str], pd.DataFrame],
    coefficients: Sequence[Coefficient],
    level: float,
) -> pd.DataFrame:
    """The table without its verdicts."""
    prior = refit.sample_prior(base.priors, _PRIOR_DRAWS)
    posterior_width = width(center)
    prior_width = width(summarise(prior, coefficients, level=level))
    # As many SDs as the interval of a normal distribution has.
    sd = posterior_width / (2 * ndtri(0.5 + level / 2))
    changes = {
        varied: [_change(curves[varied, each.part, each.term]) for each in coefficients]
        for varied in ("own", "together")
    }
    rate = {varied: [rate for rate, _ in pairs] for varied, pairs in changes.items()}
    moved = np.max([[moved for _, moved in pairs] for pairs in changes.values()], axis=0)
    log_prior, log_lik = refit.log_densities(base)
    return center.drop(columns="trusted").assign(
        share=rate["own"],
        together=rate["together"],
        moved=moved / sd,
        contraction=1 - (posterior_width / prior_width) ** 2,
        overlap=[overlap(*pair) for pair in zip(prior.T, base.values.T, strict=True)],
        prior_sens=power_scaling(base.values, log_prior),
        lik_sens=power_scaling(base.values, log_lik),
    )


def _change(curve: pd.DataFrame) -> tuple[float, float]:
    """From half to twice the prior's width: d ln(interval) / d ln(width), and the median's move."""
    narrow, wide = curve.loc[[_NARROW]], curve.loc[[_WIDE]]
    rate = math.log(width(wide).iloc[0] / width(narrow).iloc[0]) / math.log(_WIDE / _NARROW)
    return rate, abs(wide["median"].iloc[0] - narrow["median"].iloc[0])


def _tipping(
    curves: Mapping[tuple[str, str, str], pd.DataFrame],
    coefficients: Sequence[Coefficient],
    level: float,
    draws: int,
) -> pd.DataFrame:
    found = {}
    for each in coefficients:
        if not each.is_level:
            curve = curves["own", each.part, each.term]
            curve = curve[curve["trusted"] | (curve.index == 1)]
            found[each.part, each.term] = tipping_point(
                curve.index.to_numpy(dtype=float),
                curve["p_positive"].to_numpy(),
                level=level,
                draws=draws,
            )
    return pd.DataFrame.from_dict(found, orient="index").rename_axis(["part", "term"])


def _named(tables: Mapping[_Key, pd.DataFrame], kind: str, center: pd.DataFrame) -> pd.DataFrame:
    found = {str(key[1]): table for key, table in tables.items() if key[0] == kind}
    return pd.concat({AS_FITTED: center, **found}, names=["prior", "part", "term"])


def _tau(
    design: Design,
    priors: Mapping[str, Priors],
    alphas: Mapping[str, Array],
    level: float,
    seed: int,
) -> pd.DataFrame:
    """τ of each study before the data and after, under each of these priors."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, given in priors.items():
        prior = resolve_priors(design, given).scale.sample(_PRIOR_DRAWS, rng)
        before = _tau_quantiles(design, prior, level).add_prefix("prior_")
        after = _tau_quantiles(design, alphas[name], level)
        found[name] = pd.concat([before, after], axis=1)  # names of studies may repeat
    return pd.concat(found, names=["prior", "study"])


def _tau_quantiles(design: Design, alphas: Array, level: float) -> pd.DataFrame:
    probabilities = [0.5, (1 - level) / 2, (1 + level) / 2]
    rows = [
        np.quantile(alphas @ design.Z[block].T, probabilities, axis=0)
        for block in row_blocks(design.n_studies, len(alphas))
    ]
    # τ rises with ln τ², so that its quantiles are those of ln τ², taken to τ.
    tau = np.sqrt(tau2_from_log(np.concatenate(rows, axis=1).T))
    index = pd.Index(design.labels, name="study")
    return pd.DataFrame(tau, index, ["median", "ci_lb", "ci_ub"])
