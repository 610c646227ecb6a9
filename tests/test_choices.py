"""Every argument that is one of a few words is checked, at every public door."""

import ast
import importlib
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache, cached_property
from types import MappingProxyType
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

import bayes_lsm as lsm
from bayes_lsm.choices import require_choice
from bayes_lsm.errors import BayesLsmError, FitError, PriorError

ROOMS = ("", ".reml", ".bayes", ".plots", ".report", ".priors", ".datasets")
NONSENSE = "banana"
KINDS = ("one term", "several terms")
# Verbs that refuse several scale terms before they look at a word.
ONE_TERM_ONLY = {
    "bayes_lsm.reml.confidence_intervals",
    "bayes_lsm.reml.predict",
    "bayes_lsm.bayes.blup",
    "bayes_lsm.bayes.prediction.heterogeneity",
    "bayes_lsm.bayes.predict",
    "bayes_lsm.bayes.predict_tau",
    "bayes_lsm.plots.heterogeneity",
}


@cache
def model(kind):
    data = lsm.load_dataset("konstantopoulos2011")
    data["half"] = np.where(data["school"] % 2, "odd", "even")
    scale = {
        "one term": "~ half",
        "several terms": {"district": "~ 1", "district/school": "~ half"},
    }
    return lsm.LocationScaleModel(
        "yi ~ I(year - 1990)", scale[kind], variance="vi", data=data, study="study"
    )


@cache
def fit_of(face, kind):
    """A REML or a Bayesian fit."""
    if face == "reml":
        return model(kind).fit_reml()
    return model(kind).fit_bayes(engine="collapsed", draws=1000, seed=1, progress=False)


def scale_names(kind):
    alone = ("intrcpt", "halfodd")
    several = ("district: intrcpt", *(f"district/school: {name}" for name in alone))
    return alone if kind == "one term" else several


@cache
def found_sensitivity():
    return fit_of("bayes", "one term").sensitivity(factors=(), draws=400, progress=False)


@cache
def found_average():
    return model("one term").average(seed=1, progress=False)


def names_of(module):
    """What is written in the hints of a module, also what is imported for them alone."""
    module = importlib.import_module(module)
    found = {}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom):
            source = importlib.import_module(node.module)
            found |= {each.asname or each.name: getattr(source, each.name) for each in node.names}
        elif isinstance(node, ast.Import):
            found |= {e.asname: importlib.import_module(e.name) for e in node.names if e.asname}
    return {**vars(module), **found}


def words_of(hint):
    """The words that a hint allows, also within a union, a sequence or a mapping."""
    if get_origin(hint) is Literal:
        return {word for word in get_args(hint) if isinstance(word, str)}
    return {word for part in get_args(hint) for word in words_of(part)}


def callables(room, name):
    found = getattr(room, name)
    if inspect.isfunction(found):
        yield f"{room.__name__}.{name}", found
    if not inspect.isclass(found):
        return
    for method in dir(found):
        each = inspect.getattr_static(found, method)
        if method.startswith("_") and (method != "__init__" or is_dataclass(found)):
            continue  # the fields of a result are nothing that a user gives
        if isinstance(each, property | cached_property):
            continue
        each = inspect.unwrap(getattr(each, "__func__", each))
        if inspect.isfunction(each) and each.__module__.startswith("bayes_lsm"):
            yield f"{name}.{method}", each


@cache
def doors():
    """Every public function and method with a choice: (its name, argument) → the words."""
    seen, found = set(), {}
    for room in (importlib.import_module(f"bayes_lsm{each}") for each in ROOMS):
        for name in room.__all__:
            for door, function in callables(room, name):
                if function in seen:
                    continue
                seen.add(function)
                hints = get_type_hints(function, localns=names_of(function.__module__))
                for argument, hint in hints.items():
                    if argument != "return" and words_of(hint):
                        found[door, argument] = function, words_of(hint)
    return MappingProxyType(found)


def attempts():
    for door, argument in doors():
        owner = door.split(".")[0]
        for kind in KINDS:
            if kind == "several terms" and (
                door in ONE_TERM_ONLY
                or door.startswith("bayes_lsm.priors.")
                or owner in ("RemlFit", "BayesFit", "Sensitivity", "ModelAverage")
            ):
                continue
            yield pytest.param(door, argument, kind, id=f"{door}({argument}), {kind}")


def needed(door, function, kind, argument):
    """What else a door must be given, by place and by name."""
    bayesian = ".bayes." in door or "probability" in door or door.endswith("bayes_factor")
    face = "bayes" if "Bayes" in door or bayesian or "prior_posterior" in door else "reml"
    selves = {
        "LocationScaleModel": lambda: model(kind),
        "RemlFit": lambda: fit_of("reml", kind),
        "BayesFit": lambda: fit_of("bayes", kind),
        "Sensitivity": found_sensitivity,
        "ModelAverage": found_average,
    }
    given = {
        "self": selves.get(door.split(".")[0]),
        "design": lambda: model(kind).design,
        "model": lambda: model(kind),
        "fit": lambda: fit_of(face, kind),
        "fits": lambda: fit_of(face, kind),
        "first": lambda: fit_of("bayes", kind),
        "second": lambda: fit_of("bayes", kind),
        "found": found_sensitivity,
        "location": lambda: {"intrcpt": 0.0, "I(year - 1990)": 0.0},
        "scale": lambda: dict.fromkeys(scale_names(kind), 0.0),
        "variable": lambda: "half",
        "term": lambda: "I(year - 1990)",
        "part": lambda: "location",
        "beyond": lambda: 0.0,
        "rows": lambda: np.zeros((1, len(scale_names(kind)))),
        "labels": lambda: ("a",),
        "columns": lambda: np.ones((5, 1)),
        "name": lambda: "informed",
        "data": lambda: lsm.load_dataset("bcg"),
        "spread": lambda: 2.0,
        "low": lambda: -1.0,
        "high": lambda: 1.0,
    }
    if door == "RemlFit.predict":  # there is nothing to predict without
        given["new_data"] = lambda: lsm.load_dataset("konstantopoulos2011").head(1)
    by_place, by_name = [], {}
    for name, each in inspect.signature(function).parameters.items():
        if name == argument or (each.default is not each.empty and name != "new_data"):
            continue
        if name in ("self", "fit"):  # some take them by place alone
            by_place.append(given[name]())
        elif name in given:
            by_name[name] = given[name]()
    return by_place, by_name


def test_there_are_doors():
    """The walk below finds those that are known, so it is not empty."""
    known = {
        ("LocationScaleModel.fit_reml", "method"),
        ("BayesFit.predict", "interval"),
        ("bayes_lsm.plots.forest", "order"),
        ("bayes_lsm.priors.preset", "measure"),
    }
    assert known <= set(doors())


@pytest.mark.parametrize(("door", "argument", "kind"), list(attempts()))
def test_nonsense_is_refused(door, argument, kind):
    function, words = doors()[door, argument]
    nonsense = {"presets": (NONSENSE,), "correlation": {"trial": NONSENSE}}.get(argument, NONSENSE)
    by_place, by_name = needed(door, function, kind, argument)
    with pytest.raises(BayesLsmError) as caught:
        function(*by_place, **by_name, **{argument: nonsense})
    message = str(caught.value)
    assert repr(NONSENSE) in message
    assert any(repr(word) in message for word in words)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("method", "cure"),
    [
        ("reml", "did you mean 'REML'?"),
        ("DL", "reml.estimate_tau2(design, 'DL') estimates one τ² of all studies so"),
        ("FE", "that of scale='~ 1' with fixed={'intrcpt': -50}, where τ² is 0"),
        ("EE", "that of scale='~ 1' with fixed={'intrcpt': -50}, where τ² is 0"),
        ("", "got ''"),
    ],
)
def test_another_programs_method_is_refused_with_the_verb_that_has_it(method, cure, kind):
    with pytest.raises(FitError, match="method must be 'REML' or 'ML', got") as caught:
        model(kind).fit_reml(method=method)
    assert str(caught.value).endswith(cure)


def test_what_is_said_to_be_without_heterogeneity_is():
    data = lsm.load_dataset("bcg")
    fit = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data).fit_reml(
        fixed={"intrcpt": -50}
    )
    # e^-50 is below a relative rounding error of any of these variances
    inverse = 1 / data["vi"].to_numpy()
    assert fit.beta[0] == pytest.approx((inverse @ data["yi"]) / inverse.sum(), rel=1e-13)
    assert fit.vcov_location[0, 0] == pytest.approx(1 / inverse.sum(), rel=1e-13)


def test_choices_can_be_of_another_error_and_any_type():
    require_choice("kind", "a", ("a", "b"))
    with pytest.raises(PriorError, match=r"kind must be 'a' or 'b', got \['a'\]"):
        require_choice("kind", ["a"], ("a", "b"), error=PriorError)
    with pytest.raises(FitError, match="kind must be 'a', 'b' or 'c', got 1; use another"):
        require_choice("kind", 1, ("a", "b", "c"), cure="use another")


@pytest.fixture(scope="module")
def both():
    made = lsm.LocationScaleModel.from_file("bcg")
    return made, made.fit_reml(), made.fit_bayes(engine="collapsed", draws=1000, seed=1)


SEEDED: dict[str, Callable[..., object]] = {
    "average": lambda model, reml, bayes, seed: model.average(seed=seed, progress=False),
    "check": lambda model, reml, bayes, seed: reml.check(seed=seed),
    "diagnose": lambda model, reml, bayes, seed: bayes.diagnose(seed=seed, progress=False),
    "fit_bayes": lambda model, reml, bayes, seed: model.fit_bayes(seed=seed),
    "intervals": lambda model, reml, bayes, seed: reml.confidence_intervals(
        method="bootstrap", iterations=20, seed=seed
    ),
    "kfold": lambda model, reml, bayes, seed: bayes.kfold(3, seed=seed, progress=False),
    "loo": lambda model, reml, bayes, seed: bayes.loo(seed=seed, progress=False),
    "new_effects": lambda model, reml, bayes, seed: bayes.new_effects(seed=seed),
    "permutation_test": lambda model, reml, bayes, seed: reml.permutation_test(
        iterations=20, seed=seed, progress=False
    ),
    "predictive_check": lambda model, reml, bayes, seed: bayes.posterior_predictive_check(
        seed=seed
    ),
    "prior_predictive": lambda model, reml, bayes, seed: model.prior_predictive(seed=seed),
    "sensitivity": lambda model, reml, bayes, seed: bayes.sensitivity(seed=seed, progress=False),
}


@pytest.mark.parametrize("seed", [-1, 1.5, "a", True])
@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_is_a_whole_number(both, name, seed):
    with pytest.raises(FitError, match="seed must be a whole number of at least 0, got"):
        SEEDED[name](*both, seed)


@pytest.mark.parametrize("level", ["a", None, 95, 0, [0.9], np.nan, True])
def test_a_level_is_a_share(both, level):
    _, reml, bayes = both
    for ask in (reml.confidence_intervals, reml.predict, bayes.predict, bayes.heterogeneity):
        with pytest.raises(FitError, match="level must be between 0 and 1"):
            ask(level=level)
    with pytest.raises(FitError, match="level must be between 0 and 1"):
        reml.correlations_at(level)


@pytest.mark.parametrize("digits", ["a", -1, 1.5, True])
def test_digits_are_a_whole_number(both, digits):
    for each in both[1:]:
        for show in (each.to_string, each.to_html, each.to_latex):
            with pytest.raises(FitError, match="digits must be a whole number of at least 0"):
                show(digits=digits)
