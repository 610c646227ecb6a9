"""Bayes factors: how much more probable the data are under one model than under another.

A marginal likelihood hangs on the priors far more than a posterior does, and a prior that is wide
"to be on the safe side" counts against its model; so a Bayes factor is of two models *with their
priors*, and both are printed with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.bayes.evidence.evidence import Evidence
from bayes_lsm.bayes.evidence.marginal_likelihood import evidence
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.choices import require_choice
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.tables import Printable

Index = npt.NDArray[np.intp]
Grades = Literal["kass_raftery", "jeffreys"]

# Upper limits of |ln BF|, and the words for what lies below them.
_GRADES: dict[Grades, tuple[str, tuple[tuple[float, str], ...]]] = {
    "kass_raftery": (
        "Kass & Raftery 1995",
        (
            (math.log(3), "not worth more than a bare mention"),
            (math.log(20), "positive"),
            (math.log(150), "strong"),
            (math.inf, "very strong"),
        ),
    ),
    "jeffreys": (
        "Jeffreys 1961",
        (
            (0.5 * math.log(10), "not worth more than a bare mention"),
            (math.log(10), "substantial"),
            (1.5 * math.log(10), "strong"),
            (2 * math.log(10), "very strong"),
            (math.inf, "decisive"),
        ),
    ),
}


@dataclass(frozen=True, eq=False)
class BayesFactor(Printable):
    """How much more probable the data are under one model than under another.

    Attributes
    ----------
    log_bf : float
        ln p(y | first) − ln p(y | second).
    se : float
        Its Monte Carlo error; also the relative error of `bf`.
    models : tuple of str, length 2
    evidences : tuple of Evidence, length 2
    prior_odds : float
        Of the first model against the second.
    grades : {"kass_raftery", "jeffreys"}
    problems : tuple of str
    """

    log_bf: float
    se: float
    models: tuple[str, str]
    evidences: tuple[Evidence, Evidence]
    prior_odds: float
    grades: Grades
    problems: tuple[str, ...]
    remarks: tuple[str, ...] = field(repr=False)

    _digits: ClassVar[int] = 3

    @property
    def bf(self) -> float:
        """The Bayes factor for the first model; above 1 it is favoured. inf beyond e^709."""
        return math.exp(self.log_bf) if self.log_bf < 709 else math.inf

    @property
    def probability(self) -> float:
        """Posterior probability of the first model, of these two."""
        log_odds = self.log_bf + math.log(self.prior_odds)
        return float(1.0 / (1.0 + np.exp(-np.clip(log_odds, -700, 700))))

    @property
    def grade(self) -> str:
        """The evidence in words, as the scale of its source has them: ``positive``, ``strong``."""
        return grade(self.log_bf, self.grades)

    @property
    def title(self) -> str:
        """The Bayes factor, its error, and what it is called."""
        favoured = self.models[0] if self.log_bf >= 0 else self.models[1]
        source = _GRADES[self.grades][0]
        return f"{describe_bf(abs(self.log_bf), self.se)} for {favoured}: {self.grade} ({source})"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know: the error, the priors and the problems."""
        return (*self.remarks, *self.problems)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a model: log_evidence, se, prior and posterior probability."""
        prior = self.prior_odds / (1.0 + self.prior_odds)
        table = {
            "log_evidence": [each.log for each in self.evidences],
            "se": [each.se for each in self.evidences],
            "prior": [prior, 1.0 - prior],
            "posterior": [self.probability, 1.0 - self.probability],
        }
        index = pd.MultiIndex.from_product([["Model"], self.models], names=["part", "model"])
        return pd.DataFrame(table, index=index)


def bayes_factor(
    first: Posterior,
    second: Posterior,
    *,
    names: tuple[str, str] = ("the first model", "the second model"),
    prior_odds: float = 1.0,
    grades: Grades = "kass_raftery",
) -> BayesFactor:
    """The Bayes factor of two fits to the same effects.

    Parameters
    ----------
    first, second : BayesFit
        Of any formulas, scale terms, priors and engines.
    names : tuple of str, length 2
        For the table.
    prior_odds : float, default 1
        Of the first model against the second.
    grades : {"kass_raftery", "jeffreys"}, default "kass_raftery"
        Whose words to use for the size of the Bayes factor.

    Returns
    -------
    BayesFactor

    Raises
    ------
    FitError
        When the fits are of different effects, or a marginal likelihood cannot be had (with a flat
        prior there is none).

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> data = lsm.load_dataset("bcg")
    >>> by_latitude = lsm.LocationScaleModel("yi ~ ablat", variance="vi", data=data)
    >>> without = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data)
    >>> found = bayes_factor(by_latitude.fit_bayes(seed=1), without.fit_bayes(seed=1))
    >>> found.grade
    'positive'

    References
    ----------
    Kass, R. E., & Raftery, A. E. (1995). Bayes factors. Journal of the American Statistical
    Association, 90(430), 773-795. doi:10.1080/01621459.1995.10476572

    Jeffreys, H. (1961). Theory of probability (3rd ed.), appendix B. Oxford University Press.
    """
    check_grades(grades)
    if not (math.isfinite(prior_odds) and prior_odds > 0):
        raise FitError(f"prior_odds must be finite and > 0, got {prior_odds}; 1 is even odds")
    if len(set(names)) != 2:
        raise FitError(f"names must be two different ones, got {names!r}")
    _require_same_effects(first, second)
    evidences = (evidence(first), evidence(second))
    named = list(zip(names, (first, second), evidences, strict=True))
    return BayesFactor(
        evidences[0].log - evidences[1].log,
        math.hypot(evidences[0].se, evidences[1].se),
        names,
        evidences,
        float(prior_odds),
        grades,
        tuple(f"{name}: {problem}" for name, _, each in named for problem in each.problems),
        (
            *(f"{name}: {_words(fit)}" for name, fit, _ in named),
            *first.design.notes,
        ),
    )


def check_grades(grades: str) -> None:
    """Refuse an unknown scale of words."""
    require_choice("grades", grades, Grades)


def grade(log_bf: float, grades: Grades) -> str:
    """The words for a Bayes factor, in either direction.

    Examples
    --------
    >>> grade(math.log(12), "kass_raftery"), grade(-math.log(12), "jeffreys")
    ('positive', 'strong')
    """
    return next(word for limit, word in _GRADES[grades][1] if abs(log_bf) <= limit)


def describe_bf(log_bf: float, se: float) -> str:
    """``Bayes factor 12.3 (± 1.2%)``.

    Examples
    --------
    >>> describe_bf(math.log(12.34), 0.012)
    'Bayes factor 12.3 (± 1.2%)'
    """
    if log_bf > 25:
        return f"Bayes factor e^{log_bf:.1f} (± {se:.2f} in the exponent)"
    return f"Bayes factor {math.exp(log_bf):.3g} (± {100 * se:.2g}%)"


def _words(fit: Posterior) -> str:
    words = fit.design.specification
    scale = words.scale
    if not isinstance(scale, str):
        scale = ", ".join(f"{name} {formula}" for name, formula in scale.items())
    return f"location {words.location}, scale {scale}; priors: {fit.priors.describe()}"


def _require_same_effects(first: Posterior, second: Posterior) -> None:
    """Rows may be in another order, but must be the same effects with the same covariance."""
    designs = [fit.design for fit in (first, second)]
    orders = [np.lexsort([design.v, design.y]) for design in designs]
    ours, theirs = (
        np.column_stack([design.y, design.v])[order]
        for design, order in zip(designs, orders, strict=True)
    )
    if not np.array_equal(ours, theirs):
        raise FitError(
            f"a Bayes factor needs the same effects and variances in both fits, got k = "
            f"{len(ours)} and k = {len(theirs)} that are not the same; fit both models to the "
            "same rows (leave out those with missing moderators first)"
        )
    found = [_covariances(design, order) for design, order in zip(designs, orders, strict=True)]
    if found[0] != found[1]:
        raise FitError(
            "a Bayes factor needs the same sampling covariances in both fits, and theirs differ; "
            "give both models the same sampling_covariance"
        )


def _covariances(design: Design, order: Index) -> dict[tuple[int, int], float]:
    """The sampling covariances that are not zero, by the places of their rows."""
    place = np.argsort(order)
    return {
        (int(place[i]), int(place[j])): float(block.covariance[a, b])
        for block in design.blocks
        for a, i in enumerate(block.rows)
        for b, j in enumerate(block.rows)
        if i != j
    }
