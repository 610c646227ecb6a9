"""The package gives what it gave: every verb on every kind of model.

What is pinned, and how, is in `tests/reference/golden.py`. Tolerances are relative to a number, or
to the largest of its kind in the model where the number is near 0.
"""

from functools import lru_cache

import numpy as np
import pytest

from .reference.golden import ask, read, thin
from .reference.golden_calls import VERBS
from .reference.golden_models import MODELS, is_asked

PINNED = read()

# An ascent ends where a step gains less than 1e-13 of the log-likelihood; the last step of Newton's
# method is far shorter than the √ of that in standard errors, which is 3e-7 at worst.
TOLERANCE = 1e-7
# Two solvers come to the maximum by other steps, and may stop on either side of it.
BETWEEN_SOLVERS = 1e-5
# Closer than estimates: designs are known to the 12 digits that are pinned, and at a maximum the
# log-likelihood has an error of the second order in that of the estimates.
CLOSER = {"design": 1e-11, "loglik": 1e-10}

# Verbs whose random numbers are drawn in another order than when they were pinned, and why: these
# are compared within their Monte Carlo error. "model/verb", or "verb" for all models.
OTHER_STREAMS: dict[str, str] = {
    f"{model}/prior_predictive": "the row is picked before the group, as with independent effects"
    for model in (
        "assink2016",
        "berkey1998",
        "crossed",
        "dense",
        "konstantopoulos2011",
        "nested",
        "random_scale",
        "schools_ml",
        "slopes",
    )
}

# Two independent runs differ by √2 of a run's standard deviation, which is known from few
# seeds only: of Student's t with 7 degrees of freedom 1 in 10,000 is beyond 8.
MONTE_CARLO_ERRORS = 8 * np.sqrt(2)

CASES = [(model, verb) for model, found in PINNED.items() for verb in found["numbers"]]


@lru_cache
def question_of(model, several=False):
    question = MODELS[model]()
    object.__setattr__(question, "several", several)
    return question


def numbers_of(model, verb, what="numbers"):
    found = PINNED[model][what][verb]
    return {name: np.array([float(each) for each in values]) for name, values in found.items()}


def assert_same(found, pinned, tolerance):
    for name, values in found.items():
        finite = np.abs(pinned[name][np.isfinite(pinned[name])])
        near_zero = tolerance * 1e-2 * finite.max(initial=0.0)
        np.testing.assert_allclose(
            values, pinned[name], rtol=tolerance, atol=near_zero, err_msg=name
        )


def assert_within_monte_carlo_error(found, pinned, errors):
    for name, values in found.items():
        np.testing.assert_array_equal(np.isfinite(values), np.isfinite(pinned[name]), name)
        kept = np.isfinite(values)
        distance = np.abs(values - pinned[name])[kept]
        allowed = MONTE_CARLO_ERRORS * np.nan_to_num(errors[name][kept])
        # What no seed moves is no random number.
        allowed += BETWEEN_SOLVERS * np.abs(pinned[name][kept])
        assert (distance <= allowed).all(), (name, distance, allowed)


@pytest.mark.parametrize(("model", "verb"), CASES)
def test_gives_what_it_gave(model, verb):
    found, pinned = ask(verb, question_of(model)), numbers_of(model, verb)
    assert set(found) >= set(pinned), "a number is lost"
    found = {name: found[name] for name in pinned}
    if verb in OTHER_STREAMS or f"{model}/{verb}" in OTHER_STREAMS:
        assert_within_monte_carlo_error(found, pinned, numbers_of(model, verb, "errors"))
    else:
        assert_same(found, pinned, CLOSER.get(verb, TOLERANCE))


def test_every_model_and_every_verb_is_pinned():
    assert set(PINNED) == set(MODELS)
    assert {verb for _, verb in CASES} == set(VERBS)
    assert all(is_asked(*case) for case in CASES)


def test_a_changed_number_is_seen():
    pinned = numbers_of("bcg", "estimates")
    changed = {name: values * (1 + 1e-6) for name, values in pinned.items()}
    with pytest.raises(AssertionError):
        assert_same(changed, pinned, TOLERANCE)
    assert thin(np.arange(20.0)).tolist() == [0, 4, 9, 14, 19, 190]
