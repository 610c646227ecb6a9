"""What a fit of several scale terms says of each level: variance shares, effects, predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.special import ndtri, stdtrit

from bayes_lsm.choices import require_choice
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.blocks.arrange import sampling_covariance
from bayes_lsm.likelihood.blocks.covariance import blocks, loadings
from bayes_lsm.likelihood.blocks.sampling_weights import typical_variance
from bayes_lsm.reml.clustered_covariance import covariance_of_effects
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.prediction.clustered_predictive import clustered_predictive
from bayes_lsm.reml.prediction.prediction import VAGUE, ScaleUncertainty
from bayes_lsm.reml.term_estimate import TermEstimate
from bayes_lsm.reml.uninformed import depends, mean_of_known
from bayes_lsm.results import ResultTable, model_title

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LevelHeterogeneity(ResultTable):
    """Shares of the variance, level by level: see `level_heterogeneity`.

    Attributes
    ----------
    typical_variance : float
        ṽ, the typical sampling variance; 0 for individual data.
    """

    typical_variance: float = 0.0


@dataclass(frozen=True, eq=False)
class LevelEffects(ResultTable):
    """Predicted effects of the groups of every scale term: see `level_effects`."""


@dataclass(frozen=True, eq=False)
class LevelPrediction(ResultTable):
    """Predictions for new groups: see `predict_levels`."""


def level_heterogeneity(fit: Estimates) -> LevelHeterogeneity:
    """τ² of each scale term, and its share I² of the total variance.

    The variance of an effect is Σ_l τ_l² + ṽ with ṽ = (n − p) / tr(P), P with weights V⁻¹, the
    typical sampling variance (as for one term); I² of a term is its share in per cent. Where τ²
    differs between groups or is multiplied by a slope, its mean over the rows is taken, less those
    of which the data say nothing. Individual
    data have ṽ = 0, and the shares are intraclass correlations.

    Returns
    -------
    LevelHeterogeneity
        Columns tau2 (mean over the rows), tau and I2, one row a term, and the total of the terms.

    References
    ----------
    Nakagawa, S., & Santos, E. S. A. (2012). Methodological issues and advances in biological
    meta-analysis. Evolutionary Ecology, 26, 1253-1274. doi:10.1007/s10682-012-9555-5
    """
    design = fit.design
    tau2 = np.array([mean_of_known(_row_variance(each)) for each in fit.terms.values()])
    typical = typical_variance(design)
    total = float(tau2.sum())
    values = np.r_[tau2, total]
    table = pd.DataFrame(
        {"tau2": values, "tau": np.sqrt(values), "I2": 100 * values / (total + typical)},
        index=pd.Index([*fit.terms, "total"], name="level"),
    )
    return LevelHeterogeneity(
        f"Heterogeneity of a {model_title(design, fit.label)}", table, fit.notes, 0.95, typical
    )


def level_effects(fit: Estimates, *, level: float = 0.95) -> LevelEffects:
    """Best linear unbiased predictions of the effects of all groups.

    With u ~ N(0, D) and P = Σ⁻¹ − Σ⁻¹X(X'Σ⁻¹X)⁻¹X'Σ⁻¹, û = D A'P y, and the errors û − u have the
    covariance D − D A'PA D: that of β̂ is in it, that of the variances is not.

    Parameters
    ----------
    fit : RemlFit
    level : float, default 0.95
        Of the intervals.

    Returns
    -------
    LevelEffects
        Columns estimate, se, pi_lb, pi_ub, indexed by grouping, group and effect; of the effects
        themselves, deviations from x'β; nan where the data say nothing of their variance.

    References
    ----------
    Robinson, G. K. (1991). That BLUP is a good thing: the estimation of random effects. Statistical
    Science, 6(1), 15-32. doi:10.1214/ss/1177011926
    """
    _check_level(level)
    design = fit.design
    names = [
        (name, group, effect)
        for name, each in fit.terms.items()
        for group in each.term.groups
        for effect in each.term.effects
    ]
    A, D = loadings(design), covariance_of_effects(fit)
    # An effect that no row has is what it was before the data.
    estimate, variance = np.zeros(len(names)), D.diagonal()
    residuals = design.y - design.X @ fit.beta
    for block in blocks(design, A, D):
        rows, columns = block.rows, block.columns
        shared = (A[rows][:, columns] @ D[columns][:, columns]).toarray()
        weighted = block.solve(np.column_stack([residuals[rows], shared, design.X[rows]]))
        count = len(columns)
        estimate[columns] = shared.T @ weighted[:, 0]
        explained = np.einsum("ij,ij->j", shared, weighted[:, 1 : count + 1])
        pull = shared.T @ weighted[:, count + 1 :]
        known = np.einsum("ij,jk,ik->i", pull, fit.vcov_location, pull)
        variance[columns] = D.diagonal()[columns] - explained + known
    known_effects = np.concatenate([each.is_known.ravel() for each in fit.terms.values()])
    estimate[~known_effects] = variance[~known_effects] = np.nan
    se = np.sqrt(np.maximum(variance, 0.0))
    quantile = float(ndtri(0.5 + level / 2))
    table = pd.DataFrame(
        {
            "estimate": estimate,
            "se": se,
            "pi_lb": estimate - quantile * se,
            "pi_ub": estimate + quantile * se,
        },
        index=pd.MultiIndex.from_tuples(names, names=["grouping", "group", "effect"]),
    )
    return LevelEffects(
        f"Predicted effects of a {model_title(design, fit.label)}", table, fit.notes, level
    )


def true_effects(fit: Estimates, *, level: float = 0.95) -> pd.DataFrame:
    """Best linear unbiased predictions of each row's own true effect, y less its sampling error.

    With P as in `level_effects`, θ̂ = y − V P y, and the errors θ̂ − θ have the covariance
    V − V P V.

    Returns
    -------
    DataFrame
        Columns estimate, se, pi_lb, pi_ub, in units of y; one row a row of the data.
    """
    _check_level(level)
    design, V = fit.design, sparse.csr_array(_matrix(sampling_covariance(fit.design)))
    A, D = loadings(design), covariance_of_effects(fit)
    estimate, variance = np.empty(len(design.y)), np.empty(len(design.y))
    e = design.y - design.X @ fit.beta
    for block in blocks(design, A, D):
        rows = block.rows
        errors = V[rows][:, rows].toarray()
        weighted = block.solve(errors)  # Σ⁻¹V
        pull = weighted.T @ design.X[rows]
        estimate[rows] = design.y[rows] - weighted.T @ e[rows]
        known = np.einsum("ij,jk,ik->i", pull, fit.vcov_location, pull)
        variance[rows] = np.diag(errors - errors @ weighted) + known
    se = np.sqrt(np.maximum(variance, 0.0))
    half = float(ndtri(0.5 + level / 2)) * se
    columns = {"estimate": estimate, "se": se, "pi_lb": estimate - half, "pi_ub": estimate + half}
    return pd.DataFrame(columns, index=pd.Index(design.labels, name="row"))


def _matrix(V: Any) -> Any:
    return sparse.diags_array(V) if isinstance(V, np.ndarray) else V


def predict_levels(
    fit: Estimates,
    new_data: pd.DataFrame,
    *,
    terms: Sequence[str] | None = None,
    level: float = 0.95,
    scale_uncertainty: ScaleUncertainty = "propagated",
) -> LevelPrediction:
    """The mean effect, and a prediction interval for the true effect in groups that are new.

    By default the uncertainty of the variances is in the prediction interval (``"propagated"``): it
    holds the central `level` of the mixture that `clustered_predictive` describes.
    ``"plug-in"`` takes the estimated variances for known, as metafor does.

    Parameters
    ----------
    fit : RemlFit
    new_data : DataFrame
        One row for each prediction, with every column that the formulas use.
    terms : sequence of str, optional
        The scale terms whose variances the prediction interval has, by their groupings; by default
        all but the residual of individual data. ``["district"]`` predicts the mean of a new
        district.
    level : float, default 0.95
        Of the confidence and prediction intervals.
    scale_uncertainty : {"propagated", "plug-in"}, default "propagated"

    Returns
    -------
    LevelPrediction
        Columns estimate, se, ci_lb, ci_ub, pi_lb, pi_ub, and τ² of each term and of their sum.

    Raises
    ------
    FitError
        For an unknown scale term, a level outside (0, 1), or an unknown `scale_uncertainty`.
    DataError
        For a column or a value that is missing in the new data.
    """
    _check_level(level)
    require_choice("scale_uncertainty", scale_uncertainty, ScaleUncertainty)
    chosen = _chosen(fit, terms)
    design = fit.design
    new = design.for_new_data(new_data)
    variances = {
        name: _new_variance(each, there.slopes, there.Z)
        for (name, each), there in zip(fit.terms.items(), new.terms, strict=True)
        if name in chosen
    }
    total = np.sum(list(variances.values()), axis=0) if variances else np.zeros(len(new.X))
    estimate = new.X @ fit.beta
    se = np.sqrt(np.einsum("ij,jk,ik->i", new.X, fit.vcov_location, new.X))
    se[depends(new.X, fit.blind_location)] = np.nan
    tail = 0.5 + level / 2
    df = len(design.y) - len(fit.beta)
    quantile = float(ndtri(tail) if fit.test == "z" else stdtrit(df, tail))
    spread = np.sqrt(se**2 + total)
    lower, upper = estimate - quantile * spread, estimate + quantile * spread
    if scale_uncertainty == "propagated":
        lower, upper = clustered_predictive(fit, new, chosen, level)
    table = pd.DataFrame(
        {
            "estimate": estimate,
            "se": se,
            "ci_lb": estimate - quantile * se,
            "ci_ub": estimate + quantile * se,
            "pi_lb": lower,
            "pi_ub": upper,
            **{f"tau2 ({name})": values for name, values in variances.items()},
            "tau2": total,
        },
        index=pd.Index(new.labels),
    )
    what = "propagated" if scale_uncertainty == "propagated" else "ignored"
    title = f"Predictions of a {model_title(design, f'{fit.label}; uncertainty of τ² {what}')}"
    notes = (*_vague(fit, chosen, scale_uncertainty), *fit.notes)
    return LevelPrediction(title, table, notes, level)


def _vague(
    fit: Estimates, chosen: Sequence[str], scale_uncertainty: ScaleUncertainty
) -> Iterator[str]:
    """What has to be said where the normal approximation of ln τ² is poor."""
    if scale_uncertainty == "plug-in":
        return
    for name in chosen:
        each = fit.terms[name]
        rows, _ = each.read(each.term.Z[each.term.used])
        variance = np.einsum("ij,jk,ik->i", rows, np.nan_to_num(each.limit_vcov), rows)
        if np.sqrt(variance.max()) > VAGUE:
            yield (
                f"the data say little about the variances of {name!r} (SE of ln τ² above "
                f"{VAGUE:g}): the prediction intervals rest on a normal approximation for ln τ²"
            )


def _chosen(fit: Estimates, terms: Sequence[str] | None) -> list[str]:
    if terms is None:
        individual = not (fit.design.v > 0).any()
        return [name for name in fit.terms if not (individual and name == "residual")]
    for name in terms:
        if name not in fit.terms:
            raise FitError(f"there is no scale term {name!r}; there are {', '.join(fit.terms)}")
    return list(terms)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise FitError(f"level must be between 0 and 1, got {level}")


def _row_variance(each: TermEstimate) -> Array:
    """a_i' D R D a_i, the term's variance of each row, shape (n,)."""
    slopes = each.term.slopes
    loadings = slopes * np.where(slopes == 0, 0.0, np.sqrt(each.known_tau2[each.term.index]))
    return np.asarray(np.einsum("ij,jk,ik->i", loadings, np.nan_to_num(each.correlation), loadings))


def _new_variance(each: TermEstimate, slopes: Array, Z: Array) -> Array:
    """The same for groups that are new; 0 where the likelihood sends it there."""
    tau2 = each.tau2_at(Z)
    loadings = slopes * np.where(slopes == 0, 0.0, np.sqrt(tau2))
    return np.asarray(np.einsum("ij,jk,ik->i", loadings, np.nan_to_num(each.correlation), loadings))
