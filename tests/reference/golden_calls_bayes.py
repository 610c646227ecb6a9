"""All that the golden numbers ask of posteriors: one small function for each verb.

The draws are of the collapsed engine, and a seed gives them. See `golden_calls`.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

import bayes_lsm as lsm

from .golden_calls import EFFECTS, PREDICTED, Numbers, Question, seeded, some


@seeded
def posterior(question: Question) -> Numbers:
    table = question.bayes.summary()
    kinds = pd.Index([str(part).partition(" (")[0] for part in table.index.get_level_values(0)])
    return {
        f"{kind} {column}": table.loc[kinds == kind, column]
        for kind in kinds.unique()
        for column in ("mean", "median", "sd", "ci_lb", "ci_ub")
    }


@seeded
def evidence(question: Question) -> Numbers:
    return {"log_evidence": question.bayes.log_evidence}


@seeded
def savage_dickey(question: Question) -> Numbers:
    return {"log_bf": question.bayes.savage_dickey(question.moderator).log_bf}


@seeded
def loo(question: Question) -> Numbers:
    return _elpd(question.bayes.loo(seed=question.seed, progress=False))


@seeded
def psis_loo(question: Question) -> Numbers:
    return _elpd(question.bayes.psis_loo(progress=False))


@seeded
def kfold(question: Question) -> Numbers:
    return _elpd(question.bayes.kfold(4, seed=question.seed, progress=False))


@seeded
def waic(question: Question) -> Numbers:
    found = question.bayes.waic()
    return {"elpd": found.elpd, "p": found.p}


def _elpd(found: Any) -> Numbers:
    return {"elpd": found.elpd, "se": found.se, "p": found.p, "pointwise": found.pointwise}


@seeded
def posterior_heterogeneity(question: Question) -> Numbers:
    found = question.bayes.heterogeneity()
    total = found.table.iloc[-1]
    return {name: total[name] for name in ("tau2", "tau", "I2", "I2_ci_lb", "I2_ci_ub")}


@seeded
def posterior_predict(question: Question) -> Numbers:
    return some(question.bayes.predict(question.new_data, variance=0.1), *PREDICTED)


@seeded
def posterior_new_effects(question: Question) -> Numbers:
    draws = question.bayes.new_effects(question.new_data, seed=question.seed)
    found = draws.reshape(-1, draws.shape[-1])
    return {"mean": found.mean(axis=0), "sd": found.std(axis=0)}


@seeded
def posterior_probability(question: Question) -> Numbers:
    found = question.bayes.probability(0.1, question.new_data)
    return some(found, "mean_effect", "new_effect")


@seeded
def posterior_true_effects(question: Question) -> Numbers:
    """θ of every row, from draws."""
    draws = question.bayes.true_effects(seed=question.seed)
    found = draws.reshape(-1, draws.shape[-1])
    return {"mean": found.mean(axis=0)}


@seeded
def posterior_exact_true_effects(question: Question) -> Numbers:
    """θ of every row, as a mixture of normals."""
    return some(question.bayes.blup(), *EFFECTS)


@seeded
def posterior_group_effects(question: Question) -> Numbers:
    """u of every group, deviations from x'β, where the groups are not the rows."""
    if question.design.is_independent:
        return {}
    return some(question.bayes.group_effects(), *EFFECTS)


@seeded
def posterior_tau_steps(question: Question) -> Numbers:
    found = lsm.tau_steps(question.bayes, step="sd")
    return some(found, "estimate", "ci_lb", "ci_ub")


@seeded
def posterior_predictive_check(question: Question) -> Numbers:
    found = question.bayes.posterior_predictive_check(draws=500, seed=question.seed)
    return some(found, "observed", "rep_mean", "ppp")


@seeded
def prior_predictive(question: Question) -> Numbers:
    found = question.model.prior_predictive(draws=2000, seed=question.seed)
    table = found.table
    return {"table": table.select_dtypes("number")}


@seeded
def average(question: Question) -> Numbers:
    found = question.model.average(draws=500, seed=question.seed, progress=False)
    return {"probability": found.probability}


@seeded
def sensitivity(question: Question) -> Numbers:
    found = question.bayes.sensitivity(
        factors=[0.5, 2.0], presets=[], draws=500, seed=question.seed, progress=False
    )
    return {"table": found.table.select_dtypes("number")}
