"""From a design to the arrays of the likelihood in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.likelihood.blocks.terms import BlockTerm
from bayes_lsm.links import tau2_from_log

if TYPE_CHECKING:
    from bayes_lsm.likelihood.blocks.blocks import Arranged


def sampling_covariance(design: Design) -> Any:
    """V for a likelihood in closed form: variances (n,), or a sparse matrix (n, n).

    A FitError refuses random intercepts of ln τ², which leave no closed form.
    """
    for term in design.terms:
        if term.random:
            raise FitError(
                f"the scale term {term.name!r} has random intercepts (1 | {term.random[0].column}),"
                " which REML and the collapsed engine cannot integrate out; use fit_bayes with "
                "engine='nuts' (or 'auto')"
            )
    return error_covariance(design)


def error_covariance(design: Design) -> Any:
    """V: variances (n,), or a sparse matrix (n, n) where errors are correlated."""
    if not design.blocks:
        return design.v
    from scipy import sparse

    V = sparse.lil_array(sparse.diags_array(design.v))
    for block in design.blocks:
        V[block.rows[:, None], block.rows] = block.covariance
    return V.tocsr()


def arrange_design(design: Design) -> Arranged:
    """The whole model, sorted once for the compiled loops; see `sampling_covariance`."""
    from bayes_lsm.likelihood.blocks import blocks  # loads numba

    V = sampling_covariance(design)
    return blocks.arrange(design.y, design.X, likelihood_terms(design), variance=V)


def likelihood_terms(design: Design) -> tuple[BlockTerm, ...]:
    """The scale terms as the likelihood reads them.

    The likelihood is that given random intercepts of ln τ², whose effects are coefficients too.
    """
    return tuple(
        BlockTerm(
            term.index,
            term.Z,
            term.slopes,
            term.correlation if len(term.effects) > 1 else "none",
            term.offset,
        )
        for term in design.given_levels().terms
    )


def effect_sds(term: BlockTerm, coefficients: Array) -> tuple[Array, Array]:
    """SDs of the s effects of each of G groups (m, G, s), and their correlations (m, s, s).

    `coefficients` (m, term.size) are those of ln τ², then κ.
    """
    Z = term.table
    q, s = Z.shape[2], Z.shape[1]
    eta = coefficients[:, :q] @ Z.reshape(-1, q).T + term.offsets.reshape(-1)
    sds = np.sqrt(tau2_from_log(eta)).reshape(len(coefficients), -1, s)
    return sds, correlation_matrices(coefficients[:, q:], s, term.correlation)


def row_variances(terms: Sequence[BlockTerm], v: Array, coefficients: Array) -> Array:
    """The diagonal of Σ (m, n) at each row of the coefficients (m, Q) of all terms."""
    found = np.tile(v, (len(coefficients), 1))
    first = 0
    for term in terms:
        sds, R = effect_sds(term, coefficients[:, first : first + term.size])
        first += term.size
        loads = term.multipliers * sds[:, term.groups]
        found += np.sum((loads @ R) * loads, axis=2)
    return found
