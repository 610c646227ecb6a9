"""Bayesian fits of a design, and what can be read from them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pandas as pd

from bayes_lsm.bayes.collapsed import can_collapse, sample_collapsed
from bayes_lsm.bayes.diagnostics import convergence, find_problems
from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.graph import require_log_link, resolve_priors
from bayes_lsm.bayes.sampling import sample_nuts
from bayes_lsm.bayes.tree import build_datatree
from bayes_lsm.design import Design
from bayes_lsm.errors import ConvergenceWarning, FitError
from bayes_lsm.links import tau2_from_log
from bayes_lsm.priors import Priors
from bayes_lsm.results import model_title, stack_parts
from bayes_lsm.specification import Engine, StudyEffects
from bayes_lsm.tables import Printable

if TYPE_CHECKING:
    from xarray import DataTree

Interval = Literal["eti", "hdi"]


@dataclass(frozen=True, eq=False)
class BayesFit(Printable):
    """A Bayesian fit of a location-scale model.

    Attributes
    ----------
    design : Design
    priors : Priors
    draws : Draws
        Posterior draws of the coefficients.
    seed : int
        What to pass to `fit_bayes` for the same draws again.
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
    def posterior(self) -> DataTree:
        """The draws as an ArviZ DataTree.

        Groups posterior (``location``, ``scale``), sample_stats, log_likelihood, log_prior, prior,
        prior_predictive, posterior_predictive and observed_data. The log likelihood takes
        8 · draws · k bytes.
        """
        return build_datatree(
            self.design, resolve_priors(self.design, self.priors), self.draws, seed=self.seed
        )

    def summary(self, *, level: float = 0.95, interval: Interval = "eti") -> pd.DataFrame:
        """Posterior summaries of all coefficients, indexed by part and term.

        Parameters
        ----------
        level : float, default 0.95
            Probability of the interval.
        interval : {"eti", "hdi"}, default "eti"
            Equal-tailed, or of highest density.

        Returns
        -------
        DataFrame
            mean, median, sd, mad, ci_lb, ci_ub, mcse_median, and of NUTS ess_bulk, ess_tail and
            r_hat, of the collapsed engine ess. `mad` is the median absolute deviation from the
            median, which does not hang on the tails.
        """
        if not 0 < level < 1:
            raise FitError(f"level must be between 0 and 1, got {level}")
        bounds = {"eti": _equal_tailed, "hdi": _highest_density}
        if interval not in bounds:
            raise FitError(f"interval must be 'eti' or 'hdi', got {interval!r}")
        parts = (
            (self.design.location.names, self.draws.flat_location),
            (self.design.scale.names, self.draws.flat_scale),
        )
        location, scale = (
            _summarise(names, values, *bounds[interval](values, level)) for names, values in parts
        )
        return stack_parts(location, scale).join(self.convergence)

    @property
    def location(self) -> pd.DataFrame:
        """Location coefficients: mean, median, sd, … (see `summary`); one row a term."""
        return self.summary().loc[["location"]].droplevel("part")

    @property
    def scale(self) -> pd.DataFrame:
        """Scale coefficients of ln τ²: mean, median, sd, … (see `summary`); one row a term."""
        return self.summary().loc[["scale"]].droplevel("part")

    def to_dataframe(self) -> pd.DataFrame:
        """Both tables as one, indexed by part and term."""
        return self.summary()

    @property
    def tau2(self) -> Array:
        """Posterior median of τ² of each study, shape (k,)."""
        # The median commutes with exp(), so one study at a time needs one column of draws.
        medians = [np.median(self.draws.flat_scale @ z) for z in self.design.Z]
        return tau2_from_log(np.array(medians))

    def to_netcdf(self, path: str | Path) -> Path:
        """Save `posterior`; ``arviz.from_netcdf`` reads it back."""
        tree = self.posterior
        tree.to_netcdf(str(path))
        return Path(path)

    def comparison(self, *, at_stop: bool = False) -> dict[str, pd.DataFrame]:
        """The columns of this fit in a side-by-side table: median and sd."""
        return {"": self.summary()[["median", "sd"]]}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any table of this fit has to know."""
        chains, draws = self.draws.location.shape[:2]
        importance = self.draws.importance
        if importance is None:
            how = f"NUTS, {chains} chains of {draws} draws, seed {self.seed}"
        else:
            worth = f"worth {importance.ess:.0f} independent ones"
            how = f"{chains * draws} draws, β integrated out ({worth}), seed {self.seed}"
        made = f"{how}; priors: {self.priors.describe()}"
        return (made, *self.problems, *self.design.notes)

    @property
    def title(self) -> str:
        """The kind of model, its number of studies, and how it was fitted."""
        return model_title(self.design, self.label)

    @property
    def converged(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


def fit_bayes(
    design: Design,
    *,
    prior: Priors | None = None,
    engine: Engine = "auto",
    draws: int = 4000,
    seed: int | None = None,
    chains: int = 4,
    tune: int = 1000,
    target_accept: float = 0.95,
    study_effects: StudyEffects = "integrated",
    progress: bool = True,
) -> BayesFit:
    """Draw from the posterior of a location-scale model.

    Parameters
    ----------
    design : Design
    prior : Priors, optional
        Default: those of the design's specification.
    engine : {"auto", "collapsed", "nuts"}, default "auto"
        ``"collapsed"`` integrates β out and draws α by importance sampling: independent draws in
        milliseconds. ``"nuts"`` is the no-U-turn sampler, through PyMC. ``"auto"`` takes the first
        where the priors allow it and its weights can be trusted, else the second.
    draws : int, default 4000
        Posterior draws; with NUTS of all chains together, rounded up to a multiple of `chains`.
    seed : int, optional
        The same seed gives the same draws. Without one, a seed is drawn and kept in the fit.
    chains : int, default 4
    tune : int, default 1000
        Warm-up draws of each chain of NUTS, which are not kept.
    target_accept : float, default 0.95
        Of NUTS; raise it towards 1 when there are divergences.
    study_effects : {"integrated", "latent"}, default "integrated"
        ``"latent"`` draws the true effect of each study too, by NUTS: ``true_effect`` in
        `BayesFit.posterior`. The posterior of the coefficients is the same.
    progress : bool, default True
        Show a progress bar on standard error while NUTS is at work.

    Returns
    -------
    BayesFit

    Raises
    ------
    PriorError
        When a prior names a term that the model does not have.
    FitError
        For settings out of range.

    Warns
    -----
    ConvergenceWarning
        When R-hat, the effective sample size, divergences, the energy or the importance weights say
        that the draws cannot be trusted yet; kept in `BayesFit.problems`.
    """
    _check_settings(engine, draws=draws, chains=chains, tune=tune, target_accept=target_accept)
    _check_study_effects(study_effects, engine)
    require_log_link(design)
    prior = prior or design.specification.priors
    resolved = resolve_priors(design, prior)
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    drawn = None
    wants_collapsed = engine == "auto" and study_effects == "integrated"
    if engine == "collapsed" or (wants_collapsed and can_collapse(resolved)):
        drawn = sample_collapsed(design, resolved, draws=draws, seed=seed)
        if engine == "auto" and find_problems(drawn, convergence(design, drawn)):
            drawn = None
    if drawn is None:
        drawn = sample_nuts(
            design,
            prior,
            draws=-(-draws // chains),
            tune=tune,
            chains=chains,
            seed=seed,
            target_accept=target_accept,
            study_effects=study_effects,
            progress=progress,
        )
    diagnostics = convergence(design, drawn)
    problems = find_problems(drawn, diagnostics)
    if problems:
        warnings.warn("; ".join(problems), ConvergenceWarning, stacklevel=2)
    return BayesFit(design, prior, drawn, seed, diagnostics, tuple(problems))


def _check_settings(
    engine: str, *, draws: int, chains: int, tune: int, target_accept: float
) -> None:
    if engine not in ("auto", "collapsed", "nuts"):
        raise FitError(f"engine must be 'auto', 'collapsed' or 'nuts', got {engine!r}")
    for name, value, least in (("draws", draws, 100), ("chains", chains, 1), ("tune", tune, 100)):
        if not isinstance(value, int | np.integer) or value < least:
            raise FitError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if not 0 < target_accept < 1:
        raise FitError(f"target_accept must be between 0 and 1, got {target_accept!r}")


def _check_study_effects(study_effects: str, engine: str) -> None:
    if study_effects not in ("integrated", "latent"):
        raise FitError(f"study_effects must be 'integrated' or 'latent', got {study_effects!r}")
    if study_effects == "latent" and engine == "collapsed":
        raise FitError(
            "the collapsed engine integrates the study effects out; use engine='nuts' for "
            "study_effects='latent'"
        )


def _summarise(names: tuple[str, ...], values: Array, lower: Array, upper: Array) -> pd.DataFrame:
    median = np.median(values, axis=0)
    return pd.DataFrame(
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


def _equal_tailed(values: Array, level: float) -> tuple[Array, Array]:
    tail = (1 - level) / 2
    lower, upper = np.quantile(values, [tail, 1 - tail], axis=0)
    return lower, upper


def _highest_density(values: Array, level: float) -> tuple[Array, Array]:
    """The shortest interval that holds `level` of the draws, column by column."""
    ordered = np.sort(values, axis=0)
    inside = int(np.ceil(level * len(ordered)))
    widths = ordered[inside - 1 :] - ordered[: len(ordered) - inside + 1]
    first = np.argmin(widths, axis=0)
    columns = np.arange(ordered.shape[1])
    return ordered[first, columns], ordered[first + inside - 1, columns]
