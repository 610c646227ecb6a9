"""Bias, error and interval coverage of Bayesian estimates where the true coefficients are known.

Calibration averages over the prior, where a Bayesian is right by construction. Held at one truth,
the same posteriors have the properties that a frequentist asks about: they are pulled towards the
prior, and their intervals hold the truth more or less often than they say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from bayes_lsm.bayes.coordinates import coordinates
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.term_draws import join_terms, terms_of
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_count, seed_or_new
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.blocks.correlation_matrices import kappas_of
from bayes_lsm.priors import Priors


@dataclass(frozen=True, eq=False)
class Coverage(Replications):
    """How posteriors fare on effects of stated coefficients; its fields: see `Replications`."""

    def to_dataframe(self) -> pd.DataFrame:
        """One row a coefficient.

        Columns truth, bias of the posterior mean with its Monte Carlo error bias_se, bias_median
        of the posterior median, rmse of the mean, sd (the average posterior SD), and cover50,
        cover80, cover95: the share of equal-tailed intervals that hold the truth.
        """
        refits = self.refits
        error = refits.mean - refits.truth
        table = pd.DataFrame(
            {
                "truth": refits.truth[0],
                "bias": error.mean(axis=0),
                "bias_se": error.std(axis=0, ddof=1) / np.sqrt(len(error)),
                "bias_median": (refits.median - refits.truth).mean(axis=0),
                "rmse": np.sqrt(np.mean(error**2, axis=0)),
                "sd": refits.sd.mean(axis=0),
                **refits.shares_covered,
            }
        )
        return table.set_index(pd.MultiIndex.from_tuples(refits.names, names=["part", "term"]))

    @property
    def title(self) -> str:
        """Engine, number of studies and of simulations."""
        return (
            f"Coverage and Bias ({self.design.size}; {self.engine}; "
            f"{len(self.refits.truth)} simulations)"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""
        return (
            "effects are simulated from the true coefficients, with the moderators and sampling "
            f"variances of the design; {self.refits.share_errors}",
            *self._made,
        )


def coverage(
    design: Design,
    prior: Priors | None = None,
    *,
    location: Mapping[str, float],
    scale: Mapping[str, float],
    correlation: Mapping[str, float] | None = None,
    df: float | None = None,
    simulations: int = 1000,
    engine: Literal["collapsed", "nuts"] | Sampler = "collapsed",
    draws: int = 1000,
    seed: int | None = None,
    progress: bool = True,
) -> Coverage:
    """Bias of posterior means and coverage of posterior intervals at stated coefficients.

    Parameters
    ----------
    design, prior
        As in `calibrate`.
    location, scale : mapping of term name to float
        The true value of every coefficient; the scale part on ln τ², with several scale terms as
        ``{"district: intrcpt": -3, …}``.
    correlation : mapping of pair name to float, optional
        The true correlation of every pair of effects, where a scale term has them:
        ``{"outcome | trial: AL, PD": 0.5}``.
    df : float, optional
        The true ν of Student-t study effects, which need one, and normal ones have none.
    simulations, engine, draws, seed, progress
        As in `calibrate`.

    Raises
    ------
    FitError
        When a true coefficient or ν is missing, unknown or not finite, and for settings out of
        range.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel.from_file("preterm_random_effects")
    >>> found = lsm.coverage(model.design, location={"intrcpt": 11}, scale={"intrcpt": 2},
    ...                  simulations=20, draws=200, seed=1, progress=False)
    >>> bool(found.to_dataframe()["cover95"].min() > 0.8)
    True

    References
    ----------
    Morris, T. P., White, I. R., & Crowther, M. J. (2019). Using simulation studies to evaluate
    statistical methods. Statistics in Medicine, 38(11), 2074-2102. doi:10.1002/sim.8086
    """
    require_capable("coverage", design)
    require_count("simulations", simulations, least=20)
    prior = prior or design.specification.priors
    seed = seed_or_new(seed)
    true = _repeat_truth(
        design,
        location=_true(design, "location_term", location),
        scale=_true(design, "scale_term", scale),
        correlation=_true(design, "pair", correlation or {}),
        df=_true_df(design, df),
        size=simulations,
    )
    refits = refit(
        design,
        true,
        make_sampler(design, prior, engine=cast("str | Sampler", engine), draws=draws),
        largest_rank=min(100, draws),
        rng=np.random.default_rng(seed),
        progress=progress,
    )
    return Coverage(design, prior, refits, name_of(engine), seed)


_WORDS = {
    "location_term": "location coefficients",
    "scale_term": "scale coefficients",
    "pair": "correlations",
}


def _true(design: Design, dim: str, given: Mapping[str, float]) -> Array:
    """The true values of what is named along a dimension of `coordinates`."""
    what, names = _WORDS[dim], coordinates(design).get(dim, [])
    if set(given) != set(names):
        wanted = f"must be given for {', '.join(map(repr, names))}" if names else "have no place"
        raise FitError(f"the true {what} {wanted}; got {', '.join(map(repr, given)) or 'none'}")
    values = np.array([given[name] for name in names], dtype=float)
    if not np.isfinite(values).all():
        raise FitError(f"the true {what} must be finite, got {dict(given)}")
    return values


def _true_df(design: Design, df: float | None) -> float | None:
    """The true ν of Student-t study effects."""
    normal = design.specification.study_effects == "normal"
    if (df is None) != normal or not (df is None or 0 < df < math.inf):
        raise FitError(
            "df, the true ν, must be a finite number > 0 with Student-t study effects, and is left "
            f"out with normal ones; got {df} with "
            f"study_effects={design.specification.study_effects!r}"
        )
    return df


def _repeat_truth(
    design: Design,
    *,
    location: Array,
    scale: Array,
    correlation: Array,
    df: float | None,
    size: int,
) -> Draws:
    """One truth over and over: β (p,), α (q,) of all terms, correlations (pairs,), and ν."""
    coefficients, rest, pairs = [], scale, correlation
    for term in design.terms:
        alpha, rest = np.split(rest, [len(term.names)])
        own, pairs = np.split(pairs, [len(term.pairs)])
        coefficients += [alpha, _kappas(term, own)]
    terms = terms_of(design, np.concatenate(coefficients)[None])
    one = replace(
        join_terms(location[None], terms), df=None if df is None else np.full((1, 1), float(df))
    )
    return one.take(np.zeros(size, dtype=np.intp))


def _kappas(term: ScaleTerm, correlation: Array) -> Array:
    """The κ of the true correlations of a term's effects."""
    if not term.pairs:
        return np.empty(0)
    R = np.eye(len(term.effects))
    i, j = np.tril_indices(len(R), -1)
    R[i, j] = R[j, i] = correlation
    _check_correlations(term, R, correlation)
    return np.asarray(kappas_of(R[None], term.correlation)[0])


def _check_correlations(term: ScaleTerm, R: Array, own: Array) -> None:
    if term.correlation == "compound_symmetric" and np.ptp(own) > 0:
        raise FitError(
            f"the correlations of {term.name!r} are all alike (compound_symmetric); got "
            f"{', '.join(f'{each:g}' for each in own)}"
        )
    smallest = float(np.linalg.eigvalsh(R)[0])
    if not smallest > 0:
        raise FitError(
            f"the true correlations of {term.name!r} are not those of a positive definite matrix "
            f"(its smallest eigenvalue is {smallest:.3g})"
        )
