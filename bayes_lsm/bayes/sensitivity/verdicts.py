"""Is a posterior the data's or the prior's? Numbers for it, and a sentence.

With a normal prior and a normal likelihood the prior's share of the posterior precision is
d ln(length of the posterior's interval) / d ln(width of the prior): 0 where the prior does not
matter, 1 where there is nothing else. That rate is defined for every posterior, and is called the
*share* here. A half-flat likelihood, which excludes large values of a coefficient and says nothing
of small ones, halves the prior and leaves its tail: the posterior is narrower than the prior, as if
something had been learned, and yet its interval grows with the prior at a rate near 1. So the
verdict is built on the share and not on the contraction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import ndtri

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.sensitivity.power_scaling import NOTICEABLE

Verdict = Literal["data-driven", "prior-informed", "prior-dominated"]

DOMINATED = 0.5
INFORMED = 0.1
INFORMED_TOGETHER = 0.25
MOVED = 0.5
DIRECTION = 0.95
THRESHOLDS = (
    f"prior-dominated: share ≥ {DOMINATED:g}, the interval grows at least half as fast as the "
    f"coefficient's own prior. Data-driven: share < {INFORMED:g}, together < "
    f"{INFORMED_TOGETHER:g} (all priors made wider at once), the median moves by less than "
    f"{MOVED:g} posterior SDs as priors go from half to twice as wide, and power-scaling the prior "
    f"has a sensitivity < {NOTICEABLE:g}. Prior-informed: what lies between"
)


Row = Mapping[Any, Any]


@dataclass(frozen=True)
class PriorFinding:
    """One coefficient: its row of the table, and its `tipping_point`, if it has one."""

    name: str
    row: Row
    tip: Row | None


def judge(row: Row) -> Verdict:
    """The verdict on a coefficient, of its share, together, moved and prior_sens.

    Prior-dominated: share ≥ 0.5. Data-driven: share < 0.1, together < 0.25 (either way), moved <
    0.5 and sensitivity to the prior < 0.05. Prior-informed: what lies between.
    """
    if row["share"] >= DOMINATED:
        return "prior-dominated"
    return "prior-informed" if reasons(row) else "data-driven"


def reasons(row: Row) -> list[str]:
    """Why a posterior is not the data's alone."""
    found = []
    # Written so that nan counts as a reason.
    if not abs(row["share"]) < INFORMED:
        found.append(f"its interval grows {row['share']:.2f} times as fast as its own prior")
    if not abs(row["together"]) < INFORMED_TOGETHER:
        found.append(
            f"its interval grows {row['together']:.2f} times as fast as all priors at once"
        )
    if not row["moved"] < MOVED:
        found.append(
            f"its median moves by {row['moved']:.1f} posterior SDs as priors go from half to twice "
            "as wide"
        )
    if not row["prior_sens"] < NOTICEABLE:
        found.append(f"power-scaling the prior moves it (sensitivity {row['prior_sens']:.2f})")
    return found


def sentence(finding: PriorFinding, *, level: float, factors: tuple[float, float]) -> str:
    """The verdict on a coefficient in a sentence or two."""
    row = finding.row
    interval = f"{100 * level:g}% interval, {row['ci_lb']:.3g} to {row['ci_ub']:.3g}"
    words = {
        "prior-dominated": (
            f"prior-dominated: its {interval}, grows {row['share']:.2f} times as fast as its own "
            "prior, so it says what the prior says and the data do not exclude"
        ),
        "prior-informed": f"prior-informed: {'; '.join(reasons(row))}",
        "data-driven": (
            "data-driven: its interval and its median hardly change as priors go from half to "
            "twice as wide"
        ),
    }
    said = f"{finding.name} is {words[row['verdict']]}."
    return f"{said} {_tip_words(finding.tip, factors)}" if finding.tip else said


def _tip_words(tip: Row, factors: tuple[float, float]) -> str:
    now = "includes 0" if tip["conclusion"] == "open" else "excludes 0"
    turns = [
        f"{word} by a factor of {factor:.2g}"
        for word, factor in (("narrower", 1 / tip["narrower"]), ("wider", tip["wider"]))
        if math.isfinite(factor)
    ]
    if turns:
        return f"That the interval {now} would change if its prior were {' or '.join(turns)}."
    low, high = map(factor_words, factors)
    return f"The interval {now} with its prior {low} to {high} times as wide."


def factor_words(factor: float) -> str:
    """A width of a prior relative to its own: ``"1/4"``, ``"2"``."""
    return f"{factor:g}" if factor >= 1 else f"1/{1 / factor:g}"


def tipping_point(
    factors: Array, p_positive: Array, *, level: float, draws: float
) -> dict[str, float | str]:
    """Where a conclusion changes as the prior is made narrower or wider.

    There are two conclusions: that the equal-tailed interval excludes 0, which is that the more
    probable sign has a probability above (1 + level)/2, and that this probability is above 0.95.
    Between two refits its normal score is taken as a straight line in the logarithm of the factor.
    A change that is within two Monte Carlo errors is none.

    `factors` (m,) are ascending widths of the prior, relative to its own, with 1 among them;
    `p_positive` (m,) the probabilities of a positive coefficient, each of `draws` that are worth
    about half as many independent ones. Found are conclusion (``"> 0"``, ``"< 0"``, ``"open"``) and
    the factors narrower, wider, p_narrower and p_wider at which it changes; nan where it does not.
    """
    here = int(np.flatnonzero(factors == 1)[0])
    sure = np.clip(np.maximum(p_positive, 1 - p_positive), 0, 1 - 0.5 / draws)
    found: dict[str, float | str] = {"conclusion": "open"}
    for prefix, threshold in (("", (1 + level) / 2), ("p_", DIRECTION)):
        away = ndtri(sure) - ndtri(threshold)
        if not prefix and away[here] > 0:
            found["conclusion"] = "> 0" if p_positive[here] > 0.5 else "< 0"
        density = math.exp(-0.5 * ndtri(threshold) ** 2) / math.sqrt(2 * math.pi)
        error = math.sqrt(threshold * (1 - threshold) * 2 / draws) / density
        for name, way in (("narrower", slice(here, None, -1)), ("wider", slice(here, None))):
            found[prefix + name] = _crossing(np.log(factors[way]), away[way], slack=2 * error)
    return found


def _crossing(x: Array, values: Array, *, slack: float) -> float:
    """exp(x) where values cross 0, going along, to lie on the other side by more than `slack`.

    nan where they do not.
    """
    side = 1.0 if values[0] > 0 else -1.0
    there = np.flatnonzero(-side * values > slack)
    if not len(there):
        return math.nan
    i = int(np.flatnonzero(side * values[: there[0]] >= 0)[-1]) + 1
    part = values[i - 1] / (values[i - 1] - values[i])
    return float(np.exp(x[i - 1] + part * (x[i] - x[i - 1])))
