"""REML and ML fits of models with several scale terms, and what can be read from them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

from bayes_lsm.clustered_design import ClusteredDesign, ScaleTerm
from bayes_lsm.errors import ConvergenceWarning, DivergentScaleWarning, FitError
from bayes_lsm.likelihood.correlation_matrices import correlation_matrices
from bayes_lsm.likelihood.independent import Method
from bayes_lsm.reml.divergence import Cone, Divergence
from bayes_lsm.results import model_title, wald_table
from bayes_lsm.tables import Printable, format_table, text_table, wrap_notes

if TYPE_CHECKING:
    from bayes_lsm.reml.clustered_effects import (
        LevelEffects,
        LevelHeterogeneity,
        LevelPrediction,
    )

Array = npt.NDArray[np.float64]
ClusteredTest = Literal["z", "t"]

# Information on a combination of ln τ² (SE 10,000) below which there is none.
_NO_INFORMATION = 1e-8
# |ρ| nearer to 1 than this is at its border.
_BORDER = 1e-6


@dataclass(frozen=True, eq=False)
class TermEstimate:
    """What was estimated of one scale term.

    Attributes
    ----------
    term : ScaleTerm
    alpha : ndarray, shape (q,)
        Coefficients of ln τ²; ±inf or nan where the likelihood has no finite maximum.
    vcov : ndarray, shape (q, q)
        nan in the rows of those, and where the data carry no information.
    tau2 : ndarray, shape (G, s)
        τ² of each effect of each group.
    kappa, vcov_kappa : ndarray, shape (c,) and (c, c)
        Fisher's z of the correlations, or of the partial ones of an unstructured matrix.
    correlation : ndarray, shape (s, s)
        Of the effects of a group.
    divergence : Divergence or None
    """

    term: ScaleTerm
    alpha: Array
    vcov: Array
    tau2: Array
    kappa: Array
    vcov_kappa: Array
    correlation: Array
    divergence: Divergence | None = None


@dataclass(frozen=True, eq=False)
class ClusteredFit(Printable):
    """A frequentist fit of a model with several scale terms.

    Attributes
    ----------
    design : ClusteredDesign
    method : {"REML", "ML"}
    beta : ndarray, shape (p,)
        Location coefficients.
    vcov_location : ndarray, shape (p, p)
        (X'Σ⁻¹X)⁻¹ at the estimated variances.
    terms : mapping of str to TermEstimate
        The scale terms by their grouping.
    loglik : float
        With metafor's constants; the supremum when a coefficient diverges.
    log_det_XX : float
        ln |X'X|, by which nlme's REML log-likelihood differs.
    converged : bool
    test : {"z", "t"}
        ``"t"``: with n − p degrees of freedom for the location coefficients.
    """

    design: ClusteredDesign
    method: Method
    beta: Array
    vcov_location: Array
    terms: Mapping[str, TermEstimate]
    loglik: float
    log_det_XX: float
    converged: bool
    test: ClusteredTest = "z"

    @property
    def location(self) -> pd.DataFrame:
        """Location coefficients: estimate, se, zval, pval, ci_lb, ci_ub; one row a term."""
        df = None if self.test == "z" else len(self.design.y) - len(self.beta)
        return wald_table(self.design.location.names, self.beta, self.vcov_location, df=df)

    @property
    def scale(self) -> pd.DataFrame:
        """Scale coefficients of ln τ², indexed by grouping and term."""
        tables = {
            name: wald_table(each.term.names, each.alpha, each.vcov)
            for name, each in self.terms.items()
        }
        return pd.concat(tables, names=["grouping", "term"])

    @property
    def correlations(self) -> pd.DataFrame:
        """Correlations of a group's effects: estimate, ci_lb, ci_ub; indexed by grouping and pair.

        The intervals are those of Fisher's z; nan where a correlation is at its border, and for all
        but the first row of an unstructured matrix, whose other entries have no z of their own.
        """
        tables = {name: _correlations(each) for name, each in self.terms.items()}
        found = {name: table for name, table in tables.items() if len(table)}
        if not found:
            return pd.DataFrame(columns=["estimate", "ci_lb", "ci_ub"], dtype=float)
        return pd.concat(found, names=["grouping", "pair"])

    @property
    def components(self) -> pd.DataFrame:
        """τ² and τ of each scale term, and its number of groups; means where τ² differs."""
        rows = []
        for name, each in self.terms.items():
            used = _used(each.term)
            for k, effect in enumerate(each.term.effects):
                values = each.tau2[used[:, k], k]
                label = name if len(each.term.effects) == 1 else f"{name}: {effect}"
                rows.append((label, values.mean(), math.sqrt(values.mean()), len(values)))
        table = pd.DataFrame(rows, columns=["component", "tau2", "tau", "groups"])
        return table.set_index("component")

    def to_dataframe(self) -> pd.DataFrame:
        """All coefficients as one table, indexed by part and term."""
        parts = {"location": self.location}
        for name, each in self.terms.items():
            parts[f"scale ({name})"] = wald_table(each.term.names, each.alpha, each.vcov)
        shared = ["estimate", "se", "pval", "ci_lb", "ci_ub"]
        if self.test == "t":
            parts = {name: table[shared] for name, table in parts.items()}
        for name, table in ((name, _correlations(each)) for name, each in self.terms.items()):
            if len(table):
                parts[f"correlation ({name})"] = table.reindex(columns=parts["location"].columns)
        return pd.concat(parts, names=["part", "term"])

    @property
    def n_parameters(self) -> int:
        """Location and scale coefficients, and correlations."""
        scale = sum(len(each.alpha) + len(each.kappa) for each in self.terms.values())
        return len(self.beta) + scale

    @property
    def _effective_n(self) -> int:
        return len(self.design.y) - (len(self.beta) if self.method == "REML" else 0)

    @property
    def aic(self) -> float:
        """Akaike's information criterion."""
        return -2 * self.loglik + 2 * self.n_parameters

    @property
    def bic(self) -> float:
        """Bayesian information criterion, with n − p observations under REML."""
        return -2 * self.loglik + math.log(self._effective_n) * self.n_parameters

    @property
    def aicc(self) -> float:
        """AIC corrected for small samples, with n − p observations under REML."""
        n = max(self._effective_n, self.n_parameters + 2)
        return -2 * self.loglik + 2 * self.n_parameters * n / (n - self.n_parameters - 1)

    @property
    def nlme(self) -> pd.Series:
        """logLik, AIC and BIC as nlme prints them: its REML likelihood leaves out ln |X'X|."""
        loglik = self.loglik - (0.5 * self.log_det_XX if self.method == "REML" else 0.0)
        return pd.Series(
            {
                "logLik": loglik,
                "AIC": -2 * loglik + 2 * self.n_parameters,
                "BIC": -2 * loglik + math.log(self._effective_n) * self.n_parameters,
            }
        )

    @property
    def label(self) -> str:
        """The method."""
        return self.method

    @property
    def title(self) -> str:
        """The kind of model, its number of effects, and how it was fitted."""
        return model_title(self.design, self.label)

    @property
    def divergent(self) -> dict[str, Divergence]:
        """The scale terms whose likelihood has no finite maximum, and why."""
        return {
            name: each.divergence
            for name, each in self.terms.items()
            if each.divergence is not None
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any table of this fit has to know."""
        found = [f"{name}: {each}" for name, each in self.divergent.items()]
        for name, each in self.terms.items():
            missing = np.isnan(np.diag(each.vcov)) & np.isfinite(each.alpha)
            if missing.any() and each.divergence is None:
                found.append(f"{name}: the data do not identify every scale coefficient")
            if _at_border(each):
                found.append(f"{name}: a correlation is at its border; it has no interval")
        if not self.converged:
            found.append("the optimiser did not converge; do not use these numbers")
        return (*found, *self.design.notes)

    def comparison(self, *, at_stop: bool = False) -> dict[str, pd.DataFrame]:
        """The columns of this fit in a side-by-side table: estimate and se."""
        return {"": self.to_dataframe()[["estimate", "se"]]}

    def heterogeneity(self) -> LevelHeterogeneity:
        """τ² and I² of each scale term.

        See `bayes_lsm.reml.clustered_effects.level_heterogeneity`.
        """
        from bayes_lsm.reml.clustered_effects import level_heterogeneity

        return level_heterogeneity(self)

    def predict(
        self,
        new_data: pd.DataFrame,
        *,
        terms: Sequence[str] | None = None,
        level: float = 0.95,
    ) -> LevelPrediction:
        """The mean effect and a prediction interval in new groups.

        See `bayes_lsm.reml.clustered_effects.predict_levels`.
        """
        from bayes_lsm.reml.clustered_effects import predict_levels

        return predict_levels(self, new_data, terms=terms, level=level)

    def blup(self, *, level: float = 0.95) -> LevelEffects:
        """Predicted effects of the groups of every scale term.

        See `bayes_lsm.reml.clustered_effects.level_effects`.
        """
        from bayes_lsm.reml.clustered_effects import level_effects

        return level_effects(self, level=level)

    def to_string(self, *, digits: int | None = None) -> str:
        """All of the fit as text."""
        digits = self._digits if digits is None else digits
        criteria = pd.DataFrame(
            {"logLik": [self.loglik], "AIC": [self.aic], "BIC": [self.bic], "AICc": [self.aicc]},
            index=[""],
        )
        parts = [
            self.title,
            format_table(criteria, digits=digits),
            format_table(self.components, digits=digits),
            text_table(self.to_dataframe(), digits=digits),
            *wrap_notes(self.notes),
        ]
        return "\n\n".join(parts)


def fit_clustered(
    design: ClusteredDesign, *, method: Method = "REML", test: ClusteredTest = "z"
) -> ClusteredFit:
    """Fit a model with several scale terms by restricted or ordinary maximum likelihood.

    Parameters
    ----------
    design : ClusteredDesign
    method : {"REML", "ML"}, default "REML"
    test : {"z", "t"}, default "z"

    Returns
    -------
    ClusteredFit

    Warns
    -----
    DivergentScaleWarning
        When a scale term, or part of it, has no variance at the maximum.
    ConvergenceWarning
        When the optimiser stopped early.

    Examples
    --------
    >>> from bayes_lsm.clustered_design import build_clustered_design
    >>> from bayes_lsm.datasets import load_dataset
    >>> from bayes_lsm.specification import Specification
    >>> spec = Specification(
    ...     "yi ~ 1", "vi", scale={"district": "~ 1", "district/school": "~ 1"})
    >>> design = build_clustered_design(spec, load_dataset("konstantopoulos2011"))
    >>> fit_clustered(design).components.round(4)
                       tau2     tau  groups
    component
    district         0.0651  0.2551      11
    district/school  0.0327  0.1809      56

    References
    ----------
    Konstantopoulos, S. (2011). Fixed effects and variance components estimation in three-level
    meta-analysis. Research Synthesis Methods, 2(1), 61-76. doi:10.1002/jrsm.35
    """
    from bayes_lsm.reml.clustered_search import ClusteredSearch  # loads numba

    if test not in ("z", "t"):
        raise FitError(f"test must be 'z' or 't' with several scale terms, got {test!r}")
    best = ClusteredSearch(design, method).best
    if not math.isfinite(best.value):
        raise FitError(
            "the likelihood cannot be computed at any starting value; check that no group of rows "
            "has equal effects and no variance"
        )
    covariance = _covariance(best.ascent.at.hessian)
    terms = {term.name: _estimate(term, t, best, covariance) for t, term in enumerate(design.terms)}
    fit = ClusteredFit(
        design=design,
        method=method,
        beta=best.ascent.at.beta,
        vcov_location=best.ascent.at.covariance,
        terms=terms,
        loglik=best.value,
        log_det_XX=best.data.log_det_XX,
        converged=best.ascent.converged,
        test=test,
    )
    _warn(fit)
    return fit


def _covariance(hessian: Array) -> Array:
    """The inverse of −H; nan for coefficients without information."""
    values, vectors = np.linalg.eigh(-hessian)
    informed = values > _NO_INFORMATION
    inverse = (vectors[:, informed] / values[informed]) @ vectors[:, informed].T
    lost = np.any(np.abs(vectors[:, ~informed]) > 1e-6, axis=1)
    inverse[lost, :] = inverse[:, lost] = np.nan
    return np.asarray(inverse)


def _estimate(term: ScaleTerm, t: int, best, covariance: Array) -> TermEstimate:  # type: ignore[no-untyped-def]
    """One term's share of the maximum; ±inf or nan for what a limit took."""
    left = best.remaining[t]
    alpha, kappa = best.coefficients[t]
    first = int(best.data.starts[t])
    here = np.arange(first, first + len(alpha))
    there = np.arange(first + len(alpha), first + len(alpha) + len(kappa))
    q = len(term.names)
    full, vcov = np.full(q, np.nan), np.full((q, q), np.nan)
    kept = list(left.kept)
    full[kept] = alpha
    vcov[np.ix_(kept, kept)] = covariance[np.ix_(here, here)]
    divergence = None
    if left.zero.any():
        Z = term.Z.reshape(-1, q)
        signs, direction = Cone(Z).signs(left.zero.reshape(-1))
        for j, sign in signs.items():
            full[j] = sign
        infinite = ~np.isfinite(full)
        vcov[infinite, :] = vcov[:, infinite] = np.nan
        divergence = Divergence(
            terms={term.names[j]: sign for j, sign in signs.items()},
            direction=dict(zip(term.names, map(float, direction), strict=True)),
            studies=tuple(term.groups[g] for g in np.flatnonzero(left.zero.any(axis=1))),
            everywhere=bool(left.zero.all()),
        )
    return TermEstimate(
        term=term,
        alpha=full,
        vcov=vcov,
        tau2=best.tau2[t],
        kappa=kappa,
        vcov_kappa=covariance[np.ix_(there, there)],
        correlation=_correlation_matrix(term, left.effects, kappa),
        divergence=divergence,
    )


def _correlation_matrix(term: ScaleTerm, effects: tuple[int, ...], kappa: Array) -> Array:
    """R (s, s) from κ; nan for effects without variance."""
    s = len(term.effects)
    if s == 1 or term.correlation == "none":
        return np.eye(s)
    R = correlation_matrices(kappa[None], len(effects), term.correlation)[0]
    full = np.full((s, s), np.nan)
    full[np.ix_(effects, effects)] = R
    np.fill_diagonal(full, 1.0)
    return full


def _correlations(each: TermEstimate, level: float = 0.95) -> pd.DataFrame:
    """One row a pair of effects."""
    effects, R = each.term.effects, each.correlation
    if len(effects) == 1 or each.term.correlation == "none":
        return pd.DataFrame(columns=["estimate", "ci_lb", "ci_ub"], dtype=float)
    quantile = float(ndtri(0.5 + level / 2))
    rows, names = [], []
    for i in range(len(effects)):
        for j in range(i):
            bounds = (math.nan, math.nan)
            simple = j == 0 or (each.term.correlation == "compound_symmetric" and len(effects) == 2)
            place = i * (i - 1) // 2 if each.term.correlation == "unstructured" else 0
            if (
                simple
                and len(each.kappa)
                and not abs(R[i, j]) > 1 - _BORDER
                and (len(effects) == 2 or each.term.correlation == "unstructured")
            ):
                half = quantile * math.sqrt(max(each.vcov_kappa[place, place], 0.0))
                z = each.kappa[place]
                bounds = (math.tanh(z - half), math.tanh(z + half))
            rows.append((R[i, j], *bounds))
            names.append(f"{effects[j]}, {effects[i]}")
    return pd.DataFrame(rows, columns=["estimate", "ci_lb", "ci_ub"], index=names)


def _used(term: ScaleTerm) -> npt.NDArray[np.bool_]:
    """Which effects of which groups have rows, shape (G, s)."""
    used = np.zeros(term.Z.shape[:2], dtype=bool)
    row, effect = np.nonzero(term.slopes)
    used[term.index[row], effect] = True
    return used


def _at_border(each: TermEstimate) -> bool:
    off = each.correlation[~np.eye(len(each.correlation), dtype=bool)]
    return bool((np.abs(off) > 1 - _BORDER).any())


def _warn(fit: ClusteredFit) -> None:
    for name, each in fit.divergent.items():
        warnings.warn(
            f"{name}: {each}. Leave the term out of the scale part, or merge groups.",
            DivergentScaleWarning,
            stacklevel=3,
        )
    if not fit.converged:
        warnings.warn(
            "the optimiser did not converge; simplify the scale formulas",
            ConvergenceWarning,
            stacklevel=3,
        )
