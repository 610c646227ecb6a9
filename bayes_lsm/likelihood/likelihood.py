"""Which solver a design has: the one place that asks what kind of model it is.

`rows` where the effects are independent, each with a τ² of its own, in O(n); `blocks` for groups,
slopes, correlated effects and a V in blocks. A new likelihood is one more folder and one more line
here.
"""

from __future__ import annotations

from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.protocol import Likelihood


def likelihood_of(design: Design) -> Likelihood:
    """The solver for a design; a FitError where random intercepts of ln τ² leave no closed form.

    Examples
    --------
    >>> import numpy as np
    >>> from bayes_lsm.datasets import load_dataset
    >>> from bayes_lsm.design.design import build_design
    >>> from bayes_lsm.specification import Specification
    >>> design = build_design(Specification("yi ~ 1", "vi"), load_dataset("bcg"))
    >>> round(likelihood_of(design).evaluate(np.array([-1.0]), "REML").value, 2)
    -12.25
    """
    if design.is_independent:
        from bayes_lsm.likelihood.rows.rows import Rows

        return Rows(design)
    from bayes_lsm.likelihood.blocks.block_likelihood import Blocks

    return Blocks(design)
