"""Simulation-based calibration: does an engine draw from the posterior that it claims?

If coefficients are drawn from the prior, and effects given the coefficients, then the coefficients
are one more draw from the posterior given the effects. So their rank among the draws of an engine
that is right is uniform, whatever the model. A ∪ of ranks says that posteriors are too narrow, a ∩
too wide, a slope that they are shifted.

Ranks of coefficients cannot see an engine that ignores the data and returns the prior; that of the
log-likelihood can (Modrák et al. 2023), so it is ranked too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.calibration.replications import (
    Replications,
    Sampler,
    make_sampler,
    name_of,
    refit,
)
from bayes_lsm.bayes.calibration.uniformity import rank_ecdf, simultaneous_band, uniformity_pvalue
from bayes_lsm.bayes.prior_draws import draw_priors
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_count, seed_or_new
from bayes_lsm.design.design import Design
from bayes_lsm.priors import Priors

_LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Calibration(Replications):
    """How an engine fared on effects simulated from the prior; its fields: see `Replications`."""

    _hidden = ("bias_se",)

    @property
    def quantities(self) -> pd.Index:
        """What is ranked: (part, term) of every unknown, and the log-likelihood."""
        names = [*self.refits.names, ("Joint", "log-likelihood")]
        return pd.MultiIndex.from_tuples(names, names=["part", "term"])

    @cached_property
    def pvalues(self) -> pd.Series:
        """p-value of the uniformity of each quantity's ranks (`uniformity_pvalue`)."""
        ranks, largest = self.refits.ranks.T, self.refits.largest_rank
        found = [uniformity_pvalue(each, largest) for each in ranks]
        return pd.Series(found, index=self.quantities, name="pval")

    @property
    def calibrated(self) -> bool:
        """Whether nothing speaks against the engine: all p-values above 0.05 by Bonferroni."""
        return bool(self.pvalues.min() * len(self.pvalues) > 1 - _LEVEL)

    def ecdf_difference(self, *, level: float = _LEVEL) -> pd.DataFrame:
        """ECDF of the ranks minus the uniform one, to be drawn within its band.

        Parameters
        ----------
        level : float, default 0.95
            Probability that all of one quantity's ECDF lies within the band.

        Returns
        -------
        DataFrame
            Indexed by the uniform distribution's value (r + 1) / (L + 1); one column a quantity,
            and ("band", "lower"), ("band", "upper").
        """
        largest = self.refits.largest_rank
        uniform = (np.arange(largest) + 1) / (largest + 1)
        lower, upper = simultaneous_band(len(self.refits.truth), largest, level=level)
        columns = [rank_ecdf(each, largest) for each in self.refits.ranks.T]
        frame = pd.DataFrame(
            np.column_stack([*columns, lower, upper]) - uniform[:, None],
            index=pd.Index(uniform, name="uniform"),
        )
        frame.columns = self.quantities.append(
            pd.MultiIndex.from_tuples([("band", "lower"), ("band", "upper")])
        )
        return frame

    def to_dataframe(self) -> pd.DataFrame:
        """One row a quantity.

        Columns pval, ranks (what their shape says, where they are not uniform), bias (the mean of
        posterior mean − truth, in prior SDs) with its Monte Carlo error bias_se, and cover50,
        cover80, cover95: the share of equal-tailed intervals that hold the truth.
        """
        table = pd.DataFrame({"pval": self.pvalues, "ranks": self._shapes()})
        away = (self.refits.mean - self.refits.truth) / self.refits.truth.std(axis=0, ddof=1)
        of_coefficients = pd.DataFrame(
            {
                "bias": away.mean(axis=0),
                "bias_se": away.std(axis=0, ddof=1) / np.sqrt(len(away)),
                **self.refits.shares_covered,
            },
            index=self.quantities[:-1],
        )
        return table.join(of_coefficients)

    def _shapes(self) -> list[str]:
        lost = self.pvalues * len(self.pvalues) <= 1 - _LEVEL
        u = (self.refits.ranks.T + 0.5) / (self.refits.largest_rank + 1)
        return [_shape(each) if bad else "uniform" for each, bad in zip(u, lost, strict=True)]

    @property
    def title(self) -> str:
        """Engine, number of simulations, and the verdict."""
        verdict = "calibrated" if self.calibrated else "NOT calibrated"
        return (
            f"Simulation-Based Calibration ({self.engine}; {len(self.refits.truth)} simulations): "
            f"{verdict}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""
        refits = self.refits
        return (
            f"ranks among {refits.largest_rank} draws; pval is of the ECDF's largest departure "
            f"from uniform. The verdict takes them at {1 - _LEVEL:.2f} / {len(self.pvalues)} each",
            f"bias is in prior SDs; {refits.share_errors}",
            *self._made,
        )


def _shape(u: Array) -> str:
    """What ranks, as shares (N,), say of the posteriors, in a word or two."""
    shift = (u.mean() - 0.5) * np.sqrt(12 * len(u))
    # The variance of a uniform square has 1/180, so that of N of them 1/(180 N).
    width = (np.mean((u - 0.5) ** 2) - 1 / 12) * np.sqrt(180 * len(u))
    if abs(shift) > max(abs(width), 2):
        return "too low" if shift > 0 else "too high"
    if abs(width) > 2:
        return "too narrow" if width > 0 else "too wide"
    return "not uniform"


def calibrate(
    design: Design,
    prior: Priors | None = None,
    *,
    simulations: int = 1000,
    engine: Literal["collapsed", "nuts"] | Sampler = "collapsed",
    draws: int = 1000,
    ranked: int = 100,
    seed: int | None = None,
    progress: bool = True,
) -> Calibration:
    """Check an engine by simulation-based calibration.

    Coefficients, and ν of Student-t study effects, correlations, or random intercepts of ln τ²
    where the model has them, are drawn from the prior, effects given these, with the design's
    moderators, groups and sampling variances; each set of effects is fitted, and what is true is
    ranked among the posterior draws.

    Parameters
    ----------
    design : Design
        ``model.design``.
    prior : Priors, optional
        Default: those of the design's specification. Where they depend on the effects, as those of
        ``"weakly_informative"`` do, they are worked out once, from the design's own effects.
        Priors that allow any τ simulate sets of effects that no one has seen; an engine for
        everyday use is better checked with ones that a meta-analyst would believe.
    simulations : int, default 1000
    engine : {"collapsed", "nuts"} or function, default "collapsed"
        A function of a design and a seed that returns `Draws` checks a sampler of your own. NUTS is
        compiled once.
    draws : int, default 1000
        Posterior draws of each fit; with NUTS in four chains.
    ranked : int, default 100
        How many of them the truth is ranked among; few enough to be independent.
    seed : int, optional
        The same seed gives the same result. Without one, a seed is drawn and kept.
    progress : bool, default True
        Show a progress bar on standard error.

    Returns
    -------
    Calibration
        Fits whose diagnostics warn are counted with the others, and named in its notes.

    Raises
    ------
    PriorError
        When a prior names a term that the model does not have.
    FitError
        For settings out of range.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel.from_file("bcg")
    >>> checked = lsm.calibrate(model.design, simulations=20, draws=200, seed=1, progress=False)
    >>> checked.calibrated
    True
    >>> checked.ecdf_difference().shape  # 100 points; 4 coefficients, log-likelihood, 2 bounds
    (100, 7)

    References
    ----------
    Talts, S., Betancourt, M., Simpson, D., Vehtari, A., & Gelman, A. (2018). Validating Bayesian
    inference algorithms with simulation-based calibration. arXiv:1804.06788

    Modrák, M., Moon, A. H., Kim, S., Bürkner, P.-C., Huurre, N., Faltejsková, K., Gelman, A., &
    Vehtari, A. (2023). Simulation-based calibration checking for Bayesian computation: The choice
    of test quantities shapes sensitivity. Bayesian Analysis. doi:10.1214/23-BA1404
    """
    require_capable("calibrate", design)
    require_count("simulations", simulations, least=20)
    prior = prior or design.specification.priors
    require_count("ranked", ranked, least=10)
    seed = seed_or_new(seed)
    rng = np.random.default_rng(seed)
    sample = make_sampler(design, prior, engine=cast("str | Sampler", engine), draws=draws)
    true = draw_priors(design, prior, resolve_priors(design, prior), simulations, rng)
    refits = refit(
        design, true, sample, largest_rank=min(ranked, draws), rng=rng, progress=progress
    )
    return Calibration(design, prior, refits, name_of(engine), seed)
