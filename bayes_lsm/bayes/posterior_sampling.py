"""Drawing from a posterior: priors bound to the data, an engine, and whether to trust its draws."""

from __future__ import annotations

from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.diagnostics import convergence, find_problems
from bayes_lsm.bayes.engines.direct import can_sample, sample_directly
from bayes_lsm.bayes.engines.nuts import sample_nuts
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.pymc_model.graph import check_true_effects
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.student.effects import df_prior
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_choice, require_count, seed_or_new
from bayes_lsm.design.design import Design
from bayes_lsm.errors import ConvergenceWarning, FitError, warn
from bayes_lsm.priors import Priors
from bayes_lsm.specification import Engine, TrueEffects


def draw_posterior(
    design: Design,
    *,
    prior: Priors | None = None,
    engine: Engine = "auto",
    draws: int = 4000,
    seed: int | None = None,
    chains: int = 4,
    tune: int = 1000,
    target_accept: float = 0.95,
    true_effects: TrueEffects = "integrated",
    progress: bool = True,
) -> Posterior:
    """Draw from a posterior, by the engine that suits it; see `fit_bayes`."""
    require_choice("engine", engine, Engine)
    require_count("draws", draws, 100)
    require_count("chains", chains, 1)
    require_count("tune", tune, 100)
    if not 0 < target_accept < 1:
        raise FitError(f"target_accept must be between 0 and 1, got {target_accept!r}")
    require_capable("fit_bayes", design)
    if engine == "collapsed":
        require_capable("engine='collapsed'", design)
    check_true_effects(design, true_effects)
    if true_effects == "latent" and engine == "collapsed":
        raise FitError(
            "the collapsed engine integrates the study effects out; use engine='nuts' for "
            "true_effects='latent'"
        )
    prior, seed = prior or design.specification.priors, seed_or_new(seed)
    resolved, df = resolve_priors(design, prior), df_prior(design, prior)
    direct = true_effects == "integrated" and can_sample(design, resolved, df)
    fit = None
    if engine == "collapsed" or (engine == "auto" and direct):
        drawn = sample_directly(design, resolved, df, draws=draws, seed=seed)
        fit = checked(design, prior, drawn, seed)
    if fit is None or (engine == "auto" and fit.problems):
        drawn = sample_nuts(
            design,
            prior,
            draws=-(-draws // chains),
            tune=tune,
            chains=chains,
            seed=seed,
            target_accept=target_accept,
            true_effects=true_effects,
            progress=progress,
        )
        fit = checked(design, prior, drawn, seed)
    if fit.problems:
        warn("; ".join(fit.problems), ConvergenceWarning)
    return fit


def checked(design: Design, priors: Priors, draws: Draws, seed: int) -> Posterior:
    """Draws as a posterior, with how well everything is known and what is wrong with it."""
    diagnostics = convergence(design, draws)
    problems = find_problems(draws, diagnostics)
    return Posterior(design, priors, draws, seed, diagnostics, tuple(problems))
