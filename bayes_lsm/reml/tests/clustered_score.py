r"""Rao's score test of scale coefficients with several scale terms.

The score is that of the likelihood; the expected information is I_jk = ½ tr(P V_j P V_k) with
V_j = ∂Σ/∂α_j (Σ⁻¹ in place of P for ML), in which P = Σ⁻¹ − Σ⁻¹X A⁻¹ X'Σ⁻¹, A = X'Σ⁻¹X. With
C_j = Σ⁻¹V_jΣ⁻¹,

    tr(P V_j P V_k) = tr(C_j V_k) − 2 tr(A⁻¹ X'C_j V_k Σ⁻¹X) + tr(A⁻¹ X'C_jX A⁻¹ X'C_kX),

sums over the blocks of Σ but for the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import chdtrc

from bayes_lsm.design.coefficients import scale_places
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.likelihood.blocks.covariance import (
    block_diagonal,
    blocks,
    loadings,
    stack_covariances,
)
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.tests.wald_and_ratio import term_columns
from bayes_lsm.specification import Method

Array = npt.NDArray[np.float64]

# Step of the central difference of a correlation matrix in κ: its error is the square.
_STEP = 1e-5


def score_at_null(
    fit: Estimates, terms: str | Sequence[str] | None
) -> tuple[tuple[str, ...], float, int, float, Array, Array, Array]:
    """The fields of a `ScoreTest`, in their order.

    Raises
    ------
    FitError
        For an unknown term, and when the likelihood has no slope at the fit without them: a
        variance is 0 there.
    """
    from bayes_lsm.likelihood.blocks import blocks
    from bayes_lsm.likelihood.blocks.arrange import arrange_design

    design, names = fit.design, fit.scale_names
    tested = term_columns("scale", names, terms)
    alpha = _null(fit, tested)
    data = arrange_design(design)
    slope = blocks.evaluate(alpha, data, method=fit.method).score
    information = expected_information(alpha, design, method=fit.method)
    places = scale_places(design)[tested]
    others = np.setdiff1d(np.arange(len(alpha)), places)
    efficient = information[np.ix_(places, places)]
    if len(others):
        cross = information[np.ix_(others, places)]
        nuisance = information[np.ix_(others, others)]
        efficient = efficient - cross.T @ np.linalg.solve(nuisance, cross)
    score = slope[places]
    statistic = float(score @ np.linalg.solve(efficient, score))
    pval = float(chdtrc(len(tested), statistic))
    labels = tuple(names[j] for j in tested)
    at_null = alpha[scale_places(design)]
    return labels, statistic, len(tested), pval, score, efficient, at_null


def _null(fit: Estimates, tested: list[int]) -> Array:
    """Coefficients and κ of the fit in which the tested ones are 0."""
    from bayes_lsm.reml.search.blocks_search import BlocksSearch

    found = BlocksSearch(without(fit.design, tested), fit.method).highest
    if not found.is_inside:
        raise FitError(
            f"there is no score test of {', '.join(fit.scale_names[j] for j in tested)}: without "
            "these coefficients the variance of some groups is 0, where the likelihood has no "
            "slope; use bootstrap_test"
        )
    parts, first = [], 0
    for term, (alpha, kappa) in zip(fit.design.terms, found.coefficients, strict=True):
        kept = [j for j in range(len(term.names)) if first + j not in tested]
        full = np.zeros(len(term.names))
        full[kept] = alpha
        parts += [full, kappa]
        first += len(term.names)
    return np.concatenate(parts)


def without(design: Design, columns: Sequence[int]) -> Design:
    """The design without some scale coefficients, counted through all terms."""
    terms, first = [], 0
    for term in design.terms:
        kept = [j for j in range(len(term.names)) if first + j not in columns]
        terms.append(replace(term, names=tuple(term.names[j] for j in kept), Z=term.Z[:, :, kept]))
        first += len(term.names)
    return replace(design, terms=tuple(terms))


def expected_information(alpha: Array, design: Design, *, method: Method) -> Array:
    """½ tr(P V_j P V_k) at the coefficients and κ of all terms, shape (q, q); for ML of Σ⁻¹."""
    A = loadings(design)
    D, slopes = derivatives(_parts(alpha, design), design)
    q, p = len(alpha), design.X.shape[1]
    trace, cross, M = np.zeros((q, q)), np.zeros((q, q, p, p)), np.zeros((q, p, p))
    precision = np.zeros((p, p))
    for block in blocks(design, A, D):
        here = A[block.rows][:, block.columns]
        changes = [(here @ d[block.columns][:, block.columns] @ here.T).toarray() for d in slopes]
        active = [j for j in range(q) if changes[j].any()]
        X = design.X[block.rows]
        WX = block.solve(X)
        precision += X.T @ WX
        moved = {j: block.solve(changes[j]) for j in active}  # Σ⁻¹V_j
        for j in active:
            M[j] += WX.T @ changes[j] @ WX
            for k in active:
                trace[j, k] += np.sum(moved[j] * moved[k].T)
                if method == "REML":
                    cross[j, k] += WX.T @ changes[j] @ moved[k] @ WX
    if method == "REML":
        inverse = np.linalg.inv(precision)
        inside = inverse @ M
        trace = trace - 2.0 * np.einsum("ab,jkba->jk", inverse, cross)
        trace = trace + np.einsum("jab,kba->jk", inside, inside)
    return np.asarray(0.5 * trace)


def _parts(alpha: Array, design: Design) -> list[tuple[Array, Array]]:
    """τ² (G, s) and κ of each term."""
    starts = np.cumsum([0, *(term.size for term in design.terms)])
    found = []
    for term, start, end in zip(design.terms, starts, starts[1:], strict=False):
        here, q = alpha[start:end], len(term.names)
        found.append((np.exp(term.Z @ here[:q]), here[q:]))
    return found


def derivatives(
    parts: Sequence[tuple[Array, Array]], design: Design
) -> tuple[sparse.csr_array, list[sparse.csr_array]]:
    """D (m, m), and its derivative in each coefficient and κ.

    Parameters
    ----------
    parts : sequence of tuple
        τ² (G, s) and κ of each term.
    design : Design
    """
    tau2, correlations, slopes = [], [], []
    widths = [len(term.groups) * len(term.effects) for term in design.terms]
    for t, (term, (values, kappa)) in enumerate(zip(design.terms, parts, strict=True)):
        R, changes = _term_derivatives(values, kappa, term)
        tau2.append(values)
        correlations.append(R)
        before, after = sum(widths[:t]), sum(widths[t + 1 :])
        for change in changes:
            filled = [
                sparse.csr_array((before, before)),
                block_diagonal(change),
                sparse.csr_array((after, after)),
            ]
            slopes.append(sparse.csr_array(sparse.block_diag(filled)))
    return stack_covariances(tau2, correlations), slopes


def _term_derivatives(tau2: Array, kappa: Array, term: ScaleTerm) -> tuple[Array, list[Array]]:
    """R (s, s), and ∂D_g/∂α_j (G, s, s) of each coefficient and κ."""
    s = len(term.effects)
    kind = term.correlation if term.n_correlations else "none"
    R = np.array(correlation_matrices(kappa[None], s, kind)[0])
    tau = np.sqrt(tau2)
    outer = tau[:, :, None] * tau[:, None, :]
    changes = [
        0.5 * (term.Z[:, :, None, j] + term.Z[:, None, :, j]) * outer * R
        for j in range(len(term.names))
    ]
    for step in _STEP * np.eye(len(kappa)):
        ends = correlation_matrices(np.array([kappa + step, kappa - step]), s, kind)
        changes.append(outer * (ends[0] - ends[1]) / (2 * _STEP))
    return R, changes
