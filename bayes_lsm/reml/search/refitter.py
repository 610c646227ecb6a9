"""Which loop refits a design by the hundred: the one place that asks what kind of model it is."""

from __future__ import annotations

from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search.refits import Refitter


def refitter_of(fit: Estimates) -> Refitter:
    """How the design of a fit is refitted by the hundred."""
    if fit.design.is_independent:
        from bayes_lsm.reml.search.rows_refits import RowsRefitter

        return RowsRefitter(fit)
    from bayes_lsm.reml.search.blocks_refits import BlocksRefitter

    return BlocksRefitter(fit)
