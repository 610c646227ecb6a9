"""The collapsed engine against JAGS, for every bundled model under two presets.

The numbers of `tests/reference/jags.json` come from 4 chains of 200,000 iterations (1,000,000 for
the model whose scale coefficient diverges) with their Monte Carlo standard errors; `jags.R` beside
it spells out formulas and priors without this package.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import bayes_lsm as lsm
from bayes_lsm.specification import find_specification

# With one scale term; models of several have their own tests.
ONE_TERM = [name for name in lsm.list_models() if isinstance(find_specification(name).scale, str)]

FILE = json.loads((Path(__file__).parents[1] / "reference" / "jags.json").read_text())
CASES = FILE["cases"]
PROBABILITIES = np.array(FILE["probabilities"])
PRESETS = ("slides", "weakly_informative")
DRAWS = 40_000


@cache
def fit(case):
    name, preset = case.rsplit(".", 1)
    model = lsm.LocationScaleModel.from_file(name)
    return model.fit_bayes(prior=preset, engine="collapsed", draws=DRAWS, seed=4)


def coefficients():
    for case, reference in CASES.items():
        for part in ("location", "scale"):
            for j in range(len(reference[part]["term"])):
                yield pytest.param(case, part, j, id=f"{case}-{part}{j}")


def test_every_model_file_is_there_under_both_presets():
    assert set(CASES) == {f"{name}.{preset}" for name in ONE_TERM for preset in PRESETS}


@pytest.mark.parametrize("case", CASES)
def test_terms_are_the_same_in_the_same_order(case):
    design = fit(case).design
    for part in ("location", "scale"):
        terms = ["intrcpt" if t == "(Intercept)" else t for t in CASES[case][part]["term"]]
        ours = getattr(design, part).names
        assert [name.replace(" ", "") for name in ours] == [t.replace(" ", "") for t in terms]


@pytest.mark.parametrize(("case", "part", "j"), list(coefficients()))
def test_collapsed_engine_agrees_with_jags(case, part, j):
    """Within four combined Monte Carlo errors, each of its own statistic."""
    theirs = CASES[case][part]["summary"][j]
    ours = fit(case)
    x = getattr(ours.draws, f"flat_{part}")[:, j]
    ess = ours.draws.importance.ess
    # Chains that have not met are compared by what does not hang on the tails.
    mixed = theirs["r_hat"] < 1.01
    mean, sd = x.mean(), x.std()
    middle = np.median(x)
    away = np.abs(x - middle)
    found = {
        "quantile": (np.quantile(x, PROBABILITIES), quantile_errors(x, PROBABILITIES, ess)),
        "mad": (np.median(away), quantile_errors(away, np.array([0.5]), ess)[0]),
    }
    if mixed:
        kurtosis = np.mean((x - mean) ** 4) / sd**4
        found["mean"] = (mean, sd / np.sqrt(ess))
        found["sd"] = (sd, sd * np.sqrt((kurtosis - 1) / ess) / 2)
    for statistic, (value, error) in found.items():
        z = (value - np.array(theirs[statistic])) / np.hypot(error, theirs["mcse"][statistic])
        assert np.abs(z).max() < 4, (statistic, value, theirs[statistic], z)


def quantile_errors(x, probabilities, ess):
    """Monte Carlo errors of quantiles: those of the probabilities, over the density there."""
    spread = np.sqrt(probabilities * (1 - probabilities) / ess)
    lower, upper = np.quantile(x, [probabilities - 0.01, probabilities + 0.01])
    return spread * (upper - lower) / 0.02


@pytest.mark.slow
def test_nuts_agrees_with_jags_on_the_hard_case(continent_nuts):
    """Medians within four combined errors, MADs; NUTS finds too little of the far region."""
    table = continent_nuts.summary()
    for part in ("location", "scale"):
        theirs = CASES["preterm_continent.slides"][part]["summary"]
        median = np.array([each["quantile"][2] for each in theirs])
        error = np.array([each["mcse"]["quantile"][2] for each in theirs])
        ours = table.loc[part]
        assert (np.abs(ours["median"] - median) < 4 * np.hypot(ours["mcse_median"], error)).all()
        # The sampling error of a MAD at 5000 effective draws is below 2%.
        np.testing.assert_allclose(ours["mad"], [each["mad"] for each in theirs], rtol=0.05)
