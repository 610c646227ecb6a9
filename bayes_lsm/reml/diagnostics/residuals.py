r"""Residuals, hat values and weights of a fit, as metafor has them.

With W = Σ⁻¹ and M = (X'WX)⁻¹ the hat matrix is H = XMX'W, and the residuals e = y − Xβ̂ have the
covariance Σ − XMX' given the variances. Independent effects have Σ = diag(v_i + τ_i²), so that
e_i has the variance (v_i + τ_i²)(1 − h_i). With one τ² for all studies these are the numbers of
metafor's ``resid``, ``rstandard``, ``rstudent``, ``hatvalues``, ``weights`` and ``fitted``; a
location-scale fit only has a τ_i² for each study in their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse

from bayes_lsm.arrays import Array
from bayes_lsm.choices import require_choice
from bayes_lsm.design.clusters import Cluster
from bayes_lsm.errors import FitError
from bayes_lsm.reml.diagnostics.deletion import delete
from bayes_lsm.reml.diagnostics.location_projection import project
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.tables import format_cells, format_table

ResidualKind = Literal["raw", "pearson", "standardized", "studentized_deleted"]
WeightKind = Literal["diagonal", "rowsum"]

# A row whose residual has less of its variance decides its own fitted value, and has no residual.
_ALL_ITS_OWN = 1e-13
# A residual smaller than this share of the effects is the rounding of 0.
_ROUNDING = 1e-14


@dataclass(frozen=True, eq=False)
class Residuals:
    """Residuals of a fit, one for each row.

    Attributes
    ----------
    kind : {"raw", "pearson", "standardized", "studentized_deleted"}
    labels : tuple of str, length n
    raw : ndarray, shape (n,)
        In the unit of the effects: y_i − x_i'β̂, with β̂ from the other studies where the kind is
        ``"studentized_deleted"``.
    se : ndarray, shape (n,)
        What they are divided by; nan for raw residuals, and where a row has no residual because it
        alone decides its fitted value.
    """

    kind: ResidualKind
    labels: tuple[str, ...]
    raw: Array
    se: Array

    @property
    def values(self) -> Array:
        """The residuals of this kind (n,): ``raw``, or ``raw / se``."""
        return self.raw if self.kind == "raw" else self.raw / self.se

    def to_dataframe(self) -> pd.DataFrame:
        """Columns resid, se and z, as metafor prints them (resid alone for raw ones)."""
        columns = {"resid": self.raw}
        if self.kind != "raw":
            columns |= {"se": self.se, "z": self.values}
        return pd.DataFrame(columns, index=pd.Index(self.labels, name="study"))

    def __str__(self) -> str:
        return format_table(self.to_dataframe())

    def _repr_html_(self) -> str:
        return str(format_cells(self.to_dataframe(), digits=4).to_html())


def residuals(
    fit: Estimates, kind: ResidualKind = "raw", *, cluster: Cluster | None = None
) -> Residuals:
    """Residuals of a fit.

    Parameters
    ----------
    fit : RemlFit or Estimates
    kind : {"raw", "pearson", "standardized", "studentized_deleted"}, default "raw"
        ``"raw"``: e_i = y_i − x_i'β̂. ``"pearson"``: e_i / √Σ_ii. ``"standardized"`` (internally):
        e_i / √(Σ − XMX')_ii, metafor's ``rstandard``. ``"studentized_deleted"`` (externally): the
        row's distance from what the other studies predict of it, by an exact refit without its
        study, divided by its standard error; metafor's ``rstudent``, which metafor refuses for
        location-scale fits.
    cluster : str or sequence of length n, optional
        What is left out for ``"studentized_deleted"``, see `influence`: by default the rows of
        independent effects, and else the outermost groups.

    Returns
    -------
    Residuals

    Raises
    ------
    FitError
        For an unknown kind, and clusters where nothing is left out or that are unknown.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", scale="~ ablat", variance="vi", study="trial",
    ...     data=lsm.load_dataset("bcg")).fit_reml()
    >>> print(residuals(fit, "standardized").to_dataframe().round(2).head(3))
           resid    se     z
    study
    1       0.14  0.62  0.23
    2      -0.24  0.48 -0.49
    3      -0.38  0.69 -0.55

    References
    ----------
    Viechtbauer, W., & Cheung, M. W.-L. (2010). Outlier and influence diagnostics for meta-analysis.
    Research Synthesis Methods, 1(2), 112-125. doi:10.1002/jrsm.11
    """
    require_choice("kind", kind, ResidualKind)
    labels = fit.design.labels
    if kind == "studentized_deleted":
        found = delete(fit, cluster)
        return Residuals(kind, labels, found.residual, found.residual_se)
    if cluster is not None:
        raise FitError(
            f"cluster says what is left out, and {kind!r} residuals leave nothing out; drop it, or "
            "use kind='studentized_deleted'"
        )
    raw = fit.design.y - fitted_values(fit)
    raw = np.where(np.abs(raw) < _ROUNDING * np.abs(fit.design.y).max(), 0.0, raw)
    if kind == "raw":
        return Residuals(kind, labels, raw, np.full(len(raw), np.nan))
    if kind == "pearson":
        return Residuals(kind, labels, raw, np.sqrt(fit.covariance.variances))
    projection = project(fit)
    total = projection.covariance.variances
    own = 1.0 - np.sum(projection.fitted**2, axis=1) / total
    return Residuals(kind, labels, raw, np.sqrt(total * np.where(own > _ALL_ITS_OWN, own, np.nan)))


def fitted_values(fit: Estimates) -> Array:
    """What the location part predicts of each row, x_i'β̂ (n,).

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_reml()
    >>> fitted_values(fit)[:3].round(3)
    array([-1.029, -1.349, -0.971])
    """
    return np.asarray(fit.design.X @ fit.beta)


def hat_values(fit: Estimates) -> Array:
    """The share of each row's own effect in its fitted value (n,), the diagonal of H.

    They add up to p. Those of independent effects lie between 0 and 1.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_reml()
    >>> round(float(hat_values(fit).sum()), 9)
    2.0
    """
    projection = project(fit)
    fitted = projection.fitted
    return np.asarray(np.sum(fitted * projection.covariance.solve(fitted), axis=1))


def weights(fit: Estimates, *, kind: WeightKind = "diagonal") -> Array:
    """The weight of each row, in per cent of the sum of all (n,).

    Parameters
    ----------
    fit : RemlFit or Estimates
    kind : {"diagonal", "rowsum"}, default "diagonal"
        Of the matrix W = Σ⁻¹, as metafor's ``weights`` for ``rma.mv``: its diagonal, or the sums of
        its rows, which are what each effect counts for in the mean where that is all of the
        location part. Of independent effects both are 1/(v_i + τ_i²).

    Raises
    ------
    FitError
        For an unknown kind, and for sums of rows where there are location moderators: they are the
        weights of no coefficient then.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg")).fit_reml()
    >>> weights(fit)[:3].round(2)
    array([5.06, 6.36, 4.44])
    """
    require_choice("kind", kind, WeightKind)
    n = len(fit.design.y)
    if kind == "diagonal":
        found = fit.covariance.explained(sparse.eye_array(n))
    elif fit.design.location.names == ("intrcpt",):
        found = fit.covariance.solve(np.ones(n))
    else:
        raise FitError(
            "sums of the rows of Σ⁻¹ are weights in the mean of all effects, and this model has "
            "location moderators; use kind='diagonal', or hat_values()"
        )
    return np.asarray(100.0 * found / found.sum())
