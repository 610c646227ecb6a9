"""Fitting by Bayes."""

from __future__ import annotations

from dataclasses import fields

from bayes_lsm.bayes.bayes_fit import BayesFit
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.posterior_sampling import Settings, draw_posterior
from bayes_lsm.design.design import Design
from bayes_lsm.priors import Priors
from bayes_lsm.specification import Engine, TrueEffects


def fit_bayes(
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
) -> BayesFit:
    """Draw from the posterior of a location-scale model.

    Parameters
    ----------
    design : Design
    prior : Priors, optional
        Default: those of the design's specification. Each scale term has them anew; a prior of one
        of several terms is named ``"district: year"``.
    engine : {"auto", "collapsed", "nuts"}, default "auto"
        ``"collapsed"`` integrates β and the effects of studies and groups out, and draws α and the
        correlations by importance sampling: independent draws in milliseconds. With Student-t study
        effects it integrates those out, and draws all else so.
        ``"nuts"`` is the no-U-turn sampler, through PyMC. ``"auto"`` takes the first where the
        model and its priors allow it and its weights can be trusted, else the second; random
        intercepts of ln τ² and shrinkage priors need the second.
    draws : int, default 4000
        Posterior draws; with NUTS of all chains together, rounded up to a multiple of `chains`.
    seed : int, optional
        The same seed gives the same draws. Without one, a seed is drawn and kept in the fit.
    chains : int, default 4
    tune : int, default 1000
        Warm-up draws of each chain of NUTS, which are not kept.
    target_accept : float, default 0.95
        Of NUTS; raise it towards 1 when there are divergences. Where a far region of the posterior
        has to be visited it is 0.99 at least, and one draw is kept of every four transitions.
    true_effects : {"integrated", "latent"}, default "integrated"
        ``"latent"`` draws the true effect of each study too, by NUTS: ``true_effect`` in
        `BayesFit.posterior`. The posterior of the coefficients is the same. For independent effects
        only.
    progress : bool, default True
        Show a progress bar on standard error while NUTS is at work.

    Returns
    -------
    BayesFit

    Raises
    ------
    PriorError
        When a prior names a term that the model does not have, or is of the degrees of freedom of
        study effects that are normal.
    FitError
        For settings out of range, and when the collapsed engine cannot fit the model.

    Warns
    -----
    ConvergenceWarning
        When R-hat, the effective sample size, divergences, the energy or the importance weights say
        that the draws cannot be trusted yet; kept in `BayesFit.problems`.

    Examples
    --------
    >>> from bayes_lsm.datasets import load_dataset
    >>> from bayes_lsm.design.design import build_design
    >>> from bayes_lsm.specification import Specification
    >>> spec = Specification(
    ...     "yi ~ 1", "vi", scale={"district": "~ 1", "district/school": "~ 1"})
    >>> design = build_design(spec, load_dataset("konstantopoulos2011"))
    >>> fit = fit_bayes(design, seed=1)
    >>> fit.summary()["median"].round().to_list()
    [0.0, -3.0, -3.0]
    """
    how = Settings(engine, draws, seed, chains, tune, target_accept, true_effects, progress)
    return as_fit(draw_posterior(design, prior, how))


def as_fit(found: Posterior) -> BayesFit:
    """The same facts with every verb as a method."""
    return BayesFit(**{each.name: getattr(found, each.name) for each in fields(found)})
