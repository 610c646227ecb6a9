"""Which solver searches a design, and refits it by the hundred: the one place that asks.

Its compiled loops are loaded with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from bayes_lsm.design.design import Design
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search.refits import Refitter
from bayes_lsm.reml.search.surface import Surface
from bayes_lsm.specification import Method


def surface_of(
    design: Design, method: Method, held: Mapping[int, float] | None = None, turns: int = 3
) -> Surface:
    """The log-likelihood of a design, for a search; `held` and `turns` are those of blocks."""
    if design.is_independent:
        from bayes_lsm.reml.search.rows_surface import RowsSurface

        (term,) = design.terms
        offset = None if term.offset is None else term.offset[:, 0]
        return RowsSurface(design.y, design.v, design.X, term.Z[:, 0], method, offset=offset)
    from bayes_lsm.reml.search.blocks_surface import BlocksSurface

    return BlocksSurface(design, method, held=held, turns=turns)


def refitter_of(fit: Estimates) -> Refitter:
    """How the design of a fit is refitted by the hundred."""
    if fit.design.is_independent:
        from bayes_lsm.reml.search.rows_refits import RowsRefitter

        return RowsRefitter(fit)
    from bayes_lsm.reml.search.blocks_refits import BlocksRefitter

    return BlocksRefitter(fit)
