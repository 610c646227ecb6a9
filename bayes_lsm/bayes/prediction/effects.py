r"""The studies' own true effects θ_i = x_i'β + u_i: exact, given the draws.

With λ_i = τ_i²/(τ_i² + v_i), and given the coefficients and the data,

    θ_i = x_i'β + u_i,    u_i ~ Normal( λ_i (y_i − x_i'β),  λ_i v_i )

so the posterior of each is a mixture of normals over the draws. Means and SDs average those of its
components (Rao–Blackwell), and equal-tailed intervals solve its distribution function. With
Student-t study effects all this holds with τ_i²/w_i in place of τ_i², where w_i is the study's
weight in the t (`weights`): for each draw one w_i is drawn from what the data say of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import expit

from bayes_lsm.bayes.draws import Array, row_blocks
from bayes_lsm.bayes.prediction.prediction import asks_for_levels, how
from bayes_lsm.bayes.student.effects import draw_weights
from bayes_lsm.bayes.summaries.intervals import Interval, check_interval, mixture_bounds
from bayes_lsm.results import ResultTable, model_title

if TYPE_CHECKING:
    from bayes_lsm.bayes.posterior import Posterior
    from bayes_lsm.bayes.prediction.clustered_effects import LevelEffects


@dataclass(frozen=True, eq=False)
class Blups(ResultTable):
    """Each study's own true effect: see `blup`.

    Attributes
    ----------
    table : DataFrame
        One row a study.
    level : float
        Of the intervals.
    interval : {"eti", "hdi"}
    """

    interval: Interval = "eti"


@dataclass(frozen=True, eq=False)
class Conditionals:
    """Some studies' true effects given each draw of the coefficients.

    Attributes
    ----------
    mean : ndarray, shape (m, S)
        x'β.
    u : ndarray, shape (m, S)
        The mean of θ − x'β.
    weight : ndarray, shape (m, S)
        λ, the weight of y against x'β.
    sd : ndarray, shape (m, S)
        Of θ and of u.
    """

    mean: Array
    u: Array
    weight: Array
    sd: Array


def conditionals(
    fit: Posterior, studies: slice, rng: np.random.Generator | None = None
) -> Conditionals:
    """The normal distributions of some studies' true effects, one for each draw.

    Of Student-t study effects the weights are drawn with `rng`; without it, always the same ones.
    """
    design, draws = fit.design, fit.draws
    y, v = design.y[studies, None], design.v[studies, None]
    mean = design.X[studies] @ draws.flat_location.T
    log_tau2 = design.Z[studies] @ draws.flat_scale.T
    if draws.df is not None:
        log_tau2 = log_tau2 - np.log(draw_weights(design, draws, studies, rng))
    # τ²/(τ² + v) without overflow.
    weight = expit(log_tau2 - np.log(v))
    return Conditionals(mean, weight * (y - mean), weight, np.sqrt(weight * v))


def blup(
    fit: Posterior, *, level: float = 0.95, interval: Interval = "eti"
) -> Blups | LevelEffects:
    """Each study's own true effect θ_i = x_i'β + u_i, shrunken towards the mean of its moderators.

    Parameters
    ----------
    fit : BayesFit
    level : float, default 0.95
        Of the intervals.
    interval : {"eti", "hdi"}, default "eti"
        Equal-tailed, or of highest density.

    Returns
    -------
    Blups, or of dependent effects LevelEffects
        One row a study: estimate (posterior mean), sd, pi_lb, pi_ub (of θ_i, in units of y), u,
        u_sd, u_pi_lb, u_pi_ub, and weight, the posterior mean of λ_i. Unlike those of `RemlFit`
        they hold the uncertainty of τ².

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
    if not fit.design.is_independent:
        from bayes_lsm.bayes.prediction.clustered_effects import level_effects

        return level_effects(fit, level=level, interval=interval)
    check_interval(level, interval)
    design = fit.design
    blocks = row_blocks(design.n_studies, len(fit.draws.flat_scale))
    table = pd.concat([_summaries(conditionals(fit, block), level, interval) for block in blocks])
    table = table.set_index(pd.Index(design.labels, name="study"))
    title = f"True effects in a {model_title(design, how(fit, level, interval))}"
    return Blups(title, table, fit.notes, level, interval)


def _summaries(given: Conditionals, level: float, interval: Interval) -> pd.DataFrame:
    columns = {}
    within = np.mean(given.sd**2, axis=1)
    for name, centre in (("", given.mean + given.u), ("u", given.u)):
        prefix = f"{name}_" if name else ""
        columns[name or "estimate"] = centre.mean(axis=1)
        columns[f"{prefix}sd"] = np.sqrt(within + centre.var(axis=1))
        columns[f"{prefix}pi_lb"], columns[f"{prefix}pi_ub"] = mixture_bounds(
            centre, given.sd, level=level, interval=interval
        )
    return pd.DataFrame({**columns, "weight": given.weight.mean(axis=1)})


def true_effects(
    fit: Posterior, *, terms: Sequence[str] | None = None, seed: int | None = None
) -> Array:
    """Draws of the studies' true effects: one for each draw of the coefficients.

    Parameters
    ----------
    fit : BayesFit
    terms : sequence of str, optional
        The scale terms whose effects are in it, by their groupings; by default all but the residual
        of individual data. ``["district"]`` gives the mean of each row's district.
    seed : int, optional
        By default that of the fit.

    Returns
    -------
    ndarray, shape (chains, draws, k)
        8 · draws · k bytes.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("bcg").fit_bayes(seed=1)
    >>> true_effects(fit).shape
    (4, 1000, 13)
    """
    if asks_for_levels(fit, terms, ()):
        from bayes_lsm.bayes.prediction import clustered_effects

        return clustered_effects.true_effects(fit, terms=terms, seed=seed)
    rng = np.random.default_rng(fit.seed if seed is None else seed)
    k, size = fit.design.n_studies, len(fit.draws.flat_scale)
    drawn = np.empty((size, k))
    for block in row_blocks(k, size):
        given = conditionals(fit, block, rng)
        drawn[:, block] = rng.normal(given.mean + given.u, given.sd).T
    return drawn.reshape(*fit.draws.scale.shape[:2], k)
