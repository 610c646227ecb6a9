"""Linear functions l'α of the scale coefficients: ln τ² somewhere, or the logarithm of a ratio.

`scale_values` gives them an estimate and a standard error in any model, also where coefficients
diverge or the data say nothing of them: each term knows which of its l'α stay finite at a limit,
and where the others go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bayes_lsm.arrays import Array
from bayes_lsm.design.coefficients import scale_places
from bayes_lsm.reml.estimates import Estimates


@dataclass(frozen=True, eq=False)
class ScaleValues:
    """Linear functions l'α of the scale coefficients: an estimate (m,) and its standard error.

    The estimate is ±inf where it diverges, and nan where a divergence pulls it both ways or,
    `blind`, the data say nothing of it; the standard error is nan where there is none.
    `coordinates` (m, q) are those l as what multiplies `Estimates.limit_alpha`, 0 where the value
    is not finite, and `covariance` is of that; 0 for what is fixed, or that no coordinates need.
    """

    estimate: Array
    se: Array
    coordinates: Array
    covariance: Array
    blind: npt.NDArray[np.bool_]


def scale_values(fit: Estimates, rows: Array) -> ScaleValues:
    """l'α and its standard error for each row l of `rows` (m, q), on all scale coefficients.

    Where coefficients diverge, l'α stays finite for those l that depend on the effects with τ² > 0
    alone; their Hessian at the limit gives the standard error. Other l'α go to −inf, to +inf, or
    both ways, as all the directions in which the coefficients can diverge say or do not say.
    Coefficients that were fixed have no uncertainty; those that a bound holds have none that is
    known.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ 1", scale="~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_reml()
    >>> found = scale_values(fit, np.eye(2))
    >>> bool((found.se == fit.scale["se"]).all())
    True
    """
    rows = np.asarray(rows, dtype=float)
    coordinates, added = np.zeros_like(rows), np.zeros(len(rows))
    blind = np.zeros(len(rows), dtype=bool)
    for each, here in zip(fit.terms.values(), fit.design.columns, strict=True):
        coordinates[:, here], more = each.read(rows[:, here])
        blind |= each.is_blind_at(coordinates[:, here])
        with np.errstate(invalid="ignore"):  # −inf of one term and inf of another are undefined
            added = added + more
    places = scale_places(fit.design)
    covariance = fit.limit_vcov[np.ix_(places, places)]
    certain = np.array([name in fit.fixed for name in fit.scale_names])
    covariance[certain, :] = covariance[:, certain] = 0.0
    unknown = np.isnan(np.diag(covariance))
    covariance = np.nan_to_num(covariance)
    variance = np.einsum("ij,jk,ik->i", coordinates, covariance, coordinates)
    se = np.sqrt(np.maximum(variance, 0.0))
    se[(coordinates[:, unknown] != 0).any(axis=1) | ~np.isfinite(added)] = np.nan
    estimate = coordinates @ np.nan_to_num(fit.limit_alpha) + added
    return ScaleValues(estimate, se, coordinates, covariance, blind)
