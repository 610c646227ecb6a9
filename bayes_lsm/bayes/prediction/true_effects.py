"""Draws of the rows' own true effects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.choices import seed_or
from bayes_lsm.design.chosen_terms import chosen_terms


def true_effects(
    fit: Posterior, *, terms: Sequence[str] | None = None, seed: int | None = None
) -> Array:
    """Draws of the rows' true effects: one for each draw of the coefficients.

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
    ndarray, shape (chains, draws, n)
        θ_i = x_i'β + Σ_l a_i'u_l. 8 · draws · n bytes. Rows of one group share its effect, draw
        by draw.

    Raises
    ------
    FitError
        For an unknown scale term.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)
    >>> true_effects(fit, terms=["district"]).shape
    (4, 1000, 56)
    """
    chosen = chosen_terms(fit.design, terms)
    rng = np.random.default_rng(seed_or(fit.seed, seed))
    drawn = ConditionalEffects(fit.design, fit.draws).draw_rows(frozenset(chosen), rng)
    drawn += fit.draws.flat_location @ fit.design.X.T
    return drawn.reshape(fit.draws.chains, -1, len(fit.design.y))
