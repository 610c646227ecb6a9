"""The typical sampling variance of a design, with which heterogeneity is compared."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.likelihood import likelihood_of


def typical_variance(design: Design) -> float:
    """ṽ = (n − p) / tr(P), P = V⁻¹ − V⁻¹X(X'V⁻¹X)⁻¹X'V⁻¹; 0 for individual data.

    References
    ----------
    Higgins, J. P. T., & Thompson, S. G. (2002). Quantifying heterogeneity in a meta-analysis.
    Statistics in Medicine, 21(11), 1539-1558. doi:10.1002/sim.1186

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"))
    >>> round(typical_variance(model.design), 4)
    0.0264
    """
    if not (design.v > 0).all():
        return 0.0
    V, (n, p) = likelihood_of(design).sampling_covariance(), design.X.shape
    R = np.linalg.qr(V.whiten(design.X), mode="r")
    fitted = V.solve(np.linalg.solve(R.T, design.X.T).T)  # V⁻¹XR⁻¹
    return float((n - p) / (V.explained(sparse.eye_array(n)).sum() - np.sum(fitted**2)))
