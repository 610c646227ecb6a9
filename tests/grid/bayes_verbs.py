"""What is asked of a posterior, and what it must answer."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pandas as pd

from .asking import (
    PREDICTED,
    WITHIN,
    Question,
    Verb,
    array,
    finite,
    number,
    printed,
    table,
    text,
)
from .kinds import DRAWS
from .reml_verbs import values_of

OF_MEDIAN = (("ci_lb", "median", "ci_ub"),)
GROUPS = {"posterior", "posterior_predictive", "observed_data", "log_likelihood", "log_prior"}


def _rows(question: Question) -> int:
    return question.rows


def _unknowns(question: Question) -> int:
    return sum(len(names) for names, _ in question.fit.parts().values())


def _draws(count: Any) -> Any:
    """Draws (chains, draws, …) of so many numbers."""

    def check(found: Any, question: Question) -> None:
        assert found.shape == (*question.fit.draws.location.shape[:2], count(question))
        finite(found)
        assert (found.std(axis=(0, 1)) > 0).all()

    return check


def _notes(found: Any, question: Question) -> None:
    assert found
    assert all(isinstance(note, str) and note for note in found)


def _elpd(found: Any, question: Question) -> None:
    finite([found.elpd, found.se, *found.pointwise])
    assert found.pointwise.shape == (len(found.studies.names),)
    assert abs(found.pointwise.sum() - found.elpd) < 1e-9 * abs(found.elpd)
    if found.pit is not None:
        assert ((found.pit >= 0) & (found.pit <= 1)).all()
    printed(found)


def _evidence(found: Any, question: Question) -> None:
    finite([found.log, found.se])
    assert found.se > 0


def _bayes_factor(found: Any, question: Question) -> None:
    finite([found.log_bf, found.se])
    printed(found)


def _savage_dickey(found: Any, question: Question) -> None:
    finite([found.log_bf, found.log_posterior, found.log_prior])
    printed(found)


def _converged(found: bool, question: Question) -> None:
    assert found == (not question.fit.problems)


def _importance(found: Any, question: Question) -> None:
    assert (found is None) == (question.how != "collapsed")


def _stats(found: Any, question: Question) -> None:
    assert bool(found) == (question.how == "nuts")


def _parts(found: dict[str, Any], question: Question) -> None:
    assert next(iter(found)) == "location"
    for names, values in found.values():
        assert values.shape == (question.fit.draws.size, len(names))
        finite(values)


def _terms(found: Any, question: Question) -> None:
    assert list(found) == [term.name for term in question.design.terms]


def _posterior(found: Any, question: Question) -> None:
    assert set(found.children) >= GROUPS
    assert found["posterior_predictive"]["effect"].shape[2:] == (question.rows,)


def _netcdf(found: Any, question: Question) -> None:
    assert set(found.children) == set(question.fit.posterior.children)


def _saved(question: Question) -> Any:
    import arviz as az

    with tempfile.TemporaryDirectory() as folder:
        path = question.fit.to_netcdf(f"{folder}/draws.nc")
        return az.from_netcdf(path).load()


def _summary(found: pd.DataFrame, question: Question) -> None:
    # The equal-tailed interval holds the median, the mean perhaps not.
    table("mean median sd", _unknowns, inside=OF_MEDIAN)(found, question)
    assert (found["sd"] > 0).all()


def _comparison(found: dict[str, pd.DataFrame], question: Question) -> None:
    assert list(found) == [""]
    table("median sd", _unknowns)(found[""], question)


def _probability(found: Any, question: Question) -> None:
    frame = found.to_dataframe()
    assert len(frame) == 2
    values = frame[["mean_effect", "new_effect"]]
    assert values.apply(lambda column: column.between(0, 1)).all(axis=None)
    printed(found)


def _functions(found: Any, question: Question) -> None:
    finite(found.table[["estimate", "ci_lb", "ci_ub"]])


def _diagnosis(found: Any, question: Question) -> None:
    assert found.findings
    assert found.check.observed
    printed(found)


def _check(found: Any, question: Question) -> None:
    frame = found.to_dataframe()
    assert len(frame) > 1
    assert frame["ppp"].between(0, 1).all()
    printed(found)


def _sensitivity(found: Any, question: Question) -> None:
    assert len(found.table) >= question.p + question.q
    finite(found.table[["median", "ci_lb", "ci_ub"]])
    assert found.table["verdict"].astype(str).str.len().gt(0).all()
    printed(found)


def _html(found: str, question: Question) -> None:
    assert "<table" in found


OF_BAYES: dict[str, Verb] = {
    "bayes_factor": Verb(lambda q: q.fit.bayes_factor(q.reduced), _bayes_factor),
    "blup": Verb(lambda q: q.fit.blup(), table("estimate sd", _rows, inside=PREDICTED)),
    "comparison": Verb(lambda q: q.fit.comparison(), _comparison),
    "converged": Verb(lambda q: q.fit.converged, _converged),
    "diagnose": Verb(
        lambda q: q.fit.diagnose(cluster=q.cluster, seed=1, progress=False), _diagnosis
    ),
    "evidence": Verb(lambda q: q.fit.evidence, _evidence),
    "group_effects": Verb(
        lambda q: q.fit.group_effects(),
        table("estimate sd", lambda q: q.effects, inside=PREDICTED),
    ),
    "heterogeneity": Verb(lambda q: q.fit.heterogeneity(), table("tau2 tau I2")),
    "importance": Verb(lambda q: q.fit.importance, _importance),
    "kfold": Verb(lambda q: q.fit.kfold(3, cluster=q.cluster, seed=1, progress=False), _elpd),
    "label": Verb(lambda q: q.fit.label, text),
    "location": Verb(
        lambda q: q.fit.location, table("mean median sd", lambda q: q.p, inside=OF_MEDIAN)
    ),
    "log_evidence": Verb(lambda q: q.fit.log_evidence, number),
    "loo": Verb(lambda q: q.fit.loo(cluster=q.cluster, seed=1, progress=False), _elpd),
    "new_effects": Verb(lambda q: q.fit.new_effects(q.new_data, seed=1), _draws(lambda _: 2)),
    "notes": Verb(lambda q: q.fit.notes, _notes),
    "parts": Verb(lambda q: q.fit.parts(), _parts),
    "posterior": Verb(lambda q: q.fit.posterior, _posterior),
    "posterior_predictive_check": Verb(
        lambda q: q.fit.posterior_predictive_check(draws=DRAWS, seed=1), _check
    ),
    "predict": Verb(
        lambda q: q.fit.predict(q.new_data, variance=0.1),
        table("estimate ci_lb ci_ub pi_lb pi_ub", lambda _: 2, inside=(*WITHIN, *PREDICTED)),
    ),
    "predict_tau": Verb(
        lambda q: q.fit.predict_tau(q.new_data),
        table("estimate tau2 tau", lambda _: 2, inside=WITHIN),
    ),
    "probability": Verb(lambda q: q.fit.probability(0.1, q.new_data), _probability),
    "psis_loo": Verb(lambda q: q.fit.psis_loo(cluster=q.cluster, progress=False), _elpd),
    "savage_dickey": Verb(lambda q: q.fit.savage_dickey(q.kind.term), _savage_dickey),
    "scale": Verb(lambda q: q.fit.scale, table("mean median sd", lambda q: q.q, inside=OF_MEDIAN)),
    "scale_functions": Verb(
        lambda q: q.fit.scale_functions(np.eye(q.q)[:1], ["first"]), _functions
    ),
    "sensitivity": Verb(
        lambda q: q.fit.sensitivity(
            factors=(0.5, 2.0), presets=(), draws=DRAWS, seed=1, progress=False
        ),
        _sensitivity,
    ),
    "stats": Verb(lambda q: q.fit.stats, _stats),
    "study_weights": Verb(lambda q: q.fit.study_weights(), table("true_effect weight", _rows)),
    "summary": Verb(lambda q: q.fit.summary(), _summary),
    "tau2": Verb(lambda q: q.fit.tau2, array(lambda q: (q.rows,))),
    "tau_contrasts": Verb(
        lambda q: q.fit.tau_contrasts(q.kind.moderator, values=values_of(q)),
        table("estimate prob_above", lambda _: 1, inside=WITHIN),
    ),
    "tau_means": Verb(
        lambda q: q.fit.tau_means(q.kind.moderator, values=values_of(q)),
        table("estimate", lambda _: 2, inside=WITHIN),
    ),
    "tau_steps": Verb(lambda q: q.fit.tau_steps(), table("estimate", inside=WITHIN)),
    "terms": Verb(lambda q: q.fit.terms, _terms),
    "title": Verb(lambda q: q.fit.title, text),
    "to_dataframe": Verb(lambda q: q.fit.to_dataframe(), _summary),
    "cells": Verb(lambda q: q.fit.cells().notes, lambda notes, q: None),
    "to_html": Verb(lambda q: q.fit.to_html(), _html),
    "to_latex": Verb(lambda q: q.fit.to_latex(), text),
    "to_netcdf": Verb(_saved, _netcdf),
    "to_string": Verb(lambda q: q.fit.to_string(), text),
    "true_effects": Verb(lambda q: q.fit.true_effects(seed=1), _draws(_rows)),
    "waic": Verb(lambda q: q.fit.waic(cluster=q.cluster), _elpd),
}
