"""Bayesian fits of models with several scale terms, and what can be read from them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.bayes.clustered import resolve_terms, sample_clustered
from bayes_lsm.bayes.clustered_graph import (
    DEFAULT_SCALE_SD,
    level_names,
    pair_names,
    random_names,
    scale_names,
)
from bayes_lsm.bayes.clustered_nuts import ClusteredDraws, sample_clustered_nuts
from bayes_lsm.bayes.collapsed import can_collapse
from bayes_lsm.bayes.diagnostics import convergence_of, find_problems
from bayes_lsm.bayes.draws import Array, Importance
from bayes_lsm.bayes.fit import check_settings
from bayes_lsm.bayes.intervals import Interval, bounds, check_interval
from bayes_lsm.clustered_design import ClusteredDesign, ScaleTerm
from bayes_lsm.errors import ConvergenceWarning, FitError
from bayes_lsm.likelihood.correlation_matrices import correlation_matrices, count
from bayes_lsm.links import tau2_from_log
from bayes_lsm.priors import Priors, ResolvedPriors
from bayes_lsm.random_intercepts import RandomIntercept
from bayes_lsm.results import model_title
from bayes_lsm.specification import Engine
from bayes_lsm.tables import Printable

if TYPE_CHECKING:
    from xarray import DataTree


@dataclass(frozen=True, eq=False)
class RandomInterceptDraws:
    """Posterior draws of random intercepts of ln τ².

    Attributes
    ----------
    of : RandomIntercept
    sd : ndarray, shape (draws,)
    effect : ndarray, shape (draws, L)
        Of each level of the column.
    """

    of: RandomIntercept
    sd: Array
    effect: Array


# What `BayesFit` has and `ClusteredBayesFit` has not.
_ONE_TERM_ONLY = frozenset(
    "bayes_factor blup diagnose heterogeneity kfold location loo new_effects "
    "posterior_predictive_check predict probability psis_loo savage_dickey scale scale_functions "
    "sensitivity study_weights tau2 true_effects waic".split()
)


@dataclass(frozen=True, eq=False)
class TermDraws:
    """Posterior draws of one scale term.

    Attributes
    ----------
    term : ScaleTerm
    alpha : ndarray, shape (draws, q)
        Coefficients of ln τ².
    correlation : ndarray, shape (draws, s, s)
        Of the effects of a group.
    random : tuple of RandomInterceptDraws
    """

    term: ScaleTerm
    alpha: Array
    correlation: Array
    random: tuple[RandomInterceptDraws, ...] = ()

    @property
    def tau2(self) -> Array:
        """Posterior median of τ² of each effect of each group, shape (G, s)."""
        medians = []
        for unit, z in enumerate(self.term.table):
            eta = self.alpha @ z
            for each in self.random:
                eta = eta + each.effect[:, each.of.index.ravel()[unit]]
            medians.append(np.median(eta))
        return tau2_from_log(np.array(medians)).reshape(self.term.Z.shape[:2])

    @property
    def pairs(self) -> tuple[tuple[str, ...], Array]:
        """The correlations by the names of their pairs, and their draws (draws, pairs)."""
        effects = self.term.effects
        if not count(len(effects), self.term.correlation):
            return (), np.empty((len(self.alpha), 0))
        below = [(i, j) for i in range(len(effects)) for j in range(i)]
        names = tuple(f"{effects[j]}, {effects[i]}" for i, j in below)
        return names, np.column_stack([self.correlation[:, i, j] for i, j in below])


@dataclass(frozen=True, eq=False)
class ClusteredBayesFit(Printable):
    """A Bayesian fit of a model with several scale terms.

    Attributes
    ----------
    design : ClusteredDesign
    priors : Priors
    beta : ndarray, shape (draws, p)
        Draws of the location coefficients.
    terms : mapping of str to TermDraws
        The scale terms by their grouping.
    importance : Importance or None
        Of the collapsed engine: how good the draws are; log marginal likelihood.
    seed : int
    problems : tuple of str
        Why the draws should not be trusted, each with its remedy; empty when all is well.
    chains : int
        Of NUTS; the draws of one stand after those of the other.
    stats : mapping of str to ndarray, shape (chains, draws of a chain)
        What NUTS says of each draw (``diverging``, ``energy``, …).
    """

    design: ClusteredDesign
    priors: Priors
    beta: Array
    terms: Mapping[str, TermDraws]
    importance: Importance | None
    seed: int
    problems: tuple[str, ...]
    chains: int = 1
    stats: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    label: ClassVar[str] = "Bayes"
    _hidden = ("mad", "mcse_median")

    def __getattr__(self, name: str) -> Any:
        """Say of a verb of `BayesFit` that it is not here."""
        if name in _ONE_TERM_ONLY:
            raise AttributeError(
                f".{name} is for Bayesian fits with one scale term; with several there are "
                ".summary(), .posterior (every draw, for ArviZ) and, of the collapsed engine, "
                ".log_evidence, and model.fit_reml() predicts, leaves clusters out and tests"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def summary(self, *, level: float = 0.95, interval: Interval = "eti") -> pd.DataFrame:
        """Posterior summaries of all coefficients and correlations, indexed by part and term.

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
            r_hat, of the collapsed engine ess.
        """
        check_interval(level=level, interval=interval)
        tables = {}
        for part, (names, values) in self._parts().items():
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

    @cached_property
    def convergence(self) -> pd.DataFrame:
        """How well each number is known, indexed by part and term."""
        by_chain = {
            part: (names, values.reshape(self.chains, -1, len(names)))
            for part, (names, values) in self._parts().items()
        }
        return convergence_of(by_chain, self.importance)

    def _parts(self) -> dict[str, tuple[tuple[str, ...], Array]]:
        """What was estimated: of each part of the model the terms, and draws (draws, terms)."""
        parts = {"location": (self.design.location.names, self.beta)}
        for name, each in self.terms.items():
            parts[f"scale ({name})"] = (each.term.names, each.alpha)
        for name, each in self.terms.items():
            if each.random:
                columns = tuple(random.of.column for random in each.random)
                sds = np.column_stack([random.sd for random in each.random])
                parts[f"scale_sd ({name})"] = (columns, sds)
            for random in each.random:
                key = f"scale_effect ({name}: {random.of.column})"
                parts[key] = (random.of.levels, random.effect)
        for name, each in self.terms.items():
            if each.pairs[0]:
                parts[f"correlation ({name})"] = each.pairs
        return parts

    @cached_property
    def posterior(self) -> DataTree:
        """The draws as an ArviZ DataTree, with the names of `build_clustered_pymc_model`.

        Groups posterior (``location``, ``scale`` and, where the model has them, ``correlation``,
        ``scale_sd`` and ``scale_effect``) and, of NUTS, sample_stats. The terms of ``scale`` and
        ``correlation`` are named ``"district: intrcpt"``.
        """
        import arviz as az

        terms = list(self.terms.values())
        random = [each for term in terms for each in term.random]
        pairs = [term.pairs[1] for term in terms if term.pairs[0]]
        found = {
            "location": [self.beta],
            "scale": [term.alpha for term in terms],
            "correlation": pairs,
            "scale_sd": [each.sd[:, None] for each in random],
            "scale_effect": [each.effect for each in random],
        }
        values = {name: np.concatenate(parts, axis=1) for name, parts in found.items() if parts}
        groups: dict[str, Any] = {
            "posterior": {
                name: each.reshape(self.chains, -1, each.shape[1]) for name, each in values.items()
            }
        }
        if self.stats:
            groups["sample_stats"] = dict(self.stats)
        coords = {
            "location_term": list(self.design.location.names),
            "scale_term": scale_names(self.design),
            "pair": pair_names(self.design),
            "scale_random": random_names(self.design),
            "scale_level": level_names(self.design),
        }
        dims = dict(zip(found, ([dim] for dim in coords), strict=True))
        tree: DataTree = az.from_dict(
            groups,
            dims={name: dims[name] for name in values},
            coords={dims[name][0]: coords[dims[name][0]] for name in values},
        )
        return tree

    def to_netcdf(self, path: str | Path) -> Path:
        """Save `posterior`; ``arviz.from_netcdf`` reads it back."""
        self.posterior.to_netcdf(str(path))
        return Path(path)

    def to_dataframe(self) -> pd.DataFrame:
        """All of it as one table, indexed by part and term."""
        return self.summary()

    def comparison(self, *, at_stop: bool = False) -> dict[str, pd.DataFrame]:
        """The columns of this fit in a side-by-side table: median and sd."""
        return {"": self.summary()[["median", "sd"]]}

    @property
    def log_evidence(self) -> float:
        """Log marginal likelihood; its Monte Carlo error is ``importance.log_evidence_se``.

        Raises
        ------
        FitError
            When the draws are those of NUTS.
        """
        if self.importance is None:
            raise FitError(
                "the evidence of a model with several scale terms comes from the collapsed engine; "
                "refit it with engine='collapsed'"
            )
        return self.importance.log_evidence

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any table of the fit has to know."""
        draws = len(self.beta)
        if self.importance is None:
            each = draws // self.chains
            how = f"NUTS, {self.chains} chains of {each} draws, seed {self.seed}"
        else:
            worth = f"worth {self.importance.ess:.0f} independent ones"
            how = f"{draws} draws, β integrated out ({worth}), seed {self.seed}"
        priors = self.priors
        if priors.scale_sd is None and any(term.random for term in self.terms.values()):
            priors = priors.model_copy(update={"scale_sd": DEFAULT_SCALE_SD})
        made = f"{how}; priors: {priors.describe()}"
        return (made, *self.problems, *self.design.notes)

    @property
    def title(self) -> str:
        """The kind of model, its number of effects, and how it was fitted."""
        return model_title(self.design, self.label)

    @property
    def converged(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


def fit_clustered_bayes(
    design: ClusteredDesign,
    *,
    prior: Priors | None = None,
    engine: Engine = "auto",
    draws: int = 4000,
    seed: int | None = None,
    chains: int = 4,
    tune: int = 1000,
    target_accept: float = 0.95,
    progress: bool = True,
) -> ClusteredBayesFit:
    """Draw from the posterior of a model with several scale terms.

    Parameters
    ----------
    design : ClusteredDesign
    prior : Priors, optional
        Default: those of the design's specification. Each scale term has them anew; a prior of one
        term is named ``"district: year"``.
    engine : {"auto", "collapsed", "nuts"}, default "auto"
        ``"collapsed"`` integrates β out and draws the coefficients of ln τ² and the correlations by
        adaptive importance sampling. ``"nuts"`` is the no-U-turn sampler, through PyMC. ``"auto"``
        takes the first where the model and its priors allow it and its weights can be trusted, else
        the second; random intercepts of ln τ² need the second.
    draws : int, default 4000
        With NUTS of all chains together, rounded up to a multiple of `chains`.
    seed : int, optional
        The same seed gives the same draws. Without one, a seed is drawn and kept in the fit.
    chains, tune, target_accept, progress
        Of NUTS; see `fit_bayes`.

    Returns
    -------
    ClusteredBayesFit

    Raises
    ------
    PriorError
        When a prior names a term that the model does not have.
    FitError
        When the collapsed engine cannot fit the model, or a setting is out of range.

    Warns
    -----
    ConvergenceWarning
        When the draws cannot be trusted; kept in `ClusteredBayesFit.problems`.

    Examples
    --------
    >>> from bayes_lsm.clustered_design import build_clustered_design
    >>> from bayes_lsm.datasets import load_dataset
    >>> from bayes_lsm.specification import Specification
    >>> spec = Specification(
    ...     "yi ~ 1", "vi", scale={"district": "~ 1", "district/school": "~ 1"})
    >>> design = build_clustered_design(spec, load_dataset("konstantopoulos2011"))
    >>> fit = fit_clustered_bayes(design, seed=1)
    >>> fit.summary()["median"].round().to_list()
    [0.0, -3.0, -3.0]
    """
    check_settings(engine, draws=draws, chains=chains, tune=tune, target_accept=target_accept)
    prior = prior or design.specification.priors
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    fit = None
    if engine == "collapsed" or (engine == "auto" and _can_collapse(design, prior)):
        fit = _collapsed(design, prior, draws=draws, seed=seed)
    if fit is None or (engine == "auto" and fit.problems):
        drawn = sample_clustered_nuts(
            design,
            prior,
            draws=-(-draws // chains),
            tune=tune,
            chains=chains,
            seed=seed,
            target_accept=target_accept,
            progress=progress,
        )
        fit = _sampled(design, prior, drawn, seed)
    if fit.problems:
        warnings.warn("; ".join(fit.problems), ConvergenceWarning, stacklevel=2)
    return fit


def _can_collapse(design: ClusteredDesign, prior: Priors) -> bool:
    location = resolve_terms(design, prior).location
    plain = not any(term.random for term in design.terms)
    return plain and can_collapse(ResolvedPriors(location, location))


def _collapsed(
    design: ClusteredDesign, prior: Priors, *, draws: int, seed: int
) -> ClusteredBayesFit:
    """A fit of independent draws."""
    resolved = resolve_terms(design, prior)
    beta, alphas, importance = sample_clustered(design, resolved, draws=draws, seed=seed)
    terms, first = {}, 0
    for term in design.terms:
        q, s = len(term.names), len(term.effects)
        kappas = count(s, term.correlation)
        alpha, kappa = alphas[:, first : first + q], alphas[:, first + q : first + q + kappas]
        terms[term.name] = TermDraws(term, alpha, correlation_matrices(kappa, s, term.correlation))
        first += q + kappas
    return _checked(ClusteredBayesFit(design, prior, beta, terms, importance, seed, ()))


def _sampled(
    design: ClusteredDesign, prior: Priors, drawn: ClusteredDraws, seed: int
) -> ClusteredBayesFit:
    """A fit of the chains of NUTS."""
    chains, draws = drawn.values["location"].shape[:2]
    flat = {name: each.reshape(chains * draws, -1) for name, each in drawn.values.items()}
    empty = np.empty((chains * draws, 0))
    rest = {
        name: flat.get(name, empty) for name in ("scale", "correlation", "scale_sd", "scale_effect")
    }

    def take(name: str, size: int) -> Array:
        taken, rest[name] = np.split(rest[name], [size], axis=1)
        return np.asarray(taken)

    terms = {}
    for term in design.terms:
        s = len(term.effects)
        alpha = take("scale", len(term.names))
        pairs = s * (s - 1) // 2 if count(s, term.correlation) else 0
        correlation = _matrices(take("correlation", pairs), s)
        random = tuple(
            RandomInterceptDraws(
                each, take("scale_sd", 1)[:, 0], take("scale_effect", len(each.levels))
            )
            for each in term.random
        )
        terms[term.name] = TermDraws(term, alpha, correlation, random)
    fit = ClusteredBayesFit(
        design, prior, flat["location"], terms, None, seed, (), chains, drawn.stats
    )
    return _checked(fit)


def _matrices(pairs: Array, s: int) -> Array:
    """Correlation matrices (draws, s, s) from the correlations below the diagonal, row by row."""
    R = np.tile(np.eye(s), (len(pairs), 1, 1))
    if pairs.shape[1]:
        i, j = np.tril_indices(s, -1)
        R[:, i, j] = R[:, j, i] = pairs
    return R


def _checked(fit: ClusteredBayesFit) -> ClusteredBayesFit:
    """The same fit, with what is wrong with it."""
    return replace(fit, problems=tuple(find_problems(fit, fit.convergence)))
