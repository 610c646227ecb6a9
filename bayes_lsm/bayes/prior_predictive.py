"""What the priors say before the data do: τ, ratios of τ, correlations, and new effects.

Priors of coefficients are hard to judge; what they imply for heterogeneity, for how much it differs
between levels, and for the effects that one would see, is not. No row's effect is used, except by
presets that follow the spread of the effects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array, Index
from bayes_lsm.bayes.bayes_fit import BayesFit
from bayes_lsm.bayes.draws import Draws, row_blocks
from bayes_lsm.bayes.engines.diagnostics import convergence
from bayes_lsm.bayes.prior_draws import draw_priors
from bayes_lsm.bayes.resolved_priors.resolve import pieces, resolve_priors
from bayes_lsm.bayes.student.effects import said_before
from bayes_lsm.bayes.term_draws import TermDraws
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_count, seed_or_new
from bayes_lsm.design.chosen_terms import chosen_terms
from bayes_lsm.design.design import Design
from bayes_lsm.errors import PriorError
from bayes_lsm.links import LARGEST_EXPONENT
from bayes_lsm.priors import Priors, ResolvedPriors, contrasts
from bayes_lsm.results import model_title
from bayes_lsm.tables import Printable, text_table, wrap_notes

Found = Iterator[tuple[tuple[str, str], Array]]

PROBABILITIES = (0.025, 0.25, 0.5, 0.75, 0.975)
_COLUMNS = [f"{100 * probability:g}%" for probability in PROBABILITIES]
_HEADINGS = {
    "tau": "τ",
    "tau_ratio": "Ratio of τ",
    "scale_sd": "SD of random intercepts of ln τ²",
    "correlation": "Correlation",
    "effect": "Effect",
}


@dataclass(frozen=True, eq=False)
class PriorPredictive(Printable):
    """Quantiles of what the priors of a model imply.

    Attributes
    ----------
    design : Design
    priors : Priors
    draws : Draws
        Of all that is unknown, from the priors.
    seed : int
        What to pass to `prior_predictive` for the same draws again.
    """

    design: Design
    priors: Priors
    draws: Draws
    seed: int

    _digits = 3

    @cached_property
    def drawn(self) -> BayesFit:
        """The draws, held as a fit holds those of the posterior.

        Its `predict`, `heterogeneity` and the like say what the priors imply (the notes below their
        tables are those of a posterior).
        """
        diagnostics = convergence(self.design, self.draws)
        return BayesFit(self.design, self.priors, self.draws, self.seed, diagnostics, ())

    @cached_property
    def tau(self) -> pd.DataFrame:
        """Quantiles of the τ of each effect of each group.

        One row a study (k rows) where effects are independent; else indexed by grouping (where
        there are several scale terms), group and effect. Effects that have no rows in a group are
        left out.
        """
        tables = [_tau_of_groups(each) for each in self.drawn.terms.values()]
        if len(tables) > 1:
            return pd.concat(tables)
        (alone,) = tables
        (term,) = self.design.terms
        short = alone.droplevel("grouping" if len(term.effects) > 1 else ["grouping", "effect"])
        return short.rename_axis(index={"group": _unit(self.design)})

    @cached_property
    def table(self) -> pd.DataFrame:
        """The quantiles that are printed, indexed by what they are of, and where.

        ``tau``: of a study with average moderators (or of each level in ``0 + group``), and of one
        picked at random; ``tau_ratio``: per standard deviation of a moderator, per step of one with
        two values, or between two levels; ``scale_sd`` of random intercepts of ln τ²;
        ``correlation`` of effects. All of these of each scale term where there are several, by its
        grouping; with them also ``tau`` in total: the SD of the true effect of a row picked at
        random, all levels together. ``effect``: the mean of average studies (or rows), the true and
        the observed effect of one picked at random.
        """
        rng = np.random.default_rng([self.seed, 1])
        row = rng.integers(len(self.design.y), size=self.draws.size)
        terms = self.drawn.terms.values()
        found = dict(pair for each in terms for pair in self._of_term(each, row, rng))
        found |= self._effects(row, rng)
        order = list(_HEADINGS)
        keys = sorted(found, key=lambda key: order.index(key[0]))
        quantiles = [np.quantile(found[key], PROBABILITIES) for key in keys]
        index = pd.MultiIndex.from_tuples(keys, names=["part", "of"])
        return pd.DataFrame(quantiles, index, _COLUMNS)

    def _of_term(self, each: TermDraws, row: Index, rng: np.random.Generator) -> Found:
        """What the priors of one scale term imply."""
        term, alone, unit = each.term, len(self.design.terms) == 1, _unit(self.design)
        whose = [] if alone else [term.name]
        first = 0
        of_pieces = list(pieces(term))
        for piece, _ in of_pieces:
            alpha = each.alpha[:, first : first + len(piece.names)]
            first += len(piece.names)
            of_piece = [] if len(of_pieces) == 1 else [piece.effects[0]]
            for part, of, values in _of_formula(piece.names, piece.Z[piece.used], alpha, unit):
                yield (part, _joined(": ".join(whose + of_piece), of)), values
        differ = bool(each.random) or np.ptp(term.table[term.used.ravel()], axis=0).any()
        # The only effect of a row has the SD of its true effect.
        if differ or (alone and len(term.effects) == 1):
            group, effect = _any_unit(each, row, rng)
            tau = _tau(each, group)[np.arange(len(group)), effect]
            yield ("tau", _joined(": ".join(whose), f"any {unit}")), tau
        for random in each.random:
            yield ("scale_sd", ": ".join([*whose, random.of.column])), random.sd
        for name, correlation in zip(term.pairs, each.pairs[1].T, strict=True):
            yield ("correlation", ": ".join([*whose, name])), correlation

    def _effects(self, row: Index, rng: np.random.Generator) -> dict[tuple[str, str], Array]:
        design, beta = self.design, self.draws.flat_location
        variance = {name: _variance(each, row) for name, each in self.drawn.terms.items()}
        kept = chosen_terms(design, None)
        between = np.sum([variance[name] for name in kept], axis=0) if kept else np.zeros(len(beta))
        rest = np.sum([variance[name] for name in set(variance) - set(kept)], axis=0)
        rows, levels = contrasts(design.X, "standardised")
        names, one, many = design.location.names, design.unit, design.units
        found: dict[tuple[str, str], Array] = {}
        if len(kept) > 1 or any(len(self.drawn.terms[name].term.effects) > 1 for name in kept):
            found["tau", f"total, any {one}"] = np.sqrt(between)
        for j in levels:
            what = f"average {many}" if len(levels) == 1 else names[j]
            found["effect", f"mean of {what}"] = beta @ rows[j]
        mean = np.einsum("ij,ij->i", beta, design.X[row])
        if self.draws.df is None:
            noise = rng.standard_normal(len(beta))
        else:
            noise = rng.standard_t(self.draws.flat_df)
        true = mean + np.sqrt(between) * noise
        found["effect", f"true, of any {one}"] = true
        error = np.sqrt(design.v[row] + rest) * rng.standard_normal(len(beta))
        found["effect", f"observed, of any {one}"] = true + error
        return found

    @property
    def title(self) -> str:
        """The kind of model, and its size."""
        return model_title(self.design, "prior predictions")

    @property
    def notes(self) -> tuple[str, ...]:
        """How it was made."""
        made = f"{self.draws.size} draws from the priors, seed {self.seed}"
        priors, *effects = said_before(self.design, self.priors)
        return (f"{made}; {priors}", *effects, *self.design.notes)

    def to_dataframe(self) -> pd.DataFrame:
        """The table, unrounded."""
        return self.table.copy()

    def to_string(self, *, digits: int | None = None) -> str:
        """The table as text, to so many significant digits (default 3), and the notes below it."""
        cells = self._cells(digits or self._digits)
        parts = [self.title, "", text_table(cells, digits=0), "", *wrap_notes(self.notes)]
        return "\n".join(parts).rstrip()

    def _table(self) -> pd.DataFrame:
        return self._cells(self._digits)

    def _cells(self, digits: int) -> pd.DataFrame:
        # A prior may say that τ is 0.003 or 10⁹: significant digits, not decimals.
        cells = self.table.map(lambda value: f"{value:.{digits}g}")
        return cells.rename(index=_HEADINGS, level="part")


def prior_predictive(
    design: Design,
    *,
    prior: Priors | None = None,
    draws: int = 10_000,
    seed: int | None = None,
) -> PriorPredictive:
    """What the priors of a model imply for τ, ratios of τ, correlations, and effects.

    Parameters
    ----------
    design : Design
    prior : Priors, optional
        Default: those of the design's specification.
    draws : int, default 10000
        From the priors; at least 100.
    seed : int, optional
        The same seed gives the same result. Without one, a seed is drawn and kept.

    Returns
    -------
    PriorPredictive

    Raises
    ------
    PriorError
        When a prior is flat, or names a term that the model does not have.
    FitError
        For too few draws, or a link other than the logarithm.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel(
    ...     "yi ~ ablat", scale="~ ablat", variance="vi", data=lsm.load_dataset("bcg"))
    >>> prior = lsm.priors.preset("robma", measure="RR")
    >>> said = model.prior_predictive(prior=prior, seed=1)
    >>> said.table.loc[("tau", "average study")].round(2).to_list()
    [0.01, 0.15, 0.33, 0.57, 1.11]

    Several scale terms:

    >>> model = lsm.LocationScaleModel.from_file("konstantopoulos2011")
    >>> said = model.prior_predictive(seed=1)
    >>> said.table.loc[("tau", "total, any row")].round(1).to_list()
    [0.1, 0.2, 0.4, 0.6, 2.3]
    """
    require_count("draws", draws, 100)
    require_capable("prior_predictive", design)
    prior, seed = prior or design.specification.priors, seed_or_new(seed)
    resolved = resolve_priors(design, prior)
    _require_distributions(resolved)
    drawn = draw_priors(design, prior, resolved, int(draws), np.random.default_rng(seed))
    return PriorPredictive(design, prior, drawn, seed)


def _require_distributions(priors: ResolvedPriors) -> None:
    """Refuse priors that cannot be drawn from."""
    if not priors.is_proper:
        part = "scale" if priors.location.is_proper else "location"
        raise PriorError(
            f"a flat {part} prior says nothing before the data, so there is nothing to show; give "
            "the coefficient a normal prior, as wide as need be"
        )


def _unit(design: Design) -> str:
    """What has a τ of its own."""
    return {"study": "study", "row": "group"}[design.unit]


def _joined(whose: str, what: str) -> str:
    return f"{whose}, {what}" if whose else what


def _of_formula(
    names: tuple[str, ...], Z: Array, alpha: Array, unit: str
) -> Iterator[tuple[str, str, Array]]:
    """τ at average moderators, and by what moderators multiply it."""
    rows, levels = contrasts(Z, "standardised")
    log_tau = 0.5 * alpha @ rows.T
    for j in levels:
        yield "tau", f"average {unit}" if len(levels) == 1 else names[j], _exp(log_tau[:, j])
    for j in levels[1:]:
        ratio = log_tau[:, j] - log_tau[:, levels[0]]
        yield "tau_ratio", f"{names[j]} / {names[levels[0]]}", _exp(ratio)
    for j in sorted(set(range(len(names))) - set(levels)):
        yield "tau_ratio", _per_what(names[j], Z[:, j]), _exp(log_tau[:, j])


def _any_unit(each: TermDraws, row: Index, rng: np.random.Generator) -> tuple[Index, Index]:
    """The group and the effect of one picked at random for each draw."""
    term = each.term
    if term.is_of_rows:
        # So that the τ of a row goes with its effect.
        return term.index[row], np.zeros(len(row), dtype=np.intp)
    group, effect = np.nonzero(term.used)
    chosen = rng.integers(len(group), size=len(row))
    return group[chosen], effect[chosen]


def _tau(each: TermDraws, group: Index) -> Array:
    """τ (S, s) of the effects of one group for each draw."""
    draw = np.arange(len(group))[:, None]
    eta: Array = np.einsum("ask,ak->as", each.term.Z[group], each.alpha)
    for random in each.random:
        eta += random.effect[draw, random.of.index[group]]
    return _exp(0.5 * eta)


def _variance(each: TermDraws, row: Index) -> Array:
    """The variance (S,) that a term gives one row for each draw."""
    slopes = each.term.slopes[row]
    # An effect that the row does not have may have a τ of any size.
    loads = slopes * np.where(slopes == 0, 0.0, _tau(each, each.term.index[row]))
    total: Array = np.einsum("as,ast,at->a", loads, each.correlation, loads)
    return np.maximum(total, 0.0)


def _tau_of_groups(each: TermDraws) -> pd.DataFrame:
    term = each.term
    group, effect = np.nonzero(term.used)
    unit = group * len(term.effects) + effect
    # exp() goes up only, so the quantiles of τ are those of ln τ², taken to τ.
    parts = [
        np.quantile(each.log_tau2(unit[block]), PROBABILITIES, axis=1).T
        for block in row_blocks(len(unit), len(each.alpha))
    ]
    keys = [
        (term.name, term.groups[g], term.effects[k]) for g, k in zip(group, effect, strict=True)
    ]
    index = pd.MultiIndex.from_tuples(keys, names=["grouping", "group", "effect"])
    return pd.DataFrame(_exp(0.5 * np.concatenate(parts)), index, _COLUMNS)


def _exp(logarithm: Array) -> Array:
    """The exponential, without overflow."""
    return np.asarray(np.exp(np.clip(logarithm, -LARGEST_EXPONENT, LARGEST_EXPONENT)))


def _per_what(name: str, column: Array) -> str:
    """What the ratio of τ of a moderator is of."""
    two_valued = np.isin(column, (column.min(), column.max())).all()
    return f"{name}, per step" if two_valued else f"{name}, per SD"
