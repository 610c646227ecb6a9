"""What is asked of a model or its design before any fit, of two fits together, and of figures."""

from __future__ import annotations

from typing import Any

import numpy as np

import bayes_lsm as lsm
from bayes_lsm import plots, reml, report
from bayes_lsm.bayes.coordinates import coordinates

from .asking import Question, Verb, drawn, finite, printed, table
from .bayes_verbs import OF_BAYES
from .kinds import DRAWS
from .reml_verbs import OF_REML

PERMUTATIONS = 10


# Models -------------------------------------------------------------------------------------------


def _fitted(label: str) -> Any:
    def check(found: Any, question: Question) -> None:
        assert found.label == label
        finite(found.location.iloc[:, 0])
        assert question.design.kind in str(found)

    return check


def _read_again(found: lsm.LocationScaleModel, question: Question) -> None:
    assert found.specification == question.model.specification
    np.testing.assert_array_equal(found.design.X, question.design.X)


def _prior_predictive(found: Any, question: Question) -> None:
    frame = found.to_dataframe()
    finite(frame)
    assert (frame.diff(axis=1).iloc[:, 1:] >= 0).all(axis=None), "quantiles ascend"
    printed(found)


def _pymc(found: Any, question: Question) -> None:
    assert {variable.name for variable in found.observed_RVs} == {"effect"}
    assert len(found.free_RVs) >= 2
    assert len(found.coords["location_term"]) == question.p
    assert len(found.coords["scale_term"]) == question.q


def _averaged(found: Any, question: Question) -> None:
    finite(found.probability)
    assert abs(float(np.sum(found.probability)) - 1) < 1e-12
    printed(found)


def _truth(question: Question) -> dict[str, Any]:
    """Coefficients of a middling size, correlations of 0."""
    names = dict(coordinates(question.design))
    student = question.design.specification.study_effects == "student_t"
    return {
        "location": dict.fromkeys(names["location_term"], 0.1),
        "scale": dict.fromkeys(names["scale_term"], -1.0),
        "correlation": dict.fromkeys(names.get("pair", ()), 0.0),
        "df": 5.0 if student else None,
    }


def _coverage(found: Any, question: Question) -> None:
    frame = found.to_dataframe()
    assert len(frame) >= question.p + question.q
    assert frame[["cover50", "cover80", "cover95"]].stack().between(0, 1).all()
    printed(found)


def _calibration(found: Any, question: Question) -> None:
    assert len(found.to_dataframe()) >= question.p + question.q
    printed(found)


def _one_tau2(found: Any, question: Question) -> None:
    finite([found.tau2, found.se_tau2])
    assert found.tau2 >= 0
    printed(found)


def _page(found: Any, question: Question) -> None:
    written = report.to_markdown(found, {each.name: each.name for each in found.pictures})
    assert found.title in written
    assert "nan" not in written.split()


def _report(question: Question) -> Any:
    found = report.analyse(
        question.model,
        draws=DRAWS,
        seed=1,
        permutations=PERMUTATIONS,
        with_sensitivity=False,
        progress=False,
    )
    return report.analysis_page(found)


OF_MODEL: dict[str, Verb] = {
    "average": Verb(lambda q: q.model.average(draws=DRAWS, seed=1, progress=False), _averaged),
    "fit_bayes": Verb(
        lambda q: q.model.fit_bayes(
            draws=DRAWS, tune=DRAWS, seed=1, engine=q.engine, progress=False
        ),
        _fitted("Bayes"),
    ),
    "fit_reml": Verb(lambda q: q.model.fit_reml(), _fitted("REML")),
    "from_file": Verb(lambda q: q.model, _read_again),
    "from_specification": Verb(lambda q: q.read_again, _read_again),
    "prior_predictive": Verb(
        lambda q: q.model.prior_predictive(draws=DRAWS, seed=1), _prior_predictive
    ),
    "to_pymc": Verb(lambda q: q.model.to_pymc(), _pymc),
}

OF_DESIGN: dict[str, Verb] = {
    "calibrate": Verb(
        lambda q: lsm.calibrate(
            q.design, simulations=20, draws=100, ranked=20, seed=1, progress=False
        ),
        _calibration,
        lines=("calibrate", "engine='collapsed'"),
    ),
    "coverage": Verb(
        lambda q: lsm.coverage(
            q.design, **_truth(q), simulations=20, draws=100, seed=1, progress=False
        ),
        _coverage,
    ),
    "engine='collapsed'": Verb(
        lambda q: q.model.fit_bayes(engine="collapsed", draws=DRAWS, seed=1),
        _fitted("Bayes"),
        lines=("fit_bayes", "engine='collapsed'"),
    ),
    "true_effects='latent'": Verb(
        lambda q: q.model.to_pymc(true_effects="latent"),
        _pymc,
        lines=("true_effects='latent'", "to_pymc"),
    ),
    "estimate_tau2": Verb(lambda q: reml.estimate_tau2(q.design), _one_tau2),
    "q_profile_interval": Verb(
        lambda q: reml.q_profile_interval(q.design).table, table("ci_lb ci_ub")
    ),
    "report": Verb(_report, _page),
}

# Figures ------------------------------------------------------------------------------------------


def _along(question: Question) -> str:
    """A moderator that is numeric, of either part."""
    return question.kind.moderator or question.kind.location


def _level(question: Question) -> str | None:
    """Whose effects a caterpillar shows, where they are not those of the rows."""
    design = question.design
    return None if design.is_independent else design.terms[0].name


def _fitted_plots() -> dict[str, Verb]:
    """Those of a fit of either kind."""
    return {
        "bubble": Verb(lambda q: plots.bubble(q.fit, q.kind.location), drawn(1)),
        "caterpillar": Verb(lambda q: plots.caterpillar(q.fit, grouping=_level(q)), drawn(1)),
        "forest": Verb(lambda q: plots.forest(q.fit), drawn(1)),
        "heterogeneity": Verb(
            lambda q: plots.heterogeneity(q.fit, _along(q)),
            drawn(1),
            lines=("plots.heterogeneity",),
        ),
        "new_effect": Verb(lambda q: plots.new_effect(q.fit, q.new_data), drawn(1)),
    }


def _of(verb: str, of: dict[str, Verb], draw: Any, check: Any) -> Verb:
    """A figure of what a verb answers, which may be refused as the verb is."""
    return Verb(lambda q: draw(q.answer(of[verb])), check, lines=of[verb].lines or (verb,))


PLOTS_OF_REML: dict[str, Verb] = {
    **_fitted_plots(),
    "bootstrap_null": _of("bootstrap_test", OF_REML, plots.bootstrap_null, drawn(1)),
    "funnel": _of("residuals", OF_REML, plots.funnel, drawn(1)),
    "influence": _of("influence", OF_REML, plots.influence, drawn()),
    "permutation_null": _of("permutation_test", OF_REML, plots.permutation_null, drawn(1)),
    "profile": _of("profile", OF_REML, plots.profile, drawn(1)),
    "profiles": _of("profile", OF_REML, lambda found: plots.profiles([found]), drawn()),
    "qq": _of("residuals", OF_REML, plots.qq, drawn(1)),
}

PLOTS_OF_BAYES: dict[str, Verb] = {
    **_fitted_plots(),
    "loo_pit": _of("loo", OF_BAYES, plots.loo_pit, drawn(1)),
    "prior_posterior": Verb(lambda q: plots.prior_posterior(q.fit), drawn()),
    "replicated": _of("posterior_predictive_check", OF_BAYES, plots.replicated, drawn()),
    "sensitivity": _of("sensitivity", OF_BAYES, plots.sensitivity, drawn()),
    "shifts": _of("diagnose", OF_BAYES, plots.shifts, drawn(1)),
    "under_priors": _of(
        "sensitivity",
        OF_BAYES,
        lambda found: plots.under_priors(found, others="families"),
        drawn(),
    ),
}

# Pages and comparisons ----------------------------------------------------------------------------


def _compared(found: Any, question: Question) -> None:
    frame = found.to_dataframe()
    assert len(frame) >= question.p + question.q
    finite(frame.iloc[:, 0])
    printed(found)


PAGES: dict[str, Verb] = {
    "diagnosis_page": _of("diagnose", OF_BAYES, report.diagnosis_page, _page),
    "sensitivity_page": _of("sensitivity", OF_BAYES, report.sensitivity_page, _page),
}
COMPARED = {"compare": Verb(lambda q: lsm.compare(q.fit, q.fit), _compared)}
