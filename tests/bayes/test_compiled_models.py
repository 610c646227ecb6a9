"""The store of compiled models: what makes two models one, and that they are sampled as two."""

import numpy as np
import nutpie
import pytest

import bayes_lsm as lsm
from bayes_lsm.bayes.calibration.replications import make_sampler
from bayes_lsm.bayes.engines import compiled_models
from bayes_lsm.bayes.engines.compiled_models import compile_model, fingerprint
from bayes_lsm.bayes.pymc_model.graph import build_latent_pymc_model, build_pymc_model
from bayes_lsm.priors import HalfNormal, Normal, Priors

QUICK = {"engine": "nuts", "draws": 400, "tune": 300, "progress": False}


class Compiled:
    """What is compiled, without compiling it: it notes the data that it is given."""

    shared_var_keys = ()
    made = 0
    data: dict

    def __init__(self, model, *, var_names):
        Compiled.made += 1
        self.shared_var_keys = tuple(model.data_vars)
        self.var_names = var_names

    def with_data(self, **data):
        self.data = data
        return self


@pytest.fixture
def pretended(monkeypatch):
    """An empty store, and a compiler that only counts."""
    monkeypatch.setattr(compiled_models, "_kept", type(compiled_models._kept)())
    monkeypatch.setattr(nutpie, "compile_pymc_model", Compiled)
    monkeypatch.setattr(Compiled, "made", 0)
    return compiled_models._kept


def test_structure_not_data_nor_numbers_makes_the_key(continent):
    bcg = lsm.load_dataset("bcg")
    half = bcg.iloc[:8]
    key = {
        name: fingerprint(builder(lsm.build_design(spec, data), priors))
        for name, (builder, spec, data, priors) in {
            "first": (build_pymc_model, "yi ~ ablat", bcg, Priors()),
            "other data": (build_pymc_model, "yi ~ year", half, Priors()),
            "raw": (build_pymc_model, "yi ~ ablat", bcg, Priors("slides")),
            "raw numbers": (
                build_pymc_model,
                "yi ~ ablat",
                bcg,
                lsm.priors.independent_normal(location=1, scale=2),
            ),
            "more terms": (build_pymc_model, "yi ~ ablat + year", bcg, Priors()),
            "latent": (build_latent_pymc_model, "yi ~ ablat", bcg, Priors()),
            "latent, fewer": (build_latent_pymc_model, "yi ~ ablat", half, Priors()),
        }.items()
        for spec in [lsm.Specification(spec, "vi")]
    }
    assert key["first"] == key["other data"]
    # One scale coefficient, so standardising changes the family of its prior.
    assert key["raw"] == key["raw numbers"]
    assert len(set(key.values())) == 5


@pytest.mark.slow
def test_other_data_and_prior_numbers_are_sampled_without_compiling_again(monkeypatch):
    bcg = lsm.load_dataset("bcg")
    first = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=bcg)
    with pytest.warns(lsm.ConvergenceWarning):
        first.fit_bayes(seed=1, **QUICK)

    def refuse(*_, **__):
        raise AssertionError("compiled again")

    monkeypatch.setattr(nutpie, "compile_pymc_model", refuse)
    shifted = bcg.assign(yi=bcg["yi"] + 5).iloc[:10]
    again = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=shifted)
    settings = {**QUICK, "draws": 4000}
    fit = again.fit_bayes(seed=1, **settings)
    exact = again.fit_bayes(engine="collapsed", draws=4000, seed=2)
    ours, theirs = fit.summary(), exact.summary()
    # Data, prior means and the moved average of the effects must all have been replaced.
    error = 4 * np.hypot(ours["mcse_median"], theirs["mcse_median"])
    assert (np.abs(ours["median"] - theirs["median"]) < error).all()


def test_the_compiled_models_that_are_kept_are_few(monkeypatch, pretended):
    monkeypatch.setattr(compiled_models, "_MOST", 1)
    for formula in ("yi ~ 1", "yi ~ ablat"):
        model = lsm.LocationScaleModel(formula, variance="vi", data=lsm.load_dataset("bcg"))
        compile_model(model.to_pymc(), ["location"])
    assert Compiled.made == 2
    assert len(pretended) == 1


def schools(shift=0.0, **options):
    data = lsm.load_dataset("konstantopoulos2011")
    data["yi"] = data["yi"] + shift
    scale = options.pop("scale", {"district": "~ 1", "district/school": "~ 1"})
    return lsm.LocationScaleModel("yi ~ 1", scale=scale, variance="vi", data=data, **options)


def test_models_of_several_scale_terms_are_kept_too(pretended):
    """Their density is an operation of their own, each time that they are built."""
    plain = build_pymc_model(schools().design)
    first = compile_model(plain, ["location", "scale"])
    moved = schools(5.0).design
    other_numbers = Priors(location={"*": Normal(5, 3)}, tau=HalfNormal(2))
    again = compile_model(build_pymc_model(moved, other_numbers), ["location", "scale"])
    assert again is first
    assert Compiled.made == 1
    np.testing.assert_array_equal(again.data["y"], moved.y)
    assert again.data["location_mu"] == [5.0]
    for other in (
        schools(scale={"district": "~ 1", "district/school": "~ 1 + year"}),
        schools(scale={"district": "~ 1", "study": "~ 1 + (1 | district)"}),
    ):
        compile_model(build_pymc_model(other.design), ["location", "scale"])
    assert Compiled.made == 3


def test_student_study_effects_are_kept_too(pretended):
    bcg = lsm.load_dataset("bcg")
    for data in (bcg, bcg.assign(yi=bcg["yi"] + 1)):
        model = lsm.LocationScaleModel(
            "yi ~ 1", variance="vi", data=data, study_effects="student_t", priors="slides"
        )
        compile_model(model.to_pymc(), ["location", "scale", "df"])
    assert Compiled.made == 1


def test_simulations_take_what_others_left(pretended):
    model = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"))
    for prior in (Priors("slides"), lsm.priors.independent_normal(location=1, scale=2)):
        make_sampler(model.design, prior, engine="nuts", draws=100)
    assert Compiled.made == 1
    # In the coordinates of a fit it is another model.
    compile_model(model.to_pymc(prior="slides"), ["location", "scale"], sampled=model.to_pymc)
    assert Compiled.made == 2


@pytest.mark.slow
def test_a_second_fit_of_several_scale_terms_is_not_compiled_again(monkeypatch):
    with pytest.warns(lsm.ConvergenceWarning):
        schools().fit_bayes(seed=1, **QUICK)

    def refuse(*_, **__):
        raise AssertionError("compiled again")

    monkeypatch.setattr(nutpie, "compile_pymc_model", refuse)
    prior = Priors(location={"*": Normal(5, 3)}, tau=HalfNormal(2))
    model = schools(5.0)
    found = [
        model.fit_bayes(prior=prior, seed=2, **{**QUICK, "draws": 8000, "engine": engine})
        for engine in ("nuts", "collapsed")
    ]
    ours, theirs = (fit.summary() for fit in found)
    error = 4 * np.hypot(ours["mcse_median"], theirs["mcse_median"])
    assert (np.abs(ours["median"] - theirs["median"]) < error).all()
