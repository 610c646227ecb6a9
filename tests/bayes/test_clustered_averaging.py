"""Averages over models of several scale terms: each fitted by itself, and one term's own."""

import numpy as np
import pytest

import bayes_lsm as lsm
from bayes_lsm.bayes import average_models
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import FitError
from bayes_lsm.specification import Specification

from .levels import model_of
from .test_scale_random_intercepts import SMALL
from .test_scale_random_intercepts import model_of as mixed_model

YEAR = "I((year - 1990) / 10)"


def schools(location, scale):
    return lsm.LocationScaleModel(
        f"yi ~ {location}",
        {"district": "~ 1", "district/school": f"~ {scale}"},
        variance="vi",
        data=lsm.load_dataset("konstantopoulos2011"),
    )


@pytest.fixture(scope="module")
def average():
    return schools(YEAR, YEAR).average(draws=8000, seed=1)


@pytest.fixture(scope="module")
def fits():
    """The four models, with the presets of their own."""
    return {
        (a, b): schools(a, b).fit_bayes(engine="collapsed", draws=8000, seed=2)
        for a in ("1", YEAR)
        for b in ("1", YEAR)
    }


def test_evidences_and_probabilities_are_those_of_the_models_by_themselves(average, fits):
    log = {}
    for row in average.model_table.to_dict("records"):
        own = (row["location"], row["scale"].removeprefix("district: 1, district/school: "))
        log[own] = fits[own].log_evidence
        assert abs(row["log_evidence"] - log[own]) < 4 * np.hypot(row["se"], fits[own].evidence.se)
    values = np.exp(np.array(list(log.values())) - max(log.values()))
    # Log evidences are known to 0.01: so are the probabilities, relatively.
    np.testing.assert_allclose(
        average.model_table["posterior"], values / values.sum(), rtol=0.06, atol=1e-3
    )
    table = average.inclusion
    assert list(table.index) == [("location", YEAR), ("scale", f"district/school: {YEAR}")]
    assert table["posterior"].iloc[1] == pytest.approx(
        sum(np.exp(log[key] - max(log.values())) for key in log if key[1] == YEAR) / values.sum(),
        rel=0.04,
    )


def test_what_is_asked_is_averaged(average, fits):
    p = dict(
        zip(
            [
                (row["location"], row["scale"].removeprefix("district: 1, district/school: "))
                for row in average.model_table.to_dict("records")
            ],
            average.model_table["posterior"],
            strict=True,
        )
    )
    ours = average.predict().to_dataframe()
    single = {key: fit.predict().to_dataframe() for key, fit in fits.items()}
    mean = sum(p[key] * single[key]["estimate"] for key in p)
    # Draws worth about 4,000 of each: errors of SD/√4000, four of them, of both.
    np.testing.assert_allclose(ours["estimate"], mean, atol=4 * 2**0.5 * 0.11 / 4000**0.5)
    table = average.to_dataframe().loc["scale"].loc[f"district/school: {YEAR}"]
    slopes = {
        key: fit.terms["district/school"].alpha[:, 1].mean()
        for key, fit in fits.items()
        if key[1] == YEAR
    }
    assert table["mean"] == pytest.approx(sum(p[key] * slopes[key] for key in slopes), abs=0.06)
    tau2 = average.heterogeneity().table["tau2"]
    by_model = [fit.heterogeneity().table["tau2"]["district"] for fit in fits.values()]
    assert min(by_model) * 0.95 < tau2["district"] < max(by_model) * 1.05
    assert "average over 4 models" in str(average)
    assert "NUTS" not in str(average.predict())


def test_one_term_of_single_studies_is_averaged_as_by_its_own():
    data = lsm.load_dataset("bcg")
    one = lsm.LocationScaleModel("yi ~ ablat", "~ ablat", variance="vi", data=data).average(seed=1)
    named = data.assign(unit=[f"u{i}" for i in range(len(data))])
    spec = Specification("yi ~ ablat", "vi", scale={"unit": "~ ablat"})
    several = average_models(build_design(spec, named), seed=2)
    error = np.hypot(one.probability_se, several.probability_se)
    assert [m.location for m in one.models] == [m.location for m in several.models]
    assert (np.abs(one.probability - several.probability) < 4 * error).all()


def test_correlations_are_in_every_model():
    model = lsm.LocationScaleModel(
        "yi ~ 0 + outcome + year",
        {"outcome | trial": "~ 0 + outcome"},
        variance="vi",
        sampling_covariance=lsm.SamplingCovariance("trial", columns=["v1i", "v2i"]),
        data=lsm.load_dataset("berkey1998"),
    )
    found = model.average(seed=1)
    assert [(m.location_terms, m.scale[-1]) for m in found.models] == [
        (("outcome",), 2),
        (("outcome", "year"), 2),
    ]
    assert len(found.draws.flat_scale[0]) == 3
    assert (found.draws.flat_scale != 0).all()
    assert found.to_dataframe().index.get_level_values("term").to_list() == [
        *("outcomeAL", "outcomePD", "year"),
        *("outcome | trial: outcomeAL", "outcome | trial: outcomePD"),
    ]


def test_keep_and_wrong_questions():
    model = schools(YEAR, YEAR)
    found = model.average(keep=[f"scale[district/school: {YEAR}]"], draws=200, seed=1)
    assert len(found.models) == 2
    with pytest.raises(FitError, match="there is no scale term 'weeks'"):
        model.average(keep=["scale[weeks]"])
    with pytest.raises(FitError, match="there is only one model"):
        model_of("berkey1998").average()
    with pytest.raises(FitError, match="average does not take random intercepts of ln τ²"):
        mixed_model(SMALL).average()
