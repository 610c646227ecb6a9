"""Published predictive distributions of the heterogeneity of a new meta-analysis.

Both were fitted to the meta-analyses of the Cochrane Database of Systematic Reviews:

- log odds ratios: ln τ² ~ Normal (Turner et al. 2015, Table IV and p. 993);
- standardised mean differences: ln τ² ~ t with 5 degrees of freedom (Rhodes et al. 2015, Section
  3.3, Tables 3, A.3.1 and A.3.2).

The figures were taken from two transcriptions, those of the R packages bayesmeta and rnmamod, and
kept where both agree and where the mean is, as everywhere else in its table, the sum of what goes
with the outcome and what goes with the comparison. Three cells are left out: for cancer, drug
against placebo, resource use (the two differ in the sign) and structural outcomes (-0.13, where the
sum is 0.14); elsewhere, not drugs, mental health (-3.85, where the sum is -2.85).

References
----------
Turner, R. M., Jackson, D., Wei, Y., Thompson, S. G., & Higgins, J. P. T. (2015). Predictive
distributions for between-study heterogeneity and simple methods for their application in Bayesian
meta-analysis. Statistics in Medicine, 34(6), 984-998. doi:10.1002/sim.6381

Rhodes, K. M., Turner, R. M., & Higgins, J. P. T. (2015). Predictive distributions were developed
for the extent of heterogeneity in meta-analyses of continuous outcome data. Journal of Clinical
Epidemiology, 68(1), 52-60. doi:10.1016/j.jclinepi.2014.08.012
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from bayes_lsm.choices import require_choice
from bayes_lsm.errors import PriorError
from bayes_lsm.priors.families import StudentT
from bayes_lsm.priors.variances import LogNormal

Area = Literal["other", "respiratory", "cancer"]

GENERAL: dict[str | None, LogNormal | StudentT] = {
    "OR": LogNormal(-2.56, 1.74, on="tau2"),
    "SMD": StudentT(5, -3.44, 2.59, on="log_tau2"),
}

_TURNER_COMPARISONS = (
    "pharmacological vs placebo",
    "pharmacological vs pharmacological",
    "non-pharmacological vs placebo",
    "non-pharmacological vs pharmacological",
    "non-pharmacological vs non-pharmacological",
)
# Means and SDs of ln τ², in the order of the comparisons.
_TURNER = {
    "all-cause mortality": ((-3.95, -4.18, -4.17, -2.92, -3.50), (1.34, 1.41, 1.55, 1.02, 1.26)),
    "obstetric outcomes": ((-3.52, -3.75, -3.74, -2.49, -3.08), (1.74, 1.79, 1.91, 1.50, 1.68)),
    "cause-specific mortality": (
        (-3.71, -3.95, -3.93, -2.68, -3.27),
        (1.74, 1.79, 1.91, 1.51, 1.68),
    ),
    "resource use": ((-2.34, -2.58, -2.56, -1.31, -1.90), (1.74, 1.79, 1.91, 1.50, 1.68)),
    "surgical success": ((-2.14, -2.37, -2.36, -1.11, -1.69), (1.74, 1.79, 1.91, 1.50, 1.68)),
    "withdrawals": ((-2.99, -3.23, -3.21, -1.96, -2.55), (1.74, 1.79, 1.91, 1.51, 1.68)),
    "structural outcomes": ((-2.71, -2.94, -2.93, -1.67, -2.26), (1.74, 1.79, 1.92, 1.51, 1.68)),
    "general health": ((-2.29, -2.53, -2.51, -1.26, -1.85), (1.53, 1.58, 1.72, 1.25, 1.46)),
    "adverse events": ((-1.87, -2.10, -2.10, -0.84, -1.43), (1.52, 1.58, 1.71, 1.24, 1.45)),
    "infection": ((-2.49, -2.73, -2.71, -1.46, -2.05), (1.52, 1.58, 1.71, 1.24, 1.45)),
    "signs and symptoms": ((-2.06, -2.29, -2.28, -1.03, -1.61), (1.51, 1.58, 1.71, 1.24, 1.45)),
    "pain": ((-1.83, -2.06, -2.05, -0.80, -1.38), (1.52, 1.58, 1.71, 1.25, 1.45)),
    "quality of life": ((-2.54, -2.78, -2.77, -1.51, -2.10), (1.54, 1.60, 1.73, 1.27, 1.47)),
    "mental health": ((-2.12, -2.35, -2.34, -1.09, -1.67), (1.53, 1.60, 1.72, 1.27, 1.47)),
    "biological markers": ((-1.77, -2.00, -1.99, -0.74, -1.33), (1.52, 1.58, 1.71, 1.24, 1.45)),
    "subjective outcomes": ((-2.70, -2.93, -2.92, -1.67, -2.26), (1.52, 1.58, 1.71, 1.25, 1.45)),
}

_RHODES_COMPARISONS = (
    "pharmacological vs placebo",
    "pharmacological vs pharmacological",
    "non-pharmacological",
)
# Locations and scales of ln τ², in the order of the comparisons.
_RHODES: dict[str, dict[str, tuple[tuple[float | None, ...], tuple[float, ...]]]] = {
    "other": {
        "obstetric outcomes": ((-4.13, -4.40, -3.99), (2.34, 2.31, 2.11)),
        "resource use": ((-2.55, -2.83, -2.41), (2.73, 2.70, 2.57)),
        "structural outcomes": ((-2.43, -2.70, -2.29), (2.50, 2.46, 2.32)),
        "general health": ((-3.16, -3.44, -3.02), (2.50, 2.44, 2.27)),
        "signs and symptoms": ((-3.00, -3.27, -2.86), (2.50, 2.47, 2.33)),
        "mental health": ((-2.99, -3.27, None), (2.16, 2.14, 1.93)),
        "biological markers": ((-3.41, -3.68, -3.27), (2.83, 2.78, 2.66)),
        "subjective outcomes": ((-2.76, -3.03, -2.62), (2.58, 2.59, 2.41)),
    },
    "respiratory": {
        "obstetric outcomes": ((-6.03, -6.31, -5.89), (2.36, 2.31, 2.21)),
        "resource use": ((-4.46, -4.73, -4.32), (2.74, 2.70, 2.57)),
        "structural outcomes": ((-4.33, -4.61, -4.19), (2.51, 2.46, 2.33)),
        "general health": ((-5.07, -5.34, -4.93), (2.51, 2.45, 2.28)),
        "signs and symptoms": ((-4.90, -5.18, -4.76), (2.50, 2.47, 2.33)),
        "mental health": ((-4.90, -5.17, -4.76), (2.17, 2.14, 1.94)),
        "biological markers": ((-5.31, -5.59, -5.17), (2.83, 2.78, 2.66)),
        "subjective outcomes": ((-4.66, -4.94, -4.52), (2.59, 2.59, 2.41)),
    },
    "cancer": {
        "obstetric outcomes": ((-1.57, -1.85, -1.43), (2.45, 2.41, 2.24)),
        "resource use": ((None, -0.27, 0.15), (2.83, 2.79, 2.68)),
        "structural outcomes": ((None, -0.14, 0.27), (2.61, 2.56, 2.45)),
        "general health": ((-0.60, -0.88, -0.46), (2.61, 2.55, 2.40)),
        "signs and symptoms": ((-0.44, -0.71, -0.30), (2.60, 2.57, 2.46)),
        "mental health": ((-0.43, -0.71, -0.29), (2.28, 2.25, 2.08)),
        "biological markers": ((-0.85, -1.13, -0.71), (2.93, 2.87, 2.78)),
        "subjective outcomes": ((-0.20, -0.48, -0.06), (2.68, 2.68, 2.53)),
    },
}


def odds_ratio(outcome: str, comparison: str) -> LogNormal:
    """Turner et al. (2015), Table IV: τ² of log odds ratios, by outcome and comparison."""
    column = _find("comparison", comparison, _TURNER_COMPARISONS)
    mean, sd = _TURNER[_named("outcome", outcome, _TURNER)]
    return LogNormal(mean[column], sd[column], on="tau2")


def mean_difference(outcome: str, comparison: str, *, area: Area = "other") -> StudentT:
    """Rhodes et al. (2015): ln τ² of standardised mean differences, by outcome and comparison."""
    table = _RHODES[_named("area", area, _RHODES)]
    column = _find("comparison", comparison, _RHODES_COMPARISONS)
    location, scale = table[_named("outcome", outcome, table)]
    loc = location[column]
    if loc is None:
        raise PriorError(
            f"the published figure for {outcome!r}, {comparison!r}, area={area!r} is in doubt; "
            "give the prior yourself: Priors(tau=StudentT(5, LOC, SCALE, on='log_tau2'))"
        )
    return StudentT(5, loc, scale[column], on="log_tau2")


def _named(what: str, given: str, allowed: Iterable[str]) -> str:
    names = tuple(allowed)
    return names[_find(what, given, names)]


def _find(what: str, given: str, allowed: tuple[str, ...]) -> int:
    require_choice(what, given, allowed, error=PriorError)
    return allowed.index(given)
