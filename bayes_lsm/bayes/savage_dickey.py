"""The Savage–Dickey density ratio: a Bayes factor for a point null, read off one posterior.

    BF01 = p(y | null) / p(y) = p(ψ = ψ0 | y) / p(ψ = ψ0)

holds when the null model's prior of the other coefficients is the full model's given ψ = ψ0. That
is so for every prior of this package that is stated on one coefficient at a time, on the level of
the average study included: without a moderator the average study is what it was.

The posterior density comes without any smoothing: for a location coefficient as the mean of its
exact normal density given α, over the draws; for a scale coefficient by importance-weighted
marginal density estimation, which needs the posterior up to a constant only. Neither uses the
marginal likelihood, so this is an independent check on a Bayes factor.

Dickey (1971), Annals of Mathematical Statistics 42, 204-223, doi:10.1214/aoms/1177693507;
Verdinelli & Wasserman (1995), JASA 90, 614-618, doi:10.1080/01621459.1995.10476554; Chen (1994),
JASA 89, 818-824, doi:10.1080/01621459.1994.10476815.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from bayes_lsm.bayes.collapsed import normal_prior, require_collapsible
from bayes_lsm.bayes.evidence import Evidence, describe_bf, evidence, grade, read_evidence
from bayes_lsm.bayes.graph import resolve_priors
from bayes_lsm.bayes.submodels import find_terms, sample_submodel
from bayes_lsm.bayes.subsets import Array
from bayes_lsm.errors import FitError
from bayes_lsm.priors import PriorBlock, ResolvedPriors
from bayes_lsm.tables import Printable

if TYPE_CHECKING:
    from bayes_lsm.bayes.fit import BayesFit

PartName = Literal["location", "scale"]

_MOST_DRAWS = 20_000
_PRIOR_DRAWS = 200_000
_CHECK_DRAWS = 8000
_FAR = 5.0  # median absolute deviations


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
    fit: BayesFit, term: str, value: float = 0.0, *, part: PartName = "scale"
) -> SavageDickey:
    """The Bayes factor for a coefficient's having one value, from the fit of the full model.

    Parameters
    ----------
    fit : BayesFit
        Of either engine.
    term : str
        A coefficient as the tables print it (``"continentOther"``), or a term of the formula
        (``"continent"``), all of whose coefficients then have the value.
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
        For an unknown term, or location priors that are not normal.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(seed=1)
    >>> found = savage_dickey(fit, "ablat", part="location")
    >>> found.log_bf < 0, abs(found.agreement) < 4
    (True, True)
    """
    if part not in get_args(PartName):
        raise FitError(f"part must be 'location' or 'scale', got {part!r}")
    if not math.isfinite(value):
        raise FitError(f"value must be a finite number, got {value}")
    columns = _columns(fit, part, term)
    priors = resolve_priors(fit.design, fit.priors)
    require_collapsible(priors, "use such priors, whatever the engine")
    route = {"location": _location, "scale": _scale}[part]
    log_posterior, log_prior, se = route(fit, priors, columns, value)
    names = fit.design.location.names if part == "location" else fit.design.scale.names
    return SavageDickey(
        part,
        tuple(names[j] for j in columns),
        float(value),
        log_posterior,
        log_prior,
        se,
        _restricted(fit, priors, part, columns) if value == 0 else None,
        (f"priors: {fit.priors.describe()}", *fit.problems, *fit.design.notes),
    )


def _columns(fit: BayesFit, part: PartName, term: str) -> list[int]:
    design_part = getattr(fit.design, part)
    if term in design_part.names:
        return [design_part.names.index(term)]
    for each in find_terms(design_part):
        if each.name == term:
            return list(each.columns)
    known = ", ".join(map(repr, design_part.names))
    raise FitError(f"there is no {part} term {term!r}; the {part} coefficients are {known}")


def _arrays(fit: BayesFit, priors: ResolvedPriors) -> tuple[Array, ...]:
    design = fit.design
    arrays = (design.y, design.v, design.X, design.Z, *normal_prior(priors.location))
    return tuple(np.ascontiguousarray(array, dtype=float) for array in arrays)


def _location(
    fit: BayesFit, priors: ResolvedPriors, columns: list[int], value: float
) -> tuple[float, float, float]:
    """Log posterior and log prior density at the value, and the error of the first."""
    from bayes_lsm.likelihood.deletion import location_moments

    arrays = _arrays(fit, priors)
    alphas, worth = _thinned(fit)
    means, covariances = location_moments(alphas, *arrays)
    inside = np.ix_(np.arange(len(alphas)), columns, columns)
    density = _normal_logpdf(value - means[:, columns], covariances[inside])
    mean, precision = arrays[4:]
    covariance = np.linalg.inv(precision)[np.ix_(columns, columns)]
    log_prior = _normal_logpdf((value - mean[columns])[None], covariance[None])[0]
    log_posterior, se = _log_mean(density, worth)
    return log_posterior, float(log_prior), se


def _scale(
    fit: BayesFit, priors: ResolvedPriors, columns: list[int], value: float
) -> tuple[float, float, float]:
    """As `_location`: with w any density of ψ given the other coefficients φ,

    p(ψ0 | y) = E[ w(ψ | φ) p(y | ψ0, φ) p(ψ0, φ) / (p(y | ψ, φ) p(ψ, φ)) | y ]
    """
    from bayes_lsm.likelihood.integrated import log_marginal

    arrays = _arrays(fit, priors)
    alphas, worth = _thinned(fit)
    moved = alphas.copy()
    moved[:, columns] = value
    there, here = (
        log_marginal(each, *arrays) + priors.scale.logpdf(each).sum(axis=1)
        for each in (moved, alphas)
    )
    density = _conditional_logpdf(alphas, columns) + there - here
    log_posterior, se = _log_mean(density, worth)
    return log_posterior, _scale_prior(priors.scale, columns, value, fit.seed), se


def _thinned(fit: BayesFit) -> tuple[Array, float]:
    """Draws of α (m, q), and how many independent ones they are worth."""
    draws = fit.draws.flat_scale
    worth = fit.convergence.filter(like="ess").to_numpy().min()
    step = -(-len(draws) // _MOST_DRAWS)
    return np.ascontiguousarray(draws[::step]), float(min(worth, len(draws) / step))


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


def _conditional_logpdf(alphas: Array, columns: list[int]) -> Array:
    """Log density of ψ given φ if both were normal with the moments of most draws.

    Draws far out are left out of the moments, not of the average: the density has to be small
    there, where it is divided by a small one.
    """
    rest = [j for j in range(alphas.shape[1]) if j not in columns]
    centred = alphas - np.median(alphas, axis=0)
    distance = np.abs(centred) / np.median(np.abs(centred), axis=0)
    most = (distance < _FAR).all(axis=1)
    centred = centred - centred[most].mean(axis=0)
    psi, phi = centred[:, columns], centred[:, rest]
    if rest:
        psi = psi - phi @ np.linalg.lstsq(phi[most], psi[most], rcond=None)[0]
    covariance = np.atleast_2d(np.cov(psi[most].T))
    return _normal_logpdf(psi, np.broadcast_to(covariance, (len(psi), *covariance.shape)))


def _scale_prior(block: PriorBlock, columns: list[int], value: float, seed: int) -> float:
    """Log prior density of some coefficients at the value.

    θ = C·coefficients are independent. Where these θ hang on other coefficients too (the intercept
    on the slopes, at the average study), the density is averaged over draws of those.
    """
    C = block.contrasts
    rest = [j for j in range(len(C)) if j not in columns]
    own, across = C[np.ix_(columns, columns)], C[np.ix_(columns, rest)]
    theta = np.full((1, len(columns)), value) @ own.T
    if across.any():
        if C[np.ix_(rest, columns)].any():
            raise FitError(
                "the prior density of this coefficient has no simple form; name the intercept, all "
                "levels of a factor, or a slope"
            )
        drawn = block.sample(_PRIOR_DRAWS, np.random.default_rng(seed))
        theta = theta + drawn[:, rest] @ across.T
    density = sum(block.priors[j].logpdf(theta[:, i]) for i, j in enumerate(columns))
    return float(logsumexp(density) - math.log(len(theta)) + np.linalg.slogdet(own)[1])


def _restricted(
    fit: BayesFit, priors: ResolvedPriors, part: PartName, columns: list[int]
) -> Evidence | None:
    """ln p(y | null) − ln p(y), where the null is a model without these columns."""
    dropped: dict[str, list[int]] = {"location": [], "scale": [], part: columns}
    level = {
        j
        for term in find_terms(getattr(fit.design, part))
        if not term.optional
        for j in term.columns
    }
    location, scale = (
        [j for j in range(len(getattr(fit.design, name).names)) if j not in dropped[name]]
        for name in ("location", "scale")
    )
    if level & set(columns) or not location or not scale:
        return None
    draws = sample_submodel(fit.design, priors, location, scale, draws=_CHECK_DRAWS, seed=fit.seed)
    null, full = read_evidence(draws), evidence(fit)
    se = math.hypot(null.se, full.se)
    return Evidence(null.log - full.log, se, (*null.problems, *full.problems))
