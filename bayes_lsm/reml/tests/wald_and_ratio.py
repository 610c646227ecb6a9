"""Tests of coefficients of fits: Wald and likelihood ratio.

Rao's score test is in `score`, those that resample are in `permutation` and `bootstrap`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc, fdtrc

from bayes_lsm.choices import require_choice
from bayes_lsm.errors import FitError
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.tests.nesting import is_nested, same_location, same_sampling_errors
from bayes_lsm.results import wald_table
from bayes_lsm.specification import Method
from bayes_lsm.tables import Printable

Array = npt.NDArray[np.float64]
PartName = Literal["location", "scale"]
Contrast = Mapping[str, float]
AnyFit = Estimates


@dataclass(frozen=True, eq=False)
class WaldTest(Printable):
    """A Wald test of one or several linear combinations of coefficients.

    Attributes
    ----------
    part : {"location", "scale"}
    table : DataFrame
        One row a combination: estimate less its hypothesised value, se, zval (or tval and df),
        pval, ci_lb, ci_ub.
    statistic : float
        z (or t) for one combination; χ² (or F) for several.
    df : int
        Number of combinations.
    df_residual : int or None
        Of t and F; None for z and χ².
    pval : float
    """

    part: PartName
    table: pd.DataFrame
    statistic: float
    df: int
    df_residual: int | None
    pval: float

    @property
    def title(self) -> str:
        """The test of all combinations together."""
        degrees = "" if self.df_residual is None else str(self.df_residual)
        if self.df == 1:
            letter = f"t(df = {degrees})" if degrees else "z"
        else:
            letter = f"F({self.df}, {degrees})" if degrees else f"χ²(df = {self.df})"
        verdict = f"{letter} = {self.statistic:.4f}, {format_pval(self.pval)}"
        return f"Wald test ({self.part}): {verdict}"

    @property
    def notes(self) -> tuple[str, ...]:
        """None."""
        return ()

    def to_dataframe(self) -> pd.DataFrame:
        """One row a combination."""
        return self.table.copy()


def wald_test(
    fit: AnyFit,
    *,
    part: PartName = "scale",
    contrast: Contrast | Sequence[Contrast] | npt.ArrayLike | None = None,
    terms: str | Sequence[str] | None = None,
    value: float | npt.ArrayLike = 0.0,
) -> WaldTest:
    """Test linear combinations of coefficients, singly and jointly.

    Parameters
    ----------
    fit : RemlFit or Estimates
        Its `test` decides between z and χ² on the one hand, t and F on the other. With several
        scale terms scale coefficients are called ``"school: size"``, or ``"size"`` where no other
        term has one of that name, and are tested by z and χ² (the location by t and F if so asked).
    part : {"location", "scale"}, default "scale"
    contrast : mapping of term to weight, list of such, or array, shape (m, q) or (q,), optional
        The combinations; an array has one weight for each term of the part.
    terms : str or sequence of str, optional
        Test these coefficients, in place of `contrast`. With neither given, all moderators of the
        part are tested, as `Estimates.qs` and `Estimates.qm` do.
    value : float or array, shape (m,), default 0
        What the combinations are under the null hypothesis, in the units of the coefficients.

    Returns
    -------
    WaldTest

    Raises
    ------
    FitError
        For an unknown term, a contrast of the wrong size or whose rows depend on each other, and
        a contrast that touches a coefficient without a finite estimate or standard error.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ alloc", scale="~ alloc", variance="vi", data=lsm.load_dataset("bcg")).fit_reml()
    >>> test = wald_test(fit, contrast={"allocrandom": 1, "allocsystematic": -1})
    >>> round(test.statistic, 3), round(test.pval, 3)
    (-0.015, 0.988)

    References
    ----------
    Viechtbauer & López-López (2022), doi:10.1002/jrsm.1562, section 2.3.
    """
    names, estimate, covariance, df_residual = _part_of(fit, part)
    weights, labels = _rows(part, names, contrast, terms)
    m = len(weights)
    null = np.asarray(value, dtype=float)
    if null.shape not in ((), (m,)) or not np.isfinite(null).all():
        raise FitError(f"value must be a finite number or {m} of them, got {value!r}")
    touched = (weights != 0).any(axis=0)
    _require_estimated(fit, part, names, estimate, covariance, touched)
    C = weights[:, touched]
    difference = C @ estimate[touched] - null
    V = C @ covariance[np.ix_(touched, touched)] @ C.T
    table = wald_table(labels, difference, V, df=df_residual).rename_axis("contrast")
    if m == 1:
        ratio = table["zval" if df_residual is None else "tval"].iloc[0]
        return WaldTest(part, table, float(ratio), 1, df_residual, float(table["pval"].iloc[0]))
    chi2 = float(difference @ np.linalg.solve(V, difference))
    if df_residual is None:
        return WaldTest(part, table, chi2, m, None, float(chdtrc(m, chi2)))
    pval = float(fdtrc(m, df_residual, chi2 / m))
    return WaldTest(part, table, chi2 / m, m, df_residual, pval)


def _part_of(fit: AnyFit, part: str) -> tuple[Sequence[str], Array, Array, int | None]:
    """Names, estimates, their covariance, and the degrees of freedom of t and F."""
    require_choice("part", part, PartName)
    location = part == "location"
    if not fit.design.is_independent:
        if location:
            return fit.design.location.names, fit.beta, fit.known_vcov_location, fit.df_location
        return fit.scale_names, fit.alpha, fit.vcov_scale, None
    names = fit.design.location.names if location else fit.design.scale.names
    estimate, covariance = (
        (fit.beta, fit.known_vcov_location) if location else (fit.alpha, fit.vcov_scale)
    )
    return (
        names,
        estimate,
        covariance,
        None if fit.test == "z" else fit.design.n_studies - len(names),
    )


def term_columns(
    part: str, names: Sequence[str], terms: str | Sequence[str] | None = None
) -> list[int]:
    """Columns of some terms of a part; of all its moderators (or the intercept) by default."""
    if terms is None:
        return [j for j, name in enumerate(names) if name.split(": ")[-1] != "intrcpt"] or [0]
    given = [terms] if isinstance(terms, str) else list(terms)
    if not given:
        raise FitError(f"no terms are given; the {part} terms are {', '.join(names)}")
    wanted = [_whole_name(part, names, term) for term in given]
    if len(set(wanted)) < len(wanted):
        raise FitError(f"each term can be given once, got {', '.join(wanted)}")
    return [list(names).index(term) for term in wanted]


def require_free_log_link(fit: Estimates, what: str) -> None:
    """Refuse fits whose scale part is not an unconstrained model of ln τ²."""
    if fit.design.specification.link != "log":
        raise FitError(f"{what} needs a fit with link='log', got link='identity'")
    if fit.fixed or fit.at_bound:
        held = ", ".join([*fit.fixed, *fit.at_bound])
        raise FitError(
            f"{what} needs a fit in which every scale coefficient is free, got one that holds "
            f"{held}; refit without fixed values and bounds"
        )


def format_pval(pval: float) -> str:
    """``p = .0410``, or ``p < .0001``."""
    return "p < .0001" if pval < 1e-4 else f"p = {pval:.4f}"


def _whole_name(part: str, names: Sequence[str], term: str) -> str:
    """The term as it is called; of several scale terms, with the grouping that it may leave out."""
    if term in names:
        return term
    found = [name for name in names if name.endswith(f": {term}")]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(map(repr, found))
        raise FitError(f"several scale terms have {term!r}; write one of {listed}")
    raise FitError(f"there is no {part} term {term!r}; the {part} terms are {', '.join(names)}")


def _rows(
    part: str, names: Sequence[str], contrast: object, terms: str | Sequence[str] | None
) -> tuple[Array, list[str]]:
    """Weights (m, q) and what to call each row."""
    if contrast is not None and terms is not None:
        raise FitError("give contrast or terms, not both")
    if contrast is None:
        columns = term_columns(part, names, terms)
        return np.eye(len(names))[columns], [names[j] for j in columns]
    weights = _weights(part, names, contrast)
    if len(weights) == 0 or np.linalg.matrix_rank(weights) < len(weights):
        raise FitError(
            "the rows of a contrast must not be zero or combinations of each other; leave out "
            "those that are"
        )
    return weights, [_label(row, names) for row in weights]


def _weights(part: str, names: Sequence[str], contrast: object) -> Array:
    given = [contrast] if isinstance(contrast, Mapping) else contrast
    if isinstance(given, Sequence) and given and all(isinstance(row, Mapping) for row in given):
        weights = np.zeros((len(given), len(names)))
        for row, mapping in zip(weights, given, strict=True):
            row[term_columns(part, names, list(mapping))] = [float(w) for w in mapping.values()]
    else:
        try:
            weights = np.atleast_2d(np.array(given, dtype=float))
        except (TypeError, ValueError):
            weights = np.empty((0, 0, 0))
        if weights.ndim != 2 or weights.shape[1] != len(names):
            raise FitError(
                f"a contrast must have a weight for each of the {len(names)} {part} terms "
                f"({', '.join(names)}) in every row, or be a mapping of term to weight; "
                f"got {contrast!r}"
            )
    if not np.isfinite(weights).all():
        raise FitError(f"the weights of a contrast must be finite, got {contrast!r}")
    return weights


def _label(row: Array, names: Sequence[str]) -> str:
    """``gb - gc``, ``intrcpt - 10×x``."""
    text = ""
    for weight, name in zip(row, names, strict=True):
        if weight:
            size = "" if abs(weight) == 1 else f"{abs(weight):g}×"
            sign = (" - " if weight < 0 else " + ") if text else ("-" if weight < 0 else "")
            text += f"{sign}{size}{name}"
    return text


def _require_estimated(
    fit: AnyFit,
    part: str,
    names: Sequence[str],
    estimate: Array,
    covariance: Array,
    touched: npt.NDArray[np.bool_],
) -> None:
    bad = touched & ~(np.isfinite(estimate) & np.isfinite(np.diag(covariance)))
    if not bad.any():
        return
    listed = ", ".join(name for name, is_bad in zip(names, bad, strict=True) if is_bad)
    if part == "scale" and (why := _divergence(fit)):
        raise FitError(
            f"a Wald test of {listed} does not exist: {why}. Leave it out of the test, "
            "or use likelihood_ratio_test, bootstrap_test or profile"
        )
    raise FitError(
        f"a Wald test of {listed} does not exist: the fit has no standard error for it (fixed, at "
        "a bound, or not identified by the data); leave it out of the test"
    )


def _divergence(fit: AnyFit) -> str:
    return str(fit.divergence or "")


@dataclass(frozen=True, eq=False)
class LikelihoodRatioTest(Printable):
    """A likelihood-ratio test of two nested fits.

    Attributes
    ----------
    statistic : float
        2(ℓ_full − ℓ_reduced).
    df : int
    pval : float
    table : DataFrame
        The two fits: df, AIC, BIC, AICc, logLik, LRT, pval.
    method : {"REML", "ML"}
    remarks : tuple of str
        Why χ² may not be the distribution of the statistic.
    """

    statistic: float
    df: int
    pval: float
    table: pd.DataFrame
    method: Method
    remarks: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The test in a line."""
        verdict = f"χ²(df = {self.df}) = {self.statistic:.4f}, {format_pval(self.pval)}"
        return f"Likelihood-ratio test ({self.method}): {verdict}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the p-value has to know."""
        return self.remarks

    def to_dataframe(self) -> pd.DataFrame:
        """The two fits."""
        return self.table.copy()


def likelihood_ratio_test(full: AnyFit, reduced: AnyFit) -> LikelihoodRatioTest:
    """Compare a fit with one whose model is a special case of it.

    Where a coefficient diverges, the log-likelihood is its supremum, so that the statistic exists
    all the same. Its χ² distribution is then doubtful: see `bootstrap_test`.

    Parameters
    ----------
    full, reduced : RemlFit or Estimates
        Of the same effects, by the same method; under REML with the same location part.

    Raises
    ------
    FitError
        When the two likelihoods cannot be compared.

    References
    ----------
    Viechtbauer & López-López (2022), doi:10.1002/jrsm.1562, section 2.3.
    """
    check_nested(full, reduced)
    df = full.n_parameters - reduced.n_parameters
    statistic = max(0.0, 2 * (full.loglik - reduced.loglik))
    pval = float(chdtrc(df, statistic))
    rows = [
        {
            "df": fit.n_parameters,
            "AIC": fit.aic,
            "BIC": fit.bic,
            "AICc": fit.aicc,
            "logLik": fit.loglik,
            "LRT": np.nan if fit is full else statistic,
            "pval": np.nan if fit is full else pval,
        }
        for fit in (full, reduced)
    ]
    table = pd.DataFrame(rows, index=pd.Index(["Full", "Reduced"], name="model"))
    return LikelihoodRatioTest(
        statistic, df, pval, table, full.method, tuple(_doubts(full, reduced))
    )


def _doubts(full: AnyFit, reduced: AnyFit) -> Iterator[str]:
    """What makes the χ² distribution of the statistic doubtful."""
    if _divergence(full) or _divergence(reduced):
        yield (
            "scale coefficients run to infinity, where the statistic need not be χ²; use "
            "bootstrap_test"
        )
    elif not full.design.is_independent and len(full.terms) > _scale_terms(reduced):
        yield (
            "the reduced model has fewer scale terms, so that a variance is at its border 0 there: "
            "χ² makes the p-value too large; use bootstrap_test"
        )
    for name, fit in (("full", full), ("reduced", reduced)):
        if fit.rival is not None:
            yield (
                f"the likelihood of the {name} model has another maximum, higher by "
                f"{fit.rival_loglik - fit.loglik:.4f}, which the statistic leaves out"
            )
        if not fit.converged:
            yield f"the fit of the {name} model did not converge; do not use this test"


def _scale_terms(fit: AnyFit) -> int:
    return len(fit.terms) if not fit.design.is_independent else 1


def check_nested(full: AnyFit, reduced: AnyFit) -> None:
    """Refuse two fits whose likelihoods cannot be compared."""
    if full.method != reduced.method:
        raise FitError(f"cannot compare {full.method} with {reduced.method}; refit by one method")
    if not (
        np.array_equal(full.design.y, reduced.design.y)
        and np.array_equal(full.design.v, reduced.design.v)
        and same_sampling_errors(full.design, reduced.design)
    ):
        raise FitError(
            f"the fits are of different rows ({full.design.size} and {reduced.design.size}), or of "
            "other sampling variances; drop rows with missing moderators first"
        )
    if full.method == "REML" and not same_location(full.design, reduced.design):
        raise FitError(
            "REML likelihoods of different location parts cannot be compared; use method='ML'"
        )
    if full.n_parameters <= reduced.n_parameters or not is_nested(reduced.design, full.design):
        raise FitError(
            "the reduced model must be a special case of the full one, with fewer coefficients; "
            "give them in the order (full, reduced) and check that the models are nested"
        )
