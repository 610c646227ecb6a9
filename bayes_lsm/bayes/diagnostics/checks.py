"""Posterior predictive checks: could the fitted model have made data like these?

New effects of the same studies are drawn from the posterior, and what matters in a meta-analysis is
computed of them and of the observed ones (`discrepancies`). Where effects are shared, those of new
groups of the same sizes are drawn; levels of ln τ² with random intercepts are the same ones. Some
quantities are of the effects alone, others also of the coefficients of the draw (Gelman, Meng &
Stern 1996): then the observed one varies too.

The data are used twice, to fit and to check. So these p-values are conservative: they crowd around
½ even when the model is right, and one near 0 or 1 means more than a p-value of its size usually
does, one in the middle less. LOO-PIT (`BayesFit.loo`) uses no study twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.diagnostics.discrepancies import (
    Replicate,
    quantities_of,
    your_own,
)
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.choices import require_count, seed_or
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.tables import Printable

_ENTRIES = 2_000_000
_LOW, _HIGH = 0.025, 0.975


@dataclass(frozen=True, eq=False)
class PredictiveCheck(Printable):
    """Test quantities of the observed effects, and of effects drawn from the posterior.

    Attributes
    ----------
    observed, replicated : mapping of str to ndarray, shape (draws,)
        By the names of the quantities; pairs of the same draw of the coefficients. Where a quantity
        is of the effects alone, all observed values are the same.
    """

    observed: Mapping[str, Array]
    replicated: Mapping[str, Array]
    heading: str = field(repr=False)
    remarks: tuple[str, ...] = field(repr=False)

    _digits: ClassVar[int] = 3

    @property
    def title(self) -> str:
        """What was checked."""
        return self.heading

    @property
    def notes(self) -> tuple[str, ...]:
        """How to read the p-values, and which are extreme."""
        table = self.to_dataframe()
        extreme = table.index[(table["ppp"] < _LOW) | (table["ppp"] > _HIGH)]
        names = ", ".join(name for _, name in extreme)
        flagged = (f"the model does not account for: {names}",) if len(extreme) else ()
        caution = (
            "ppp is P(replicated ≥ observed); the data are used twice, so under a right model it "
            "crowds around 0.5, and is no p-value of a test"
        )
        return (caution, *flagged, *self.remarks)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a quantity: observed (mean), rep_mean, rep_lb and rep_ub (95%), ppp, se.

        ppp is the posterior predictive p-value, half of the ties counted; se is its Monte Carlo
        error, of so many independent draws.
        """
        rows = {}
        for name, observed in self.observed.items():
            replicated = self.replicated[name]
            higher = np.mean(replicated > observed) + 0.5 * np.mean(replicated == observed)
            lower, upper = np.quantile(replicated, [_LOW, _HIGH])
            rows[name] = {
                "observed": observed.mean(),
                "rep_mean": replicated.mean(),
                "rep_lb": lower,
                "rep_ub": upper,
                "ppp": higher,
                "se": np.sqrt(higher * (1 - higher) / len(replicated)),
            }
        index = pd.MultiIndex.from_product([["Quantity"], rows], names=["part", "quantity"])
        return pd.DataFrame(list(rows.values()), index=index)


def posterior_predictive_check(
    fit: Posterior,
    *,
    quantities: Mapping[str, Callable[[Array], float]] | None = None,
    draws: int = 2000,
    seed: int | None = None,
) -> PredictiveCheck:
    """Compare the observed effects with effects drawn from the posterior.

    Parameters
    ----------
    fit : BayesFit
        Of either engine.
    quantities : mapping of str to function of the effects (k,), optional
        Your own test quantities, checked beside the ready ones: ``{"range": np.ptp}``.
    draws : int, default 2000
        Sets of new effects, at most as many as the fit has draws.
    seed : int, optional
        Default: that of the fit.

    Returns
    -------
    PredictiveCheck
        Ready quantities: Q (Cochran's, about the location part), the share of effects with
        \\|y\\| > 1.96 √v, the smallest and the largest effect, the largest \\|z\\| and the skewness
        of the standardised residuals z, the correlation of z with the standard error (small
        studies), and for each moderator of either part that of \\|z\\| with it (heterogeneity that
        the scale part misses). With Student-t study effects z is the normal score of the effect.

        Where effects are shared all groups are new, their effects drawn again, and z is independent
        from row to row (`ConditionalEffects.unfold`). For each level there are the SD of the means
        of its groups' residuals (of a slope, of the least-squares slopes), the correlation of their
        size with the level's moderators, and where a group has several effects that of one with the
        other. Of correlated sampling errors Q is (y − Xb)'V⁻¹(y − Xb); without sampling variances
        there is none.

    Raises
    ------
    FitError
        For wrong settings, or a quantity that gives no finite number.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(seed=1)
    >>> check = fit.posterior_predictive_check(quantities={"range": np.ptp})
    >>> bool(0.05 < check.to_dataframe().loc[("Quantity", "range"), "ppp"] < 0.95)
    True

    References
    ----------
    Gelman, A., Meng, X.-L., & Stern, H. (1996). Posterior predictive assessment of model fitness
    via realized discrepancies. Statistica Sinica, 6(4), 733-807.
    """
    require_count("draws", draws, least=100)
    design = fit.design
    asked = quantities_of(design)
    for name, yours in (quantities or {}).items():
        if name in asked:
            raise FitError(f"the quantity {name!r} is there already; give yours another name")
        asked[name] = your_own(name, yours)
    rng = np.random.default_rng(seed_or(fit.seed, seed))
    count, k = fit.draws.size, len(design.y)
    chosen = rng.choice(count, size=min(draws, count), replace=False)
    observed: dict[str, list[Array]] = {name: [] for name in asked}
    replicated: dict[str, list[Array]] = {name: [] for name in asked}
    for batch in np.array_split(chosen, max(1, -(-len(chosen) * k // _ENTRIES))):
        seen, drawn = replicate(design, fit.draws.take(batch), rng)
        for name, quantity in asked.items():
            observed[name].append(quantity(seen))
            replicated[name].append(quantity(drawn))
    groups = "replicated effects are of new groups, as large as the observed"
    shared = not all(term.is_of_rows for term in design.terms)
    return PredictiveCheck(
        {name: np.concatenate(parts) for name, parts in observed.items()},
        {name: np.concatenate(parts) for name, parts in replicated.items()},
        f"Posterior predictive check ({len(chosen)} draws of {k} effects)",
        (*([groups] if shared else []), *fit.notes),
    )


def replicate(
    design: Design, draws: Draws, rng: np.random.Generator
) -> tuple[Replicate, Replicate]:
    """The observed effects, and new ones, under each of the draws."""
    effects, mean = ConditionalEffects(design, draws), draws.flat_location @ design.X.T
    seen, new = design.y - mean, effects.new_residuals(rng)
    return (
        Replicate(np.broadcast_to(design.y, mean.shape), seen, effects.standardise(seen)),
        Replicate(mean + new, new, effects.standardise(new)),
    )
