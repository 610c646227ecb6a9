"""What every Bayesian fit prints, whatever its scale part looks like."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import pandas as pd

from bayes_lsm.bayes.draws import Array
from bayes_lsm.bayes.summaries.intervals import Interval, bounds, check_interval
from bayes_lsm.design.design import Design
from bayes_lsm.results import model_title
from bayes_lsm.tables import Printable


class PosteriorSummaries(Printable):
    """A Bayesian fit as a table of its coefficients."""

    design: Design
    convergence: pd.DataFrame
    problems: tuple[str, ...]

    label: ClassVar[str] = "Bayes"
    _hidden = ("mad", "mcse_median")

    @abstractmethod
    def parts(self) -> dict[str, tuple[tuple[str, ...], Array]]:
        """What was estimated: of each part of the model the terms, and draws (draws, terms)."""

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
            One row a coefficient or correlation, and one for ν of Student-t study effects where it
            is estimated: mean, median, sd, mad, ci_lb, ci_ub, mcse_median, and of NUTS ess_bulk,
            ess_tail and r_hat, of the collapsed engine ess. `mad` is the median absolute deviation
            from the median, which does not hang on the tails.
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
