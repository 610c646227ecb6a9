"""What a part of a design's coefficients is believed to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bayes_lsm.arrays import Index
from bayes_lsm.errors import FitError
from bayes_lsm.priors import PriorBlock

Indices = Index


def restrict(block: PriorBlock, kept: Sequence[int]) -> PriorBlock:
    """The prior of some coefficients given that the others are zero.

    It is what the same preset says of the smaller model: of the average study, per SD of each
    moderator that is left. So it is the same statement in a model and in its sub-models.
    """
    kept = list(kept)
    dropped = [j for j in range(len(block.priors)) if j not in kept]
    if np.any(block.contrasts[np.ix_(dropped, kept)]):
        raise FitError(
            "a coefficient that carries the level of a model (its intercept, the means of a "
            "factor without one) cannot be left out; keep it"
        )
    priors = tuple(block.priors[j] for j in kept)
    return replace(block, contrasts=block.contrasts[np.ix_(kept, kept)], priors=priors)
