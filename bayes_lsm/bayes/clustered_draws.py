"""Draws of all scale coefficients as the likelihood reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayes_lsm.bayes.draws import Array
from bayes_lsm.likelihood.correlation_matrices import kappas_of

if TYPE_CHECKING:
    from bayes_lsm.bayes.clustered_fit import ClusteredBayesFit


def flat_coefficients(fit: ClusteredBayesFit) -> Array:
    """α, the effects of random intercepts and κ, term by term, shape (draws, Q).

    In the order of `likelihood.terms.likelihood_terms`.
    """
    columns: list[Array] = []
    for each in fit.terms.values():
        kind = each.term.correlation if len(each.term.effects) > 1 else "none"
        columns += [each.alpha, *(random.effect for random in each.random)]
        columns.append(kappas_of(each.correlation, kind))
    return np.ascontiguousarray(np.hstack(columns))
