"""A model in words: read and written without loss, all faults at once."""

import pickle
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_lsm.errors import FormulaError, SpecificationError
from bayes_lsm.frozen import FrozenDict
from bayes_lsm.priors import (
    R2D2,
    Cauchy,
    Flat,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    Horseshoe,
    InverseGamma,
    Laplace,
    Logistic,
    LogNormal,
    Normal,
    PresetName,
    Priors,
    StudentT,
    Uniform,
)
from bayes_lsm.specification import Specification, find_specification, list_models

BASE = 'location = "yi ~ x"\nvariance = "vi"\n'


def faults_of(text: str) -> str:
    with pytest.raises(SpecificationError) as refusal:
        Specification.from_toml(text, name="my.toml")
    return str(refusal.value)


def test_a_two_sided_location_names_the_effects():
    two_sided = Specification("yi ~ x", "vi")
    assert two_sided == Specification(location="~ x", variance="vi", effect="yi")
    assert (two_sided.effect, two_sided.location, two_sided.scale) == ("yi", "~ x", "~ 1")
    assert Specification("`my effect` ~ x", "vi").effect == "my effect"


def test_values_by_position():
    spec = Specification("~ x", "vi", "yi", "~ z")
    assert (spec.variance, spec.effect, spec.scale) == ("vi", "yi", "~ z")


def test_a_specification_cannot_be_changed_and_can_be_hashed_and_pickled():
    spec = Specification("yi ~ x", "vi", priors=Priors(scale={"x": Normal()}))
    with pytest.raises(Exception, match="frozen"):
        spec.location = "~ z"
    with pytest.raises(TypeError, match="immutable"):
        spec.priors.scale["x"] = Normal(0, 9)
    assert hash(spec) == hash(pickle.loads(pickle.dumps(spec)))
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update({"a": 2}),
        lambda d: d.pop("a"),
        lambda d: d.clear(),
        lambda d: d.setdefault("b", 1),
        lambda d: d.popitem(),
        lambda d: d.__delitem__("a"),
        lambda d: d.__ior__({"b": 1}),
    ],
)
def test_a_frozen_dict_refuses_every_change(change):
    frozen = FrozenDict({"a": 1})
    with pytest.raises(TypeError, match="immutable record"):
        change(frozen)
    assert frozen == {"a": 1}


# ---------------------------------------------------------------- round trip


_text = st.text(
    alphabet=st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=20
)
_name = _text.filter(lambda name: name.strip())
_formula = st.sampled_from(
    ["~ 1", "~ 0 + x", "~ C(g, Treatment('a')) * I(x - 40)", "~ `mean age`", "~ Q('β 1')"]
)
_normal = st.builds(
    Normal,
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(min_value=1e-300, max_value=1e300),
)
_half = st.builds(HalfNormal, st.floats(min_value=1e-300, max_value=1e300))
_number = st.floats(-1e3, 1e3)
_positive = st.floats(1e-3, 1e3)
_per = st.sampled_from(["raw", "standardised"])
_on_line = {"on": st.sampled_from(["coefficient", "log_tau2", "log_tau"]), "moderators": _per}
_on_variance = {"on": st.sampled_from(["tau", "tau2"]), "moderators": _per}
_BY_LOC = (Cauchy, Laplace, Logistic)
_any_scale = st.one_of(
    _normal,
    _half,
    st.builds(StudentT, df=_positive, loc=_number, scale=_positive, **_on_line),
    *(st.builds(each, loc=_number, scale=_positive, **_on_line) for each in _BY_LOC),
    st.builds(HalfStudentT, df=_positive, scale=_positive, **_on_variance),
    st.builds(HalfCauchy, scale=_positive, **_on_variance),
    st.builds(LogNormal, mean_log=_number, sd_log=_positive, **_on_variance),
    st.builds(InverseGamma, shape=_positive, scale=_positive, **_on_variance),
    st.builds(Uniform, lower=st.just(0.0), upper=_positive, **_on_variance),
)
_shrinkage = st.builds(Horseshoe, global_scale=_positive) | st.builds(R2D2, b=_positive)


@settings(max_examples=150, deadline=None)
@given(
    st.builds(
        Specification,
        location=_formula,
        variance=_name,
        effect=st.just("effect of a name that no other column has"),
        scale=_formula,
        study=st.none() | _name,
        data=st.none() | _name,
        method=st.sampled_from(["REML", "ML"]),
        engine=st.sampled_from(["auto", "nuts"]),
        draws=st.integers(100, 10**6),
        seed=st.none() | st.integers(0, 2**40),
        title=st.text(alphabet=st.characters(codec="utf-8"), max_size=20),
        description=_text,
        priors=st.builds(
            Priors,
            preset=st.sampled_from(get_args(PresetName)),
            location=st.dictionaries(_text, _normal | st.builds(Flat), max_size=2),
            scale=st.dictionaries(_text.filter(lambda term: term != "*"), _any_scale, max_size=2),
            measure=st.sampled_from(["OR", "SMD"]),
            unit_information_sd=st.none() | _positive,
            tau=st.none() | _any_scale,
            scale_shrinkage=st.none() | _shrinkage,
        ),
    )
)
def test_toml_keeps_everything(spec):
    assert Specification.from_toml(spec.to_toml()) == spec


def test_what_is_default_is_not_written():
    assert tomllib.loads(Specification("yi ~ x", "vi").to_toml()) == {
        "location": "~ x",
        "variance": "vi",
        "effect": "yi",
    }


# ---------------------------------------------------------------- faults


def test_all_faults_of_a_file_are_reported_at_once_each_with_its_place():
    text = faults_of(
        """
location = "y ~ x +"
effect = "yi"
link = "probit"
draws = 3
seed = 1.5
drws = 5
scale = "~ __import__('os')"

[priors]
preset = "flat"

[priors.scale."I(x - 1)"]
family = "normal"
sd = -1

[priors.scale.z]
family = "gamma"

[priors.location.z]
family = "half_normal"

[priors.scale.normal]
family = "normal"
mean = "0"
"""
    )
    for expected in [
        "my.toml: 13 faults",
        "line 3: effect: is 'yi', but the location formula begins with 'y'",
        "line 2: location: cannot read the formula '~ x +'",
        "  variance: required, but missing",
        "line 8: scale: the formula \"~ __import__('os')\" uses the call of '__import__'",
        "line 4: link: input should be 'log' or 'identity', got 'probit'",
        "line 5: draws: input should be greater than or equal to 100, got 3",
        "line 6: seed: ",
        "line 7: drws: unknown key",
        "did you mean 'draws' instead of 'drws'?",
        "line 11: priors.preset: ",
        'line 15: priors.scale."I(x - 1)".sd: input should be greater than 0, got -1',
        "line 17: priors.scale.z: family must be one of 'normal', 'student_t', ",
        "'inverse_gamma', got 'gamma'",
        "priors.location.z: the location prior of 'z' is half-normal",
        "line 25: priors.scale.normal.mean: input should be a valid number, got '0'",
    ]:
        assert expected in text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("x = 1\nx = 2", "not valid TOML: Cannot overwrite.*given once"),
        ("x = ", "not valid TOML"),
        ("x = " + "[" * 50_000, "nested too deeply|not valid TOML"),
        ("self = 1", "line 3: self: unknown key"),
        ("model_config = 1", "model_config: unknown key"),
        ('draws = "4000"', "line 3: draws: .*valid integer, got '4000'"),
        ("seed = true", "seed: .*valid integer, got True"),
        ("seed = -1", "greater than or equal to 0"),
        ('method = "reml"', "'REML' or 'ML', got 'reml'"),
        ('study = ""', "study: must not be empty"),
        ('data = " "', "data: must not be empty"),
        ("data = ['a']", "valid string"),
        ("scale = 3", "line 3: scale: must be a formula, or formulas by grouping"),
        ('scale = "y ~ x"', "scale: .*must have the form"),
        ('scale = "~ yi"', "line 3: scale: .*effects 'yi' as a moderator"),
        ("priors = 3", "priors: "),
        ("[[priors]]\nx = 1", "priors: "),
        ("[priors]\nslides = 1", "line 4: priors.slides: unknown key"),
        ("[priors.scale.x]\nsd = 1", "line 3: priors.scale.x: the key 'family' is missing"),
        ("[priors.scale]\nx = 1", "priors.scale.x: "),
    ],
)
def test_a_fault_is_named_with_its_place_and_cure(lines, message):
    text = faults_of(BASE + lines).replace("\n", " ")
    assert text.startswith("my.toml")
    assert pytest.raises(SpecificationError, match=message).matches(SpecificationError(text))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"location": "~ x", "variance": "vi"}, "effect: required"),
        ({"location": "yi ~ x"}, "variance: required"),
        ({"location": "yi ~ x", "variance": ""}, "variance: must not be empty"),
        ({"location": "yi ~ x", "variance": "yi"}, "variance: 'yi' is the column of the effects"),
        ({"location": "yi ~ I(yi * 2)", "variance": "vi"}, "location: .*'yi' as a moderator"),
        ({"location": "yi ~ x", "variance": "vi", "effect": "z"}, "name the effects in one place"),
        ({"location": 3, "variance": "vi"}, "location: "),
        ({"location": "yi ~ x", "variance": "vi", "sacle": "~ x"}, "sacle: unknown key"),
    ],
)
def test_the_constructor_raises_the_same_faults(fields, message):
    with pytest.raises(SpecificationError, match=message):
        Specification(**fields)


def test_faults_carry_no_noise_of_the_validator():
    text = faults_of(BASE + "draws = 1\nlink = 2\n[priors.scale.x]\nfamily = 3\nsd = []")
    for noise in ["pydantic", "http", "\x1b", "type=", "Value error"]:
        assert noise not in text


def test_a_huge_value_is_not_repeated_in_full():
    assert len(faults_of(BASE + f'link = "{"x" * 100_000}"')) < 500


def test_a_formula_error_is_a_fault_and_nothing_is_evaluated(tmp_path):
    canary = tmp_path / "evaluated"
    attack = f"~ I(__import__('pathlib').Path('{canary}').touch())"
    with pytest.raises(SpecificationError, match="the call of"):
        Specification.from_toml(BASE + f'scale = "{attack}"')
    assert not canary.exists()
    assert not issubclass(SpecificationError, FormulaError)


# ---------------------------------------------------------------- files


def test_a_relative_csv_path_is_taken_from_the_files_own_folder(tmp_path):
    (tmp_path / "model.toml").write_text(BASE + 'data = "mine.csv"')
    spec = Specification.from_file(tmp_path / "model.toml")
    assert Path(spec.data) == tmp_path / "mine.csv"
    (tmp_path / "model.toml").write_text(BASE + 'data = "bcg"')
    assert Specification.from_file(tmp_path / "model.toml").data == "bcg"


def test_an_unreadable_file_is_one_clear_error(tmp_path):
    with pytest.raises(SpecificationError, match="cannot read the model file"):
        Specification.from_file(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecificationError, match="cannot read the model file"):
        Specification.from_file(tmp_path / "binary.toml")


@pytest.mark.parametrize("name", list(list_models()))
def test_every_bundled_model_is_valid_and_has_a_title(name):
    spec = find_specification(name)
    assert spec.title
    assert Specification.from_toml(spec.to_toml()) == spec


def test_an_unknown_model_is_an_error_with_a_suggestion():
    with pytest.raises(SpecificationError, match="did you mean 'preterm_weeks'"):
        find_specification("preterm_week")
    with pytest.raises(SpecificationError, match="no model file"):
        find_specification("x" * 5000)
