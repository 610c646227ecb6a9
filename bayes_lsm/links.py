"""The scale link: how the linear predictor η = z'α of a study becomes its τ².

With the log link τ² = exp(η), so τ² is positive whatever the coefficients, and dτ²/dη = τ².
"""

from __future__ import annotations

import numpy as np

from bayes_lsm.arrays import Array

# exp() of more would overflow once it is squared; a τ² of e^300 is as good as infinite.
LARGEST_EXPONENT = 300.0


def tau2_from_log(eta: Array) -> Array:
    """τ² = exp(η), elementwise, capped below overflow.

    Examples
    --------
    >>> tau2_from_log(np.array([0.0, 1000.0])) > 0
    array([ True,  True])
    """
    return np.exp(np.minimum(eta, LARGEST_EXPONENT))
