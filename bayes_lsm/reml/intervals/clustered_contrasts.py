"""Linear functions of the scale coefficients of several scale terms, for `bayes_lsm.contrasts`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bayes_lsm.choices import require_choice
from bayes_lsm.contrasts import ContrastInterval, Measure, ScaleFunctions
from bayes_lsm.design.coefficients import scale_places
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.intervals.contrasts import wald_functions
from bayes_lsm.reml.prediction.linear_scale import Reference, check_level

Array = npt.NDArray[np.float64]


def clustered_functions(
    fit: Estimates,
    rows: Array,
    labels: Sequence[str],
    *,
    measure: Measure,
    method: ContrastInterval | None,
    level: float,
    compared: bool,
) -> ScaleFunctions:
    """What `scale_functions` does, with rows (m, q) of all coefficients.

    Raises
    ------
    FitError
        For a method other than "delta", and a level outside (0, 1).
    """
    check_level(level)
    require_choice("measure", measure, Measure)
    require_choice(
        "with several scale terms method",
        "delta" if method is None else method,
        ("delta",),
        cure="profiles of single coefficients are profile(term)",
    )
    found = scale_values(fit, np.asarray(rows, dtype=float))
    return wald_functions(
        found, Reference(None), labels, measure=measure, level=level, compared=compared
    )


def scale_values(fit: Estimates, rows: Array) -> tuple[Array, Array]:
    """l'α for each row l (m, q) and its standard error, also where coefficients diverge."""
    coordinates, added, first = np.zeros_like(rows), np.zeros(len(rows)), 0
    for each in fit.terms.values():
        here = slice(first, first + len(each.alpha))
        coordinates[:, here], more = each.read(rows[:, here])
        with np.errstate(invalid="ignore"):  # −inf of one term and inf of another are undefined
            added = added + more
        first = here.stop
    places = scale_places(fit.design)
    V = fit.limit_vcov[np.ix_(places, places)]
    unknown = np.isnan(np.diag(V))
    variance = np.einsum("ij,jk,ik->i", coordinates, np.nan_to_num(V), coordinates)
    se = np.sqrt(np.maximum(variance, 0.0))
    se[(coordinates[:, unknown] != 0).any(axis=1) | ~np.isfinite(added)] = np.nan
    return coordinates @ np.nan_to_num(fit.limit_alpha) + added, se
