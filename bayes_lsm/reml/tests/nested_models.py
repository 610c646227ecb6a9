"""Whether one model is a special case of another, so that their likelihoods can be compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bayes_lsm.arrays import Array
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.reml.estimates import Estimates

_FREER = ("none", "compound_symmetric", "unstructured")


def require_nested(full: Estimates, reduced: Estimates) -> None:
    """Refuse two fits whose likelihoods cannot be compared.

    That is for other methods, other effects or sampling errors, under REML another location part,
    and where the reduced model is no special case of the full one.
    """
    if full.method != reduced.method:
        raise FitError(f"cannot compare {full.method} with {reduced.method}; refit by one method")
    if not _same_effects(full.design, reduced.design):
        raise FitError(
            f"the fits are of different rows ({full.design.size} and {reduced.design.size}), or of "
            "other sampling variances; drop rows with missing moderators first"
        )
    if full.method == "REML" and not _same_location(full.design, reduced.design):
        raise FitError(
            "REML likelihoods of different location parts cannot be compared; use method='ML'"
        )
    if full.n_parameters <= reduced.n_parameters or not is_nested(reduced, full):
        raise FitError(
            "the reduced model must be a special case of the full one, with fewer coefficients; "
            "give them in the order (full, reduced) and check that the models are nested"
        )


def is_nested(reduced: Estimates, full: Estimates) -> bool:
    """Whether the location part and every scale term of `reduced` lie within those of `full`."""
    if not _inside(reduced.design.X, full.design.X):
        return False
    terms = _terms(reduced)
    # One τ² for all studies is the same model under either link.
    links = reduced.design.specification.link, full.design.specification.link
    simple = len(terms) == 1 and np.ptp(terms[0].Z, axis=0).max(initial=0.0) == 0
    return (links[0] == links[1] or simple) and all(
        any(term.lies_in(other) for other in _terms(full)) for term in terms
    )


def _same_effects(one: Design, other: Design) -> bool:
    """Whether effects and the covariance of their sampling errors are equal."""
    return (
        np.array_equal(one.y, other.y)
        and np.array_equal(one.v, other.v)
        and len(one.blocks) == len(other.blocks)
        and all(
            np.array_equal(a.rows, b.rows) and np.array_equal(a.covariance, b.covariance)
            for a, b in zip(one.blocks, other.blocks, strict=True)
        )
    )


def _same_location(one: Design, other: Design) -> bool:
    """Whether two location parts say the same, in whatever coding."""
    return one.X.shape[1] == other.X.shape[1] and _inside(one.X, other.X)


def _inside(A: Array, B: Array, size: float | None = None) -> bool:
    """Whether the columns of A, numbers of some `size`, lie in the span of those of B."""
    Q = np.linalg.qr(B)[0]
    size = float(np.abs(A).max(initial=0.0)) if size is None else size
    return bool(np.allclose(Q @ (Q.T @ A), A, rtol=1e-8, atol=1e-8 * size))


@dataclass(frozen=True, eq=False)
class _Term:
    """A scale term as what identifies it, in the rows: ln τ² = offset + Zα.

    Z (n·s, q) is of the free coefficients, the offset of the fixed ones; `freedom` is of
    correlations.
    """

    index: npt.NDArray[np.intp]
    slopes: Array
    Z: Array
    offset: Array
    freedom: int

    def lies_in(self, other: _Term) -> bool:
        """Whether it is a special case of another."""
        same_slopes = np.array_equal(self.slopes, other.slopes)
        if not same_slopes or self.freedom > other.freedom:
            return False
        pairs = len(set(zip(self.index.tolist(), other.index.tolist(), strict=True)))
        same_groups = pairs == len(np.unique(self.index)) == len(np.unique(other.index))
        size = float(np.abs([self.offset, other.offset]).max())
        return (
            same_groups
            and _inside(self.Z, other.Z)
            and _inside(self.offset - other.offset, other.Z, size)
        )


def _terms(fit: Estimates) -> list[_Term]:
    found, values = [], [fit.fixed.get(name) for name in fit.scale_names]
    for term in fit.design.terms:
        here, values = values[: len(term.names)], values[len(term.names) :]
        Z = term.Z[term.index].reshape(-1, len(term.names))
        held = [j for j, value in enumerate(here) if value is not None]
        free = [j for j, value in enumerate(here) if value is None]
        offset = Z[:, held] @ np.array([here[j] for j in held], dtype=float)
        freedom = _FREER.index(term.correlation) if term.n_correlations else 0
        found.append(_Term(term.index, term.slopes, Z[:, free], offset[:, None], freedom))
    return found
