"""The marginal likelihood of any fit.

The collapsed engine has it. For draws of NUTS that engine is run on the same model; where it cannot
be, with location priors that are not normal, shrinkage priors or random intercepts of ln τ², the
draws themselves are bridged.
"""

from __future__ import annotations

from bayes_lsm.bayes.engines.direct import can_sample, require_direct, sample_directly
from bayes_lsm.bayes.evidence.bridged_evidence import bridged_evidence
from bayes_lsm.bayes.evidence.evidence import (
    EVIDENCE_DRAWS,
    Evidence,
    read_evidence,
    read_importance,
)
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.resolved_priors.propriety import require_normalised
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors

# Where a posterior keeps its own, once it was asked for.
_KEPT = "_evidence"


def evidence(fit: Posterior) -> Evidence:
    """The log marginal likelihood of a fit's model.

    Parameters
    ----------
    fit : BayesFit
        Of either engine.

    Raises
    ------
    FitError
        With a flat prior, for which there is no marginal likelihood; and for Student-t effects
        sampled by NUTS under priors that the collapsed engine cannot take.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg")).fit_bayes(seed=1)
    >>> round(evidence(fit).log)
    -16
    >>> fit = lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)
    >>> round(evidence(fit).log)
    -13
    """
    kept = vars(fit)
    if _KEPT not in kept:
        kept[_KEPT] = _evidence(fit)
    found: Evidence = kept[_KEPT]
    return found


def _evidence(fit: Posterior) -> Evidence:
    design = fit.design
    priors = resolve_priors(design, fit.priors)
    require_normalised(priors, "a marginal likelihood")
    if fit.importance is not None:
        return read_importance(fit.importance)
    if not can_sample(design, priors):
        if priors.df is None:
            return bridged_evidence(fit)
        cure = "NUTS gives no marginal likelihood; use such priors, or compare by psis_loo()"
        require_direct(priors, cure)
    size = max(EVIDENCE_DRAWS, fit.draws.size)
    return read_evidence(sample_directly(design, priors, draws=size, seed=fit.seed))
