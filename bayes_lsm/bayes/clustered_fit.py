"""Bayesian fits of models with several scale terms, and what can be read from them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from bayes_lsm.bayes.clustered import resolve_terms, sample_clustered
from bayes_lsm.bayes.diagnostics import weight_problems
from bayes_lsm.bayes.draws import Array, Importance
from bayes_lsm.bayes.intervals import Interval, bounds, check_interval
from bayes_lsm.clustered_design import ClusteredDesign, ScaleTerm
from bayes_lsm.errors import ConvergenceWarning, FitError
from bayes_lsm.likelihood.correlation_matrices import correlation_matrices, count
from bayes_lsm.links import tau2_from_log
from bayes_lsm.priors import Priors
from bayes_lsm.results import model_title
from bayes_lsm.tables import Printable

if TYPE_CHECKING:
    from xarray import DataTree


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
    """

    term: ScaleTerm
    alpha: Array
    correlation: Array

    @property
    def tau2(self) -> Array:
        """Posterior median of τ² of each effect of each group, shape (G, s)."""
        flat = self.term.Z.reshape(-1, self.term.Z.shape[2])
        medians = [np.median(self.alpha @ z) for z in flat]
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
    importance : Importance
        How good the draws are; log marginal likelihood.
    seed : int
    problems : tuple of str
        Why the draws should not be trusted, each with its remedy; empty when all is well.
    """

    design: ClusteredDesign
    priors: Priors
    beta: Array
    terms: Mapping[str, TermDraws]
    importance: Importance
    seed: int
    problems: tuple[str, ...]

    label: ClassVar[str] = "Bayes"
    _hidden = ("mad",)

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
            mean, median, sd, mad, ci_lb, ci_ub, ess.
        """
        check_interval(level=level, interval=interval)
        parts: dict[str, tuple[tuple[str, ...], Array]] = {
            "location": (self.design.location.names, self.beta)
        }
        for name, each in self.terms.items():
            parts[f"scale ({name})"] = (each.term.names, each.alpha)
        for name, each in self.terms.items():
            if each.pairs[0]:
                parts[f"correlation ({name})"] = each.pairs
        tables = {}
        for part, (names, values) in parts.items():
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
                    "ess": self.importance.ess,
                },
                index=pd.Index(names, name="term"),
            )
        return pd.concat(tables, names=["part", "term"])

    @cached_property
    def posterior(self) -> DataTree:
        """The draws as an ArviZ DataTree: ``location``, ``scale`` and ``correlation``.

        The terms of ``scale`` and ``correlation`` are named ``"district: intrcpt"``.
        """
        import arviz as az

        named = {name: each.term.names for name, each in self.terms.items()}
        scale = [f"{name}: {term}" for name, terms in named.items() for term in terms]
        values = {
            "location": self.beta[None],
            "scale": np.concatenate([each.alpha for each in self.terms.values()], axis=1)[None],
        }
        coords = {"location_term": list(self.design.location.names), "scale_term": scale}
        dims = {"location": ["location_term"], "scale": ["scale_term"]}
        pairs = {name: each.pairs for name, each in self.terms.items() if each.pairs[0]}
        if pairs:
            drawn = [draws for _, draws in pairs.values()]
            values["correlation"] = np.concatenate(drawn, axis=1)[None]
            coords["pair"] = [f"{name}: {pair}" for name, (of, _) in pairs.items() for pair in of]
            dims["correlation"] = ["pair"]
        tree: DataTree = az.from_dict({"posterior": values}, dims=dims, coords=coords)
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
        """Log marginal likelihood; its Monte Carlo error is ``importance.log_evidence_se``."""
        return self.importance.log_evidence

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any table of the fit has to know."""
        worth = f"worth {self.importance.ess:.0f} independent ones"
        made = (
            f"{len(self.beta)} draws, β integrated out ({worth}), seed {self.seed}; priors: "
            f"{self.priors.describe()}"
        )
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
    draws: int = 4000,
    seed: int | None = None,
    lkj: float = 1.0,
) -> ClusteredBayesFit:
    """Draw from the posterior of a model with several scale terms.

    β is integrated out; the coefficients of ln τ² and the correlations are drawn by adaptive
    importance sampling.

    Parameters
    ----------
    design : ClusteredDesign
    prior : Priors, optional
        Default: those of the design's specification. Each scale term has them anew; a prior of one
        term is named ``"district: year"``.
    draws : int, default 4000
    seed : int, optional
        The same seed gives the same draws. Without one, a seed is drawn and kept in the fit.
    lkj : float, default 1
        Concentration of the LKJ prior of correlations; 1 is uniform over correlation matrices.

    Returns
    -------
    ClusteredBayesFit

    Raises
    ------
    PriorError
        When a prior names a term that the model does not have.
    FitError
        When β cannot be integrated out, or a setting is out of range.

    Warns
    -----
    ConvergenceWarning
        When the importance weights say that the draws cannot be trusted.

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
    if draws < 100:
        raise FitError(f"draws must be a whole number of at least 100, got {draws!r}")
    if not lkj > 0:
        raise FitError(f"lkj must be > 0, got {lkj!r}")
    prior = prior or design.specification.priors
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    resolved = resolve_terms(design, prior, lkj=lkj)
    beta, alphas, importance = sample_clustered(design, resolved, draws=draws, seed=seed)
    terms, first = {}, 0
    for term in design.terms:
        q, s = len(term.names), len(term.effects)
        kappas = count(s, term.correlation)
        alpha, kappa = alphas[:, first : first + q], alphas[:, first + q : first + q + kappas]
        terms[term.name] = TermDraws(term, alpha, correlation_matrices(kappa, s, term.correlation))
        first += q + kappas
    problems = tuple(weight_problems(importance))
    if problems:
        warnings.warn("; ".join(problems), ConvergenceWarning, stacklevel=2)
    return ClusteredBayesFit(design, prior, beta, terms, importance, seed, problems)
