"""Draws as an ArviZ DataTree, with all groups that ArviZ's diagnostics ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.coordinates import DIMS, are_correlations, coordinates
from bayes_lsm.bayes.cross_validation.entries import pointwise_log_likelihood
from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.prediction.conditional_effects import ConditionalEffects
from bayes_lsm.bayes.prior_draws import draw_priors
from bayes_lsm.bayes.resolved_priors.resolve import DEFAULT_SCALE_SD, resolve_priors
from bayes_lsm.design.design import Design
from bayes_lsm.priors import Priors, ResolvedPriors
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom

if TYPE_CHECKING:
    from xarray import DataTree

_PRIOR_DRAWS = 1000


def build_datatree(design: Design, priors: Priors, draws: Draws, *, seed: int) -> DataTree:
    """The groups posterior, sample_stats, log_likelihood, log_prior, prior, prior_predictive,
    posterior_predictive and observed_data; the same ones for every model.

    posterior and prior have ``location``, ``scale`` and, where the model has them,
    ``correlation``, ``scale_sd``, ``scale_effect``, ``df`` and ``true_effect``. Where ν is fixed,
    ``df`` is in constant_data. The seed is that of prior draws and predictions.

    ``effect`` is the data: in observed_data, and as new effects of the same studies and groups, all
    drawn anew, in posterior_predictive and prior_predictive. In log_likelihood it has an entry for
    each study or independent cluster, so that ``az.loo`` leaves out what can be left out (see
    `pointwise_log_likelihood`).

    log_prior has one value for each coefficient, κ of correlations, and SD of random intercepts
    of ln τ²: the log density of what its prior is stated on (see `PriorBlock.logpdf`). The random
    intercepts themselves are part of the model, not of what was believed of it, and have none.

    There is no sample_stats for draws of the collapsed engine, and with a flat prior there is
    neither prior nor prior_predictive.
    """
    rng, names = np.random.default_rng(seed), coordinates(design)
    resolved = resolve_priors(design, priors)
    groups: dict[str, dict[str, Any]] = {
        "posterior": _unknowns(design, draws, resolved),
        "posterior_predictive": {"effect": _predict(design, draws, rng)},
        "observed_data": {"effect": design.y},
    }
    if resolved.is_proper:  # a flat prior cannot be drawn from
        drawn = draw_priors(design, priors, resolved, _PRIOR_DRAWS, rng)
        groups["prior"] = _unknowns(design, drawn, resolved)
        groups["prior_predictive"] = {"effect": _predict(design, drawn, rng)}
    if isinstance(resolved.df, float):
        groups["constant_data"] = {"df": np.asarray(resolved.df)}
    if draws.stats:
        groups["sample_stats"] = dict(draws.stats)
    rows = {"effect": design.unit, "true_effect": design.unit}
    tree = _datatree(groups, {**DIMS, **rows}, names)
    # What these two are of has dimensions of its own.
    density = pointwise_log_likelihood(design, draws)
    likelihood = {"log_likelihood": {"effect": density.values}}
    entries = {density.unit: list(density.names)}
    tree.update(_datatree(likelihood, {"effect": density.unit}, entries))
    prior = {"log_prior": _log_prior(design, priors, resolved, draws)}
    kappas = {"kappa": _kappa_names(design)}
    tree.update(_datatree(prior, {**DIMS, "correlation": "kappa"}, {**names, **kappas}))
    return tree


def _datatree(
    groups: dict[str, dict[str, Any]], dims: dict[str, str], coords: dict[str, list[str]]
) -> DataTree:
    import arviz as az

    there = {name for group in groups.values() for name in group} & dims.keys()
    tree: DataTree = az.from_dict(
        groups,
        dims={name: [dims[name]] for name in there},
        coords={dims[name]: coords[dims[name]] for name in there},
    )
    return tree


def _unknowns(design: Design, draws: Draws, resolved: ResolvedPriors) -> dict[str, Array]:
    """The variables that a model has; not a ν that is fixed."""
    free = None if isinstance(resolved.df, float) else draws.df
    named = ("location", "scale", "scale_sd", "scale_effect", "true_effect")
    found = {name: getattr(draws, name) for name in named}
    found |= {"df": free, "correlation": draws.correlations(design)}
    return {name: values for name, values in found.items() if values is not None}


def _log_prior(
    design: Design, priors: Priors, resolved: ResolvedPriors, draws: Draws
) -> dict[str, Array]:
    """Log prior densities (chains, draws, …), by variable."""
    found = {"location": resolved.location.logpdf(draws.location)}
    is_kappa = are_correlations(design)
    of_scale = resolved.scale.logpdf(draws.alpha_and_kappa(design))
    found["scale"] = of_scale[..., ~is_kappa]
    if is_kappa.any():
        found["correlation"] = of_scale[..., is_kappa]
    if draws.scale_sd is not None:
        of_sd = priors.scale_sd or DEFAULT_SCALE_SD
        found["scale_sd"] = of_sd.logpdf(2.0 * np.log(draws.scale_sd))
    df = resolved.df
    if isinstance(df, DegreesOfFreedom) and draws.df is not None:
        found["df"] = df.logpdf(draws.df)
    return found


def _kappa_names(design: Design) -> list[str]:
    """Of Fisher's z of the (partial) correlations: ``"outcome | trial: κ 1"``."""
    alone = len(design.terms) == 1
    return [
        f"{'' if alone else f'{term.name}: '}κ {j + 1}"
        for term in design.terms
        for j in range(term.n_correlations)
    ]


def _predict(design: Design, draws: Draws, rng: np.random.Generator) -> Array:
    """New effects of the same studies and groups, shape (chains, draws, n)."""
    mean = draws.location @ design.X.T
    return mean + ConditionalEffects(design, draws).new_residuals(rng).reshape(mean.shape)
