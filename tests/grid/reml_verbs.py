"""What is asked of a fit by REML or ML, and what it must answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bayes_lsm.likelihood.protocol import Covariance, Likelihood

from .asking import (
    PREDICTED,
    WITHIN,
    Question,
    Verb,
    array,
    finite,
    is_test,
    number,
    printed,
    table,
    text,
)

REFITS = 20


def _rows(question: Question) -> int:
    return question.rows


def _of_rows(question: Question) -> tuple[int, ...]:
    return (question.rows,)


def _coefficients(question: Question) -> int:
    return question.p + question.q + len(question.fit.correlations)


def _notes(found: Any, question: Question) -> None:
    assert isinstance(found, tuple)
    assert all(isinstance(note, str) and note for note in found)


def _correlations(found: pd.DataFrame, question: Question) -> None:
    count = sum(len(term.pairs) for term in question.design.terms)
    assert list(found.columns) == ["estimate", "ci_lb", "ci_ub"]
    assert len(found) == count
    finite(found)
    assert (found.abs() <= 1).all(axis=None)


def _covariance(found: Covariance, question: Question) -> None:
    solved = found.solve(found.whiten(np.eye(question.rows)).T @ np.ones(question.rows))
    assert solved.shape == (question.rows,)
    finite(found.variances)
    assert (found.variances > 0).all()


def _likelihood(found: Likelihood, question: Question) -> None:
    fit = question.fit
    assert abs(found.evaluate(fit.summit, fit.method).value - fit.loglik) < 1e-9 * abs(fit.loglik)


def _mask(expected: bool) -> Any:
    def check(found: Any, question: Question) -> None:
        assert np.asarray(found).dtype == bool
        assert (np.asarray(found) == expected).all()

    return check


def _nothing(found: Any, question: Question) -> None:
    assert found is None or len(found) == 0 or np.size(found) == 0


def _comparison(found: dict[str, pd.DataFrame], question: Question) -> None:
    assert list(found) == [""]
    assert len(found[""]) == _coefficients(question)
    finite(found[""]["estimate"])


def _residuals(found: Any, question: Question) -> None:
    assert len(found.labels) == question.rows
    finite(found.values)
    table("resid se z", _rows)(found, question)


def _robust(found: Any, question: Question) -> None:
    assert found.vcov_location.shape == (question.p, question.p)
    assert found.vcov_scale.shape == (question.q, question.q)
    finite([*np.diag(found.vcov_location), *np.diag(found.vcov_scale)])
    assert found.n_clusters > 1
    printed(found)


def _checked(found: Any, question: Question) -> None:
    assert found.interior
    assert found.reached > 0
    # Where no other start ends higher, what was reported is the highest.
    assert found.maxima.max() < 1e-6
    assert abs(found.gradient) < 1e-3
    printed(found)


def _profile(found: Any, question: Question) -> None:
    assert len(found.values) == len(found.loglik) >= 7
    finite(found.loglik)
    assert found.loglik.max() <= found.maximum + 1e-6
    assert found.lower < found.estimate < found.upper
    printed(found)


def _permutation(found: Any, question: Question) -> None:
    is_test(found, question)
    assert found.pval >= 1 / found.iterations
    assert len(found.null_joint) == found.iterations
    assert found.null.shape == (found.iterations, len(found.table))


def _bootstrap(found: Any, question: Question) -> None:
    is_test(found, question)
    assert len(found.null) == REFITS
    assert found.pval >= 1 / (1 + REFITS)


def _influence(found: Any, question: Question) -> None:
    G = len(found.leave_one_out.labels)
    assert found.dfbetas_location.shape == (G, question.p)
    assert found.dfbetas_scale.shape == (G, question.q)
    finite([found.cook, found.cov_ratio])
    assert abs(found.weight.sum() - 100) < 1e-8
    table("hat weight", lambda _: G)(found, question)


def _left_out(found: Any, question: Question) -> None:
    G = len(found.labels)
    assert found.beta.shape == (G, question.p)
    assert found.alpha.shape == (G, question.q)
    finite([found.beta.ravel()])
    printed(found)


def _functions(found: Any, question: Question) -> None:
    assert found.how
    finite(found.table[["estimate", "ci_lb", "ci_ub"]])


def _html(found: str, question: Question) -> None:
    assert "<table" in found


def part_with_moderators(question: Question) -> Any:
    return "scale" if question.kind.moderator or not question.kind.location else "location"


def _permute(question: Question) -> Any:
    return question.fit.permutation_test(
        part=part_with_moderators(question),
        iterations=REFITS,
        seed=1,
        cluster=question.cluster,
        progress=False,
    )


def values_of(question: Question) -> Any:
    """Two values of the scale moderator."""
    found = question.kind.data.get(question.kind.moderator, pd.Series([0, 1]))
    return [found.min(), found.max()]


FACTS: dict[str, Verb] = {
    "aic": Verb(lambda q: q.fit.aic, number),
    "aicc": Verb(lambda q: q.fit.aicc, number),
    "alpha": Verb(lambda q: q.fit.alpha, array(lambda q: (q.q,))),
    "at_stop": Verb(lambda q: q.fit.at_stop, table("estimate", _coefficients)),
    "bic": Verb(lambda q: q.fit.bic, number),
    "blind_location": Verb(lambda q: q.fit.blind_location, _nothing),
    "comparison": Verb(lambda q: q.fit.comparison(), _comparison),
    "components": Verb(lambda q: q.fit.components, table("tau2 tau groups")),
    "correlations": Verb(lambda q: q.fit.correlations, _correlations),
    "correlations_at": Verb(lambda q: q.fit.correlations_at(0.8), _correlations),
    "covariance": Verb(lambda q: q.fit.covariance, _covariance),
    "df_location": Verb(lambda q: q.fit.df_location, _nothing),
    "df_scale": Verb(lambda q: q.fit.df_scale, _nothing),
    "divergence": Verb(lambda q: q.fit.divergence, _nothing),
    "effective_n": Verb(lambda q: q.fit.effective_n, number),
    "fitted_values": Verb(lambda q: q.fit.fitted_values(), array(_of_rows)),
    "has_border": Verb(lambda q: q.fit.has_border, _mask(False)),
    "highest": Verb(lambda q: q.fit.highest, number),
    "is_fixed": Verb(lambda q: q.fit.is_fixed, _mask(False)),
    "is_flat": Verb(lambda q: q.fit.is_flat, _mask(False)),
    "is_known": Verb(lambda q: q.fit.is_known, _mask(True)),
    "knapp_hartung": Verb(lambda q: q.fit.knapp_hartung, number),
    "known_tau2": Verb(lambda q: q.fit.known_tau2, array(_of_rows)),
    "known_vcov_location": Verb(lambda q: q.fit.known_vcov_location, array(lambda q: (q.p, q.p))),
    "label": Verb(lambda q: q.fit.label, text),
    "likelihood": Verb(lambda q: q.fit.likelihood, _likelihood),
    "limit_alpha": Verb(lambda q: q.fit.limit_alpha, array(lambda q: (q.q,))),
    "location": Verb(
        lambda q: q.fit.location, table("estimate se pval", lambda q: q.p, inside=WITHIN)
    ),
    "n_parameters": Verb(lambda q: q.fit.n_parameters, number),
    "nlme": Verb(lambda q: q.fit.nlme.to_numpy(), array(lambda q: (3,))),
    "notes": Verb(lambda q: q.fit.notes, _notes),
    "qe": Verb(lambda q: q.fit.qe, is_test, lines=("cochran_q",)),
    "qm": Verb(lambda q: q.fit.qm, is_test),
    "qs": Verb(lambda q: q.fit.qs, is_test),
    "scale": Verb(lambda q: q.fit.scale, table("estimate se pval", lambda q: q.q, inside=WITHIN)),
    "scale_at": Verb(
        lambda q: q.fit.scale_at(0.8), table("estimate se", lambda q: q.q, inside=WITHIN)
    ),
    "scale_names": Verb(lambda q: np.arange(len(q.fit.scale_names)), array(lambda q: (q.q,))),
    "summit": Verb(lambda q: q.fit.summit, array(lambda q: (len(q.fit.stop),))),
    "tau2": Verb(lambda q: q.fit.tau2, array(_of_rows)),
    "title": Verb(lambda q: q.fit.title, text),
    "to_dataframe": Verb(lambda q: q.fit.to_dataframe(), table("estimate", _coefficients)),
    "cells": Verb(lambda q: q.fit.cells().notes, lambda notes, q: None),
    "to_html": Verb(lambda q: q.fit.to_html(), _html),
    "to_latex": Verb(lambda q: q.fit.to_latex(), text),
    "to_string": Verb(lambda q: q.fit.to_string(), text),
    "uninformed": Verb(lambda q: q.fit.uninformed, _nothing),
    "vcov_scale": Verb(lambda q: q.fit.vcov_scale, array(lambda q: (q.q, q.q))),
}

VERBS: dict[str, Verb] = {
    "blup": Verb(lambda q: q.fit.blup(), table("estimate se", _rows, inside=PREDICTED)),
    "bootstrap_test": Verb(
        lambda q: q.fit.bootstrap_test(q.reduced, iterations=REFITS, seed=1, progress=False),
        _bootstrap,
    ),
    "check": Verb(lambda q: q.fit.check(starts=4), _checked),
    "confidence_intervals": Verb(
        lambda q: q.fit.confidence_intervals(), table("estimate", lambda q: q.q, inside=WITHIN)
    ),
    "group_effects": Verb(
        lambda q: q.fit.group_effects(),
        table("estimate se", lambda q: q.effects, inside=PREDICTED),
    ),
    "hat_values": Verb(lambda q: q.fit.hat_values(), array(_of_rows)),
    "heterogeneity": Verb(lambda q: q.fit.heterogeneity(), table("tau2 tau I2")),
    "influence": Verb(lambda q: q.fit.influence(cluster=q.cluster, progress=False), _influence),
    "leave_one_out": Verb(
        lambda q: q.fit.leave_one_out(cluster=q.cluster, progress=False), _left_out
    ),
    "likelihood_ratio_test": Verb(lambda q: q.fit.likelihood_ratio_test(q.reduced), is_test),
    "permutation_test": Verb(_permute, _permutation),
    "predict": Verb(
        lambda q: q.fit.predict(q.new_data),
        table("estimate se ci_lb ci_ub pi_lb pi_ub", lambda _: 2, inside=(*WITHIN, *PREDICTED)),
    ),
    "predict_tau": Verb(
        lambda q: q.fit.predict_tau(q.new_data),
        table("estimate se tau2 tau", lambda _: 2, inside=WITHIN),
    ),
    "profile": Verb(lambda q: q.fit.profile(q.kind.term, points=9), _profile),
    "residuals": Verb(lambda q: q.fit.residuals("standardized"), _residuals),
    "robust": Verb(lambda q: q.fit.robust(q.cluster), _robust),
    "scale_functions": Verb(
        lambda q: q.fit.scale_functions(np.eye(q.q)[:1], ["first"]), _functions
    ),
    "score_test": Verb(lambda q: q.fit.score_test(), is_test),
    "tau_contrasts": Verb(
        lambda q: q.fit.tau_contrasts(q.kind.moderator, values=values_of(q)),
        table("estimate pval", lambda _: 1, inside=WITHIN),
    ),
    "tau_means": Verb(
        lambda q: q.fit.tau_means(q.kind.moderator, values=values_of(q)),
        table("estimate", lambda _: 2, inside=WITHIN),
    ),
    "tau_steps": Verb(lambda q: q.fit.tau_steps(), table("estimate", inside=WITHIN)),
    "wald_test": Verb(lambda q: q.fit.wald_test(), is_test),
    "weights": Verb(lambda q: q.fit.weights(), array(_of_rows)),
}

OF_REML = {**FACTS, **VERBS}
