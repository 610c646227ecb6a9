"""Test quantities of effects, observed or replicated, for posterior predictive checks.

Each is computed of many sets of effects at once. Some are of the effects alone, others also of the
coefficients under which they were drawn. What is asked of a scale term hangs on its groups: of
single rows whether |z| changes with its moderators, of larger ones whether their means, or slopes,
spread as they should.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from bayes_lsm.arrays import Array
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import FitError

_SIGNIFICANT = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Replicate:
    """Effects y, observed or drawn, under several draws of the coefficients: arrays (draws, k).

    `residual` is y − x'β, `z` residuals so standardised that they are independent and standard
    normal under the model.
    """

    y: Array
    residual: Array
    z: Array


Quantity = Callable[[Replicate], Array]


def quantities_of(design: Design) -> dict[str, Quantity]:
    """The ready ones of a model, by their names."""
    columns = dict(zip(design.location.names, design.X.T, strict=True))
    levels: dict[str, Quantity] = {}
    for term in design.terms:
        if not term.is_of_rows:
            levels |= _of_level(term)
            continue
        for name, column in zip(term.names, term.Z[term.index, 0].T, strict=True):
            if not any(np.array_equal(column, each) for each in columns.values()):
                columns[name] = column
    return {
        **_of_effects(design),
        **_of_scores(design.v),
        **_of_dispersion(columns),
        **levels,
    }


def _of_effects(design: Design) -> dict[str, Quantity]:
    """Q and the share of significant effects, where sampling variances are known; the extremes."""
    v, known = design.v, {}
    if (v > 0).all():
        known = {
            "Q": _cochran(design),
            "share significant": lambda r: np.mean(np.abs(r.y) > _SIGNIFICANT * np.sqrt(v), axis=1),
        }
    return {
        **known,
        "smallest effect": lambda r: r.y.min(axis=1),
        "largest effect": lambda r: r.y.max(axis=1),
    }


def _of_scores(v: Array) -> dict[str, Quantity]:
    """The tails and the skewness of z, and small studies."""
    found: dict[str, Quantity] = {
        "largest |z|": lambda r: np.abs(r.z).max(axis=1),
        "skewness of z": lambda r: np.mean(standardised(r.z) ** 3, axis=1),
    }
    if np.ptp(v) > 0:
        found["cor(z, standard error)"] = lambda r: correlate(r.z, np.sqrt(v))
    return found


def _of_dispersion(columns: Mapping[str, Array]) -> dict[str, Quantity]:
    """The correlation of |z| with each moderator (k,) that is not constant."""

    def with_column(column: Array) -> Quantity:
        return lambda r: correlate(np.abs(r.z), column)

    return {
        f"cor(|z|, {name})": with_column(column)
        for name, column in columns.items()
        if np.ptp(column) > 0
    }


def _cochran(design: Design) -> Quantity:
    """Σ (y − Xb)²/v, or (y − Xb)'V⁻¹(y − Xb), with b by weights V⁻¹."""
    blocks = [
        (block.rows, np.linalg.inv(np.linalg.cholesky(block.covariance))) for block in design.blocks
    ]

    def scale(rows: Array) -> Array:
        """With sampling errors that are independent and of variance 1."""
        found = rows / np.sqrt(design.v)
        for here, root in blocks:
            found[:, here] = rows[:, here] @ root.T
        return np.asarray(found)

    basis, _ = np.linalg.qr(scale(design.X.T).T)

    def of_all(r: Replicate) -> Array:
        scaled = scale(r.y)
        return np.asarray(np.sum(scaled**2, axis=1) - np.sum((scaled @ basis) ** 2, axis=1))

    return of_all


def _of_level(term: ScaleTerm) -> dict[str, Quantity]:
    """Of each effect of its groups, by least squares: their SD, and how it hangs on moderators."""
    found: dict[str, Quantity] = {}
    for k, effect in enumerate(term.effects):
        groups = np.flatnonzero(term.used[:, k])
        if len(groups) < 2:
            continue
        slope = term.grouping.slope is not None
        label = f"{term.name}: {effect}" if len(term.effects) > 1 else term.name
        own = _estimates(term, k, groups)
        for j, other in enumerate(term.effects[:k]):
            both = np.flatnonzero(term.used[:, j] & term.used[:, k])
            if len(both) > 2:
                pair = _estimates(term, j, both), _estimates(term, k, both)
                found[f"cor of effects ({term.name}: {other}, {effect})"] = _together(*pair)
        found[f"SD of {'slopes' if slope else 'means'} ({label})"] = _spread(own)
        for name, column in zip(term.names, term.Z[groups, k].T, strict=True):
            if np.ptp(column) > 0:
                what = "slope" if slope else "mean"
                found[f"cor(|{what}|, {label}: {name})"] = _size_along(own, column)
    return found


def _estimates(term: ScaleTerm, k: int, groups: npt.NDArray[np.intp]) -> sparse.csr_array:
    """Weights (groups, n) of the rows in the least-squares effect k of each of the groups."""
    slopes = term.slopes[:, k]
    row = np.flatnonzero(slopes)
    size = np.bincount(term.index, slopes**2, minlength=len(term.groups))
    weights = slopes[row] / size[term.index[row]]
    shape = (len(term.groups), len(slopes))
    return sparse.csr_array((weights, (term.index[row], row)), shape=shape)[groups]


def _spread(own: sparse.csr_array) -> Quantity:
    return lambda r: np.std(own @ r.residual.T, axis=0, ddof=1)


def _size_along(own: sparse.csr_array, column: Array) -> Quantity:
    return lambda r: correlate(np.abs(own @ r.residual.T).T, column)


def _together(one: sparse.csr_array, other: sparse.csr_array) -> Quantity:
    return lambda r: np.mean(
        standardised((one @ r.residual.T).T) * standardised((other @ r.residual.T).T), axis=1
    )


def your_own(name: str, quantity: Callable[[Array], float]) -> Quantity:
    """A quantity of single sets of effects, for many; a FitError when it gives no finite number."""

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
