"""Test quantities of effects, observed or replicated, for posterior predictive checks.

Each is computed of many sets of effects at once. Some are of the effects alone, others also of the
coefficients under which they were drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bayes_lsm.bayes.draws import Array
from bayes_lsm.errors import FitError

_SIGNIFICANT = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Replicate:
    """Effects, observed or drawn, under several draws of the coefficients.

    Attributes
    ----------
    y : ndarray, shape (draws, k)
    residual : ndarray, shape (draws, k)
        y − x'β.
    z : ndarray, shape (draws, k)
        Residuals so standardised that they are independent and standard normal under the model.
    """

    y: Array
    residual: Array
    z: Array


Quantity = Callable[[Replicate], Array]


def of_effects(v: Array) -> dict[str, Quantity]:
    """The share of significant effects and the extremes; v (k,) are the sampling variances."""
    share: dict[str, Quantity] = {}
    if (v > 0).all():
        share["share significant"] = lambda r: np.mean(
            np.abs(r.y) > _SIGNIFICANT * np.sqrt(v), axis=1
        )
    return {
        **share,
        "smallest effect": lambda r: r.y.min(axis=1),
        "largest effect": lambda r: r.y.max(axis=1),
    }


def of_scores(v: Array) -> dict[str, Quantity]:
    """The tails and the skewness of z, and small studies."""
    found: dict[str, Quantity] = {
        "largest |z|": lambda r: np.abs(r.z).max(axis=1),
        "skewness of z": lambda r: np.mean(standardised(r.z) ** 3, axis=1),
    }
    if np.ptp(v) > 0:
        found["cor(z, standard error)"] = lambda r: correlate(r.z, np.sqrt(v))
    return found


def of_dispersion(columns: Mapping[str, Array]) -> dict[str, Quantity]:
    """The correlation of |z| with each moderator (k,) that is not constant."""

    def with_column(column: Array) -> Quantity:
        return lambda r: correlate(np.abs(r.z), column)

    return {
        f"cor(|z|, {name})": with_column(column)
        for name, column in columns.items()
        if np.ptp(column) > 0
    }


def cochran(scale: Callable[[Array], Array], X: Array) -> Quantity:
    """Σ (y − Xb)²/v, or (y − Xb)'V⁻¹(y − Xb), with b by weights V⁻¹.

    Parameters
    ----------
    scale : function
        From rows (m, k) of any numbers to the same with sampling errors of variance 1, independent.
    X : ndarray, shape (k, p)
    """
    basis, _ = np.linalg.qr(scale(X.T).T)

    def of_all(r: Replicate) -> Array:
        scaled = scale(r.y)
        return np.asarray(np.sum(scaled**2, axis=1) - np.sum((scaled @ basis) ** 2, axis=1))

    return of_all


def your_own(name: str, quantity: Callable[[Array], float]) -> Quantity:
    """A quantity of single sets of effects, for many.

    Raises
    ------
    FitError
        When it gives no finite number.
    """

    def of_all(r: Replicate) -> Array:
        values = np.array([quantity(each) for each in r.y], dtype=float)
        if values.shape != (len(r.y),) or not np.isfinite(values).all():
            raise FitError(
                f"the quantity {name!r} must give one finite number for effects of shape "
                f"({r.y.shape[1]},)"
            )
        return values

    return of_all


def correlate(rows: Array, column: Array) -> Array:
    """The correlation of each row (m, k) with a column (k,)."""
    return np.asarray(standardised(rows) @ standardised(column) / len(column))


def standardised(values: Array) -> Array:
    """Each row to mean 0 and SD 1; a row without variation to 0."""
    centred = values - values.mean(axis=-1, keepdims=True)
    sd = np.sqrt(np.mean(centred**2, axis=-1, keepdims=True))
    return np.asarray(np.divide(centred, sd, out=np.zeros_like(centred), where=sd > 0))
