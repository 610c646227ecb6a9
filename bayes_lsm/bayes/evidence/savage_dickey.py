"""The Savage–Dickey density ratio: a Bayes factor for a point null, read off one posterior.

    BF01 = p(y | null) / p(y) = p(ψ = ψ0 | y) / p(ψ = ψ0)

holds when the null model's prior of the other coefficients is the full model's given ψ = ψ0. That
is so for every prior of this package that is stated on one coefficient at a time, on the level of
the average study included: without a moderator the average study is what it was.

The posterior density comes without any smoothing: for a location coefficient as the mean of its
exact normal density given α, over the draws; for a scale coefficient as the mean of its density
given the other scale coefficients, by quadrature in one dimension; for several scale coefficients
one after another, each given that those before it are zero. With Student-t study effects, where β
cannot be integrated out, a coefficient of either part is taken so, given all other unknowns. None
of this uses the marginal likelihood, so it is an independent check on a Bayes factor.

Dickey (1971), Annals of Mathematical Statistics 42, 204-223, doi:10.1214/aoms/1177693507;
Verdinelli & Wasserman (1995), JASA 90, 614-618, doi:10.1080/01621459.1995.10476554; the mean of
conditional densities: Gelfand & Smith (1990), JASA 85, 398-409,
doi:10.1080/01621459.1990.10476213.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.engines.collapsed import normal_prior
from bayes_lsm.bayes.engines.direct import require_direct
from bayes_lsm.bayes.evidence.bayes_factor import describe_bf, grade
from bayes_lsm.bayes.evidence.conditionals import conditional_density
from bayes_lsm.bayes.evidence.evidence import Evidence
from bayes_lsm.bayes.evidence.marginal_likelihood import evidence
from bayes_lsm.bayes.evidence.nested import Nesting, PartName, thinned
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.resolved_priors.propriety import require_normalised
from bayes_lsm.bayes.student.effects import said_before
from bayes_lsm.choices import require_choice
from bayes_lsm.errors import FitError
from bayes_lsm.priors import PriorBlock
from bayes_lsm.tables import Printable

_MOST_DRAWS = 20_000
_PRIOR_DRAWS = 200_000
_CHECK_DRAWS = 8000
_FEWEST_DRAWS = 200


@dataclass(frozen=True, eq=False)
class SavageDickey(Printable):
    """A Bayes factor for a coefficient's, or a whole term's, having one value.

    Attributes
    ----------
    part : {"location", "scale"}
    terms : tuple of str
        The coefficients.
    value : float
    log_posterior, log_prior : float
        Log densities there.
    se : float
        Monte Carlo error of `log_bf`.
    restricted : Evidence or None
        Log marginal likelihood of the model without these coefficients less that of the full one,
        where there is such a model: the same Bayes factor by another route.
    """

    part: PartName
    terms: tuple[str, ...]
    value: float
    log_posterior: float
    log_prior: float
    se: float
    restricted: Evidence | None
    remarks: tuple[str, ...] = field(repr=False)

    _digits: ClassVar[int] = 3

    @property
    def log_bf(self) -> float:
        """ln BF01: above 0 the data favour the value."""
        return self.log_posterior - self.log_prior

    @property
    def agreement(self) -> float:
        """Difference of the two routes over its Monte Carlo error; nan without a second one."""
        if self.restricted is None:
            return math.nan
        error = math.hypot(self.se, self.restricted.se)
        return (self.log_bf - self.restricted.log) / error if error else math.nan

    @property
    def title(self) -> str:
        """The null hypothesis, its Bayes factor, and what that is called."""
        null = f"{self.part} {', '.join(self.terms)} = {self.value:g}"
        favoured = "for" if self.log_bf >= 0 else "against"
        size = describe_bf(abs(self.log_bf), self.se)
        return f"{size} {favoured} {null}: {grade(self.log_bf, 'kass_raftery')}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know."""
        if self.restricted is None:
            return self.remarks
        return (
            f"the two routes differ by {self.agreement:.1f} Monte Carlo errors",
            *self.restricted.problems,
            *self.remarks,
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row a route: log_bf and bf for the null, and the Monte Carlo error se of log_bf."""
        rows = {"density ratio": (self.log_bf, self.se)}
        if self.restricted is not None:
            rows["marginal likelihoods"] = (self.restricted.log, self.restricted.se)
        table = {
            "log_bf": [log_bf for log_bf, _ in rows.values()],
            "se": [se for _, se in rows.values()],
            "bf": [math.exp(min(log_bf, 700.0)) for log_bf, _ in rows.values()],
        }
        index = pd.MultiIndex.from_product([["For the value, by"], rows], names=["part", "route"])
        return pd.DataFrame(table, index=index)


def savage_dickey(
    fit: Posterior, term: str, value: float = 0.0, *, part: PartName = "scale"
) -> SavageDickey:
    """The Bayes factor for a coefficient's having one value, from the fit of the full model.

    Parameters
    ----------
    fit : BayesFit
        Of either engine.
    term : str
        A coefficient as the tables print it (``"continentOther"``), or a term of the formula
        (``"continent"``), all of whose coefficients then have the value. With several scale terms
        ``"district: year"``, or ``"year"`` where one of them has it; and ``"AL, PD"`` is the
        correlation of two effects of a group, in Fisher's z.
    value : float, default 0
        On the user's scale; a scale coefficient is of ln τ².
    part : {"location", "scale"}, default "scale"

    Returns
    -------
    SavageDickey
        With the same Bayes factor from two marginal likelihoods where the value is 0 and the model
        can do without the term.

    Raises
    ------
    FitError
        For an unknown term, a flat prior, a shrinkage prior, location priors that are not normal
        where the study effects are, or a whole term where ln τ² has random intercepts.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(seed=1)
    >>> found = savage_dickey(fit, "ablat", part="location")
    >>> found.log_bf < 0, abs(found.agreement) < 4
    (True, True)
    """
    require_choice("part", part, PartName)
    if not math.isfinite(value):
        raise FitError(f"value must be a finite number, got {value}")
    model = Nesting(fit)
    columns = model.find(part, term)
    require_normalised(model.priors, "the Savage–Dickey ratio")
    require_direct(model.priors, "use such priors, whatever the engine")
    if part == "location" and model.priors.df is None:
        log_posterior, log_prior, se = _location(model, columns, value)
    else:
        log_posterior, log_prior, se = _one_by_one(model, part, columns, value, fit.seed)
    return SavageDickey(
        part,
        tuple(model.coefficients[part][j].label for j in columns),
        float(value),
        log_posterior,
        log_prior,
        se,
        _restricted(fit, model, part, columns) if value == 0 else None,
        (*said_before(fit.design, fit.priors), *fit.problems, *fit.design.notes),
    )


def _location(model: Nesting, columns: list[int], value: float) -> tuple[float, float, float]:
    """Log posterior and log prior density at the value, and the error of the first."""
    means, covariances, worth = model.location_moments(_MOST_DRAWS)
    inside = np.ix_(np.arange(len(means)), columns, columns)
    density = _normal_logpdf(value - means[:, columns], covariances[inside])
    mean, precision = normal_prior(model.priors.location)
    covariance = np.linalg.inv(precision)[np.ix_(columns, columns)]
    log_prior = _normal_logpdf((value - mean[columns])[None], covariance[None])[0]
    log_posterior, se = _log_mean(density, worth)
    return log_posterior, float(log_prior), se


def _one_by_one(
    model: Nesting, part: PartName, columns: list[int], value: float, seed: int
) -> tuple[float, float, float]:
    """As `_location`, one coefficient after another, each with those before it at zero."""
    if value != 0 and len(columns) > 1:
        raise FitError(
            f"several {part} coefficients can be tested for 0 only, got {value}; name one of them"
        )
    here = model.whole
    log_posterior = log_prior = variance = 0.0
    for step, column in enumerate(columns):
        kept = model.without(part, columns[:step])
        if step:
            here = model.draw(kept, draws=_CHECK_DRAWS)
        j = kept[part].index(column)
        most = int(np.clip(here.unknowns.most, _FEWEST_DRAWS, len(here.points)))
        points, worth = thinned(here.points, here.worth, most)
        density, se = _log_mean(
            conditional_density(here.unknowns, points, here.unknowns.place[part][j], value), worth
        )
        log_posterior += density
        log_prior += _prior_density(
            getattr(model.priors, part).restricted(kept[part]), j, value, seed
        )
        variance += se**2
    return log_posterior, log_prior, math.sqrt(variance)


def _log_mean(log_density: Array, worth: float) -> tuple[float, float]:
    """ln of the mean density, and its error, for draws worth so many independent ones."""
    log_density = np.where(np.isnan(log_density), -np.inf, log_density)
    mean = float(logsumexp(log_density)) - math.log(len(log_density))
    return mean, float(np.std(np.exp(log_density - mean), ddof=1) / math.sqrt(worth))


def _normal_logpdf(away: Array, covariance: Array) -> Array:
    """Log density (m,) of normals with these covariances (m, d, d), so far (m, d) from the mean."""
    square = np.sum(away * np.linalg.solve(covariance, away[..., None])[..., 0], axis=-1)
    log_det = np.linalg.slogdet(2 * math.pi * covariance)[1]
    return np.asarray(-0.5 * (square + log_det))


def _prior_density(block: PriorBlock, j: int, value: float, seed: int) -> float:
    """Log prior density of coefficient j at the value.

    θ = C·coefficients are independent. Where θ_j hangs on other coefficients too (the intercept on
    the slopes, at the average study), the density is averaged over draws of those.
    """
    others = np.delete(block.contrasts[j], j)
    theta = np.array([value * block.contrasts[j, j]])
    if others.any():
        drawn = block.sample(_PRIOR_DRAWS, np.random.default_rng(seed))
        theta = theta + np.delete(drawn, j, axis=1) @ others
    density = logsumexp(block.priors[j].logpdf(theta)) - math.log(len(theta))
    return float(density + math.log(abs(block.contrasts[j, j])))


def _restricted(
    fit: Posterior, model: Nesting, part: PartName, columns: list[int]
) -> Evidence | None:
    """ln p(y | null) − ln p(y), where the null is a model without these columns."""
    if not (model.can_draw and model.is_model(part, columns)):
        return None
    kept = model.without(part, columns)
    null, full = model.draw(kept, draws=_CHECK_DRAWS).evidence, evidence(fit)
    if null is None:
        return None
    se = math.hypot(null.se, full.se)
    return Evidence(null.log - full.log, se, (*null.problems, *full.problems))
