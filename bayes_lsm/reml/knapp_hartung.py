"""What Knapp and Hartung multiply the covariance of β̂ by."""

from __future__ import annotations

from bayes_lsm.reml.estimates import Estimates


def knapp_hartung(found: Estimates) -> float:
    """Weighted residual mean square, e'Σ⁻¹e/(n − p).

    References
    ----------
    Knapp, G., & Hartung, J. (2003). Improved tests for a random effects meta-regression with a
    single covariate. Statistics in Medicine, 22(17), 2693-2710. doi:10.1002/sim.1482
    """
    design = found.design
    residuals = design.y - design.X @ found.beta
    df = len(design.y) - len(found.beta)
    return float(residuals @ found.covariance.solve(residuals)) / df
