"""How much heterogeneity there is: τ², I², H², R² and Cochran's Q, as meta-analyses report them.

I² and H² compare τ² with the typical sampling variance ṽ = (n − p) / tr(P), P with weights V⁻¹
(Higgins & Thompson 2002, doi:10.1002/sim.1186): I² = τ²/(τ² + ṽ), H² = (τ² + ṽ)/ṽ. Of several
scale terms each has its share of Σ_l τ_l² + ṽ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.likelihood.typical_variance import typical_variance
from bayes_lsm.predictions import Levels
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.prediction.variances import Uncertain, of_the_data, variances_at
from bayes_lsm.reml.uninformed import mean_of_known
from bayes_lsm.reml.wald import ChiSquareTest, cochran_q
from bayes_lsm.specification import Method
from bayes_lsm.tables import format_table, text_table, wrap_notes

# τ², relative to the total variance, at which the information about one that is 0 is computed.
_SMALL = 1e-12


@dataclass(frozen=True, eq=False)
class Heterogeneity(Levels):
    """Heterogeneity of a fit, level by level.

    `tau2`, `tau`, `se_tau2`, `I2` and `H2` are those of the total. Where τ² differs between rows
    all numbers are of the average row (the mean τ²), and `by_row` has those of each.

    Attributes
    ----------
    table : DataFrame
        One row a scale term, and the total where there are several: tau2, se, tau, I2 (per cent)
        and H2. The standard error is from the expected information where every term has one τ²;
        else by the delta method from the covariance of the scale coefficients, and nan when that is
        missing, as when a coefficient diverges. Individual data have no H2, and their I2 are
        intraclass correlations.
    typical_variance : float
        ṽ, the typical sampling variance; 0 for individual data.
    Q : ChiSquareTest or None
        Cochran's test of (residual) heterogeneity; None for individual data.
    by_row : DataFrame
        One row a row of the data: tau2 of all terms, tau, I2, H2.
    R2 : float
        100 (1 − τ̄²/τ²_RE), at least 0: the per cent of τ²_RE, the mean τ² of the model without
        moderators (the same terms and method), that the location moderators account for, with τ̄²
        that of this fit. nan without location moderators or without an intercept.
    R2_scale : float
        100 (1 − exp(−LR/n)), the likelihood-ratio R² of the scale moderators (Magee 1990): LR
        compares the fit with that of constant τ² and the same location part, n = k (ML) or k − p
        (REML). It says how much better the moderators describe the spread of the effects, and is
        not a share of any variance. nan with constant τ², without a constant in the scale part, or
        with the identity link.
    constant : bool
        Whether no scale term has moderators.

    References
    ----------
    Magee, L. (1990). R² measures based on Wald and likelihood ratio joint significance tests.
    The American Statistician, 44(3), 250-253. doi:10.1080/00031305.1990.10475731

    Nakagawa, S., & Santos, E. S. A. (2012). Methodological issues and advances in biological
    meta-analysis. Evolutionary Ecology, 26, 1253-1274. doi:10.1007/s10682-012-9555-5
    """

    typical_variance: float
    Q: ChiSquareTest | None
    by_row: pd.DataFrame
    R2: float
    R2_scale: float
    constant: bool

    @property
    def se_tau2(self) -> float:
        """The standard error of `tau2`."""
        return self._total("se")

    @property
    def by_study(self) -> pd.DataFrame:
        """`by_row`, whose rows are the studies."""
        return self.by_row

    def to_string(self, *, digits: int | None = None, by_study: int = 0) -> str:
        """All of it as text, with the rows of the first `by_study` studies below it."""
        digits = self._digits if digits is None else digits
        alone = len(self.table) == 1
        lines = self._as_list(digits) if alone else self._as_table(digits)
        if by_study:
            lines += ["", format_table(self.by_row.head(by_study), digits=digits)]
        return "\n".join([*lines, *([] if alone else ["", *wrap_notes(self.remarks)])]).rstrip()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know, and the numbers of the whole model."""
        whole = [" ".join(pair) for pair in (*self._shares(), *self._test(self._digits))]
        return (*whole, *super().notes)

    def _as_table(self, digits: int) -> list[str]:
        table = text_table(self.table, digits=digits)
        below = [" ".join(pair) for pair in (*self._shares(), *self._test(digits))]
        return [self.title, "", table, *(["", *below] if below else [])]

    def _as_list(self, digits: int) -> list[str]:
        rows = [*self._amounts(digits), *self._shares()]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}} {value}" for name, value in rows]
        return [*lines, *(" ".join(pair) for pair in self._test(digits))]

    def _amounts(self, digits: int) -> Iterator[tuple[str, str]]:
        about = "" if self.constant else " of the average study"
        if np.isnan(self.tau2):
            yield f"τ²{about}:", "not informed by the data"
            return
        se = f" (SE = {self.se_tau2:.{digits}f})" if np.isfinite(self.se_tau2) else ""
        yield f"τ²{about}:", f"{self.tau2:.{digits}f}{se}"
        yield f"τ{about}:", f"{self.tau:.{digits}f}"
        if not self.constant:
            low, high = self.by_row["tau2"].min(), self.by_row["tau2"].max()
            yield "τ² of the studies, from … to:", f"{low:.{digits}f} … {high:.{digits}f}"
        yield "I² (heterogeneity / total variability):", f"{self.I2:.2f}%"
        if np.isfinite(self.H2):
            yield "H² (total / sampling variability):", f"{self.H2:.2f}"

    def _shares(self) -> Iterator[tuple[str, str]]:
        if np.isfinite(self.R2):
            yield "R² (heterogeneity accounted for):", f"{self.R2:.2f}%"
        if np.isfinite(self.R2_scale):
            yield "R² of the scale part (likelihood ratio):", f"{self.R2_scale:.2f}%"

    def _test(self, digits: int) -> Iterator[tuple[str, str]]:
        if self.Q is None:
            return
        smallest = 10.0**-digits
        pval = (
            f"p < {smallest:.{digits}f}".replace("0.", ".", 1)
            if self.Q.pval < smallest
            else f"p = {self.Q.pval:.{digits}f}"
        )
        found = f"Q(df = {self.Q.df}) = {self.Q.statistic:.{digits}f}, {pval}"
        yield "Test for heterogeneity:", found


def heterogeneity(fit: Estimates) -> Heterogeneity:
    """τ², I², H², R² and Cochran's Q of a fit, of each scale term and of all together.

    With scale moderators the numbers are of each row (`Heterogeneity.by_row`) and of the average
    one, whose τ² is the mean of the rows' τ², less those of which the data say nothing; a term's τ²
    in a row is that of its effects times their slopes. I² and H² are metafor's: every τ² is
    compared with the same typical sampling variance.

    Parameters
    ----------
    fit : RemlFit

    Returns
    -------
    Heterogeneity
        See there how R² and the R² of the scale part are defined.

    Examples
    --------
    >>> from bayes_lsm import Specification, build_design, load_dataset
    >>> from bayes_lsm.reml import fit_reml
    >>> spec = Specification("yi ~ ablat", "vi", scale="~ ablat")
    >>> found = heterogeneity(fit_reml(build_design(spec, load_dataset("bcg"))))
    >>> round(found.R2, 1), round(found.R2_scale, 2)
    (75.5, 0.0)
    >>> found.by_study.head(2).round(3)
            tau2    tau      I2     H2
    study
    row 0  0.076  0.276  68.344  3.159
    row 1  0.076  0.275  68.170  3.142

    Several scale terms:

    >>> import bayes_lsm as lsm
    >>> data = lsm.load_dataset("konstantopoulos2011")
    >>> scale = {"district": "~ 1", "district/school": "~ 1"}
    >>> fit = lsm.LocationScaleModel("yi ~ 1", scale, variance="vi", data=data).fit_reml()
    >>> print(heterogeneity(fit))
    Heterogeneity of a Multilevel Location-Scale Model (n = 56; REML)
    <BLANKLINE>
                       tau2      se     tau       I2       H2
    district         0.0651  0.0355  0.2551  63.3248  14.1579
    district/school  0.0327  0.0111  0.1809  31.8625   7.6205
    total            0.0978  0.0359  0.3127  95.1873  20.7784
    <BLANKLINE>
    Test for heterogeneity: Q(df = 55) = 578.8640, p < .0001
    """
    design, typical = fit.design, typical_variance(fit.design)
    means = np.array([mean_of_known(each) for each in _by_row(fit)])
    constant = all(term.is_constant for term in design.terms)
    total = float(means.sum())
    return Heterogeneity(
        **facts(design, means, _standard_errors(fit, means, typical), fit.known_tau2, typical),
        heading=f"Heterogeneity of a {fit.title}",
        remarks=fit.notes,
        R2=accounted_for(design, total, lambda alone: _mean_tau2(fit, alone)),
        R2_scale=math.nan if constant else _r2_scale(fit),
        constant=constant,
    )


def facts(design: Design, tau2: Array, se: Array, rows: Array, typical: float) -> dict[str, Any]:
    """Fields of `Heterogeneity`, from τ² and SE of each scale term (and the sum), τ² by row."""
    names = [term.name for term in design.terms]
    if len(names) > 1:
        names, tau2 = [*names, "total"], np.append(tau2, tau2.sum())
    table = _measures(tau2, tau2[-1] + typical, typical, pd.Index(names, name="level"))
    table.insert(1, "se", se[: len(names)])
    return {
        "table": table,
        "level": 0.95,
        "typical_variance": typical,
        "Q": cochran_q(design) if (design.v > 0).all() else None,
        "by_row": _measures(rows, rows + typical, typical, pd.Index(design.labels, name="study")),
    }


def _measures(tau2: Array, total: Array | float, typical: float, index: pd.Index) -> pd.DataFrame:
    """tau2, tau, I2 and H2, of a total variance of which τ² and ṽ are parts."""
    total = np.broadcast_to(total, tau2.shape)
    share = np.divide(tau2, total, out=np.zeros_like(tau2), where=total != 0)
    table = pd.DataFrame({"tau2": tau2, "tau": np.sqrt(tau2), "I2": 100 * share}, index=index)
    return table.assign(H2=tau2 / typical + 1) if typical > 0 else table


def _standard_errors(fit: Estimates, means: Array, typical: float) -> Array:
    """Of the mean τ² of each scale term, and of their sum."""
    design, (term, *others) = fit.design, fit.design.terms
    held = fit.fixed or (fit.at_bound and design.specification.link == "log")
    if not others and term.names == ("intrcpt",) and not held:
        se = standard_error_tau2(design, float(means[0]), typical, fit.method)
        return np.array([se, se])
    return _by_delta_method(fit)


def standard_error_tau2(design: Design, tau2: float, typical: float, method: Method) -> float:
    """SE of the mean τ² of a model with one scale coefficient, by the expected information.

    That on ln τ², ½ tr(PVPV) or for ML ½ tr(Σ⁻¹VΣ⁻¹V) with V = τ²AA', is that on τ² times τ⁴.
    """
    (term,) = design.terms
    per_row = float(np.mean(term.slopes**2))
    size = tau2 + typical
    if not 0 < size < math.inf:
        return math.nan
    value = max(tau2, _SMALL * size) / per_row
    information = likelihood_of(design).information(np.array([math.log(value)]), method)
    return value * per_row / math.sqrt(float(information[0, 0]))


def _by_delta_method(fit: Estimates) -> Array:
    """The gradient of a row's variance is the variance times that of its logarithm."""
    uncertain = Uncertain.of(fit)
    parts = variances_at(fit, of_the_data(fit), list(fit.terms))
    gradients = []
    for part, variance in zip(parts.values(), _by_row(fit), strict=True):
        known = ~np.isnan(variance)
        weights = np.ones(known.sum()) if part.identity else variance[known]
        gradients.append(weights @ part.gradient[known] / max(1, known.sum()))
    rows = np.array([*gradients, np.sum(gradients, axis=0)])
    se = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", rows, uncertain.covariance, rows), 0.0))
    lost = [each.divergence is not None for each in fit.terms.values()]
    unknown = (rows[:, uncertain.unknown] != 0).any(axis=1)
    return np.where(np.r_[lost, any(lost)] | unknown, np.nan, se)


def _by_row(fit: Estimates) -> list[Array]:
    """Each term's variance of each row (n,), nan where the data say nothing of it."""
    return [
        each.variances_at(each.term.slopes, each.known_tau2[each.term.index])
        for each in fit.terms.values()
    ]


def accounted_for(design: Design, total: float, estimated: Callable[[Design], float]) -> float:
    """R² of the location moderators, where `total` is τ² with them: see `Heterogeneity`."""
    names = design.location.names
    if len(names) == 1 or "intrcpt" not in names:
        return math.nan
    others = [j for j, name in enumerate(names) if name != "intrcpt"]
    before = estimated(design.without(location=others))
    if np.isnan(total) or np.isnan(before):
        return math.nan
    return 100 * max(0.0, 1 - total / before) if before > 0 else 0.0


def _mean_tau2(fit: Estimates, design: Design) -> float:
    """That of another design, without scale moderators."""
    return float(np.sum([np.mean(each) for each in _by_row(_constant_fit(fit, design))]))


def _r2_scale(fit: Estimates) -> float:
    design = fit.design
    if design.specification.link == "identity" or not all(map(_has_constant, design.terms)):
        return math.nan
    ratio = max(0.0, 2 * (fit.loglik - _constant_fit(fit, design).loglik))
    return -100 * math.expm1(-ratio / fit.effective_n)


def _constant_fit(fit: Estimates, design: Design) -> Estimates:
    """That without scale moderators."""
    from bayes_lsm.reml.search.estimate import estimate

    return estimate(
        replace(design, terms=tuple(map(_without_moderators, design.terms))), fit.method
    )


def _without_moderators(term: ScaleTerm) -> ScaleTerm:
    """The term with one τ² for each effect of a group."""
    if term.is_constant:
        return term
    names = term.effects if len(term.effects) > 1 else ("intrcpt",)
    return replace(term, names=names, Z=np.tile(np.eye(len(names)), (len(term.groups), 1, 1)))


def _has_constant(term: ScaleTerm) -> bool:
    """Whether the model with one τ² for each effect is nested in the term."""
    Z, ones = term.Z[term.used], np.nonzero(term.used)[1][:, None] == np.arange(len(term.effects))
    level = np.linalg.lstsq(Z, ones.astype(float), rcond=None)[0]
    return bool(np.allclose(Z @ level, ones))
