"""From a clustered design to the arrays of the clustered likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bayes_lsm.clustered_design import ClusteredDesign
from bayes_lsm.errors import FitError

if TYPE_CHECKING:
    from bayes_lsm.likelihood.clustered import Clustered


def sampling_covariance(design: ClusteredDesign) -> Any:
    """V for a likelihood in closed form: variances (n,), or a sparse matrix (n, n).

    Raises
    ------
    FitError
        When ln τ² has random intercepts: the likelihood has no closed form.
    """
    for term in design.terms:
        if term.random:
            raise FitError(
                f"the scale term {term.name!r} has random intercepts (1 | {term.random[0].column}),"
                " which REML and the collapsed engine cannot integrate out; use fit_bayes with "
                "engine='nuts' (or 'auto')"
            )
    return error_covariance(design)


def error_covariance(design: ClusteredDesign) -> Any:
    """V: variances (n,), or a sparse matrix (n, n) where errors are correlated."""
    if not design.blocks:
        return design.v
    from scipy import sparse

    V = sparse.lil_array(sparse.diags_array(design.v))
    for block in design.blocks:
        V[block.rows[:, None], block.rows] = block.covariance
    return V.tocsr()


def arrange_design(design: ClusteredDesign) -> Clustered:
    """The whole model, sorted once for the compiled loops.

    Raises
    ------
    FitError
        When ln τ² has random intercepts: the likelihood has no closed form.
    """
    from bayes_lsm.likelihood import clustered  # loads numba

    terms = [
        clustered.ScaleTerm(
            term.index,
            term.Z,
            term.slopes,
            term.correlation if len(term.effects) > 1 else "none",
        )
        for term in design.terms
    ]
    return clustered.arrange(design.y, design.X, tuple(terms), variance=sampling_covariance(design))
