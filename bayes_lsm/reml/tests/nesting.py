"""Whether one model is a special case of another, so that their likelihoods can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.design import Design

Array = npt.NDArray[np.float64]
_FREER = ("none", "compound_symmetric", "unstructured")


def same_location(one: Design, other: Design) -> bool:
    """Whether two location parts say the same, in whatever coding."""
    return one.X.shape[1] == other.X.shape[1] and inside(one.X, other.X)


def same_sampling_errors(one: Design, other: Design) -> bool:
    """Whether the covariances of two sets of sampling errors are equal, variances apart."""
    blocks = [design.blocks if not design.is_independent else () for design in (one, other)]
    return len(blocks[0]) == len(blocks[1]) and all(
        np.array_equal(a.rows, b.rows) and np.array_equal(a.covariance, b.covariance)
        for a, b in zip(*blocks, strict=True)
    )


def is_nested(reduced: Design, full: Design) -> bool:
    """Whether the location part and every scale term of `reduced` lie within those of `full`."""
    if not inside(reduced.X, full.X):
        return False
    # One τ² for all studies is the same model under either link.
    links = reduced.specification.link, full.specification.link
    simple = isinstance(reduced, Design) and reduced.Z.shape[1] == 1
    return (links[0] == links[1] or simple) and all(
        any(_inside_term(term, other) for other in _terms(full)) for term in _terms(reduced)
    )


def inside(A: Array, B: Array) -> bool:
    """Whether the columns of A lie in the span of those of B."""
    Q = np.linalg.qr(B)[0]
    return bool(np.allclose(Q @ (Q.T @ A), A, rtol=1e-8, atol=1e-8 * np.abs(A).max()))


# A term as what identifies it: groups, slopes, Z in the rows, and the freedom of its correlations.
_Term = tuple[npt.NDArray[np.intp], Array, Array, int]


def _terms(design: Design) -> Sequence[_Term]:
    if design.is_independent:
        n = len(design.y)
        return [(np.arange(n), np.ones((n, 1)), design.Z, 0)]
    found: list[_Term] = []
    for term in design.terms:
        Z = term.Z[term.index].reshape(len(design.y), -1, term.Z.shape[2])
        freedom = _FREER.index(term.correlation) if term.slopes.shape[1] > 1 else 0
        found.append((term.index, term.slopes, Z.reshape(-1, Z.shape[2]), freedom))
    return found


def _inside_term(one: _Term, other: _Term) -> bool:
    same_slopes = one[1].shape == other[1].shape and np.array_equal(one[1], other[1])
    if not same_slopes or one[3] > other[3]:
        return False
    pairs = len(set(zip(one[0].tolist(), other[0].tolist(), strict=True)))
    same_groups = pairs == len(np.unique(one[0])) == len(np.unique(other[0]))
    return same_groups and inside(one[2], other[2])
