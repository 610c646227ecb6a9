"""What was drawn from a posterior: facts, of which every verb is a function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import Draws, Importance
from bayes_lsm.bayes.resolved_priors.notes import prior_notes
from bayes_lsm.bayes.student.effects import integrated_out, said_before
from bayes_lsm.bayes.summaries.intervals import Interval, bounds, check_interval
from bayes_lsm.bayes.term_draws import TermDraws, split_terms
from bayes_lsm.design.design import Design
from bayes_lsm.priors import Priors
from bayes_lsm.results import model_title
from bayes_lsm.tables import Printable


@dataclass(frozen=True, eq=False)
class Posterior(Printable):
    """Draws from the posterior of a location-scale model, and how far they can be trusted.

    Attributes
    ----------
    design : Design
    priors : Priors
    draws : Draws
        Posterior draws of all that is unknown.
    seed : int
        What to pass to `fit_bayes` for the same draws again.
    convergence : DataFrame
        How well each number is known, indexed by part and term.
    problems : tuple of str
        Why the draws should not be trusted, each with its remedy; empty when all is well.
    """

    design: Design
    priors: Priors
    draws: Draws
    seed: int
    convergence: pd.DataFrame
    problems: tuple[str, ...]

    label: ClassVar[str] = "Bayes"
    _hidden = ("mad", "mcse_median")

    @cached_property
    def terms(self) -> Mapping[str, TermDraws]:
        """The draws of each scale term, by its grouping."""
        return split_terms(self.design, self.draws)

    def parts(self) -> dict[str, tuple[tuple[str, ...], Array]]:
        """What was estimated: of each part of the model the terms, and draws (draws, terms)."""
        return {
            part: (names, values.reshape(-1, len(names)))
            for part, (names, values) in self.draws.parts(self.design).items()
        }

    @property
    def stats(self) -> Mapping[str, npt.NDArray[Any]]:
        """What NUTS says of each draw; see `Draws`."""
        return self.draws.stats

    @property
    def importance(self) -> Importance | None:
        """How good the draws of the collapsed engine are; see `Draws`."""
        return self.draws.importance

    def summary(self, *, level: float = 0.95, interval: Interval = "eti") -> pd.DataFrame:
        """Posterior summaries of all that was estimated, indexed by part and term.

        Parameters
        ----------
        level : float, default 0.95
            Probability of the interval.
        interval : {"eti", "hdi"}, default "eti"
            Equal-tailed, or of highest density.

        Returns
        -------
        DataFrame
            One row a coefficient, correlation, or SD or level of a random intercept of ln τ², and
            one for ν of Student-t study effects where it is estimated: mean, median, sd, mad,
            ci_lb, ci_ub, mcse_median, and of NUTS ess_bulk, ess_tail and r_hat, of the collapsed
            engine ess. `mad` is the median absolute deviation from the median, which does not hang
            on the tails.
        """
        check_interval(level, interval)
        tables = {}
        for part, (names, values) in self.parts().items():
            median = np.median(values, axis=0)
            lower, upper = bounds(values, level=level, interval=interval)
            tables[part] = pd.DataFrame(
                {
                    "mean": values.mean(axis=0),
                    "median": median,
                    "sd": values.std(axis=0, ddof=1),
                    "mad": np.median(np.abs(values - median), axis=0),
                    "ci_lb": lower,
                    "ci_ub": upper,
                },
                index=pd.Index(names, name="term"),
            )
        return pd.concat(tables, names=["part", "term"]).join(self.convergence)

    @property
    def location(self) -> pd.DataFrame:
        """Location coefficients: mean, median, sd, … (see `summary`); one row a term."""
        return self.summary().loc[["location"]].droplevel("part")

    @property
    def scale(self) -> pd.DataFrame:
        """Scale coefficients of ln τ²: mean, median, sd, … (see `summary`); one row a term.

        Indexed by term, with several scale terms by grouping and term. The SDs and levels of random
        intercepts, and correlations, are in `summary`.
        """
        summary, terms = self.summary(), self.design.terms
        tables = {
            term.name: summary.loc[[self.design.part_name("scale", term)]].droplevel("part")
            for term in terms
        }
        if len(terms) == 1:
            return tables[terms[0].name]
        return pd.concat(tables, names=["grouping", "term"])

    def to_dataframe(self) -> pd.DataFrame:
        """All of it as one table, indexed by part and term."""
        return self.summary()

    def comparison(self, *, at_stop: bool = False) -> dict[str, pd.DataFrame]:
        """The columns of this fit in a side-by-side table: median and sd."""
        return {"": self.summary()[["median", "sd"]]}

    @property
    def title(self) -> str:
        """The kind of model, its number of effects, and how it was fitted."""
        return model_title(self.design, self.label)

    @property
    def converged(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any table of this fit has to know."""
        chains, size, importance = self.draws.chains, self.draws.size, self.draws.importance
        if importance is None:
            how = f"NUTS, {chains} chains of {size // chains} draws, seed {self.seed}"
        else:
            worth = f"worth {importance.ess:.0f} independent ones"
            what = f"{integrated_out(self.design)} integrated out"
            how = f"{size} draws, {what} ({worth}), seed {self.seed}"
        priors, *effects = said_before(self.design, self.priors)
        known = (*self.problems, *prior_notes(self.design), *self.design.notes)
        return (f"{how}; {priors}", *effects, *known)
