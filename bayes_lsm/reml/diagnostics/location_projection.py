r"""The projection of effects on the location part, at the estimated covariance Σ.

With Σ = LL', L⁻¹X = QR and M = (X'Σ⁻¹X)⁻¹ = R⁻¹R⁻ᵀ, so that X = LQR, and in the coordinates LQ of
the columns of X the matrix M is the identity. Sums over Q keep the digits that those over X lose in
extreme units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.likelihood.protocol import Covariance
from bayes_lsm.reml.estimates import Estimates


@dataclass(frozen=True, eq=False)
class LocationProjection:
    """See the module: `basis` is Q (n, p), `fitted` LQ, with XMX' = (LQ)(LQ)', `back` R⁻¹."""

    covariance: Covariance
    basis: Array
    fitted: Array
    back: Array


def project(fit: Estimates) -> LocationProjection:
    """The projection of a fit."""
    covariance = fit.covariance
    Q, R = np.linalg.qr(covariance.whiten(fit.design.X))
    return LocationProjection(
        covariance, Q, covariance.unwhiten(Q), np.linalg.solve(R, np.eye(len(R)))
    )
