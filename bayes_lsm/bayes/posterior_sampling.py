"""Drawing from a posterior: priors bound to the data, an engine, and whether to trust its draws."""

from __future__ import annotations

from dataclasses import dataclass

from bayes_lsm.bayes.draws import Draws
from bayes_lsm.bayes.engines.diagnostics import convergence, find_problems
from bayes_lsm.bayes.engines.direct import can_sample, sample_directly
from bayes_lsm.bayes.engines.nuts import Chains, sample_nuts
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.pymc_model.graph import check_true_effects
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_choice, require_count, seed_or_new
from bayes_lsm.design.design import Design
from bayes_lsm.errors import ConvergenceWarning, FitError, warn
from bayes_lsm.priors import Priors
from bayes_lsm.specification import Engine, TrueEffects


@dataclass(frozen=True)
class Settings:
    """How a posterior is drawn from; `fit_bayes` says what each of them means."""

    engine: Engine = "auto"
    draws: int = 4000
    seed: int | None = None
    chains: int = 4
    tune: int = 1000
    target_accept: float = 0.95
    true_effects: TrueEffects = "integrated"
    progress: bool = True

    def check(self, design: Design) -> None:
        """Refuse settings out of range, and such as the model cannot have, by a FitError."""
        require_choice("engine", self.engine, Engine)
        require_count("draws", self.draws, 100)
        require_count("chains", self.chains, 1)
        require_count("tune", self.tune, 100)
        if not 0 < self.target_accept < 1:
            raise FitError(f"target_accept must be between 0 and 1, got {self.target_accept!r}")
        require_capable("fit_bayes", design)
        if self.engine == "collapsed":
            require_capable("engine='collapsed'", design)
        check_true_effects(design, self.true_effects)
        if self.true_effects == "latent" and self.engine == "collapsed":
            raise FitError(
                "the collapsed engine integrates the study effects out; use engine='nuts' for "
                "true_effects='latent'"
            )


def draw_posterior(design: Design, prior: Priors | None, settings: Settings) -> Posterior:
    """Draw from a posterior, by the engine that suits it; see `fit_bayes`."""
    settings.check(design)
    engine, draws, true_effects = settings.engine, settings.draws, settings.true_effects
    prior, seed = prior or design.specification.priors, seed_or_new(settings.seed)
    resolved = resolve_priors(design, prior)
    direct = true_effects == "integrated" and can_sample(design, resolved)
    fit = None
    if engine == "collapsed" or (engine == "auto" and direct):
        drawn = sample_directly(design, resolved, draws=draws, seed=seed)
        fit = checked(design, prior, drawn, seed)
    if fit is None or (engine == "auto" and fit.problems):
        count = settings.chains
        chains = Chains(-(-draws // count), settings.tune, count, settings.target_accept)
        show = settings.progress
        drawn = sample_nuts(
            design, prior, chains, seed=seed, true_effects=true_effects, progress=show
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
