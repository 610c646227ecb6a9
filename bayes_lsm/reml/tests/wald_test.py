"""Wald tests of coefficients and their linear combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.choices import require_choice
from bayes_lsm.design.coefficients import term_columns
from bayes_lsm.design.exchangeable import PartName
from bayes_lsm.errors import FitError
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.wald import joint_test, wald_table
from bayes_lsm.tables import Tabled, format_pval

Contrast = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class WaldTest(Tabled):
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


def wald_test(
    fit: Estimates,
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
    require_choice("part", part, PartName)
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
    joint = joint_test(difference, V, df_residual)
    return WaldTest(part, table, joint.statistic, m, df_residual, joint.pval)


def _part_of(fit: Estimates, part: PartName) -> tuple[Sequence[str], Array, Array, int | None]:
    """Names, estimates, their covariance, and the degrees of freedom of t and F."""
    if part == "location":
        return fit.design.location.names, fit.beta, fit.known_vcov_location, fit.df_location
    return fit.scale_names, fit.alpha, fit.vcov_scale, fit.df_scale


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
    fit: Estimates,
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
    if part == "scale" and fit.divergence is not None:
        raise FitError(
            f"a Wald test of {listed} does not exist: {fit.divergence}. Leave it out of the test, "
            "or use likelihood_ratio_test, bootstrap_test or profile"
        )
    raise FitError(
        f"a Wald test of {listed} does not exist: the fit has no standard error for it (fixed, at "
        "a bound, or not identified by the data); leave it out of the test"
    )
