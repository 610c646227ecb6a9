"""What the golden numbers ask of the package: one small function for each verb.

A verb is given a question (a model, a seed, and which solver) and returns numbers by name: arrays
of any shape. What a verb says is pinned under these names, whatever the package calls it; where a
method gets another name, this file follows it and `golden.json` stays as it is. A model that cannot
answer raises one of the package's own errors, and has no such number. The verbs of posteriors are
in `golden_calls_bayes`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd

import bayes_lsm as lsm
from bayes_lsm import reml
from bayes_lsm.bayes import fit_bayes
from bayes_lsm.design.design import Design, build_design
from bayes_lsm.reml import fit_reml

Numbers = dict[str, Any]
ANY_SOLVER: Any = nullcontext()
PERMUTATIONS, REFITS, DRAWS = 60, 30, 1000


# Models and fits ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Question:
    """A model, and fits of it that are made once.

    Attributes
    ----------
    model : LocationScaleModel
    data : DataFrame
    simpler : mapping of str to object
        The words of a nested model that differ; none without it.
    options : mapping of str to object
        Of `fit_reml`.
    draws : int
    seed : int
    several : bool
        One τ² an effect, by the solver that takes any number of scale terms.
    """

    model: lsm.LocationScaleModel
    data: pd.DataFrame
    simpler: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    draws: int = DRAWS
    seed: int = 1
    several: bool = False

    @cached_property
    def reml(self) -> Any:
        if self.several:
            options = {"method": self.model.specification.method, **self.options}
            return fit_reml(self.design, **options)
        return self.model.fit_reml(**self.options)

    @cached_property
    def design(self) -> Any:
        if not self.several:
            return self.model.design
        return build_design(self.model.specification, self.data)

    @cached_property
    def reduced(self) -> Any:
        words = self.model.specification.model_copy(update=dict(self.simpler))
        model = lsm.LocationScaleModel.from_specification(words, self.data)
        return Question(model, self.data, {}, self.options, several=self.several).reml

    @cached_property
    def bayes(self) -> Any:
        options = {"engine": "collapsed", "draws": self.draws, "seed": self.seed}
        if self.several:
            return fit_bayes(self.design, prior=self.model.specification.priors, **options)
        return self.model.fit_bayes(**options)

    @property
    def new_data(self) -> pd.DataFrame:
        """Two rows of the data, for predictions."""
        return self.data.iloc[[0, len(self.data) // 2]].reset_index(drop=True)

    @property
    def clusters(self) -> Any:
        """Pairs of rows, where one τ² an effect gives no clusters of its own."""
        several = isinstance(self.model.specification.scale, Mapping)
        return None if several else np.arange(len(self.data)) // 2

    @property
    def moderator(self) -> str:
        """A scale coefficient, as the verbs want it named: the last one."""
        last = self.reml.scale.index[-1]
        return last if isinstance(last, str) else ": ".join(last)


VERBS: dict[str, Callable[[Question], Numbers]] = {}
MONTE_CARLO: set[str] = set()


def verb(ask: Callable[[Question], Numbers]) -> Callable[[Question], Numbers]:
    """A verb whose numbers follow from the data."""
    VERBS[ask.__name__] = ask
    return ask


def seeded(ask: Callable[[Question], Numbers]) -> Callable[[Question], Numbers]:
    """A verb whose numbers follow from the data and the seed."""
    MONTE_CARLO.add(ask.__name__)
    return verb(ask)


def answer(name: str, question: Question) -> Numbers | None:
    """What a verb says; None where the package says that it cannot."""
    solver = mock.patch.object(Design, "is_independent", False) if question.several else ANY_SOLVER
    with solver, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Convergence and divergence: the numbers are pinned.
        try:
            return VERBS[name](question)
        except lsm.BayesLsmError:
            return None


def some(table: Any, *names: str) -> Numbers:
    """Those columns of a result that it has."""
    frame = table if isinstance(table, pd.DataFrame) else table.to_dataframe()
    return {name: frame[name].to_numpy(float) for name in names if name in frame}


def joint(test: Any) -> Numbers:
    return {"statistic": test.statistic, "df": test.df, "pval": test.pval}


def null(statistics: Any) -> Numbers:
    """Where a null distribution lies; the statistic of a refit that failed is missing."""
    return {"null mean": np.nanmean(statistics), "null median": np.nanmedian(statistics)}


# Designs -----------------------------------------------------------------------------------------


@verb
def design(question: Question) -> Numbers:
    found = question.design
    terms = getattr(found, "terms", None)
    Z = [found.Z] if terms is None else [np.reshape(t.Z, (-1, np.shape(t.Z)[-1])) for t in terms]
    return {"y": found.y, "X": found.X, "Z": np.concatenate([each.ravel() for each in Z])}


# Estimates ---------------------------------------------------------------------------------------


@verb
def loglik(question: Question) -> Numbers:
    fit = question.reml
    return {"loglik": fit.loglik, "aic": fit.aic, "bic": fit.bic, "aicc": fit.aicc}


@verb
def estimates(question: Question) -> Numbers:
    fit = question.reml
    numbers = {
        f"{part} {column}": table[column]
        for part, table in (("location", fit.location), ("scale", fit.scale))
        for column in ("estimate", "se", "pval")
    }
    correlations = getattr(fit, "correlations", None)
    if correlations is not None and len(correlations):
        numbers |= {f"correlation {name}": correlations[name] for name in correlations}
    return numbers


@verb
def vcov(question: Question) -> Numbers:
    return {"location": question.reml.vcov_location, "scale": question.reml.vcov_terms}


@verb
def tau2(question: Question) -> Numbers:
    """τ² of every group, term by term; of one term of the rows, of every row."""
    fit = question.reml
    terms = getattr(fit, "terms", None)
    found = [fit.tau2] if terms is None else [np.ravel(each.tau2) for each in terms.values()]
    return {"tau2": np.concatenate(found)}


@verb
def at_stop(question: Question) -> Numbers:
    return some(question.reml.at_stop, "estimate", "se")


@verb
def rival(question: Question) -> Numbers:
    fit = question.reml
    found = fit.rival if fit.rival is not None else []
    found = list(found.values()) if isinstance(found, Mapping) else [found]
    return {"rival": np.concatenate([np.ravel(each) for each in found])}


@verb
def rival_loglik(question: Question) -> Numbers:
    return {"loglik": question.reml.rival_loglik}


# Tests -------------------------------------------------------------------------------------------


@verb
def omnibus(question: Question) -> Numbers:
    fit = question.reml
    tests = {"QE": fit.qe, "QM": fit.qm, "QS": fit.qs}
    return {f"{name} {key}": value for name, t in tests.items() for key, value in joint(t).items()}


def wald_test(question: Question, part: Any) -> Numbers:
    found = reml.wald_test(question.reml, part=part)
    return {**joint(found), **some(found, "estimate", "se", "pval")}


@verb
def wald_test_of_location(question: Question) -> Numbers:
    return wald_test(question, "location")


@verb
def wald_test_of_scale(question: Question) -> Numbers:
    return wald_test(question, "scale")


@verb
def score_test(question: Question) -> Numbers:
    return joint(reml.score_test(question.reml))


@verb
def likelihood_ratio_test(question: Question) -> Numbers:
    return joint(reml.likelihood_ratio_test(question.reml, question.reduced))


def permutation_test(question: Question, part: Any) -> Numbers:
    found = question.reml.permutation_test(
        part=part, iterations=PERMUTATIONS, seed=question.seed, progress=False
    )
    return {**joint(found), **some(found, "pval"), **null(found.null_joint)}


@seeded
def permutation_test_of_location(question: Question) -> Numbers:
    return permutation_test(question, "location")


@seeded
def permutation_test_of_scale(question: Question) -> Numbers:
    return permutation_test(question, "scale")


@seeded
def bootstrap_test(question: Question) -> Numbers:
    found = reml.bootstrap_test(
        question.reml, question.reduced, iterations=REFITS, seed=question.seed, progress=False
    )
    return {**joint(found), "pval_chi2": found.pval_chi2, **null(found.null)}


# Intervals ---------------------------------------------------------------------------------------


def intervals(question: Question, part: Any, method: Any, level: float = 0.9) -> Numbers:
    found = question.reml.confidence_intervals(
        part=part, method=method, level=level, iterations=REFITS, seed=question.seed, progress=False
    )
    return some(found, "estimate", "ci_lb", "ci_ub")


@verb
def wald_intervals_of_location(question: Question) -> Numbers:
    return intervals(question, "location", "wald")


@verb
def wald_intervals_of_scale(question: Question) -> Numbers:
    return intervals(question, "scale", "wald")


@verb
def profile_intervals(question: Question) -> Numbers:
    return intervals(question, "scale", "profile")


@seeded
def permutation_intervals(question: Question) -> Numbers:
    return intervals(question, "scale", "permutation")


@seeded
def bootstrap_intervals(question: Question) -> Numbers:
    return intervals(question, "scale", "bootstrap")


@verb
def profile(question: Question) -> Numbers:
    found = question.reml.profile(question.moderator, points=7)
    return {
        "values": found.values,
        "loglik": found.loglik,
        "bounds": [found.lower, found.upper],
    }


# Heterogeneity and contrasts ---------------------------------------------------------------------


@verb
def heterogeneity(question: Question) -> Numbers:
    """Of the whole: the average study of one term, the sum of several."""
    found = question.reml.heterogeneity()
    return {name: getattr(found, name) for name in ("tau2", "tau", "I2", "typical_variance")}


@verb
def heterogeneity_by_level(question: Question) -> Numbers:
    """Of each scale term, and of all together, where they are not one of the rows."""
    if question.design.is_independent:
        return {}
    table = question.reml.heterogeneity().table
    return some(
        pd.concat([table.head(len(question.design.terms)), table.tail(1)]), "tau2", "tau", "I2"
    )


@verb
def heterogeneity_of_one_term(question: Question) -> Numbers:
    if not question.design.is_independent:
        return {}
    found = question.reml.heterogeneity()
    whole = {name: getattr(found, name) for name in ("se_tau2", "H2", "R2", "R2_scale")}
    rows = some(found.by_study, "tau2", "I2", "H2")
    return {**whole, **{f"{name} by study": column for name, column in rows.items()}}


@verb
def tau_steps(question: Question) -> Numbers:
    found = lsm.tau_steps(question.reml, step="sd")
    return some(found, "estimate", "se", "pval", "ci_lb", "ci_ub")


@verb
def classical_tau2(question: Question) -> Numbers:
    if not question.design.is_independent:
        return {}
    kinds: tuple[Any, ...] = ("DL", "HE", "SJ", "PM", "EB", "ML", "REML")
    found = [reml.estimate_tau2(question.design, kind) for kind in kinds]
    interval = reml.q_profile_interval(question.design)
    return {
        "tau2": [each.tau2 for each in found],
        "se": [each.se_tau2 for each in found],
        "q_profile": interval.table[["ci_lb", "ci_ub"]],
    }


# Predictions and effects -------------------------------------------------------------------------

PREDICTED = ("estimate", "se", "sd", "ci_lb", "ci_ub", "pi_lb", "pi_ub", "obs_lb", "obs_ub")
PREDICTED += ("tau2", "tau")


@verb
def predict(question: Question) -> Numbers:
    asked = (name for name in PREDICTED if not name.startswith("pi_"))
    return some(question.reml.predict(question.new_data), *asked)


@verb
def predict_propagated(question: Question) -> Numbers:
    return some(question.reml.predict(question.new_data), "pi_lb", "pi_ub")


@verb
def predict_plug_in(question: Question) -> Numbers:
    found = question.reml.predict(question.new_data, scale_uncertainty="plug-in")
    return some(found, "pi_lb", "pi_ub")


@verb
def predict_tau(question: Question) -> Numbers:
    found = reml.predict_tau(question.reml, question.new_data)
    return some(found, "tau2", "tau", "estimate", "se", "ci_lb", "ci_ub")


EFFECTS = ("estimate", "se", "sd", "pi_lb", "pi_ub")


@verb
def true_effects(question: Question) -> Numbers:
    """θ̂ of every row, in units of y."""
    return some(question.reml.blup(), *EFFECTS)


@verb
def group_effects(question: Question) -> Numbers:
    """û of every group, deviations from x'β, where the groups are not the rows."""
    if question.design.is_independent:
        return {}
    return some(question.reml.group_effects(), *EFFECTS)


# Residuals and influence -------------------------------------------------------------------------


@verb
def residuals(question: Question) -> Numbers:
    kinds: tuple[Any, ...] = ("raw", "pearson", "standardized")
    numbers = {}
    for kind in kinds:
        found = reml.residuals(question.reml, kind)
        numbers[kind] = found.raw / found.se
        numbers[f"{kind} se"] = found.se
    return numbers


@verb
def fitted_values(question: Question) -> Numbers:
    return {"fitted": reml.fitted_values(question.reml)}


@verb
def hat_values(question: Question) -> Numbers:
    return {"hat": reml.hat_values(question.reml)}


@verb
def weights(question: Question) -> Numbers:
    return {"weights": reml.weights(question.reml)}


@verb
def influence(question: Question) -> Numbers:
    found = question.reml.influence(progress=False)
    names = ("deleted_residual", "deleted_residual_se", "cook", "cov_ratio", "dffits")
    names += ("dfbetas_location", "dfbetas_scale", "tau2_change")
    numbers = {name: getattr(found, name) for name in names if hasattr(found, name)}
    refits = found if hasattr(found, "beta") else found.leave_one_out
    return {**numbers, "beta": refits.beta, "alpha": refits.alpha, "loglik": refits.loglik}


@verb
def robust(question: Question) -> Numbers:
    numbers = {}
    kinds: tuple[Any, ...] = ("CR0", "CR1", "CR2")
    for kind in kinds:
        found = reml.robust(question.reml, question.clusters, kind=kind)
        numbers |= {
            f"{kind} location": np.diag(found.vcov_location),
            f"{kind} scale": np.diag(found.vcov_scale),
            f"{kind} df": found.df_location,
        }
    return numbers


@verb
def check(question: Question) -> Numbers:
    """The slope at a maximum is rounding, and how many climbs reach it depends on the climbs."""
    found = question.reml.check(starts=8, seed=0)
    said = ("interior", "unique", "well_conditioned", "condition")
    return {name: getattr(found, name) for name in said}
