"""Model averaging: which models there are, their probabilities by refits, and the averages."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp

import bayes_lsm as lsm
from bayes_lsm.bayes import average_models
from bayes_lsm.bayes.evidence.evidence import Evidence
from bayes_lsm.bayes.evidence.model_average import ModelAverage
from bayes_lsm.bayes.evidence.submodels import find_subsets, find_terms, terms_of_parts
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.design.design import Design, build_design
from bayes_lsm.errors import FitError
from bayes_lsm.priors import Normal, Priors
from bayes_lsm.specification import Specification

from .levels import model_of
from .test_scale_random_intercepts import SMALL
from .test_scale_random_intercepts import model_of as mixed_model

WEEKS = "I(weeks - 40)"
YEAR = "I((year - 1990) / 10)"


def _preterm(location, scale="~ 1", **options):
    data = lsm.load_dataset("preterm_iq")
    return lsm.LocationScaleModel(location, scale=scale, variance="vi", data=data, **options)


@pytest.fixture(scope="module")
def average():
    model = _preterm(f"yi ~ continent + {WEEKS}", f"~ continent + {WEEKS}")
    return model.average(seed=1, progress=False)


def _terms(formula):
    return find_terms(_preterm(f"yi ~ {formula}").design.location)


def test_terms_are_whole_factors_and_the_level_is_not_optional():
    terms = _terms("continent * weeks")
    assert [term.name for term in terms] == ["intrcpt", "continent", "weeks", "continent:weeks"]
    assert [term.columns for term in terms] == [(0,), (1, 2), (3,), (4, 5)]
    assert [term.optional for term in terms] == [False, True, True, True]
    assert [term.optional for term in _terms("0 + continent + weeks")] == [False, True]
    assert [term.optional for term in _terms("0 + weeks + n1")] == [True, True]


def _names(formula, kept=()):
    return [{term.name for term in subset} for subset in find_subsets(_terms(formula), kept)]


def test_an_interaction_brings_its_main_effects():
    found = _names("continent * weeks")
    assert len(found) == 5
    assert all({"continent", "weeks"} <= each for each in found if "continent:weeks" in each)
    assert _names("continent + weeks", ["weeks"]) == [
        {"intrcpt", "weeks"},
        {"intrcpt", "continent", "weeks"},
    ]
    assert {frozenset(each) for each in _names("0 + weeks + n1")} == {
        frozenset({"weeks"}),
        frozenset({"n1"}),
        frozenset({"weeks", "n1"}),
    }


@pytest.mark.parametrize("prior", ["weakly_informative", "slides"])
@pytest.mark.parametrize("smaller", ["1", "continent", WEEKS])
def test_prior_of_a_submodel_is_that_of_the_smaller_formula(prior, smaller):
    """The conditional prior at zero and the preset's own word for the smaller model are one."""
    full, small = (_preterm(f"yi ~ {f}", f"~ {f}") for f in (f"continent + {WEEKS}", smaller))
    priors = lsm.priors.preset(prior)
    whole, own = (resolve_priors(model.design, priors) for model in (full, small))
    kept = [full.design.location.names.index(name) for name in small.design.location.names]
    for part in ("location", "scale"):
        block, expected = getattr(whole, part).restricted(kept), getattr(own, part)
        np.testing.assert_allclose(block.contrasts, expected.contrasts, rtol=1e-12)
        assert block.priors == expected.priors


def test_probabilities_are_those_of_separate_fits(average):
    table = average.model_table
    assert len(table) == 16
    separate = []
    for row in table.to_dict("records"):
        model = _preterm(f"yi ~ {row['location']}", f"~ {row['scale']}")
        importance = model.fit_bayes(seed=9).draws.importance
        separate.append(importance.log_evidence)
        # Other formulas, designs, priors and seeds on the way to the same number.
        error = 4 * np.hypot(importance.log_evidence_se, row["se"])
        assert row["log_evidence"] == pytest.approx(importance.log_evidence, abs=error), row
    probability = np.exp(separate - logsumexp(separate))
    np.testing.assert_allclose(table["posterior"], probability, atol=0.01)
    has = table["scale"].str.contains("continent")
    row = average.inclusion.loc["scale", "continent"]
    assert row["posterior"] == pytest.approx(table["posterior"][has].sum())
    odds = row["posterior"] / (1 - row["posterior"])
    assert row["bf"] == pytest.approx(odds, rel=1e-6)  # prior odds are even


def test_monte_carlo_errors_are_those_of_simulated_evidences(average):
    logs = np.array([each.log for each in average.evidences])
    errors = np.array([each.se for each in average.evidences])
    rng = np.random.default_rng(2)
    drawn = average.log_prior + logs + errors * rng.standard_normal((20_000, len(logs)))
    probability = np.exp(drawn - logsumexp(drawn, axis=1, keepdims=True))
    # The delta method is good to the order of the errors, 1%; so is an SD of 20,000 draws.
    np.testing.assert_allclose(average.probability_se, probability.std(axis=0), rtol=0.05)
    member = np.array(["continent" in model.scale_terms for model in average.models])
    spread = probability[:, member].sum(axis=1).std()
    assert average.inclusion.loc[("scale", "continent"), "se"] == pytest.approx(spread, rel=0.05)


def test_draws_are_a_mixture_of_the_models(average):
    location, scale = average.draws.flat_location, average.draws.flat_scale
    for values, part in ((location, "location"), (scale, "scale")):
        for term in find_terms(getattr(average.design, part)):
            there = (values[:, list(term.columns)] != 0).all(axis=1)
            absent = (values[:, list(term.columns)] == 0).all(axis=1)
            assert (there | absent).all()
            expected = 1.0
            if (part, term.name) in average.inclusion.index:
                expected = average.inclusion.loc[(part, term.name), "posterior"]
            # Each model's share of 4000 draws is rounded by less than one draw.
            assert there.mean() == pytest.approx(expected, abs=16 / 4000)
    table = average.to_dataframe()
    np.testing.assert_allclose(table.loc["scale", "mean"], scale.mean(axis=0))
    conditional = location[location[:, 3] != 0, 3].mean()
    assert table.loc[("location", WEEKS), "mean_incl"] == pytest.approx(conditional)


def test_predictions_are_averages_of_the_models_predictions(average):
    new = pd.DataFrame({"continent": ["America"], "weeks": [30]})
    found = average.predict(new).table.iloc[0]
    table, mean, square, below = average.model_table, 0.0, 0.0, 0.0
    for row in table[table["posterior"] > 1e-3].to_dict("records"):
        model = _preterm(f"yi ~ {row['location']}", f"~ {row['scale']}")
        fit = model.fit_bayes(seed=5)
        values = fit.draws.flat_location @ model.design.for_new_data(new).X[0]
        mean += row["posterior"] * values.mean()
        square += row["posterior"] * np.mean(values**2)
        below += row["posterior"] * np.mean(values < found["estimate"])
    # 4000 draws worth at least 1000: four errors of a share; 1e-3 of the models is left out.
    assert below == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 1000))
    assert found["sd"] == pytest.approx(np.sqrt(square - mean**2), rel=0.1)
    assert found["pi_lb"] < found["ci_lb"] < found["ci_ub"] < found["pi_ub"]
    everywhere = average.predict()
    assert len(everywhere.table) == 37
    assert "average over 16 models" in everywhere.title
    assert "NUTS" not in str(everywhere)


def test_model_priors(average):
    model = _preterm(f"yi ~ {WEEKS}", f"~ {WEEKS}")
    sizes = model.average(seed=1, model_prior="beta_binomial", progress=False)
    # One, two and three of the models have 2, 3 and 4 terms: thirds, and halves of a third.
    prior = sizes.model_table.set_index(["location", "scale"])["prior"]
    assert prior["1", "1"] == pytest.approx(1 / 3)
    assert prior["1", WEEKS] == pytest.approx(1 / 6)
    given = model.average(seed=1, model_prior={f"scale[{WEEKS}]": 0.2}, progress=False)
    assert given.inclusion.loc[("scale", WEEKS), "prior"] == pytest.approx(0.2)
    assert given.inclusion.loc[("location", WEEKS), "prior"] == pytest.approx(0.5)
    # The data say the same whatever was believed before.
    errors = 4 * 0.02
    assert given.inclusion.loc[("scale", WEEKS), "log_bf"] == pytest.approx(
        model.average(seed=2, keep=[], progress=False).inclusion.loc[("scale", WEEKS), "log_bf"],
        abs=errors,
    )
    kept = model.average(seed=1, keep=[f"location[{WEEKS}]"], progress=False)
    assert len(kept.models) == 2
    assert list(kept.inclusion.index) == [("scale", WEEKS)]


def test_overridden_priors_of_terms_go_where_their_terms_go():
    prior = Priors("slides", location={WEEKS: Normal(0, 0.5)}, scale={WEEKS: Normal(0, 0.2)})
    model = _preterm(f"yi ~ {WEEKS}", f"~ {WEEKS}", priors=prior)
    found = model.average(seed=1, progress=False)
    by = found.model_table.set_index(["location", "scale"])["log_evidence"]
    small = _preterm("yi ~ 1", "~ 1", priors="slides").fit_bayes(seed=2)
    assert by["1", "1"] == pytest.approx(small.log_evidence, abs=0.05)
    full = model.fit_bayes(seed=2)
    assert by[WEEKS, WEEKS] == pytest.approx(full.log_evidence, abs=0.05)


def test_same_seed_same_average():
    model = _preterm("yi ~ weeks")
    first, again, other = (model.average(seed=seed, progress=False) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first.to_dataframe(), again.to_dataframe())
    assert not first.to_dataframe().equals(other.to_dataframe())


def test_the_table_shows_inclusion_and_the_best_models(average):
    text = str(average)
    assert "average over 16 models" in text
    assert "most probable: 0." in text
    table = average.to_dataframe()
    assert table.loc[("location", "intrcpt"), "incl"] == 1
    assert np.isnan(table.loc[("location", "intrcpt"), "bf"])
    both = table.loc["scale"].loc[["continentAmerica", "continentOther"], "incl"]
    assert both.nunique() == 1


def test_untrusted_evidence_is_told(average, monkeypatch):
    bad = Evidence(-100.0, 0.01, ("a few points dominate",))
    monkeypatch.setattr("bayes_lsm.bayes.evidence.averaging.read_evidence", lambda draws: bad)
    with pytest.warns(lsm.ConvergenceWarning, match="location ~ 1, scale ~ 1: a few points"):
        found = _preterm("yi ~ weeks").average(seed=1, progress=False)
    assert isinstance(found, ModelAverage)
    assert len(found.problems) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"most_models": 10}, "16 models are too many to average over, at most 10"),
        ({"keep": ["weeks"]}, r"keep must name terms as 'location\[…\]'"),
        ({"keep": ["scale[size]"]}, "there is no scale term 'size'; the scale terms are 'intrcpt'"),
        ({"model_prior": "flat"}, "model_prior must be 'uniform' or 'beta_binomial'"),
        ({"model_prior": {"weeks": 0.5}}, "model_prior names 'weeks'; the terms that can be"),
        ({"model_prior": {"scale[continent]": 1.0}}, "must be between 0 and 1, got 1.0"),
        ({"draws": 10}, "draws must be a whole number of at least 100"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    model = _preterm(f"yi ~ continent + {WEEKS}", f"~ continent + {WEEKS}")
    with pytest.raises(lsm.FitError, match=message):
        model.average(progress=False, **settings)


def test_nothing_to_average_over_is_refused():
    with pytest.raises(lsm.FitError, match="there is only one model"):
        _preterm("yi ~ 1").average()


def schools(location, scale):
    return lsm.LocationScaleModel(
        f"yi ~ {location}",
        {"district": "~ 1", "district/school": f"~ {scale}"},
        variance="vi",
        data=lsm.load_dataset("konstantopoulos2011"),
    )


@pytest.fixture(scope="module")
def schools_average():
    return schools(YEAR, YEAR).average(draws=8000, seed=1)


@pytest.fixture(scope="module")
def fits():
    """The four models, with the presets of their own."""
    return {
        (a, b): schools(a, b).fit_bayes(engine="collapsed", draws=8000, seed=2)
        for a in ("1", YEAR)
        for b in ("1", YEAR)
    }


def test_evidences_and_probabilities_are_those_of_the_models_by_themselves(schools_average, fits):
    log = {}
    for row in schools_average.model_table.to_dict("records"):
        own = (row["location"], row["scale"].removeprefix("district: 1, district/school: "))
        log[own] = fits[own].log_evidence
        assert abs(row["log_evidence"] - log[own]) < 4 * np.hypot(row["se"], fits[own].evidence.se)
    values = np.exp(np.array(list(log.values())) - max(log.values()))
    # Log evidences are known to 0.01: so are the probabilities, relatively.
    np.testing.assert_allclose(
        schools_average.model_table["posterior"], values / values.sum(), rtol=0.06, atol=1e-3
    )
    table = schools_average.inclusion
    assert list(table.index) == [("location", YEAR), ("scale", f"district/school: {YEAR}")]
    assert table["posterior"].iloc[1] == pytest.approx(
        sum(np.exp(log[key] - max(log.values())) for key in log if key[1] == YEAR) / values.sum(),
        rel=0.04,
    )


def test_what_is_asked_is_averaged(schools_average, fits):
    p = dict(
        zip(
            [
                (row["location"], row["scale"].removeprefix("district: 1, district/school: "))
                for row in schools_average.model_table.to_dict("records")
            ],
            schools_average.model_table["posterior"],
            strict=True,
        )
    )
    ours = schools_average.predict().to_dataframe()
    single = {key: fit.predict().to_dataframe() for key, fit in fits.items()}
    mean = sum(p[key] * single[key]["estimate"] for key in p)
    # Draws worth about 4,000 of each: errors of SD/√4000, four of them, of both.
    np.testing.assert_allclose(ours["estimate"], mean, atol=4 * 2**0.5 * 0.11 / 4000**0.5)
    table = schools_average.to_dataframe().loc[("scale (district/school)", YEAR)]
    slopes = {
        key: fit.terms["district/school"].alpha[:, 1].mean()
        for key, fit in fits.items()
        if key[1] == YEAR
    }
    assert table["mean"] == pytest.approx(sum(p[key] * slopes[key] for key in slopes), abs=0.06)
    tau2 = schools_average.heterogeneity().table["tau2"]
    by_model = [fit.heterogeneity().table["tau2"]["district"] for fit in fits.values()]
    assert min(by_model) * 0.95 < tau2["district"] < max(by_model) * 1.05
    assert "average over 4 models" in str(schools_average)
    assert "NUTS" not in str(schools_average.predict())


def test_one_term_is_averaged_alike_by_either_solver(monkeypatch):
    data = lsm.load_dataset("bcg")
    one = lsm.LocationScaleModel("yi ~ ablat", "~ ablat", variance="vi", data=data).average(seed=1)
    monkeypatch.setattr(Design, "is_independent", False)
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
    assert found.draws.kappa.shape == (1, 4000, 1)
    assert (found.draws.kappa != 0).all()
    table = found.to_dataframe()
    assert table.index.to_list() == [
        *(("location", term) for term in ("outcomeAL", "outcomePD", "year")),
        *(("scale", term) for term in ("outcomeAL", "outcomePD")),
        ("correlation", "AL, PD"),
    ]
    assert table["incl"].eq(1).sum() == 5
    # The data say ρ = 0.6 or so, in the model with the year and in that without.
    assert 0.2 < table.loc[("correlation", "AL, PD"), "mean"] < 0.9


def test_no_scale_term_loses_all_of_its_formula():
    """Without a coefficient its τ² would be exp(0) = 1."""
    data = lsm.load_dataset("konstantopoulos2011")
    scale = {"district": "~ 0 + district", "district/school": "~ 1 + year"}
    model = lsm.LocationScaleModel("yi ~ 1", scale, variance="vi", data=data)
    terms = terms_of_parts(model.design)["scale"]
    assert [term.optional for term in terms] == [True, False, True]
    assert [[term.label for term in kept] for kept in find_subsets(terms)] == [
        ["district: district", "district/school: intrcpt"],
        ["district: district", "district/school: intrcpt", "district/school: year"],
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
