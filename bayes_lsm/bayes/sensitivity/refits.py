"""The posterior of one model under other priors: the refits behind `sensitivity`.

What a model is, a `Subject` says. A refit costs some hundredths of a second where β can be
integrated out, so that nothing is approximated: each prior gets draws of its own, all from the same
random numbers. Where it cannot, the draws that there are get weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import row_blocks
from bayes_lsm.bayes.engines.diagnostics import LARGEST_PARETO_K, SMALLEST_ESS, dominated
from bayes_lsm.bayes.engines.pareto import relative_efficiency, smooth_weights
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.sensitivity.subject import BlockName, PriorCoefficient, Refitted, Subject
from bayes_lsm.links import tau2_from_log
from bayes_lsm.priors import PriorBlock, ResolvedPriors, stretch


@dataclass(frozen=True)
class PriorRefitter:
    """Fits one model under any priors."""

    subject: Subject
    draws: int
    seed: int

    @property
    def is_exact(self) -> bool:
        """Whether the model can be fitted anew some hundred times."""
        return self.subject.can_draw(self.subject.priors)

    def base(self) -> Refitted:
        """The posterior under the priors of the fit."""
        return self(self.subject.priors) if self.is_exact else self.subject.drawn()

    def __call__(self, priors: ResolvedPriors, *, near: Refitted | None = None) -> Refitted:
        """The posterior under these priors.

        Where it cannot be drawn from directly, the draws of a posterior `near` are reweighted.
        """
        if near is None or self.subject.can_draw(priors):
            return self.subject.draw(priors, draws=self.draws, seed=self.seed)
        other = replace(near, priors=priors)
        log_ratio = np.zeros(len(near.values))
        for name, log_prior in near.log_priors.items():
            if getattr(priors, name) is not getattr(near.priors, name):
                log_ratio += other.log_priors[name] - log_prior
        efficiency = relative_efficiency(near.drawn, log_ratio)
        log_weights, k = smooth_weights(log_ratio, efficiency)
        weights = np.exp(log_weights)
        problems = _weight_problems(weights, k, efficiency)
        return replace(other, problems=problems, weights=weights)

    def draws_behind(self, fit: Posterior) -> pd.Series:
        """By part and term, as `tipping_point` counts them: half of them are independent."""
        names = index_of(self.subject.coefficients)
        if self.is_exact:
            return pd.Series(self.draws, names)
        effective = fit.convergence.filter(like="ess").min(axis=1)
        return (2 * effective[names]).clip(upper=fit.draws.size)

    def sample_prior(self, priors: ResolvedPriors, size: int) -> Array:
        """Draws (size, P) of the coefficients from their priors."""
        rng = np.random.default_rng([self.seed, 1])
        location, scale = (block.sample(size, rng) for block in (priors.location, priors.scale))
        return self.subject.values(location, scale)

    def log_densities(self, found: Refitted) -> tuple[Array, Array]:
        """Log prior density of the coefficients and log likelihood, (S,) each."""
        log_prior = found.log_priors["location"] + found.log_priors["scale"]
        return log_prior, self.subject.log_likelihood(found)


def _weight_problems(weights: Array, k: float, efficiency: float) -> tuple[str, ...]:
    found = []
    if dominated(k, weights.max()):
        found.append(f"Pareto k of the weights is {k:.2f} (at most {LARGEST_PARETO_K} is good)")
    ess = efficiency / float(np.sum(weights**2))
    if not ess >= SMALLEST_ESS:
        found.append(f"the weights leave {ess:.0f} draws (at least {SMALLEST_ESS} are good)")
    return tuple(found)


def stretched(
    priors: ResolvedPriors, which: Sequence[PriorCoefficient], factor: float
) -> ResolvedPriors:
    """The same priors, those of some coefficients `factor` times as wide about their medians."""
    places: dict[BlockName, set[int]] = {"location": set(), "scale": set()}
    for each in which:
        places[each.block].update(each.own)
    return replace(
        priors,
        location=_stretch_block(priors.location, places["location"], factor),
        scale=_stretch_block(priors.scale, places["scale"], factor),
    )


def _stretch_block(block: PriorBlock, places: set[int], factor: float) -> PriorBlock:
    if not places:
        return block
    return replace(
        block,
        priors=tuple(
            stretch(prior, factor) if j in places else prior for j, prior in enumerate(block.priors)
        ),
    )


def summarise(
    found: Refitted | Array, coefficients: Sequence[PriorCoefficient], *, level: float
) -> pd.DataFrame:
    """median, ci_lb, ci_ub (equal-tailed), p_positive and trusted; one row a coefficient.

    Correlations, SDs and ν are as in the draws; see `as_shown`.
    """
    values, weights, problems = (
        (found.values, found.weights, found.problems)
        if isinstance(found, Refitted)
        else (found, None, ())
    )
    tail = (1 - level) / 2
    lower, median, upper = quantiles(values, [tail, 0.5, 1 - tail], weights)
    return pd.DataFrame(
        {
            "median": median,
            "ci_lb": lower,
            "ci_ub": upper,
            "p_positive": np.average(values > 0, axis=0, weights=weights),
            "trusted": not problems,
        },
        index=index_of(coefficients),
    )


def index_of(coefficients: Sequence[PriorCoefficient]) -> pd.MultiIndex:
    """Part and term of each coefficient."""
    names = [(each.part, each.term) for each in coefficients]
    return pd.MultiIndex.from_tuples(names, names=["part", "term"])


def as_shown(table: pd.DataFrame, coefficients: Sequence[PriorCoefficient]) -> pd.DataFrame:
    """The same table with correlations, SDs and ν themselves: quantiles go with what rises."""
    parts, terms = (table.index.get_level_values(level) for level in ("part", "term"))
    table = table.copy()
    for each in coefficients:
        if each.kind in ("correlation", "sd", "df"):
            rows = (parts == each.part) & (terms == each.term)
            for column in ("median", "ci_lb", "ci_ub"):
                table.loc[rows, column] = each.shown(table.loc[rows, column].to_numpy())
            if each.kind != "correlation":
                table.loc[rows, "p_positive"] = 1.0
    return table


def is_part(name: str, asked: str) -> bool:
    """Whether a part is that which is asked for: ``"scale"`` are those of all scale terms."""
    return name == asked or name.startswith(f"{asked} (")


def quantiles(values: Array, probabilities: Sequence[float], weights: Array | None) -> Array:
    """Of each column of draws (S, P), a row for each probability."""
    if weights is None:
        return np.quantile(values, probabilities, axis=0)
    found = np.quantile(values, probabilities, axis=0, weights=weights, method="inverted_cdf")
    return np.asarray(found)


def overlap(first: Array, second: Array, *, bins: int = 60) -> float:
    """The area that two densities share, from draws of both: 1 for the same, 0 for none.

    Counted in bins that hold equal shares of all draws together.
    """
    edges = np.quantile(np.concatenate([first, second]), np.linspace(0, 1, bins + 1)[1:-1])
    counts = [
        np.bincount(np.searchsorted(edges, each), minlength=bins) / len(each)
        for each in (first, second)
    ]
    return float(np.minimum(*counts).sum())


def width(table: pd.DataFrame) -> pd.Series:
    """Lengths of the intervals of a `summarise` table."""
    return table["ci_ub"] - table["ci_lb"]


def tau_under_priors(
    subject: Subject, found: Mapping[str, Refitted], *, level: float, draws: int, seed: int
) -> pd.DataFrame:
    """τ of each study or variance under each of these priors, and after the data.

    Indexed by prior and by whose τ it is: prior_median, prior_ci_lb, prior_ci_ub, median, ci_lb
    and ci_ub.
    """
    rng = np.random.default_rng(seed)
    labels, rows = subject.tau_rows()
    tables = {}
    for name, each in found.items():
        prior = each.priors.scale.sample(draws, rng)
        before = _tau_quantiles(labels, rows, prior, None, level).add_prefix("prior_")
        after = _tau_quantiles(labels, rows, each.scale, each.weights, level)
        tables[name] = pd.concat([before, after], axis=1)  # names of studies may repeat
    return pd.concat(tables, names=["prior", labels.name])


def _tau_quantiles(
    labels: pd.Index, rows: Array, alphas: Array, weights: Array | None, level: float
) -> pd.DataFrame:
    probabilities = [0.5, (1 - level) / 2, (1 + level) / 2]
    found = [
        quantiles(alphas @ rows[block].T, probabilities, weights)
        for block in row_blocks(len(rows), len(alphas))
    ]
    # τ rises with ln τ², so that its quantiles are those of ln τ², taken to τ.
    tau = np.sqrt(tau2_from_log(np.concatenate(found, axis=1).T))
    return pd.DataFrame(tau, labels, ["median", "ci_lb", "ci_ub"])
