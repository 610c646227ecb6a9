"""From what a reader of studies knows to a prior: priors of τ and of its ratios, in words.

True effects of like studies are Normal(μ, τ²), so a share P of them lies within z τ of their mean,
with z the (1 + P)/2 quantile of the normal. A spread of true effects is therefore a statement of τ,
and how sure one is of the spread makes it a prior.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from bayes_lsm.choices import require_choice
from bayes_lsm.errors import PriorError
from bayes_lsm.priors.families import Normal
from bayes_lsm.priors.rules import RATIO_MEASURES, Measure
from bayes_lsm.priors.variances import HalfNormal, LogNormal


def spread_to_tau(spread: float, *, measure: Measure, share: float = 0.95) -> float:
    """The τ at which the central share of true effects has this spread.

    Parameters
    ----------
    spread : float
        For ratios (odds, risk, hazard, rate) the factor from the lower to the upper end of the
        interval that holds the share, above 1: τ = ln(spread) / 2z. For all others the distance
        from end to end, in units of the effects: τ = spread / 2z.
    measure : {"SMD", "OR", "RR", "HR", "IRR", "ZCOR", "MD"}
    share : float, default 0.95

    Raises
    ------
    PriorError
        For a spread or a share out of range.

    Examples
    --------
    >>> round(spread_to_tau(3, measure="OR"), 3)  # as from 0.5 to 1.5
    0.28
    """
    require_choice("measure", measure, Measure, error=PriorError)
    z = float(ndtri(0.5 + _probability("share", share) / 2))
    if measure in RATIO_MEASURES:
        return math.log(_above("spread", spread, 1.0, "the factor from end to end")) / (2 * z)
    return _above("spread", spread, 0.0, "the distance from end to end") / (2 * z)


def at_most(tau: float, *, sure: float = 0.95) -> HalfNormal:
    """A half-normal prior: τ is below this value with probability `sure`.

    Examples
    --------
    >>> round(at_most(0.5).sd, 4)
    0.2551
    """
    z = float(ndtri(0.5 + _probability("sure", sure) / 2))
    return HalfNormal(_above("tau", tau, 0.0, "a value of τ") / z)


def around(tau: float, *, within: float = 2.0, sure: float = 0.95) -> LogNormal:
    """A log-normal prior: τ is this value, give or take a factor `within`, with `sure`.

    Its median is `tau`, and it is between tau/within and tau·within with probability `sure`.

    Examples
    --------
    >>> around(0.3, within=2).quantile([0.025, 0.975]).round(2)  # of ln τ²
    array([-3.79, -1.02])
    """
    z = float(ndtri(0.5 + _probability("sure", sure) / 2))
    spread = math.log(_above("within", within, 1.0, "a factor")) / z
    return LogNormal(math.log(_above("tau", tau, 0.0, "a value of τ")), spread)


def from_spread(
    spread: float, *, measure: Measure, share: float = 0.95, sure: float = 0.95
) -> HalfNormal:
    """A prior of τ from "95% of true effects span at most a factor of …".

    The same as ``at_most(spread_to_tau(spread, measure=measure, share=share), sure=sure)``.

    Parameters
    ----------
    spread : float
        Of ratios the factor from the lower to the upper end, of other measures the distance.
    measure : {"SMD", "OR", "RR", "HR", "IRR", "ZCOR", "MD"}
    share : float, default 0.95
        How many of the true effects are meant.
    sure : float, default 0.95
        Probability that they span at most that much.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> prior = lsm.priors.Priors(tau=lsm.priors.from_spread(3, measure="OR"))
    >>> prior.tau.on, round(prior.tau.sd, 3)
    ('tau', 0.143)
    """
    return at_most(spread_to_tau(spread, measure=measure, share=share), sure=sure)


def from_fold(fold: float, *, sure: float = 0.95) -> Normal:
    """A prior of a scale slope from "τ is at most k-fold different per SD of the moderator".

    A normal prior of the slope of ln τ, around none, with which exp(slope) is between 1/fold and
    fold with probability `sure`. Of an indicator it is the ratio of one level to the other.

    Parameters
    ----------
    fold : float
        Above 1.
    sure : float, default 0.95

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> lsm.priors.Priors(scale={"weeks": lsm.priors.from_fold(3)}).scale["weeks"].on
    'log_tau'
    """
    z = float(ndtri(0.5 + _probability("sure", sure) / 2))
    sd = math.log(_above("fold", fold, 1.0, "a ratio of τ")) / z
    return Normal(0.0, sd, on="log_tau", moderators="standardised")


def _probability(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise PriorError(f"{name} must be a probability between 0 and 1, got {value!r}")
    return value


def _above(name: str, value: float, least: float, what: str) -> float:
    if not least < value < math.inf:
        raise PriorError(f"{name} is {what}, which must be above {least:g}, got {value!r}")
    return value
