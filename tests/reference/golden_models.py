"""The models whose numbers are pinned: every model file, and kinds that have no file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

import bayes_lsm as lsm

from .golden_calls import Question

# The words of a nested model that differ, for tests that compare two.
_CONSTANT: dict[str, Any] = {"scale": "~ 1"}
_SIMPLER: dict[str, dict[str, Any]] = {
    "assink2016": {"scale": {"study": "~ 1"}},
    "bangertdrowns2004": _CONSTANT,
    "bcg": _CONSTANT,
    "berkey1998": {"scale": {"outcome | trial": "~ 1"}},
    "konstantopoulos2011": {"scale": {"district": "~ 1", "district/school": "~ 1"}},
    "preterm_continent": _CONSTANT,
    "preterm_one_stage": {"scale": {"0 + atterm | study": "~ 1", "residual": "~ 1"}},
    "preterm_weeks": _CONSTANT,
    "raudenbush1985": _CONSTANT,
}


def _file(name: str, **options: Any) -> Question:
    model = lsm.LocationScaleModel.from_file(name)
    data = lsm.load_dataset(model.specification.data)
    return Question(model, data, _SIMPLER.get(name, {}), **options)


def _of_dataset(
    name: str, simpler: dict[str, Any], options: dict[str, Any], **words: Any
) -> Question:
    return _made(lsm.load_dataset(name), simpler, options, **words)


def _made(
    data: pd.DataFrame, simpler: dict[str, Any], options: dict[str, Any], **words: Any
) -> Question:
    words = {"variance": "vi", **words}
    return Question(lsm.LocationScaleModel(data=data, **words), data, simpler, options)


def _nested(*, crossed: bool = False) -> pd.DataFrame:
    """Effects of two levels with a moderator of either, and a covariate x within the groups."""
    rng = np.random.default_rng(17)
    n, districts = 72, 12
    district = np.repeat(np.arange(districts), n // districts)
    school = np.tile(np.arange(9), 8) if crossed else np.arange(n) // 2
    z, x = rng.normal(size=districts)[district], rng.normal(size=n)
    v = rng.uniform(0.02, 0.1, n)
    y = 0.3 + 0.4 * x + 0.4 * np.exp(0.3 * z) * rng.normal(size=districts)[district]
    y = y + 0.3 * rng.normal(size=districts)[district] * x
    y = y + 0.25 * rng.normal(size=n)[school] + np.sqrt(v) * rng.normal(size=n)
    return pd.DataFrame({"yi": y, "vi": v, "district": district, "school": school, "z": z, "x": x})


def _dense() -> Question:
    """All sampling errors correlated, as those of a spatial process."""
    data = lsm.load_dataset("bcg")
    sd = np.sqrt(data["vi"].to_numpy())
    place = np.arange(len(sd))
    V = np.exp(-np.abs(place[:, None] - place) / 2) * np.outer(sd, sd)
    words = {"location": "yi ~ ablat", "scale": "~ ablat", "variance": V}
    return Question(lsm.LocationScaleModel(data=data, **words), data)


def _random_scale() -> Question:
    """Random intercepts of ln τ², which only NUTS can draw: its numbers before any draw."""
    return _made(_nested(), {}, {}, location="yi ~ x", scale="~ z + (1 | district)")


_WRITING = {"location": "yi ~ I(ni / 100)", "scale": "~ I(ni / 100)"}
_SCHOOLS = {"location": "yi ~ 1", "scale": {"district": "~ 1", "district/school": "~ year"}}

MODELS: dict[str, Callable[[], Question]] = {
    **{name: lambda name=name: _file(name) for name in lsm.list_models()},  # type: ignore[misc]
    "ml": lambda: _of_dataset("bangertdrowns2004", _CONSTANT, {"method": "ML"}, **_WRITING),
    "t": lambda: _of_dataset("bangertdrowns2004", _CONSTANT, {"test": "t"}, **_WRITING),
    "knha": lambda: _of_dataset("bangertdrowns2004", _CONSTANT, {"test": "knha"}, **_WRITING),
    "fixed": lambda: _of_dataset(
        "bangertdrowns2004", _CONSTANT, {"fixed": {"I(ni / 100)": -0.5}}, **_WRITING
    ),
    "bounded": lambda: _of_dataset(
        "bangertdrowns2004", _CONSTANT, {"bounds": {"I(ni / 100)": (-0.2, 0.2)}}, **_WRITING
    ),
    "identity": lambda: _of_dataset(
        "bcg", _CONSTANT, {}, location="yi ~ ablat", link="identity", scale="~ ablat"
    ),
    "student": lambda: _of_dataset(
        "bcg", _CONSTANT, {}, location="yi ~ ablat", scale="~ ablat", study_effects="student_t"
    ),
    "schools_ml": lambda: _of_dataset(
        "konstantopoulos2011",
        {"scale": {"district": "~ 1", "district/school": "~ 1"}},
        {"method": "ML", "test": "t"},
        **_SCHOOLS,
    ),
    "slopes": lambda: _made(
        _nested(),
        {"correlation": {"1 + x | district": "none"}},
        {},
        location="yi ~ x",
        scale={"1 + x | district": "~ 1", "school": "~ 1"},
    ),
    "nested": lambda: _made(
        _nested(),
        {"scale": {"district": "~ 1", "school": "~ 1"}},
        {},
        location="yi ~ z",
        scale={"district": "~ z", "school": "~ 1"},
    ),
    "crossed": lambda: _made(
        _nested(crossed=True),
        {"scale": {"district": "~ 1", "school": "~ 1"}},
        {},
        location="yi ~ x",
        scale={"district": "~ z", "school": "~ 1"},
    ),
    "dense": _dense,
    "random_scale": _random_scale,
}

# The numbers of one τ² an effect are those of both solvers.
BOTH_SOLVERS = (
    "bangertdrowns2004",
    "bcg",
    "preterm_continent",
    "preterm_random_effects",
    "raudenbush1985",
    "ml",
    "t",
)

_TESTED = ("loglik", "estimates", "vcov", "tau2", "omnibus", "wald_test_of_location")
_TESTED += (
    "wald_test_of_scale",
    "likelihood_ratio_test",
    "wald_intervals_of_location",
    "predict",
    "predict_propagated",
)
_ONE_STAGE = tuple(each for each in _TESTED if each != "likelihood_ratio_test")

# Verbs of models that take long, or that differ from another one in few of them; elsewhere all.
VERBS_OF: dict[str, tuple[str, ...]] = {
    "preterm_one_stage": (*_ONE_STAGE, "heterogeneity", "group_effects", "at_stop"),
    "preterm_meta_regression": (*_ONE_STAGE, "classical_tau2", "posterior"),
    "t": _TESTED,
    "knha": _TESTED,
    "fixed": (*_TESTED, "profile", "residuals"),
    "bounded": _TESTED,
}

# Models of verbs that take long: some of each kind.
MODELS_OF: dict[str, tuple[str, ...]] = {
    "kfold": ("bcg", "berkey1998"),
    "loo": ("bcg", "berkey1998", "konstantopoulos2011", "student"),
    "sensitivity": ("bcg",),
    "average": ("bcg", "preterm_continent", "schools_ml", "student"),
    "savage_dickey": ("bangertdrowns2004", "bcg", "konstantopoulos2011", "preterm_continent"),
    "permutation_intervals": ("bangertdrowns2004", "bcg", "nested"),
    "profile_intervals": (
        "bangertdrowns2004",
        "bcg",
        "konstantopoulos2011",
        "ml",
        "preterm_continent",
        "raudenbush1985",
        "slopes",
    ),
}


def is_asked(model: str, verb: str) -> bool:
    """Whether a verb's numbers of a model are pinned, if it has them."""
    return verb in VERBS_OF.get(model, (verb,)) and model in MODELS_OF.get(verb, (model,))
