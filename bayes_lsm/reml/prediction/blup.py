"""Each row's own true effect, by best linear unbiased prediction."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from bayes_lsm.choices import require_level
from bayes_lsm.likelihood.blocks.arrange import error_covariance
from bayes_lsm.likelihood.blocks.covariance import loadings
from bayes_lsm.predictions import Blups, truth_notes
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.prediction.group_effects import covariance_of_effects, how, interval_table
from bayes_lsm.results import model_title

Array = npt.NDArray[np.float64]


def blup(fit: Estimates, *, level: float = 0.95) -> Blups:
    """Each row's own true effect θ_i = x_i'β + u_i, its observed one less the sampling error.

    u_i is what the row has of the effects of its groups. With T = ADA' the covariance of u, and P
    as in `group_effects`, û = T P y and θ̂ = y − V P y = x'β̂ + û, whose errors have the covariances
    T − T P T and V − V P V. The variances are taken as known. Where the effects are independent,
    with λ_i = τ_i²/(τ_i² + v_i), θ̂_i = λ_i y_i + (1 − λ_i) x_i'β̂: metafor's ``blup()``, and û_i its
    ``ranef()``, with each study's own τ_i².

    Parameters
    ----------
    fit : RemlFit
    level : float, default 0.95
        Of the intervals.

    Returns
    -------
    Blups
        One row a row of the data: estimate, se, pi_lb, pi_ub (of θ_i, in units of y), u, u_se,
        u_pi_lb, u_pi_ub, and weight, τ_i²/Σ_ii. A row with τ² = 0 has the mean effect of its
        moderators, and u = 0 exactly; u and weight are nan in one of whose τ² the data say nothing.
        Individual data have no sampling errors, so that θ_i = y_i.

    Raises
    ------
    FitError
        For a level outside (0, 1).

    Examples
    --------
    >>> from bayes_lsm import Specification, build_design, load_dataset
    >>> from bayes_lsm.reml import fit_reml
    >>> spec = Specification("yi ~ ablat", "vi", scale="~ ablat")
    >>> found = blup(fit_reml(build_design(spec, load_dataset("bcg"))))
    >>> [round(value, 3) for value in found.table["estimate"].iloc[:3]]
    [-1.003, -1.416, -1.03]

    References
    ----------
    Robinson, G. K. (1991). That BLUP is a good thing: the estimation of random effects.
    Statistical Science, 6(1), 15-32. doi:10.1214/ss/1177011926
    """
    require_level(level)
    design, covariance, A = fit.design, fit.covariance, loadings(fit.design)
    T = sparse.csr_array(A @ covariance_of_effects(fit) @ A.T)
    V = error_covariance(design)
    V = sparse.csr_array(sparse.diags_array(V) if isinstance(V, np.ndarray) else V)
    mean, weighted = design.X @ fit.beta, covariance.solve(design.X)
    u = T @ covariance.solve(design.y - mean)
    of_truth, of_errors = T.diagonal(), V.diagonal()
    # Given β both are the same; of the smaller less is lost to rounding.
    given = np.where(
        of_errors < of_truth,
        of_errors - covariance.explained(V),
        of_truth - covariance.explained(T),
    )
    se, u_se = (np.sqrt(np.maximum(given + _of_mean(fit, W @ weighted), 0.0)) for W in (V, T))
    weight = of_truth / (of_truth + of_errors)
    unknown = ~fit.is_known
    own = interval_table(fit, mean + u, se, level)
    u[unknown] = u_se[unknown] = weight[unknown] = np.nan
    deviation = interval_table(fit, u, u_se, level).add_prefix("u_")
    table = own.join(deviation.rename(columns={"u_estimate": "u"})).assign(weight=weight)
    table.index = pd.Index(design.labels, name="study")
    title = f"True effects in a {model_title(design, how(fit, level))}"
    return Blups(title, table, truth_notes(design, fit.notes), level)


def _of_mean(fit: Estimates, pull: Array) -> Array:
    return np.asarray(np.einsum("ij,jk,ik->i", pull, fit.vcov_location, pull))
