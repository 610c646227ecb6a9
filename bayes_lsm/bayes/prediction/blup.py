"""The rows' own true effects θ_i = x_i'β + Σ_l a_i'u_l: exact, given the draws.

Where effects are independent, with λ_i = τ_i²/(τ_i² + v_i), and given the coefficients and the
data,

    θ_i = x_i'β + u_i,    u_i ~ Normal( λ_i (y_i − x_i'β),  λ_i v_i );

for other models see `conditional_effects`. So the posterior of each is a mixture of normals over
the draws. Means and SDs average those of its components (Rao–Blackwell), and equal-tailed intervals
solve its distribution function.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.draws import row_blocks
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.bayes.prediction.group_effects import SUMMARIES, summarise_mixtures
from bayes_lsm.bayes.prediction.prediction_points import points_of
from bayes_lsm.bayes.summaries.intervals import Interval, check_interval, how
from bayes_lsm.links import tau2_from_log
from bayes_lsm.predictions import Blups, truth_notes
from bayes_lsm.results import model_title


def blup(fit: Posterior, *, level: float = 0.95, interval: Interval = "eti") -> Blups:
    """Each row's own true effect θ_i = x_i'β + u_i, its observed one less the sampling error.

    u_i is what the row has of the effects of its groups; they are in `group_effects`.

    Parameters
    ----------
    fit : BayesFit
    level : float, default 0.95
        Of the intervals.
    interval : {"eti", "hdi"}, default "eti"
        Equal-tailed, or of highest density.

    Returns
    -------
    Blups
        One row a row of the data: estimate (posterior mean), sd, pi_lb, pi_ub (of θ_i, in units of
        y), u, u_sd, u_pi_lb, u_pi_ub, and weight, the posterior mean of τ_i²/(τ_i² + v_i). Unlike
        those of `RemlFit` they hold the uncertainty of τ². Individual data have no sampling errors,
        so that θ_i = y_i.

    Raises
    ------
    FitError
        For a level outside (0, 1) or an unknown interval.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg"), priors="slides"
    ... ).fit_bayes(draws=40_000, seed=1)
    >>> [round(value, 1) for value in blup(fit).table["estimate"].iloc[:3]]
    [-1.0, -1.4, -1.0]

    References
    ----------
    Raudenbush, S. W., & Bryk, A. S. (1985). Empirical Bayes meta-analysis. Journal of Educational
    Statistics, 10(2), 75-98. doi:10.3102/10769986010002075
    """
    check_interval(level, interval)
    design = fit.design
    effects = ConditionalEffects(design, fit.draws)
    loadings = effects.loadings({term.name: term.index for term in design.terms})
    parts = []
    for some in row_blocks(len(design.y), fit.draws.size):
        u, variance = effects.combine(loadings[some])
        mean = design.X[some] @ fit.draws.flat_location.T
        found = [summarise_mixtures(each, variance, level, interval) for each in (mean + u, u)]
        parts.append(np.hstack(found))
    columns = [*SUMMARIES, "u", *(f"u_{name}" for name in SUMMARIES[1:])]
    index = pd.Index(design.labels, name="study")
    table = pd.DataFrame(np.concatenate(parts), index, columns)
    table["weight"] = _weights(fit, effects)
    title = f"True effects in a {model_title(design, how(fit.label, level, interval))}"
    return Blups(title, table, truth_notes(design, fit.notes), level, interval)


def _weights(fit: Posterior, effects: ConditionalEffects) -> Array:
    """Posterior means of τ_i²/(τ_i² + v_i), shape (n,)."""
    rows = np.arange(len(fit.design.y))
    points = points_of(fit, None, terms=list(fit.terms), known=())
    found = np.empty(len(rows))
    for some in row_blocks(len(rows), fit.draws.size):
        log_tau2 = points.take(some).log_variances(fit.terms)[1]
        tau2 = tau2_from_log(log_tau2) / effects.family.given_weights(rows[some], None)
        found[some] = np.mean(tau2 / (tau2 + fit.design.v[some, None]), axis=1)
    return found
