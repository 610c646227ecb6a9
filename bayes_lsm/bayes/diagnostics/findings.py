"""The checks of a posterior, and where their limits are.

Each function turns one diagnostic into findings. A status is ``"good"`` within the limit,
``"caution"`` beyond it, and ``"bad"`` where the numbers of the fit should not be used as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayes_lsm.bayes.calibration.uniformity import pit_ranks, uniformity_pvalue
from bayes_lsm.bayes.cross_validation.elpd import Elpd
from bayes_lsm.bayes.diagnostics.checks import PredictiveCheck
from bayes_lsm.bayes.diagnostics.study_influence import MAD_TO_SD
from bayes_lsm.bayes.draws import Importance
from bayes_lsm.bayes.engines.diagnostics import (
    LARGE_WEIGHT,
    LARGEST_PARETO_K,
    LARGEST_R_HAT,
    SMALLEST_BFMI,
    SMALLEST_ESS,
    bfmi,
    is_dominated,
)
from bayes_lsm.bayes.posterior import Posterior

Status = Literal["good", "caution", "bad"]

# 400 effective draws of a normal posterior know its median to 0.063 of its SD.
LARGEST_MCSE = 0.1
SMALLEST_PIT_P, WORST_PIT_P = 0.05, 0.001
PPP, WORST_PPP = 0.025, 0.001
LARGEST_SHIFT, WORST_SHIFT = 1.0, 2.0
LARGEST_ENGINE_DIFFERENCE = 4.0
_FAMILY = 0.05
_RANKS = 99
_NAMED = 5
_PARTS = ("location", "scale", "study_effects", "scale_sd", "correlation")


@dataclass(frozen=True)
class Finding:
    """A check.

    Attributes
    ----------
    part : str
        What it is of: Draws, Posterior predictive, Leave-one-study-out, Studies, Engines. Of
        clusters it has their name, as in Leave-one-district-out, and Clusters.
    name : str
    value : float
    limit : str
        What is good, in words: ``at most 1.01``.
    status : {"good", "caution", "bad"}
    advice : str
        What an exceeded limit means and what to do.
    """

    part: str
    name: str
    value: float
    limit: str
    status: Status
    advice: str

    @property
    def sentence(self) -> str:
        """The check in a sentence, with the advice where it is needed."""
        said = f"{self.name}: {in_few_digits(self.value)} ({self.limit} is good)"
        return said if self.status == "good" else f"{said}: {self.advice}"


def draws_findings(fit: Posterior) -> list[Finding]:
    """Whether the draws are draws from the posterior."""
    table, stats, importance = fit.convergence, fit.stats, fit.importance
    more = "take more draws"
    sd = MAD_TO_SD * fit.summary()["mad"].to_numpy()
    # A coefficient that all draws agree on has no Monte Carlo error to speak of.
    ratio = np.divide(table["mcse_median"], sd, out=np.zeros(len(sd)), where=sd > 0)
    mcse = _at_most(
        "Draws", "MCSE of a median / SD", ratio.max(), LARGEST_MCSE, "caution",
        f"medians are known to one digit at best; {more}",
    )  # fmt: skip
    if importance is not None:
        other = "use engine='nuts', or tighter priors"
        return [
            Finding(
                "Draws", "Pareto k of the weights", importance.pareto_k,
                _k_limit(importance), "bad" if is_dominated(importance) else "good",
                f"a few draws dominate; {other}",
            ),
            _at_least(
                "Draws", "effective draws", importance.ess, SMALLEST_ESS, "bad",
                f"{other}, or {more}",
            ),
            mcse,
        ]  # fmt: skip
    found = [
        _at_most(
            "Draws", "largest R-hat", table["r_hat"].max(skipna=False), LARGEST_R_HAT, "bad",
            f"the chains disagree; {more} and a longer tune",
        ),
        *(
            _at_least(
                "Draws", f"smallest {kind} ESS", table[f"ess_{kind}"].min(skipna=False),
                SMALLEST_ESS, "bad", more,
            )
            for kind in ("bulk", "tail")
        ),
        mcse,
    ]  # fmt: skip
    if "diverging" in stats:
        found.append(
            _at_most(
                "Draws", "divergent transitions", float(np.sum(stats["diverging"])), 0, "bad",
                "parts of the posterior may be missed; raise target_accept or use tighter priors",
            )
        )  # fmt: skip
    if "energy" in stats:
        found.append(
            _at_least(
                "Draws", "smallest E-BFMI",
                float(np.min(bfmi(np.asarray(stats["energy"], dtype=float)))),
                SMALLEST_BFMI, "caution",
                f"heavy tails are explored slowly; {more} or use tighter priors",
            )
        )  # fmt: skip
    return found


def predictive_findings(check: PredictiveCheck) -> list[Finding]:
    """Whether the model could have made such data: a finding for each quantity."""
    table = check.to_dataframe().droplevel("part")
    found = []
    for name, ppp in zip(map(str, table.index), table["ppp"], strict=True):
        status: Status = "good"
        if not PPP <= ppp <= 1 - PPP:
            status = "caution" if WORST_PPP <= ppp <= 1 - WORST_PPP else "bad"
        advice = f"the observed {name} is {'low' if ppp > 0.5 else 'high'} for this model"
        if name.startswith("cor(|"):
            more = "less" if ppp > 0.5 else "more"
            advice = f"the spread rises {more} with this moderator than the scale part says"
        limit = f"{PPP:g} to {1 - PPP:g}"
        found.append(Finding("Posterior predictive", name, float(ppp), limit, status, advice))
    return found


def loo_findings(left_out: Elpd, coefficients: int) -> list[Finding]:
    """Whether the model, of so many coefficients, predicts each study from the others."""
    unit, several = left_out.studies.unit, left_out.studies.plural
    part = f"Leave-one-{unit}-out"
    found = [
        _at_most(
            part, "problems in the refits", float(len(left_out.problems)), 0, "bad",
            "; ".join(left_out.problems),
        ),
        _at_most(
            part, "effective number of parameters", left_out.p, coefficients, "caution",
            f"more than there are coefficients: the model describes some {several} badly, or its "
            f"priors are weak for so few {several}",
        ),
    ]  # fmt: skip
    if left_out.pit is None:
        return found
    p = uniformity_pvalue(pit_ranks(left_out.pit, _RANKS), _RANKS)
    status: Status = "good" if p >= SMALLEST_PIT_P else "caution" if p >= WORST_PIT_P else "bad"
    limit = f"at least {SMALLEST_PIT_P:g}"
    advice = (
        "the predictive distributions are biased, too wide or too narrow; see the figure of the "
        "LOO-PIT"
    )
    return [*found, Finding(part, "LOO-PIT uniform, p", p, limit, status, advice)]


def influence_findings(
    studies: pd.DataFrame, effects: int, several: str = "studies"
) -> list[Finding]:
    """Whether single studies, of so many effects, stand out: by the table of a `Diagnosis`."""
    part = several.capitalize()
    high = studies.index[~(studies["pareto_k"] <= LARGEST_PARETO_K)]
    found = [
        _at_most(
            part, f"{several} with Pareto k > {LARGEST_PARETO_K:g}", float(len(high)), 0, "caution",
            f"the posterior changes much without {_some(high)}",
        )
    ]  # fmt: skip
    z = studies["z"].abs()
    if z.notna().all():
        # Of so many effects that fit, the farthest is nearer with a probability of 95 per cent.
        limit = float(-ndtri(_FAMILY / effects / 2))
        beyond = studies.index[z > limit]
        advice = f"the others do not predict {_some(beyond)}"
        found.append(_at_most(part, "largest |z| of LOO-PIT", z.max(), limit, "caution", advice))
    shifts = studies[coefficient_columns(studies)].abs()
    worst, where = shifts.max(axis=1), shifts.idxmax(axis=1)
    named = [
        f"{study} ({where.iloc[i]})"
        for i, study in enumerate(studies.index)
        if worst.iloc[i] > LARGEST_SHIFT
    ]
    found.append(
        _at_most(
            part, "largest shift of a median", worst.max(), LARGEST_SHIFT,
            "bad" if worst.max() > WORST_SHIFT else "caution",
            f"more than a posterior SD without {_some(named)}; say so, and show the fit without",
            unit=" posterior SD",
        )
    )  # fmt: skip
    return found


def coefficient_columns(studies: pd.DataFrame) -> list[str]:
    """Which columns of the studies of a `Diagnosis` say how far a coefficient moves."""
    starts = tuple(f"{part}{end}" for part in _PARTS for end in ("[", " ("))
    return [name for name in map(str, studies) if name.startswith(starts)]


def agreement_findings(engines: pd.DataFrame) -> list[Finding]:
    """Whether the two engines agree: `engines` is that of a `Diagnosis`."""
    worst = float(engines["in_mcse"].abs().max())
    return [
        _at_most(
            "Engines", "difference of medians / MCSE", worst, LARGEST_ENGINE_DIFFERENCE, "bad",
            "one of the engines misses a part of the posterior; take more draws of both, or use "
            "tighter priors",
        )
    ]  # fmt: skip


def _at_most(
    part: str, name: str, value: float, limit: float, beyond: Status, advice: str, *, unit: str = ""
) -> Finding:
    # Written so that nan, from a chain that never moved, counts as beyond.
    status: Status = "good" if value <= limit else beyond
    return Finding(
        part, name, float(value), f"at most {in_few_digits(limit)}{unit}", status, advice
    )


def _k_limit(importance: Importance) -> str:
    limit = f"at most {LARGEST_PARETO_K}"
    return f"{limit}, or no weight above {100 * LARGE_WEIGHT:g}%" if importance.bounded else limit


def _at_least(
    part: str, name: str, value: float, limit: float, beyond: Status, advice: str
) -> Finding:
    status: Status = "good" if value >= limit else beyond
    return Finding(part, name, float(value), f"at least {in_few_digits(limit)}", status, advice)


def in_few_digits(value: float) -> str:
    """Counts whole, everything else with three digits."""
    return f"{value:.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def _some(names: Sequence[Any] | pd.Index) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(str, names[:_NAMED])) + more
